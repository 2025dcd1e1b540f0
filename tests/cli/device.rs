//! `--device`: what each name gives, and what is said where it cannot be had.

use super::clips;
use super::place::{CORONET, Place};
use assert_cmd::Command;
use coronet::device::cpu::CpuDevice;
use coronet::device::{Device, Precision};

/// `coronet verify` of one small operator on `device`.
fn verify_on(device: &str) -> Command {
    let mut command = Command::new(CORONET);
    command.env_remove("RUST_BACKTRACE").args(["verify", "--op", "^Scale", "--device", device]);
    command
}

#[test]
fn a_device_that_does_not_exist_is_wrong_usage() {
    let place = Place::new();
    for device in ["gpu", "cuda:one", "cuda:-1", "CPU", ""] {
        let sentence = place.refusal(&mut verify_on(device));
        assert!(sentence.contains("a device is auto, cuda, cuda:1 (counted from 0), cpu or emulated"), "{sentence}");
        assert!(sentence.ends_with("see --help"), "{sentence}");
    }
}

#[test]
fn auto_says_which_device_it_took_and_why_unless_it_is_to_be_quiet() {
    let output = verify_on("auto").output().unwrap();
    assert!(output.status.success());
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(err.lines().count(), 1, "{err}");
    assert!(err.starts_with("coronet: runs on the "), "{err}");

    let output = verify_on("auto").arg("--quiet").output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty() && output.stdout.is_empty());
}

#[test]
fn launches_may_begin_ahead_if_asked_for_and_where_there_are_none_the_option_is_refused() {
    let place = Place::new();
    let sentence = place.refusal(verify_on("cpu").arg("--launches-ahead"));
    assert!(sentence.ends_with(" launches nothing: that is for GPUs"), "{sentence}");
    #[cfg(feature = "emulator")]
    verify_on("emulated").arg("--launches-ahead").assert().success();
}

#[test]
fn a_clip_is_segmented_on_the_device_that_is_asked_for() {
    let place = Place::new();
    let input = clips::folder(place.at("clip"), &clips::frames(1));
    let mut command = Command::new(CORONET);
    command.env_remove("RUST_BACKTRACE").arg("segment").arg(input).arg("--weights").arg(place.weights(0));
    command.arg("--out").arg(place.at("out")).args(["--size", "96", "--device", "cuda:4096"]);
    let sentence = place.refusal(&mut command);
    assert!(sentence.contains("GPU"), "{sentence}");
}

fn segment_in(place: &Place, device: &str, precision: &str) -> Command {
    let input = clips::folder(place.at("clip"), &clips::frames(1));
    let mut command = Command::new(CORONET);
    command.env_remove("RUST_BACKTRACE").arg("segment").arg(input).arg("--weights").arg(place.weights(0));
    command.arg("--out").arg(place.at("out")).args(["--size", "96", "--device", device, "--precision", precision]);
    command
}

#[test]
fn a_precision_that_the_device_lacks_is_refused() {
    let place = Place::new();
    let sentence = place.refusal(&mut segment_in(&place, "cpu", "float16"));
    assert!(sentence.contains("does not multiply in float16: a CPU multiplies in float32 or bfloat16"), "{sentence}");
    let sentence = place.refusal(&mut segment_in(&place, "cpu", "fp8"));
    assert!(sentence.contains("a precision is float32, tf32, float16 or bfloat16, not fp8"), "{sentence}");
}

#[test]
fn the_precision_that_auto_has_found_is_said_with_the_reason() {
    let place = Place::new();
    let output = segment_in(&place, "cpu", "auto").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    let (precision, why) = CpuDevice::new(Some(1)).unwrap().fastest_precision();
    assert!(said.contains(&format!("coronet: multiplies in {precision}: {why}")), "{said}");
}

#[test]
fn a_clip_is_segmented_in_bfloat16_where_the_processor_has_it() {
    let place = Place::new();
    let mut command = segment_in(&place, "cpu", "bf16");
    if CpuDevice::new(Some(1)).unwrap().precisions().contains(&Precision::BFloat16) {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(place.at("out").join("masks").is_dir());
    } else {
        let sentence = place.refusal(&mut command);
        assert!(sentence.contains("this processor has neither AMX-BF16 nor AVX-512 BF16"), "{sentence}");
    }
}

#[cfg(feature = "emulator")]
#[test]
fn a_clip_is_segmented_with_tensor_cores_where_the_device_has_them() {
    let place = Place::new();
    let output = segment_in(&place, "emulated", "float16").arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let summary = String::from_utf8(output.stdout).unwrap();
    assert!(summary.contains("emulated GPU (sm_80), one thread, products in float16"), "{summary}");
}

#[cfg(not(feature = "emulator"))]
#[test]
fn a_build_without_the_emulator_says_how_to_get_one() {
    let sentence = Place::new().refusal(&mut verify_on("emulated"));
    assert_eq!(sentence, "this build has no emulated GPU; build with the feature `emulator` for that");
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_build_without_cuda_says_how_to_get_it() {
    let sentence = Place::new().refusal(&mut verify_on("cuda"));
    assert_eq!(sentence, "this build cannot use GPUs; build with the feature `cuda` for that");
}

#[cfg(feature = "cuda")]
mod with_an_old_driver {
    use super::*;
    use std::path::Path;

    /// The command with a libcuda that says it is of CUDA 11.4.
    fn with_old_driver(device: &str, folder: &Path) -> Command {
        let (source, library) = (folder.join("libcuda.c"), folder.join("libcuda.so"));
        std::fs::write(&source, "int cuDriverGetVersion(int* version) { *version = 11040; return 0; }").unwrap();
        let built = std::process::Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(library).arg(source).status();
        assert!(built.unwrap().success());
        let mut command = verify_on(device);
        command.env("LD_LIBRARY_PATH", folder);
        command
    }

    #[test]
    fn cuda_is_refused_with_what_to_do() {
        let (place, driver) = (Place::new(), tempfile::tempdir().unwrap());
        let sentence = place.refusal(&mut with_old_driver("cuda", driver.path()));
        assert!(sentence.starts_with("the NVIDIA driver is too old: it knows CUDA 11.4"), "{sentence}");
        assert!(sentence.contains("update the driver"), "{sentence}");
    }

    #[test]
    fn auto_takes_the_cpu_and_says_that_the_driver_is_too_old() {
        let driver = tempfile::tempdir().unwrap();
        let output = with_old_driver("auto", driver.path()).output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{err}");
        assert!(err.starts_with("coronet: runs on the CPU (cpu, "), "{err}");
        assert!(err.contains("): the NVIDIA driver is too old: it knows CUDA 11.4"), "{err}");
    }
}
