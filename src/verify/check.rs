//! All there is to verify, as a list of checks that each have a text of their own, and the run over such a list.

use super::{Verdict, layer_cases, results, verify, verify_gradient, verify_rounded};
use crate::device::{Device, Precision};
use crate::error::{Error, Result};
use crate::graph::Tensor;
use crate::ops::{Case, Data, Op, Then, all_cases};
use std::fmt;

/// One thing to verify. Its text, as `Display` writes it, identifies it.
#[derive(Debug, Clone, PartialEq)]
pub enum Check {
    /// A device's results for a case, against the float64 reference.
    Results(Case),
    /// A device's results in a precision below float32, of a convolution or of what keeps its maps in the format, against the
    /// reference of rounded operands.
    Rounded(Case, Precision),
    /// An operator's gradient rule against finite differences of its reference; no device takes part.
    GradientRule(Case),
}

/// What the data of gradient rules are drawn from: always the same, because differences across a kink of ReLU or
/// pooling, which some seed would hit, say nothing about the rule.
const GRADIENT_SEED: u64 = 2;

impl Check {
    /// Every operator's cases, every layer of the w = 64 network, the convolutions among both in every precision, every
    /// gradient rule.
    ///
    /// # Errors
    /// None that the network's own layers can cause.
    pub fn all() -> Result<Vec<Check>> {
        let (cases, layers) = (all_cases(), layer_cases()?);
        let rules: Vec<Check> = cases.iter().filter(|case| is_smooth(case)).cloned().map(Check::GradientRule).collect();
        let new_layers: Vec<Case> = layers.into_iter().filter(|layer| !cases.contains(layer)).collect();
        let results = [cases, new_layers].concat();
        let rounded = |precision: Precision| {
            let keeps = precision == Precision::Float16;
            let is_rounded = move |case: &&Case| is_of_products(&case.op) || (keeps && keeps_maps(case));
            let products = results.iter().filter(is_rounded);
            products.map(move |case| Check::Rounded(case.clone(), precision))
        };
        let precisions = Precision::ALL.into_iter().filter(|precision| *precision != Precision::Float32);
        let rounded: Vec<Check> = precisions.flat_map(rounded).collect();
        Ok(results.into_iter().map(Check::Results).chain(rounded).chain(rules).collect())
    }

    /// Whether a device with these precisions can run it.
    pub fn is_for(&self, precisions: &[Precision]) -> bool {
        match self {
            Check::Rounded(_, precision) => precisions.contains(precision),
            Check::Results(_) | Check::GradientRule(_) => true,
        }
    }

    /// Operator, shapes and data.
    pub fn case(&self) -> &Case {
        match self {
            Check::Results(case) | Check::Rounded(case, _) | Check::GradientRule(case) => case,
        }
    }

    /// What the device computes for it, compared with nothing; the verdict says only how long that took and who did it.
    /// Gradient rules compute nothing on a device.
    ///
    /// # Errors
    /// As [`Check::run`].
    pub fn results(&self, device: &dyn Device, seed: u64) -> Result<(Vec<Tensor>, Verdict)> {
        let mut verdict = Verdict::exact();
        let results = match self {
            Check::Results(case) => results(case, &case.draw(seed), device, &mut verdict)?.0,
            Check::Rounded(case, precision) => {
                results(case, &case.draw(seed), &*device.with_precision(*precision)?, &mut verdict)?.0
            }
            Check::GradientRule(_) => Vec::new(),
        };
        Ok((results, verdict))
    }

    /// Runs it; gradient rules take neither the device nor the seed into account.
    ///
    /// # Errors
    /// As [`verify`], [`verify_rounded`] and [`verify_gradient`].
    pub fn run(&self, device: &dyn Device, seed: u64) -> Result<Verdict> {
        match self {
            Check::Results(case) => verify(case, device, seed),
            Check::Rounded(case, precision) => verify_rounded(case, *precision, device, seed),
            Check::GradientRule(case) => verify_gradient(case, GRADIENT_SEED),
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Check::Results(case) => write!(f, "{case}"),
            Check::Rounded(case, precision) => write!(f, "{case} in {precision}"),
            Check::GradientRule(case) => write!(f, "gradient rule of {case}"),
        }
    }
}

/// Whether it is computed by matrix products, which tensor cores can do.
pub fn is_of_products(op: &Op) -> bool {
    matches!(op, Op::Conv(_) | Op::ConvInputGrad(_) | Op::ConvFilterGrad(_) | Op::TransposedConv(_))
}

/// Whether it is no product, but reads or writes maps that may be kept in 16 bits.
pub fn keeps_maps(case: &Case) -> bool {
    let with_residual = case.then.contains(&Then::Add);
    matches!(case.op, Op::MaxPool(_) | Op::MultiKernelPooling(_) | Op::TemporalConv(_))
        || (matches!(case.op, Op::Relu(_)) && with_residual)
}

/// Whether finite differences can tell something about the gradient: whole numbers lie on the kinks of ReLU and
/// pooling, other data cross those of a ReLU that follows, means far from zero leave differences no digits, and large
/// cases take the reference too long.
fn is_smooth(case: &Case) -> bool {
    let fits = |data: &Data| !matches!(data, Data::Integers | Data::Normal(1000.0));
    let elements: usize = case.inputs.iter().map(|(shape, _)| shape.elements()).sum();
    case.op.operator().is_differentiable()
        && case.first.is_none()
        && case.then.is_empty()
        && elements < 20_000
        && case.inputs.iter().all(|(_, data)| fits(data))
}

/// A check and how it went.
#[derive(Debug)]
pub struct Finding {
    /// What was verified.
    pub check: Check,
    /// The verdict, or why there is none: a device that failed, a kernel that did what it must not.
    pub verdict: Result<Verdict>,
}

impl Finding {
    /// Whether there is a verdict and its error is within the bound; NaN is not.
    pub fn passed(&self) -> bool {
        self.verdict.as_ref().is_ok_and(Verdict::passed)
    }
}

/// Runs the checks in order. `go_on` is called after each; the run stops where it returns false.
///
/// # Errors
/// [`Error::Interrupted`] when it was stopped. A check that fails is a finding.
pub fn verify_all(
    checks: &[Check],
    device: &dyn Device,
    seed: u64,
    go_on: &dyn Fn(&Finding) -> bool,
) -> Result<Vec<Finding>> {
    let mut findings = Vec::with_capacity(checks.len());
    for check in checks {
        let finding = Finding { check: check.clone(), verdict: check.run(device, seed) };
        if !go_on(&finding) {
            return Err(Error::Interrupted);
        }
        findings.push(finding);
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_check_has_a_text_of_its_own_in_one_line() {
        let checks = Check::all().unwrap();
        let texts: BTreeSet<String> = checks.iter().map(Check::to_string).collect();
        assert_eq!(texts.len(), checks.len());
        assert!(texts.iter().all(|text| text.is_ascii() && !text.contains(['\n', '\''])));
    }
}
