//! What the host's C++ compiler makes of the kernels and of the emulator: static libraries, and a list of the kernels.

use crate::Result;
use crate::kernels::{Kernel, KernelFile, Needs};
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

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
        writeln!(source, "#define CORONET_ARCH {path}\n#define CORONET_PATH sm{path}\n#include \"primitives.cuh\"")?;
    }
    writeln!(source, "#include \"emulator/kernel.h\"")?;
    let mut entries = String::new();
    let most_shared = if file.needs.is_some_and(|needs| needs.alone) { "MOST_SHARED_ALONE" } else { "MOST_SHARED" };
    for Kernel { name, most_threads } in &file.kernels {
        let function = path.map_or_else(|| name.clone(), |path| format!("{name}_sm{path}"));
        if path.is_some() {
            writeln!(source, "#define {name} {function}")?;
        }
        writeln!(entries, "    {{{name:?}, emulator::entry<&{function}>, {most_threads}, emulator::{most_shared}}},")?;
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
