//! Device memory that is given back when dropped.

use super::driver::{Address, Driver};
use crate::error::{Error, Result};
use crate::program::Span;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

/// Float32 numbers on a device.
pub(super) struct Memory {
    driver: Arc<dyn Driver>,
    start: Address,
    len: usize,
}

impl Memory {
    /// Memory of `len` numbers, all 0.
    pub fn zeroed(driver: &Arc<dyn Driver>, len: usize) -> Result<Memory> {
        let memory = Memory::unwritten(driver, len)?;
        memory.fill(Span { offset: 0, len }, 0.0)?;
        Ok(memory)
    }

    /// Memory of `len` numbers, as the driver gives it.
    pub fn unwritten(driver: &Arc<dyn Driver>, len: usize) -> Result<Memory> {
        let refused = || Error::Device(format!("out of memory: the program needs {} MB", len / 250_000));
        let bytes = len.max(1).checked_mul(size_of::<f32>()).ok_or_else(refused)?;
        Ok(Memory { driver: driver.clone(), start: driver.allocate(bytes)?, len })
    }

    /// The address of a span's first number, checked to leave room for the rest.
    pub fn address(&self, span: Span) -> Address {
        assert!(span.offset <= self.len && span.len <= self.len - span.offset, "span outside the arena");
        self.start.after(span.offset)
    }

    /// Writes as many numbers as the span has.
    pub fn write(&self, span: Span, numbers: &[f32]) -> Result<()> {
        assert_eq!(numbers.len(), span.len);
        // SAFETY: `address` has checked the room.
        unsafe { self.driver.upload(self.address(span), numbers) }
    }

    /// Reads as many numbers as the span has.
    pub fn read(&self, span: Span, numbers: &mut [f32]) -> Result<()> {
        assert_eq!(numbers.len(), span.len);
        // SAFETY: `address` has checked the room.
        unsafe { self.driver.download(self.address(span), numbers) }
    }

    /// Writes 16-bit numbers to the first half of a span, as many as it has.
    pub fn write_half(&self, span: Span, numbers: &[u16]) -> Result<()> {
        assert_eq!(numbers.len(), span.len);
        // SAFETY: `address` has checked room for twice as many bytes.
        unsafe { self.driver.upload_bytes(self.address(span), bytemuck::cast_slice(numbers)) }
    }

    /// Reads what [`Memory::write_half`] has written.
    pub fn read_half(&self, span: Span, numbers: &mut [u16]) -> Result<()> {
        assert_eq!(numbers.len(), span.len);
        // SAFETY: as above.
        unsafe { self.driver.download_bytes(self.address(span), bytemuck::cast_slice_mut(numbers)) }
    }

    /// Writes bytes from the first number on.
    pub fn write_bytes(&self, bytes: &[u8]) -> Result<()> {
        // SAFETY: `address` has checked the room.
        unsafe { self.driver.upload_bytes(self.address(whole_numbers(bytes)), bytes) }
    }

    /// The address of the first number.
    pub fn start(&self) -> Address {
        self.start
    }

    /// Runs `work` while kernels must not touch these spans.
    pub fn without<R>(&self, spans: &[Span], work: impl FnOnce() -> R) -> R {
        // SAFETY: `address` has checked the room; `work` launches kernels and copies nothing.
        spans.iter().for_each(|&span| unsafe { self.driver.close(self.address(span), span.len) });
        let result = work();
        // SAFETY: as above.
        spans.iter().for_each(|&span| unsafe { self.driver.open(self.address(span), span.len) });
        result
    }

    /// Writes the same number everywhere in a span.
    pub fn fill(&self, span: Span, number: f32) -> Result<()> {
        // A piece at a time, so that the host never holds a second arena.
        const PIECE: usize = 1 << 20;
        let numbers = vec![number; PIECE.min(span.len)];
        for at in (0..span.len).step_by(PIECE) {
            let piece = Span { offset: span.offset + at, len: PIECE.min(span.len - at) };
            self.write(piece, &numbers[..piece.len])?;
        }
        Ok(())
    }
}

/// 32-bit counters of the steps of a program, through which the blocks of a launch tell each other that they are done.
/// A launch leaves them as it finds them.
pub(super) struct Counters {
    memory: Memory,
    /// The first one of each step.
    starts: Vec<usize>,
}

impl Counters {
    /// As many for each step as `counts` says, as the driver gives memory.
    pub fn new(driver: &Arc<dyn Driver>, counts: impl Iterator<Item = usize>) -> Result<Counters> {
        let (mut starts, mut len) = (Vec::new(), 0);
        for count in counts {
            starts.push(len);
            len += count;
        }
        Ok(Counters { memory: Memory::unwritten(driver, len)?, starts })
    }

    /// Makes all of them 0.
    pub fn reset(&self) -> Result<()> {
        self.memory.fill(Span { offset: 0, len: self.memory.len }, 0.0) // whose bits are those of 0
    }

    /// The first one of a step.
    pub fn of(&self, step: usize) -> Address {
        self.memory.start.after(self.starts[step])
    }
}

/// Bytes of the host that the device reads and writes itself.
pub(super) struct HostMemory {
    driver: Arc<dyn Driver>,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: it owns its bytes.
unsafe impl Send for HostMemory {}

impl HostMemory {
    /// `len` bytes, all 0.
    pub fn zeroed(driver: &Arc<dyn Driver>, len: usize) -> Result<HostMemory> {
        Ok(HostMemory { driver: driver.clone(), start: driver.allocate_host(len)?, len })
    }
}

impl Deref for HostMemory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: as many bytes were allocated; who starts a copy keeps others away from them until it is done.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for HostMemory {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed`; who starts a copy waits for it before this is dropped.
        unsafe { self.driver.release_host(self.start, self.len) }
    }
}

/// The numbers at the start of a memory that bytes take.
fn whole_numbers(bytes: &[u8]) -> Span {
    Span { offset: 0, len: bytes.len().div_ceil(size_of::<f32>()) }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed`; sessions synchronise before they return from a run, so nothing uses it.
        unsafe { self.driver.release(self.start) }
    }
}
