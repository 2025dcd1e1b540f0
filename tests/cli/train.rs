//! `coronet train`: a run that is killed goes on to the same bits, and what it refuses.

use super::place::{CORONET, Place, sentence, tree};
use coronet::weights::Weights;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Three clips of the phantom, six frames each.
fn data_set(place: &Place) {
    let options = ["--clips", "3", "--frames", "6", "--size", "96", "--start", "1", "--no-video", "--quiet"];
    let drawn = Command::new(CORONET).current_dir(place.path()).args(["phantom", "data"]).args(options).status();
    assert!(drawn.unwrap().success());
}

fn train(place: &Place, arguments: &[&str]) -> Command {
    let mut command = Command::new(CORONET);
    command.env_remove("RUST_BACKTRACE").current_dir(place.path()).args(["train", "data", "--device", "cpu"]);
    command.args(["--threads", "1"]).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A network and a recipe that take a second or so.
const SMALL: [&str; 10] = ["--width", "4", "--n", "1", "--size", "96", "--batch", "2", "--epochs", "3"];

fn done(mut command: Command) -> Output {
    command.output().unwrap()
}

fn refused(command: Command) -> String {
    let output = done(command);
    assert!(!output.status.success());
    assert!(output.stdout.is_empty());
    sentence(std::str::from_utf8(&output.stderr).unwrap()).to_owned()
}

fn weights(place: &Place, file: &str) -> Weights {
    Weights::load(&place.at(file)).unwrap()
}

/// Waits for so long, or until the process has ended by itself.
fn ended_within(child: &mut Child, patience: Duration) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < patience {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success());
            return true;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    false
}

#[test]
fn a_run_that_is_killed_at_any_moment_goes_on_to_the_same_bits() {
    let place = Place::new();
    data_set(&place);
    let begun = Instant::now();
    let output = done(train(&place, &[&SMALL[..], &["--out", "whole"]].concat()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let whole = begun.elapsed();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.starts_with("3 epochs with 24 steps; the best was epoch "), "{said}");

    // Moments that do not repeat from run to run: whatever they are, the bits must be the same.
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let mut random = u64::from(clock.subsec_nanos()) | 1;
    let (mut kills, mut moments) = (0, Vec::new());
    loop {
        // Until the configuration is there, nothing has begun.
        let resume = place.at("killed/config.json").exists();
        let how = if resume { vec!["--resume"] } else { SMALL.to_vec() };
        let quick = ["--out", "killed", "--checkpoint-every", "0", "--workers", "1"];
        let mut child = train(&place, &[&how[..], &quick].concat()).spawn().unwrap();
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let moment = whole.mul_f64((random >> 40) as f64 / (1u64 << 24) as f64);
        moments.push(moment);
        let patience = if kills < 8 { moment } else { Duration::from_secs(120) };
        // Once at least there is something to go on from.
        let first = place.at("killed/checkpoint.safetensors");
        while kills == 0 && !first.exists() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        if kills > 0 && ended_within(&mut child, patience) {
            break;
        }
        assert!(kills < 8, "did not end");
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    println!("killed {kills} times, after {moments:?} of {whole:?}");
    assert!(kills > 0);
    for file in ["last.safetensors", "best.safetensors"] {
        assert!(weights(&place, &format!("whole/{file}")) == weights(&place, &format!("killed/{file}")), "{moments:?}");
    }
    let rows = |run: &str| {
        let table = std::fs::read_to_string(place.at(run).join("metrics.csv")).unwrap();
        // All but how long it took.
        table.lines().map(|line| line.split(',').take(11).collect::<Vec<_>>().join(",")).collect::<Vec<_>>()
    };
    assert_eq!(rows("whole"), rows("killed"));
    assert_eq!(rows("whole").len(), 4);
    assert!(!tree(&place.at("killed")).keys().any(|name| name.ends_with(".part")));
}

#[test]
fn ctrl_c_finishes_the_step_saves_and_says_how_to_go_on() {
    let place = Place::new();
    data_set(&place);
    let child = train(&place, &[&SMALL[..8], &["--epochs", "1000", "--out", "run"]].concat()).spawn().unwrap();
    let begun = Instant::now();
    while !place.at("run/metrics.csv").exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "no epoch after a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let said = String::from_utf8(output.stderr).unwrap();
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("coronet: stopped after step ") && last.ends_with("go on with --resume (run)"), "{said}");
    assert!(place.at("run/checkpoint.safetensors").exists());
}

#[test]
fn runs_that_cannot_be_are_refused_before_a_folder_is_made() {
    let place = Place::new();
    data_set(&place);
    let said = |arguments: &[&str]| refused(train(&place, &[arguments, &["--out", "run"]].concat()));
    assert_eq!(said(&["--resume"]), "run holds no run to go on with: it has no config.json");
    assert_eq!(said(&["--epochs", "0"]), "the number of epochs must be at least 1");
    assert_eq!(said(&["--rate", "-1"]), "the learning rate must be above 0, not -1");
    assert_eq!(said(&["--folds", "4", "--fold", "0"]), "4 folds need as many clips, and data has 3");
    assert!(said(&["--size", "100"]).contains("100"));
    assert!(said(&["--resume", "--epochs", "2"]).contains("--epochs"));
    assert!(said(&["--init", "absent.safetensors"]).starts_with("cannot read weights "));
    assert!(said(&["--precision", "float16"]).contains(" does not multiply in float16: "));
    std::fs::remove_file(place.at("data/phantom-0001/frames/0003.png")).unwrap();
    assert!(said(&[]).contains("data/phantom-0001/frames: frame 3 is missing"), "{}", said(&[]));
    assert!(!place.at("run").exists());
    let absent = Command::new(CORONET).args(["train", "absent", "--out", "run"]).current_dir(place.path()).output();
    assert!(sentence(std::str::from_utf8(&absent.unwrap().stderr).unwrap()).starts_with("cannot read absent"));
}

/// Other systems have no such names.
#[cfg(target_os = "linux")]
#[test]
fn paths_that_the_configuration_cannot_hold_are_refused_before_a_folder_is_made() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let place = Place::new();
    data_set(&place);
    let odd = place.path().join(OsStr::from_bytes(b"odd-\xff"));
    std::fs::create_dir(&odd).unwrap();
    let is_refused = |within: &Path, data: &Path, options: &[&OsStr], name: &str| {
        let mut command = Command::new(CORONET);
        command.env_remove("RUST_BACKTRACE").current_dir(within).args(["train", "--device", "cpu", "--size", "96"]);
        let output = command.arg(data).args(["--out", "run"]).args(options).output().unwrap();
        let said = sentence(std::str::from_utf8(&output.stderr).unwrap()).to_owned();
        let expected = format!("odd-\u{fffd}/{name} is no UTF-8, which config.json has to be; choose another");
        assert!(said.ends_with(&expected), "{said}");
        assert!(!output.status.success() && output.stdout.is_empty());
        assert!(!within.join("run").exists());
    };
    std::fs::rename(place.weights(1), odd.join("w.safetensors")).unwrap();
    let init = odd.join("w.safetensors");
    is_refused(place.path(), Path::new("data"), &[OsStr::new("--init"), init.as_os_str()], "w.safetensors");
    std::fs::rename(place.at("data"), odd.join("data")).unwrap();
    is_refused(place.path(), &odd.join("data"), &[], "data");
    is_refused(&odd, Path::new("data"), &[], "data");
}

#[test]
fn a_run_does_not_go_on_with_other_frames_or_in_a_folder_in_use() {
    let place = Place::new();
    data_set(&place);
    let arguments = [&SMALL[..8], &["--epochs", "1", "--quiet", "--out", "run"]].concat();
    let output = done(train(&place, &arguments));
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty());
    assert_eq!(refused(train(&place, &arguments)), "run holds a run; go on with --resume, or choose another folder");
    // All is done: to go on changes nothing.
    let before = weights(&place, "run/last.safetensors");
    assert!(done(train(&place, &["--resume", "--out", "run"])).status.success());
    assert!(weights(&place, "run/last.safetensors") == before);

    // Without its checkpoint it would begin again in the place of what it has learned.
    std::fs::rename(place.at("run/checkpoint.safetensors"), place.at("checkpoint")).unwrap();
    assert_eq!(
        refused(train(&place, &["--resume", "--out", "run"])),
        "run holds last.safetensors, but no checkpoint.safetensors to go on from; begin another run, with --init \
         last.safetensors perhaps"
    );
    assert!(weights(&place, "run/last.safetensors") == before);
    std::fs::rename(place.at("checkpoint"), place.at("run/checkpoint.safetensors")).unwrap();

    let file = |name: &str| std::fs::read_to_string(place.at("run").join(name)).unwrap();
    let configuration: serde_json::Value = serde_json::from_str(&file("config.json")).unwrap();
    assert_eq!(configuration["settings"]["seed"], 1);
    assert_eq!(configuration["settings"]["recipe"]["epochs"], 1);
    let split: serde_json::Value = serde_json::from_str(&file("split.json")).unwrap();
    assert_eq!(split["test"].as_array().unwrap().len(), 3);
    assert!(file("log.txt").contains(" epoch 1: loss "));
    for picture in ["loss.svg", "iou.svg"] {
        assert!(file(picture).contains("<svg"));
    }

    std::fs::remove_dir_all(place.at("data/phantom-0002")).unwrap();
    let said = refused(train(&place, &["--resume", "--out", "run"]));
    assert_eq!(said, "data does not hold the frames any more that the run began with, see run/split.json");
    assert!(Path::new(&place.at("run/best.safetensors")).exists());
}

#[test]
fn a_run_goes_on_without_the_file_it_started_from_and_without_what_a_killed_one_was_writing() {
    let place = Place::new();
    data_set(&place);
    let output = done(train(&place, &[&SMALL[..8], &["--epochs", "1", "--quiet", "--out", "first"]].concat()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::rename(place.at("first/best.safetensors"), place.at("start.safetensors")).unwrap();
    let arguments = ["--init", "start.safetensors", "--size", "96", "--batch", "2", "--epochs", "1", "--out", "run"];
    let output = done(train(&place, &arguments));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::remove_file(place.at("start.safetensors")).unwrap();
    std::fs::write(place.at("run/.coronet-abc"), "half a checkpoint").unwrap();
    let output = done(train(&place, &["--resume", "--out", "run"]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!place.at("run/.coronet-abc").exists());
}

#[test]
fn a_frame_of_the_test_part_that_cannot_be_read_costs_none_of_the_steps_before_it() {
    let place = Place::new();
    data_set(&place);
    // Which frames those are.
    let output = done(train(&place, &[&SMALL[..8], &["--epochs", "1", "--quiet", "--out", "first"]].concat()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let split = std::fs::read_to_string(place.at("first/split.json")).unwrap();
    let split: serde_json::Value = serde_json::from_str(&split).unwrap();
    let (clip, frame) = (split["test"][0]["clip"].as_str().unwrap(), split["test"][0]["frames"][0].as_str().unwrap());
    let label = place.at(&format!("data/{clip}/labels/{frame}"));
    let whole = std::fs::read(&label).unwrap();
    std::fs::write(&label, &whole[..whole.len() / 2]).unwrap();
    let said = refused(train(&place, &[&SMALL[..], &["--quiet", "--out", "run"]].concat()));
    assert!(said.contains("labels"), "{said}");
    std::fs::write(&label, &whole).unwrap();
    let output = done(train(&place, &["--resume", "--out", "run"]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let log = std::fs::read_to_string(place.at("run/log.txt")).unwrap();
    assert!(log.contains(" goes on at step 8 of 24: "), "{log}");
}

/// A file system that is full: the run stops with one sentence, and what it had saved is whole.
#[test]
fn a_full_disk_is_one_sentence_and_costs_nothing_that_was_saved() {
    let place = Place::new();
    data_set(&place);
    // A limit on the size of files does what a full disk does: a write fails half-way. The checkpoint needs more.
    let script = format!(
        "trap '' XFSZ; ulimit -f 1000; exec {CORONET} train data --device cpu --threads 1 {} --out run --quiet",
        SMALL.join(" ")
    );
    let output = Command::new("bash").args(["-c", &script]).current_dir(place.path()).output().unwrap();
    assert!(!output.status.success());
    let said = sentence(std::str::from_utf8(&output.stderr).unwrap()).to_owned();
    assert!(said.starts_with("cannot write run/checkpoint.safetensors: "), "{said}");
    assert!(!place.at("run/checkpoint.safetensors").exists());
    assert!(tree(&place.at("run")).keys().all(|name| !name.starts_with(".coronet-")));
    let output = done(train(&place, &["--resume", "--out", "run"]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The kernels' whole training step, through the run's own code: the same losses, and nearly the same weights.
#[cfg(feature = "emulator")]
#[test]
fn the_emulated_gpu_trains_as_the_cpu_does() {
    let place = Place::new();
    let options = ["--clips", "2", "--frames", "1", "--size", "96", "--start", "1", "--no-video", "--quiet"];
    let drawn = Command::new(CORONET).current_dir(place.path()).args(["phantom", "data"]).args(options).status();
    assert!(drawn.unwrap().success());
    let losses = ["cpu", "emulated"].map(|device| {
        let mut command = Command::new(CORONET);
        command
            .current_dir(place.path())
            .args(["train", "data", "--all", "--out", device, "--device", device, "--quiet"]);
        command.args(["--width", "4", "--size", "96", "--batch", "1", "--epochs", "1"]);
        let output = done(command);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let metrics = std::fs::read_to_string(place.at(device).join("metrics.csv")).unwrap();
        let loss = metrics.lines().last().unwrap().split(',').nth(3).unwrap().parse::<f64>().unwrap();
        assert!(loss > 0.0, "{metrics}");
        loss
    });
    assert!((losses[0] - losses[1]).abs() < 1e-4 * losses[0], "{losses:?}");
    let [cpu, emulated] = ["cpu", "emulated"].map(|device| weights(&place, &format!("{device}/last.safetensors")));
    let (mut apart, mut whole) = (0.0, 0.0);
    for ((name, ours), (other, theirs)) in cpu.iter().zip(emulated.iter()) {
        assert_eq!(name, other);
        for (&a, &b) in ours.data().iter().zip(theirs.data()) {
            apart += f64::from(a - b).powi(2);
            whole += f64::from(a).powi(2);
        }
    }
    // AdamW divides by the root of its second moment: where a gradient is nearly zero, rounding decides a step's sign.
    assert!((apart / whole).sqrt() < 1e-3, "{}", (apart / whole).sqrt());
}
