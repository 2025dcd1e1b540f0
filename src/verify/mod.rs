//! Verification: does a device compute what the operators' float64 references say, and are their gradients right?
//!
//! Cases and a device go in, a verdict for each comes out. [`Check::all`] lists what there is to verify.

mod check;
mod network;
mod tensor_cores;

pub use check::{Check, Finding, is_of_products, keeps_maps, verify_all};
pub use network::{deep_cases, layer_cases};

use crate::device::{Device, Precision};
use crate::error::{Error, Result};
use crate::graph::{Graph, Tensor, ValueId};
use crate::ops::{Case, First, Fit, Normalise, Op, Then};
use crate::program::{Placement, Program};
use std::time::{Duration, Instant};

/// What the error of a verdict counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Numbers that are not right bit for bit.
    Exact,
    /// The relative L2 error.
    RelativeL2,
    /// The deviation as a share of what is allowed.
    Share,
}

impl Measure {
    /// The name people use.
    pub fn name(self) -> &'static str {
        match self {
            Measure::Exact => "wrong numbers",
            Measure::RelativeL2 => "relative L2 error",
            Measure::Share => "share of the allowed deviation",
        }
    }
}

/// How a case went.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// What `error` and `bound` count, which the device's algorithm has a say in.
    pub measure: Measure,
    /// The largest error among the results.
    pub error: f64,
    /// What the error may be at most.
    pub bound: f64,
    /// What the device took for it.
    pub time: Duration,
    /// The kernels that computed it, in order, where the device has such.
    pub kernels: Vec<&'static str>,
}

impl Verdict {
    /// Without error so far, and none is allowed.
    fn exact() -> Verdict {
        Verdict { measure: Measure::Exact, error: 0.0, bound: 0.0, time: Duration::ZERO, kernels: Vec::new() }
    }

    /// Without error so far; all of what is allowed may be used.
    fn share() -> Verdict {
        Verdict { measure: Measure::Share, bound: 1.0, ..Verdict::exact() }
    }

    /// Whether the error is within its bound; NaN is not.
    pub fn passed(&self) -> bool {
        self.error <= self.bound
    }

    /// Keeps the worst error seen; a NaN is the worst and stays.
    fn note(&mut self, error: f64) {
        if error.is_nan() || error > self.error {
            self.error = error;
        }
    }
}

/// `|got - expected| / |expected|` in the L2 norm; `|got|` where the expected value is zero. NaN if either holds one.
pub fn relative_l2(got: &[f32], expected: &[f64]) -> f64 {
    let norm = expected.iter().map(|e| e * e).sum::<f64>().sqrt();
    let error = got.iter().zip(expected).map(|(&g, e)| (f64::from(g) - e).powi(2)).sum::<f64>().sqrt();
    if norm > 0.0 { error / norm } else { error }
}

/// Runs a case on a device and compares every result with the reference: as the case says, but where the device says that
/// its algorithm rounds more than sums of products do, within the bound that it states.
///
/// # Errors
/// When the operator refuses the case's shapes, or the device fails.
pub fn verify(case: &Case, device: &dyn Device, seed: u64) -> Result<Verdict> {
    let data = case.draw(seed);
    let mut verdict = Verdict::exact();
    let (results, kept) = results(case, &data, device, &mut verdict)?;
    let fit = match (case.fit, kept.error_bound) {
        (fit, None) => fit,
        (Fit::Exact, Some(bound)) => Fit::Relative(bound),
        (Fit::Relative(others), Some(bound)) => Fit::Relative(others.max(bound)),
    };
    if let Fit::Relative(bound) = fit {
        (verdict.measure, verdict.bound) = (Measure::RelativeL2, bound);
    }
    let wide: Vec<Tensor<f64>> = data.iter().map(Tensor::to_f64).collect();
    let expected = case.reference(&wide.iter().collect::<Vec<_>>());
    for (got, expected) in results.iter().zip(&expected) {
        verdict.note(match fit {
            Fit::Relative(_) => relative_l2(got.data(), expected.data()),
            Fit::Exact => wrong(got, expected),
        });
    }
    Ok(verdict)
}

/// Runs a convolution on a device in a precision, and compares it with the reference of the rounded operands: bit for
/// bit where the data are whole numbers, else each element within what tensor cores may lose of its sum: with K products in
/// G groups for a result `|got - expected| <= ((K + 2 G) / 4 + sqrt(K + 4 G) + 5) 2^-24 sum|a b|`. That is less than one
/// missing average product for K < 6000. What a norm or a sigmoid makes of the result, and what is no product, must agree
/// within 1e-4 in the L2 norm. Where a result is kept in 16 bits, half of its last digit is allowed beside; and where a norm
/// comes first, half of the last digit of a rounded operand, for what the norm makes of other than whole numbers may be rounded
/// to either side.
///
/// # Errors
/// When the operator refuses the case's shapes, or the device fails or has no such precision.
pub fn verify_rounded(case: &Case, precision: Precision, device: &dyn Device, seed: u64) -> Result<Verdict> {
    compare_rounded(case, precision, &*device.with_precision(precision)?, seed)
}

/// The same for what a device computes in its own precision.
fn compare_rounded(case: &Case, precision: Precision, device: &dyn Device, seed: u64) -> Result<Verdict> {
    let data = case.draw(seed);
    let exact = case.fit == Fit::Exact;
    let mut verdict = if exact { Verdict::exact() } else { Verdict::share() };
    let (results, kept) = results(case, &data, device, &mut verdict)?;
    if kept.products == Some(Precision::Float32) {
        // Nothing is rounded, so it must be as exact as ever.
        return verify(case, device, seed);
    }
    // The operands of the products, and what else is kept in their format; a bias is added to their sum. What a norm comes
    // before is rounded behind it.
    let first = usize::from(case.first.is_some());
    let mut operands: Vec<Tensor<f64>> = data.iter().map(Tensor::to_f64).collect();
    for (index, operand) in operands.iter_mut().enumerate() {
        let multiplied = (first..2).contains(&index) && is_of_products(&case.op);
        let format = if multiplied { precision } else { kept.inputs[index] };
        operand.data_mut().iter_mut().for_each(|x| *x = f64::from(format.round(*x as f32)));
    }
    let expected = case.reference(&operands.iter().collect::<Vec<_>>());
    operands.iter_mut().flat_map(|tensor| tensor.data_mut()).for_each(|x| *x = x.abs());
    let sizes = case.reference(&operands.iter().collect::<Vec<_>>());
    let multiplies = is_of_products(&case.op);
    let share = if multiplies { tensor_cores::lost_share(case) } else { 0.0 };
    // The sums, which no norm or sigmoid has changed: the first result, or the kept one.
    let sums = if case.keeps_first { Some(results.len() - 1) } else { case.is_linear().then_some(0) };
    for (index, ((got, expected), sizes)) in results.iter().zip(&expected).zip(&sizes).enumerate() {
        let format = kept.outputs[index];
        if exact && (if multiplies { sums == Some(index) } else { case.is_linear() }) {
            let kept = Tensor::from_fn(expected.shape(), |i| f64::from(format.round(expected.data()[i] as f32)));
            verdict.note(wrong(got, &kept));
            continue;
        }
        if !multiplies || sums != Some(index) || case.first.is_some() {
            let bound = if let Fit::Relative(bound) = case.fit { bound.max(ROUNDED_NORM) } else { ROUNDED_NORM };
            let of_normed = case.first.map_or(0.0, |_| rounding(precision));
            verdict.note(relative_l2(got.data(), expected.data()) / (bound + rounding(format) + of_normed));
            continue;
        }
        for ((&got, expected), size) in got.data().iter().zip(expected.data()).zip(sizes.data()) {
            let deviation = (f64::from(got) - expected).abs();
            // Where no product takes part nothing may be lost, not even to 0 / 0.
            let allowed = share * size + rounding(format) * expected.abs() + least(format);
            verdict.note(if deviation == 0.0 { 0.0 } else { deviation / allowed });
        }
    }
    Ok(verdict)
}

/// The relative L2 error that norm, statistics and sigmoid of a rounded convolution may have.
const ROUNDED_NORM: f64 = 1e-4;

/// What a number may change, relative to its size, as it is kept in a format: half of its last digit.
fn rounding(format: Precision) -> f64 {
    match format {
        Precision::Float32 => 0.0,
        Precision::Tf32 | Precision::Float16 => 2f64.powi(-11),
        Precision::BFloat16 => 2f64.powi(-8),
    }
}

/// The same of numbers so small that they have fewer digits.
fn least(format: Precision) -> f64 {
    if format == Precision::Float16 { 2f64.powi(-25) } else { 0.0 }
}

/// In what formats a device keeps a case's inputs and results, and [`crate::device::Session::error_bound`].
struct Kept {
    inputs: Vec<Precision>,
    outputs: Vec<Precision>,
    /// What the case multiplies, where the device does not do so throughout.
    products: Option<Precision>,
    error_bound: Option<f64>,
}

/// How many elements differ.
fn wrong(got: &Tensor, expected: &Tensor<f64>) -> f64 {
    got.data().iter().zip(expected.data()).filter(|&(&g, &e)| f64::from(g) != e).count() as f64
}

/// A device's results for a case and how it keeps them; the verdict learns how long they took and who computed them.
fn results(case: &Case, data: &[Tensor], device: &dyn Device, verdict: &mut Verdict) -> Result<(Vec<Tensor>, Kept)> {
    let (graph, inputs, outputs) = graph_of(case)?;
    let program = Program::lower(&graph, &outputs, device, Placement::Isolated { guard: 64 })?;
    let mut session = device.load(program)?;
    for (id, tensor) in inputs.iter().zip(data) {
        session.write(*id, tensor.data())?;
    }
    if is_repeated(case) {
        session.run()?;
    }
    let mut times = vec![Duration::ZERO; session.program().steps().len()];
    session.run_timed(&mut times)?;
    verdict.time = times.iter().sum();
    verdict.kernels = (0..times.len()).flat_map(|step| session.kernels(step)).collect();
    let formats = |ids: &[ValueId]| ids.iter().map(|&id| session.kept_in(id)).collect();
    let error_bound = (0..times.len()).filter_map(|step| session.error_bound(step)).reduce(f64::max);
    let of_case = session.program().steps().iter().position(|step| step.op == case.op);
    let products = of_case.and_then(|step| session.multiplies_in(step));
    let kept = Kept { inputs: formats(&inputs), outputs: formats(&outputs), products, error_bound };
    Ok((outputs.iter().map(|&id| session.read(id)).collect::<Result<_>>()?, kept))
}

/// Whether a run may rely on what the one before it has left, as blocks do that count each other, so that the second one
/// tells more.
fn is_repeated(case: &Case) -> bool {
    case.has_norm() || matches!(case.op, Op::MultiKernelPooling(_))
}

/// A graph of one operator and what follows it: inputs, results.
fn graph_of(case: &Case) -> Result<(Graph, Vec<ValueId>, Vec<ValueId>)> {
    let mut graph = Graph::new();
    let inputs: Vec<ValueId> =
        case.inputs.iter().enumerate().map(|(i, &(shape, _))| graph.input(&format!("input{i}"), shape)).collect();
    let (operands, others) = inputs.split_at(case.operands());
    let (mut operands, mut others) = (operands.to_vec(), others.iter().copied());
    let mut next = || others.next().ok_or_else(|| Error::Request(format!("{case} has too few inputs")));
    if let Some(First { relu }) = case.first {
        let normed = graph.apply("normed", Normalise, &[operands[0], next()?, next()?, next()?])?[0];
        operands[0] = if relu { graph.relu("rectified", normed)? } else { normed };
    }
    let mut outputs = graph.apply("case", case.op.clone(), &operands)?;
    let first = case.keeps_first.then_some(outputs[0]);
    for then in &case.then {
        let result = outputs[0];
        outputs[0] = match then {
            Then::Norm => {
                let normed = graph.apply("norm", Case::NORM, &[result, next()?, next()?])?;
                outputs.extend(&normed[1..]);
                normed[0]
            }
            Then::Relu => graph.relu("relu", result)?,
            Then::Add => graph.add("residual", result, next()?)?,
            Then::Sigmoid => graph.sigmoid("sigmoid", result)?,
        };
    }
    outputs.extend(first);
    Ok((graph, inputs, outputs))
}

/// Compares an operator's gradient rule with central differences of its float64 reference, along one random direction
/// for each input: `d/de sum(u f(x + e d))` against `sum(grad d)`.
///
/// The verdict's error is the deviation as a share of what is allowed, its time what the references took.
///
/// # Errors
/// When the operator refuses the case's shapes, or has no gradient.
pub fn verify_gradient(case: &Case, seed: u64) -> Result<Verdict> {
    let begun = Instant::now();
    let (mut graph, inputs, outputs) = graph_of(case)?;
    let cotangent = graph.input("cotangent", graph.shape(outputs[0]));
    let data: Vec<Tensor<f64>> = case.draw(seed).iter().map(Tensor::to_f64).collect();
    let mut random = crate::random::Random::new(seed ^ 0x5eed);
    let u = Tensor::from_fn(graph.shape(cotangent), |_| random.normal());
    let differentiable: Vec<ValueId> =
        inputs.iter().copied().filter(|&id| is_differentiable(case, &inputs, id)).collect();
    let gradients = graph.pull_back(&[(outputs[0], cotangent)], &differentiable)?;
    let given = |moved: Option<(usize, &Tensor<f64>, f64)>| {
        let mut given: Vec<(ValueId, Tensor<f64>)> = inputs.iter().copied().zip(data.iter().cloned()).collect();
        if let Some((index, direction, step)) = moved {
            given[index].1.data_mut().iter_mut().zip(direction.data()).for_each(|(x, d)| *x += step * d);
        }
        given.push((cotangent, u.clone()));
        given
    };
    let dot = |a: &Tensor<f64>, b: &Tensor<f64>| a.data().iter().zip(b.data()).map(|(a, b)| a * b).sum::<f64>();
    let values = graph.evaluate(&given(None))?;
    let mut verdict = Verdict::share();
    for (id, gradient) in differentiable.iter().zip(&gradients) {
        let index = id.index();
        let direction = Tensor::from_fn(data[index].shape(), |_| random.normal());
        let step = 1e-6;
        let value = |sign: f64| -> Result<f64> {
            Ok(dot(&u, &graph.evaluate(&given(Some((index, &direction, sign * step))))?[outputs[0].index()]))
        };
        let numeric = (value(1.0)? - value(-1.0)?) / (2.0 * step);
        let analytic = dot(&values[gradient.index()], &direction);
        // Differences lose digits to the size of what is subtracted; the rest must be right to 1e-6.
        let output = &values[outputs[0].index()];
        let size: f64 = output.data().iter().zip(u.data()).map(|(y, u)| (y * u).abs()).sum();
        let slope = (dot(&values[gradient.index()], &values[gradient.index()]) * dot(&direction, &direction)).sqrt();
        let error = (numeric - analytic).abs() / (1e-6 * slope + 8.0 * f64::EPSILON * size / step);
        verdict.note(error);
    }
    verdict.time = begun.elapsed();
    Ok(verdict)
}

/// Masks have no gradient; everything else that `pull_back` accepts has.
fn is_differentiable(case: &Case, inputs: &[ValueId], id: ValueId) -> bool {
    !(matches!(case.op, Op::SoftDice(_) | Op::CrossEntropy(_)) && inputs.get(1) == Some(&id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nan_is_never_forgotten_and_never_passes() {
        let mut verdict = Verdict::share();
        verdict.note(0.5);
        assert!(verdict.passed());
        verdict.note(f64::NAN);
        verdict.note(1e-9);
        assert!(!verdict.passed());
        assert!(relative_l2(&[f32::NAN, 1.0], &[1.0, 1.0]).is_nan());
    }

    #[cfg(feature = "emulator")]
    #[test]
    fn operands_of_three_bits_less_are_found_in_every_sum() {
        use crate::device::cuda::{CudaDevice, EmulatedDriver, Schedule};
        let device = CudaDevice::new(EmulatedDriver::new(Schedule::ALL[0]));
        let device = device.with_precision(Precision::BFloat16).unwrap();
        let is_rough = |case: &Case| {
            case.fit != Fit::Exact && case.first.is_none() && case.is_linear() && is_of_products(&case.op)
        };
        let cases: Vec<Case> = crate::ops::all_cases().into_iter().filter(is_rough).step_by(5).collect();
        assert!(cases.len() > 10);
        for case in cases {
            let error = |precision| compare_rounded(&case, precision, &*device, 1).unwrap().error;
            let errors = [Precision::BFloat16, Precision::Float16].map(error);
            // Of sums of many products the bound allows more: at 1800 it is passed ninefold, elsewhere over twentyfold.
            assert!(errors[0] <= 1.0 && errors[1] > 5.0, "{case}: {errors:?}");
        }
    }
}
