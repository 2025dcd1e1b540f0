//! Loops over single numbers and over the lanes of pixels, vectorised for the processor at hand.
//!
//! The loops hold no multiply-add and no reduction across lanes, so they give the same bits whatever vectors are used.

use super::memory::Region;
use super::microkernel::InstructionSet;
use rayon::prelude::*;

/// Numbers that one task works on.
const TASK: usize = 16 * 1024;
/// Numbers read before any of them is written, so that a result may lie over its operand.
pub(super) const VECTOR: usize = 8;

/// Lanes of one pixel, or any [`VECTOR`] numbers.
pub(super) type Vector = [f32; VECTOR];

/// Runs `work` with the widest vectors that the processor has.
#[inline(always)]
pub(super) fn vectorised<R>(work: impl FnOnce() -> R) -> R {
    InstructionSet::best().dispatch(work)
}

/// Calls `work(first, how many)` for blocks that cover `len` numbers, in parallel.
pub(super) fn for_each_block(len: usize, work: impl Fn(usize, usize) + Sync) {
    (0..len.div_ceil(TASK)).into_par_iter().with_max_len(1).for_each(|block| {
        let start = block * TASK;
        vectorised(
            #[inline(always)]
            || work(start, TASK.min(len - start)),
        );
    });
}

/// Reads [`VECTOR`] numbers.
///
/// # Safety
/// They are readable and nobody writes them meanwhile.
#[inline(always)]
pub(super) unsafe fn load(from: *const f32) -> Vector {
    // SAFETY: the caller's promise; f32 arrays have the alignment of f32.
    unsafe { from.cast::<Vector>().read() }
}

/// Writes [`VECTOR`] numbers.
///
/// # Safety
/// They are writable and nobody else touches them meanwhile.
#[inline(always)]
pub(super) unsafe fn store(to: *mut f32, vector: Vector) {
    // SAFETY: the caller's promise; f32 arrays have the alignment of f32.
    unsafe { to.cast::<Vector>().write(vector) }
}

/// `target[i] = f(sources[0][i], sources[1][i], ...)`; a source may be the target.
pub(super) fn map<const N: usize>(sources: [Region; N], target: Region, f: impl Fn([f32; N]) -> f32 + Sync) {
    for_each_block(target.len(), |start, len| {
        let to = target.pointer(start, len);
        let from = sources.map(|source| source.pointer(start, len).cast_const());
        let whole = len - len % VECTOR;
        for at in (0..whole).step_by(VECTOR) {
            // SAFETY: all ranges were just checked; this task alone writes this block, after reading it.
            unsafe {
                let vectors = from.map(|pointer| load(pointer.add(at)));
                store(to.add(at), std::array::from_fn(|lane| f(vectors.map(|vector| vector[lane]))));
            }
        }
        for at in whole..len {
            // SAFETY: as above.
            unsafe { *to.add(at) = f(from.map(|pointer| *pointer.add(at))) };
        }
    });
}

/// `max(x, 0)` on every number; NaN stays.
#[inline(always)]
pub(super) fn relu(numbers: &mut [f32]) {
    numbers.iter_mut().for_each(|x| *x = rectified(*x));
}

/// `max(x, 0)`; NaN stays.
#[inline(always)]
pub(super) fn rectified(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

/// `1 / (1 + exp(-x))` to a few units in the last place; NaN stays. A loop over it becomes one of vectors.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    // Beyond, the result is 1 or as good as 0, and the exponential would leave the range of its exponent.
    const MOST: f32 = 88.0;
    // What is added to it is rounded to a whole number, which its lowest bits then are.
    const WHOLE: f32 = 12_582_912.0;
    // ln 2: a part that times any of these whole numbers is exact, and the rest.
    const LN_2: [f32; 2] = [355.0 / 512.0, -2.121_944_4e-4];
    let t = if x < -MOST { MOST } else { -x };
    let t = if t < -MOST { -MOST } else { t };
    // exp(t) is 2^n exp(r) with |r| up to half of ln 2.
    let shifted = t * std::f32::consts::LOG2_E + WHOLE;
    let n = shifted - WHOLE;
    let r = t - n * LN_2[0] - n * LN_2[1];
    let terms = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
    let mut exponential = 1.0 / 5040.0;
    for term in terms {
        exponential = exponential * r + term;
    }
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    1.0 / (1.0 + power * exponential)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sigmoids_are_right_to_the_last_places_and_nan_stays() {
        for i in -880_000..=880_000 {
            let x = i as f32 * 1e-4;
            let exact = 1.0 / (1.0 + (-f64::from(x)).exp());
            let error = (f64::from(sigmoid(x)) - exact).abs() / exact;
            assert!(error < 4.0 * f64::from(f32::EPSILON), "{x}: {error}");
        }
        assert_eq!([100.0, f32::MAX, f32::INFINITY].map(sigmoid), [1.0; 3]);
        for x in [-100.0, f32::MIN, f32::NEG_INFINITY] {
            assert!((0.0..1e-38).contains(&sigmoid(x)), "{x}: {}", sigmoid(x));
        }
        assert_eq!([0.0, -0.0].map(sigmoid), [0.5; 2]);
        assert!([f32::NAN, -f32::NAN].into_iter().all(|x| sigmoid(x).is_nan()));
    }
}
