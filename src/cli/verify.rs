//! `coronet verify`: every operator's cases on a device, against the float64 references.

mod document;
mod junit;
mod table;

use super::device::DeviceOptions;
use super::progress::{Progress, interrupted, listen_for_ctrl_c};
use super::{count, print};
use clap::{Args, ValueHint};
use coronet::device::Device;
use coronet::new_file::NewFile;
use coronet::verify::{Check, Finding, Measure, Verdict, verify_all};
use coronet::{Error, Result};
use regex::Regex;
use std::io::{self, Write};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// Check that a device computes what it should: every operator, forward and backward, against float64 references
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    device: DeviceOptions,

    /// Only checks whose text matches this regular expression; the whole text of a check is that check alone
    #[arg(long, value_name = "REGEX")]
    op: Option<Filter>,

    /// What the data are drawn from
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,

    /// List the texts of the checks, and run none
    #[arg(long, conflicts_with_all = ["json", "junit"])]
    list: bool,

    /// Print one JSON document on stdout, and nothing else there
    #[arg(long)]
    json: bool,

    /// Write a JUnit XML report, too, once all checks have run
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    junit: Option<PathBuf>,

    /// No progress and no table, only what fails
    #[arg(long)]
    quiet: bool,
}

/// Which checks to run.
#[derive(Debug, Clone)]
struct Filter(Regex);

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Filter, String> {
        Regex::new(text).map(Filter).map_err(|error| {
            // Pictures of the place come before the reason.
            let said = error.to_string();
            said.rsplit("error: ").next().unwrap_or(&said).trim().to_owned()
        })
    }
}

impl Filter {
    fn choose(&self, checks: Vec<Check>) -> Vec<Check> {
        let named = checks.iter().find(|check| check.to_string() == self.0.as_str());
        match named {
            Some(check) => vec![check.clone()],
            None => checks.into_iter().filter(|check| self.0.is_match(&check.to_string())).collect(),
        }
    }
}

/// A run and all that its reports say.
struct Report {
    /// As it was asked for.
    options: DeviceOptions,
    /// As it describes itself.
    device: String,
    seed: u64,
    filter: Option<String>,
    findings: Vec<Finding>,
    elapsed: Duration,
}

impl Report {
    fn failures(&self) -> usize {
        self.findings.iter().filter(|finding| !finding.passed()).count()
    }

    /// The command that runs one check again, alone, for a shell.
    fn again(&self, check: &Check) -> String {
        let options: Vec<String> = self.options.words().iter().map(|word| quoted(word)).collect();
        format!("coronet verify {} --seed {} --op {}", options.join(" "), self.seed, quoted(&check.to_string()))
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_./:=-".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// What is wrong in one sentence, or `None` where nothing is.
fn problem(finding: &Finding) -> Option<String> {
    let Verdict { measure, error, bound, .. } = match &finding.verdict {
        Ok(verdict) if verdict.passed() => return None,
        Ok(verdict) => verdict,
        Err(error) => return Some(error.to_string()),
    };
    let counted = measure.name();
    Some(match measure {
        Measure::Exact => format!("{counted}: {error}"),
        Measure::RelativeL2 | Measure::Share => format!("{counted}: {error:.3e}, at most {bound:e} is allowed"),
    })
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<()> {
    listen_for_ctrl_c();
    let open = || arguments.device.open(arguments.quiet);
    run_with(arguments, &open, &mut io::stdout().lock())
}

fn run_with(arguments: &Arguments, open: &dyn Fn() -> Result<Box<dyn Device>>, out: &mut dyn Write) -> Result<()> {
    let checks = chosen(arguments.op.as_ref())?;
    if arguments.list {
        let texts: Vec<String> = checks.iter().map(Check::to_string).collect();
        return print(out, &texts.join("\n"));
    }
    // A place that cannot be written to is found before the checks run.
    let junit = arguments.junit.as_deref().map(NewFile::create).transpose()?;
    let device = open()?;
    let report = verified(arguments, &possible(checks, &*device)?, &*device)?;
    if let Some(file) = junit {
        file.complete(junit::document(&report).as_bytes())?;
    }
    if arguments.json {
        print(out, &document::document(&report)?)?;
    } else if !arguments.quiet {
        print(out, &table::table(&report))?;
    } else if report.failures() > 0 {
        print(out, &table::failures(&report))?;
    }
    match report.failures() {
        0 => Ok(()),
        failures => Err(Error::Verification(format!("{failures} of {} failed", count(report.findings.len(), "check")))),
    }
}

/// The checks to run: at least one, so that nothing passes because nothing was checked.
fn chosen(filter: Option<&Filter>) -> Result<Vec<Check>> {
    let all = Check::all()?;
    let Some(filter) = filter else { return Ok(all) };
    let chosen = filter.choose(all);
    if chosen.is_empty() {
        let pattern = filter.0.as_str();
        return Err(Error::Request(format!(
            "no check matches `{pattern}`; `coronet verify --list` lists all there are"
        )));
    }
    Ok(chosen)
}

/// The checks in precisions that the device has.
fn possible(checks: Vec<Check>, device: &dyn Device) -> Result<Vec<Check>> {
    let precisions = device.precisions();
    let possible: Vec<Check> = checks.into_iter().filter(|check| check.is_for(&precisions)).collect();
    if possible.is_empty() {
        let problem = format!("{} has none of the precisions that these checks are for", device.describe());
        return Err(Error::Device(problem));
    }
    Ok(possible)
}

fn verified(arguments: &Arguments, checks: &[Check], device: &dyn Device) -> Result<Report> {
    let progress = Progress::new("checks", arguments.quiet);
    progress.begin(checks.len());
    let begun = Instant::now();
    let findings = verify_all(checks, device, arguments.seed, &|_| {
        progress.advance();
        !interrupted()
    })?;
    Ok(Report {
        options: arguments.device.clone(),
        device: device.describe(),
        seed: arguments.seed,
        filter: arguments.op.as_ref().map(|filter| filter.0.as_str().to_owned()),
        findings,
        elapsed: begun.elapsed(),
    })
}

#[cfg(test)]
mod tests;
