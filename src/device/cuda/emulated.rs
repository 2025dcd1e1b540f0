//! The driver that runs the kernels on the CPU: `kernels/`, compiled by the host's compiler, under the emulator.
//!
//! Slow, exact about what CUDA promises and hostile about what it does not: see `kernels/emulator/multiprocessor.h`.

use super::driver::{Address, Driver, Launch, Moments, Recording, Stopped};
use crate::error::{Error, Result};
use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

include!(concat!(env!("OUT_DIR"), "/emulated.rs"));

/// A kernel in the lists that `kernels/emulator/kernel.h` describes.
#[repr(C)]
struct Kernel {
    name: *const c_char,
    entry: Option<unsafe extern "C" fn(*const *mut c_void)>,
    most_threads: c_uint,
    most_shared: c_uint,
}

/// Which GPU is emulated: whose path through `kernels/primitives.cuh` is run, and what it knows of beside that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Turing: no asynchronous copies; tensor cores for float16 alone.
    Sm75 = 75,
    /// Ampere, Ada.
    Sm80 = 80,
    /// Hopper and newer.
    Sm90 = 90,
}

impl Architecture {
    /// All there are.
    pub const ALL: [Architecture; 3] = [Architecture::Sm75, Architecture::Sm80, Architecture::Sm90];

    /// The paths that its kernels are compiled for: that of all files, and that of those which are its alone.
    fn paths(self) -> &'static [u32] {
        match self {
            Architecture::Sm75 => &[75],
            Architecture::Sm80 => &[80],
            Architecture::Sm90 => &[80, 90],
        }
    }
}

/// In what order blocks and threads run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Order {
    /// First to last.
    Forward,
    /// Last to first.
    Reversed,
    /// Drawn anew at every step.
    Random,
}

/// When an asynchronous copy happens between its issue and the wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Copies {
    /// At the wait.
    Late,
    /// At the issue.
    AtOnce,
    /// At one or the other, drawn for each.
    Random,
}

/// One of the ways in which a GPU might run a kernel; a kernel that is right gives the same bits under all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Schedule {
    /// In what order blocks and threads run.
    pub order: Order,
    /// When asynchronous copies happen.
    pub copies: Copies,
    /// What is drawn is drawn from this.
    pub seed: u64,
}

impl Schedule {
    /// Three ways that differ in everything.
    pub const ALL: [Schedule; 3] = [
        Schedule { order: Order::Forward, copies: Copies::Late, seed: 1 },
        Schedule { order: Order::Reversed, copies: Copies::AtOnce, seed: 2 },
        Schedule { order: Order::Random, copies: Copies::Random, seed: 3 },
    ];
}

/// What launches of a kernel have asked of memory, counted as a GPU would serve it: by requests, each the accesses of one
/// instruction by the lanes of a warp.
///
/// Exact about what the emulator's compiler has made of the kernel. nvcc may merge, split, hoist or repeat loads in its
/// own way; accesses of whole structs other than `float4` may be counted number by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Traffic {
    /// Launches counted.
    pub launches: u64,
    /// Requests to shared memory. Asynchronous copies are among them, and among the global ones.
    pub shared_requests: u64,
    /// The times that shared memory's 32 banks of 4 bytes have answered. A request for up to 4 bytes a lane takes one
    /// without conflicts, one for 8 bytes two, one for 16 bytes four, less where quarters of the warp take no part.
    pub shared_wavefronts: u64,
    /// The wavefronts that were needed only because lanes wanted different words of a bank.
    pub bank_conflicts: u64,
    /// Requests to global memory.
    pub global_requests: u64,
    /// Bytes that lanes have asked for, or written.
    pub global_bytes: u64,
    /// Sectors of 32 bytes that the requests have touched, each once a request.
    pub global_sectors: u64,
}

impl Traffic {
    /// Bank conflicts per request to shared memory; 0 where there are none of either.
    pub fn conflicts_per_request(&self) -> f64 {
        self.bank_conflicts as f64 / self.shared_requests.max(1) as f64
    }

    /// Bytes of sectors per byte asked for: 1 where lanes use all they move and share none, less where they share.
    pub fn bytes_per_byte(&self) -> f64 {
        (self.global_sectors * 32) as f64 / self.global_bytes.max(1) as f64
    }
}

/// As `MOST_BLOCKS_AT_ONCE` of `kernels/emulator/multiprocessor.h`: few, so that small maps are more than one round.
const BLOCKS_AT_ONCE: usize = 24;
/// Of as many multiprocessors.
const MULTIPROCESSORS: usize = 8;

/// The functions of `kernels/emulator/interface.cpp`.
#[derive(Clone, Copy)]
struct Interface {
    launch: LaunchFunction,
    allocate: unsafe extern "C" fn(bytes: usize) -> *mut c_void,
    release: unsafe extern "C" fn(memory: *mut c_void),
}

type LaunchFunction = unsafe extern "C" fn(
    kernel: *const Kernel,
    grid: *const c_uint,
    block: *const c_uint,
    shared_bytes: usize,
    is_cooperative: c_int,
    arguments: *const *mut c_void,
    schedule: *const Schedule,
    traffic: *mut Traffic,
    problem: *mut c_char,
    capacity: usize,
) -> c_int;

unsafe extern "C" {
    fn coronet_emulator_launch(
        kernel: *const Kernel,
        grid: *const c_uint,
        block: *const c_uint,
        shared_bytes: usize,
        is_cooperative: c_int,
        arguments: *const *mut c_void,
        schedule: *const Schedule,
        traffic: *mut Traffic,
        problem: *mut c_char,
        capacity: usize,
    ) -> c_int;
    fn coronet_emulator_allocate(bytes: usize) -> *mut c_void;
    fn coronet_emulator_release(memory: *mut c_void);
    fn coronet_emulator_close(memory: *const c_void, bytes: usize);
    fn coronet_emulator_open(memory: *const c_void, bytes: usize);
}

/// Those linked into this program.
const LINKED: Interface = Interface {
    launch: coronet_emulator_launch,
    allocate: coronet_emulator_allocate,
    release: coronet_emulator_release,
};

/// Runs kernels on the calling thread, under one schedule. Clones count into the same [`Traffic`].
#[derive(Clone)]
pub struct EmulatedDriver {
    interface: Interface,
    kernels: HashMap<&'static str, &'static Kernel>,
    architecture: Architecture,
    schedule: Schedule,
    traffic: Option<Arc<Mutex<BTreeMap<&'static str, Traffic>>>>,
}

// SAFETY: the lists are constants; the emulator keeps what it needs for a launch by thread.
unsafe impl Send for EmulatedDriver {}
unsafe impl Sync for EmulatedDriver {}

impl EmulatedDriver {
    /// A driver of an sm_80 for all its kernels, and the probes that its own tests launch.
    pub fn new(schedule: Schedule) -> EmulatedDriver {
        EmulatedDriver::of(Architecture::Sm80, schedule)
    }

    /// The same of another architecture.
    pub fn of(architecture: Architecture, schedule: Schedule) -> EmulatedDriver {
        let runs = |path: Option<u32>| path.is_none_or(|path| architecture.paths().contains(&path));
        let tables = tables().into_iter().filter(|(path, _)| runs(*path));
        let kernels = tables.flat_map(|(_, table)| kernels_of(table)).collect();
        EmulatedDriver { interface: LINKED, kernels, architecture, schedule, traffic: None }
    }

    /// A driver of an sm_80 that counts what kernels ask of memory. Only the checked build counts.
    pub fn counting(schedule: Schedule) -> EmulatedDriver {
        EmulatedDriver::new(schedule).that_counts()
    }

    /// The same driver, counting what kernels ask of memory from now on.
    pub fn that_counts(self) -> EmulatedDriver {
        EmulatedDriver { traffic: Some(Arc::default()), ..self }
    }

    /// What has been counted so far, by kernel.
    pub fn traffic(&self) -> BTreeMap<&'static str, Traffic> {
        let counts =
            self.traffic.as_ref().map(|traffic| traffic.lock().unwrap_or_else(PoisonError::into_inner).clone());
        counts.unwrap_or_default()
    }

    /// A driver of an emulator and kernels that were loaded at run time, as mutation testing does; of two kernels of a
    /// name the later list's is run. `symbol` gives the address of a function of the emulator.
    ///
    /// # Safety
    /// The functions are those of `kernels/emulator/interface.cpp`, each list is one that the build script describes, and all
    /// stay loaded as long as the program runs.
    pub unsafe fn of_library(
        symbol: impl Fn(&str) -> *const c_void,
        lists: &[*const c_void],
        architecture: Architecture,
        schedule: Schedule,
    ) -> EmulatedDriver {
        // SAFETY: the caller's promise.
        let interface = unsafe {
            Interface {
                launch: std::mem::transmute::<*const c_void, LaunchFunction>(symbol("coronet_emulator_launch")),
                allocate: std::mem::transmute::<*const c_void, unsafe extern "C" fn(usize) -> *mut c_void>(symbol(
                    "coronet_emulator_allocate",
                )),
                release: std::mem::transmute::<*const c_void, unsafe extern "C" fn(*mut c_void)>(symbol(
                    "coronet_emulator_release",
                )),
            }
        };
        let kernels = lists.iter().flat_map(|&list| kernels_of(list.cast())).collect();
        EmulatedDriver { interface, kernels, architecture, schedule, traffic: None }
    }
}

/// The kernels of one file's list.
fn kernels_of(mut kernel: *const Kernel) -> Vec<(&'static str, &'static Kernel)> {
    let mut kernels = Vec::new();
    loop {
        // SAFETY: the build script ends every list with a null name; lists and names live as long as the program.
        let this: &'static Kernel = unsafe { &*kernel };
        if this.name.is_null() {
            return kernels;
        }
        // SAFETY: as above.
        let name: &'static CStr = unsafe { CStr::from_ptr(this.name) };
        // Names are C identifiers.
        kernels.push((name.to_str().unwrap_or_default(), this));
        // SAFETY: the end has not been reached.
        kernel = unsafe { kernel.add(1) };
    }
}

/// A sentence of the emulator in which each `{0x1234}` is replaced by its place in the source.
fn with_lines(sentence: &str) -> String {
    let mut parts = sentence.split("{0x");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let address =
            part.split_once('}').and_then(|(digits, rest)| Some((usize::from_str_radix(digits, 16).ok()?, rest)));
        match address {
            Some((address, rest)) => text.extend([&line_of(address), rest]),
            None => text.extend(["{0x", part]),
        }
    }
    text
}

/// Where in `kernels/` the call that returns to `address` stands: `conv.cu:88 from conv.cu:169`, and so on outwards for
/// as long as functions are inlined. Primitives and the emulator are left out: who uses them is what matters.
fn line_of(address: usize) -> String {
    let mut lines = Vec::new();
    backtrace::resolve(address as *mut c_void, |symbol| {
        let Some((path, line)) = symbol.filename().zip(symbol.lineno()) else { return };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_kernel = name.ends_with(".cu") || name.ends_with(".cuh");
        if is_kernel && name != "primitives.cuh" {
            lines.push(format!("{name}:{line}"));
        }
    });
    if lines.is_empty() { "a line that this build does not know".into() } else { lines.join(" from ") }
}

/// Launches, and who runs them.
struct Recorded {
    driver: EmulatedDriver,
    launches: Vec<Launch>,
}

impl Recording for Recorded {
    fn start(&self) -> std::result::Result<(), Stopped> {
        for (index, launch) in self.launches.iter().enumerate() {
            // SAFETY: the promise of who recorded it.
            unsafe { self.driver.launch(launch) }.map_err(|error| Stopped { launch: Some(index), error })?;
        }
        Ok(())
    }
}

impl Driver for EmulatedDriver {
    fn describe(&self) -> String {
        format!("emulated GPU (sm_{}), one thread", self.architecture())
    }

    fn name(&self) -> String {
        "emulated GPU".to_owned()
    }

    fn is_hardware(&self) -> bool {
        false
    }

    fn architecture(&self) -> u32 {
        self.architecture as u32
    }

    fn has_kernel(&self, name: &str) -> bool {
        self.kernels.contains_key(name)
    }

    fn blocks_at_once(&self, kernel: &str, _threads: u32, shared_bytes: u32) -> usize {
        let has_room = self.kernels.get(kernel).is_some_and(|kernel| shared_bytes <= kernel.most_shared);
        if has_room { BLOCKS_AT_ONCE } else { 0 }
    }

    fn multiprocessors(&self) -> usize {
        MULTIPROCESSORS
    }

    fn allocate(&self, bytes: usize) -> Result<Address> {
        // SAFETY: any size may be asked for.
        let memory = unsafe { (self.interface.allocate)(bytes) };
        if memory.is_null() {
            return Err(Error::Device(format!("out of memory: the host has no {} MB for the emulator", bytes >> 20)));
        }
        Ok(Address(memory as u64))
    }

    unsafe fn release(&self, memory: Address) {
        // SAFETY: the caller's promise.
        unsafe { (self.interface.release)(memory.0 as *mut c_void) }
    }

    fn allocate_host(&self, bytes: usize) -> Result<NonNull<u8>> {
        let memory: &mut [u8] = Box::leak(vec![0; bytes].into_boxed_slice());
        Ok(NonNull::from(memory).cast())
    }

    unsafe fn release_host(&self, memory: NonNull<u8>, bytes: usize) {
        // SAFETY: the caller's promise, and what `allocate_host` has done.
        drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(memory.as_ptr(), bytes)) });
    }

    unsafe fn start_upload(&self, to: Address, bytes: &[u8]) -> Result<()> {
        // SAFETY: the caller's promise; addresses of the emulator are the host's.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.0 as *mut u8, bytes.len()) };
        Ok(())
    }

    unsafe fn start_download(&self, from: Address, bytes: &mut [u8]) -> Result<()> {
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(from.0 as *const u8, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    unsafe fn close(&self, from: Address, numbers: usize) {
        // SAFETY: the caller's promise.
        unsafe { coronet_emulator_close(from.0 as *const c_void, numbers * size_of::<f32>()) }
    }

    unsafe fn open(&self, from: Address, numbers: usize) {
        // SAFETY: the caller's promise.
        unsafe { coronet_emulator_open(from.0 as *const c_void, numbers * size_of::<f32>()) }
    }

    unsafe fn launch(&self, launch: &Launch) -> Result<()> {
        let Some(kernel) = self.kernels.get(launch.kernel) else {
            return Err(Error::Device(format!("there is no kernel {}", launch.kernel)));
        };
        let mut problem = [0u8; 1000];
        let mut counts = self.traffic.as_ref().map(|traffic| traffic.lock().unwrap_or_else(PoisonError::into_inner));
        let counts = counts.as_mut().map(|counts| counts.entry(launch.kernel).or_default());
        let traffic = counts.map_or(std::ptr::null_mut(), std::ptr::from_mut);
        let status = launch.with_pointers(|arguments| {
            // SAFETY: the arguments are the caller's promise; the rest lives until the call returns.
            unsafe {
                (self.interface.launch)(
                    *kernel,
                    launch.grid.as_ptr(),
                    launch.block.as_ptr(),
                    launch.shared_bytes as usize,
                    c_int::from(launch.is_cooperative),
                    arguments.as_ptr(),
                    &self.schedule,
                    traffic,
                    problem.as_mut_ptr().cast(),
                    problem.len(),
                )
            }
        });
        if status == 0 {
            return Ok(());
        }
        let sentence = CStr::from_bytes_until_nul(&problem).map(CStr::to_string_lossy).unwrap_or_default();
        Err(Error::Device(with_lines(&sentence)))
    }

    unsafe fn record(&self, launches: &[&Launch]) -> Result<Box<dyn Recording>> {
        let launches = launches.iter().map(|&launch| launch.clone()).collect();
        Ok(Box::new(Recorded { driver: self.clone(), launches }))
    }

    /// It has every kernel prove that it might, and begins none.
    fn launch_ahead(&self) -> Result<()> {
        Ok(())
    }

    fn synchronise(&self) -> Result<()> {
        Ok(())
    }

    fn moments(&self, count: usize) -> Result<Box<dyn Moments>> {
        Ok(Box::new(Instants(Mutex::new(vec![None; count]))))
    }
}

/// Moments of a device that has done everything by the time it is asked.
struct Instants(Mutex<Vec<Option<Instant>>>);

impl Moments for Instants {
    fn mark(&self, moment: usize) -> Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[moment] = Some(Instant::now());
        Ok(())
    }

    fn between(&self, earlier: usize, later: usize) -> Result<Duration> {
        let moments = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let both = moments[earlier].zip(moments[later]);
        let (earlier, later) = both.ok_or_else(|| Error::Device("a moment was never marked".into()))?;
        Ok(later.saturating_duration_since(earlier))
    }
}
