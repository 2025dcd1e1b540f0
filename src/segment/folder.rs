//! The folder a run leaves its results in: all of them, or none.
//!
//! Everything is written into a hidden folder beside the final names, synced, and renamed into place at the very
//! end, `summary.json` last. A run that fails or is stopped takes its hidden folder with it.

use crate::error::{Error, Result};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// What a run may leave, in the order it is moved into place.
const NAMES: [&str; 5] = ["masks", "probability", "overlay.mp4", "contact_sheet.png", SUMMARY];
/// Its presence says that the results are complete.
const SUMMARY: &str = "summary.json";
/// The value of `schema` in a summary, by which results are known as Coronet's own.
pub(super) const SCHEMA: &str = "coronet/segment";
/// How a hidden folder begins.
const STAGING_PREFIX: &str = ".coronet-";
/// In every hidden folder, locked while its run lives.
const LOCK: &str = "lock";

/// A folder for results, with a hidden folder inside that collects them until [`ResultFolder::commit`].
///
/// Dropped without a commit it leaves the file system as it was.
#[derive(Debug)]
pub struct ResultFolder {
    folder: PathBuf,
    overwrite: bool,
    /// Folders made for this run, outermost first.
    made: Vec<PathBuf>,
    /// Present until it has been taken down.
    staging: Option<TempDir>,
    staging_path: PathBuf,
    _lock: File,
}

/// A file inside the hidden folder, for writers that want a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedFile {
    /// Where to write it.
    pub path: PathBuf,
    /// Where it will be in the end, for messages.
    pub final_path: PathBuf,
}

impl ResultFolder {
    /// Prepares `folder`, making it where it is missing.
    ///
    /// # Errors
    /// [`Error::Request`] when it holds results and `overwrite` is not set, or holds files of those names that are
    /// not Coronet's; [`Error::Io`] when it cannot be written.
    pub fn create(folder: &Path, overwrite: bool) -> Result<ResultFolder> {
        let mut made = Vec::new();
        let built = make_folders(folder, &mut made).and_then(|()| {
            check_free(folder, overwrite)?;
            remove_abandoned(folder);
            let staging = tempfile::Builder::new().prefix(STAGING_PREFIX).tempdir_in(folder);
            let staging = staging.map_err(Error::io("write to", folder))?;
            let lock = File::create(staging.path().join(LOCK)).map_err(Error::io("write to", folder))?;
            // Without locks nobody can tell whether this run lives, and nobody takes its folder for abandoned.
            let _ = lock.try_lock();
            Ok((staging, lock))
        });
        match built {
            Ok((staging, lock)) => {
                let staging_path = staging.path().to_path_buf();
                let folder = folder.to_path_buf();
                Ok(ResultFolder { folder, overwrite, made, staging: Some(staging), staging_path, _lock: lock })
            }
            Err(error) => {
                remove_empty(&made);
                Err(error)
            }
        }
    }

    /// Where the results will be.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// The path under which to write `name` for now. A subfolder is made where needed.
    ///
    /// # Errors
    /// [`Error::Io`] when the subfolder cannot be made.
    pub fn stage(&self, name: &str) -> Result<StagedFile> {
        let file = StagedFile { path: self.staging_path.join(name), final_path: self.folder.join(name) };
        if let (Some(parent), Some(final_parent)) = (file.path.parent(), file.final_path.parent()) {
            fs::create_dir_all(parent).map_err(Error::io("create", final_parent))?;
        }
        Ok(file)
    }

    /// Writes `bytes` as `name`.
    ///
    /// # Errors
    /// [`Error::Io`] with the file's final name.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let file = self.stage(name)?;
        let written = File::create(&file.path).and_then(|mut f| f.write_all(bytes));
        written.map_err(Error::io("write", &file.final_path))
    }

    /// `error` with final names instead of hidden ones.
    pub fn with_final_path(&self, error: Error) -> Error {
        let shown = |path: PathBuf| match path.strip_prefix(&self.staging_path) {
            Ok(name) => self.folder.join(name),
            Err(_) => path,
        };
        match error {
            Error::Io { action, path, source } => Error::Io { action, path: shown(path), source },
            Error::Media { path, problem } => Error::Media { path: shown(path), problem },
            other => other,
        }
    }

    /// Syncs everything and moves it into place; with `overwrite`, what was there goes.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Request`]; the folder is then as it was before.
    pub fn commit(mut self) -> Result<()> {
        check_free(&self.folder, self.overwrite)?;
        sync_tree(&self.staging_path).map_err(|e| self.with_final_path(e))?;
        let mut moves = Moves::default();
        let moved = self.move_into_place(&mut moves);
        if let Err(error) = moved {
            moves.undo();
            return Err(error);
        }
        self.made.clear();
        // The results are in place; that they are there is only certain once the folder itself is on disk.
        sync(&self.folder).map_err(Error::io("sync", &self.folder))
    }

    fn move_into_place(&self, moves: &mut Moves) -> Result<()> {
        let replaced = self.staging_path.join("replaced");
        fs::create_dir(&replaced).map_err(Error::io("write to", &self.folder))?;
        // The summary leaves first and comes last: a folder that has one is complete.
        for name in NAMES.iter().rev() {
            let (old, aside) = (self.folder.join(name), replaced.join(name));
            if old.symlink_metadata().is_ok() {
                moves.rename(&old, &aside).map_err(Error::io("replace", &old))?;
            }
        }
        for name in NAMES {
            let (staged, place) = (self.staging_path.join(name), self.folder.join(name));
            if staged.symlink_metadata().is_ok() {
                moves.rename(&staged, &place).map_err(Error::io("write", &place))?;
            }
        }
        Ok(())
    }
}

impl Drop for ResultFolder {
    fn drop(&mut self) {
        // Nothing can be done here about a folder that will not go; the next run into the same place tries again.
        drop(self.staging.take());
        remove_empty(&self.made);
    }
}

/// Renames that can be taken back.
#[derive(Default)]
struct Moves(Vec<(PathBuf, PathBuf)>);

impl Moves {
    fn rename(&mut self, from: &Path, to: &Path) -> std::io::Result<()> {
        fs::rename(from, to)?;
        self.0.push((from.to_path_buf(), to.to_path_buf()));
        Ok(())
    }

    fn undo(self) {
        for (from, to) in self.0.into_iter().rev() {
            let _ = fs::rename(to, from);
        }
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

/// Refuses a folder with results unless they may be replaced, and files of those names that no run has left.
fn check_free(folder: &Path, overwrite: bool) -> Result<()> {
    let Some(found) = NAMES.iter().find(|name| folder.join(name).symlink_metadata().is_ok()) else {
        return Ok(());
    };
    let folder_name = folder.display();
    if !is_coronets(folder) {
        return Err(Error::Request(format!(
            "{folder_name} holds '{found}', but no finished results of Coronet; choose another folder"
        )));
    }
    if !overwrite {
        return Err(Error::Request(format!(
            "{folder_name} already holds results; choose another folder, or replace them with --overwrite"
        )));
    }
    Ok(())
}

fn is_coronets(folder: &Path) -> bool {
    let text = fs::read(folder.join(SUMMARY)).unwrap_or_default();
    serde_json::from_slice::<serde_json::Value>(&text).is_ok_and(|summary| summary["schema"] == SCHEMA)
}

/// Takes away hidden folders whose runs were killed: those whose lock nobody holds.
fn remove_abandoned(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(STAGING_PREFIX));
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
