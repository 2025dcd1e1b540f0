//! Runs of the verification's checks on kernels of a library, in a process of their own: a mutant may crash or never
//! end.
//!
//! A task goes to the process as JSON, an answer comes back. What a check's results are on the kernels as they are is
//! measured first, as a hash: results that are the same bits need no comparison with the reference.

use crate::compiler::{Library, Result};
use crate::frames;
use crate::report::ENDLESS;
use coronet::device::Precision;
use coronet::device::cuda::{Architecture, CudaDevice, Driver, EmulatedDriver, Schedule, Tile};
use coronet::graph::Tensor;
use coronet::ops::{Op, all_cases};
use coronet::verify::Check;
use libloading::os::unix::{Library as Loaded, RTLD_GLOBAL, RTLD_LOCAL, RTLD_NOW};
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::ffi::c_void;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What the data of all runs are drawn from.
const SEED: u64 = 1;

/// What is run.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Trial {
    /// A check of an operator, by its number among [`checks`].
    Operator(usize),
    /// The same of a convolution that is left to warpgroups.
    Warpgroups(usize),
    /// One of [`frames::CHECKS`].
    Frames(usize),
}

/// A trial as it goes on kernels as they are; that it passes is the tests' affair.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    trial: Trial,
    /// Of an operator's results on kernels as they are.
    hash: u64,
    /// How long they took.
    pub seconds: f64,
    /// The kernels that computed them.
    pub kernels: Vec<String>,
}

/// What a process is to do.
#[derive(Debug, Serialize, Deserialize)]
pub enum Task {
    /// To measure one of so many equal shares of all runs, on kernels as they are.
    Measure { share: usize, of: usize },
    /// To look for a run that fails, under each of these schedules. On tensor cores each goes with another tile: all
    /// must give the same bits.
    Judge { runs: Vec<Run>, schedules: Vec<usize>, seconds_for_one: f64 },
}

/// A task with what it is done on.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    pub emulator: PathBuf,
    /// Of two kernels of a name the later library's is run.
    pub libraries: Vec<Library>,
    pub task: Task,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    Measured(Vec<Run>),
    Killed(String),
    Survived,
}

impl Order {
    /// Has it done by a process of its own.
    pub fn given_to_a_process(&self) -> Result<Answer> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg("--worker")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stdin = process.stdin.take().ok_or("no pipe")?;
        stdin.write_all(&serde_json::to_vec(self)?)?;
        drop(stdin);
        let output = process.wait_with_output()?;
        if output.status.success() {
            return Ok(serde_json::from_slice(&output.stdout)?);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().last().unwrap_or_default();
        if matches!(self.task, Task::Measure { .. }) {
            return Err(format!("the kernels as they are: {last} ({})", output.status).into());
        }
        match output.status.code() {
            _ if last == ENDLESS => Ok(Answer::Killed(ENDLESS.to_owned())),
            // As `main` ends where something could not even begin; what kernels do ends in signals and panics.
            Some(1) => Err(format!("a judge could not begin: {last}").into()),
            _ => Ok(Answer::Killed(format!("crashed: {}", output.status))),
        }
    }

    /// Does it here.
    pub fn carry_out(&self) -> Result<Answer> {
        let loaded = LoadedKernels::new(self)?;
        match &self.task {
            &Task::Measure { share, of } => Ok(Answer::Measured(loaded.measure(share, of)?)),
            Task::Judge { runs, schedules, seconds_for_one } => {
                let watch = Watch::start();
                for &schedule in schedules {
                    let rig = loaded.rig(schedule);
                    for run in runs {
                        watch.allow(seconds_for_one + 50.0 * run.seconds);
                        if let Some(why) = run.failure(&rig) {
                            return Ok(Answer::Killed(why));
                        }
                    }
                }
                Ok(Answer::Survived)
            }
        }
    }
}

/// Every check that a device takes part in, of the operators' own cases.
fn checks() -> Vec<Check> {
    let cases = all_cases();
    let products = cases.iter().filter(|case| coronet::verify::is_of_products(&case.op));
    let kept = cases.iter().filter(|case| coronet::verify::keeps_maps(case));
    let kept: Vec<Check> = kept.map(|case| Check::Rounded(case.clone(), Precision::Float16)).collect();
    let rounded: Vec<Check> = products
        .flat_map(|case| {
            let below = Precision::ALL.into_iter().filter(|precision| *precision != Precision::Float32);
            below.map(|precision| Check::Rounded(case.clone(), precision))
        })
        .collect();
    let deep = coronet::verify::deep_cases().into_iter().map(|case| Check::Rounded(case, Precision::Float16));
    cases.into_iter().map(Check::Results).chain(rounded).chain(kept).chain(deep).collect()
}

fn hash_of(results: &[Tensor]) -> u64 {
    let mut hasher = DefaultHasher::new();
    results.iter().flat_map(|tensor| tensor.data()).for_each(|number| number.to_bits().hash(&mut hasher));
    hasher.finish()
}

/// What trials run on.
struct Rig {
    device: CudaDevice,
    /// One that leaves convolutions to warpgroups.
    warpgroups: CudaDevice,
    driver: Arc<dyn Driver>,
}

/// Whether a check may run on warpgroups.
fn may_go_to_warpgroups(check: &Check) -> bool {
    matches!(check, Check::Rounded(case, Precision::Float16) if matches!(case.op, Op::Conv(conv) if conv.stride == 1))
}

impl Run {
    fn measure(trial: Trial, rig: &Rig) -> Result<Run> {
        let begun = Instant::now();
        let (hash, kernels) = match trial {
            Trial::Operator(number) => {
                let (results, verdict) = CHECKS.with(|checks| checks[number].results(&rig.device, SEED))?;
                (hash_of(&results), verdict.kernels)
            }
            Trial::Warpgroups(number) => {
                let (results, verdict) = CHECKS.with(|checks| checks[number].results(&rig.warpgroups, SEED))?;
                (hash_of(&results), verdict.kernels)
            }
            Trial::Frames(number) => {
                let check = &frames::CHECKS[number];
                (check.run)(&rig.driver);
                (0, check.kernels.to_vec())
            }
        };
        let kernels = kernels.into_iter().map(str::to_owned).collect();
        Ok(Run { trial, hash, seconds: begun.elapsed().as_secs_f64(), kernels })
    }

    /// Why it fails, if it does.
    fn failure(&self, rig: &Rig) -> Option<String> {
        match self.trial {
            Trial::Operator(number) => CHECKS.with(|checks| self.failure_of_operator(&checks[number], &rig.device)),
            Trial::Warpgroups(number) => {
                CHECKS.with(|checks| self.failure_of_operator(&checks[number], &rig.warpgroups))
            }
            Trial::Frames(number) => {
                let checked = catch_unwind(AssertUnwindSafe(|| (frames::CHECKS[number].run)(&rig.driver)));
                let said = |panic: Box<dyn Any + Send>| match panic.downcast::<String>() {
                    Ok(said) => *said,
                    Err(panic) => panic.downcast::<&str>().map_or("a panic".to_owned(), |said| (*said).to_owned()),
                };
                checked.err().map(said)
            }
        }
    }

    fn failure_of_operator(&self, check: &Check, device: &CudaDevice) -> Option<String> {
        let results = match check.results(device, SEED) {
            Ok((results, _)) => results,
            Err(error) => return Some(error.to_string()),
        };
        if hash_of(&results) == self.hash {
            return None;
        }
        match check.run(device, SEED) {
            Ok(verdict) if verdict.passed() => None,
            Ok(verdict) => Some(format!("{} {} in {check}", verdict.error, verdict.measure.name())),
            Err(error) => Some(error.to_string()),
        }
    }
}

thread_local! {
    static CHECKS: Vec<Check> = checks();
}

/// The libraries of an order, which stay loaded to the end.
struct LoadedKernels {
    emulator: Loaded,
    lists: Vec<*const c_void>,
}

impl LoadedKernels {
    fn new(order: &Order) -> Result<LoadedKernels> {
        let open = |path: &Path, scope| {
            // SAFETY: made by this tool from `kernels/`, with no constructors but the compiler's own.
            unsafe { Loaded::open(Some(path), RTLD_NOW | scope) }
        };
        let emulator = open(&order.emulator, RTLD_GLOBAL)?;
        let mut lists = Vec::new();
        for library in &order.libraries {
            let loaded = open(&library.path, RTLD_LOCAL)?;
            for list in &library.lists {
                // SAFETY: only its address is taken.
                lists.push(unsafe { loaded.get::<*const c_void>(list)? }.as_raw_ptr().cast_const());
            }
            std::mem::forget(loaded);
        }
        Ok(LoadedKernels { emulator, lists })
    }

    /// What a schedule's trials run on: patches and tiles as they are chosen by size, or a tile of its own.
    fn rig(&self, number: usize) -> Rig {
        let device = CudaDevice::new(self.driver(number));
        let warpgroups = device.clone().with_warpgroups(true);
        let device = match number {
            0 => device,
            1 => device.with_tile(Tile::ALL[0]),
            _ => device.with_tile(Tile::ALL[2]),
        };
        Rig { device, warpgroups, driver: Arc::new(self.driver(number)) }
    }

    fn driver(&self, number: usize) -> EmulatedDriver {
        let symbol = |name: &str| {
            // SAFETY: only its address is taken.
            let symbol = unsafe { self.emulator.get::<*const c_void>(name) };
            symbol.map_or(std::ptr::null(), |symbol| symbol.as_raw_ptr().cast_const())
        };
        let schedule = Schedule::ALL[number];
        // SAFETY: compiled from the emulator's own source, and what the build script makes of kernels; never unloaded.
        unsafe { EmulatedDriver::of_library(symbol, &self.lists, Architecture::Sm80, schedule) }
    }

    fn measure(&self, share: usize, of: usize) -> Result<Vec<Run>> {
        let rig = self.rig(0);
        let operators = (0..CHECKS.with(Vec::len)).map(Trial::Operator);
        let is_possible = |number: &usize| CHECKS.with(|checks| may_go_to_warpgroups(&checks[*number]));
        let warpgroups = (0..CHECKS.with(Vec::len)).filter(is_possible).map(Trial::Warpgroups);
        let trials = operators.chain(warpgroups).chain((0..frames::CHECKS.len()).map(Trial::Frames));
        trials.skip(share).step_by(of).map(|trial| Run::measure(trial, &rig)).collect()
    }
}

/// Ends the process when a run computes for longer than it may. What else the machine does is not its fault: only a run
/// that waits for ever is ended by the clock.
struct Watch {
    until: &'static Mutex<Option<Limits>>,
}

struct Limits {
    computed: f64,
    clock: Instant,
}

/// How many times longer than it computes a run may take.
const PATIENCE: f64 = 30.0;

/// Seconds that this process has computed, where the system says.
fn seconds_computed() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // Behind the name in brackets: state, ten more, then user and system time in hundredths of a second.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<f64>().ok();
    Some((next()? + next()?) / 100.0)
}

impl Watch {
    fn start() -> Watch {
        static UNTIL: Mutex<Option<Limits>> = Mutex::new(None);
        std::thread::spawn(|| {
            loop {
                std::thread::sleep(Duration::from_millis(50));
                let is_over = |limits: &Limits| {
                    seconds_computed().is_some_and(|now| now > limits.computed) || Instant::now() > limits.clock
                };
                if UNTIL.lock().is_ok_and(|until| until.as_ref().is_some_and(is_over)) {
                    eprintln!("{ENDLESS}");
                    std::process::abort();
                }
            }
        });
        Watch { until: &UNTIL }
    }

    fn allow(&self, seconds: f64) {
        if let Ok(mut until) = self.until.lock() {
            // Where the system does not say, the clock is all there is.
            let (computed, patience) = seconds_computed().map_or((f64::MAX, 1.0), |now| (now + seconds, PATIENCE));
            *until = Some(Limits { computed, clock: Instant::now() + Duration::from_secs_f64(patience * seconds) });
        }
    }
}
