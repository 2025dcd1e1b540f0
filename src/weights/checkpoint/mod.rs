//! Checkpoints: files of named tensors, as PyTorch and safetensors write them. Names and numbers come out; nothing that
//! a file asks for is run.
//!
//! The content says what a file is, its name does not: safetensors, PyTorch's zip files (`archive.rs`), or the run of
//! pickles that came before them (`legacy.rs`). Opening one checks every tensor's place against the bytes there are;
//! only the tensors asked for are read.

mod archive;
mod globals;
mod layout;
mod legacy;
mod pickle;
mod state_dict;

pub use layout::{Element, Layout};

use crate::error::{Error, Result};
use archive::Archive;
use layout::dense_strides;
use pickle::{Pickle, Problem, Reader, Storage, TensorRecord};
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

/// Named tensors in a file.
#[derive(Debug)]
pub struct Checkpoint {
    tensors: BTreeMap<String, Layout>,
    storages: Storages,
}

/// Where the bytes of each storage are, by the storage's number.
#[derive(Debug)]
enum Storages {
    /// In the file itself.
    File(Vec<u8>, Vec<Range<usize>>),
    /// In records of a zip file.
    Archive(Archive, Vec<Storage>),
}

impl Checkpoint {
    /// Opens a file of named tensors.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Weights`] when it is nothing that can be understood, is damaged,
    /// or asks for anything but tensors.
    pub fn open(path: &Path) -> Result<Checkpoint> {
        let bytes = std::fs::read(path).map_err(Error::io("read weights", path))?;
        Checkpoint::parse(bytes).map_err(|problem| Error::weights(path, problem))
    }

    /// As [`Checkpoint::open`], from memory.
    ///
    /// # Errors
    /// What is wrong, as half a sentence.
    pub fn parse(bytes: Vec<u8>) -> Result<Checkpoint, String> {
        // A header of safetensors begins at byte 8. It is looked for first, as its length in front of it may begin with
        // "PK"; in a zip file the method of packing stands there, and none has this number.
        let Checkpoint { tensors, storages } = if bytes.get(8) == Some(&b'{') {
            from_safetensors(bytes)?
        } else if bytes.starts_with(b"PK") {
            from_archive(bytes)?
        } else if bytes.get(257..262) == Some(b"ustar") {
            return Err("is a tar file, PyTorch's first format, which Coronet does not read; load it in PyTorch and \
                        save it anew"
                .into());
        } else {
            from_legacy(bytes)?
        };
        Ok(Checkpoint { tensors: state_dict::without_prefixes(tensors), storages })
    }

    /// Every tensor by name, without the prefixes of wrappers such as `DataParallel`.
    pub fn tensors(&self) -> &BTreeMap<String, Layout> {
        &self.tensors
    }

    /// The numbers of the tensor `name`, last dimension fastest, in single precision.
    ///
    /// # Errors
    /// Half a sentence about the file: when there is no such tensor, it is no floating-point one, its bytes are
    /// damaged, or a number is not finite.
    pub fn read(&mut self, name: &str) -> Result<Vec<f32>, String> {
        let layout = self.tensors.get(name).ok_or_else(|| format!("holds no tensor {}", shown(name)))?;
        let bytes = match &mut self.storages {
            Storages::File(file, ranges) => &file[ranges[layout.storage].clone()],
            Storages::Archive(archive, storages) => archive.storage(&storages[layout.storage])?,
        };
        layout.gather(bytes).map_err(|problem| format!("tensor {} {problem}", shown(name)))
    }
}

fn from_safetensors(bytes: Vec<u8>) -> Result<Checkpoint, String> {
    let damaged = |error: SafeTensorError| format!("is a damaged safetensors file ({})", shown(&error.to_string()));
    SafeTensors::deserialize(&bytes).map_err(damaged)?;
    let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(damaged)?;
    let (mut tensors, mut ranges) = (BTreeMap::new(), Vec::new());
    for (name, info) in metadata.tensors() {
        let (begin, end) = info.data_offsets;
        let element = element(info.dtype);
        let sizes: Vec<i128> = info.shape.iter().map(|&side| side as i128).collect();
        let layout = Layout::check(element, (ranges.len(), end - begin), 0, &sizes, &dense_strides(&sizes));
        let layout = layout.map_err(|problem| format!("tensor {} {problem}", shown(&name)))?;
        // The header's length stands in eight bytes in front of it.
        ranges.push(8 + header + begin..8 + header + end);
        tensors.insert(name, layout);
    }
    Ok(Checkpoint { tensors, storages: Storages::File(bytes, ranges) })
}

fn element(dtype: Dtype) -> Element {
    let known = match dtype {
        Dtype::F64 => Some(Element::F64),
        Dtype::F32 => Some(Element::F32),
        Dtype::F16 => Some(Element::F16),
        Dtype::BF16 => Some(Element::BF16),
        Dtype::I64 => Element::of_dtype("int64"),
        Dtype::I32 => Element::of_dtype("int32"),
        Dtype::U8 => Element::of_dtype("uint8"),
        Dtype::BOOL => Element::of_dtype("bool"),
        _ => None,
    };
    known.unwrap_or(Element::Other { name: "of an unusual type", bytes: (dtype.bitsize() / 8).max(1) })
}

fn from_archive(bytes: Vec<u8>) -> Result<Checkpoint, String> {
    let mut archive = Archive::open(bytes)?;
    let description = archive.pickle()?;
    let pickle = pickle::read(&mut Reader::new(&description)).map_err(sentence)?;
    pickle.storages.iter().try_for_each(|storage| archive.check(storage))?;
    let tensors = layouts(&pickle)?;
    Ok(Checkpoint { tensors, storages: Storages::Archive(archive, pickle.storages) })
}

fn from_legacy(bytes: Vec<u8>) -> Result<Checkpoint, String> {
    let (pickle, ranges) = legacy::read(&bytes).map_err(|problem| match problem {
        // Protocols before 2 begin with anything: this may be no pickle at all.
        Problem::Damaged(_) if bytes.first() != Some(&0x80) => "is neither safetensors nor a PyTorch checkpoint".into(),
        problem => sentence(problem),
    })?;
    Ok(Checkpoint { tensors: layouts(&pickle)?, storages: Storages::File(bytes, ranges) })
}

fn sentence(problem: Problem) -> String {
    match problem {
        Problem::Refused(sentence) => sentence,
        Problem::Damaged(problem) => format!("is no intact PyTorch checkpoint: {problem}"),
    }
}

/// The checked places of the tensors in the pickle's state dictionary.
fn layouts(pickle: &Pickle) -> Result<BTreeMap<String, Layout>, String> {
    let found = state_dict::find(pickle)?.into_iter().map(|(name, tensor)| {
        let TensorRecord { element, storage, offset, ref sizes, ref strides } = *tensor;
        let layout = Layout::check(element, (storage, pickle.storages[storage].bytes), offset, sizes, strides);
        let layout = layout.map_err(|problem| format!("tensor {} {problem}", shown(&name)))?;
        Ok((name, layout))
    });
    found.collect()
}

/// Text out of a file, fit to stand in a sentence: no control characters, not too long.
pub(super) fn shown(text: &str) -> String {
    const LONGEST: usize = 100;
    let mut shown: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push_str("...");
    }
    shown
}
