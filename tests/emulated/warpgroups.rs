//! Convolutions that the tensor cores of sm_90a compute by themselves.

use super::*;

/// The path of sm_90 with warpgroups.
fn warpgroups(schedule: Schedule) -> CudaDevice {
    CudaDevice::new(EmulatedDriver::of(Architecture::Sm90, schedule)).with_warpgroups(true)
}

/// The cases that go to them; the others are run elsewhere.
fn cases() -> Vec<Case> {
    convolutions().into_iter().filter(|case| matches!(case.op, Op::Conv(conv) if conv.stride == 1)).collect()
}

#[test]
fn warpgroups_agree_with_the_reference_on_every_convolution() {
    let checks = cases().into_iter().map(|case| Check::Rounded(case, Precision::Float16));
    let findings = assert_agreement(checks, &warpgroups(Schedule::ALL[0]));
    let ran: usize = findings
        .iter()
        .filter(|f| f.verdict.as_ref().unwrap().kernels.iter().any(|kernel| kernel.starts_with("conv_warpgroups")))
        .count();
    println!("{ran} by warpgroups of {}", findings.len());
    assert!(ran > 20, "{ran}");
}
