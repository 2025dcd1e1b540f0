//! The `.cu` files of `kernels/`, read without a compiler: which kernels are in them, and what has what they use.

use crate::Result;
use std::fs;
use std::path::{Path, PathBuf};

/// A `.cu` file and the kernels in it.
pub struct KernelFile {
    pub stem: String,
    pub path: PathBuf,
    pub text: String,
    pub kernels: Vec<Kernel>,
    /// What has what its kernels use, where a line `// needs sm_NUMBER` says so.
    pub needs: Option<Needs>,
}

/// What has what the kernels of a file use: an architecture and all that are newer, or that one alone (`sm_90a`).
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    pub number: u32,
    pub alone: bool,
}

impl Needs {
    /// Of `80` or `90a`.
    fn parse(text: &str) -> Result<Needs> {
        let number = text.strip_suffix('a');
        Ok(Needs { number: number.unwrap_or(text).parse()?, alone: number.is_some() })
    }

    /// Whether an architecture has it.
    pub fn are_met_by(self, number: u32) -> bool {
        if self.alone { number == self.number } else { number >= self.number }
    }
}

impl KernelFile {
    pub fn read(path: PathBuf) -> Result<KernelFile> {
        let text = text_of(&path)?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let needs = text.lines().find_map(|line| line.strip_prefix("// needs sm_"));
        let needs = needs.map(Needs::parse).transpose().map_err(|e| format!("{}: needs sm_?: {e}", path.display()))?;
        Ok(KernelFile { stem, kernels: kernels_of(&text), needs, path, text })
    }
}

/// A kernel, as far as its head says.
pub struct Kernel {
    pub name: String,
    /// The most threads of a block, as `__launch_bounds__` has it in the file's own words.
    #[cfg_attr(not(feature = "emulator"), allow(dead_code))]
    pub most_threads: String,
}

pub fn files() -> Result<Vec<KernelFile>> {
    let mut files = Vec::new();
    for path in paths_in_kernels()? {
        if path.extension().is_some_and(|extension| extension == "cu") {
            files.push(KernelFile::read(path)?);
        }
    }
    Ok(files)
}

/// What lies in `kernels/`, by name.
pub fn paths_in_kernels() -> Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir("kernels")?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// Of all that the kernels are made of, by FNV-1a: the same for the same files, whatever builds them. What was measured
/// of some kernels says nothing of others.
pub fn fingerprint() -> Result<u64> {
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

pub fn text_of(path: &Path) -> Result<String> {
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
