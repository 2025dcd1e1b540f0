//! What clips may be called.

use super::super::{FRAMES, LABELS};
use crate::error::{Error, Result};
use std::ffi::OsString;
use std::path::Path;
use std::str::FromStr;

/// The name of a clip in a data set: letters, digits, `-`, `_` and `.`, which does not begin with a dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClipName(String);

impl ClipName {
    /// The name that a file or folder gives its clip: without a suffix, and with `-` for what a name cannot hold.
    ///
    /// # Errors
    /// [`Error::Request`] when nothing is left of it, or it is one that clips cannot have.
    pub fn of(path: &Path) -> Result<ClipName> {
        let name = own_name(path)?;
        let name = Path::new(&name);
        // The last number of a UID is no suffix.
        let has_suffix = name.extension().is_some_and(|suffix| suffix.to_string_lossy().contains(char::is_alphabetic));
        let stem = if has_suffix && !path.is_dir() { name.file_stem() } else { Some(name.as_os_str()) };
        let stem = stem.unwrap_or_default().to_string_lossy();
        let parts: Vec<&str> = stem.split(|c| !may_be_in_a_name(c)).filter(|part| !part.is_empty()).collect();
        parts.join("-").trim_start_matches('.').parse().map_err(|_| {
            Error::Request(format!(
                "{} gives its clip no name that it can have; choose one with --name",
                path.display()
            ))
        })
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClipName {
    type Err = Error;

    fn from_str(text: &str) -> Result<ClipName> {
        // Folders of these names are not taken for clips.
        if text.is_empty()
            || text.starts_with('.')
            || !text.chars().all(may_be_in_a_name)
            || [FRAMES, LABELS].contains(&text)
        {
            return Err(Error::Request(format!(
                "'{text}' cannot be the name of a clip: letters, digits, '-', '_' and '.', but no '.' in front, and \
                 neither {FRAMES} nor {LABELS}"
            )));
        }
        Ok(ClipName(text.to_owned()))
    }
}

impl std::fmt::Display for ClipName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

fn may_be_in_a_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '-' | '_' | '.')
}

/// The last part of a path; that of the folder meant where it is `.` or `..`.
pub(super) fn own_name(path: &Path) -> Result<OsString> {
    match path.file_name() {
        Some(name) => Ok(name.to_owned()),
        None => {
            let whole = path.canonicalize().map_err(Error::io("read", path))?;
            Ok(whole.file_name().unwrap_or_default().to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str) -> Result<String> {
        ClipName::of(Path::new(path)).map(|name| name.to_string())
    }

    #[test]
    fn a_clip_is_called_as_its_file_without_suffix_and_what_names_cannot_hold() {
        for (path, name) in [
            ("set/rca_cine.dcm", "rca_cine"),
            ("rca cine (1).mp4", "rca-cine-1"),
            ("folder/", "folder"),
            ("Käse 3.png", "Käse-3"),
            ("1.2.840.10008", "1.2.840.10008"),
            ("1.2.840.10008.dcm", "1.2.840.10008"),
            ("..secret.mov", "secret"),
        ] {
            assert_eq!(of(path).unwrap(), name, "{path}");
        }
        let folder = tempfile::tempdir().unwrap();
        let dotted = folder.path().join("run.a");
        std::fs::create_dir(&dotted).unwrap();
        assert_eq!(ClipName::of(&dotted).unwrap().as_str(), "run.a", "folders have no suffix");
        assert_eq!(of(".").unwrap(), std::env::current_dir().unwrap().file_name().unwrap().to_str().unwrap());
    }

    #[test]
    fn names_under_which_no_clip_would_be_found_are_refused() {
        for path in ["patient/frames", "labels.avi", "???.png", "/"] {
            let error = of(path).unwrap_err().to_string();
            assert_eq!(error, format!("{path} gives its clip no name that it can have; choose one with --name"));
        }
        for name in ["", ".hidden", "..", "a/b", "a b", "frames", "labels"] {
            let error = name.parse::<ClipName>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("'{name}' cannot be the name of a clip: ")), "{error}");
        }
    }
}
