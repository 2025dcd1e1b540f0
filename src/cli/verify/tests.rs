//! Claims about the verb that need a device which computes wrongly.

use super::*;
use clap::Parser;
use coronet::device::cpu::CpuDevice;
use coronet::device::{Precision, Session};
use coronet::graph::{Shape, ValueId};
use coronet::ops::{Case, Conv, Data};
use coronet::program::{Program, Step, Target};

/// The CPU device, whose results have one number changed.
struct Wrong {
    device: CpuDevice,
    change: fn(&mut f32),
}

struct WrongSession {
    session: Box<dyn Session>,
    change: fn(&mut f32),
}

impl Target for Wrong {
    fn storage(&self, shape: Shape) -> usize {
        self.device.storage(shape)
    }

    fn workspace(&self, step: &Step, inputs: &[Shape], outputs: &[Shape]) -> usize {
        self.device.workspace(step, inputs, outputs)
    }
}

impl Device for Wrong {
    fn describe(&self) -> String {
        "a <wrong> device".into()
    }

    fn precisions(&self) -> Vec<Precision> {
        self.device.precisions()
    }

    fn precision(&self) -> Precision {
        self.device.precision()
    }

    fn fastest_precision(&self) -> (Precision, String) {
        self.device.fastest_precision()
    }

    fn with_precision(&self, precision: Precision) -> Result<Box<dyn Device>> {
        self.device.with_precision(precision)
    }

    fn load(&self, program: Program) -> Result<Box<dyn Session>> {
        Ok(Box::new(WrongSession { session: self.device.load(program)?, change: self.change }))
    }
}

impl Session for WrongSession {
    fn program(&self) -> &Program {
        self.session.program()
    }

    fn write(&mut self, value: ValueId, data: &[f32]) -> Result<()> {
        self.session.write(value, data)
    }

    fn run(&mut self) -> Result<()> {
        self.session.run()
    }

    fn run_timed(&mut self, times: &mut [Duration]) -> Result<()> {
        self.session.run_timed(times)
    }

    fn read_into(&self, value: ValueId, data: &mut [f32]) -> Result<()> {
        self.session.read_into(value, data)?;
        data.last_mut().into_iter().for_each(self.change);
        Ok(())
    }
}

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    arguments: Arguments,
}

/// What the verb prints, and its result, on a CPU device whose results are changed by `change`.
fn verified_with(change: fn(&mut f32), options: &[&str]) -> (String, Result<()>) {
    let Line { arguments } = Line::parse_from(["verify", "--device", "cpu", "--quiet"].iter().chain(options));
    let open = || -> Result<Box<dyn Device>> { Ok(Box::new(Wrong { device: CpuDevice::new(Some(1))?, change })) };
    let mut text = Vec::new();
    let done = run_with(&arguments, &open, &mut text);
    (String::from_utf8(text).unwrap(), done)
}

/// One check that is exact, and one that has a bound.
const EXACT: &str = "^Add of maps 2x5x7x3 Integers, maps 2x5x7x3 Integers$";
const BOUNDED: &str = "^Sigmoid of maps 2x1x7x9 Normal 0.0";

#[test]
fn an_untouched_device_passes() {
    for op in [EXACT, BOUNDED] {
        let (text, done) = verified_with(|_| (), &["--op", op]);
        done.unwrap();
        assert_eq!(text, "", "--quiet has nothing to say");
    }
}

#[test]
fn one_wrong_number_fails_and_a_nan_does_too() {
    let changes: [fn(&mut f32); 4] =
        [|x| *x += 1.0, |x| *x = f32::from_bits(x.to_bits() ^ 0x2000), |x| *x = f32::NAN, |x| *x = f32::INFINITY];
    for (index, change) in changes.into_iter().enumerate() {
        for op in [EXACT, BOUNDED] {
            let (text, done) = verified_with(change, &["--op", op]);
            let error = done.unwrap_err();
            assert!(matches!(error, Error::Verification(_)), "{index}, {op}: {error}");
            assert_eq!(error.to_string(), "1 of 1 check failed");
            assert!(text.contains("\nFAILED "), "{index}, {op}: {text}");
        }
    }
}

#[test]
fn what_a_tolerance_has_judged_is_not_called_exact() {
    // Whole numbers by tiles of 4x4 results, which may lose digits.
    let filter = Shape::Filter { outputs: 24, inputs: 16, height: 3, width: 3 };
    let conv = Conv { stride: 1, padding: 2, dilation: 1 };
    let case = Case::new(conv, &[Shape::maps(2, 16, 13, 14), filter], Data::Integers);
    let Line { arguments } = Line::parse_from(["verify", "--device", "cpu", "--quiet"]);
    let report = verified(&arguments, &[Check::Results(case)], &CpuDevice::new(Some(1)).unwrap()).unwrap();
    assert_eq!(report.failures(), 0);
    let text = table::table(&report);
    assert!(text.contains("\nok ") && !text.contains("exact"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&document::document(&report).unwrap()).unwrap();
    assert_eq!(json["cases"][0]["measure"], "relative L2 error");
    assert!(json["cases"][0]["bound"].as_f64().is_some_and(|bound| bound > 0.0), "{json}");
    // The same verdict with a larger error.
    let failed = |verdict: Verdict| Finding {
        check: report.findings[0].check.clone(),
        verdict: Ok(Verdict { error: 0.5, bound: 0.25, ..verdict }),
    };
    let verdict = report.findings[0].verdict.as_ref().unwrap().clone();
    assert_eq!(problem(&failed(verdict)).unwrap(), "relative L2 error: 5.000e-1, at most 2.5e-1 is allowed");
}

#[test]
fn what_failed_is_printed_as_the_command_that_runs_it_alone() {
    let (text, done) = verified_with(|x| *x += 1.0, &["--op", "^(Add|Relu) of", "--seed", "7"]);
    assert!(done.unwrap_err().to_string().ends_with(" failed"));
    let commands: Vec<&str> = text.lines().filter_map(|line| line.trim().strip_prefix("coronet verify ")).collect();
    assert!(commands.len() > 2, "{text}");
    for command in commands {
        let filter = command.strip_prefix("--device cpu --seed 7 --op '").unwrap().strip_suffix('\'').unwrap();
        let chosen = chosen(Some(&filter.parse().unwrap())).unwrap();
        assert_eq!(chosen.iter().map(Check::to_string).collect::<Vec<_>>(), [filter]);
    }
}

#[test]
fn the_command_is_what_a_shell_takes_apart_as_it_was_given() {
    for (word, expected) in [
        ("--device", "--device"),
        ("tables/h100_80gb.json", "tables/h100_80gb.json"),
        ("cuda:1", "cuda:1"),
        ("", "''"),
        ("my tables", "'my tables'"),
        ("$(x)*", "'$(x)*'"),
        ("~/é", "'~/é'"),
        ("it's", r"'it'\''s'"),
    ] {
        assert_eq!(quoted(word), expected);
    }
    let (text, done) = verified_with(|x| *x += 1.0, &["--op", EXACT, "--tuning", "my tables/it's.json"]);
    done.unwrap_err();
    let command = r"coronet verify --device cpu --tuning 'my tables/it'\''s.json' --seed 1 --op 'Add of maps 2x5x7x3 ";
    assert!(text.contains(command), "{text}");
}

#[test]
fn reports_hold_the_failures_with_their_reasons() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("junit.xml");
    let options = ["--json", "--op", "(^|rule of )(Add|Sigmoid) of", "--junit", path.to_str().unwrap()];
    let (text, done) = verified_with(|x| *x = f32::NAN, &options);
    done.unwrap_err();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let cases = json["cases"].as_array().unwrap();
    let wrong = |case: &&serde_json::Value| case["passed"] == false;
    assert_eq!(json["failed"], cases.iter().filter(wrong).count());
    assert!(cases.iter().all(|case| (case["on"] == "reference") == (case["passed"] == true)), "{text}");
    let bounded = cases.iter().filter(wrong).find(|case| case["operator"] == "Sigmoid").unwrap();
    assert!(bounded["error"].is_null(), "{bounded}");
    assert_eq!(bounded["problem"], "relative L2 error: NaN, at most 1e-5 is allowed");

    let xml = std::fs::read_to_string(&path).unwrap();
    let document = roxmltree::Document::parse(&xml).unwrap();
    let failures: Vec<_> = document.descendants().filter(|node| node.has_tag_name("failure")).collect();
    assert_eq!(json["failed"], failures.len());
    assert!(
        failures.iter().all(|node| node.text().unwrap().starts_with("coronet verify --device cpu --seed 1 --op '"))
    );
    let suite = document.descendants().find(|node| node.has_tag_name("testsuite")).unwrap();
    assert_eq!(suite.attribute("name"), Some("a <wrong> device"));
}

#[test]
fn a_device_that_fails_is_a_finding_like_any_other() {
    let Line { arguments } = Line::parse_from(["verify", "--device", "cpu", "--op", BOUNDED]);
    let failing = || -> Result<Box<dyn Device>> { Ok(Box::new(Failing(CpuDevice::new(Some(1))?))) };
    let mut text = Vec::new();
    assert!(run_with(&arguments, &failing, &mut text).is_err());
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("\n  it fell off the bus\n  coronet verify "), "{text}");
    assert!(text.trim_end().contains("1 check on a failing device: 0 passed, 1 failed in "), "{text}");
}

struct Failing(CpuDevice);

impl Target for Failing {
    fn storage(&self, shape: Shape) -> usize {
        self.0.storage(shape)
    }

    fn workspace(&self, step: &Step, inputs: &[Shape], outputs: &[Shape]) -> usize {
        self.0.workspace(step, inputs, outputs)
    }
}

impl Device for Failing {
    fn describe(&self) -> String {
        "a failing device".into()
    }

    fn precisions(&self) -> Vec<Precision> {
        self.0.precisions()
    }

    fn precision(&self) -> Precision {
        self.0.precision()
    }

    fn fastest_precision(&self) -> (Precision, String) {
        self.0.fastest_precision()
    }

    fn with_precision(&self, precision: Precision) -> Result<Box<dyn Device>> {
        self.0.with_precision(precision)
    }

    fn load(&self, _: Program) -> Result<Box<dyn Session>> {
        Err(Error::Device("it fell off the bus".into()))
    }
}
