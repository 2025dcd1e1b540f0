//! A fresh folder to run the binary in, and what all its failures have in common.

use assert_cmd::Command;
use coronet::model::{Config, Stem};
use coronet::weights::Weights;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use tempfile::TempDir;

/// The binary under test.
pub const CORONET: &str = env!("CARGO_BIN_EXE_coronet");

/// A folder that goes when the test ends.
pub struct Place(TempDir);

impl Place {
    pub fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// The weights of a small network that reads `neighbours` frames on each side, always the same.
    pub fn weights(&self, neighbours: usize) -> PathBuf {
        let path = self.at(&format!("n{neighbours}.safetensors"));
        if !path.exists() {
            let config = Config::new(4, Stem::Half, neighbours, 1).unwrap();
            Weights::seeded(config, 3).unwrap().save(&path).unwrap();
        }
        path
    }

    /// `coronet segment INPUT` with that network, at the smallest size it works on, on the CPU: `auto` has a line to say.
    pub fn segment(&self, input: &Path, neighbours: usize, out: &Path) -> Command {
        self.segment_with(input, &self.weights(neighbours), out, 96)
    }

    pub fn segment_with(&self, input: &Path, weights: &Path, out: &Path, side: usize) -> Command {
        let mut command = Command::new(CORONET);
        command.env_remove("RUST_BACKTRACE").current_dir(self.path()).arg("segment").arg(input);
        command.arg("--weights").arg(weights).arg("--out").arg(out).args([
            "--size",
            &side.to_string(),
            "--device",
            "cpu",
        ]);
        command
    }

    /// Runs what must fail as every failure does, leaving all files here as they were; the sentence it gives.
    pub fn refusal(&self, command: &mut Command) -> String {
        let before = tree(self.path());
        let output = command.output().unwrap();
        let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(matches!(output.status.code(), Some(1 | 2)), "{:?}: {err}", output.status);
        assert_eq!(out, "", "a failure has nothing to say on stdout");
        let after = tree(self.path());
        let (before, after): (Vec<_>, Vec<_>) = (before.keys().collect(), after.keys().collect());
        assert_eq!(after, before, "something was left behind or taken away: {err}");
        sentence(&err)
    }
}

/// The one line that a failure writes, without the program's name.
pub fn sentence(err: &str) -> String {
    assert_eq!(err.lines().count(), 1, "one line: {err}");
    let sentence = err.trim_end().strip_prefix("coronet: ").unwrap_or_else(|| panic!("no name in front: {err}"));
    for foreign in ["panic", "internal error", "backtrace", "Some(", "Err(", "Error {", "\u{1b}["] {
        assert!(!sentence.contains(foreign), "`{foreign}` in: {err}");
    }
    assert!(!sentence.ends_with('.') && !sentence.contains(". "), "one sentence: {err}");
    sentence.to_owned()
}

/// Everything below `folder`, by its path relative to it: files with their contents, folders with nothing.
pub fn tree(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open: Vec<PathBuf> = vec![folder.to_path_buf()];
    while let Some(next) = open.pop() {
        for path in fs::read_dir(next).unwrap().map(|entry| entry.unwrap().path()) {
            let is_folder = path.symlink_metadata().unwrap().is_dir();
            // Links, pipes and the like are there, and that is all.
            let contents = if path.is_file() { fs::read(&path).unwrap_or_default() } else { Vec::new() };
            found.insert(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned(), contents);
            if is_folder {
                open.push(path);
            }
        }
    }
    found
}

/// What a run has left, without the summary, which holds times.
pub fn results(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = tree(folder);
    assert!(found.remove("summary.json").is_some(), "no summary in {}", folder.display());
    found
}

/// Those of `results` that lie in `folder`, by their own names.
pub fn within<'a>(results: &'a BTreeMap<String, Vec<u8>>, folder: &str) -> BTreeMap<&'a str, &'a [u8]> {
    let prefix = format!("{folder}/");
    results.iter().filter_map(|(name, bytes)| Some((name.strip_prefix(&prefix)?, bytes.as_slice()))).collect()
}

/// A small file system in memory, for root only; gone when dropped.
pub struct Disk(pub PathBuf);

impl Disk {
    pub fn mount(at: PathBuf, options: &str) -> Option<Disk> {
        fs::create_dir_all(&at).unwrap();
        let mut mount = process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&at).stderr(process::Stdio::null());
        if mount.status().is_ok_and(|status| status.success()) {
            return Some(Disk(at));
        }
        eprintln!("skipped: only root may mount a small file system");
        None
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = process::Command::new("umount").arg(&self.0).status();
    }
}
