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

/// The launches of a GPU's program: header and rows, and the last line.
#[cfg(feature = "cuda")]
fn launches(arguments: &[&str]) -> Option<(Vec<String>, String)> {
    let built_for = env!("CORONET_KERNELS_FOR");
    if !built_for.split(", ").any(|name| name.starts_with("90")) {
        println!("skipped: this build has code for {built_for} only");
        return None;
    }
    let text = shown(&[&["--program", "--arch", "90a"], arguments].concat());
    let mut lines: Vec<String> = text.trim_end().lines().map(str::to_owned).collect();
    let last = lines.pop().unwrap();
    Some((lines, last))
}

/// What a frame costs on a GPU. A change that launches more, or that has a kernel take more of a multiprocessor, shows.
#[cfg(feature = "cuda")]
#[test]
fn the_launches_of_a_frame_and_their_occupancy_are_known() {
    let Some((lines, last)) = launches(&[]) else { return };
    assert_eq!(lines[0], "3D-2D CE-Net, width 64, stem half, N = 2, 1 input channel, 448x448, float32");
    assert_eq!(lines[1], "sm_90; waves are those of 132 multiprocessors (H100 SXM, H200)");
    let heads: Vec<&str> = lines[2].split_whitespace().collect();
    assert_eq!(heads, ["step", "node", "kernel", "grid", "threads", "registers", "shared", "blocks/SM", "waves"]);
    let rows = &lines[3..lines.len() - 1];
    assert_eq!(last, format!("{} launches", rows.len()));
    assert_eq!(rows.len(), LAUNCHES_FLOAT32);
    for row in rows {
        let words: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(words.len(), heads.len(), "{row}");
        let [threads, registers, blocks]: [u32; 3] = [4, 5, 7].map(|at| words[at].parse().unwrap());
        assert!(blocks >= 1 && threads <= 1024 && registers <= 255, "{row}");
        // Of 2048 threads at least a quarter.
        assert!(blocks * threads >= 512, "{row}");
    }
    assert!(lines[lines.len() - 1].starts_with("73.53 GMAC, 147.88 GFLOP, 1136.3 MB moved at least"), "{lines:?}");
    let float16 = launches(&["--precision", "float16"]).unwrap();
    // And two conversions to float16: what lies beyond its range is float32.
    assert_eq!(float16.1, format!("{} launches", rows.len() + 2));
    // The large maps are cut into patches, and are half as large.
    assert!(float16.0.iter().any(|row| row.contains(" conv_patches_float16_128x64_to_float16 ")), "{:?}", float16.0);
    assert!(float16.0[float16.0.len() - 1].contains(" 587.7 MB moved at least"), "{:?}", float16.0);
}

/// A launch for each convolution with all that follows it, and for the pool, the multi-kernel pooling and a ReLU. Five more
/// take a frame in and make a mask.
#[cfg(feature = "cuda")]
const LAUNCHES_FLOAT32: usize = 62;

#[test]
fn architectures_that_cannot_be_planned_for_are_refused() {
    let unknown = refusal(&["--program", "--arch", "70"]);
    assert!(
        unknown.contains(if cfg!(feature = "cuda") { "no code for sm_70" } else { "no code for GPUs" }),
        "{unknown}"
    );
    assert!(refusal(&["--program", "--arch", "hopper"]).contains("an architecture is a number"));
    assert!(refusal(&["--arch", "90"]).contains("see --help"));
}
