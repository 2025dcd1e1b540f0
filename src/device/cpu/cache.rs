//! What a processor is told about its caches: what will soon be read, and what will not be read soon.

use super::last_level_cache;
use pulp::Simd;
use std::sync::OnceLock;

/// Bytes that a last-level cache is taken to hold where the system does not say.
const USUAL_CACHE: usize = 32 << 20;

/// Has what lies at an address brought into the first-level cache.
#[inline(always)]
pub(super) fn prefetch(from: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: nothing is read, whatever the address.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(from.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = from;
}

/// Whether results of so many numbers are better written past the caches: nothing of them would be left there until they are
/// read, and memory would first be read that is then overwritten.
pub(super) fn is_better_passed(numbers: usize) -> bool {
    static CACHE: OnceLock<usize> = OnceLock::new();
    numbers * size_of::<f32>() > *CACHE.get_or_init(|| last_level_cache().unwrap_or(USUAL_CACHE))
}

/// Writes a vector of 16 numbers past the caches; whether it did.
///
/// # Safety
/// They are writable and nobody else touches them until [`end_passing`] has been called.
#[inline(always)]
pub(super) unsafe fn pass<S: Simd>(to: *mut f32, vector: S::f32s) -> bool {
    #[cfg(target_arch = "x86_64")]
    if size_of::<S::f32s>() == 64 && to.addr().is_multiple_of(64) {
        /// # Safety
        /// As for [`pass`]; the address is one of a cache line, the processor has AVX-512.
        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn stream(to: *mut f32, vector: core::arch::x86_64::__m512) {
            // SAFETY: the caller's promise.
            unsafe { core::arch::x86_64::_mm512_stream_ps(to, vector) }
        }
        // SAFETY: the caller's promise; vectors of 64 bytes are those of AVX-512, which was found on this processor.
        unsafe { stream(to, std::mem::transmute_copy(&vector)) };
        return true;
    }
    let _ = (to, vector);
    false
}

/// Makes what was passed visible to whoever is told of it from now on.
pub(super) fn end_passing() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: all processors of this kind have it.
    unsafe {
        core::arch::x86_64::_mm_sfence();
    }
}
