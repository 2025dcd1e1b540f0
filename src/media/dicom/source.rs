//! The data set of a DICOM file as bytes, inflated where it is deflated, and put together up to the pixel data.
//!
//! dicom-parser makes tokens of it. They are put together here rather than by dicom-object, because that goes as deep
//! as sequences are nested, and dicom-parser makes room for whatever length an element states.

use super::attributes::Dataset;
use super::codec::{syntax, unsupported};
use crate::error::{Error, Result};
use crate::media::without_panic;
use dicom_core::value::DataSetSequence;
use dicom_core::{DataElement, Length, VR};
use dicom_dictionary_std::tags;
use dicom_encoding::decode::{Decode, file_header_decoder};
use dicom_encoding::transfer_syntax::Codec;
use dicom_object::FileMetaTable;
use dicom_parser::dataset::{DataSetReader, DataToken};
use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::Path;

/// A deflated data set is held inflated, up to this many bytes.
const MAX_INFLATED_BYTES: u64 = 1 << 30;
/// The deepest that sequences are nested in each other; files that are meant to be read stay far below.
const MAX_NESTED: usize = 64;

/// A file, or what one was inflated to.
#[derive(Debug)]
pub(super) struct Source {
    bytes: Bytes,
    /// Where the first element of the data set is.
    start: u64,
    length: u64,
}

#[derive(Debug)]
enum Bytes {
    File(File),
    Inflated(Cursor<Vec<u8>>),
}

impl Source {
    /// Opens a file and reads its meta group, for the data set and its transfer syntax.
    pub(super) fn open(path: &Path) -> Result<(Source, String)> {
        let in_file = |problem: String| Error::media(path, problem);
        let mut file = File::open(path).map_err(Error::io("read", path))?;
        let length = file.metadata().map_err(Error::io("read", path))?.len();
        let (uid, start) = read_meta(&file, length).map_err(|cause| in_file(damaged(&cause)))?;
        file.seek(SeekFrom::Start(start)).map_err(Error::io("read", path))?;
        let syntax = syntax(&uid).map_err(in_file)?;
        let source = match syntax.codec() {
            Codec::Dataset(Some(inflater)) => {
                let mut inflated = Vec::new();
                let stream = inflater.adapt_reader(Box::new(BufReader::new(file)));
                stream.take(MAX_INFLATED_BYTES).read_to_end(&mut inflated).map_err(Error::io("inflate", path))?;
                let length = inflated.len() as u64;
                if length == MAX_INFLATED_BYTES {
                    let problem = "the deflated data set is larger than 1 GiB; convert it to another transfer syntax";
                    return Err(Error::media(path, problem));
                }
                Source { bytes: Bytes::Inflated(Cursor::new(inflated)), start: 0, length }
            }
            Codec::Dataset(None) => return Err(in_file(unsupported(syntax.name(), &uid))),
            _ => Source { bytes: Bytes::File(file), start, length },
        };
        Ok((source, uid))
    }

    /// How many bytes there are, the meta group of a file among them.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// The bytes from the first element of the data set on.
    pub(super) fn rewound(&mut self) -> std::io::Result<BufReader<&mut Source>> {
        self.seek(SeekFrom::Start(self.start))?;
        Ok(BufReader::new(self))
    }

    /// Puts everything before the pixel data together.
    pub(super) fn read_header(&mut self, path: &Path, transfer_syntax: &str) -> Result<Dataset> {
        let syntax = syntax(transfer_syntax).map_err(|problem| Error::media(path, problem))?;
        let longest = self.length;
        let bytes = self.rewound().map_err(Error::io("read", path))?;
        let header = without_panic(|| {
            let tokens = DataSetReader::new_with_ts(bytes, syntax).map_err(|e| innermost(&e))?;
            Header { tokens: tokens.map(|token| token.map_err(|e| innermost(&e))), longest }.dataset(0)
        });
        header.map_err(|cause| Error::media(path, damaged(&cause)))
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match &mut self.bytes {
            Bytes::File(file) => file.read(buffer),
            Bytes::Inflated(bytes) => bytes.read(buffer),
        }
    }
}

impl Seek for Source {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        match &mut self.bytes {
            Bytes::File(file) => file.seek(to),
            Bytes::Inflated(bytes) => bytes.seek(to),
        }
    }
}

fn damaged(cause: &str) -> String {
    format!("the DICOM header is truncated or damaged: {cause}")
}

const CUT_OFF: &str = "the data end too early";

/// The last error of a chain: the one that names the cause.
pub(super) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    let io = error.downcast_ref::<std::io::Error>();
    if io.is_some_and(|e| e.kind() == std::io::ErrorKind::UnexpectedEof) {
        return CUT_OFF.into();
    }
    error.to_string()
}

/// The transfer syntax that the meta group of a file of `length` bytes states, and where that group ends.
fn read_meta(file: &File, length: u64) -> Result<(String, u64), String> {
    let mut reader = BufReader::new(file);
    let mut head = [0u8; 132];
    reader.read_exact(&mut head).map_err(|e| innermost(&e))?;
    // Some old writers leave out the preamble, or start with the meta group right away.
    let start = if head.ends_with(b"DICM") {
        132
    } else if head.starts_with(b"DICM") {
        4
    } else {
        0
    };
    reader.seek(SeekFrom::Start(start)).map_err(|e| innermost(&e))?;
    check_meta_lengths(&mut reader, length)?;
    reader.seek(SeekFrom::Start(start)).map_err(|e| innermost(&e))?;
    let meta = FileMetaTable::from_reader(b"DICM".chain(&mut reader)).map_err(|e| innermost(&e))?;
    Ok((meta.transfer_syntax().to_string(), reader.stream_position().map_err(|e| innermost(&e))?))
}

/// Refuses elements of the meta group that no file of `length` bytes can hold: dicom-object makes room for them first.
fn check_meta_lengths(reader: &mut (impl Read + Seek), length: u64) -> Result<(), String> {
    let decoder = file_header_decoder();
    // The group's length in bytes; dicom-object refuses what is no such element.
    decoder.decode_header(reader).map_err(|e| innermost(&e))?;
    let mut group = [0; 4];
    reader.read_exact(&mut group).map_err(|e| innermost(&e))?;
    let mut at = reader.stream_position().map_err(|e| innermost(&e))?;
    let end = at + u64::from(u32::from_le_bytes(group));
    while at < end {
        let (header, _) = decoder.decode_header(reader).map_err(|e| innermost(&e))?;
        let value = reader.stream_position().map_err(|e| innermost(&e))?;
        check_length(header.len, length)?;
        at = value + u64::from(header.len.0);
        reader.seek(SeekFrom::Start(at)).map_err(|e| innermost(&e))?;
    }
    Ok(())
}

/// Puts a data set together from its tokens.
struct Header<T> {
    tokens: T,
    /// No value can have more bytes than the file.
    longest: u64,
}

impl<T: Iterator<Item = Result<DataToken, String>>> Header<T> {
    /// The elements before the pixel data, or, within so many sequences, those of one item.
    fn dataset(&mut self, nested: usize) -> Result<Dataset, String> {
        let mut dataset = Dataset::new_empty();
        while let Some(token) = self.tokens.next().transpose()? {
            let element = match token {
                DataToken::ElementHeader(header) if nested == 0 && header.tag >= tags::PIXEL_DATA => {
                    return Ok(dataset);
                }
                DataToken::SequenceStart { tag, .. } if nested == 0 && tag >= tags::PIXEL_DATA => return Ok(dataset),
                DataToken::PixelSequenceStart if nested == 0 => return Ok(dataset),
                DataToken::ElementHeader(header) => {
                    check_length(header.len, self.longest)?;
                    let DataToken::PrimitiveValue(value) = self.token()? else { return Err(out_of_place()) };
                    DataElement::new_with_len(header.tag, header.vr, header.len, value)
                }
                DataToken::SequenceStart { tag, len } => {
                    let items = self.items(nested + 1)?;
                    DataElement::new_with_len(tag, VR::SQ, len, DataSetSequence::new(items, len))
                }
                DataToken::PixelSequenceStart => {
                    self.pass_fragments()?;
                    continue;
                }
                DataToken::ItemEnd if nested > 0 => return Ok(dataset),
                _ => return Err(out_of_place()),
            };
            dataset.put(element);
        }
        // A file that ends between two elements lacks its pixel data, which will be found out.
        if nested == 0 { Ok(dataset) } else { Err(CUT_OFF.into()) }
    }

    fn items(&mut self, nested: usize) -> Result<Vec<Dataset>, String> {
        if nested > MAX_NESTED {
            return Err(format!("its sequences are nested more than {MAX_NESTED} deep"));
        }
        let mut items = Vec::new();
        loop {
            match self.token()? {
                DataToken::ItemStart { .. } => items.push(self.dataset(nested)?),
                DataToken::SequenceEnd => return Ok(items),
                _ => return Err(out_of_place()),
            }
        }
    }

    /// Passes over encapsulated pixel data inside a sequence, such as an icon's.
    fn pass_fragments(&mut self) -> Result<(), String> {
        loop {
            match self.token()? {
                DataToken::ItemStart { len } => check_length(len, self.longest)?,
                DataToken::OffsetTable(_) | DataToken::ItemValue(_) | DataToken::ItemEnd => {}
                DataToken::SequenceEnd => return Ok(()),
                _ => return Err(out_of_place()),
            }
        }
    }

    fn token(&mut self) -> Result<DataToken, String> {
        self.tokens.next().unwrap_or_else(|| Err(CUT_OFF.into()))
    }
}

/// Goes before a value is read: room for all of it is made at once.
fn check_length(stated: Length, longest: u64) -> Result<(), String> {
    match stated.get() {
        Some(bytes) if u64::from(bytes) > longest => {
            Err(format!("an element of {bytes} bytes is longer than the file"))
        }
        _ => Ok(()),
    }
}

fn out_of_place() -> String {
    "an element is not where it should be".into()
}
