//! From kernels' texts to libraries: the emulator once, the kernels as they are once, and then each mutant by itself.
//!
//! What is compiled is what the build script compiles: it has left a source for each kernel file and path, which includes the
//! file and lists its kernels. Here that file is taken from a folder of the mutant's own.

use std::error::Error;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

pub type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// The paths through `primitives.cuh` whose mutants are run: of a file the first that it has.
const PATHS: [&str; 3] = ["_sm80", "_sm90", ""];

/// Why there is no machine code.
#[derive(Debug)]
pub enum Problem {
    /// The compiler says so of the text.
    Refused(String),
    /// Anything else.
    Other(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Problem::Refused(said) | Problem::Other(said)) = self;
        f.write_str(said)
    }
}

impl Error for Problem {}

impl From<Box<dyn Error>> for Problem {
    fn from(error: Box<dyn Error>) -> Problem {
        error.downcast().map_or_else(|other| Problem::Other(other.to_string()), |problem| *problem)
    }
}

/// How kernels are compiled and linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Build {
    /// Quickly, by the compiler that the build script uses.
    Plain,
    /// By clang, instrumented for the race detector and for undefined behaviour.
    Checked,
}

/// Kernels have everyday names, which must not meet those of other libraries.
const HIDDEN: [&str; 1] = ["-fvisibility=hidden"];

impl Build {
    fn command(self) -> Command {
        let mut command = Command::new(if self == Build::Plain { "c++" } else { "clang++" });
        command.args(["-std=c++17", "-O1", "-fPIC", "-w"]);
        if self == Build::Checked {
            command.arg("-DCORONET_CHECKED");
        }
        command
    }

    /// Of the code that is tried: kernels that only work beside it need no instruments.
    fn mutant_flags(self) -> &'static [&'static str] {
        match self {
            Build::Plain => &HIDDEN,
            Build::Checked => &["-fvisibility=hidden", "-fsanitize=thread,undefined", "-fno-sanitize=vptr,function"],
        }
    }
}

/// Where kernels are and where what is made of them goes.
pub struct Compiler {
    pub build: Build,
    /// `kernels/`.
    kernels: PathBuf,
    /// What the build script has left.
    sources: PathBuf,
    folder: PathBuf,
}

/// A library of kernels and the lists in it.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Library {
    pub path: PathBuf,
    pub lists: Vec<String>,
}

impl Compiler {
    /// Compiles the headers that all kernels share ahead of them.
    pub fn new(build: Build, folder: &Path) -> Result<Compiler> {
        let kernels = fs::canonicalize("kernels").map_err(|_| "there is no folder kernels/ here")?;
        let folder = folder.join(format!("{build:?}").to_lowercase());
        fs::create_dir_all(&folder)?;
        let compiler = Compiler { build, kernels, sources: env!("OUT_DIR").into(), folder };
        let header = compiler.folder.join("emulator.h");
        fs::write(&header, "#include \"emulator/cuda.h\"\n#include \"emulator/matrix.h\"\n")?;
        let mut command = compiler.command();
        command.args(build.mutant_flags()).args(["-x", "c++-header"]).arg(&header).arg("-o").arg(
            header.with_extension(match build {
                Build::Plain => "h.gch",
                Build::Checked => "h.pch",
            }),
        );
        finish(command)?;
        Ok(compiler)
    }

    fn command(&self) -> Command {
        let mut command = self.build.command();
        command.arg("-I").arg(&self.kernels);
        command
    }

    /// The emulator as a library that the kernels' libraries find their functions in.
    pub fn emulator(&self) -> Result<PathBuf> {
        let library = self.folder.join("libemulator.so");
        let mut command = self.command();
        command.args(["-shared", "-O2", "-o"]).arg(&library);
        let switch = format!("fiber_{}.S", std::env::consts::ARCH);
        for entry in fs::read_dir(self.kernels.join("emulator"))? {
            let path = entry?.path();
            let is_switch = path.file_name().is_some_and(|name| name == switch.as_str());
            if is_switch || path.extension().is_some_and(|extension| extension == "cpp") {
                command.arg(path);
            }
        }
        finish(command)?;
        Ok(library)
    }

    /// The kernels of some files as they are.
    pub fn originals(&self, stems: &[String]) -> Result<Library> {
        let folder = self.folder.join("originals");
        self.copy_texts(&folder)?;
        let objects = crate::in_parallel(stems, |stem| self.object(stem, &folder, &HIDDEN));
        let objects = objects.into_iter().collect::<Result<Vec<_>, Problem>>()?;
        self.link(&folder, &objects, stems)
    }

    /// The machine code of a file as it is.
    pub fn original_code(&self, stem: &str) -> Result<Vec<u8>> {
        Ok(fs::read(self.folder.join("originals").join(format!("{stem}.o")))?)
    }

    /// A kernel file with one text of `kernels/` replaced. `None` where the compiler makes the same of it as of the
    /// original.
    pub fn mutant(&self, stem: &str, file: &str, text: &str, name: &str) -> Result<Option<Library>, Problem> {
        let folder = self.folder.join(name);
        let write = || -> Result<()> {
            self.copy_texts(&folder)?;
            Ok(fs::write(folder.join(file), text)?)
        };
        write()?;
        let object = self.object(stem, &folder, self.build.mutant_flags())?;
        let link = || -> Result<Option<Library>> {
            if fs::read(&object)? == self.original_code(stem)? {
                return Ok(None);
            }
            // No fault of the text's.
            let linked = self.link(&folder, &[object], &[stem.to_owned()]);
            linked.map(Some).map_err(|problem| problem.to_string().into())
        };
        Ok(link()?)
    }

    /// Forgets a mutant.
    pub fn remove(&self, name: &str) {
        // What is left is overwritten by the next of that name.
        let _ = fs::remove_dir_all(self.folder.join(name));
    }

    /// Kernels and headers, without the emulator: that is found where it is.
    fn copy_texts(&self, to: &Path) -> Result<()> {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(&self.kernels)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                fs::copy(entry.path(), to.join(entry.file_name()))?;
            }
        }
        Ok(())
    }

    fn object(&self, stem: &str, folder: &Path, flags: &[&str]) -> Result<PathBuf, Problem> {
        let make = || -> Result<PathBuf> {
            let source = folder.join(format!("{stem}.cpp"));
            fs::write(&source, self.source(stem)?)?;
            let object = source.with_extension("o");
            let mut command = self.command();
            command.args(flags).current_dir(folder);
            if flags == self.build.mutant_flags() {
                command.arg("-include").arg(self.folder.join("emulator.h"));
            }
            command.args(["-c", &format!("{stem}.cpp"), "-o"]).arg(&object);
            finish(command)?;
            Ok(object)
        };
        Ok(make()?)
    }

    /// What the build script compiles for a file, with the file's text beside it and the list of kernels to be seen.
    fn source(&self, stem: &str) -> Result<String> {
        let path = PATHS.map(|path| self.sources.join(format!("{stem}{path}.cpp")));
        let path = path.iter().find(|path| path.is_file()).ok_or(format!("the build has left no source of {stem}"))?;
        let (symbol, text) = (list_of(path)?, fs::read_to_string(path)?);
        let lines = text.lines().map(|line| match line.strip_prefix("#include \"/") {
            Some(_) => format!("#include \"{stem}.cu\""),
            None => line.to_owned(),
        });
        let shown = "__attribute__((visibility(\"default\")))";
        let head = format!("#include \"emulator/kernel.h\"\nextern \"C\" {shown} const emulator::Kernel {symbol}[];");
        let lines: Vec<String> = lines.collect();
        // Behind the macros that choose the path, which the header asks.
        let at = lines.iter().position(|line| !line.starts_with("#define CORONET_")).unwrap_or(0);
        Ok([&lines[..at], &[head], &lines[at..]].concat().join("\n") + "\n")
    }

    fn link(&self, folder: &Path, objects: &[PathBuf], stems: &[String]) -> Result<Library> {
        let path = folder.join("libkernels.so");
        let mut command = self.build.command();
        command.args(["-shared", "-nostartfiles", "-o"]).arg(&path).args(objects);
        finish(command)?;
        let lists = stems.iter().map(|stem| {
            let made = PATHS.map(|path| self.sources.join(format!("{stem}{path}.cpp")));
            made.iter().find(|path| path.is_file()).map_or(Err("no source".into()), |path| list_of(path))
        });
        Ok(Library { path, lists: lists.collect::<Result<_>>()? })
    }
}

/// The name of a source's list of kernels.
fn list_of(source: &Path) -> Result<String> {
    Ok(format!("coronet_kernels_{}", source.file_stem().ok_or("no name")?.to_string_lossy()))
}

fn finish(mut command: Command) -> Result<()> {
    let output = command.output().map_err(|problem| format!("cannot run {:?}: {problem}", command.get_program()))?;
    if output.status.success() {
        return Ok(());
    }
    let report = String::from_utf8_lossy(&output.stderr);
    match report.lines().find(|line| line.contains("error")) {
        Some(first) if output.status.code() == Some(1) => Err(Problem::Refused(first.to_owned()).into()),
        first => Err(format!("{}: {}", output.status, first.unwrap_or("it does not say why")).into()),
    }
}
