//! The binary's manners: exit codes, one line on stderr, nothing left behind.

use assert_cmd::Command;
use predicates::prelude::*;

fn coronet() -> Command {
    Command::cargo_bin("coronet").unwrap()
}

fn segment(extra: &[&str]) -> Command {
    let mut command = coronet();
    command.args(["segment", "no_such_clip.dcm", "--weights", "w.safetensors", "--out", "out"]).args(extra);
    command.current_dir(std::env::temp_dir());
    command
}

#[test]
fn wrong_usage_exits_with_2_and_says_what_is_wrong() {
    for (arguments, problem) in [
        (&["--threshold", "1.5"][..], "a threshold lies between 0 and 1, not 1.5"),
        (&["--threshold", "NaN"], "a threshold lies between 0 and 1, not NaN"),
        (&["--threshold", "-0.5"], "a threshold lies between 0 and 1, not -0.5"),
        (&["--min-area", "half"], "'half' is not an area"),
        (&["--min-area", "-3"], "'-3' is not an area"),
        (&["--frames", "7"], "'7' is not a range of frames such as 10..20"),
        (&["--size", "0"], "number would be zero"),
        (&["--threads", "0"], "number would be zero"),
        (&["--device", "abacus"], "a device is auto, cuda, cuda:1"),
    ] {
        segment(arguments).assert().code(2).stdout("").stderr(predicate::str::contains(problem));
    }
    coronet().assert().code(2);
    coronet().args(["segment"]).assert().code(2).stderr(predicate::str::contains("<INPUT>"));
    coronet().args(["segment", "clip.dcm"]).assert().code(2).stderr(predicate::str::contains("--out <DIR>"));
}

#[test]
fn a_clip_that_is_not_there_is_one_line_and_exit_code_1() {
    let place = tempfile::tempdir().unwrap();
    let out = segment(&[]).current_dir(place.path()).assert().code(1).stdout("");
    let line = String::from_utf8(out.get_output().stderr.clone()).unwrap();
    assert!(line.starts_with("coronet: ") && line.contains("no_such_clip.dcm"), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(std::fs::read_dir(place.path()).unwrap().next().is_none(), "something was left behind");
}

#[test]
fn help_and_version_go_to_stdout() {
    coronet().arg("--version").assert().success().stdout(format!("coronet {}\n", env!("CARGO_PKG_VERSION")));
    coronet()
        .args(["segment", "--help"])
        .assert()
        .success()
        .stdout(predicate::str::contains("--min-area <AREA>").and(predicate::str::contains("A..B")));
}
