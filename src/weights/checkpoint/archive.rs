//! PyTorch's zip files: a pickle that describes the tensors, and one record for the bytes of each storage.
//!
//! Records are read one at a time, when a tensor in them is wanted, and never beyond the size that was declared for
//! them: a small file cannot fill memory.

use super::pickle::Storage;
use super::shown;
use std::io::{Cursor, Read};
use zip::ZipArchive;
use zip::read::{ArchiveOffset, Config};
use zip::result::ZipError;

/// The largest description of tensors that is read.
const LONGEST_PICKLE: u64 = 64 << 20;

/// How many times smaller packing may make a record. Weights hardly shrink; what shrinks to a thousandth was made to.
const MOST_PACKED: u64 = 20;

/// Up to this many bytes a record may be packed as well as it can: biases of zeros are.
const SMALL: u64 = 1 << 20;

/// An open zip file.
#[derive(Debug)]
pub struct Archive {
    zip: ZipArchive<Cursor<Vec<u8>>>,
    /// Bytes of the whole file.
    length: u64,
    /// The folder in which all records lie, with its slash.
    folder: String,
    /// The record read last: tensors can share one.
    latest: Option<(String, Vec<u8>)>,
}

impl Archive {
    /// Opens a zip file that PyTorch wrote.
    ///
    /// # Errors
    /// Half a sentence about the file: damaged, of another program, TorchScript, or big-endian.
    pub fn open(bytes: Vec<u8>) -> Result<Archive, String> {
        let length = bytes.len() as u64;
        // PyTorch's archives begin where the file does. A reader left to find the beginning by itself takes the second
        // record for the first when the folder's name has 21 letters: records at the end have as many bytes as a header.
        let config = Config { archive_offset: ArchiveOffset::Known(0) };
        let zip = ZipArchive::with_config(config, Cursor::new(bytes)).map_err(|error| damaged(&error))?;
        if zip.has_duplicate_names() {
            return Err("is a zip file in which a name stands twice".into());
        }
        let pickles = zip.file_names().filter_map(|name| Some(name.ok()?.strip_suffix("data.pkl")?.to_owned()));
        let mut folders = pickles.filter(|folder| folder.is_empty() || folder.ends_with('/'));
        let (folder, another) = (folders.next(), folders.next());
        let folder = folder.ok_or("is a zip file, but none that torch.save wrote: it has no data.pkl")?;
        if another.is_some() {
            return Err("is a zip file with several data.pkl".into());
        }
        drop(folders);
        let mut archive = Archive { zip, length, folder, latest: None };
        if archive.index("constants.pkl").is_some() {
            return Err("is a TorchScript program; save a network's state_dict() instead".into());
        }
        if archive.index("byteorder").is_some() && archive.read("byteorder", SMALL)? != b"little" {
            return Err("was written on a big-endian machine, whose numbers Coronet does not read".into());
        }
        Ok(archive)
    }

    /// The pickle that describes the tensors.
    ///
    /// # Errors
    /// Half a sentence about the file.
    pub fn pickle(&mut self) -> Result<Vec<u8>, String> {
        self.read("data.pkl", LONGEST_PICKLE)
    }

    /// Checks that a storage's record has the size that the pickle declares, without reading it.
    ///
    /// # Errors
    /// Half a sentence about the file.
    pub fn check(&mut self, storage: &Storage) -> Result<(), String> {
        let name = record_name(&storage.key);
        let index = self.index(&name).ok_or_else(|| format!("lacks the record {}", shown(&name)))?;
        let size = self.zip.by_index_raw(index).map_err(|error| damaged(&error))?.size();
        if size != storage.bytes as u64 {
            let (name, declared) = (shown(&name), storage.bytes);
            return Err(format!("has a record {name} of {size} bytes, but declares {declared} for it"));
        }
        Ok(())
    }

    /// The bytes of a storage.
    ///
    /// # Errors
    /// Half a sentence about the file.
    pub fn storage(&mut self, storage: &Storage) -> Result<&[u8], String> {
        let bytes = match self.latest.take() {
            Some((key, bytes)) if key == storage.key => bytes,
            _ => self.read(&record_name(&storage.key), storage.bytes as u64)?,
        };
        Ok(&self.latest.insert((storage.key.clone(), bytes)).1)
    }

    fn index(&self, name: &str) -> Option<usize> {
        self.zip.index_for_name(&format!("{}{name}", self.folder))
    }

    /// A whole record of at most `most` bytes. Reading to the end makes the zip reader compare the checksum.
    fn read(&mut self, name: &str, most: u64) -> Result<Vec<u8>, String> {
        let index = self.index(name).ok_or_else(|| format!("lacks the record {}", shown(name)))?;
        let record = self.zip.by_index(index).map_err(|error| damaged(&error))?;
        let (size, packed, name) = (record.size(), record.compressed_size(), shown(name));
        if size > most {
            return Err(format!("has a record {name} of {size} bytes, where {most} are the most"));
        }
        if packed > self.length || (size > SMALL && size / MOST_PACKED > packed) {
            return Err(format!("has a record {name} of {size} bytes packed in {packed}, which no weights are"));
        }
        // What is packed is there; what it grows to has still to show.
        let mut bytes = Vec::with_capacity(packed.min(size) as usize);
        let read = record.take(size + 1).read_to_end(&mut bytes);
        read.map_err(|error| format!("has a damaged record {name} ({error})"))?;
        if bytes.len() as u64 != size {
            return Err(format!("has a record {name} of {} bytes that should have {size}", bytes.len()));
        }
        Ok(bytes)
    }
}

fn record_name(key: &str) -> String {
    format!("data/{key}")
}

fn damaged(error: &ZipError) -> String {
    format!("is a zip file that cannot be read ({error})")
}
