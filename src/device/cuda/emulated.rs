//! The driver that runs the kernels on the CPU: `kernels/`, compiled by the host's compiler, under the emulator.
//!
//! Slow, exact about what CUDA promises and hostile about what it does not: see `kernels/emulator/multiprocessor.h`.

use super::driver::{Address, Driver, Launch};
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
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

/// Whose path through `kernels/primitives.cuh` is run.
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
    arguments: *const *mut c_void,
    schedule: *const Schedule,
    problem: *mut c_char,
    capacity: usize,
) -> c_int;

unsafe extern "C" {
    fn coronet_emulator_launch(
        kernel: *const Kernel,
        grid: *const c_uint,
        block: *const c_uint,
        shared_bytes: usize,
        arguments: *const *mut c_void,
        schedule: *const Schedule,
        problem: *mut c_char,
        capacity: usize,
    ) -> c_int;
    fn coronet_emulator_allocate(bytes: usize) -> *mut c_void;
    fn coronet_emulator_release(memory: *mut c_void);
}

/// Those linked into this program.
const LINKED: Interface = Interface {
    launch: coronet_emulator_launch,
    allocate: coronet_emulator_allocate,
    release: coronet_emulator_release,
};

/// Runs kernels on the calling thread, under one schedule.
pub struct EmulatedDriver {
    interface: Interface,
    kernels: HashMap<&'static str, &'static Kernel>,
    architecture: Architecture,
    schedule: Schedule,
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
        let runs = |path: Option<u32>| path.is_none_or(|path| path == architecture as u32);
        let tables = tables().into_iter().filter(|(path, _)| runs(*path));
        let kernels = tables.flat_map(|(_, table)| kernels_of(table)).collect();
        EmulatedDriver { interface: LINKED, kernels, architecture, schedule }
    }

    /// A driver of an emulator and kernels that were loaded at run time, as mutation testing does; of two kernels of a
    /// name the later list's is run. `symbol` gives the address of a function of the emulator.
    ///
    /// # Safety
    /// The functions are those of `kernels/emulator/interface.cpp`, each list is one that `build.rs` describes, and all
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
        EmulatedDriver { interface, kernels, architecture, schedule }
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

impl Driver for EmulatedDriver {
    fn describe(&self) -> String {
        format!("emulated GPU (sm_{}), one thread", self.architecture())
    }

    fn architecture(&self) -> u32 {
        self.architecture as u32
    }

    fn has_kernel(&self, name: &str) -> bool {
        self.kernels.contains_key(name)
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

    unsafe fn upload(&self, to: Address, numbers: &[f32]) -> Result<()> {
        // SAFETY: the caller's promise; addresses of the emulator are the host's.
        unsafe { std::ptr::copy_nonoverlapping(numbers.as_ptr(), to.0 as *mut f32, numbers.len()) };
        Ok(())
    }

    unsafe fn download(&self, from: Address, numbers: &mut [f32]) -> Result<()> {
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(from.0 as *const f32, numbers.as_mut_ptr(), numbers.len()) };
        Ok(())
    }

    unsafe fn launch(&self, launch: &Launch) -> Result<()> {
        let Some(kernel) = self.kernels.get(launch.kernel) else {
            return Err(Error::Device(format!("there is no kernel {}", launch.kernel)));
        };
        let mut problem = [0u8; 600];
        let status = launch.with_pointers(|arguments| {
            // SAFETY: the arguments are the caller's promise; the rest lives until the call returns.
            unsafe {
                (self.interface.launch)(
                    *kernel,
                    launch.grid.as_ptr(),
                    launch.block.as_ptr(),
                    launch.shared_bytes as usize,
                    arguments.as_ptr(),
                    &self.schedule,
                    problem.as_mut_ptr().cast(),
                    problem.len(),
                )
            }
        });
        if status == 0 {
            return Ok(());
        }
        let sentence = CStr::from_bytes_until_nul(&problem).map(CStr::to_string_lossy).unwrap_or_default();
        Err(Error::Device(sentence.into_owned()))
    }

    fn synchronise(&self) -> Result<()> {
        Ok(())
    }

    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Duration> {
        let start = Instant::now();
        work()?;
        Ok(start.elapsed())
    }
}
