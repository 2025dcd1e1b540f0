//! A file that is there complete or not at all: written under a hidden name beside it, synced, renamed.
//!
//! A symbolic link stays; the file that it leads to is the one that is made anew.

use crate::error::{Error, Result};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// How the hidden names of files begin that have not got theirs yet.
pub const HIDDEN: &str = ".coronet-";

/// A file that has not got its name yet. Dropped, it goes.
#[derive(Debug)]
pub struct NewFile {
    file: NamedTempFile,
    path: PathBuf,
    /// The same without links at its end.
    place: PathBuf,
}

impl NewFile {
    /// Makes the hidden file, so that a place that cannot be written to is found at once.
    ///
    /// # Errors
    /// [`Error::Request`] when `path` is a folder, a device or a pipe, [`Error::Io`] when its own folder cannot be
    /// written to.
    pub fn create(path: &Path) -> Result<NewFile> {
        if path.is_dir() {
            return Err(Error::Request(format!("{} is a folder; choose a file", path.display())));
        }
        if path.metadata().is_ok_and(|there| !there.is_file()) {
            return Err(Error::Request(format!("{} is no regular file; choose another", path.display())));
        }
        let place = without_links(path).map_err(Error::io("write", path))?;
        let folder = place.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        builder.prefix(HIDDEN);
        // Like any file a person makes, for others to read; temporary files are private otherwise.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder.tempfile_in(folder).map_err(|error| refused(path, error))?;
        Ok(NewFile { file, path: path.to_path_buf(), place })
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
        let written = self.file.write_all(bytes).and_then(|()| self.file.as_file().sync_all());
        written.map_err(Error::io("write", &self.path))?;
        self.file.persist(&self.place).map_err(|error| Error::io("write", &self.path)(error.error))?;
        Ok(())
    }
}

/// Where a file of this name is, or would be made: links at its end lead there.
fn without_links(path: &Path) -> io::Result<PathBuf> {
    match (path.metadata(), path.read_link()) {
        (Ok(_), Ok(_)) => path.canonicalize(),
        (Err(error), Ok(target)) if error.kind() == io::ErrorKind::NotFound => {
            without_links(&path.parent().unwrap_or(Path::new("")).join(target))
        }
        (Err(error), Ok(_)) => Err(error),
        (_, Err(_)) => Ok(path.to_path_buf()),
    }
}

/// The system's own reason, without the hidden name that `tempfile` adds to it.
fn refused(path: &Path, error: io::Error) -> Error {
    let text = error.to_string();
    let reason = text.split_once(" at path ").map_or(text.as_str(), |(reason, _)| reason);
    Error::io("write", path)(io::Error::new(error.kind(), reason))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    #[test]
    fn a_link_stays_and_the_file_that_it_leads_to_is_made_anew() {
        let folder = TempDir::new().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("elsewhere")).unwrap();
        fs::write(at("elsewhere/old"), "old").unwrap();
        symlink("elsewhere/old", at("link")).unwrap();
        symlink("link", at("link to a link")).unwrap();
        symlink("elsewhere/new", at("dangling")).unwrap();
        symlink(at("dangling"), at("link to nothing")).unwrap();
        for (link, file) in [
            ("link", "elsewhere/old"),
            ("link to a link", "elsewhere/old"),
            ("dangling", "elsewhere/new"),
            ("link to nothing", "elsewhere/new"),
        ] {
            NewFile::create(&at(link)).unwrap().complete(link.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(at(file)).unwrap(), link);
            assert!(at(link).is_symlink() && !at(file).is_symlink());
            let _ = fs::remove_file(at("elsewhere/new"));
        }
        symlink("missing/new", at("astray")).unwrap();
        symlink("round", at("round")).unwrap();
        for link in ["astray", "round"] {
            let said = NewFile::create(&at(link)).unwrap_err().to_string();
            assert!(said.starts_with(&format!("cannot write {}: ", at(link).display())), "{said}");
            assert!(at(link).is_symlink());
        }
        assert_eq!(fs::read_dir(at("elsewhere")).unwrap().count(), 1);
    }

    #[test]
    fn devices_and_pipes_are_refused() {
        let folder = TempDir::new().unwrap();
        let at = |name: &str| folder.path().join(name);
        assert!(std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
        symlink("/dev/null", at("link")).unwrap();
        for path in [Path::new("/dev/null"), &at("pipe"), &at("link")] {
            let said = NewFile::create(path).unwrap_err().to_string();
            assert_eq!(said, format!("{} is no regular file; choose another", path.display()));
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
