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
/// Within a hidden folder: what will be moved into place, and what has been moved aside for it.
const NEW: &str = "new";
const OLD: &str = "old";
/// There once all that had to be moved aside has been: from then on what is new takes its place, whoever does it.
const PLACING: &str = "placing";

/// A hidden folder inside the one that results will be in. Dropped it goes, and with it the folders made for it,
/// unless something else has come into them.
#[derive(Debug)]
pub(crate) struct Staging {
    folder: PathBuf,
    /// Folders made for this run, outermost first.
    made: Vec<PathBuf>,
    /// Present until it has been taken down.
    hidden: Option<TempDir>,
    /// Where results are collected within it.
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
            for part in [NEW, OLD] {
                fs::create_dir(hidden.path().join(part)).map_err(Error::io("write to", folder))?;
            }
            Ok((hidden, lock))
        });
        match built {
            Ok((hidden, lock)) => {
                let path = hidden.path().join(NEW);
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

    /// Where they are for now, within the hidden folder.
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

    /// Brings all that was staged to disk and gives those of `names` that were staged their places, in this order.
    ///
    /// What is there of `names`, staged or not, goes, the last first. The caller has seen to it that it may.
    ///
    /// # Errors
    /// [`Error::Io`] with final names; all that was there is then there again, or the message says where it is.
    pub(crate) fn commit(mut self, names: &[&str]) -> Result<()> {
        sync_tree(&self.path).map_err(|error| self.with_final_path(error))?;
        let mut moves = Moves::default();
        if let Err(error) = self.move_into_place(names, &mut moves) {
            // Nobody is to go on with what goes back now.
            let _ = fs::remove_file(self.path.with_file_name(PLACING));
            return Err(if moves.undo() { error } else { self.keep(error) });
        }
        // The results stay, though that they are there is only certain once their folder itself is on disk.
        self.made.clear();
        sync(&self.folder).map_err(Error::io("sync", &self.folder))
    }

    /// Leaves the hidden folder where it is and says so: it holds the only copies of what was there.
    fn keep(&mut self, error: Error) -> Error {
        let Some(kept) = self.hidden.take().map(TempDir::keep) else { return error };
        match error {
            Error::Io { action, path, source } => {
                let problem = format!("{source}; what was there before is in {}", kept.join(OLD).display());
                Error::Io { action, path, source: std::io::Error::new(source.kind(), problem) }
            }
            other => other,
        }
    }

    fn move_into_place(&self, names: &[&str], moves: &mut Moves) -> Result<()> {
        let aside = self.path.with_file_name(OLD);
        for name in names.iter().rev() {
            let old = self.folder.join(name);
            if old.symlink_metadata().is_ok() {
                moves.rename(&old, &aside.join(name)).map_err(Error::io("replace", &old))?;
            }
        }
        let placing = self.path.with_file_name(PLACING);
        File::create(&placing).and_then(|file| file.sync_all()).map_err(Error::io("write to", &self.folder))?;
        for name in names {
            let (staged, place) = (self.path.join(name), self.folder.join(name));
            if staged.symlink_metadata().is_ok() {
                moves.rename(&staged, &place).map_err(Error::io("write", &place))?;
            }
        }
        Ok(())
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

    /// Whether all went back.
    fn undo(self) -> bool {
        let mut all = true;
        for (from, to) in self.0.into_iter().rev() {
            all &= fs::rename(to, from).is_ok();
        }
        all
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Nothing can be done here about a folder that will not go; the next run into the same place tries again.
        drop(self.hidden.take());
        remove_empty(&self.made);
    }
}

/// Whether `file` is a JSON document of this `schema`, by which folders are known as Coronet's own.
pub(crate) fn has_schema(file: &Path, schema: &str) -> bool {
    let text = fs::read(file).unwrap_or_default();
    serde_json::from_slice::<serde_json::Value>(&text).is_ok_and(|document| document["schema"] == schema)
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

/// Takes away hidden folders whose runs were killed, those whose lock nobody holds, but for what is nowhere else.
pub(crate) fn remove_abandoned(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
        if hidden
            && let Ok(lock) = File::open(path.join(LOCK))
            && lock.try_lock().is_ok()
            && settle(folder, &path)
        {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// Sees to what a run that was killed in [`Staging::commit`] had moved aside: it goes back to where it was. Where new
/// results, all on disk by then, had begun to take their places, the others take theirs instead.
///
/// False when something could not be moved.
fn settle(folder: &Path, hidden: &Path) -> bool {
    let contents = |part: &str| -> std::io::Result<Vec<(PathBuf, PathBuf)>> {
        let entries = match fs::read_dir(hidden.join(part)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        entries.map(|entry| entry.map(|entry| (entry.path(), folder.join(entry.file_name())))).collect()
    };
    let taken = |place: &Path| place.symlink_metadata().is_ok();
    let Ok(old) = contents(OLD) else { return false };
    let placing = hidden.join(PLACING).exists() || old.iter().any(|(_, place)| taken(place));
    let Ok(waiting) = (if placing { contents(NEW) } else { Ok(old) }) else { return false };
    waiting.iter().filter(|(_, place)| !taken(place)).all(|(from, place)| fs::rename(from, place).is_ok())
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with `names` in it, each a file that says "old", and as many staged that say "new".
    fn staged(names: &[&str]) -> (TempDir, Staging) {
        let folder = TempDir::new().unwrap();
        names.iter().for_each(|name| fs::write(folder.path().join(name), "old").unwrap());
        let staging = Staging::create(folder.path()).unwrap();
        names.iter().for_each(|name| staging.write(name, b"new").unwrap());
        (folder, staging)
    }

    fn said(folder: &TempDir, name: &str) -> String {
        fs::read_to_string(folder.path().join(name)).unwrap()
    }

    #[test]
    fn results_may_have_the_names_that_a_hidden_folder_uses_itself() {
        let names = [LOCK, NEW, OLD];
        let (folder, staging) = staged(&names);
        staging.commit(&names).unwrap();
        assert_eq!(names.map(|name| said(&folder, name)), ["new"; 3]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    #[test]
    fn what_was_there_is_there_again_when_one_name_cannot_be_had() {
        let (folder, staging) = staged(&["a", "b"]);
        // Nothing can be moved under a file.
        fs::create_dir_all(staging.path().join("a-file")).unwrap();
        staging.write("a-file/c", b"new").unwrap();
        fs::write(folder.path().join("a-file"), "").unwrap();
        let error = staging.commit(&["a", "a-file/c", "b"]).unwrap_err().to_string();
        assert!(error.starts_with("cannot write ") && error.contains("a-file/c"), "{error}");
        assert_eq!(["a", "b"].map(|name| said(&folder, name)), ["old"; 2]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    /// A folder in which a run was killed while it gave its results their places: files of its hidden folder by
    /// part, and files of the folder itself, each of which says where it was.
    fn killed(hidden: &[(&str, &[&str])], placed: &[&str]) -> TempDir {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(".coronet-killed");
        fs::create_dir(&path).unwrap();
        fs::write(path.join(LOCK), "").unwrap();
        for (part, names) in hidden {
            fs::create_dir(path.join(part)).unwrap();
            names.iter().for_each(|name| fs::write(path.join(part).join(name), part).unwrap());
        }
        placed.iter().for_each(|name| fs::write(folder.path().join(name), NEW).unwrap());
        folder
    }

    #[test]
    fn what_a_killed_run_had_moved_aside_goes_back() {
        let folder = killed(&[(OLD, &["b", "c"]), (NEW, &["a", "b", "c"])], &[]);
        fs::write(folder.path().join("a"), OLD).unwrap();
        drop(Staging::create(folder.path()).unwrap());
        assert_eq!(["a", "b", "c"].map(|name| said(&folder, name)), [OLD; 3]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    #[test]
    fn what_a_killed_run_had_begun_to_replace_is_replaced() {
        let folder = killed(&[(OLD, &["a", "b", "c"]), (NEW, &["b"])], &["a"]);
        drop(Staging::create(folder.path()).unwrap());
        assert_eq!(["a", "b"].map(|name| said(&folder, name)), [NEW; 2]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn the_first_results_that_a_killed_run_had_begun_to_place_are_placed() {
        let folder = killed(&[(OLD, &[]), (NEW, &["b", "c"])], &["a"]);
        fs::write(folder.path().join(".coronet-killed").join(PLACING), "").unwrap();
        drop(Staging::create(folder.path()).unwrap());
        assert_eq!(["a", "b", "c"].map(|name| said(&folder, name)), [NEW; 3]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_run_that_was_killed_before_it_had_all_results_leaves_none() {
        let folder = killed(&[(OLD, &[]), (NEW, &["a"])], &[]);
        drop(Staging::create(folder.path()).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_cannot_go_back_is_kept_and_named() {
        let (folder, mut staging) = staged(&["a"]);
        let (place, aside) = (folder.path().join("a"), staging.path().with_file_name(OLD).join("a"));
        let mut moves = Moves::default();
        moves.rename(&place, &aside).unwrap();
        // A folder that is not empty can be replaced by no file.
        fs::create_dir_all(place.join("something")).unwrap();
        assert!(!moves.undo());
        let error = staging.keep(Error::io("write", &place)(std::io::Error::other("the disk is gone")));
        let kept = aside.parent().unwrap().display();
        let expected =
            format!("cannot write {}: the disk is gone; what was there before is in {kept}", place.display());
        assert_eq!(error.to_string(), expected);
        drop(staging);
        assert_eq!(fs::read_to_string(aside).unwrap(), "old");
    }
}
