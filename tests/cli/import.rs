//! `coronet import`: what it makes and says, and that what it refuses leaves nothing behind.

use super::place::{CORONET, Place, tree};
use assert_cmd::Command;
use coronet::model::{Config, Stem};
use coronet::weights::Weights;
use std::fs;
use std::path::{Path, PathBuf};

fn import(place: &Place, file: &Path, extra: &[&str]) -> Command {
    let mut command = Command::new(CORONET);
    command.env_remove("RUST_BACKTRACE").current_dir(place.path()).arg("import").arg(file);
    if !extra.contains(&"--out") {
        command.args(["--out", "made.safetensors"]);
    }
    command.args(extra);
    command
}

/// A network for frames in colour, as another program would hand it on.
fn colour(place: &Place) -> PathBuf {
    let path = place.at("colour.safetensors");
    Weights::seeded(Config::new(4, Stem::Half, 1, 3).unwrap(), 3).unwrap().save(&path).unwrap();
    path
}

/// A file that PyTorch wrote.
fn pytorch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import/pytorch").join(name)
}

#[test]
fn a_network_is_imported_and_what_was_done_is_said() {
    let place = Place::new();
    let file = colour(&place);
    let tensors = Weights::load(&file).unwrap().iter().count();
    let expected = format!(
        "3D-2D CE-Net, width 4, stem half, N = 1, 3 input channels, from a 3D-2D CE-Net\n\
         {tensors} of the file's {tensors} tensors taken\nweights in made.safetensors\n"
    );
    import(&place, &file, &[]).assert().success().stdout(expected).stderr("");
    assert_eq!(Weights::load(&place.at("made.safetensors")).unwrap(), Weights::load(&file).unwrap());
    assert_eq!(tree(place.path()).len(), 2, "the file, the weights and nothing else");
}

#[test]
fn json_is_all_there_is_on_stdout_and_quiet_leaves_nothing() {
    let place = Place::new();
    let file = colour(&place);
    let output = import(&place, &file, &["--luminance", "--json"]).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
    let done: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let network = serde_json::json!({"width": 4, "stem": "half", "neighbours": 1, "in_channels": 1});
    assert_eq!(done["network"], network);
    assert_eq!((&done["source"], &done["weights"]), (&"coronet".into(), &"made.safetensors".into()));
    assert_eq!(done["tensors_taken"], done["tensors_in_file"]);
    assert_eq!(done["random"]["layers"], serde_json::json!([]));
    assert_eq!(Weights::load(&place.at("made.safetensors")).unwrap().config().in_channels(), 1);
    import(&place, &file, &["--quiet", "--overwrite"]).assert().success().stdout("").stderr("");
}

/// Other systems have no such names.
#[cfg(target_os = "linux")]
#[test]
fn a_name_that_is_no_utf_8_is_told_as_json_as_far_as_it_can_be() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let place = Place::new();
    let file = colour(&place);
    let out = OsStr::from_bytes(b"made-\xff.safetensors");
    let mut command = Command::new(CORONET);
    command.current_dir(place.path()).arg("import").arg(&file).arg("--json").arg("--out").arg(out);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let done: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(done["weights"], "made-\u{fffd}.safetensors");
    assert_eq!(Weights::load(&place.path().join(out)).unwrap(), Weights::load(&file).unwrap());
}

#[test]
fn imported_weights_segment_a_clip() {
    let place = Place::new();
    let clip = super::clips::folder(place.at("clip"), &super::clips::frames(2));
    import(&place, &colour(&place), &["--luminance"]).assert().success();
    let made = place.at("made.safetensors");
    place.segment_with(&clip, &made, &place.at("out"), 96).assert().success();
}

#[test]
fn weights_that_are_there_stay_unless_they_are_to_be_replaced() {
    let place = Place::new();
    let file = colour(&place);
    fs::write(place.at("made.safetensors"), "precious").unwrap();
    let sentence = place.refusal(&mut import(&place, &file, &[]));
    let expected = "made.safetensors is there already; choose another name, or replace it with --overwrite";
    assert_eq!(sentence, expected);
    let broken = place.at("broken.pth");
    fs::write(&broken, "no weights").unwrap();
    place.refusal(&mut import(&place, &broken, &["--overwrite"]));
    assert_eq!(fs::read(place.at("made.safetensors")).unwrap(), b"precious", "a failure replaces nothing");
    import(&place, &file, &["--overwrite"]).assert().success();
    assert!(Weights::load(&place.at("made.safetensors")).is_ok());
}

#[test]
fn a_file_that_would_run_a_command_in_python_is_refused() {
    let place = Place::new();
    for name in ["os_system.zip.pth", "os_system.legacy.pth", "os_system.protocol_4.pth"] {
        let file = pytorch(name);
        let sentence = place.refusal(&mut import(&place, &file, &[]));
        let problem = "asks Python to call posix.system; Coronet reads tensors only and runs nothing";
        assert_eq!(sentence, format!("weights {}: {problem}", file.display()));
    }
    assert!(!place.at("coronet-was-here").exists());
}

#[test]
fn what_cannot_be_imported_is_refused_with_a_sentence_and_exit_code_1() {
    let place = Place::new();
    let file = colour(&place);
    let refusal = |file: &Path, extra: &[&str]| {
        let mut command = import(&place, file, extra);
        assert_eq!(command.output().unwrap().status.code(), Some(1));
        place.refusal(&mut command)
    };
    assert!(refusal(&place.at("absent.pth"), &[]).starts_with("cannot read weights "));
    assert!(refusal(place.path(), &[]).starts_with("cannot read weights "));
    let cut = place.at("cut.pth");
    fs::write(&cut, &fs::read(pytorch("state_dict.zip.pth")).unwrap()[..2000]).unwrap();
    assert!(refusal(&cut, &[]).contains("is a zip file that cannot be read"));
    assert!(refusal(&pytorch("state_dict.zip.pth"), &[]).contains("holds no network Coronet can import"));
    assert!(refusal(&file, &["--n", "2"]).ends_with("N = 2, 3 input channels asked for"));
    let sentence = refusal(&file, &["--out", "missing/folder/w.safetensors"]);
    assert_eq!(sentence, "cannot write missing/folder/w.safetensors: No such file or directory (os error 2)");
    fs::create_dir(place.at("folder")).unwrap();
    assert!(refusal(&file, &["--out", "folder", "--overwrite"]).starts_with("folder is a folder; "));
    let sentence = place.refusal(Command::new(CORONET).current_dir(place.path()).arg("import").arg(&file));
    assert!(sentence.contains("--out"), "{sentence}");
}
