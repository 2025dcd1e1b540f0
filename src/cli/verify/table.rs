//! A verification as a table for people, and what failed in a form to be run again.

use super::super::count;
use super::{Report, problem};
use coronet::device::Precision;
use coronet::verify::{Check, Finding, Measure, Verdict};
use std::fmt::Write;

/// A row for every check, then what failed, then the summary.
pub fn table(report: &Report) -> String {
    let mut text = row(["verdict", "on", "type", "error", "bound", "time", "operator, shapes and data; kernels"]);
    for finding in &report.findings {
        text += &finding_row(finding);
    }
    if report.failures() > 0 {
        text += &failures(report);
        text += "\n";
    }
    text + &summary(report)
}

fn row([verdict, on, kind, error, bound, time, check]: [&str; 7]) -> String {
    format!("{verdict:<7}  {on:<9}  {kind:<8}  {error:>8}  {bound:>6}  {time:>11}  {check}\n")
}

fn finding_row(finding: &Finding) -> String {
    let Finding { check, verdict } = finding;
    let passed = if finding.passed() { "ok" } else { "FAILED" };
    let [error, bound, time] = match verdict {
        Ok(verdict) => numbers(verdict),
        Err(_) => ["-"; 3].map(String::from),
    };
    let kernels = verdict.as_ref().map_or(&[][..], |verdict| &verdict.kernels);
    let text = if kernels.is_empty() { check.to_string() } else { format!("{check}; {}", kernels.join(", ")) };
    row([passed, place(check), precision(check), &error, &bound, &time, &text])
}

fn numbers(verdict: &Verdict) -> [String; 3] {
    let time = format!("{:.3} ms", verdict.time.as_secs_f64() * 1e3);
    match verdict.measure {
        Measure::Exact => [verdict.error.to_string(), "exact".into(), time],
        Measure::RelativeL2 | Measure::Share => {
            [format!("{:.1e}", verdict.error), format!("{:.1e}", verdict.bound), time]
        }
    }
}

/// Who computed what was checked.
pub fn place(check: &Check) -> &'static str {
    match check {
        Check::Results(_) | Check::Rounded(..) => "device",
        Check::GradientRule(_) => "reference",
    }
}

/// The type of the numbers that were checked.
pub fn precision(check: &Check) -> &'static str {
    match check {
        Check::Results(_) => Precision::Float32.name(),
        Check::Rounded(_, precision) => precision.name(),
        Check::GradientRule(_) => "float64",
    }
}

/// What is wrong with each check that failed, and the command that runs it alone.
pub fn failures(report: &Report) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        if let Some(problem) = problem(finding) {
            // Writing to a String cannot fail.
            let _ = write!(text, "\nFAILED {}\n  {problem}\n  {}\n", finding.check, report.again(&finding.check));
        }
    }
    text
}

fn summary(report: &Report) -> String {
    let Report { device, findings, elapsed, .. } = report;
    let (failed, all) = (report.failures(), findings.len());
    let seconds = elapsed.as_secs_f64();
    format!("{} on {device}: {} passed, {failed} failed in {seconds:.1} s", count(all, "check"), all - failed)
}
