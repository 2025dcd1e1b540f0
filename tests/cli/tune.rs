//! `coronet tune` on the emulated GPU: the table that it writes, who uses it, and which files are refused.
#![cfg(feature = "emulator")]

use super::place::{CORONET, Place, sentence};
use assert_cmd::Command;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// A command that finds tables in `place` only.
fn coronet(place: &Place, arguments: &[&str]) -> Command {
    let mut command = Command::new(CORONET);
    command.env_remove("RUST_BACKTRACE").env("CORONET_TUNING", place.at("tables")).args(arguments);
    command
}

/// A network that takes no time.
const SMALL: [&str; 6] = ["--width", "4", "--n", "0", "--size", "96"];

fn tune(place: &Place, options: &[&str]) -> Command {
    coronet(place, &[&["tune", "--device", "emulated"][..], &SMALL, options].concat())
}

/// `coronet bench --json` of the same network.
fn bench(place: &Place, options: &[&str]) -> (Value, String) {
    let quick = ["--frames", "1", "--warm-up", "0", "--cold-starts", "0", "--json", "--precision", "float16"];
    let mut command = coronet(place, &[&["bench", "--device", "emulated"][..], &SMALL, &quick, options].concat());
    let output = command.output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{err}");
    (serde_json::from_slice(&output.stdout).unwrap(), err)
}

/// A check that takes no time, with a table.
fn verify(place: &Place, options: &[&str]) -> Command {
    coronet(place, &[&["verify", "--op", "^Scale", "--device", "emulated"][..], options].concat())
}

fn said(command: &mut Command) -> (String, String) {
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{err}");
    (out, err)
}

fn change(path: &Path, how: impl Fn(&mut Value)) {
    let mut document: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    how(&mut document);
    fs::write(path, document.to_string()).unwrap();
}

#[test]
fn the_table_that_is_measured_is_the_one_that_other_verbs_use() {
    let place = Place::new();
    let (out, err) = said(&mut tune(&place, &[]));
    let file = place.at("tables").join("emulated-gpu-sm_80.json");
    assert!(err.contains("coronet: the GPU is an emulated one; its times say nothing"), "{err}");
    assert!(out.starts_with("3D-2D CE-Net") || out.contains("96x96, on emulated GPU (sm_80)"), "{out}");
    assert!(out.contains(" us by the best of ") && out.contains(&format!(" in {}", file.display())), "{out}");
    let document: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!((&document["schema"], &document["device"]["architecture"]), (&"coronet/tuning".into(), &80.into()));
    for entry in document["entries"].as_array().unwrap() {
        assert!(entry["best"]["microseconds"].as_f64() < entry["rule"]["microseconds"].as_f64(), "{entry}");
        assert!(entry["best"]["way"] != entry["rule"]["way"]);
    }

    let (report, err) = bench(&place, &[]);
    let file = file.to_str().unwrap();
    assert_eq!(sentence(err.lines().next().unwrap()), format!("convolutions are cut as {file} says, where it does"));
    let ways = report["environment"]["device_facts"]["ways of convolutions"].as_str().unwrap();
    assert!(ways.starts_with(&format!("by {file} (")), "{ways}");
    let device = report["environment"]["device"].as_str().unwrap();
    assert!(device.ends_with("products in float16, tuned"), "{device}");

    let (report, err) = bench(&place, &["--tuning", "none"]);
    assert!(!err.contains("cut as"), "{err}");
    assert_eq!(report["environment"]["device_facts"]["ways of convolutions"], "by rule");
    assert!(said(&mut verify(&place, &["--quiet"])).1.is_empty());
}

/// The entry of a convolution that the small network has not.
fn entry_of_another() -> Value {
    let measured = |way: &str, us: f64| serde_json::json!({ "way": way, "microseconds": us });
    let key = serde_json::json!({
        "direction": "forward", "precision": "float16", "batch": 1, "source": [7, 7, 7], "result": [7, 7, 7],
        "kernel": [3, 3], "stride": 1, "padding": 1, "dilation": 1, "norm": false, "residual": false, "relu": false,
        "sigmoid": false, "statistics": false
    });
    serde_json::json!({ "key": key, "best": measured("tile 64x64", 1.0), "rule": measured("tile 64x32", 2.0) })
}

#[test]
fn what_a_table_says_of_other_convolutions_stays() {
    let place = Place::new();
    let file = place.at("table.json");
    let out = ["--quiet", "--out", file.to_str().unwrap()];
    said(&mut tune(&place, &out));
    change(&file, |table| {
        table["entries"] = serde_json::json!([entry_of_another()]);
        table["coronet"] = "0.0.1".into();
    });
    said(&mut tune(&place, &out));
    let table: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(table["coronet"], env!("CARGO_PKG_VERSION"), "the version that measured last");
    let sources: Vec<&Value> =
        table["entries"].as_array().unwrap().iter().map(|entry| &entry["key"]["source"]).collect();
    assert_eq!(sources[0], &serde_json::json!([7, 7, 7]));
    // Nothing was written where tables are by default.
    assert!(!place.at("tables").exists());
}

#[test]
fn what_another_process_writes_meanwhile_stays() {
    let place = Place::new();
    let [folder, other] = ["tables", "other.json"].map(|name| place.at(name));
    fs::create_dir(&folder).unwrap();
    let file = folder.join("table.json");
    let out = ["--quiet", "--out", file.to_str().unwrap()];
    said(&mut tune(&place, &out));
    change(&file, |table| table["entries"] = serde_json::json!([entry_of_another()]));
    fs::rename(&file, &other).unwrap();

    let mut command = std::process::Command::new(CORONET);
    command.env_remove("RUST_BACKTRACE").args(["tune", "--device", "emulated"]).args(SMALL).args(out);
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    // The hidden file is made after the table has been looked for.
    let begun = Instant::now();
    while fs::read_dir(&folder).unwrap().next().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(60), "nothing after a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
    fs::rename(&other, &file).unwrap();
    assert!(child.wait().unwrap().success());
    let table: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let entries = table["entries"].as_array().unwrap();
    assert!(entries.iter().any(|entry| entry["key"]["source"] == serde_json::json!([7, 7, 7])), "{table}");
}

#[test]
fn a_file_that_cannot_be_used_is_refused_where_it_was_named_and_else_left_alone() {
    let place = Place::new();
    let folder = place.at("tables");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("emulated-gpu-sm_80.json");
    let name = file.to_str().unwrap();
    said(&mut tune(&place, &["--quiet"]));
    let good = fs::read(&file).unwrap();
    type Damage = fn(&Path);
    let damages: [(Damage, &str); 5] = [
        (|path| fs::write(path, "{\"schema\"").unwrap(), "is no table of ways"),
        (|path| change(path, |it| it["schema"] = "coronet/bench".into()), "is no coronet/tuning document of version 1"),
        (|path| change(path, |it| it["schema_version"] = 2.into()), "is no coronet/tuning document of version 1"),
        (|path| change(path, |it| it["entries"] = serde_json::json!([{ "key": 1 }])), "is a damaged table of ways"),
        (
            |path| change(path, |it| it["device"]["name"] = "NVIDIA H200".into()),
            "is a table of ways of NVIDIA H200, sm_80",
        ),
    ];
    for (damage, problem) in damages {
        fs::write(&file, &good).unwrap();
        damage(&file);
        let refused = place.refusal(&mut verify(&place, &["--tuning", name]));
        assert!(refused.starts_with(name) && refused.contains(problem), "{refused}");
        let refused = place.refusal(&mut tune(&place, &["--out", name]));
        assert!(refused.contains(problem), "{refused}");
        let (_, err) = said(&mut verify(&place, &[]));
        assert!(err.contains(problem) && err.contains("convolutions are cut by rule"), "{err}");
        assert!(said(&mut verify(&place, &["--quiet"])).1.is_empty());
    }
    fs::write(&file, &good).unwrap();
    change(&file, |it| it["kernels"] = "others".into());
    for options in [&[][..], &["--tuning", name]] {
        let (_, err) = said(&mut verify(&place, options));
        assert!(err.contains("was measured with other kernels; convolutions are cut by rule"), "{err}");
    }
    let missing = place.refusal(&mut verify(&place, &["--tuning", "nowhere.json"]));
    assert!(missing.starts_with("cannot read nowhere.json"), "{missing}");
}

#[test]
fn what_has_nothing_to_choose_is_told_so() {
    let place = Place::new();
    let out = place.at("table.json");
    let out = out.to_str().unwrap();
    let refusal = |arguments: &[&str]| place.refusal(&mut coronet(&place, arguments));
    let cpu = refusal(&["tune", "--device", "cpu", "--out", out]);
    assert!(
        cpu.starts_with("there is nothing to choose on cpu") && cpu.ends_with("`coronet tune` is for GPUs"),
        "{cpu}"
    );
    let cpu = refusal(&["verify", "--op", "^Scale", "--device", "cpu", "--tuning", out]);
    assert!(cpu.contains("is for GPUs, but the device is cpu"), "{cpu}");
    let float32 = place.refusal(&mut tune(&place, &["--quiet", "--precision", "float32", "--out", out]));
    assert!(float32.contains("no convolution of the program runs on tensor cores"), "{float32}");
    let folder = place.path().to_str().unwrap();
    assert!(place.refusal(&mut tune(&place, &["--quiet", "--out", folder])).contains(folder));
}
