//! Hidden folders that collect results until they are complete, so that nothing is ever half there.

use crate::error::{Error, Result};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// How a hidden folder begins.
const PREFIX: &str = ".coronet-";
/// In every hidden folder, locked while its run lives.
const LOCK: &str = "lock";

/// A hidden folder inside the one that results will be in. Dropped it goes, and with it the folders made for it,
/// unless something else has come into them.
#[derive(Debug)]
pub(crate) struct Staging {
    folder: PathBuf,
    /// Folders made for this run, outermost first.
    made: Vec<PathBuf>,
    /// Present until it has been taken down.
    hidden: Option<TempDir>,
    path: PathBuf,
    _lock: File,
}

/// A file inside a hidden folder, for writers that want a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedFile {
    /// Where to write it.
    pub path: PathBuf,
    /// Where it will be in the end, for messages.
    pub final_path: PathBuf,
}

impl Staging {
    /// Makes a hidden folder in `folder`, and `folder` where it is missing; sweeps up after runs that were killed.
    ///
    /// # Errors
    /// [`Error::Request`] when `folder` is no folder, [`Error::Io`] when it cannot be written.
    pub(crate) fn create(folder: &Path) -> Result<Staging> {
        let mut made = Vec::new();
        let built = make_folders(folder, &mut made).and_then(|()| {
            remove_abandoned(folder);
            let hidden = tempfile::Builder::new().prefix(PREFIX).tempdir_in(folder);
            let hidden = hidden.map_err(Error::io("write to", folder))?;
            let lock = File::create(hidden.path().join(LOCK)).map_err(Error::io("write to", folder))?;
            // Without locks nobody can tell whether this run lives, and nobody takes its folder for abandoned.
            let _ = lock.try_lock();
            Ok((hidden, lock))
        });
        match built {
            Ok((hidden, lock)) => {
                let path = hidden.path().to_path_buf();
                Ok(Staging { folder: folder.to_path_buf(), made, hidden: Some(hidden), path, _lock: lock })
            }
            Err(error) => {
                remove_empty(&made);
                Err(error)
            }
        }
    }

    /// Where the results will be.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The hidden folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The path under which to write `name` for now. A subfolder is made where needed.
    ///
    /// # Errors
    /// [`Error::Io`] when the subfolder cannot be made.
    pub(crate) fn stage(&self, name: &str) -> Result<StagedFile> {
        let file = StagedFile { path: self.path.join(name), final_path: self.folder.join(name) };
        if let (Some(parent), Some(final_parent)) = (file.path.parent(), file.final_path.parent()) {
            fs::create_dir_all(parent).map_err(Error::io("create", final_parent))?;
        }
        Ok(file)
    }

    /// Writes `bytes` as `name`.
    ///
    /// # Errors
    /// [`Error::Io`] with the file's final name.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let file = self.stage(name)?;
        let written = File::create(&file.path).and_then(|mut f| f.write_all(bytes));
        written.map_err(Error::io("write", &file.final_path))
    }

    /// `error` with final names instead of hidden ones.
    pub(crate) fn with_final_path(&self, error: Error) -> Error {
        let shown = |path: PathBuf| match path.strip_prefix(&self.path) {
            Ok(name) => self.folder.join(name),
            Err(_) => path,
        };
        match error {
            Error::Io { action, path, source } => Error::Io { action, path: shown(path), source },
            Error::Media { path, problem } => Error::Media { path: shown(path), problem },
            other => other,
        }
    }

    /// Brings all that was staged to disk.
    ///
    /// # Errors
    /// [`Error::Io`] with final names.
    pub(crate) fn sync(&self) -> Result<()> {
        sync_tree(&self.path).map_err(|error| self.with_final_path(error))
    }

    /// The results are in place: their folder stays, and is brought to disk itself.
    ///
    /// # Errors
    /// [`Error::Io`] when that fails.
    pub(crate) fn settle(&mut self) -> Result<()> {
        self.made.clear();
        sync(&self.folder).map_err(Error::io("sync", &self.folder))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Nothing can be done here about a folder that will not go; the next run into the same place tries again.
        drop(self.hidden.take());
        remove_empty(&self.made);
    }
}

fn make_folders(folder: &Path, made: &mut Vec<PathBuf>) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if folder.as_os_str().is_empty() {
        return Err(Error::Request("the folder for the results has no name".into()));
    }
    if folder.symlink_metadata().is_ok() {
        return Err(Error::Request(format!("{} is not a folder; choose another place", folder.display())));
    }
    if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make_folders(parent, made)?;
    }
    fs::create_dir(folder).map_err(Error::io("create", folder))?;
    made.push(folder.to_path_buf());
    Ok(())
}

fn remove_empty(made: &[PathBuf]) {
    for folder in made.iter().rev() {
        let _ = fs::remove_dir(folder);
    }
}

/// Takes away hidden folders whose runs were killed: those whose lock nobody holds.
fn remove_abandoned(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
        if hidden && File::open(path.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok()) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

fn sync(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

/// Brings a folder and all in it to disk.
fn sync_tree(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let path = entry.map_err(Error::io("read", folder))?.path();
        if path.is_dir() {
            sync_tree(&path)?;
        } else {
            sync(&path).map_err(Error::io("write", &path))?;
        }
    }
    sync(folder).map_err(Error::io("write", folder))
}
