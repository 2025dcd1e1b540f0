//! What only the checked build finds; `CORONET_EMULATOR=checked` makes it.

use super::emulator::{Numbers, ONE, ORDERED, last_block, launch, place, problem, threads, turn};
use super::*;
use coronet::Result;
use coronet::device::cuda::{Address, Launch, Traffic};

#[test]
fn tensor_cores_are_clean_with_every_tile_on_the_path_of_older_architectures_and_where_launches_begin_ahead() {
    // Enough of the cases to have every kind of convolution, padding, stride and ragged edges.
    let cases: Vec<Case> = convolutions().into_iter().step_by(7).collect();
    // The path of sm_80 is run below, and counted. It is that of sm_90, too, where kernels have to wait.
    let older = Tile::ALL.map(|tile| (Architecture::Sm75, tile));
    for (architecture, tile) in older.into_iter().chain([(Architecture::Sm90, Tile::ALL[0])]) {
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
fn a_read_before_the_launches_before_are_done_is_found_with_its_line() {
    let read = place("probe_turn", "early == 1");
    for schedule in Schedule::ALL {
        let problem = turn(&EmulatedDriver::new(schedule), 0, 1).0.unwrap_err().to_string();
        let expected = "the kernel touches device memory before it has waited for the launches before it";
        assert!(problem.ends_with(&format!("{read}: {expected}")), "{problem}");
    }
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
fn blocks_that_wait_for_each_other_without_all_that_orders_them_are_found() {
    let (write, read) = ("probe_some_order", "parts[blockIdx.x * blockDim.x + threadIdx.x] = 1.0f");
    let (write, read) = (place(write, read), place(write, "sum += parts[i]"));
    for schedule in Schedule::ALL {
        for missing in [1, 2, 4, 8, 16] {
            let driver = EmulatedDriver::new(schedule);
            let zeros = [0.0; 64 * 5];
            let (parts, counters) = (Numbers::new(&driver, &zeros), Numbers::new(&driver, &zeros[..2]));
            let sums = Numbers::new(&driver, &zeros[..5]);
            let probe = Launch::new("probe_some_order", [5, 1, 1], threads(64)).cooperative();
            let probe = probe.with(parts.start).with(counters.start).with(sums.start);
            let problem = problem(&driver, probe.with_int(ORDERED & !missing));
            // A thread that does not wait reads before or after others write.
            let both = problem.contains(&read) && problem.contains(&write);
            assert!(both && problem.ends_with(", with no barrier between them"), "without {missing}: {problem}");
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
    let traffic = traffic(|driver, x, y| launch(driver, Launch::new("probe_ragged", ONE, threads(32)).with(x).with(y)));
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
    ("max_pool_grad", 0.0, 1.21),
    // A filter of one output is one lane in eight.
    ("multi_kernel_pooling", 0.0, 1.82),
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
    // All that are counted at once add up.
    let driver = EmulatedDriver::counting(Schedule::ALL[0]);
    let on_tensor_cores = |tile: Tile| {
        let cases = convolutions().into_iter().step_by(7);
        let checks = cases.flat_map(|case| ROUNDED.map(|precision| Check::Rounded(case.clone(), precision)));
        assert_agreement(checks, &CudaDevice::new(driver.clone()).with_tile(tile));
    };
    std::thread::scope(|scope| {
        scope.spawn(|| Tile::ALL.into_iter().for_each(on_tensor_cores));
        assert_agreement(all_cases().into_iter().map(Check::Results), &CudaDevice::new(driver.clone()));
    });
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
    worse
        .extend(TRAFFIC.iter().filter(|(name, ..)| !counted.contains_key(name)).map(|(name, ..)| format!("no {name}")));
    assert!(worse.is_empty(), "{}", worse.join("\n"));
}
