//! Where in a DICOM file each frame's bytes lie, and fetching them one frame at a time.
//!
//! Native pixel data is cut into equal pieces. Encapsulated pixel data is a list of fragments, which belong to
//! frames (PS3.5 A.4): one each, or by the Basic Offset Table, or, where that is empty, by the image headers that
//! fragments begin with. Only places are kept, never the bytes.

use super::attributes::Attributes;
use super::codec::syntax;
use super::source::{Source, innermost};
use crate::error::{Error, Result};
use crate::media::without_panic;
use dicom_core::header::Header;
use dicom_core::{Length, VR};
use dicom_dictionary_std::tags;
use dicom_encoding::Endianness;
use dicom_encoding::transfer_syntax::TransferSyntaxIndex;
use dicom_parser::dataset::LazyDataToken;
use dicom_parser::dataset::lazy_read::LazyDataSetReader;
use dicom_parser::stateful::decode::StatefulDecode;
use dicom_transfer_syntax_registry::TransferSyntaxRegistry;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Fetches encoded frames.
#[derive(Debug)]
pub(super) struct PixelData {
    path: PathBuf,
    source: Source,
    layout: Layout,
}

#[derive(Debug)]
enum Layout {
    Native { start: u64, frame_bytes: usize },
    Encapsulated { fragments: Vec<Place>, frames: Vec<Range<usize>> },
}

/// Bytes of the source.
#[derive(Debug, Clone, Copy)]
struct Place {
    start: u64,
    bytes: usize,
}

/// Pixel data as it lies in the file, before it is divided into frames.
enum Found {
    Native { place: Place, words: bool },
    Encapsulated { offset_table: Vec<u32>, fragments: Vec<Place> },
}

impl PixelData {
    /// Finds every frame of the file; says so when frames are missing.
    pub(super) fn find(
        path: &Path,
        mut source: Source,
        transfer_syntax: &str,
        attributes: &Attributes,
    ) -> Result<PixelData> {
        let in_file = |problem: String| Error::media(path, problem);
        let found = without_panic(|| find_pixel_data(&mut source, transfer_syntax)).map_err(in_file)?;
        let layout = match found {
            Found::Native { place, words } => {
                native_layout(place, words, transfer_syntax, attributes).map_err(in_file)?
            }
            Found::Encapsulated { offset_table, fragments } => {
                let beginnings = source.beginnings(&fragments).map_err(Error::io("read", path))?;
                let frames = frames_of(&fragments, &offset_table, &beginnings, attributes.frames).map_err(in_file)?;
                Layout::Encapsulated { fragments, frames }
            }
        };
        Ok(PixelData { path: path.to_path_buf(), source, layout })
    }

    /// The encoded bytes of one frame, its fragments put together.
    pub(super) fn frame(&mut self, index: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let missing = || Error::media(&self.path, format!("frame {index} is not in the file"));
        let result = match &self.layout {
            Layout::Native { start, frame_bytes } => {
                let place = Place { start: start + index as u64 * *frame_bytes as u64, bytes: *frame_bytes };
                self.source.append(place, &mut bytes)
            }
            Layout::Encapsulated { fragments, frames } => {
                let range = frames.get(index).cloned().ok_or_else(missing)?;
                let of_frame = fragments.get(range).ok_or_else(missing)?;
                of_frame.iter().try_for_each(|&place| self.source.append(place, &mut bytes))
            }
        };
        result.map_err(Error::io("read", &self.path))?;
        Ok(bytes)
    }
}

impl Source {
    fn append(&mut self, place: Place, to: &mut Vec<u8>) -> std::io::Result<()> {
        let old = to.len();
        to.resize(old + place.bytes, 0);
        self.seek(SeekFrom::Start(place.start))?;
        self.read_exact(&mut to[old..])
    }

    /// The first bytes of each fragment: enough to tell whether an image begins there.
    fn beginnings(&mut self, fragments: &[Place]) -> std::io::Result<Vec<Vec<u8>>> {
        let beginning = |place: &Place| {
            let mut bytes = Vec::new();
            self.append(Place { bytes: place.bytes.min(4), ..*place }, &mut bytes)?;
            Ok(bytes)
        };
        fragments.iter().map(beginning).collect()
    }
}

/// Walks the data set up to its own pixel data; that of an icon, inside a sequence, is passed by.
fn find_pixel_data(source: &mut Source, transfer_syntax: &str) -> Result<Found, String> {
    let length = source.length();
    let damaged =
        |e: &(dyn std::error::Error + 'static)| format!("the DICOM file is truncated or damaged: {}", innermost(e));
    let bytes = source.rewound().map_err(|e| damaged(&e))?;
    let mut reader = LazyDataSetReader::new_with_ts(bytes, syntax(transfer_syntax)?).map_err(|e| damaged(&e))?;
    let mut depth = 0usize;
    while let Some(token) = reader.advance() {
        match token.map_err(|e| damaged(&e))? {
            LazyDataToken::SequenceStart { .. } => depth += 1,
            LazyDataToken::SequenceEnd => depth = depth.saturating_sub(1),
            LazyDataToken::PixelSequenceStart if depth == 0 => return fragments(&mut reader, length),
            LazyDataToken::PixelSequenceStart => depth += 1,
            LazyDataToken::LazyValue { header, decoder } if depth == 0 && header.tag() == tags::PIXEL_DATA => {
                let place = Place { start: decoder.position(), bytes: header.len.0 as usize };
                within(place, length)?;
                return Ok(Found::Native { place, words: header.vr() == VR::OW });
            }
            token => token.skip().map_err(|e| damaged(&e))?,
        }
    }
    Err("the DICOM file is truncated or holds no pixel data".into())
}

/// The offset table and the fragments, from the start of encapsulated pixel data to its end.
fn fragments<D: StatefulDecode>(reader: &mut LazyDataSetReader<D>, length: u64) -> Result<Found, String> {
    let mut items = 0usize;
    let mut offset_table = Vec::new();
    let mut fragments = Vec::new();
    loop {
        let token = reader.advance();
        let Some(Ok(token)) = token else {
            return Err(format!(
                "the DICOM file is truncated: it ends in the pixel data, after {} complete fragments",
                fragments.len()
            ));
        };
        match token {
            LazyDataToken::ItemStart { len } => {
                items += 1;
                if len == Length::UNDEFINED {
                    return Err("the DICOM pixel data holds a fragment without a length".into());
                }
            }
            LazyDataToken::LazyItemValue { len, decoder } => {
                let place = Place { start: decoder.position(), bytes: len as usize };
                within(place, length)?;
                let read = if items == 1 {
                    decoder.read_u32_to_vec(len, &mut offset_table)
                } else {
                    fragments.push(place);
                    decoder.skip_bytes(len)
                };
                read.map_err(|e| innermost(&e))?;
            }
            LazyDataToken::SequenceEnd => return Ok(Found::Encapsulated { offset_table, fragments }),
            _ => {}
        }
    }
}

fn within(place: Place, length: u64) -> Result<(), String> {
    let end = place.start.saturating_add(place.bytes as u64);
    if end <= length {
        return Ok(());
    }
    Err(format!("the DICOM file is truncated: its pixel data goes on to byte {end}, but the file has {length} bytes"))
}

fn native_layout(place: Place, words: bool, transfer_syntax: &str, attributes: &Attributes) -> Result<Layout, String> {
    let endianness = TransferSyntaxRegistry.get(transfer_syntax).map(|ts| ts.endianness());
    let big_endian = endianness == Some(Endianness::Big);
    if big_endian && words && attributes.bits_allocated == 8 {
        return Err("holds 8-bit samples in big-endian words, which are not read; convert it to little endian".into());
    }
    let frame_bytes = attributes.frame_samples() * usize::from(attributes.bits_allocated / 8);
    let frames = attributes.frames;
    let expected = (frame_bytes as u64).saturating_mul(frames as u64);
    // An odd length is padded to an even one.
    if place.bytes as u64 != expected && place.bytes as u64 != expected + expected % 2 {
        let size = attributes.size;
        return Err(format!(
            "the DICOM header states {frames} frame(s) of {size}, which take {expected} bytes, but the pixel data has {}",
            place.bytes
        ));
    }
    Ok(Layout::Native { start: place.start, frame_bytes })
}

/// Which fragments make up each frame.
fn frames_of(
    fragments: &[Place],
    offset_table: &[u32],
    beginnings: &[Vec<u8>],
    frames: usize,
) -> Result<Vec<Range<usize>>, String> {
    let count = fragments.len();
    let begins_image = |i: &usize| {
        [&b"\xFF\xD8\xFF"[..], b"\xFF\x4F\xFF\x51", b"\0\0\0\x0C"].iter().any(|m| beginnings[*i].starts_with(m))
    };
    let starts = if frames == count {
        (0..count).collect()
    } else if frames == 1 && count > 1 {
        vec![0]
    } else if let Some(starts) = starts_by_offset(fragments, offset_table, frames) {
        starts
    } else {
        (0..count).filter(begins_image).collect()
    };
    if starts.len() != frames || starts.first() != Some(&0) {
        let found = starts.len();
        return Err(format!(
            "the DICOM header states {frames} frame(s), but the pixel data holds {found} in {count} fragment(s)"
        ));
    }
    let ends = starts.iter().skip(1).copied().chain([count]);
    Ok(starts.iter().copied().zip(ends).map(|(start, end)| start..end).collect())
}

/// The first fragment of each frame by the Basic Offset Table; `None` when the table does not fit the fragments.
fn starts_by_offset(fragments: &[Place], offset_table: &[u32], frames: usize) -> Option<Vec<usize>> {
    if offset_table.len() != frames {
        return None;
    }
    // Offsets count from the first fragment's item tag, 8 bytes before its value.
    let origin = fragments.first()?.start;
    let starts: Option<Vec<usize>> = offset_table
        .iter()
        .map(|&offset| fragments.binary_search_by_key(&(origin + u64::from(offset)), |place| place.start).ok())
        .collect();
    starts.filter(|starts| starts.is_sorted_by(|a, b| a < b))
}
