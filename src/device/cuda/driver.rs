//! What the CUDA device asks of whoever runs its kernels: the GPU's driver, or the emulator.

use crate::error::{Error, Result};
use bytemuck::{NoUninit, Pod, Zeroable};
use std::ffi::c_void;
use std::ptr::NonNull;
use std::time::Duration;

/// An address in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct Address(pub u64);

impl Address {
    /// The address `numbers` float32 numbers further on.
    pub fn after(self, numbers: usize) -> Address {
        Address(self.0 + (numbers * size_of::<f32>()) as u64)
    }
}

/// The most parameters of a kernel.
const MOST_ARGUMENTS: usize = 16;

/// One start of a kernel, with all that it is told.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The kernel's name in `kernels/`.
    pub kernel: &'static str,
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y and z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory a block gets.
    pub shared_bytes: u32,
    /// All blocks are on the device at once, and may wait for each other: a cooperative launch.
    pub is_cooperative: bool,
    /// The arguments, each from a word of its own on.
    words: Vec<u64>,
    /// Where each argument starts.
    starts: Vec<usize>,
}

impl Launch {
    /// A launch without arguments yet.
    pub fn new(kernel: &'static str, grid: [u32; 3], block: [u32; 3]) -> Launch {
        let (words, starts) = (Vec::new(), Vec::new());
        Launch { kernel, grid, block, shared_bytes: 0, is_cooperative: false, words, starts }
    }

    /// A launch of `block` threads a block, and enough blocks to have `threads` of them.
    pub fn of_threads(kernel: &'static str, threads: usize, block: u32) -> Launch {
        Launch::new(kernel, [threads.div_ceil(block as usize) as u32, 1, 1], [block, 1, 1])
    }

    /// The same with dynamic shared memory.
    pub fn with_shared(mut self, bytes: usize) -> Launch {
        self.shared_bytes = bytes as u32;
        self
    }

    /// The same with blocks that wait for each other, at most as many as [`Driver::blocks_at_once`] says.
    pub fn cooperative(mut self) -> Launch {
        self.is_cooperative = true;
        self
    }

    /// The same with one more argument, in the order of the kernel's parameters and of the same type.
    pub fn with(mut self, argument: impl NoUninit) -> Launch {
        self.starts.push(self.words.len());
        for bytes in bytemuck::bytes_of(&argument).chunks(size_of::<u64>()) {
            let mut word = [0; size_of::<u64>()];
            word[..bytes.len()].copy_from_slice(bytes);
            self.words.push(u64::from_ne_bytes(word));
        }
        self
    }

    /// The same with one more argument, a C++ `int`; sizes are checked to fit when a program is loaded.
    pub fn with_int(self, argument: usize) -> Launch {
        self.with(argument as i32)
    }

    /// Calls `start` with a pointer to each argument, as drivers take them.
    pub(super) fn with_pointers<R>(&self, start: impl FnOnce(&mut [*mut c_void]) -> R) -> R {
        let mut pointers = [std::ptr::null_mut(); MOST_ARGUMENTS];
        let pointers = &mut pointers[..self.starts.len()];
        for (pointer, &at) in pointers.iter_mut().zip(&self.starts) {
            // Drivers take arguments by mutable pointer but only read them.
            *pointer = (&raw const self.words[at]).cast_mut().cast();
        }
        start(pointers)
    }
}

/// Launches that are started as one, in order: a CUDA graph.
pub trait Recording: Send {
    /// Starts them; they may be done later.
    ///
    /// # Errors
    /// [`Stopped`], and then those behind have not run.
    fn start(&self) -> std::result::Result<(), Stopped>;
}

/// Moments between what a device does, each marked again and again: a CUDA event.
pub trait Moments: Send {
    /// The moment is when all that was launched so far is done.
    ///
    /// # Errors
    /// [`Error::Device`] when the device fails.
    fn mark(&self, moment: usize) -> Result<()>;

    /// The time from one moment to a later one, once the device has come to it.
    ///
    /// # Errors
    /// [`Error::Device`] when the device fails, or one has never been marked.
    fn between(&self, earlier: usize, later: usize) -> Result<Duration>;
}

/// What stopped a recording.
#[derive(Debug)]
pub struct Stopped {
    /// Which of its launches, where the driver knows.
    pub launch: Option<usize>,
    /// Why.
    pub error: Error,
}

/// Runs kernels. Work is done in the order it is asked for; launches may return before it is done.
///
/// Errors are [`crate::Error::Device`] throughout: sentences for people, with what to do where something can be done.
pub trait Driver: Send + Sync {
    /// One line for people: model, architecture, memory.
    fn describe(&self) -> String;

    /// The model alone, by which measurements of one GPU are known from those of another.
    fn name(&self) -> String;

    /// What else people want to know of it when they read its times: a name and a value each.
    fn facts(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// Whether its times are those of a GPU.
    fn is_hardware(&self) -> bool {
        true
    }

    /// The GPU's architecture: 80 for sm_80.
    fn architecture(&self) -> u32;

    /// Whether `kernels/` has a kernel of this name for this architecture.
    fn has_kernel(&self, name: &str) -> bool;

    /// How many blocks of a kernel, of so many threads and bytes of dynamic shared memory each, the device holds at once; 0
    /// where it cannot tell, holds not even one, or cannot promise that all blocks of a launch are there.
    fn blocks_at_once(&self, kernel: &str, threads: u32, shared_bytes: u32) -> usize;

    /// How many multiprocessors share the blocks of a launch.
    fn multiprocessors(&self) -> usize;

    /// Bytes of device memory that were taken since the driver was opened, kernels included, where it can tell.
    fn memory_taken(&self) -> Option<u64> {
        None
    }

    /// Memory of `bytes` bytes, aligned to at least 256.
    fn allocate(&self, bytes: usize) -> Result<Address>;

    /// Gives memory back.
    ///
    /// # Safety
    /// It came from this driver's [`Driver::allocate`] and nothing uses it any more.
    unsafe fn release(&self, memory: Address);

    /// Memory of the host, `bytes` bytes of 0, that the device reads and writes itself: copies from and to it run beside
    /// the host, and faster.
    fn allocate_host(&self, bytes: usize) -> Result<NonNull<u8>>;

    /// Gives such memory back.
    ///
    /// # Safety
    /// It came from this driver's [`Driver::allocate_host`], of as many bytes, and nothing uses it any more.
    unsafe fn release_host(&self, memory: NonNull<u8>, bytes: usize);

    /// Begins to copy bytes to the device, behind what was launched before and ahead of what is launched later.
    ///
    /// # Safety
    /// `to` has room for them in memory of this driver; they stay as they are until [`Driver::synchronise`].
    unsafe fn start_upload(&self, to: Address, bytes: &[u8]) -> Result<()>;

    /// Begins to copy bytes from the device, once all that was launched is done; they are there after
    /// [`Driver::synchronise`].
    ///
    /// # Safety
    /// `from` holds as many bytes in memory of this driver; nobody touches those of the host until then.
    unsafe fn start_download(&self, from: Address, bytes: &mut [u8]) -> Result<()>;

    /// Copies bytes to the device; they are there when this returns.
    ///
    /// # Safety
    /// `to` has room for them in memory of this driver.
    unsafe fn upload_bytes(&self, to: Address, bytes: &[u8]) -> Result<()> {
        // SAFETY: the caller's promise; the bytes are borrowed until it is done.
        unsafe { self.start_upload(to, bytes) }?;
        self.synchronise()
    }

    /// Copies bytes from the device, once all that was launched is done.
    ///
    /// # Safety
    /// `from` holds as many bytes in memory of this driver.
    unsafe fn download_bytes(&self, from: Address, bytes: &mut [u8]) -> Result<()> {
        // SAFETY: as above.
        unsafe { self.start_download(from, bytes) }?;
        self.synchronise()
    }

    /// As [`Driver::upload_bytes`], of numbers.
    ///
    /// # Safety
    /// As there.
    unsafe fn upload(&self, to: Address, numbers: &[f32]) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.upload_bytes(to, bytemuck::cast_slice(numbers)) }
    }

    /// As [`Driver::download_bytes`], of numbers.
    ///
    /// # Safety
    /// As there.
    unsafe fn download(&self, from: Address, numbers: &mut [f32]) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.download_bytes(from, bytemuck::cast_slice_mut(numbers)) }
    }

    /// Says that kernels must not touch these numbers until [`Driver::open`]; a driver that can find it out does.
    ///
    /// # Safety
    /// They lie in memory of this driver, and nobody copies them meanwhile.
    unsafe fn close(&self, _from: Address, _numbers: usize) {}

    /// Ends what [`Driver::close`] began.
    ///
    /// # Safety
    /// As there.
    unsafe fn open(&self, _from: Address, _numbers: usize) {}

    /// Starts a kernel.
    ///
    /// # Safety
    /// The arguments have the types of the kernel's parameters, and the memory they point to is live and as large as
    /// the kernel assumes.
    unsafe fn launch(&self, launch: &Launch) -> Result<()>;

    /// Records launches, to be started as one again and again.
    ///
    /// # Safety
    /// As [`Driver::launch`], for each of them, whenever the recording is started.
    unsafe fn record(&self, launches: &[&Launch]) -> Result<Box<dyn Recording>>;

    /// From now on recorded launches may begin before those before them are done, for every kernel waits for them by itself:
    /// programmatic dependent launch.
    ///
    /// # Errors
    /// [`Error::Device`] where that cannot be had.
    fn launch_ahead(&self) -> Result<()> {
        Err(Error::Device(format!("{} begins no launch before the end of another", self.describe())))
    }

    /// Waits until all that was launched is done.
    fn synchronise(&self) -> Result<()>;

    /// So many moments, to time the device's work by.
    fn moments(&self, count: usize) -> Result<Box<dyn Moments>>;

    /// The time that the device takes for what `work` launches.
    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Duration> {
        let moments = self.moments(2)?;
        moments.mark(0)?;
        work()?;
        moments.mark(1)?;
        moments.between(0, 1)
    }
}
