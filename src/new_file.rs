//! A file that is there complete or not at all: written under a hidden name beside it, synced, renamed.

use crate::error::{Error, Result};
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// How the hidden names of files begin that have not got theirs yet.
pub const HIDDEN: &str = ".coronet-";

/// A file that has not got its name yet. Dropped, it goes.
#[derive(Debug)]
pub struct NewFile {
    file: NamedTempFile,
    path: PathBuf,
}

impl NewFile {
    /// Makes the hidden file, so that a place that cannot be written to is found at once.
    ///
    /// # Errors
    /// [`Error::Request`] when `path` is a folder, [`Error::Io`] when its own folder cannot be written to.
    pub fn create(path: &Path) -> Result<NewFile> {
        if path.is_dir() {
            return Err(Error::Request(format!("{} is a folder; choose a file", path.display())));
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        builder.prefix(HIDDEN);
        // Like any file a person makes, for others to read; temporary files are private otherwise.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder.tempfile_in(folder).map_err(|error| refused(path, error))?;
        Ok(NewFile { file, path: path.to_path_buf() })
    }

    /// The name it will have.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the file and gives it its name.
    ///
    /// # Errors
    /// [`Error::Io`]; an older file of that name is then still there.
    pub fn complete(mut self, bytes: &[u8]) -> Result<()> {
        let path = self.path;
        let written = self.file.write_all(bytes).and_then(|()| self.file.as_file().sync_all());
        written.map_err(Error::io("write", &path))?;
        self.file.persist(&path).map_err(|error| Error::io("write", &path)(error.error))?;
        Ok(())
    }
}

/// The system's own reason, without the hidden name that `tempfile` adds to it.
fn refused(path: &Path, error: std::io::Error) -> Error {
    let text = error.to_string();
    let reason = text.split_once(" at path ").map_or(text.as_str(), |(reason, _)| reason);
    Error::io("write", path)(std::io::Error::new(error.kind(), reason))
}
