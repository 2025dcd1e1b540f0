//! What nvcc makes of the kernels: a fatbin for each file, with a table of registers and shared memory beside it.

use crate::Result;
use crate::kernels::{KernelFile, Needs, paths_in_kernels, text_of};
use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What kernels are compiled for, as far as the nvcc at hand knows it. PTX of the first is the floor for others.
const ARCHITECTURES: [&str; 9] = ["75", "80", "86", "87", "89", "90", "100", "110", "120"];

/// What PTX is made for: the architectures for which kernels have a path of their own (`CORONET_ARCH`). Each is the source of
/// machine code for itself and all up to the next, which saves most of nvcc's time before ptxas.
const SOURCES: [u32; 3] = [75, 80, 90];

/// The oldest nvcc that compiles the kernels.
const OLDEST: (u32, u32) = (12, 4);

struct Nvcc {
    program: PathBuf,
    version: (u32, u32),
    architectures: Vec<String>,
}

/// Compiles each file unless its result is kept, and writes `fatbins.rs`, the list of them, for the crate.
pub fn compile(files: &[KernelFile], out: &Path) -> Result<()> {
    // Not PATH: tools that run cargo put folders of theirs in front, and all would be compiled again.
    for variable in ["CORONET_NVCC", "CORONET_CUDA_ARCHS", "CUDA_HOME"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let nvcc = Nvcc::find()?;
    let kept = kept_folder(out)?;
    let mut list = String::from("const FATBINS: &[Fatbin] = &[\n");
    let mut used = String::from("const RESOURCES: &[Resources] = &[\n");
    // What only tests launch, together with the emulator, is no part of a build without it.
    let is_wanted = |file: &&KernelFile| cfg!(feature = "emulator") || !file.stem.starts_with("conformance");
    for file in files.iter().filter(is_wanted).filter(|file| !nvcc.architectures_for(file).is_empty()) {
        let fatbin = nvcc.compile(file, &kept)?;
        let kernels: Vec<&str> = file.kernels.iter().map(|kernel| kernel.name.as_str()).collect();
        let Needs { number, alone } = file.needs.unwrap_or(Needs { number: 0, alone: false });
        let head = format!("file: {:?}, needs: {number}, alone: {alone}, kernels: &{kernels:?}", file.stem);
        writeln!(list, "    Fatbin {{ {head}, image: include_bytes!({fatbin:?}) }},")?;
        for line in text_of(&fatbin.with_extension("txt"))?.lines() {
            writeln!(used, "    {},", resources_in(line)?)?;
        }
    }
    list.push_str("];\n");
    used.push_str("];\n");
    fs::write(out.join("fatbins.rs"), list)?;
    fs::write(out.join("resources.rs"), used)?;
    println!("cargo::rustc-env=CORONET_KERNELS_BY={}.{}", nvcc.version.0, nvcc.version.1);
    println!("cargo::rustc-env=CORONET_KERNELS_BY_NVCC={}", fs::canonicalize(&nvcc.program)?.display());
    println!("cargo::rustc-env=CORONET_KERNELS_FOR={}", nvcc.architectures.join(", "));
    Ok(())
}

/// `target/kernels`; OUT_DIR is `target/PROFILE/build/PACKAGE/out`, with the target triple before it when crossing.
fn kept_folder(out: &Path) -> Result<PathBuf> {
    let folder = out.ancestors().nth(4).unwrap_or(out).join("kernels");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

impl Nvcc {
    fn find() -> Result<Nvcc> {
        let folder = |variable: &str| env::var_os(variable).map(|folder| PathBuf::from(folder).join("bin/nvcc"));
        let on_path = env::var_os("PATH").and_then(|path| {
            env::split_paths(&path).map(|folder| folder.join("nvcc")).find(|program| program.is_file())
        });
        let fetched = Path::new(".tools/cuda/nvidia/cu13/bin/nvcc");
        let named = env::var_os("CORONET_NVCC").filter(|name| !name.is_empty()).map(PathBuf::from);
        if let Some(missing) = named.as_ref().filter(|program| !program.is_file()) {
            return Err(format!("CORONET_NVCC names {}, which is no file", missing.display()).into());
        }
        // What stands on PATH by chance gives way to one that will do, and is complained of where there is none.
        let will_do = |program: &PathBuf| version_of(program).is_ok_and(|version| version >= OLDEST);
        let new_on_path = on_path.clone().filter(will_do);
        let places = [named, folder("CUDA_HOME"), new_on_path, Some(fetched.to_path_buf()), on_path];
        let program = places.into_iter().flatten().find(|program| program.is_file()).ok_or(
            "the feature `cuda` needs nvcc: run `tools/setup build`, which fetches one, or set CORONET_NVCC or \
             CUDA_HOME, or build with --no-default-features and the features wanted",
        )?;
        // A path that does not exist would make cargo run this script every time.
        println!("cargo::rerun-if-changed={}", program.display());
        let version = version_of(&program)?;
        if version < OLDEST {
            let ((major, minor), (least, least_minor)) = (version, OLDEST);
            let found = format!("{} is of CUDA {major}.{minor}", program.display());
            return Err(format!("{found}, but the kernels need {least}.{least_minor} or newer").into());
        }
        let architectures = architectures_of(&program)?;
        Ok(Nvcc { program, version, architectures })
    }

    /// The architectures that have what a file needs. What one alone has goes by a name of its own, `90a`.
    fn architectures_for(&self, file: &KernelFile) -> Vec<String> {
        let has_it = |name: &&String| {
            number_of(name).is_some_and(|number| file.needs.is_none_or(|needs| needs.are_met_by(number)))
        };
        let mut architectures: Vec<String> = self.architectures.iter().filter(has_it).cloned().collect();
        if file.needs.is_some_and(|needs| needs.alone) {
            architectures.iter_mut().filter(|name| !name.ends_with('a')).for_each(|name| name.push('a'));
            architectures.dedup();
        }
        architectures
    }

    fn flags(&self, architectures: &[String]) -> Vec<String> {
        let mut flags: Vec<String> =
            ["-fatbin", "-O3", "-std=c++17", "--threads", "2", "-Xptxas", "-v,-warn-spills", "-I", "kernels"]
                .map(String::from)
                .to_vec();
        for architecture in architectures {
            flags.push(format!("-gencode=arch=compute_{},code=sm_{architecture}", source_of(architecture)));
        }
        // A fifth of the usual size. Drivers older than CUDA 12.4's cannot read it, but code of CUDA 13 is not for them.
        if self.version >= (13, 0) {
            flags.push("--compress-mode=size".into());
        }
        // Architecture-specific PTX (`90a`) runs nowhere else, so it is no floor.
        if let Some(lowest) = architectures.first().filter(|name| !name.ends_with('a')) {
            let source = source_of(lowest);
            flags.push(format!("-gencode=arch=compute_{source},code=compute_{source}"));
        }
        flags
    }

    /// The fatbin of a file.
    fn compile(&self, file: &KernelFile, kept: &Path) -> Result<PathBuf> {
        let flags = self.flags(&self.architectures_for(file));
        let mut hasher = DefaultHasher::new();
        (&file.text, headers()?, &flags, self.version).hash(&mut hasher);
        let fatbin = kept.join(format!("{}-{:016x}.fatbin", file.stem, hasher.finish()));
        if fatbin.is_file() {
            return Ok(fatbin);
        }
        // Builds that run side by side must not see half a file.
        let unfinished = fatbin.with_extension(format!("{}.unfinished", std::process::id()));
        let mut command = Command::new(&self.program);
        command.args(&flags).arg("-o").arg(&unfinished).arg(&file.path);
        let output = command.output().map_err(|e| format!("cannot run {}: {e}", self.program.display()))?;
        let report = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return Err(complaint(&file.path, "does not compile", &report).into());
        }
        // Products that wait for each other: C7510 and its like, for reasons that the words behind say.
        if let Some(line) = report.lines().find(|line| line.contains("wgmma") && line.contains("serialized")) {
            return Err(complaint(&file.path, &format!("multiplies one product after the other: {line}"), "").into());
        }
        let resources = resources(&report);
        if let Some(line) = resources.iter().find(|line| !line.ends_with(" 0 bytes in local memory")) {
            return Err(complaint(&file.path, &format!("keeps what belongs in registers in memory: {line}"), "").into());
        }
        fs::write(fatbin.with_extension("txt"), resources.join("\n") + "\n")?;
        fs::rename(&unfinished, &fatbin)?;
        Ok(fatbin)
    }
}

/// The text of all headers; any file may include any of them.
fn headers() -> Result<Vec<String>> {
    let mut paths = paths_in_kernels()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "cuh"));
    paths.iter().map(|path| text_of(path)).collect()
}

fn complaint(path: &Path, what: &str, report: &str) -> String {
    report.lines().filter(|line| !line.starts_with("ptxas info")).for_each(|line| println!("cargo::warning={line}"));
    format!("{} {what}", path.display())
}

/// From ptxas's report, a line for each kernel and architecture: name, architecture, registers and shared bytes
/// as ptxas says them, and the bytes of local memory: spilled registers and arrays that are indexed at run time.
fn resources(report: &str) -> Vec<String> {
    let (mut lines, mut kernel, mut local) = (Vec::new(), String::new(), 0u64);
    for line in report.lines() {
        if let Some((_, entry)) = line.split_once("Compiling entry function ") {
            kernel = entry.replace("' for '", " ").replace('\'', "");
            local = 0;
        } else if line.contains("bytes spill stores") {
            local = line.split(',').filter_map(first_number).sum();
        } else if let Some((_, used)) = line.split_once(": Used ") {
            lines.push(format!("{kernel}: {used}, {local} bytes in local memory"));
        }
    }
    lines.sort();
    lines
}

/// A line of [`resources`] as Rust.
fn resources_in(line: &str) -> Result<String> {
    let parsed = || {
        let (head, used) = line.split_once(": ")?;
        let (kernel, architecture) = head.split_once(" sm_")?;
        let number = |unit: &str| first_number(used.split(", ").find(|part| part.ends_with(unit))?);
        let (registers, shared) = (number(" registers")?, number(" bytes smem").unwrap_or(0));
        let architecture = number_of(architecture)?;
        let head = format!("kernel: {kernel:?}, architecture: {architecture}");
        Some(format!("Resources {{ {head}, registers: {registers}, shared_bytes: {shared} }}"))
    };
    parsed().ok_or_else(|| format!("ptxas says what is not understood: {line}").into())
}

fn first_number(text: &str) -> Option<u64> {
    text.split_whitespace().find_map(|word| word.parse().ok())
}

/// The architecture whose PTX becomes an architecture's machine code. What one alone has is in its own PTX only.
fn source_of(architecture: &str) -> String {
    let newest = |number: u32| SOURCES.into_iter().rfind(|source| *source <= number);
    architecture.parse().ok().and_then(newest).map_or_else(|| architecture.to_owned(), |source| source.to_string())
}

/// 90 of `90a`.
fn number_of(architecture: &str) -> Option<u32> {
    architecture.strip_suffix(|c: char| c.is_ascii_lowercase()).unwrap_or(architecture).parse().ok()
}

fn said_by(program: &Path, argument: &str) -> Result<String> {
    let output = Command::new(program).arg(argument).output();
    let output = output.map_err(|problem| format!("cannot run {}: {problem}", program.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `release 13.0, V13.0.88` in what `nvcc --version` says.
fn version_of(program: &Path) -> Result<(u32, u32)> {
    let said = said_by(program, "--version")?;
    let release = said.split("release ").nth(1).and_then(|rest| rest.split(',').next());
    let version = release.and_then(|release| release.split_once('.'));
    let parsed = version.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    parsed.ok_or_else(|| format!("{} does not say which version it is", program.display()).into())
}

/// The architectures to compile for: `CORONET_CUDA_ARCHS`, or those of [`ARCHITECTURES`] that this nvcc knows.
fn architectures_of(program: &Path) -> Result<Vec<String>> {
    if let Some(wanted) = env::var("CORONET_CUDA_ARCHS").ok().filter(|wanted| !wanted.trim().is_empty()) {
        let names: Vec<String> = wanted.split([',', ' ']).filter(|name| !name.is_empty()).map(str::to_owned).collect();
        let strange = names.iter().find(|name| number_of(name).is_none());
        return match strange {
            Some(name) => Err(format!("CORONET_CUDA_ARCHS names {name}; write numbers, such as 80,90a").into()),
            None => Ok(names),
        };
    }
    let known = said_by(program, "--list-gpu-arch")?;
    let known: Vec<&str> = known.lines().filter_map(|line| line.trim().strip_prefix("compute_")).collect();
    let both: Vec<String> =
        ARCHITECTURES.iter().filter(|name| known.contains(name)).map(|name| (*name).to_owned()).collect();
    if both.is_empty() {
        return Err(format!("{} knows none of the architectures that kernels are for", program.display()).into());
    }
    Ok(both)
}
