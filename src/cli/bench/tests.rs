use super::*;
use clap::Parser;
use coronet::device::cpu::CpuDevice;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    arguments: Arguments,
}

fn arguments(extra: &[&str]) -> Arguments {
    let small = ["bench", "--width", "4", "--n", "1", "--size", "96", "--quiet", "--device", "cpu", "--threads", "1"];
    let quick = ["--frames", "3", "--warm-up", "1", "--cold-starts", "0"];
    Line::parse_from(small.iter().chain(&quick).chain(extra)).arguments
}

#[test]
fn the_report_holds_every_sample_and_what_follows_from_them() {
    let report = measured(&arguments(&["--mode", "flushed,warm", "--frame", "64x48"])).unwrap();
    let document = serde_json::to_value(&report).unwrap();
    assert_eq!(document["schema"], "coronet/bench");
    assert_eq!(document["schema_version"], 1);
    assert_eq!(document["config"]["width"], 4);
    assert_eq!(document["config"]["frame"], serde_json::json!({"width": 64, "height": 48}));
    assert_eq!(document["config"]["device"], "cpu");
    let modes = document["modes"].as_array().unwrap();
    assert_eq!(modes.iter().map(|mode| &mode["mode"]).collect::<Vec<_>>(), ["flushed", "warm"]);
    let first = &modes[0]["metrics"][0];
    assert_eq!(first["name"], "end_to_end");
    let mut samples: Vec<f64> = serde_json::from_value(first["samples_ms"].clone()).unwrap();
    samples.sort_by(f64::total_cmp);
    assert_eq!(samples.len(), 3);
    assert_eq!(document["median_ms"], samples[1], "of the first mode");
    assert_eq!((&first["min"], &first["p99"]), (&samples[0].into(), &samples[2].into()));
    let ms =
        |rows: &serde_json::Value| rows.as_array().unwrap().iter().map(|row| row["ms"].as_f64().unwrap()).sum::<f64>();
    let (kernels, steps) = (ms(&document["kernels"]), ms(&document["steps"]));
    assert!(steps > 0.0 && (kernels - steps).abs() < 1e-6 * steps, "{kernels} {steps}");
    assert!(document["kernels"][0]["share_of_ceiling"].as_f64().is_some_and(|share| share > 0.0));
    assert!(document["cold_start"].is_null());
    assert!(document["peak_resident_bytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20));
}

#[test]
fn the_table_has_every_percentile_and_every_kernel() {
    let report = measured(&arguments(&[])).unwrap();
    let text = table::table(&report, false);
    for head in ["min", "mean", "median", "p90", "p95", "p99", "max"] {
        assert!(text.contains(head), "{head} in {text}");
    }
    assert!(text.contains("end to end"), "{text}");
    assert!(text.contains("\nconv + relu "), "{text}");
    assert!(!text.contains("encoder1.0.conv1"), "{text}");
    assert!(table::table(&report, true).contains("encoder1.0.conv1  conv "));
    assert!(text.contains("GFLOP/s in registers"), "{text}");
    assert!(!text.contains("cold start"), "none was asked for: {text}");
    assert!(!text.contains("of the device's"), "a CPU has no memory of its own: {text}");
    let report = Report { device_memory_bytes: Some(321_000_000), ..report };
    let text = table::table(&report, false);
    assert!(text.contains(", of the device's 321 MB; the network's arena: "), "{text}");
}

#[test]
fn a_99th_percentile_above_the_limit_is_an_error() {
    let report = measured(&arguments(&[])).unwrap();
    let p99 = report.modes[0].metric("end_to_end").unwrap().latency.p99;
    check_p99(&report, None).unwrap();
    check_p99(&report, Some(Milliseconds(p99))).unwrap();
    let problem = check_p99(&report, Some(Milliseconds(0.999 * p99))).unwrap_err().to_string();
    assert!(problem.starts_with("the 99th percentile is ") && problem.ends_with(" ms allowed"), "{problem}");
}

#[test]
fn two_documents_are_compared_and_differences_named() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = ["a.json", "b.json"].map(|name| folder.path().join(name));
    let mut report = measured(&arguments(&[])).unwrap();
    report.device_memory_bytes = Some(300_000_000);
    std::fs::write(&a, serde_json::to_string(&report).unwrap()).unwrap();
    report.config.width = 8;
    report.environment.governor = Some("another".into());
    // What is another one each time.
    report.environment.date = "another".into();
    report.environment.load_average = Some(1234.5);
    report.environment.processor_mhz = Some(1234.5);
    for metric in &mut report.modes[0].metrics {
        metric.latency.median *= 2.0;
    }
    report.peak_resident_bytes = None;
    report.device_memory_bytes = Some(150_000_000);
    std::fs::write(&b, serde_json::to_string(&report).unwrap()).unwrap();
    let text = compare::compared(&a, &b).unwrap();
    assert!(text.contains("width differs: A 4, B 8\n"), "{text}");
    let differing: Vec<&str> = text.lines().filter_map(|line| Some(line.split_once(" differs: ")?.0)).collect();
    assert_eq!(differing, ["width", "governor"], "{text}");
    let row = text.lines().find(|line| line.starts_with("warm end_to_end")).unwrap();
    let numbers: Vec<f64> = row.split_whitespace().skip(2).map(|word| word.parse().unwrap()).collect();
    assert_eq!((numbers[2], numbers[5]), (2.0, 1.0), "{row}");
    assert!(!text.contains("peak memory"), "{text}");
    assert!(text.ends_with("device memory, MB            300.0      150.0    0.500"), "{text}");

    let report = measured(&arguments(&["--mode", "flushed"])).unwrap();
    std::fs::write(&b, serde_json::to_string(&report).unwrap()).unwrap();
    assert!(compare::compared(&a, &b).unwrap_err().to_string().ends_with("have no mode in common"));
}

#[test]
fn what_is_no_such_document_is_refused_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.json");
    let refused = |text: &str| {
        std::fs::write(&path, text).unwrap();
        compare::compared(&path, &path).unwrap_err().to_string()
    };
    assert!(refused("{").contains("is not JSON"));
    assert!(refused("{}").contains("is no coronet/bench document of version 1"));
    assert!(refused(r#"{"schema": "coronet/bench", "schema_version": 2}"#).contains("of version 1"));
    assert!(refused(r#"{"schema": "coronet/bench", "schema_version": 1}"#).contains("is no complete"));
    let missing = compare::compared(&folder.path().join("b.json"), &path).unwrap_err().to_string();
    assert!(missing.starts_with("cannot read "), "{missing}");
}

#[test]
fn rates_and_limits_that_make_no_sense_are_refused() {
    for number in ["0", "-1", "NaN", "inf", "x"] {
        assert!(number.parse::<Milliseconds>().is_err() && number.parse::<FramesPerSecond>().is_err(), "{number}");
    }
    assert!("1e-300".parse::<FramesPerSecond>().is_err());
}

#[test]
fn the_processes_first_mask_is_found_in_what_it_says() {
    let said = cold_start::first_mask(&arguments(&[])).unwrap();
    assert!(said.starts_with("first mask: ") && said.contains(" vessel pixels, resident bytes "), "{said}");
    let weights = arguments(&[]).weights().unwrap();
    let device = CpuDevice::new(Some(1)).unwrap();
    assert!(arguments(&[]).bench(&weights, &device).is_ok());
}
