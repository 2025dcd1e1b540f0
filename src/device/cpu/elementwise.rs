//! Loops over single numbers and over the lanes of pixels, vectorised for the processor at hand.
//!
//! The loops hold no multiply-add and no reduction across lanes, so they give the same bits whatever vectors are used.

use super::memory::Region;
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
    pulp::Arch::new().dispatch(work)
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
