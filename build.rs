//! Compiles `kernels/`: with feature `cuda` by nvcc, one fatbin for each file, embedded; with feature `emulator` by
//! the host's C++ compiler, for the emulator. Neither needs a GPU.
//!
//! `CORONET_NVCC` names the nvcc to use, `CORONET_CUDA_ARCHS` (such as `90a` or `80,86`) the architectures. Compiled
//! files are kept in `target/kernels` under a hash of all that went into them, so that other profiles and feature
//! sets find them; beside each lies a table of the registers and shared memory of its kernels.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
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
    let files = kernel_files()?;
    println!("cargo::rustc-env=CORONET_KERNELS={:016x}", fingerprint()?);
    if cuda {
        cuda::compile(&files, &out)?;
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

/// A `.cu` file and the kernels in it.
struct KernelFile {
    stem: String,
    path: PathBuf,
    text: String,
    kernels: Vec<Kernel>,
    /// What has what its kernels use, where a line `// needs sm_NUMBER` says so.
    needs: Option<Needs>,
}

/// What has what the kernels of a file use: an architecture and all that are newer, or that one alone (`sm_90a`).
#[derive(Debug, Clone, Copy)]
struct Needs {
    number: u32,
    alone: bool,
}

impl Needs {
    /// Of `80` or `90a`.
    fn parse(text: &str) -> Result<Needs> {
        let number = text.strip_suffix('a');
        Ok(Needs { number: number.unwrap_or(text).parse()?, alone: number.is_some() })
    }

    /// Whether an architecture has it.
    fn are_met_by(self, number: u32) -> bool {
        if self.alone { number == self.number } else { number >= self.number }
    }
}

impl KernelFile {
    fn read(path: PathBuf) -> Result<KernelFile> {
        let text = text_of(&path)?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let needs = text.lines().find_map(|line| line.strip_prefix("// needs sm_"));
        let needs = needs.map(Needs::parse).transpose().map_err(|e| format!("{}: needs sm_?: {e}", path.display()))?;
        Ok(KernelFile { stem, kernels: kernels_of(&text), needs, path, text })
    }
}

/// A kernel, as far as its head says.
struct Kernel {
    name: String,
    /// The most threads of a block, as `__launch_bounds__` has it in the file's own words.
    #[cfg_attr(not(feature = "emulator"), allow(dead_code))]
    most_threads: String,
}

fn kernel_files() -> Result<Vec<KernelFile>> {
    let mut files = Vec::new();
    for path in paths_in_kernels()? {
        if path.extension().is_some_and(|extension| extension == "cu") {
            files.push(KernelFile::read(path)?);
        }
    }
    Ok(files)
}

/// What lies in `kernels/`, by name.
fn paths_in_kernels() -> Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir("kernels")?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// Of all that the kernels are made of, by FNV-1a: the same for the same files, whatever builds them. What was measured
/// of some kernels says nothing of others.
fn fingerprint() -> Result<u64> {
    let is_source = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "cu" || extension == "cuh");
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for path in paths_in_kernels()?.into_iter().filter(is_source) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for byte in [name, text_of(&path)?].iter().flat_map(|text| text.bytes().chain([0])) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    Ok(hash)
}

fn text_of(path: &Path) -> Result<String> {
    Ok(fs::read_to_string(path).map_err(|problem| format!("cannot read {}: {problem}", path.display()))?)
}

/// The kernels of a file: `extern "C" __global__ void __launch_bounds__(MOST_THREADS[, ...]) NAME(`, or a line that begins with
/// a macro which writes that, `..._KERNEL(NAME, ` with `THREADS` threads.
fn kernels_of(text: &str) -> Vec<Kernel> {
    let written_out = text.lines().filter_map(|line| {
        let (name_of_macro, arguments) = line.split_once("_KERNEL(")?;
        let is_macro = !name_of_macro.is_empty() && name_of_macro.chars().all(|c| c.is_ascii_uppercase() || c == '_');
        let name = arguments.split_once(',').filter(|_| is_macro)?.0;
        Some(Kernel { name: name.to_owned(), most_threads: "THREADS".to_owned() })
    });
    let heads = text.split("extern \"C\" __global__ void").skip(1);
    heads
        .filter_map(|head| {
            let (most_threads, head) = match head.trim_start().strip_prefix("__launch_bounds__(") {
                Some(bounded) => bounded.split_once(')')?,
                None => ("1024", head),
            };
            // What else it has is the least number of blocks that a multiprocessor shall hold at once.
            let most_threads = most_threads.split(',').next()?;
            let name = head.split_once('(')?.0.trim().to_owned();
            Some(Kernel { name, most_threads: most_threads.to_owned() })
        })
        .chain(written_out)
        .collect()
}

// ---- nvcc ----------------------------------------------------------------------------------------------------------

mod cuda {
    use super::*;

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
            let places = [named, folder("CUDA_HOME"), on_path, Some(fetched.to_path_buf())];
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
                return Err(
                    complaint(&file.path, &format!("multiplies one product after the other: {line}"), "").into()
                );
            }
            let resources = resources(&report);
            if let Some(line) = resources.iter().find(|line| !line.ends_with(" 0 bytes in local memory")) {
                return Err(
                    complaint(&file.path, &format!("keeps what belongs in registers in memory: {line}"), "").into()
                );
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
        report
            .lines()
            .filter(|line| !line.starts_with("ptxas info"))
            .for_each(|line| println!("cargo::warning={line}"));
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
            let names: Vec<String> =
                wanted.split([',', ' ']).filter(|name| !name.is_empty()).map(str::to_owned).collect();
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
}

// ---- emulator ------------------------------------------------------------------------------------------------------

#[cfg(feature = "emulator")]
mod emulator {
    use super::*;

    /// Kernels that do wrong on purpose, for the emulator's own tests; nvcc never sees them.
    const PROBES: &str = "kernels/emulator/probes.cu";

    /// The architectures whose path through primitives.cuh can be run, as `CORONET_ARCH` names them. Newer ones take the same as
    /// 80, but for files that are theirs alone.
    const PATHS: [u32; 2] = [75, 80];

    /// What the compiler adds to the kernels.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Checks {
        None,
        /// Announcements of every access, to the race detector and the counters.
        Accesses,
        /// AddressSanitizer, in the emulator too.
        Addresses,
    }

    /// Compiles kernels and emulator into static libraries, and writes `emulated.rs`, the list of the kernel lists.
    ///
    /// With `CORONET_EMULATOR=checked` clang instruments the kernels for the race detector and for undefined behaviour,
    /// with `address` the C++ compiler does, gcc, for AddressSanitizer and undefined behaviour.
    pub fn compile(files: &[KernelFile], out: &Path) -> Result<()> {
        println!("cargo::rerun-if-env-changed=CORONET_EMULATOR");
        let checks = match env::var("CORONET_EMULATOR").as_deref() {
            Ok("") | Err(_) => Checks::None,
            Ok("checked") => Checks::Accesses,
            Ok("address") => Checks::Addresses,
            Ok(other) => {
                return Err(format!("CORONET_EMULATOR is `{other}`, neither `checked` nor `address`").into());
            }
        };
        match checks {
            Checks::None => {}
            Checks::Accesses => println!("cargo::rustc-cfg=coronet_checked"),
            Checks::Addresses => {
                println!("cargo::rustc-cfg=coronet_address");
                link_address_sanitizer()?;
            }
        }
        compile_kernels(files, out, checks)?;
        let mut runtime = cpp(checks);
        let parts = ["fiber", "interface", "matrix", "memory", "multiprocessor", "races", "traffic", "undefined"];
        let parts = parts.into_iter().chain(["warpgroups"]);
        runtime.files(parts.map(|part| format!("kernels/emulator/{part}.cpp")));
        runtime.try_compile("coronet_emulator").map_err(|e| format!("the emulator does not compile: {e}"))?;
        compile_switch()
    }

    fn cpp(checks: Checks) -> cc::Build {
        let mut library = cc::Build::new();
        library.cpp(true).std("c++17").include("kernels").opt_level(3).warnings(true);
        library.flag("-Wno-unknown-pragmas");
        match checks {
            Checks::None => {}
            Checks::Accesses => {
                library.compiler("clang++").define("CORONET_CHECKED", None);
            }
            Checks::Addresses => {
                library.define("CORONET_ADDRESS", None).flag("-fsanitize=address").flag("-g1").opt_level(1);
            }
        }
        library
    }

    fn compile_kernels(files: &[KernelFile], out: &Path, checks: Checks) -> Result<()> {
        let probes = KernelFile::read(PROBES.into())?;
        let mut library = cpp(checks);
        // Kernels are plain C symbols with everyday names, which must not meet those of a shared library.
        library.flag("-fvisibility=hidden");
        if checks == Checks::Addresses {
            library.flag("-fsanitize=undefined").flag("-fno-sanitize=vptr");
        }
        if checks == Checks::Accesses {
            library.flag("-fsanitize=thread,undefined").flag("-fno-sanitize=vptr,function");
            // Findings name lines: they are found by the addresses that calls into the emulator return to.
            library.flag("-gline-tables-only").flag("-fno-optimize-sibling-calls");
            // An access of the source is one access here, so that requests are counted as a GPU makes them: what nvcc
            // would not merge stays apart, and a load before a store to the same place is announced as well.
            library.flag("-fno-vectorize").flag("-fno-slp-vectorize");
            library.flag("-mllvm").flag("-tsan-instrument-read-before-write");
            // Calls at the ends of two branches stay two, each with its line.
            library.flag("-mllvm").flag("-sink-common-insts=false").flag("-mllvm").flag("-hoist-common-insts=false");
        }
        let (mut tables, mut names) = (String::new(), String::new());
        for (file, path) in files.iter().chain([&probes]).flat_map(with_paths) {
            let suffix = path.map(|path| format!("_sm{path}")).unwrap_or_default();
            let symbol = format!("coronet_kernels_{}{suffix}", file.stem);
            let source = out.join(format!("{}{suffix}.cpp", file.stem));
            fs::write(&source, table_source(file, path, &symbol)?)?;
            library.file(source);
            writeln!(tables, "unsafe extern \"C\" {{ static {symbol}: Kernel; }}")?;
            writeln!(names, "    ({path:?}, &raw const {symbol}),")?;
        }
        library.try_compile("coronet_emulated").map_err(|e| format!("the kernels do not compile for the host: {e}"))?;
        if checks == Checks::Accesses {
            announce_copies(&out.join("libcoronet_emulated.a"))?;
        }
        let list = format!("{tables}fn tables() -> Vec<(Option<u32>, *const Kernel)> {{ vec![\n{names}] }}\n");
        fs::write(out.join("emulated.rs"), list)?;
        Ok(())
    }

    /// A file with each path it must be compiled for, or with none where all architectures share one.
    fn with_paths(file: &KernelFile) -> Vec<(&KernelFile, Option<u32>)> {
        let headers = ["primitives.cuh", "tensor_conv.cuh", "patch_conv.cuh", "warpgroup_conv.cuh"];
        let differs = headers.iter().any(|header| file.text.contains(header));
        if !differs {
            return vec![(file, None)];
        }
        match file.needs {
            Some(Needs { number, alone: true }) => vec![(file, Some(number))],
            needs => {
                let has_it = |path: &u32| needs.is_none_or(|needs| needs.are_met_by(*path));
                PATHS.into_iter().filter(has_it).map(|path| (file, Some(path))).collect()
            }
        }
    }

    /// The file itself and, after it, its list of kernels. On a path kernels get names of that path, for they are C
    /// symbols, of which there can only be one of a name.
    fn table_source(file: &KernelFile, path: Option<u32>, symbol: &str) -> Result<String> {
        let mut source = String::new();
        if let Some(path) = path {
            writeln!(
                source,
                "#define CORONET_ARCH {path}\n#define CORONET_PATH sm{path}\n#include \"primitives.cuh\""
            )?;
        }
        writeln!(source, "#include \"emulator/kernel.h\"")?;
        let mut entries = String::new();
        let most_shared = if file.needs.is_some_and(|needs| needs.alone) { "MOST_SHARED_ALONE" } else { "MOST_SHARED" };
        for Kernel { name, most_threads } in &file.kernels {
            let function = path.map_or_else(|| name.clone(), |path| format!("{name}_sm{path}"));
            if path.is_some() {
                writeln!(source, "#define {name} {function}")?;
            }
            writeln!(
                entries,
                "    {{{name:?}, emulator::entry<&{function}>, {most_threads}, emulator::{most_shared}}},"
            )?;
        }
        writeln!(source, "#include {:?}", fs::canonicalize(&file.path)?)?;
        writeln!(source, "extern \"C\" const emulator::Kernel {symbol}[] = {{\n{entries}    {{}},\n}};")?;
        Ok(source)
    }

    /// clang announces loads and stores but no copies of structs: those go to functions of the emulator.
    fn announce_copies(library: &Path) -> Result<()> {
        let mut objcopy = Command::new("objcopy");
        for name in ["memcpy", "memmove", "memset"] {
            objcopy.arg(format!("--redefine-sym={name}=coronet_checked_{name}"));
        }
        let status = objcopy.arg(library).status().map_err(|problem| format!("cannot run objcopy: {problem}"))?;
        if status.success() { Ok(()) } else { Err(format!("objcopy {status}: {}", library.display()).into()) }
    }

    /// Links gcc's AddressSanitizer into every executable. Whole and static: as a shared library it would have to come
    /// before all others, and rustc puts its own first.
    fn link_address_sanitizer() -> Result<()> {
        let gcc = cpp(Checks::Addresses).try_get_compiler()?;
        let found = |name: &str| -> Result<String> {
            let output = gcc.to_command().arg(format!("-print-file-name={name}")).output()?;
            let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            let missing = || format!("CORONET_EMULATOR=address needs gcc with its {name}");
            Path::new(&path).is_absolute().then_some(path).ok_or_else(|| missing().into())
        };
        let (start, library) = (found("libasan_preinit.o")?, found("libasan.a")?);
        for argument in [&start, "-Wl,--whole-archive", &library, "-Wl,--no-whole-archive", "-lstdc++", "-lm", "-ldl"] {
            println!("cargo::rustc-link-arg={argument}");
        }
        Ok(())
    }

    /// The stack switch of the processor compiled for.
    fn compile_switch() -> Result<()> {
        let processor = env::var("CARGO_CFG_TARGET_ARCH")?;
        let source = PathBuf::from(format!("kernels/emulator/fiber_{processor}.S"));
        if !source.is_file() {
            return Err(format!("the emulator has no stack switch for {processor}: build without `emulator`").into());
        }
        let mut library = cc::Build::new();
        library
            .file(source)
            .try_compile("coronet_switch")
            .map_err(|e| format!("the stack switch does not assemble: {e}"))?;
        Ok(())
    }
}
