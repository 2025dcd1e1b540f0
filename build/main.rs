//! Compiles `kernels/`: with feature `cuda` by nvcc, one fatbin for each file, embedded; with feature `emulator` by
//! the host's C++ compiler, for the emulator. Neither needs a GPU.
//!
//! `CORONET_NVCC` names the nvcc to use, `CORONET_CUDA_ARCHS` (such as `90a` or `80,86`) the architectures. Compiled
//! files are kept in `target/kernels` under a hash of all that went into them, so that other profiles and feature
//! sets find them; beside each lies a table of the registers and shared memory of its kernels.

#[cfg(feature = "emulator")]
mod emulator;
mod kernels;
mod nvcc;

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rustc-check-cfg=cfg(coronet_checked, coronet_address)");
    // Others are rebuilt at every step and measure nothing that anybody keeps.
    if env::var("PROFILE").as_deref() == Ok("release") {
        name_commit();
    }
    let asked = |feature: &str| env::var_os(format!("CARGO_FEATURE_{feature}")).is_some();
    let built = build(asked("CUDA"), asked("EMULATOR"));
    match built {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            println!("cargo::error={problem}");
            ExitCode::FAILURE
        }
    }
}

fn build(cuda: bool, emulator: bool) -> Result<()> {
    if !cuda && !emulator {
        return Ok(());
    }
    println!("cargo::rerun-if-changed=kernels");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let files = kernels::files()?;
    println!("cargo::rustc-env=CORONET_KERNELS={:016x}", kernels::fingerprint()?);
    if cuda {
        nvcc::compile(&files, &out)?;
    }
    #[cfg(feature = "emulator")]
    emulator::compile(&files, &out)?;
    Ok(())
}

/// Tells the crate which commit it is built from, unless the environment already does or this is no checkout of it.
fn name_commit() {
    println!("cargo::rerun-if-env-changed=CORONET_COMMIT");
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
    };
    let here = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).and_then(|path| path.canonicalize().ok());
    let top = git(&["rev-parse", "--show-toplevel"]).and_then(|path| Path::new(&path).canonicalize().ok());
    if env::var_os("CORONET_COMMIT").is_some() || top.is_none() || top != here {
        return;
    }
    // Whatever changes the answer.
    ["src", "Cargo.toml", "Cargo.lock"].iter().for_each(|path| println!("cargo::rerun-if-changed={path}"));
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists()) {
        println!("cargo::rerun-if-changed={log}");
    }
    if let Some(commit) = git(&["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]) {
        println!("cargo::rustc-env=CORONET_COMMIT={commit}");
    }
}
