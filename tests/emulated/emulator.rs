//! The emulator: what it promises, and what it finds in any build.

use coronet::Result;
use coronet::device::cuda::{Address, Driver, EmulatedDriver, Launch, Schedule};

/// Numbers in device memory for as long as a test needs them.
pub struct Numbers<'a> {
    driver: &'a EmulatedDriver,
    pub start: Address,
    len: usize,
}

impl Numbers<'_> {
    pub fn new<'a>(driver: &'a EmulatedDriver, numbers: &[f32]) -> Numbers<'a> {
        let start = driver.allocate(size_of_val(numbers)).unwrap();
        // SAFETY: just allocated.
        unsafe { driver.upload(start, numbers) }.unwrap();
        Numbers { driver, start, len: numbers.len() }
    }

    pub fn read(&self) -> Vec<f32> {
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
pub fn launch(driver: &EmulatedDriver, launch: Launch) -> Result<()> {
    // SAFETY: the probes touch what their headers say; those that would overrun memory are stopped before.
    unsafe { driver.launch(&launch) }
}

pub fn problem(driver: &EmulatedDriver, probe: Launch) -> String {
    launch(driver, probe).unwrap_err().to_string()
}

pub const ONE: [u32; 3] = [1, 1, 1];

pub fn threads(count: u32) -> [u32; 3] {
    [count, 1, 1]
}

#[test]
fn atomic_operations_add_up_and_at_random_others_come_before_them() {
    let outdated = Schedule::ALL.map(|schedule| {
        let driver = EmulatedDriver::new(schedule);
        let (number, y) = (Numbers::new(&driver, &[0.0]), Numbers::new(&driver, &[f32::NAN; 64]));
        let probe = Launch::new("probe_outdated_look", ONE, threads(64)).with(number.start).with(y.start);
        launch(&driver, probe).unwrap();
        assert_eq!(number.read()[0].to_bits(), 64, "{schedule:?}");
        y.read().iter().sum::<f32>()
    });
    assert!(outdated[..2] == [0.0; 2] && outdated[2] > 0.0, "{outdated:?}");
}

#[test]
fn the_least_number_is_left_whatever_the_order() {
    for schedule in Schedule::ALL {
        let driver = EmulatedDriver::new(schedule);
        let numbers: Vec<f32> = (0..64).map(|i| f32::from_bits(100 + (i * 37 + 11) % 64)).collect();
        let (x, y) = (Numbers::new(&driver, &numbers), Numbers::new(&driver, &[f32::from_bits(1000)]));
        let probe = Launch::new("probe_least", ONE, threads(64)).with(x.start).with(y.start);
        launch(&driver, probe).unwrap();
        assert_eq!(y.read()[0].to_bits(), 100, "{schedule:?}");
    }
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

/// How a launch goes that asks for `fetched` bytes of 32 and is `early`, as `probe_turn` has it; what it has counted and copied.
pub fn turn(driver: &EmulatedDriver, fetched: usize, early: usize) -> (Result<()>, u32, Vec<f32>) {
    let (x, y) = (Numbers::new(driver, &[2.0; 8]), Numbers::new(driver, &[0.0; 8]));
    let counter = Numbers::new(driver, &[0.0]);
    let probe = Launch::new("probe_turn", ONE, threads(8)).with_shared(8 * 16).with(x.start).with(y.start);
    let done = launch(driver, probe.with(counter.start).with_int(fetched).with_int(early));
    (done, counter.read()[0].to_bits(), y.read())
}

#[test]
fn a_kernel_waits_for_the_launches_before_it_and_has_nothing_but_fetched_before() {
    for schedule in Schedule::ALL {
        let driver = EmulatedDriver::new(schedule);
        let problem = |fetched, early| turn(&driver, fetched, early).0.unwrap_err().to_string();
        let (done, count, y) = turn(&driver, 32, 0);
        done.unwrap();
        assert_eq!((count, y), (8, vec![2.0; 8]));
        for early in [2, 3] {
            let problem = problem(0, early);
            let expected = "the kernel touches device memory before it has waited for the launches before it";
            assert!(problem.ends_with(expected), "{early}: {problem}");
        }
        let never = problem(0, 4);
        assert!(never.ends_with("the kernel ended without having waited for the launches before it"), "{never}");
        let twice = problem(32, 5);
        assert_eq!(twice, "kernel probe_turn does not fetch each line of 32 bytes once");
        // The allocation's first line is there, and no second.
        let outside = problem(129, 0);
        assert!(outside.ends_with("a line is to be fetched that does not begin in device memory"), "{outside}");
    }
}

/// Launches the probe of a last block with some of what orders it; its parts, its counter and its sum.
pub fn last_block<'a>(driver: &'a EmulatedDriver, order: usize) -> (Result<()>, Numbers<'a>, Numbers<'a>) {
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

/// A cooperative launch of five blocks that wait for each other: how it went, and the sum that each has found.
fn all_blocks(driver: &EmulatedDriver, probe: Launch) -> (Result<()>, Vec<f32>) {
    let zeros = [0.0; 64 * 5];
    let (parts, counters) = (Numbers::new(driver, &zeros), Numbers::new(driver, &zeros[..2]));
    let sums = Numbers::new(driver, &[f32::NAN; 5]);
    let mut done = Ok(());
    // The counters serve launch after launch.
    for _ in 0..2 {
        let probe = probe.clone().cooperative().with(parts.start).with(counters.start).with(sums.start);
        done =
            done.and(launch(driver, if probe.kernel == "probe_all_blocks" { probe } else { probe.with_int(ORDERED) }));
    }
    (done, sums.read())
}

/// All that orders blocks which wait for each other, as `probe_some_order` has it.
pub const ORDERED: usize = 1 | 2 | 4 | 8 | 16;

#[test]
fn blocks_that_are_there_at_once_may_wait_for_each_other() {
    for schedule in Schedule::ALL {
        let driver = EmulatedDriver::new(schedule);
        for probe in ["probe_all_blocks", "probe_some_order"] {
            let (done, sums) = all_blocks(&driver, Launch::new(probe, [5, 1, 1], threads(64)));
            done.unwrap();
            assert_eq!(sums, [64.0 * 5.0; 5], "{probe}, {schedule:?}");
        }
    }
}

#[test]
fn blocks_that_wait_although_others_need_not_be_there_or_for_what_nobody_does_are_errors() {
    let driver = EmulatedDriver::new(Schedule::ALL[2]);
    let counter = Numbers::new(&driver, &[0.0]);
    let probe = |blocks| Launch::new("probe_endless_wait", [blocks, 1, 1], threads(32)).with(counter.start);
    let alone = problem(&driver, probe(1));
    assert!(alone.contains("a block waits for others in a launch whose blocks need not be there at once"), "{alone}");
    let endless = problem(&driver, probe(2).cooperative());
    let waits = ["1 wait at a number that another block changes", "31 wait at __syncthreads"];
    assert!(endless.contains("the block can never go on") && waits.iter().all(|w| endless.contains(w)), "{endless}");
    let most = driver.blocks_at_once("probe_endless_wait", 32, 0);
    let many = problem(&driver, probe(most as u32 + 1).cooperative());
    assert!(many.ends_with("25 blocks that are to be there at once, the most are 24"), "{many}");
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
pub fn place(probe: &str, text: &str) -> String {
    let head = format!(" {probe}(");
    let lines = include_str!("../../kernels/emulator/probes.cu").lines().zip(1..);
    let mut lines = lines.skip_while(|(line, _)| !line.contains(&head));
    let (_, number) = lines.find(|(line, _)| line.contains(text)).unwrap();
    format!("probes.cu:{number}")
}
