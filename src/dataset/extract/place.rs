//! Whether a clip may take the place of what is there: nothing that anybody made is ever lost.

use super::super::{FRAMES, LABELS};
use super::{ClipToExtract, SCHEMA, SOURCE};
use crate::error::{Error, Result};
use crate::media::read_image;
use crate::staging::has_schema;
use std::fs;
use std::path::{Path, PathBuf};

/// Refuses to take the place of anything but a clip that was extracted before and holds nothing of others.
pub(super) fn check_place(dataset: &Path, clip: &ClipToExtract, overwrite: bool) -> Result<()> {
    let refuse = |folder: &Path, problem: &str| Err(Error::Request(format!("{} {problem}", folder.display())));
    if dataset.join(FRAMES).is_dir() {
        return refuse(dataset, "is one clip; give the folder that holds it");
    }
    let folder = dataset.join(clip.name.as_str());
    if folder.symlink_metadata().is_err() {
        return Ok(());
    }
    if !is_folder(&folder) || !has_schema(&folder.join(SOURCE), SCHEMA) {
        return refuse(&folder, "exists and is no clip of `coronet dataset extract`; choose another name with --name");
    }
    if !overwrite {
        return refuse(&folder, "exists; choose another name with --name, or replace it with --overwrite");
    }
    if let Some(other) = not_written_here(&folder)? {
        return refuse(&other, "would go with the clip that --overwrite replaces; move it to another place first");
    }
    let labels = folder.join(LABELS);
    if clip.labels.is_none() && is_folder(&labels) && !entries(&labels)?.is_empty() {
        return refuse(&labels, "would go with the clip that --overwrite replaces; give --labels, or move it first");
    }
    Ok(())
}

/// The first thing in a clip's folder, labels apart, that no run puts there.
fn not_written_here(clip: &Path) -> Result<Option<PathBuf>> {
    for path in entries(clip)? {
        let known = match path.file_name().and_then(|name| name.to_str()) {
            Some(FRAMES | LABELS) => is_folder(&path),
            Some(SOURCE) => true,
            _ => false,
        };
        if !known {
            return Ok(Some(path));
        }
    }
    let frames = clip.join(FRAMES);
    let frames = if is_folder(&frames) { entries(&frames)? } else { Vec::new() };
    Ok(frames.into_iter().find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let number = name.strip_suffix(".png").unwrap_or_default();
        number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) || is_folder(path)
    }))
}

/// Labels that are there are never replaced by others: somebody may have drawn them.
pub(super) fn check_same_labels(present: &Path, staged: &Path) -> Result<()> {
    if !is_folder(present) {
        return Ok(());
    }
    for path in entries(present)? {
        let image = |path: &Path| read_image(path).ok();
        let same = match (image(&path), image(&staged.join(path.file_name().unwrap_or_default()))) {
            (Some(present), Some(staged)) => present == staged,
            _ => false,
        };
        if !same {
            let place = path.display();
            return Err(Error::Request(format!(
                "{place} is not what --labels says of this frame, and labels are never replaced by others; move the \
                 folder to another place first"
            )));
        }
    }
    Ok(())
}

/// A folder itself and not a link to one.
fn is_folder(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
}

/// What is in a folder, hidden or not, in the order of names.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<PathBuf>>>();
    let mut entries = read().map_err(Error::io("read", folder))?;
    entries.sort();
    Ok(entries)
}
