//! Every operator's cases: devices against the float64 references, gradient rules against finite differences.

use coronet::device::cpu::{CpuDevice, InstructionSet};
use coronet::ops::{Case, Data, all_cases};
use coronet::verify::{verify, verify_gradient};

#[test]
fn the_cpu_agrees_with_the_reference_on_every_case_and_instruction_set() {
    for set in InstructionSet::available() {
        let device = CpuDevice::with_instructions(Some(2), set).unwrap();
        let mut failures = Vec::new();
        for case in all_cases() {
            let verdict = verify(&case, &device, 1).unwrap();
            if !verdict.passed() {
                failures.push(format!("{case}: error {} above {}", verdict.error, verdict.bound));
            }
        }
        println!("{}: {} cases", set.name(), all_cases().len());
        assert!(failures.is_empty(), "{}:\n{}", set.name(), failures.join("\n"));
    }
}

#[test]
fn gradient_rules_agree_with_finite_differences_of_the_references() {
    let mut checked = 0;
    let small = |case: &Case| case.inputs.iter().map(|(shape, _)| shape.elements()).sum::<usize>() < 20_000;
    // Whole numbers lie on the kinks of ReLU and pooling; means far from zero leave differences no digits.
    let smooth = |case: &Case| case.inputs.iter().all(|(_, d)| !matches!(d, Data::Integers | Data::Normal(1000.0)));
    for case in all_cases().iter().filter(|case| small(case) && smooth(case) && !case.inputs.is_empty()) {
        if let Some(verdict) = verify_gradient(case, 2).unwrap() {
            assert!(verdict.passed(), "{case}: error {}", verdict.error);
            checked += 1;
        }
    }
    assert!(checked >= 60, "only {checked} gradients were checked");
}

#[test]
fn every_operator_has_a_case() {
    let mut names: Vec<&str> = all_cases().iter().map(|case| case.op.operator().name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 28, "{names:?}");
}
