//! The CUDA kernels on the emulated GPU: every operator's cases under hostile schedules, and the emulator itself.
#![cfg(feature = "emulator")]

use coronet::Result;
use coronet::device::cuda::{Address, Architecture, CudaDevice, Driver, EmulatedDriver, Launch, Schedule, Tile};
use coronet::device::{Device, Precision};
use coronet::ops::{Case, Fit, Op, all_cases};
use coronet::verify::{Check, layer_cases, verify_all};

/// The precisions of tensor cores.
const ROUNDED: [Precision; 3] = [Precision::Tf32, Precision::Float16, Precision::BFloat16];

fn device(schedule: Schedule) -> CudaDevice {
    CudaDevice::new(EmulatedDriver::new(schedule))
}

#[test]
fn kernels_agree_with_the_reference_on_every_case() {
    assert_agreement(all_cases().into_iter().map(Check::Results), &device(Schedule::ALL[0]));
}

#[test]
fn tensor_cores_agree_with_the_reference_on_every_convolution() {
    // With the largest tile; below, the others give the same bits.
    let device = device(Schedule::ALL[0]).with_tile(Tile::ALL[0]);
    let checks = convolutions().into_iter().flat_map(|case| ROUNDED.map(|p| Check::Rounded(case.clone(), p)));
    assert_agreement(checks, &device);
}

#[cfg(not(coronet_checked))] // millions of weights a layer: the checked build would take minutes
#[test]
fn kernels_agree_with_the_reference_on_every_layer_of_the_network() {
    assert_agreement(layer_cases().unwrap().into_iter().map(Check::Results), &device(Schedule::ALL[0]));
}

#[cfg(not(coronet_checked))] // as above
#[test]
fn tensor_cores_agree_with_the_reference_on_every_layer_of_the_network() {
    // Whole numbers: what can go wrong with rounded ones does not depend on the layer, and they take twice as long.
    let exact = layer_cases().unwrap().into_iter().filter(|case| case.fit == Fit::Exact && is_convolution(case));
    let checks = exact.flat_map(|case| ROUNDED.map(|precision| Check::Rounded(case.clone(), precision)));
    assert_agreement(checks, &device(Schedule::ALL[1]));
}

fn assert_agreement(checks: impl Iterator<Item = Check>, device: &CudaDevice) {
    let checks: Vec<Check> = checks.collect();
    let findings = verify_all(&checks, device, 1, &|_| true).unwrap();
    let failures: Vec<String> = findings.iter().filter(|f| !f.passed()).map(|f| format!("{f:?}")).collect();
    println!("{} checks", checks.len());
    assert!(!checks.is_empty() && failures.is_empty(), "{}", failures.join("\n"));
}

/// Whether tensor cores can compute it.
fn is_convolution(case: &Case) -> bool {
    matches!(case.op, Op::Conv(_) | Op::ConvInputGrad(_) | Op::ConvFilterGrad(_) | Op::TransposedConv(_))
}

fn convolutions() -> Vec<Case> {
    all_cases().into_iter().filter(is_convolution).collect()
}

/// Every result of a case as bits.
fn bits(case: &Case, device: &dyn Device) -> Vec<u32> {
    let (results, _) = Check::Results(case.clone()).results(device, 2).unwrap();
    results.into_iter().flat_map(|result| result.into_data()).map(f32::to_bits).collect()
}

#[test]
fn results_have_the_same_bits_under_every_schedule() {
    let [first, others @ ..] = Schedule::ALL.map(device);
    for case in all_cases() {
        let expected = bits(&case, &first);
        for (index, other) in others.iter().enumerate() {
            assert!(expected == bits(&case, other), "{case}: schedule {} differs", index + 1);
        }
    }
}

#[test]
fn tensor_cores_give_the_same_bits_under_every_schedule_and_with_every_tile() {
    for precision in ROUNDED {
        let [first, others @ ..] =
            [0, 1, 2].map(|i| device(Schedule::ALL[i]).with_tile(Tile::ALL[i]).with_precision(precision).unwrap());
        for case in convolutions().iter().filter(|case| case.fit != Fit::Exact) {
            let expected = bits(case, &*first);
            for (index, other) in others.iter().enumerate() {
                assert!(expected == bits(case, &**other), "{case} in {precision}: schedule {} differs", index + 1);
            }
        }
    }
}

#[test]
fn the_paths_of_all_architectures_give_the_same_bits() {
    let [old, middle, new] =
        Architecture::ALL.map(|of| CudaDevice::new(EmulatedDriver::of(of, Schedule::ALL[of as usize % 3])));
    for (precision, device) in ROUNDED.iter().zip([&middle, &old, &middle]) {
        assert!(device.precisions().contains(precision));
    }
    assert_eq!(old.precisions(), [Precision::Float32, Precision::Float16]);
    for precision in new.precisions() {
        let at = |device: &CudaDevice| device.with_precision(precision).unwrap();
        for case in convolutions().iter().filter(|case| case.fit != Fit::Exact) {
            let expected = bits(case, &*at(&middle));
            assert!(expected == bits(case, &*at(&new)), "{case} in {precision}");
            assert!(!old.precisions().contains(&precision) || expected == bits(case, &*at(&old)), "{case}");
        }
    }
}

#[test]
fn a_precision_that_an_architecture_lacks_is_an_error_that_says_which_has_it() {
    let turing = CudaDevice::new(EmulatedDriver::of(Architecture::Sm75, Schedule::ALL[0]));
    let problem = turing.with_precision(Precision::BFloat16).err().unwrap().to_string();
    assert_eq!(problem, "emulated GPU (sm_75), one thread cannot multiply in bfloat16: that needs sm_80 or newer");
}

// ---- the emulator itself -------------------------------------------------------------------------------------------

/// Numbers in device memory for as long as a test needs them.
struct Numbers<'a> {
    driver: &'a EmulatedDriver,
    start: Address,
    len: usize,
}

impl Numbers<'_> {
    fn new<'a>(driver: &'a EmulatedDriver, numbers: &[f32]) -> Numbers<'a> {
        let start = driver.allocate(size_of_val(numbers)).unwrap();
        // SAFETY: just allocated.
        unsafe { driver.upload(start, numbers) }.unwrap();
        Numbers { driver, start, len: numbers.len() }
    }

    fn read(&self) -> Vec<f32> {
        let mut numbers = vec![0.0; self.len];
        // SAFETY: as many as were allocated.
        unsafe { self.driver.download(self.start, &mut numbers) }.unwrap();
        numbers
    }
}

impl Drop for Numbers<'_> {
    fn drop(&mut self) {
        // SAFETY: allocated in `new`; launches are done when they return.
        unsafe { self.driver.release(self.start) }
    }
}

/// Launches a probe whose arguments the test has matched to its header.
fn launch(driver: &EmulatedDriver, launch: Launch) -> Result<()> {
    // SAFETY: the probes touch what their headers say; those that would overrun memory are stopped before.
    unsafe { driver.launch(&launch) }
}

fn problem(driver: &EmulatedDriver, probe: Launch) -> String {
    launch(driver, probe).unwrap_err().to_string()
}

const ONE: [u32; 3] = [1, 1, 1];

fn threads(count: u32) -> [u32; 3] {
    [count, 1, 1]
}

#[test]
fn barriers_and_shuffles_give_the_same_sums_under_every_schedule() {
    for schedule in Schedule::ALL {
        let driver = EmulatedDriver::new(schedule);
        let x: Vec<f32> = (0..64 * 5).map(|i| i as f32).collect();
        let (x, y) = (Numbers::new(&driver, &x), Numbers::new(&driver, &[f32::NAN; 5]));
        let probe = Launch::new("probe_block_sum", [5, 1, 1], threads(64));
        launch(&driver, probe.with(x.start).with(y.start)).unwrap();
        let sums: Vec<f32> = (0..5).map(|block| (64 * 64 * block + 63 * 32) as f32).collect();
        assert_eq!(y.read(), sums, "{schedule:?}");
    }
}

#[cfg(not(coronet_checked))] // the checked build stops it before
#[test]
fn a_missing_barrier_shows_under_some_schedule() {
    let right = Schedule::ALL.map(|schedule| {
        let driver = EmulatedDriver::new(schedule);
        let (x, y) = (Numbers::new(&driver, &[1.0; 64]), Numbers::new(&driver, &[0.0]));
        launch(&driver, Launch::new("probe_missing_barrier", ONE, threads(64)).with(x.start).with(y.start)).unwrap();
        y.read()[0] == 64.0
    });
    assert!(right.contains(&false), "{right:?}");
}

#[test]
fn asynchronous_copies_arrive_by_the_wait_and_zeros_where_they_are_not_valid() {
    for schedule in Schedule::ALL {
        let driver = EmulatedDriver::new(schedule);
        let x: Vec<f32> = (0..4 * 8).map(|i| i as f32).collect();
        // Only five quads are there to be read.
        let (x, y) = (Numbers::new(&driver, &x[..4 * 5]), Numbers::new(&driver, &x));
        let probe = Launch::new("probe_copy", ONE, threads(8)).with_shared(8 * 16);
        launch(&driver, probe.with(x.start).with(y.start).with_int(5)).unwrap();
        let quad = |i: usize| (0..4).map(move |j| if i < 5 { (4 * i + j) as f32 } else { 0.0 });
        assert_eq!(y.read(), (0..8).flat_map(|i| quad(i ^ 1)).collect::<Vec<_>>(), "{schedule:?}");
    }
}

#[cfg(not(coronet_checked))] // the checked build stops it before
#[test]
fn reading_a_copy_before_the_wait_gives_nan_when_copies_are_late() {
    let driver = EmulatedDriver::new(Schedule::ALL[0]);
    let (x, y) = (Numbers::new(&driver, &[1.0; 32]), Numbers::new(&driver, &[0.0; 32]));
    let probe = Launch::new("probe_early_read", ONE, threads(8)).with_shared(8 * 16);
    launch(&driver, probe.with(x.start).with(y.start)).unwrap();
    assert!(y.read().iter().all(|v| v.is_nan()));
}

#[cfg(not(coronet_checked))] // the checked build stops it before
#[test]
fn shared_memory_starts_as_nan_in_every_block() {
    let driver = EmulatedDriver::new(Schedule::ALL[0]);
    let y = Numbers::new(&driver, &[0.0; 8]);
    launch(&driver, Launch::new("probe_unwritten", [2, 1, 1], threads(8)).with_shared(8 * 4).with(y.start)).unwrap();
    assert!(y.read().iter().all(|v| v.is_nan()));
}

#[test]
fn a_copy_past_an_allocation_is_an_error_that_names_the_thread() {
    let driver = EmulatedDriver::new(Schedule::ALL[0]);
    let (x, y) = (Numbers::new(&driver, &[1.0; 4 * 5 + 2]), Numbers::new(&driver, &[0.0; 32]));
    let probe = Launch::new("probe_copy", ONE, threads(8)).with_shared(8 * 16);
    let problem = problem(&driver, probe.with(x.start).with(y.start).with_int(8));
    let thread = "kernel probe_copy, block (0, 0, 0), thread (5, 0, 0): ";
    assert_eq!(problem, format!("{thread}an asynchronous copy reads 16 bytes where 8 are left of the allocation"));
}

#[test]
fn copies_that_nobody_waits_for_are_an_error() {
    let driver = EmulatedDriver::new(Schedule::ALL[1]);
    let x = Numbers::new(&driver, &[1.0; 32]);
    let probe = Launch::new("probe_forgotten_wait", ONE, threads(8)).with_shared(8 * 16).with(x.start);
    assert!(problem(&driver, probe).contains("asynchronous copies that it never waited for"));
}

#[test]
fn too_much_shared_memory_is_an_error() {
    let driver = EmulatedDriver::new(Schedule::ALL[0]);
    let y = Numbers::new(&driver, &[0.0; 8]);
    let probe = Launch::new("probe_unwritten", ONE, threads(8)).with_shared(100 << 10).with(y.start);
    assert!(problem(&driver, probe).contains("asks for 102400 bytes of shared memory, the most are 101376"));
    let probe = Launch::new("probe_large_array", ONE, threads(8)).with(y.start);
    assert!(problem(&driver, probe).contains("declares too much shared memory"));
}

#[test]
fn writing_past_shared_memory_is_an_error() {
    let driver = EmulatedDriver::new(Schedule::ALL[0]);
    let probe = || Launch::new("probe_overrun", ONE, threads(8)).with_shared(8 * 4);
    launch(&driver, probe().with_int(0)).unwrap();
    assert!(problem(&driver, probe().with_int(1)).contains("wrote outside its shared memory in block (0, 0, 0)"));
}

#[test]
fn a_barrier_that_some_threads_never_reach_is_an_error() {
    for schedule in Schedule::ALL {
        let driver = EmulatedDriver::new(schedule);
        let problem = problem(&driver, Launch::new("probe_early_end", ONE, threads(64)));
        assert!(problem.contains("the block can never go on: "), "{problem}");
        assert!(problem.contains("__syncthreads"), "{problem}");
    }
}

#[test]
fn a_warp_that_waits_in_two_places_is_an_error() {
    let driver = EmulatedDriver::new(Schedule::ALL[0]);
    let y = Numbers::new(&driver, &[0.0; 32]);
    let problem = problem(&driver, Launch::new("probe_divergence", ONE, threads(32)).with(y.start));
    assert!(problem.contains("__shfl_sync") && problem.contains("__shfl_xor_sync"), "{problem}");
}

#[test]
fn a_launch_that_failed_leaves_the_emulator_usable() {
    let driver = EmulatedDriver::new(Schedule::ALL[2]);
    for _ in 0..3 {
        problem(&driver, Launch::new("probe_early_end", ONE, threads(64)));
        let (x, y) = (Numbers::new(&driver, &[1.0; 64]), Numbers::new(&driver, &[0.0]));
        launch(&driver, Launch::new("probe_block_sum", ONE, threads(64)).with(x.start).with(y.start)).unwrap();
        assert_eq!(y.read(), [64.0]);
    }
}

#[test]
fn launches_that_no_gpu_takes_are_errors() {
    let driver = EmulatedDriver::new(Schedule::ALL[0]);
    assert_eq!(problem(&driver, Launch::new("no_such", ONE, ONE)), "there is no kernel no_such");
    let problem_of = |block| problem(&driver, Launch::new("probe_early_end", ONE, block));
    assert!(problem_of([65, 1, 1]).contains("65 threads a block, the most are 64"));
    assert!(problem(&driver, Launch::new("probe_early_end", [0, 1, 1], ONE)).contains("without threads"));
}

/// What only the checked build finds; `CORONET_EMULATOR=checked` makes it.
#[cfg(coronet_checked)]
mod checked {
    use super::*;

    /// The problem of a probe that reads `x` and writes `y`, the same under every schedule but for the threads named.
    fn found(probe: &'static str, blocks: u32, count: u32) -> Vec<String> {
        let driver = |schedule| EmulatedDriver::new(schedule);
        let find = |driver: EmulatedDriver| {
            let (x, y) = (Numbers::new(&driver, &[1.0; 256]), Numbers::new(&driver, &[0.0; 256]));
            let probe = Launch::new(probe, [blocks, 1, 1], threads(count)).with_shared(1024);
            problem(&driver, probe.with(x.start).with(y.start))
        };
        Schedule::ALL.map(driver).map(find).into()
    }

    #[test]
    fn a_missing_barrier_is_found() {
        for problem in found("probe_missing_barrier", 1, 64) {
            assert!(problem.contains("of shared memory, which"), "{problem}");
        }
    }

    #[test]
    fn a_refill_before_the_barrier_is_found() {
        for problem in found("probe_early_refill", 1, 8) {
            assert!(problem.contains("of shared memory, which thread"), "{problem}");
            assert!(problem.contains("with no barrier between them"), "{problem}");
        }
    }

    #[test]
    fn reading_shared_memory_that_nobody_has_written_is_found() {
        let driver = EmulatedDriver::new(Schedule::ALL[0]);
        let y = Numbers::new(&driver, &[0.0; 8]);
        let probe = Launch::new("probe_unwritten", ONE, threads(8)).with_shared(8 * 4).with(y.start);
        assert!(problem(&driver, probe).contains("it reads byte 0 of shared memory, which nobody has written"));
    }

    #[test]
    fn blocks_that_write_the_same_number_to_one_place_are_found() {
        let driver = EmulatedDriver::new(Schedule::ALL[0]);
        let y = Numbers::new(&driver, &[0.0]);
        let problem = problem(&driver, Launch::new("probe_block_race", [2, 1, 1], ONE).with(y.start));
        assert!(problem.contains("byte 0 of an allocation, which thread 0 of another block writes"), "{problem}");
    }

    #[test]
    fn a_warp_is_ordered_by_syncwarp_alone() {
        let driver = EmulatedDriver::new(Schedule::ALL[2]);
        let y = Numbers::new(&driver, &[1.0; 32]);
        launch(&driver, Launch::new("probe_warp_order", ONE, threads(32)).with(y.start)).unwrap();
        let problem = problem(&driver, Launch::new("probe_warp_race", ONE, threads(32)).with(y.start));
        assert!(problem.contains("of shared memory, which"), "{problem}");
    }

    #[test]
    fn a_misaligned_access_is_found() {
        let driver = EmulatedDriver::new(Schedule::ALL[0]);
        let y = Numbers::new(&driver, &[0.0; 64]);
        let probe = |offset: usize| Launch::new("probe_misaligned", ONE, ONE).with(y.start).with_int(offset);
        launch(&driver, probe(4)).unwrap();
        // clang may write the four numbers in two halves.
        assert!(problem(&driver, probe(1)).ends_with("bytes is not aligned to its size"));
    }

    #[test]
    fn an_overflow_is_found_with_its_line() {
        let driver = EmulatedDriver::new(Schedule::ALL[0]);
        let y = Numbers::new(&driver, &[0.0]);
        let probe = |x: usize| Launch::new("probe_overflow", ONE, ONE).with(y.start).with_int(x);
        launch(&driver, probe(3)).unwrap();
        let problem = problem(&driver, probe(1 << 20));
        assert!(problem.contains("thread (0, 0, 0): probes.cu:"), "{problem}");
        assert!(problem.ends_with(": a product of integers overflows"), "{problem}");
    }
}
