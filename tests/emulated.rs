//! The CUDA kernels on the emulated GPU: every operator's cases under hostile schedules, and the emulator itself.
#![cfg(feature = "emulator")]

use coronet::Result;
use coronet::device::cuda::{Address, Architecture, CudaDevice, Driver, EmulatedDriver, Launch, Schedule, Tile};
use coronet::device::{Device, Precision};
#[cfg(not(coronet_checked))]
use coronet::ops::Fit;
use coronet::ops::{Case, Op, all_cases};
#[cfg(not(coronet_checked))]
use coronet::verify::layer_cases;
use coronet::verify::{Check, Finding, verify_all};
#[cfg(not(coronet_checked))]
use std::collections::BTreeSet;

/// The precisions of tensor cores.
const ROUNDED: [Precision; 3] = [Precision::Tf32, Precision::Float16, Precision::BFloat16];

fn device(schedule: Schedule) -> CudaDevice {
    CudaDevice::new(EmulatedDriver::new(schedule))
}

#[cfg(not(coronet_checked))] // the checked build counts traffic meanwhile
#[test]
fn kernels_agree_with_the_reference_on_every_case() {
    assert_agreement(all_cases().into_iter().map(Check::Results), &device(Schedule::ALL[0]));
}

#[cfg(not(coronet_checked))] // as above
#[test]
fn tensor_cores_agree_with_the_reference_on_every_convolution_and_no_tile_is_left_out() {
    let checks = convolutions().into_iter().flat_map(|case| ROUNDED.map(|p| Check::Rounded(case.clone(), p)));
    let findings = assert_agreement(checks, &device(Schedule::ALL[0]));
    let kernels: BTreeSet<&str> = findings.iter().flat_map(|f| f.verdict.as_ref().unwrap().kernels.clone()).collect();
    for precision in ROUNDED {
        for (family, tile) in ["conv", "conv_backward", "conv_filter_grad"].into_iter().flat_map(with_tiles) {
            assert!(
                kernels.contains(&*format!("{family}_{precision}_{tile}")),
                "{family} {precision} {tile}: {kernels:?}"
            );
        }
    }
}

/// The tiles that a family of kernels has.
#[cfg(not(coronet_checked))]
fn with_tiles(family: &str) -> Vec<(&str, &'static str)> {
    let largest = (family != "conv_filter_grad").then_some("128x64");
    largest.into_iter().chain(["64x64", "64x32"]).map(|tile| (family, tile)).collect()
}

#[cfg(not(coronet_checked))] // the checked build would take minutes
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

fn assert_agreement(checks: impl Iterator<Item = Check>, device: &CudaDevice) -> Vec<Finding> {
    let checks: Vec<Check> = checks.collect();
    let findings = verify_all(&checks, device, 1, &|_| true).unwrap();
    let failures: Vec<String> = findings.iter().filter(|f| !f.passed()).map(|f| format!("{f:?}")).collect();
    println!("{} checks", checks.len());
    assert!(!checks.is_empty() && failures.is_empty(), "{}", failures.join("\n"));
    findings
}

/// Whether tensor cores can compute it.
fn is_convolution(case: &Case) -> bool {
    matches!(case.op, Op::Conv(_) | Op::ConvInputGrad(_) | Op::ConvFilterGrad(_) | Op::TransposedConv(_))
}

fn convolutions() -> Vec<Case> {
    all_cases().into_iter().filter(is_convolution).collect()
}

/// Every result of a case as bits.
#[cfg(not(coronet_checked))]
fn bits(case: &Case, device: &dyn Device) -> Vec<u32> {
    let (results, _) = Check::Results(case.clone()).results(device, 2).unwrap();
    results.into_iter().flat_map(|result| result.into_data()).map(f32::to_bits).collect()
}

#[cfg(not(coronet_checked))] // as above
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

#[cfg(not(coronet_checked))] // as above
#[test]
fn tensor_cores_give_the_same_bits_under_every_schedule_and_with_every_tile() {
    for precision in ROUNDED {
        let [first, others @ ..] =
            [0, 1, 2].map(|i| device(Schedule::ALL[i]).with_tile(Tile::ALL[i]).with_precision(precision).unwrap());
        // Statistics are merged tile by tile, so their bits depend on it.
        let differ = |case: &&Case| case.fit != Fit::Exact && !case.epilogue.statistics;
        for case in convolutions().iter().filter(differ) {
            let expected = bits(case, &*first);
            for (index, other) in others.iter().enumerate() {
                assert!(expected == bits(case, &**other), "{case} in {precision}: schedule {} differs", index + 1);
            }
        }
    }
}

#[test]
fn tensor_cores_take_the_right_statistics_with_every_tile() {
    for tile in Tile::ALL {
        let cases = convolutions().into_iter().filter(|case| case.epilogue.statistics);
        let checks = cases.flat_map(|case| ROUNDED.map(|precision| Check::Rounded(case.clone(), precision)));
        assert_agreement(checks, &device(Schedule::ALL[2]).with_tile(tile));
    }
}

#[cfg(not(coronet_checked))] // as above
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

#[test]
fn the_race_that_the_documentation_plants_still_has_its_place() {
    let page = include_str!("../docs/kernels.md");
    let plant = page.split("```diff\n").nth(1).unwrap().split("```").next().unwrap();
    let hunk = plant.lines().skip_while(|line| !line.starts_with("@@")).skip(1);
    let before: String =
        hunk.filter_map(|line| line.strip_prefix([' ', '-'])).map(|line| format!("{line}\n")).collect();
    assert!(before.lines().count() > 5);
    assert_eq!(include_str!("../kernels/conv.cu").matches(&before).count(), 1);
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

/// Launches the probe of a last block with some of what orders it; its parts, its counter and its sum.
fn last_block<'a>(driver: &'a EmulatedDriver, order: usize) -> (Result<()>, Numbers<'a>, Numbers<'a>) {
    let zeros = [0.0; 64 * 5];
    let (parts, counter) = (Numbers::new(driver, &zeros), Numbers::new(driver, &zeros[..1]));
    let sum = Numbers::new(driver, &[f32::NAN]);
    let probe = Launch::new("probe_last_block", [5, 1, 1], threads(64)).with(parts.start).with(counter.start);
    (launch(driver, probe.with(sum.start).with_int(order)), counter, sum)
}

#[test]
fn the_last_block_may_read_what_all_have_written_and_leaves_the_counter_as_it_was() {
    for schedule in Schedule::ALL {
        let driver = EmulatedDriver::new(schedule);
        let (done, counter, sum) = last_block(&driver, 1 | 2 | 4);
        done.unwrap();
        assert_eq!((sum.read(), counter.read()[0].to_bits()), (vec![64.0 * 5.0], 0), "{schedule:?}");
    }
}

#[test]
fn an_atomic_operation_outside_device_memory_is_an_error() {
    let driver = EmulatedDriver::new(Schedule::ALL[0]);
    let parts = Numbers::new(&driver, &[0.0; 64]);
    let probe = Launch::new("probe_last_block", ONE, threads(64)).with(parts.start).with(Address(64));
    let problem = problem(&driver, probe.with(parts.start).with_int(7));
    assert!(problem.ends_with("an atomic operation on what is no number in device memory"), "{problem}");
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
    assert!(problem.starts_with(thread), "{problem}");
    let expected = "an asynchronous copy reads 16 bytes where 8 are left of the allocation";
    assert!(problem.ends_with(expected), "{problem}");
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

#[cfg(not(coronet_address))] // that build stops it at the access
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
fn a_recording_runs_its_launches_in_order_and_says_which_has_stopped_it() {
    let driver = EmulatedDriver::new(Schedule::ALL[0]);
    let (x, y) = (Numbers::new(&driver, &[1.0; 64]), Numbers::new(&driver, &[0.0]));
    let sum = Launch::new("probe_block_sum", ONE, threads(64)).with(x.start).with(y.start);
    let wrong = Launch::new("probe_early_end", ONE, threads(64));
    // SAFETY: the probes touch what their headers say.
    let record = |launches: &[&Launch]| unsafe { driver.record(launches) }.unwrap();
    record(&[&sum]).start().unwrap();
    assert_eq!(y.read(), [64.0]);
    let stopped = record(&[&sum, &wrong, &sum]).start().unwrap_err();
    assert_eq!(stopped.launch, Some(1));
    assert!(stopped.error.to_string().contains("the block can never go on"), "{}", stopped.error);
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

/// `probes.cu:LINE` of the line of a probe that holds this text.
#[cfg(any(coronet_checked, coronet_address))]
fn place(probe: &str, text: &str) -> String {
    let head = format!(" {probe}(");
    let lines = include_str!("../kernels/emulator/probes.cu").lines().zip(1..);
    let mut lines = lines.skip_while(|(line, _)| !line.contains(&head));
    let (_, number) = lines.find(|(line, _)| line.contains(text)).unwrap();
    format!("probes.cu:{number}")
}

/// What only the checked build finds; `CORONET_EMULATOR=checked` makes it.
#[cfg(coronet_checked)]
mod checked {
    use super::*;
    use coronet::device::cuda::Traffic;

    #[test]
    fn tensor_cores_are_clean_with_every_tile_on_the_paths_of_other_architectures() {
        // Enough of the cases to have every kind of convolution, padding, stride and ragged edges.
        let cases: Vec<Case> = convolutions().into_iter().step_by(7).collect();
        // The path of sm_80 is run below, and counted.
        let others = [Architecture::Sm75, Architecture::Sm90];
        for (architecture, tile) in others.into_iter().flat_map(|of| Tile::ALL.map(|tile| (of, tile))) {
            let device = CudaDevice::new(EmulatedDriver::of(architecture, Schedule::ALL[2])).with_tile(tile);
            let precisions = device.precisions().into_iter().filter(|precision| *precision != Precision::Float32);
            let checks = precisions.flat_map(|p| cases.iter().map(move |case| Check::Rounded(case.clone(), p)));
            assert_agreement(checks, &device);
        }
    }

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
    fn a_missing_barrier_is_found_with_both_lines() {
        let write = place("probe_missing_barrier", "sums[threadIdx.x / 32] = sum");
        let read = place("probe_missing_barrier", "y[blockIdx.x] = sums[0] + sums[1]");
        let [forward, reversed, _] = &found("probe_missing_barrier", 1, 64)[..] else { unreachable!() };
        let first = format!("kernel probe_missing_barrier, block (0, 0, 0), thread (0, 0, 0): {read}: it reads byte ");
        assert!(
            forward.starts_with(&first) && forward.ends_with("of shared memory, which nobody has written"),
            "{forward}"
        );
        assert!(reversed.starts_with(&first), "{reversed}");
        let last = format!("of shared memory, which thread 32 writes at {write}, with no barrier between them");
        assert!(reversed.ends_with(&last), "{reversed}");
    }

    #[test]
    fn a_refill_before_the_barrier_is_found_with_both_lines() {
        let [refill, read] = ["cp_async16(", "sum += tile"].map(|text| place("probe_early_refill", text));
        let thread = |i: u32| format!("kernel probe_early_refill, block (0, 0, 0), thread ({i}, 0, 0): ");
        let race = "of shared memory, which thread";
        let [forward, reversed, _] = &found("probe_early_refill", 1, 8)[..] else { unreachable!() };
        let expected = format!("{read}: it reads byte 0 {race} 0 writes at {refill}, with no barrier between them");
        assert_eq!(forward, &(thread(1) + &expected));
        let expected = format!("{read}: it reads byte 112 {race} 7 writes at {refill}, with no barrier between them");
        assert_eq!(reversed, &(thread(6) + &expected));
    }

    #[test]
    fn a_race_on_a_struct_that_is_copied_whole_is_found() {
        let line = place("probe_struct_race", "y[threadIdx.x ^ 1] = y[threadIdx.x]");
        let driver = EmulatedDriver::new(Schedule::ALL[0]);
        let y = Numbers::new(&driver, &[0.0; 64]);
        let problem = problem(&driver, Launch::new("probe_struct_race", ONE, threads(2)).with(y.start));
        let race = format!("which thread 0 writes at {line}, with no barrier between them");
        assert!(problem.contains(&line) && problem.ends_with(&race), "{problem}");
    }

    #[test]
    fn a_forgotten_wait_is_found_at_the_copy() {
        let copy = place("probe_forgotten_wait", "cp_async16");
        let expected = format!("{copy}: the kernel ended with asynchronous copies that it never waited for");
        for problem in found("probe_forgotten_wait", 1, 8) {
            assert!(problem.ends_with(&expected), "{problem}");
        }
    }

    #[test]
    fn a_deadlock_names_the_line_of_every_wait() {
        let driver = EmulatedDriver::new(Schedule::ALL[0]);
        let problem = problem(&driver, Launch::new("probe_early_end", ONE, threads(64)));
        let barrier = place("probe_early_end", "__syncthreads");
        let expected = format!("32 threads have ended, 1 wait at __syncthreads at {barrier}, 31 wait at the start");
        assert!(problem.ends_with(&expected), "{problem}");
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
        let line = place("probe_block_race", "*y = 1.0f");
        let race = format!("which thread 0 of another block writes at {line}, with no barrier between them");
        assert!(problem.ends_with(&format!("{line}: it writes byte 0 of an allocation, {race}")), "{problem}");
    }

    #[test]
    fn a_last_block_without_both_fences_and_the_barrier_before_is_found() {
        let (write, read) = (place("probe_last_block", "= 1.0f"), place("probe_last_block", "sum += parts[i]"));
        for schedule in Schedule::ALL {
            let driver = EmulatedDriver::new(schedule);
            for order in [0, 1, 2, 4, 1 | 2, 1 | 4, 2 | 4] {
                let problem = last_block(&driver, order).0.unwrap_err().to_string();
                assert!(problem.contains(&format!("{read}: it reads byte ")), "{order}: {problem}");
                let race = format!(" of another block writes at {write}, with no barrier between them");
                assert!(problem.ends_with(&race), "{order}: {problem}");
            }
        }
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
        let problem = problem(&driver, probe(1));
        assert!(problem.contains(&place("probe_misaligned", "make_float4")), "{problem}");
        assert!(problem.ends_with(": a null or misaligned pointer is used"), "{problem}");
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

    // ---- what kernels ask of memory --------------------------------------------------------------------------------

    /// What a probe's launch has asked of memory; the same under every schedule.
    fn traffic(probe: impl Fn(&EmulatedDriver, Address, Address) -> Result<()>) -> Traffic {
        let counted = Schedule::ALL.map(|schedule| {
            let driver = EmulatedDriver::counting(schedule);
            let (x, y) = (Numbers::new(&driver, &[1.0; 32 * 32]), Numbers::new(&driver, &[0.0; 32 * 4]));
            probe(&driver, x.start, y.start).unwrap();
            *driver.traffic().values().next().unwrap()
        });
        assert_eq!([counted[0]; 3], counted);
        counted[0]
    }

    /// The bank conflicts of one request, after 32 to fill the tile without any.
    fn conflicts(probe: &'static str, stride: usize) -> u64 {
        let traffic = traffic(|driver, _, y| {
            launch(driver, Launch::new(probe, ONE, threads(32)).with_shared(4096).with(y).with_int(stride))
        });
        let wide = u64::from(probe == "probe_wide_banks");
        assert_eq!(traffic.shared_requests, 32 + 1);
        assert_eq!(traffic.shared_wavefronts - traffic.bank_conflicts, 32 + 1 + 3 * wide);
        traffic.bank_conflicts
    }

    #[test]
    fn lanes_conflict_where_they_want_different_words_of_a_bank() {
        let strides = [0, 1, 2, 3, 4, 16, 32];
        assert_eq!(strides.map(|stride| conflicts("probe_banks", stride)), [0, 0, 1, 0, 3, 15, 31]);
    }

    #[test]
    fn quarter_warps_of_sixteen_bytes_a_lane_conflict_among_themselves() {
        // Each of the four quarters: neighbours, one word for all, every second bank, four banks only.
        assert_eq!([4, 0, 8, 16, 28].map(|stride| conflicts("probe_wide_banks", stride)), [0, 0, 4, 12, 0]);
    }

    #[test]
    fn global_requests_touch_as_many_sectors_as_their_stride_asks() {
        let strided = |stride: usize| {
            traffic(|driver, x, y| {
                launch(driver, Launch::new("probe_stride", ONE, threads(32)).with(x).with(y).with_int(stride))
            })
        };
        // The four sectors of the result, and those of the source.
        let sectors = [0, 1, 2, 8, 32].map(|stride| strided(stride).global_sectors - 4);
        assert_eq!(sectors, [1, 4, 8, 32, 32]);
        assert_eq!((strided(8).global_requests, strided(8).global_bytes), (2, 2 * 32 * 4));
        assert_eq!(strided(8).bytes_per_byte(), 36.0 * 32.0 / 256.0);
    }

    #[test]
    fn lanes_that_leave_a_loop_early_leave_its_later_requests_to_the_others() {
        let traffic =
            traffic(|driver, x, y| launch(driver, Launch::new("probe_ragged", ONE, threads(32)).with(x).with(y)));
        let turns: u64 = (1..=32).sum();
        assert_eq!((traffic.global_requests, traffic.global_bytes), (32 + 1, 4 * (turns + 32)));
        assert_eq!(traffic.global_sectors, 32 + 4);
    }

    #[test]
    fn asynchronous_copies_are_requests_to_both_memories() {
        let traffic = traffic(|driver, x, y| {
            let probe = Launch::new("probe_copy", ONE, threads(32)).with_shared(32 * 16);
            launch(driver, probe.with(x).with(y).with_int(24))
        });
        // Written by copies and read again, four wavefronts each; eight lanes copy no bytes but write zeros.
        assert_eq!((traffic.shared_requests, traffic.shared_wavefronts, traffic.bank_conflicts), (2, 8, 0));
        assert_eq!((traffic.global_requests, traffic.global_bytes), (2, (24 + 32) * 16));
        assert_eq!(traffic.global_sectors, 12 + 16);
    }

    #[test]
    fn a_struct_that_is_copied_whole_is_counted_number_by_number() {
        let traffic =
            traffic(|driver, x, y| launch(driver, Launch::new("probe_struct_copy", ONE, threads(32)).with(x).with(y)));
        assert_eq!((traffic.global_requests, traffic.global_bytes), (2 * 3, 2 * 3 * 32 * 4));
        assert_eq!(traffic.global_sectors, 2 * 3 * 12);
    }

    /// What the kernels that do not simply stream ask for: bank conflicts per request to shared memory, and bytes moved
    /// per byte of global memory asked for. All others have no conflict, and at most [`STREAMING`].
    const TRAFFIC: [(&str, f64, f64); 13] = [
        // A warp reads two rows of pixels that lie 32 words apart.
        ("conv", 0.79, 1.0),
        // And weights that lie 8 words apart for neighbouring lanes.
        ("conv_backward", 5.01, 1.0),
        // Merges structs of two numbers that are aligned to one: neighbouring lanes lie two words apart.
        ("instance_norm_grad_bands", 0.85, 1.0),
        // Runs of 8 channels between maps of different widths.
        ("copy_channels", 0.0, 1.38),
        // Windows overlap or step over pixels.
        ("max_pool", 0.0, 1.68),
        ("max_pool_grad", 0.0, 1.21),
        // One thread writes what it or its block merges, and cases have few partial sums.
        ("cross_entropy_merge", 0.0, 1.43),
        ("soft_dice_loss", 0.0, 8.0),
        ("square_sum_merge", 0.0, 4.0),
        // Read one lane in eight of maps of one channel; a gradient also writes the other seven.
        ("cross_entropy_grad", 0.0, 2.37),
        ("cross_entropy_parts", 0.0, 8.0),
        ("soft_dice_sums", 0.0, 7.81),
        // Neighbouring threads read filters that lie a whole tap apart.
        ("temporal_conv_input_grad", 0.0, 4.14),
    ];

    /// A ragged end moves a whole sector; the cases are small.
    const STREAMING: f64 = 1.03;

    /// Eight channels of 16 bits are half a sector, and some cases have no more.
    const HALF_SECTORS: f64 = 1.23;

    fn is_of_16_bits(kernel: &str) -> bool {
        kernel.starts_with("conv_") && kernel.contains("float16_")
    }

    #[test]
    fn kernels_agree_with_the_reference_without_more_conflicts_or_traffic_than_stated() {
        let driver = EmulatedDriver::counting(Schedule::ALL[0]);
        for tile in Tile::ALL {
            let cases = convolutions().into_iter().step_by(7);
            let checks = cases.flat_map(|case| ROUNDED.map(|precision| Check::Rounded(case.clone(), precision)));
            assert_agreement(checks, &CudaDevice::new(driver.clone()).with_tile(tile));
        }
        assert_agreement(all_cases().into_iter().map(Check::Results), &CudaDevice::new(driver.clone()));
        let counted = driver.traffic();
        let mut worse = Vec::new();
        for (kernel, traffic) in &counted {
            let stated = TRAFFIC.iter().find(|(name, ..)| name == kernel);
            let usual = if is_of_16_bits(kernel) { HALF_SECTORS } else { STREAMING };
            let (conflicts, bytes) = stated.map_or((0.0, usual), |&(_, conflicts, bytes)| (conflicts, bytes));
            let found = (traffic.conflicts_per_request(), traffic.bytes_per_byte());
            println!("{kernel:26} {:6.3} conflicts a request, {:6.3} bytes a byte", found.0, found.1);
            if !(found.0 <= conflicts && found.1 <= bytes) {
                worse.push(format!("{kernel}: {found:.3?} above {:?}", (conflicts, bytes)));
            }
        }
        worse.extend(
            TRAFFIC.iter().filter(|(name, ..)| !counted.contains_key(name)).map(|(name, ..)| format!("no {name}")),
        );
        assert!(worse.is_empty(), "{}", worse.join("\n"));
    }
}

/// What only the build with AddressSanitizer finds; `CORONET_EMULATOR=address` makes it. Its report ends the process, so
/// that each wrong launch is a child's.
#[cfg(coronet_address)]
mod address {
    use super::*;
    use std::process::Command;

    /// The first lines of the report on a child process that runs an ignored test of this module.
    fn report_on(test: &str) -> String {
        let mut child = Command::new(std::env::current_exe().unwrap());
        let output = child.args(["--exact", &format!("address::{test}"), "--ignored", "--nocapture"]).output().unwrap();
        assert!(!output.status.success());
        let report = String::from_utf8(output.stderr).unwrap();
        let start = report.find("ERROR: AddressSanitizer").unwrap_or_else(|| panic!("{report}"));
        report[start..].lines().take(3).collect::<Vec<_>>().join("\n")
    }

    fn assert_report(test: &str, access: &str, place: &str) {
        let report = report_on(test);
        let frame = report.lines().last().unwrap();
        assert!(report.contains(access) && frame.contains(" #0 ") && frame.contains(place), "{report}");
    }

    #[test]
    fn a_read_one_number_past_an_allocation_is_found_at_its_line() {
        assert_report("past_an_allocation", "READ of size 4", &place("probe_stride", "y[threadIdx.x] = x["));
    }

    #[test]
    #[ignore = "another test runs it in a process of its own"]
    fn past_an_allocation() {
        let driver = EmulatedDriver::new(Schedule::ALL[0]);
        let (x, y) = (Numbers::new(&driver, &[1.0; 31]), Numbers::new(&driver, &[0.0; 32]));
        let probe = Launch::new("probe_stride", ONE, threads(32)).with(x.start).with(y.start).with_int(1);
        launch(&driver, probe).unwrap();
    }

    #[test]
    fn a_write_into_a_closed_number_is_found_at_its_line() {
        assert_report("into_a_closed_number", "WRITE of size 4", &place("probe_stride", "y[threadIdx.x] = x["));
    }

    #[test]
    #[ignore = "another test runs it in a process of its own"]
    fn into_a_closed_number() {
        let driver = EmulatedDriver::new(Schedule::ALL[0]);
        let (x, y) = (Numbers::new(&driver, &[1.0; 32]), Numbers::new(&driver, &[0.0; 32]));
        // SAFETY: a number of `y`, which nobody copies.
        unsafe { driver.close(y.start.after(17), 1) };
        let probe = |count| Launch::new("probe_stride", ONE, threads(count)).with(x.start).with(y.start).with_int(1);
        launch(&driver, probe(17)).unwrap();
        launch(&driver, probe(18)).unwrap();
    }

    #[test]
    fn a_write_past_shared_memory_is_found_at_its_line() {
        assert_report("past_shared_memory", "WRITE of size 4", &place("probe_overrun", "= 1.0f"));
    }

    #[test]
    #[ignore = "another test runs it in a process of its own"]
    fn past_shared_memory() {
        let driver = EmulatedDriver::new(Schedule::ALL[0]);
        launch(&driver, Launch::new("probe_overrun", ONE, threads(8)).with_shared(8 * 4).with_int(1)).unwrap();
    }
}
