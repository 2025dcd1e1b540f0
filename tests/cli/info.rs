//! `coronet info`: weights files and programs in words.

use super::place::Place;
use assert_cmd::Command;

fn info(arguments: &[&str]) -> (bool, String, String) {
    let output = Command::new(assert_cmd::cargo::cargo_bin!("coronet")).arg("info").args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

fn shown(arguments: &[&str]) -> String {
    let (success, stdout, stderr) = info(arguments);
    assert!(success && stderr.is_empty(), "{stderr}");
    stdout
}

fn refusal(arguments: &[&str]) -> String {
    let (success, stdout, stderr) = info(arguments);
    assert!(!success && stdout.is_empty(), "{stdout}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr
}

#[test]
fn a_weights_file_is_described_with_its_configuration_layers_parameters_and_cost() {
    let place = Place::new();
    let text = shown(&[place.weights(1).to_str().unwrap()]);
    assert!(text.starts_with("3D-2D CE-Net, width 4, stem half, N = 1, 1 input channel\n"), "{text}");
    assert!(text.contains("temporal.weight") && text.contains("1 x 1 x 3 x 3 x 3"), "{text}");
    assert!(text.trim_end().ends_with("57 layers, 0.11 M parameters, 0.30 GMAC a frame at 448x448"), "{text}");
}

#[test]
fn the_program_of_the_default_network_is_the_articles() {
    let text = shown(&["--program"]);
    assert!(text.starts_with("3D-2D CE-Net, width 64, stem half, N = 2, 1 input channel, 448x448\n"), "{text}");
    assert!(text.contains("73.53 GMAC") && text.contains("% saved"), "{text}");
    assert!(text.trim_end().ends_with(" launches"), "{text}");
    assert_eq!(shown(&["--program", "--width", "64", "--stem", "half", "--n", "2", "--size", "448"]), text);
}

#[test]
fn a_training_step_is_a_program_too() {
    let text = shown(&["--program", "--width", "4", "--size", "96", "--training", "2"]);
    assert!(text.contains("sgd") && text.contains("soft dice gradient"), "{text}");
}

#[test]
fn what_cannot_be_shown_is_refused_with_a_sentence() {
    assert!(refusal(&["Cargo.toml"]).contains("is not a safetensors file"));
    assert!(refusal(&["--program", "--size", "100"]).contains("multiples of 16"));
    assert!(refusal(&["--program", "--size", "4294967296"]).contains("too large"));
    assert!(refusal(&["--program", "--width", "6"]).contains("multiple of 4"));
    assert!(refusal(&["--program", "--n", "4"]).contains("0 to 3 neighbours"));
    let absurd = ["--program", "--size", "96", "--width", "4", "--training", "1000000000000000"];
    assert!(refusal(&absurd).contains("too large"));
}
