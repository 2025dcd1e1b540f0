//! The GPU where there is one, and what is said where there is none.
#![cfg(feature = "cuda")]

use coronet::device::Device;
use coronet::device::cuda::{CudaDevice, Driver, Gpu, Tile};
use coronet::verify::{Check, verify_all};
use std::process::Command;

#[test]
fn kernels_agree_with_the_reference_on_every_case_on_a_gpu() {
    let gpu = match Gpu::new(0) {
        Ok(gpu) => gpu,
        Err(error) => return println!("skipped: {error}"),
    };
    println!("{}", gpu.describe());
    assert_agreement(Check::all().unwrap().into_iter(), &CudaDevice::new(gpu));
}

#[test]
fn tensor_cores_agree_with_the_reference_with_every_tile_on_a_gpu() {
    // What is chosen by size would leave the large tiles to a few cases.
    for tile in Tile::ALL {
        match Gpu::new(0) {
            Ok(gpu) => {
                let rounded = Check::all().unwrap().into_iter().filter(|check| matches!(check, Check::Rounded(..)));
                assert_agreement(rounded, &CudaDevice::new(gpu).with_tile(tile));
            }
            Err(error) => return println!("skipped: {error}"),
        }
    }
}

#[test]
fn warpgroups_agree_with_the_reference_on_a_gpu_that_has_them() {
    let device = match Gpu::new(0) {
        Ok(gpu) => CudaDevice::new(gpu),
        Err(error) => return println!("skipped: {error}"),
    };
    if let Err(error) = device.by_warpgroups() {
        return println!("skipped: {error}");
    }
    let rounded = Check::all().unwrap().into_iter().filter(|check| matches!(check, Check::Rounded(..)));
    assert_agreement(rounded, &device.with_warpgroups(true));
}

fn assert_agreement(checks: impl Iterator<Item = Check>, device: &CudaDevice) {
    let precisions = device.precisions();
    let checks: Vec<Check> = checks.filter(|check| check.is_for(&precisions)).collect();
    let findings = verify_all(&checks, device, 1, &|_| true).unwrap();
    let failures: Vec<String> = findings.iter().filter(|f| !f.passed()).map(|f| format!("{f:?}")).collect();
    assert!(!checks.is_empty() && failures.is_empty(), "{}", failures.join("\n"));
}

/// What opening the GPU says in a process of its own that finds this C program as libcuda.
fn said_by(libcuda: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (source, library) = (folder.path().join("libcuda.c"), folder.path().join("libcuda.so"));
    std::fs::write(&source, libcuda).unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status().unwrap();
    assert!(built.success());
    let this = std::env::current_exe().unwrap();
    let mut child = Command::new(this);
    child.args(["--exact", "opening_the_gpu", "--ignored", "--nocapture"]).env("LD_LIBRARY_PATH", folder.path());
    let output = child.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "the other tests run it with a libcuda of theirs"]
fn opening_the_gpu() {
    match Gpu::new(0) {
        Ok(gpu) => println!("{}", gpu.describe()),
        Err(error) => println!("{error}"),
    }
}

#[test]
fn a_driver_too_old_is_named_with_the_one_that_is_needed() {
    let said = said_by("int cuDriverGetVersion(int* version) { *version = 11040; return 0; }");
    assert!(said.contains("the NVIDIA driver is too old: it knows CUDA 11.4"), "{said}");
    assert!(said.contains("or newer; update the driver, or build with an older nvcc"), "{said}");
}

#[test]
fn a_driver_without_a_gpu_is_a_sentence() {
    let said = said_by(
        "int cuDriverGetVersion(int* version) { *version = 99000; return 0; }
         int cuInit(unsigned flags) { return 100; }",
    );
    assert!(said.contains("the NVIDIA driver finds no GPU"), "{said}");
}

#[test]
fn a_missing_driver_is_a_sentence() {
    match Gpu::new(0) {
        Ok(_) => println!("skipped: there is a GPU"),
        Err(error) => assert!(error.to_string().contains("driver"), "{error}"),
    }
}
