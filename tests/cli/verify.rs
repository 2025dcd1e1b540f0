//! `coronet verify`: what it prints and writes when all is well, and what it refuses.

use super::place::{CORONET, Place, sentence, tree};
use assert_cmd::Command;
use coronet::device::Device;
use coronet::device::cpu::CpuDevice;
use std::path::Path;
use std::process::Stdio;

fn verify(options: &[&str]) -> Command {
    let mut command = Command::new(CORONET);
    command.env_remove("RUST_BACKTRACE").arg("verify").args(options);
    command
}

/// What a run that passes prints; beside it a slow one says how far it is.
fn passed(options: &[&str]) -> String {
    let output = verify(options).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && err.lines().all(|line| line.contains(" checks/s, ")), "{err}");
    String::from_utf8(output.stdout).unwrap()
}

/// The texts of the checks that match.
fn listed(pattern: &str) -> Vec<String> {
    passed(&["--list", "--op", pattern]).lines().map(str::to_owned).collect()
}

const DEVICES: &[&str] = if cfg!(feature = "emulator") { &["cpu", "emulated"] } else { &["cpu"] };

#[test]
fn a_table_has_a_row_for_every_check_and_a_summary() {
    let pattern = "(^|rule of )(Conv|MaxPoolGrad) .*maps [12]x[1-9]x";
    let all = listed(pattern);
    assert!(all.len() > 30);
    for device in DEVICES {
        let of_cpu: Vec<String> = CpuDevice::new(Some(1)).unwrap().precisions().iter().map(|p| p.to_string()).collect();
        let is_run = |text: &&String| *device == "emulated" || of_cpu.iter().any(|p| p == precision(text));
        let texts: Vec<&String> = all.iter().filter(is_run).collect();
        assert_eq!(texts.len() < all.len(), *device == "cpu");
        let table = passed(&["--device", device, "--op", pattern]);
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[0].starts_with("verdict  on         type "), "{table}");
        let rows = &lines[1..lines.len() - 1];
        for (row, text) in rows.iter().zip(&texts) {
            assert!(row.starts_with("ok       ") && row.contains(&format!(" ms  {text}")), "{row}\n{text}");
            let is_rule = text.starts_with("gradient rule of ");
            let (on, kind) = if is_rule { ("reference", "float64") } else { ("device   ", precision(text)) };
            assert!(row[9..].starts_with(&format!("{on}  {kind:<8}  ")), "{row}");
            let kernels = row.split_once("; ").map_or("", |(_, kernels)| kernels);
            let families = ["conv", "max_pool_grad"].map(|family| kernels.split(", ").any(|k| k.starts_with(family)));
            assert_eq!(families.contains(&true), *device == "emulated" && !is_rule, "{row}");
        }
        assert_eq!(rows.len(), texts.len());
        let count = texts.len();
        assert!(lines[count + 1].starts_with(&format!("{count} checks on ")), "{table}");
        assert!(lines[count + 1].contains(&format!(": {count} passed, 0 failed in ")), "{table}");
    }
}

/// The precision that a check's text names.
fn precision(text: &str) -> &str {
    text.rsplit_once(" in ").map_or("float32", |(_, precision)| precision)
}

#[test]
fn the_whole_text_of_a_check_is_that_check_alone() {
    let texts = listed("^Add of scalar Integers, scalar Integers$");
    let alone = &listed("^Conv stride 1, padding 1, dilation 1 of maps 2x5x9x11 Integers")[1];
    assert_eq!(listed(alone), [alone.as_str()], "though the case with a bias begins with this text");
    assert_eq!(listed(&texts[0]), texts);
}

#[test]
fn the_json_document_says_what_was_checked_and_how_it_went() {
    for device in DEVICES {
        let text = passed(&["--device", device, "--op", "Sigmoid of", "--json", "--seed", "18446744073709551615"]);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&json["schema"], &json["schema_version"]), (&"coronet/verify".into(), &1.into()));
        assert_eq!((&json["seed"], &json["filter"]), (&u64::MAX.into(), &"Sigmoid of".into()));
        assert!(json["device"].as_str().unwrap().contains(device), "{text}");
        let cases = json["cases"].as_array().unwrap();
        let texts: Vec<&str> = cases.iter().map(|case| case["case"].as_str().unwrap()).collect();
        assert_eq!(texts, listed("Sigmoid of"));
        assert_eq!((&json["passed"], &json["failed"]), (&cases.len().into(), &0.into()));
        for case in cases {
            let number = |name: &str| case[name].as_f64().unwrap();
            assert!(number("error") <= number("bound") && number("seconds") >= 0.0, "{case}");
            assert!(case["passed"] == true && case["problem"].is_null() && case["operator"] == "Sigmoid", "{case}");
        }
        assert_eq!(cases[0]["inputs"][0]["dims"], serde_json::json!([2, 1, 7, 9]));
        assert_eq!(cases[0]["inputs"][0]["shape"], "maps 2x1x7x9");
        assert_eq!(cases[0]["type"], "float32");
    }
}

#[test]
fn the_junit_report_is_well_formed_and_counts_every_check() {
    let place = Place::new();
    let path = place.at("report.xml");
    std::fs::write(&path, "old").unwrap();
    passed(&["--device", "cpu", "--op", "Relu", "--junit", path.to_str().unwrap(), "--quiet"]);
    assert_eq!(tree(place.path()).keys().collect::<Vec<_>>(), ["report.xml"]);
    let text = std::fs::read_to_string(&path).unwrap();
    let xml = roxmltree::Document::parse(&text).unwrap();
    let cases: Vec<_> = xml.descendants().filter(|node| node.has_tag_name("testcase")).collect();
    let names: Vec<&str> = cases.iter().map(|case| case.attribute("name").unwrap()).collect();
    // A CPU keeps no maps in float16.
    let expected: Vec<String> = listed("Relu").into_iter().filter(|text| !text.ends_with(" in float16")).collect();
    assert_eq!(names, expected);
    assert!(cases.iter().all(|case| case.attribute("classname").unwrap().starts_with("Relu") && !case.has_children()));
    let root = xml.root_element();
    assert!(root.has_tag_name("testsuites"));
    for node in [root, root.first_element_child().unwrap()] {
        let counts = ["tests", "failures", "errors"].map(|name| node.attribute(name).unwrap());
        assert_eq!(counts, [&names.len().to_string(), "0", "0"]);
    }
}

#[test]
fn what_cannot_be_checked_is_refused_in_one_line() {
    let place = Place::new();
    let refusal = |options: &[&str]| place.refusal(verify(options).current_dir(place.path()));
    assert_eq!(
        refusal(&["--op", "Convolve"]),
        "no check matches `Convolve`; `coronet verify --list` lists all there are"
    );
    assert!(refusal(&["--list", "--op", "^$"]).starts_with("no check matches `^$`"));
    let sentence = refusal(&["--op", "Conv("]);
    assert!(sentence.contains("'Conv('") && sentence.contains("unclosed group; see --help"), "{sentence}");
    assert!(refusal(&["--list", "--json"]).contains("--list"));
    assert!(refusal(&["--seed", "-1"]).ends_with("see --help"));
}

#[test]
fn a_report_that_cannot_be_written_is_refused_before_anything_runs() {
    let place = Place::new();
    let refusal = |path: &Path| place.refusal(verify(&["--device", "cpu", "--op", "Relu", "--junit"]).arg(path));
    assert!(refusal(place.path()).ends_with(" is a folder; choose a file"));
    let missing = place.at("missing/report.xml");
    let sentence = refusal(&missing);
    assert!(sentence.starts_with(&format!("cannot write {}: ", missing.display())), "{sentence}");
}

#[test]
fn ctrl_c_ends_the_run_with_130_and_leaves_no_report() {
    let place = Place::new();
    let mut command = std::process::Command::new(CORONET);
    command.args(["verify", "--device", "cpu", "--junit", "report.xml"]).current_dir(place.path());
    let child = command.env_remove("RUST_BACKTRACE").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The report's hidden file is there from the start.
    let begun = std::time::Instant::now();
    while tree(place.path()).is_empty() {
        assert!(begun.elapsed().as_secs() < 60, "nothing after a minute");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(output.stdout.is_empty());
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(sentence(&err), "stopped before the end; nothing was written");
    assert!(tree(place.path()).is_empty());
}
