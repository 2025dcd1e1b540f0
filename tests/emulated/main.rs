//! The CUDA kernels on the emulated GPU: every operator's cases under hostile schedules, and, in the other files, the
//! emulator itself.
#![cfg(feature = "emulator")]

#[cfg(coronet_address)]
mod address;
#[cfg(coronet_checked)]
mod checked;
mod emulator;
mod warpgroups;
mod ways;

use coronet::device::cuda::{Architecture, CudaDevice, EmulatedDriver, Schedule, Tile};
use coronet::device::{Device, Precision};
#[cfg(not(coronet_checked))]
use coronet::ops::Fit;
use coronet::ops::{Case, Op, all_cases};
#[cfg(not(coronet_checked))]
use coronet::verify::keeps_maps;
#[cfg(not(coronet_checked))]
use coronet::verify::layer_cases;
use coronet::verify::{Check, Finding, verify_all};
#[cfg(not(coronet_checked))]
use std::collections::BTreeSet;

/// The precisions of tensor cores.
const ROUNDED: [Precision; 3] = [Precision::Tf32, Precision::Float16, Precision::BFloat16];

/// What the build script sets is all that tells the builds apart: without it the plain kernels would be tested twice.
#[test]
fn this_is_the_build_that_was_asked_for() {
    let asked = option_env!("CORONET_EMULATOR").unwrap_or_default();
    assert_eq!([asked == "checked", asked == "address"], [cfg!(coronet_checked), cfg!(coronet_address)], "{asked}");
}

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
        for (family, tile) in
            ["conv", "conv_backward", "conv_filter_grad"].into_iter().flat_map(|f| with_tiles(f, precision))
        {
            assert!(
                kernels.contains(&*format!("{family}_{precision}_{tile}")),
                "{family} {precision} {tile}: {kernels:?}"
            );
        }
    }
}

/// The tiles that a family of kernels has.
#[cfg(not(coronet_checked))]
fn with_tiles(family: &str, precision: Precision) -> Vec<(&str, &'static str)> {
    let largest = (family != "conv_filter_grad" && precision == Precision::Tf32).then_some("128x64");
    largest.into_iter().chain(["64x64", "64x32"]).map(|tile| (family, tile)).collect()
}

#[cfg(not(coronet_checked))] // as above
#[test]
fn maps_that_are_kept_in_16_bits_agree_with_the_reference_on_every_case() {
    let cases = all_cases().into_iter().filter(keeps_maps);
    let findings =
        assert_agreement(cases.map(|case| Check::Rounded(case, Precision::Float16)), &device(Schedule::ALL[1]));
    let kernels: BTreeSet<&str> = findings.iter().flat_map(|f| f.verdict.as_ref().unwrap().kernels.clone()).collect();
    for kernel in
        ["max_pool_float16", "relu_residual_float16", "multi_kernel_pooling_float16", "temporal_conv_to_float16"]
    {
        assert!(kernels.contains(kernel), "{kernel}: {kernels:?}");
    }
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

/// Those that a norm comes before are two steps on a GPU, each of which others test.
fn convolutions() -> Vec<Case> {
    all_cases().into_iter().filter(|case| is_convolution(case) && case.first.is_none()).collect()
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
        let differ = |case: &&Case| case.fit != Fit::Exact && !case.has_norm();
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
    for (number, tile) in Tile::ALL.into_iter().enumerate() {
        let cases = convolutions().into_iter().filter(Case::has_norm);
        // The checked build takes its time: each case with one of the tiles.
        let (first, step) = if cfg!(coronet_checked) { (number, Tile::ALL.len()) } else { (0, 1) };
        let checks = cases
            .skip(first)
            .step_by(step)
            .flat_map(|case| ROUNDED.map(|precision| Check::Rounded(case.clone(), precision)));
        assert_agreement(checks, &device(Schedule::ALL[2]).with_tile(tile));
    }
}

#[cfg(not(coronet_checked))] // as above
#[test]
fn the_paths_of_both_architectures_give_the_same_bits() {
    let [old, middle, new] =
        Architecture::ALL.map(|of| CudaDevice::new(EmulatedDriver::of(of, Schedule::ALL[of as usize % 3])));
    assert_eq!(old.precisions(), [Precision::Float32, Precision::Float16]);
    for device in [&middle, &new] {
        assert!(ROUNDED.iter().all(|precision| device.precisions().contains(precision)));
    }
    // What sm_90 runs is compiled for sm_80: two paths, and the older one multiplies in these alone.
    for precision in old.precisions() {
        let at = |device: &CudaDevice| device.with_precision(precision).unwrap();
        let (old, new) = (at(&old), at(&new));
        for case in convolutions().iter().filter(|case| case.fit != Fit::Exact) {
            assert!(bits(case, &*old) == bits(case, &*new), "{case} in {precision}");
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
    let page = include_str!("../../docs/kernels.md");
    let plant = page.split("```diff\n").nth(1).unwrap().split("```").next().unwrap();
    let hunk = plant.lines().skip_while(|line| !line.starts_with("@@")).skip(1);
    let before: String =
        hunk.filter_map(|line| line.strip_prefix([' ', '-'])).map(|line| format!("{line}\n")).collect();
    assert!(before.lines().count() > 5);
    assert_eq!(include_str!("../../kernels/conv.cu").matches(&before).count(), 1);
}
