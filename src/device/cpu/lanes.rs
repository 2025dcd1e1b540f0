//! Vectors of whatever width the processor has, of lanes that need not fill them.

use pulp::Simd;

/// Reads a vector, or the `left` numbers that are left of one.
///
/// # Safety
/// They are readable and nobody writes them meanwhile.
#[inline(always)]
pub(super) unsafe fn load<S: Simd>(simd: S, from: *const f32, left: usize) -> S::f32s {
    // SAFETY: the caller's promise.
    unsafe {
        if left >= S::F32_LANES {
            from.cast::<S::f32s>().read_unaligned()
        } else {
            simd.partial_load_f32s(std::slice::from_raw_parts(from, left))
        }
    }
}

/// Writes a vector, or the `left` numbers that are left of one.
///
/// # Safety
/// They are writable and nobody else touches them meanwhile.
#[inline(always)]
pub(super) unsafe fn store<S: Simd>(simd: S, to: *mut f32, left: usize, vector: S::f32s) {
    // SAFETY: the caller's promise.
    unsafe {
        if left >= S::F32_LANES {
            to.cast::<S::f32s>().write_unaligned(vector);
        } else {
            simd.partial_store_f32s(std::slice::from_raw_parts_mut(to, left), vector);
        }
    }
}

/// `max(x, 0)`; NaN stays.
#[inline(always)]
pub(super) fn rectified<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let zero = simd.splat_f32s(0.0);
    simd.select_f32s(simd.less_than_f32s(x, zero), zero, x)
}
