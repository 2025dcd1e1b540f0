//! A verification as one JSON document.
//!
//! Numbers are raw. An `error` of null with a `problem` is none that a number can say: NaN, or no result at all.

use super::{Report, problem, table};
use coronet::graph::Shape;
use coronet::ops::Data;
use coronet::verify::Finding;
use coronet::{Error, Result};
use serde::Serialize;

/// Name and version of the format; the version changes when a field changes its meaning or goes.
const SCHEMA: &str = "coronet/verify";
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    schema_version: u32,
    coronet: &'static str,
    device: &'a str,
    seed: u64,
    filter: Option<&'a str>,
    passed: usize,
    failed: usize,
    seconds: f64,
    cases: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    /// The check's text, to be given to `--op`.
    case: String,
    operator: &'static str,
    /// `device` or `reference`.
    on: &'static str,
    #[serde(rename = "type")]
    precision: &'static str,
    inputs: Vec<Input>,
    /// The kernels that computed it, in order; none on a CPU.
    kernels: Vec<&'static str>,
    /// What `error` and `bound` count; null where there are none.
    measure: Option<&'static str>,
    error: Option<f64>,
    bound: Option<f64>,
    seconds: Option<f64>,
    passed: bool,
    problem: Option<String>,
}

#[derive(Serialize)]
struct Input {
    shape: String,
    dims: Vec<usize>,
    data: String,
}

/// The document, indented.
pub fn document(report: &Report) -> Result<String> {
    let failed = report.failures();
    let document = Document {
        schema: SCHEMA,
        schema_version: VERSION,
        coronet: env!("CARGO_PKG_VERSION"),
        device: &report.device,
        seed: report.seed,
        filter: report.filter.as_deref(),
        passed: report.findings.len() - failed,
        failed,
        seconds: report.elapsed.as_secs_f64(),
        cases: report.findings.iter().map(row).collect(),
    };
    serde_json::to_string_pretty(&document).map_err(|e| Error::Internal(format!("the report is not JSON: {e}")))
}

fn row(finding: &Finding) -> Row {
    let (check, verdict) = (&finding.check, finding.verdict.as_ref().ok());
    let case = check.case();
    Row {
        case: check.to_string(),
        operator: case.op.variant(),
        on: table::place(check),
        precision: table::precision(check),
        inputs: case.inputs.iter().map(|&(shape, data)| input(shape, data)).collect(),
        kernels: verdict.map(|verdict| verdict.kernels.clone()).unwrap_or_default(),
        measure: verdict.map(|verdict| verdict.measure.name()),
        error: verdict.map(|verdict| verdict.error),
        bound: verdict.map(|verdict| verdict.bound),
        seconds: verdict.map(|verdict| verdict.time.as_secs_f64()),
        passed: finding.passed(),
        problem: problem(finding),
    }
}

fn input(shape: Shape, data: Data) -> Input {
    Input { shape: shape.to_string(), dims: shape.dims(), data: format!("{data:?}") }
}
