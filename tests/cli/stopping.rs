//! Ctrl-C, and readers that go away.

use super::clips;
use super::place::{CORONET, Place, sentence, tree};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A clip long enough to be stopped in the middle: one image under many names.
fn long_clip(place: &Place) -> PathBuf {
    let folder = clips::folder(place.at("clip"), &clips::frames(1));
    for index in 9..2000 {
        std::fs::hard_link(folder.join("8.png"), folder.join(format!("{index}.png"))).unwrap();
    }
    folder
}

fn start(place: &Place, input: &Path, extra: &[&str]) -> Child {
    let mut command = Command::new(CORONET);
    command.env_remove("RUST_BACKTRACE").arg("segment").arg(input);
    command.arg("--weights").arg(place.weights(1)).arg("--out").arg(place.at("out"));
    command.args(["--size", "96", "--device", "cpu"]).args(extra);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until masks lie in the hidden folder.
fn wait_for_masks(place: &Place) {
    let begun = Instant::now();
    while !tree(&place.at("out")).keys().any(|name| name.starts_with(".coronet-") && name.ends_with("masks/0001.png")) {
        assert!(begun.elapsed() < Duration::from_secs(60), "no mask after a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn press_ctrl_c(child: Child) -> Output {
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    child.wait_with_output().unwrap()
}

fn assert_stopped(output: Output) {
    assert_eq!(output.status.code(), Some(130));
    assert!(output.stdout.is_empty());
    assert_eq!(sentence(std::str::from_utf8(&output.stderr).unwrap()), "stopped before the end; nothing was written");
}

#[test]
fn ctrl_c_ends_the_run_with_130_and_leaves_nothing() {
    let place = Place::new();
    let clip = long_clip(&place);
    std::fs::create_dir(place.at("out")).unwrap();
    let child = start(&place, &clip, &[]);
    wait_for_masks(&place);
    assert_stopped(press_ctrl_c(child));
    assert!(tree(&place.at("out")).is_empty());
}

#[test]
fn ctrl_c_leaves_the_results_that_were_to_be_replaced() {
    let place = Place::new();
    let clip = long_clip(&place);
    place.segment(&clip, 1, &place.at("out")).args(["--frames", "0..2"]).assert().success();
    let before = tree(&place.at("out"));
    let child = start(&place, &clip, &["--overwrite"]);
    wait_for_masks(&place);
    assert_stopped(press_ctrl_c(child));
    assert_eq!(tree(&place.at("out")), before);
}

#[test]
fn a_killed_run_leaves_no_final_name_and_the_next_run_sweeps_up() {
    let place = Place::new();
    let clip = long_clip(&place);
    let mut child = start(&place, &clip, &[]);
    std::fs::create_dir_all(place.at("out")).unwrap();
    wait_for_masks(&place);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(tree(&place.at("out")).keys().all(|name| name.starts_with(".coronet-")));

    place.segment(&clip, 1, &place.at("out")).args(["--frames", "0..2"]).assert().success();
    assert!(!tree(&place.at("out")).keys().any(|name| name.starts_with('.')));
}

#[test]
fn a_reader_that_goes_away_is_no_reason_to_fail() {
    let place = Place::new();
    let clip = clips::folder(place.at("clip"), &clips::frames(2));
    for extra in [&["--overwrite"][..], &["--overwrite", "--json"]] {
        let mut child = start(&place, &clip, extra);
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        assert!(place.at("out/summary.json").exists());
    }
}

#[test]
fn nobody_reading_the_errors_is_no_panic() {
    let place = Place::new();
    let mut child = start(&place, &place.at("absent"), &[]);
    drop(child.stderr.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
}

#[test]
fn a_full_disk_behind_stdout_is_an_error_though_the_results_are_there() {
    let Ok(full) = File::options().write(true).open("/dev/full") else {
        eprintln!("skipped: no /dev/full on this system");
        return;
    };
    let place = Place::new();
    let clip = clips::folder(place.at("clip"), &clips::frames(2));
    let mut command = Command::new(CORONET);
    command.arg("segment").arg(&clip).arg("--weights").arg(place.weights(0)).arg("--out").arg(place.at("out"));
    let output = command.args(["--size", "96", "--device", "cpu", "--json"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = sentence(std::str::from_utf8(&output.stderr).unwrap());
    assert!(said.starts_with("cannot write to standard output: No space left on device"), "{said}");
    assert!(place.at("out/summary.json").exists());
}
