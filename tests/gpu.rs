//! The GPU where there is one, and what is said where there is none.
#![cfg(feature = "cuda")]

use coronet::device::cuda::{Address, CudaDevice, Driver, Gpu, Launch, Tile};
use coronet::device::{Device, Precision};
use coronet::model::{CeNet, Config, Stem};
use coronet::program::{Placement, Program};
use coronet::verify::{Check, verify_all};
use coronet::weights::Weights;
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
        // Where the GPU has them, the build lacks them, and proves nothing there.
        assert_ne!(Driver::architecture(&Gpu::new(0).unwrap()), 90, "{error}");
        return println!("skipped: this GPU cannot: {error}");
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

#[test]
fn launches_that_begin_ahead_give_the_bits_of_those_in_turn_on_a_gpu() {
    let probability = |ahead: bool| {
        let gpu = Gpu::new(0).map_err(|error| println!("skipped: {error}")).ok()?;
        if ahead {
            gpu.launch_ahead().map_err(|error| println!("skipped: this GPU cannot: {error}")).ok()?;
        }
        let device = CudaDevice::new(gpu).with_precision(Precision::Float16).unwrap();
        let config = Config::new(16, Stem::Half, 2, 1).unwrap();
        let network = CeNet::build(config, 1, 224, 224).unwrap();
        let program = Program::lower(&network.graph, &[network.probability], &*device, Placement::Shared).unwrap();
        let mut session = device.load(program).unwrap();
        // A driver may have refused the recording: both ways would be one.
        if ahead && !device.facts().iter().any(|(_, fact)| fact.contains("programmatic dependent launch")) {
            println!("skipped: this GPU cannot: its driver records no launches that begin ahead");
            return None;
        }
        let weights = Weights::seeded(config, 5).unwrap();
        weights.write_into(&network, |id, numbers| session.write(id, numbers)).unwrap();
        let elements = network.graph.shape(network.window).elements();
        let of_run = |run: usize| {
            let window: Vec<f32> = (0..elements).map(|i| (i as f32 * 0.7 + run as f32).sin()).collect();
            session.write(network.window, &window).unwrap();
            session.run().unwrap();
            session.read(network.probability).unwrap().into_data()
        };
        // What is left of one run must not be what another one reads.
        Some((0..50).map(of_run).collect::<Vec<_>>())
    };
    if let Some(ahead) = probability(true) {
        assert!(probability(false).unwrap() == ahead);
    }
}

/// What opening the GPU says in a process of its own that finds this C program as libcuda.
fn said_by(libcuda: &str) -> String {
    said_in_a_process("opening_the_gpu", libcuda, &[])
}

/// What an ignored test says in a process of its own that finds this C program as libcuda, and these variables.
fn said_in_a_process(test: &str, libcuda: &str, variables: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (source, library) = (folder.path().join("libcuda.c"), folder.path().join("libcuda.so"));
    std::fs::write(&source, libcuda).unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status().unwrap();
    assert!(built.success());
    let this = std::env::current_exe().unwrap();
    let mut child = Command::new(this);
    child.args(["--exact", test, "--ignored", "--nocapture"]).env("LD_LIBRARY_PATH", folder.path());
    child.envs(variables.iter().copied());
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

/// A libcuda with one GPU, of architecture `ARCHITECTURE`, that says what is launched, and how, and what kernels may have: each
/// declares 1024 of 101024 bytes of shared memory, and was made from PTX for `PTX`. With `REFUSES` it launches no kernel ahead of
/// the end of those before.
const SAYS_LAUNCHES: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
struct attribute { int id; char pad[4]; union { char bytes[64]; int number; void* pointer; } value; };
struct config { unsigned grid[3], block[3], shared; void* stream; struct attribute* attributes; unsigned count; };
int cuDriverGetVersion(int* version) { *version = 99000; return 0; }
int cuInit(unsigned flags) { return setvbuf(stdout, NULL, _IOLBF, 0); }
int cuDeviceGet(int* device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetName(char* name, int length, int device) { return snprintf(name, length, "a GPU") < 0; }
int cuDeviceTotalMem_v2(size_t* bytes, int device) { *bytes = 1 << 30; return 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
    int architecture = atoi(getenv("ARCHITECTURE"));
    *value = attribute == 75 ? architecture / 10 : attribute == 76 ? architecture % 10 : attribute == 97 ? 101024 : attribute != 18;
    return 0;
}
int cuFuncGetAttribute(int* value, int attribute, const char* kernel) {
    *value = attribute == 1 ? 1024 : attribute == 5 ? atoi(getenv("PTX") ? getenv("PTX") : "90") : -1;
    return 0;
}
int cuFuncSetAttribute(const char* kernel, int attribute, int value) {
    return attribute == 8 ? printf("%s may have %d\n", kernel, value) < 0 : 1;
}
int cuDevicePrimaryCtxRetain(void** context, int device) { *context = "context"; return 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { return 0; }
int cuCtxGetCurrent(void** context) { *context = NULL; return 0; }
int cuCtxSetCurrent(void* context) { return 0; }
int cuStreamCreate(void** stream, unsigned flags) { *stream = "stream"; return 0; }
int cuStreamDestroy_v2(void* stream) { return 0; }
int cuModuleLoadData(void** module, const void* image) { *module = "module"; return 0; }
int cuModuleUnload(void* module) { return 0; }
int cuModuleGetFunction(void** function, void* module, const char* name) { *function = strdup(name); return 0; }
int cuStreamBeginCapture_v2(void* stream, int mode) { puts("begin"); return 0; }
int cuStreamIsCapturing(void* stream, int* status) { *status = 1; return 0; }
int cuStreamEndCapture(void* stream, void** graph) { puts("end"); *graph = "graph"; return 0; }
int cuGraphInstantiateWithFlags(void** started, void* graph, unsigned long long flags) { *started = graph; return 0; }
int cuGraphDestroy(void* graph) { return 0; }
int cuGraphExecDestroy(void* started) { return 0; }
int cuGraphLaunch(void* started, void* stream) { puts("start"); return 0; }
int cuMemGetInfo_v2(size_t* free, size_t* total) {
    static size_t asked;
    *total = 1000, *free = 900 - 50 * asked++;
    return 0;
}
int cuGetErrorString(int error, const char** text) { *text = "refused"; return 0; }
int cuLaunchKernelEx(const struct config* config, const char* kernel, void** arguments, void** extra) {
    printf("%s %u %u %u %d", kernel, config->grid[0], config->block[0], config->shared, **(int**)arguments);
    int ahead = 0;
    for (unsigned i = 0; i < config->count; i++) {
        ahead |= config->attributes[i].id == 6;
        printf(" %d=%d", config->attributes[i].id, config->attributes[i].value.number);
    }
    puts("");
    return ahead && getenv("REFUSES") ? 801 : 0;
}
"#;

#[test]
#[ignore = "another test runs it with a libcuda of its own"]
fn recording_launches() {
    let gpu = Gpu::new(0).unwrap();
    if std::env::var_os("AHEAD").is_some() {
        gpu.launch_ahead().unwrap_or_else(|error| println!("\n{error}"));
    }
    let launch =
        |kernel, number: u64| Launch::new(kernel, [7, 1, 1], [256, 1, 1]).with_shared(128).with(Address(number));
    let alone = launch("relu", 1);
    let launches = [launch("add", 2), launch("multi_kernel_pooling", 3).cooperative(), launch("relu", 4)];
    // SAFETY: no kernel is run.
    let recorded = unsafe {
        gpu.launch(&alone).unwrap();
        gpu.record(&launches.iter().collect::<Vec<_>>()).unwrap()
    };
    recorded.start().unwrap();
    let facts = gpu.facts();
    println!("{}", facts.iter().find(|(name, _)| *name == "launches of a run").unwrap().1);
    println!("{:?} bytes taken", gpu.memory_taken());
}

#[test]
fn recorded_launches_begin_ahead_where_it_is_asked_for_and_the_gpu_can_and_its_driver_will() {
    let said = |variables: &[(&str, &str)]| {
        let said = said_in_a_process("recording_launches", SAYS_LAUNCHES, variables);
        // The test harness speaks before and behind.
        let lines = said
            .lines()
            .skip_while(|line| !line.starts_with("relu") && !line.starts_with("a GPU"))
            .take_while(|line| !line.starts_with("test "));
        lines.filter(|line| !line.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    // Attribute 2 is a cooperative launch, 6 one that may begin early.
    // What a kernel does not declare itself it may have: once for all launches of it.
    let alone = ["relu may have 100000", "relu 7 256 128 1"];
    let in_turn = [
        "begin",
        "add may have 100000",
        "add 7 256 128 2",
        "multi_kernel_pooling may have 100000",
        "multi_kernel_pooling 7 256 128 3 2=1",
        "relu 7 256 128 4",
        "end",
        "start",
    ];
    let taken = "Some(50) bytes taken";
    let late = ["one CUDA graph, each beginning when the one before it is done", taken];
    let ahead = [
        "begin",
        "add may have 100000",
        "add 7 256 128 2 6=1",
        "multi_kernel_pooling may have 100000",
        "multi_kernel_pooling 7 256 128 3 2=1 6=1",
        "relu 7 256 128 4 6=1",
        "end",
        "start",
    ];
    let early =
        ["one CUDA graph, each beginning before the one before it is done (programmatic dependent launch)", taken];
    assert_eq!(said(&[("ARCHITECTURE", "90")]), [&alone[..], &in_turn, &late].concat());
    let unable = said(&[("ARCHITECTURE", "89"), ("AHEAD", "1")]);
    assert!(unable[0].contains("begins no launch before the end of another: that needs sm_90 or newer"), "{unable:?}");
    assert_eq!(unable[1..], [&alone[..], &in_turn, &late].concat());
    let asked = [("ARCHITECTURE", "90"), ("AHEAD", "1")];
    assert_eq!(said(&asked), [&alone[..], &ahead, &early].concat());
    let refused = ["begin", "add may have 100000", "add 7 256 128 2 6=1", "end"];
    let again: Vec<&str> = in_turn.into_iter().filter(|line| *line != "add may have 100000").collect();
    let refuses = [&asked[..], &[("REFUSES", "1")]].concat();
    assert_eq!(said(&refuses), [&alone[..], &refused, &again, &late].concat());
    let old = said(&[&asked[..], &[("PTX", "80")]].concat());
    assert!(old[0].contains("runs kernels made for sm_80, which begin none before the end of another"), "{old:?}");
    assert_eq!(old[1..], [&alone[..], &in_turn, &late].concat());
}
