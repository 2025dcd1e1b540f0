//! The arena of a program on the CPU, and the views of it that routines work on.
//!
//! Routines read and write ranges that the plan keeps apart, several threads at a time, so views are raw: what makes
//! them sound is the plan (no two live values overlap) and each routine's division of its results among tasks.

use crate::error::{Error, Result};
use crate::program::Span;
use std::alloc::Layout;
use std::ptr::NonNull;

/// A block of zeroed float32 numbers, aligned to a cache line.
#[derive(Debug)]
pub(super) struct Arena {
    allocation: NonNull<u8>,
    layout: Layout,
    start: NonNull<f32>,
    len: usize,
}

/// Bytes of a cache line.
const LINE: usize = 64;

// SAFETY: the arena owns its memory; access is governed by the borrow of the session that owns the arena.
unsafe impl Send for Arena {}
unsafe impl Sync for Arena {}

impl Arena {
    pub fn new(len: usize) -> Result<Arena> {
        let refused = || Error::Device(format!("out of memory: the program's arena needs {} MB", len / 250_000));
        let bytes = len.checked_mul(size_of::<f32>()).and_then(|bytes| bytes.checked_add(LINE)).ok_or_else(refused)?;
        // Asked to align to more than it does anyway, the allocator would write the zeros itself, and so take all memory at
        // once in place of what is used, when it is used.
        let layout = Layout::from_size_align(bytes, align_of::<f32>()).map_err(|_| refused())?;
        // SAFETY: the layout has a size above 0.
        let allocation = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).ok_or_else(refused)?;
        ask_for_huge_pages(allocation, bytes);
        let before_line = allocation.as_ptr().align_offset(LINE);
        // SAFETY: an allocation begins less than a line before the next line, and is a line longer than the numbers.
        let start = unsafe { allocation.add(before_line) }.cast();
        Ok(Arena { allocation, layout, start, len })
    }

    /// The numbers of a span.
    pub fn region(&self, span: Span) -> Region {
        assert!(span.offset <= self.len && span.len <= self.len - span.offset, "span outside the arena");
        // SAFETY: just checked to lie within the allocation.
        Region { start: unsafe { self.start.as_ptr().add(span.offset) }, len: span.len }
    }
}

/// Has the system map memory in pages of megabytes where it can: filters and maps are read through once a frame, and the
/// processor would else look up where every fourth kilobyte lies. Some systems do so anyway, others for who asks.
fn ask_for_huge_pages(start: NonNull<u8>, bytes: usize) {
    #[cfg(target_os = "linux")]
    {
        // Of less, too little is in such pages.
        const LEAST: usize = 8 << 20;
        // As large as plain pages are anywhere; the system wants whole ones.
        const PAGE: usize = 64 << 10;
        if bytes < LEAST {
            return;
        }
        let before = start.as_ptr().align_offset(PAGE);
        let inside = bytes.saturating_sub(before) / PAGE * PAGE;
        // SAFETY: within the allocation, which stays what it is; where the system refuses, pages are as they were.
        unsafe { libc::madvise(start.as_ptr().wrapping_add(before).cast(), inside, libc::MADV_HUGEPAGE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, bytes);
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { std::alloc::dealloc(self.allocation.as_ptr(), self.layout) }
    }
}

/// A range of an arena that outlives it; see the module for what makes its use sound.
#[derive(Debug, Clone, Copy)]
pub(super) struct Region {
    start: *mut f32,
    len: usize,
}

// SAFETY: a view of memory that the session keeps alive; users divide writes among tasks without overlap.
unsafe impl Send for Region {}
unsafe impl Sync for Region {}

impl Region {
    pub fn len(self) -> usize {
        self.len
    }

    /// A pointer to number `at`, checked to leave room for `len` numbers.
    pub fn pointer(self, at: usize, len: usize) -> *mut f32 {
        assert!(at <= self.len && len <= self.len - at, "range outside the region");
        // SAFETY: just checked to lie within the region.
        unsafe { self.start.add(at) }
    }

    /// Numbers `at..at + len`.
    ///
    /// # Safety
    /// Nobody writes them while the slice lives.
    pub unsafe fn slice<'a>(self, at: usize, len: usize) -> &'a [f32] {
        // SAFETY: in range by `pointer`, initialised by the arena; aliasing is the caller's promise.
        unsafe { std::slice::from_raw_parts(self.pointer(at, len), len) }
    }

    /// Numbers `at..at + len`, to be changed.
    ///
    /// # Safety
    /// Nobody else reads or writes them while the slice lives.
    pub unsafe fn slice_mut<'a>(self, at: usize, len: usize) -> &'a mut [f32] {
        // SAFETY: in range by `pointer`, initialised by the arena; aliasing is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.pointer(at, len), len) }
    }

    /// All numbers.
    ///
    /// # Safety
    /// As [`Region::slice`].
    pub unsafe fn all<'a>(self) -> &'a [f32] {
        // SAFETY: the caller's promise.
        unsafe { self.slice(0, self.len) }
    }
}
