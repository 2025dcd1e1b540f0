//! What nvcc has made of the kernels: tensor cores and asynchronous copies where they are meant, nothing kept in memory
//! that belongs in registers, no memory touched before the launches before are done.
#![cfg(feature = "cuda")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// One compiled file of `kernels/`.
struct Fatbin {
    file: &'static str,
    needs: u32,
    /// Whether it has code for that architecture alone.
    alone: bool,
    kernels: &'static [&'static str],
    image: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));

/// A tool of the CUDA toolkit: beside the nvcc that compiled the kernels.
fn tool(name: &str) -> Option<PathBuf> {
    let tool = Path::new(env!("CORONET_KERNELS_BY_NVCC")).with_file_name(name);
    tool.is_file().then_some(tool)
}

/// A kernel's instructions by name, without operands: `HMMA.16816.F32`.
struct Kernel {
    file: &'static str,
    architecture: u32,
    name: String,
    instructions: Vec<String>,
}

/// All machine code in a compiled file.
fn disassembled(cuobjdump: &Path, image: &Path, file: &'static str) -> Vec<Kernel> {
    let output = Command::new(cuobjdump).arg("-sass").arg(image).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut kernels: Vec<Kernel> = Vec::new();
    let mut architecture = 0;
    for line in String::from_utf8(output.stdout).unwrap().lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("code for sm_") {
            architecture = name.trim_end_matches(char::is_alphabetic).parse().unwrap();
        } else if let Some(name) = line.strip_prefix("Function : ") {
            kernels.push(Kernel { file, architecture, name: name.to_owned(), instructions: Vec::new() });
        } else if let Some(instruction) = line.split("*/").nth(1).filter(|_| line.starts_with("/*")) {
            // A guard such as `@!P0` stands before the name.
            let name = instruction.split_whitespace().find(|word| !word.starts_with('@'));
            let Some(kernel) = kernels.last_mut() else { continue };
            kernel.instructions.extend(name.map(|name| name.trim_end_matches(';').to_owned()));
        }
    }
    kernels
}

/// All kernels, for every architecture they were compiled for; read once, for it takes the disassembler a while. `None`, and a
/// line that says so, where there is no disassembler.
fn kernels() -> Option<&'static [Kernel]> {
    static KERNELS: OnceLock<Option<Vec<Kernel>>> = OnceLock::new();
    let read = || {
        let cuobjdump = tool("cuobjdump")?;
        let folder = tempfile::tempdir().unwrap();
        let read = |fatbin: &Fatbin| {
            let Fatbin { file, needs, alone, kernels, image } = *fatbin;
            let path = folder.path().join(file);
            std::fs::write(&path, image).unwrap();
            let found = disassembled(&cuobjdump, &path, file);
            let runs = |it: &u32| if alone { *it == needs } else { *it >= needs };
            for architecture in architectures().filter(runs) {
                let of_it = found.iter().filter(|kernel| kernel.architecture == architecture);
                let names: BTreeSet<&str> = of_it.map(|kernel| kernel.name.as_str()).collect();
                assert_eq!(names, kernels.iter().copied().collect(), "{file} for sm_{architecture}");
            }
            found
        };
        let next = AtomicUsize::new(0);
        let read_some = || {
            let fatbins = std::iter::from_fn(|| FATBINS.get(next.fetch_add(1, Ordering::Relaxed)));
            fatbins.flat_map(read).collect::<Vec<Kernel>>()
        };
        let all = std::thread::scope(|scope| {
            let threads = [(); 2].map(|()| scope.spawn(read_some));
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        Some(all)
    };
    let kernels = KERNELS.get_or_init(read).as_deref();
    if kernels.is_none() {
        println!("skipped: there is no cuobjdump beside {}", env!("CORONET_KERNELS_BY_NVCC"));
    }
    kernels
}

/// Those of the files of convolutions: some for every architecture.
fn convolutions() -> Option<Vec<&'static Kernel>> {
    let convolutions: Vec<_> = kernels()?.iter().filter(|kernel| kernel.file.starts_with("conv")).collect();
    for architecture in architectures() {
        let count = convolutions.iter().filter(|kernel| kernel.architecture == architecture).count();
        assert!(count >= 10, "sm_{architecture} has {count} kernels of convolutions");
    }
    Some(convolutions)
}

/// The architectures that the kernels were compiled for.
fn architectures() -> impl Iterator<Item = u32> {
    env!("CORONET_KERNELS_FOR").split(", ").map(|name| name.trim_end_matches(char::is_alphabetic).parse().unwrap())
}

fn has(instructions: &[String], prefix: &str) -> bool {
    instructions.iter().any(|name| name.starts_with(prefix))
}

/// Loads and stores of local memory: spilled registers, and arrays that are indexed at run time.
fn is_local(name: &str) -> bool {
    name.starts_with("LDL") || name.starts_with("STL")
}

/// What a kernel on tensor cores must consist of: its matrix product, and its matrix loads along or across the sum.
fn tensor_instructions(architecture: u32, kernel: &str) -> Option<Vec<&'static str>> {
    if kernel.starts_with("conv_warpgroups") {
        return Some(vec!["HGMMA.64x", "WARPGROUP.ARRIVE", "WARPGROUP.DEPBAR", "SYNCS.PHASECHK", "SYNCS.ARRIVE"]);
    }
    let product = match kernel {
        name if name.contains("_tf32_") => "HMMA.1688.F32.TF32",
        name if name.contains("_bfloat16_") => "HMMA.16816.F32.BF16",
        name if name.contains("_float16_") => {
            if architecture >= 80 {
                "HMMA.16816.F32"
            } else {
                "HMMA.1688.F32"
            }
        }
        _ => return None,
    };
    // The maps lie along the sum, and the filter only backwards; in a filter gradient both lie across it. Numbers of 32
    // bits cannot be transposed by a matrix load.
    let is_tf32 = product.ends_with("TF32");
    let loads: &[&'static str] = match kernel {
        name if name.starts_with("conv_filter_grad") => {
            if is_tf32 {
                &[]
            } else {
                &["LDSM.16.MT88"]
            }
        }
        name if name.starts_with("conv_backward") || is_tf32 => &["LDSM.16.M88"],
        _ => &["LDSM.16.M88", "LDSM.16.MT88"],
    };
    Some([&[product], loads].concat())
}

#[test]
fn convolutions_use_tensor_cores_in_every_precision_but_float32() {
    let Some(convolutions) = convolutions() else { return };
    for Kernel { architecture, name, instructions, .. } in convolutions {
        match tensor_instructions(*architecture, name) {
            None => assert!(!has(instructions, "HMMA"), "{name} for sm_{architecture} rounds its operands"),
            Some(meant) => {
                for instruction in meant {
                    assert!(has(instructions, instruction), "{name} for sm_{architecture} has no {instruction}");
                }
            }
        }
    }
}

#[test]
fn convolutions_copy_asynchronously_where_the_architecture_can() {
    let Some(convolutions) = convolutions() else { return };
    for Kernel { architecture, name, instructions, .. } in convolutions {
        let copies = name.starts_with("conv");
        assert_eq!(has(instructions, "LDGSTS"), copies && *architecture >= 80, "{name} for sm_{architecture}");
    }
}

#[test]
fn kernels_wait_for_the_launches_before_they_touch_memory_and_let_the_next_begin_where_launches_may_begin_early() {
    let Some(kernels) = kernels() else { return };
    for Kernel { architecture, name, instructions, .. } in kernels {
        let place = |of: &[&str]| instructions.iter().position(|name| of.iter().any(|of| name.starts_with(of)));
        let (waits, goes_on) = (place(&["ACQBULK"]), place(&["PREEXIT"]));
        let touches = place(&["LD.", "LDG", "LDGSTS", "ST.", "STG", "ATOM", "RED.", "LDE", "STE"]);
        let of_it = format!("{name} for sm_{architecture}: {waits:?}, {goes_on:?}, {touches:?}");
        if *architecture < 90 {
            assert!(waits.is_none() && goes_on.is_none(), "{of_it}");
        } else {
            assert!(waits.is_some() && waits < goes_on, "{of_it}");
            assert!(touches.is_none_or(|touches| waits < Some(touches)), "{of_it}");
        }
    }
}

#[test]
fn convolutions_keep_nothing_in_memory_that_belongs_in_registers() {
    let Some(convolutions) = convolutions() else { return };
    for Kernel { architecture, name, instructions, .. } in convolutions {
        assert!(!instructions.iter().any(|name| is_local(name)), "{name} for sm_{architecture}");
    }
}

#[test]
fn a_kernel_that_keeps_an_array_in_memory_is_found() {
    let Some(cuobjdump) = tool("cuobjdump") else { return println!("skipped: there is no cuobjdump") };
    let folder = tempfile::tempdir().unwrap();
    let (source, image) = (folder.path().join("keeps.cu"), folder.path().join("keeps.cubin"));
    let body = "float s[16] = {}; for (int i = 0; i < n; i++) s[static_cast<int>(x[i]) % 16] += 1; x[0] = s[n % 16];";
    std::fs::write(&source, format!("extern \"C\" __global__ void keeps(float* x, int n) {{ {body} }}")).unwrap();
    let mut nvcc = Command::new(env!("CORONET_KERNELS_BY_NVCC"));
    let architecture = architectures().last().unwrap();
    nvcc.args(["-cubin", "-O3", &format!("-arch=sm_{architecture}"), "-o"]).arg(&image).arg(&source);
    assert!(nvcc.status().unwrap().success());
    assert!(disassembled(&cuobjdump, &image, "keeps")[0].instructions.iter().any(|name| is_local(name)));
}

/// NVIDIA's own calculator, around its header: reads architecture, threads and shared bytes of a multiprocessor, then
/// threads, registers and shared bytes of a block; says how many blocks fit.
const CALCULATOR: &str = r#"
#include <cstdio>
#include "cuda_occupancy.h"
int main() {
    int architecture, threads, shared, block_threads, registers, block_shared;
    while (std::scanf("%d %d %d %d %d %d", &architecture, &threads, &shared, &block_threads, &registers, &block_shared) == 6) {
        cudaOccDeviceProp device;
        device.computeMajor = architecture / 10, device.computeMinor = architecture % 10;
        device.maxThreadsPerBlock = 1024, device.maxThreadsPerMultiprocessor = threads;
        device.regsPerBlock = device.regsPerMultiprocessor = 65536, device.warpSize = 32, device.numSms = 1;
        device.sharedMemPerBlock = 48 << 10, device.sharedMemPerMultiprocessor = shared;
        device.reservedSharedMemPerBlock = architecture >= 80 ? 1024 : 0;
        device.sharedMemPerBlockOptin = shared - device.reservedSharedMemPerBlock;
        cudaOccFuncAttributes kernel;
        kernel.maxThreadsPerBlock = 1024, kernel.numRegs = registers, kernel.sharedSizeBytes = 0;
        kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN, kernel.maxDynamicSharedSizeBytes = shared;
        cudaOccDeviceState state;
        state.carveoutConfig = SHAREDMEM_CARVEOUT_MAX_SHARED;
        cudaOccResult result;
        if (cudaOccMaxActiveBlocksPerMultiprocessor(&result, &device, &kernel, &state, block_threads, block_shared)) return 1;
        std::printf("%d\n", result.activeBlocksPerMultiprocessor);
    }
}
"#;

#[test]
fn occupancy_is_that_of_nvidias_calculator() {
    use coronet::device::cuda::Multiprocessor;
    let headers = Path::new(env!("CORONET_KERNELS_BY_NVCC")).parent().unwrap().with_file_name("include");
    if !headers.join("cuda_occupancy.h").is_file() {
        return println!("skipped: there is no cuda_occupancy.h in {}", headers.display());
    }
    let folder = tempfile::tempdir().unwrap();
    let (source, program) = (folder.path().join("calculator.cpp"), folder.path().join("calculator"));
    std::fs::write(&source, CALCULATOR).unwrap();
    let mut compiler = Command::new("c++");
    compiler.args(["-w", "-O1", "-I"]).arg(&headers).arg("-o").arg(&program).arg(&source);
    assert!(compiler.status().unwrap().success());

    let (mut questions, mut ours) = (String::new(), Vec::new());
    for multiprocessor in Multiprocessor::ALL {
        let Multiprocessor { architecture, threads, shared_bytes, .. } = multiprocessor;
        for block_threads in [1, 32, 64, 96, 128, 160, 256, 512, 1024] {
            for registers in [1, 16, 24, 31, 32, 40, 64, 96, 128, 129, 168, 255] {
                for shared in [0, 1, 127, 512, 4 << 10, 16 << 10, 33 << 10, 48 << 10] {
                    let block = multiprocessor.blocks_at_once(block_threads, registers, shared);
                    questions +=
                        &format!("{architecture} {threads} {shared_bytes} {block_threads} {registers} {shared}\n");
                    ours.push(block);
                }
            }
        }
    }
    let asked = folder.path().join("questions");
    std::fs::write(&asked, &questions).unwrap();
    let output = Command::new(&program).stdin(std::fs::File::open(&asked).unwrap()).output().unwrap();
    assert!(output.status.success(), "the calculator refuses a question");
    let theirs: Vec<u32> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(theirs.len(), ours.len());
    for ((question, theirs), ours) in questions.lines().zip(theirs).zip(ours) {
        assert_eq!(ours, theirs, "{question}");
    }
}
