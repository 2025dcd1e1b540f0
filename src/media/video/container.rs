//! The length that a video container states about itself.
//!
//! FFmpeg reads a Matroska or AVI file that was cut off in the middle up to the cut and reports a normal end. These
//! formats say in their first bytes how long they are; what is missing is found by comparing.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

/// The byte at which the container ends by its own account; `None` when it does not say or is of another kind.
pub(super) fn stated_end(file: &mut File) -> std::io::Result<Option<u64>> {
    let length = file.metadata()?.len();
    let mut head = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.by_ref().take(4096).read_to_end(&mut head)?;
    let end = if head.starts_with(b"\x1A\x45\xDF\xA3") {
        matroska_end(&head)
    } else if head.starts_with(b"RIFF") {
        riff_end(&head)
    } else if head.starts_with(&ASF_HEADER) {
        asf_end(file, &head)?
    } else if head.get(4..8) == Some(b"ftyp") || head.get(4..8) == Some(b"moov") {
        last_box_end(file, length)?
    } else {
        None
    };
    file.seek(SeekFrom::Start(0))?;
    Ok(end)
}

fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// A Matroska file is an EBML header, perhaps void elements, and one segment that holds the rest.
fn matroska_end(head: &[u8]) -> Option<u64> {
    let mut at = 0;
    loop {
        let id_bytes = head.get(at)?.leading_zeros() as usize + 1;
        let id = big_endian(head.get(at..at.checked_add(id_bytes)?)?);
        at += id_bytes;
        let size_bytes = head.get(at)?.leading_zeros() as usize + 1;
        if size_bytes > 8 {
            return None;
        }
        let size = big_endian(head.get(at..at + size_bytes)?);
        at += size_bytes;
        // The leading marker bit is no part of the size; all ones mean that the size was not known.
        let mask = (1u64 << (7 * size_bytes)) - 1;
        let size = size & mask;
        if id == 0x1853_8067 {
            return (size != mask).then(|| (at as u64).saturating_add(size));
        }
        at = at.checked_add(usize::try_from(size).ok()?)?;
    }
}

/// AVI: the first RIFF chunk; OpenDML files go on with more of them.
fn riff_end(head: &[u8]) -> Option<u64> {
    let size = little_endian(head.get(4..8)?);
    // A recorder that could not seek back leaves 0 or all ones.
    (size != 0 && size != u64::from(u32::MAX)).then_some(size + 8)
}

const ASF_HEADER: [u8; 16] =
    [0x30, 0x26, 0xB2, 0x75, 0x8E, 0x66, 0xCF, 0x11, 0xA6, 0xD9, 0x00, 0xAA, 0x00, 0x62, 0xCE, 0x6C];
const ASF_DATA: [u8; 16] =
    [0x36, 0x26, 0xB2, 0x75, 0x8E, 0x66, 0xCF, 0x11, 0xA6, 0xD9, 0x00, 0xAA, 0x00, 0x62, 0xCE, 0x6C];

/// ASF (wmv): the data object right behind the header object.
fn asf_end(file: &mut File, head: &[u8]) -> std::io::Result<Option<u64>> {
    let Some(header) = head.get(16..24).map(little_endian) else { return Ok(None) };
    let mut object = [0; 24];
    file.seek(SeekFrom::Start(header))?;
    if file.read_exact(&mut object).is_err() {
        return Ok(Some(header.saturating_add(24)));
    }
    let size = little_endian(&object[16..]);
    // A live recording states no size.
    Ok((object[..16] == ASF_DATA && size > 50).then(|| header.saturating_add(size)))
}

/// mp4 and mov: boxes one after the other; the first that reaches beyond the file tells what is missing.
fn last_box_end(file: &mut File, length: u64) -> std::io::Result<Option<u64>> {
    let mut at = 0u64;
    while at.saturating_add(8) <= length {
        let mut head = [0; 16];
        file.seek(SeekFrom::Start(at))?;
        let read = file.by_ref().take(16).read(&mut head)?;
        let size = match big_endian(&head[..4]) {
            // The last box, which goes on to the end of the file.
            0 => return Ok(Some(length)),
            1 if read == 16 => big_endian(&head[8..]),
            size => size,
        };
        if size < 8 {
            // No box: padding that some writers leave behind.
            return Ok(Some(length));
        }
        at = at.saturating_add(size);
    }
    Ok(Some(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matroska_segment_ends_where_its_size_says() {
        let head = b"\x1A\x45\xDF\xA3\x82ab\x18\x53\x80\x67\x01\0\0\0\0\0\x01\x00rest";
        assert_eq!(matroska_end(head), Some(19 + 256));
        let unknown = b"\x1A\x45\xDF\xA3\x82ab\x18\x53\x80\x67\x01\xFF\xFF\xFF\xFF\xFF\xFF\xFF";
        assert_eq!(matroska_end(unknown), None);
        assert_eq!(matroska_end(b"\x1A\x45\xDF\xA3"), None);
    }
}
