//! Convolutions that the tensor cores of sm_90a compute by themselves, and what the emulator finds wrong with such kernels.

use super::emulator::{Numbers, ONE, launch, threads};
use super::*;
use coronet::Result;
use coronet::device::cuda::Launch;
use coronet::verify::deep_cases;

/// The path of sm_90 with warpgroups.
fn warpgroups(schedule: Schedule) -> CudaDevice {
    CudaDevice::new(EmulatedDriver::of(Architecture::Sm90, schedule)).with_warpgroups(true)
}

/// The cases that may go to them, the others are run elsewhere; and some of many channels.
fn cases() -> Vec<Case> {
    let forward = convolutions().into_iter().filter(|case| matches!(case.op, Op::Conv(conv) if conv.stride == 1));
    deep_cases().into_iter().chain(forward).collect()
}

/// How many of the findings are of kernels of warpgroups, by kernel.
fn by_kernel(findings: &[Finding]) -> std::collections::BTreeMap<&str, usize> {
    let mut counts = std::collections::BTreeMap::new();
    let kernels = findings.iter().flat_map(|f| f.verdict.as_ref().unwrap().kernels.clone());
    kernels.filter(|kernel| kernel.starts_with("conv_warpgroups")).for_each(|kernel| {
        *counts.entry(kernel).or_default() += 1;
    });
    counts
}

#[cfg(not(coronet_checked))] // the checked build runs some of them
#[test]
fn warpgroups_agree_with_the_reference_on_every_convolution_and_no_kernel_is_left_out() {
    for schedule in [Schedule::ALL[0], Schedule::ALL[2]] {
        let checks = cases().into_iter().map(|case| Check::Rounded(case, Precision::Float16));
        let findings = assert_agreement(checks, &warpgroups(schedule));
        let counts = by_kernel(&findings);
        assert!(counts.len() == 4 && counts.values().sum::<usize>() > 60, "{counts:?}");
    }
}

#[cfg(coronet_checked)]
#[test]
fn warpgroups_are_clean_and_meet_in_no_bank() {
    for (number, schedule) in Schedule::ALL.into_iter().enumerate() {
        let driver = EmulatedDriver::of(Architecture::Sm90, schedule).that_counts();
        let some = cases().into_iter().skip(number).step_by(5).chain(deep_cases().into_iter().skip(number).step_by(2));
        let some = some.map(|case| Check::Rounded(case, Precision::Float16));
        let findings = assert_agreement(some, &CudaDevice::new(driver.clone()).with_warpgroups(true));
        assert!(!by_kernel(&findings).is_empty());
        for (kernel, traffic) in
            driver.traffic().into_iter().filter(|(kernel, _)| kernel.starts_with("conv_warpgroups"))
        {
            println!("{kernel}: {} conflicts, {:.3} bytes a byte", traffic.bank_conflicts, traffic.bytes_per_byte());
            assert_eq!(traffic.bank_conflicts, 0, "{kernel}, {schedule:?}");
        }
    }
}

#[cfg(not(coronet_checked))] // the checked build would take minutes
#[test]
fn warpgroups_agree_with_the_reference_on_every_layer_of_the_network() {
    let exact = layer_cases().unwrap().into_iter().filter(|case| case.fit == Fit::Exact && is_convolution(case));
    let forward = exact.filter(|case| matches!(case.op, Op::Conv(conv) if conv.stride == 1));
    let checks = forward.map(|case| Check::Rounded(case, Precision::Float16));
    let counts = by_kernel(&assert_agreement(checks, &warpgroups(Schedule::ALL[1]))).into_values().sum::<usize>();
    assert!(counts > 5, "{counts}");
}

#[cfg(not(coronet_checked))] // as above
#[test]
fn warpgroups_give_the_same_bits_under_every_schedule() {
    let [first, others @ ..] =
        Schedule::ALL.map(|schedule| warpgroups(schedule).with_precision(Precision::Float16).unwrap());
    for case in cases().iter().filter(|case| case.fit != Fit::Exact).step_by(3) {
        let expected = bits(case, &*first);
        for (index, other) in others.iter().enumerate() {
            assert!(expected == bits(case, &**other), "{case}: schedule {} differs", index + 1);
        }
    }
}

#[cfg(not(coronet_checked))] // as above
#[test]
fn a_frame_by_warpgroups_is_that_of_the_other_kernels() {
    use coronet::model::{CeNet, Config, Stem};
    use coronet::program::{Placement, Program};
    use coronet::verify::relative_l2;
    use coronet::weights::Weights;

    let config = Config::new(16, Stem::Half, 1, 1).unwrap();
    let network = CeNet::build(config, 1, 96, 96).unwrap();
    let weights = Weights::seeded(config, 5).unwrap();
    let elements = network.graph.shape(network.window).elements();
    let window: Vec<f32> = (0..elements).map(|i| (i as f32 * 0.7).sin()).collect();
    let probability = |by_warpgroups: bool, precision: Precision| {
        let device = warpgroups(Schedule::ALL[2]).with_warpgroups(by_warpgroups).with_precision(precision).unwrap();
        let program = Program::lower(&network.graph, &[network.probability], &*device, Placement::Shared).unwrap();
        let mut session = device.load(program).unwrap();
        weights.write_into(&network, |id, numbers| session.write(id, numbers)).unwrap();
        session.write(network.window, &window).unwrap();
        // Blocks count on from run to run.
        session.run().unwrap();
        session.run().unwrap();
        let steps = 0..session.program().steps().len();
        let kernels: Vec<&str> = steps.flat_map(|step| session.kernels(step)).collect();
        let count = kernels.iter().filter(|kernel| kernel.starts_with("conv_warpgroups")).count();
        (count, session.read(network.probability).unwrap().into_data())
    };
    let exact: Vec<f64> = probability(true, Precision::Float32).1.into_iter().map(f64::from).collect();
    let ((none, usual), (many, mine)) = (probability(false, Precision::Float16), probability(true, Precision::Float16));
    assert!(none == 0 && many > 20, "{none}, {many}");
    let [usual, mine] = [usual, mine].map(|got| relative_l2(&got, &exact));
    assert!(mine < 2.0 * usual && mine > 0.0, "{mine:e}, else {usual:e}");
}

#[test]
fn an_architecture_without_warpgroups_says_so() {
    let ampere = device(Schedule::ALL[0]);
    let problem = ampere.by_warpgroups().err().unwrap().to_string();
    assert!(
        problem.starts_with("emulated GPU (sm_80), one thread has no warpgroups: that needs an sm_90"),
        "{problem}"
    );
    let hopper = CudaDevice::new(EmulatedDriver::of(Architecture::Sm90, Schedule::ALL[0]));
    let described = hopper.by_warpgroups().unwrap().with_precision(Precision::Float16).unwrap().describe();
    assert!(described.ends_with("products in float16 by warpgroups"), "{described}");
}

// ---- faults --------------------------------------------------------------------------------------------------------

/// Steps of 16 numbers of the sum.
const STEPS: usize = 5;

/// The sums of `probe_stages` with some faults, and those that it should find.
fn stages(schedule: Schedule, faults: usize) -> (Result<Vec<f32>>, Vec<f32>) {
    let driver = EmulatedDriver::of(Architecture::Sm90, schedule);
    let number = |step: usize, i: usize, k: usize| ((step * 7 + i * 3 + k * 5) % 9) as f32 - 4.0;
    let packed = |halves: Vec<f32>| -> Vec<f32> {
        let bits = |x: f32| u32::from(half::f16::from_f32(x).to_bits());
        halves.chunks(2).map(|pair| f32::from_bits(bits(pair[0]) | bits(pair[1]) << 16)).collect()
    };
    let in_step = |step: usize, numbers: usize| (0..numbers).map(move |i| (step, i));
    let a = (0..STEPS).flat_map(|step| in_step(step, 64 * 16));
    let a = a.map(|(step, i)| number(step, i / 8 % 64, i / 512 * 8 + i % 8)).collect();
    let b = (0..STEPS).flat_map(|step| in_step(step, 16 * 32));
    let b = b.map(|(step, i)| number(step + 1, i / 128 * 8 + i % 8, i / 8 % 16)).collect();
    let expected = (0..128 * 16).map(|place| {
        let (thread, i) = (place / 16, place % 16);
        let row = thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8;
        let column = i / 4 * 8 + thread % 4 * 2 + i % 2;
        let products =
            in_step(0, STEPS * 16).map(|(_, k)| number(k / 16, row, k % 16) * number(k / 16 + 1, column, k % 16));
        1.0 + products.sum::<f32>()
    });
    let (a, b) = (Numbers::new(&driver, &packed(a)), Numbers::new(&driver, &packed(b)));
    let y = Numbers::new(&driver, &[1.0; 128 * 16]);
    let probe = Launch::new("probe_stages", ONE, threads(160)).with_shared(2 * 192 * 16);
    let done = launch(&driver, probe.with(a.start).with(b.start).with(y.start).with_int(STEPS).with_int(faults));
    (done.map(|()| y.read()), expected.collect())
}

#[test]
fn stages_that_are_passed_on_by_barriers_give_the_right_sums_under_every_schedule() {
    for schedule in Schedule::ALL {
        let (sums, expected) = stages(schedule, 0);
        assert_eq!(sums.unwrap(), expected, "{schedule:?}");
    }
}

/// Faults of `probe_stages` that show in any build, with what is said of them; nothing where results are wrong.
const SHOW: [(usize, &str); 12] = [
    (2, "a product takes sums that no fence of the warpgroup stands before"),
    (4, ""),
    (8, ""),
    (32, ""),
    (64, "there is no barrier in this place"),
    (128, "the kernel ended with products that it never waited for"),
    (256, ""),
    (1024, "a barrier's memory has been written to"),
    (2048, "the threads of four warps ask for different products"),
    (4096, "all must be multiples of 16"),
    (8192, "a product reads outside the block's shared memory"),
    (16384, "a thread has written to sums before it waited for their products"),
];

#[cfg(not(coronet_checked))] // which says more
#[test]
fn a_fault_between_those_who_copy_and_those_who_multiply_shows_under_some_schedule() {
    for (fault, said) in SHOW {
        let found = Schedule::ALL.map(|schedule| match stages(schedule, fault) {
            (Err(problem), _) => said.is_empty() || problem.to_string().contains(said),
            (Ok(sums), expected) => said.is_empty() && sums != expected,
        });
        assert!(found.contains(&true), "{fault}: {:?}", Schedule::ALL.map(|schedule| stages(schedule, fault).0));
    }
}

#[cfg(coronet_checked)]
#[test]
fn a_fault_between_those_who_copy_and_those_who_multiply_is_found() {
    let race = "with no barrier between them";
    let races = [
        (1, "with no fence for tensor cores behind it"),
        (4, race),
        (8, "which nobody has written"),
        (16, race),
        (32, "which nobody has written"),
        (256, race),
        (512, race),
    ];
    // All lanes of a warp write to a barrier at once: that is found first.
    let races = races.into_iter().chain([(1024, race)]);
    let named = SHOW.into_iter().filter(|(fault, said)| !said.is_empty() && *fault != 1024);
    let mut missed = Vec::new();
    for (fault, said) in races.chain(named) {
        let found = Schedule::ALL.map(|schedule| stages(schedule, fault).0.map_err(|problem| problem.to_string()));
        let is_named = found.iter().any(|it| it.as_ref().is_err_and(|problem| problem.contains(said)));
        // What is seen of it depends on the schedule; that something is does not, but where a barrier is not there yet.
        if !is_named || !(fault == 64 || found.iter().all(Result::is_err)) {
            missed.push(format!("{fault}: {:?}", found.map(|it| it.map(|_| "nothing"))));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}
