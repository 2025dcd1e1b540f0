//! The folder a verb leaves its results in: all of them, or none.
//!
//! Everything is written into a hidden folder beside the final names, synced, and renamed into place at the very
//! end, the summary last. A run that fails or is stopped takes its hidden folder with it.

use crate::error::{Error, Result};
use crate::staging::{Staging, has_schema, remove_abandoned};
use std::path::Path;

pub use crate::staging::StagedFile;

/// What a verb may leave in its folder, and how that is known again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResultKind {
    /// All names, in the order they are moved into place.
    pub names: &'static [&'static str],
    /// The last of the names, a JSON document: its presence says that the results are complete.
    pub summary: &'static str,
    /// The value of `schema` in the summary, by which results are known as this verb's own.
    pub schema: &'static str,
}

/// A folder for results, with a hidden folder inside that collects them until [`ResultFolder::commit`].
///
/// Dropped without a commit it leaves the file system as it was.
#[derive(Debug)]
pub struct ResultFolder {
    staging: Staging,
    kind: ResultKind,
    overwrite: bool,
}

impl ResultFolder {
    /// Prepares `folder` for results of a kind, making it where it is missing.
    ///
    /// # Errors
    /// [`Error::Request`] when it holds such results and `overwrite` is not set, or holds files of those names that are
    /// not Coronet's; [`Error::Io`] when it cannot be written.
    pub fn create(folder: &Path, kind: &ResultKind, overwrite: bool) -> Result<ResultFolder> {
        // A run that was killed while it gave its results their places may have left some without the others.
        remove_abandoned(folder);
        kind.check_free(folder, overwrite)?;
        let staging = Staging::create(folder)?;
        Ok(ResultFolder { staging, kind: *kind, overwrite })
    }

    /// Where the results will be.
    pub fn path(&self) -> &Path {
        self.staging.folder()
    }

    /// The path under which to write `name` for now. A subfolder is made where needed.
    ///
    /// # Errors
    /// [`Error::Io`] when the subfolder cannot be made.
    pub fn stage(&self, name: &str) -> Result<StagedFile> {
        self.staging.stage(name)
    }

    /// Writes `bytes` as `name`.
    ///
    /// # Errors
    /// [`Error::Io`] with the file's final name.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.staging.write(name, bytes)
    }

    /// `error` with final names instead of hidden ones.
    pub fn with_final_path(&self, error: Error) -> Error {
        self.staging.with_final_path(error)
    }

    /// Syncs everything and moves it into place; with `overwrite`, what was there goes.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Request`]; the folder is then as it was before.
    pub fn commit(self) -> Result<()> {
        self.kind.check_free(self.path(), self.overwrite)?;
        self.staging.commit(self.kind.names)
    }
}

impl ResultKind {
    /// Refuses a folder with results unless they may be replaced, and files of those names that no run has left.
    fn check_free(&self, folder: &Path, overwrite: bool) -> Result<()> {
        let Some(found) = self.names.iter().find(|name| folder.join(name).symlink_metadata().is_ok()) else {
            return Ok(());
        };
        let folder_name = folder.display();
        if !has_schema(&folder.join(self.summary), self.schema) {
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
}
