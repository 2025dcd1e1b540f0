//! One encoded frame in, its stored samples out, whatever the transfer syntax.
//!
//! JPEG, JPEG-LS and JPEG 2000 go through the registry of dicom-rs. Those decoders trust the DICOM header about a
//! frame's size, so the size in the frame's own header is compared first. RLE is decoded here, because the
//! registry's decoder panics on damaged data.

use super::attributes::{Attributes, Photometric};
use super::source::innermost;
use crate::media::without_panic;
use dicom_core::value::C;
use dicom_dictionary_std::uids;
use dicom_encoding::Endianness;
use dicom_encoding::adapters::{PixelDataObject, RawPixelData};
use dicom_encoding::transfer_syntax::{Codec, TransferSyntax, TransferSyntaxIndex};
use dicom_transfer_syntax_registry::TransferSyntaxRegistry;
use std::borrow::Cow;

/// The samples of one frame as they are stored, colours interleaved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Samples {
    /// One byte each.
    Eight(Vec<u8>),
    /// Two bytes each.
    Sixteen(Vec<u16>),
}

/// How the frames of a file are encoded.
#[derive(Debug)]
pub(super) struct FrameCodec {
    uid: String,
    name: &'static str,
    encoding: Encoding,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Native {
        big_endian: bool,
    },
    RunLength,
    /// JPEG, JPEG-LS or JPEG 2000, which carry a header of their own.
    Image,
}

impl FrameCodec {
    /// The decoder for a transfer syntax, or a sentence that names the one that is not supported.
    pub(super) fn new(uid: &str, attributes: &Attributes) -> Result<FrameCodec, String> {
        let syntax = syntax(uid)?;
        let encoding = match syntax.codec() {
            Codec::None | Codec::Dataset(Some(_)) => {
                Encoding::Native { big_endian: syntax.endianness() == Endianness::Big }
            }
            _ if uid == uids::ENCAPSULATED_UNCOMPRESSED_EXPLICIT_VR_LITTLE_ENDIAN => {
                Encoding::Native { big_endian: false }
            }
            _ if uid == uids::RLE_LOSSLESS => Encoding::RunLength,
            Codec::EncapsulatedPixelData(Some(_), _) => Encoding::Image,
            _ => return Err(unsupported(syntax.name(), uid)),
        };
        let is_image = encoding == Encoding::Image;
        if attributes.photometric == Photometric::YbrCompressed && !is_image {
            return Err("holds subsampled colour without compression, which is not read".into());
        }
        if !attributes.is_grey() && syntax.name().contains("JPEG-LS") {
            return Err("holds colour in JPEG-LS, which is read for grey only".into());
        }
        Ok(FrameCodec { uid: uid.to_string(), name: syntax.name(), encoding })
    }

    /// The transfer syntax's name.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Decodes one frame; every sample of `attributes.size` is there afterwards.
    pub(super) fn decode(&self, encoded: &[u8], attributes: &Attributes) -> Result<Samples, String> {
        let count = attributes.frame_samples();
        let sample_bytes = usize::from(attributes.bits_allocated / 8);
        match self.encoding {
            Encoding::Native { big_endian } => {
                let bytes = encoded.get(..count * sample_bytes).ok_or("it is too short")?;
                let samples = samples(bytes.to_vec(), sample_bytes, big_endian);
                Ok(colours_in_order(samples, attributes))
            }
            Encoding::RunLength => {
                let planes =
                    run_length_planes(encoded, attributes.size.area(), attributes.samples_per_pixel * sample_bytes)?;
                let samples = join_planes(&planes, sample_bytes);
                Ok(ybr_to_rgb(samples, attributes))
            }
            Encoding::Image => self.decode_image(encoded, attributes),
        }
    }

    fn decode_image(&self, encoded: &[u8], attributes: &Attributes) -> Result<Samples, String> {
        let header = ImageHeader::find(encoded).ok_or("it does not begin with an image header")?;
        header.check(attributes)?;
        // A stream of 8-bit samples in 16 allocated bits is met in practice; decoders give what the stream has.
        let sample_bytes = if header.precision <= 8 { 1 } else { 2 };
        let frame = EncodedFrame { uid: &self.uid, bytes: encoded, attributes, sample_bytes };
        let syntax = syntax(&self.uid)?;
        let Codec::EncapsulatedPixelData(Some(decoder), _) = syntax.codec() else {
            return Err(unsupported(self.name, &self.uid));
        };
        let mut decoded = Vec::new();
        without_panic(|| decoder.decode_frame(&frame, 0, &mut decoded).map_err(|e| innermost(&e)))?;
        let expected = attributes.frame_samples() * sample_bytes;
        if decoded.len() != expected {
            return Err(format!("its decoder gave {} bytes instead of {expected}", decoded.len()));
        }
        let samples = samples(decoded, sample_bytes, false);
        Ok(if header.keeps_colours { ybr_to_rgb(samples, attributes) } else { samples })
    }
}

/// The transfer syntax of a UID.
pub(super) fn syntax(uid: &str) -> Result<&'static TransferSyntax, String> {
    TransferSyntaxRegistry.get(uid).ok_or_else(|| format!("has the unknown transfer syntax {uid}"))
}

/// A sentence for a transfer syntax that is known and not read.
pub(super) fn unsupported(name: &str, uid: &str) -> String {
    format!(
        "has the transfer syntax {name} ({uid}), which is not read; convert it, for example with dcmdjpeg or gdcmconv --raw"
    )
}

fn samples(bytes: Vec<u8>, sample_bytes: usize, big_endian: bool) -> Samples {
    let word = |pair: &[u8]| {
        let pair = [pair[0], pair[1]];
        if big_endian { u16::from_be_bytes(pair) } else { u16::from_le_bytes(pair) }
    };
    match sample_bytes {
        1 => Samples::Eight(bytes),
        _ => Samples::Sixteen(bytes.chunks_exact(2).map(word).collect()),
    }
}

/// Native colour: planes become interleaved, luminance and colour differences become red, green and blue.
fn colours_in_order(samples: Samples, attributes: &Attributes) -> Samples {
    match samples {
        Samples::Eight(planes) if attributes.planar && !attributes.is_grey() => {
            let area = attributes.size.area();
            let interleaved = (0..area).flat_map(|i| [planes[i], planes[area + i], planes[2 * area + i]]).collect();
            ybr_to_rgb(Samples::Eight(interleaved), attributes)
        }
        other => ybr_to_rgb(other, attributes),
    }
}

/// PS3.3 C.7.6.3.1.2, full range.
fn ybr_to_rgb(samples: Samples, attributes: &Attributes) -> Samples {
    match samples {
        Samples::Eight(ybr) if attributes.photometric == Photometric::YbrFull => {
            let rgb = |p: &[u8]| {
                let (y, b, r) = (f32::from(p[0]), f32::from(p[1]) - 128.0, f32::from(p[2]) - 128.0);
                [y + 1.402 * r, y - 0.344136 * b - 0.714136 * r, y + 1.772 * b].map(|v| v.round() as u8)
            };
            Samples::Eight(ybr.chunks_exact(3).flat_map(rgb).collect())
        }
        other => other,
    }
}

/// The byte planes of an RLE frame (PS3.5 annex G): most significant byte first, one sample after the other.
fn run_length_planes(encoded: &[u8], area: usize, planes: usize) -> Result<Vec<Vec<u8>>, String> {
    let word = |i: usize| {
        let bytes = encoded.get(4 * i..4 * i + 4)?;
        Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize)
    };
    let segments = word(0).ok_or("its RLE header is cut off")?;
    if segments != planes {
        return Err(format!("it has {segments} RLE segments instead of {planes}"));
    }
    (0..planes)
        .map(|i| {
            let start = word(i + 1);
            let end = if i + 1 < planes { word(i + 2) } else { Some(encoded.len()) };
            let segment = start.zip(end).and_then(|(start, end)| encoded.get(start..end));
            let segment = segment.ok_or_else(|| format!("its RLE segment {i} lies outside of it"))?;
            unpacked(segment, area).ok_or_else(|| format!("its RLE segment {i} is too short"))
        })
        .collect()
}

/// PackBits: a count byte below 128 precedes that many + 1 literal bytes, one above 128 a byte to repeat.
fn unpacked(segment: &[u8], area: usize) -> Option<Vec<u8>> {
    let mut plane = Vec::new();
    let mut rest = segment;
    while plane.len() < area {
        let (&count, after) = rest.split_first()?;
        rest = match count {
            0..=127 => {
                let (literal, after) = after.split_at_checked(usize::from(count) + 1)?;
                plane.extend_from_slice(literal);
                after
            }
            128 => after,
            129..=255 => {
                let (&value, after) = after.split_first()?;
                plane.resize(plane.len() + 257 - usize::from(count), value);
                after
            }
        };
    }
    plane.truncate(area);
    Some(plane)
}

fn join_planes(planes: &[Vec<u8>], sample_bytes: usize) -> Samples {
    let area = planes.first().map_or(0, Vec::len);
    match sample_bytes {
        1 => Samples::Eight((0..area).flat_map(|i| planes.iter().map(move |plane| plane[i])).collect()),
        _ => {
            let sample = |i: usize| planes.chunks_exact(2).map(move |p| u16::from_be_bytes([p[0][i], p[1][i]]));
            Samples::Sixteen((0..area).flat_map(sample).collect())
        }
    }
}

/// What a JPEG, JPEG-LS or JPEG 2000 stream says about itself.
#[derive(Debug, PartialEq, Eq)]
struct ImageHeader {
    width: usize,
    height: usize,
    components: usize,
    precision: u8,
    /// Lossy JPEG based on the discrete cosine transform.
    dct: bool,
    subsampled: bool,
    /// The decoder gives colours as they were before they were encoded, whatever they stand for.
    keeps_colours: bool,
    /// What of lossless JPEG its decoder gets wrong.
    unread: Option<&'static str>,
}

impl ImageHeader {
    fn find(stream: &[u8]) -> Option<ImageHeader> {
        if stream.starts_with(&[0xFF, 0xD8]) { ImageHeader::of_jpeg(stream) } else { ImageHeader::of_jpeg2000(stream) }
    }

    /// Reads the frame header, SOF0..SOF15 or JPEG-LS's SOF55, and what else of lossless JPEG matters before its data.
    fn of_jpeg(stream: &[u8]) -> Option<ImageHeader> {
        let mut header = None;
        let mut lossless = false;
        let mut restarts = false;
        let mut shifted = false;
        for (marker, segment) in segments(stream, 2) {
            match marker {
                0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF | 0xF7 => {
                    lossless = marker == 0xC3;
                    header = Some(ImageHeader {
                        precision: *segment.first()?,
                        height: big_endian(segment.get(1..3)?),
                        width: big_endian(segment.get(3..5)?),
                        components: usize::from(*segment.get(5)?),
                        dct: marker != 0xF7 && marker & 3 != 3,
                        subsampled: false,
                        keeps_colours: lossless,
                        unread: None,
                    });
                }
                0xDD => restarts = segment.iter().any(|&byte| byte != 0),
                // The low half of the last byte is the point transform.
                0xDA => shifted = segment.last().is_some_and(|byte| byte & 0xF != 0),
                _ => {}
            }
        }
        let unread = match (lossless, restarts, shifted) {
            (true, true, _) => Some("restart markers"),
            (true, _, true) => Some("a point transform"),
            _ => None,
        };
        header.map(|header| ImageHeader { unread, ..header })
    }

    /// Reads the SIZ segment right behind the start of the code stream, which may lie in a JP2 box, and from COD
    /// whether its colours were transformed.
    fn of_jpeg2000(stream: &[u8]) -> Option<ImageHeader> {
        let start = stream.windows(4).take(4096).position(|w| w == [0xFF, 0x4F, 0xFF, 0x51])?;
        let siz = stream.get(start + 4..)?;
        let word = |at: usize| Some(big_endian(siz.get(at..at + 4)?));
        let components = big_endian(siz.get(36..38)?);
        let per_component = siz.get(38..38 + 3 * components)?;
        let coding = segments(stream, start + 2).find(|&(marker, _)| marker == 0x52);
        Some(ImageHeader {
            width: word(4)?.checked_sub(word(12)?)?,
            height: word(8)?.checked_sub(word(16)?)?,
            components,
            precision: (per_component.first()? & 0x7F) + 1,
            dct: false,
            subsampled: per_component.chunks_exact(3).any(|c| c[1] != 1 || c[2] != 1),
            keeps_colours: coding.is_some_and(|(_, coding)| coding.get(4) == Some(&0)),
            unread: None,
        })
    }

    fn check(&self, attributes: &Attributes) -> Result<(), String> {
        let size = attributes.size;
        if (self.width, self.height) != (size.width, size.height) {
            return Err(format!("it is {}x{}, but the clip is {size}", self.width, self.height));
        }
        if self.components != attributes.samples_per_pixel || self.subsampled {
            return Err(format!(
                "it has {} colour components of which the DICOM header says {}, or they are subsampled",
                self.components, attributes.samples_per_pixel
            ));
        }
        if self.dct && self.precision > 8 {
            return Err(format!(
                "it is {}-bit JPEG Extended, which is not read; convert it, for example with dcmdjpeg",
                self.precision
            ));
        }
        if let Some(unread) = self.unread {
            return Err(format!(
                "it is lossless JPEG with {unread}, which is not read; convert it, for example with dcmdjpeg"
            ));
        }
        if u16::from(self.precision) > attributes.bits_allocated {
            return Err(format!(
                "it has {} bits a sample, but the DICOM header allocates {}",
                self.precision, attributes.bits_allocated
            ));
        }
        Ok(())
    }
}

/// The segments of a JPEG or JPEG 2000 stream from byte `at` on, each its marker and what follows its length, up to
/// where the data of the first scan or tile begin.
fn segments(stream: &[u8], mut at: usize) -> impl Iterator<Item = (u8, &[u8])> {
    let mut ended = false;
    std::iter::from_fn(move || {
        while !ended && *stream.get(at)? == 0xFF {
            match *stream.get(at + 1)? {
                // Fill bytes before a marker.
                0xFF => at += 1,
                0x01 | 0xD0..=0xD8 => at += 2,
                marker => {
                    let end = at + 2 + big_endian(stream.get(at + 2..at + 4)?);
                    let segment = stream.get(at + 4..end)?;
                    at = end;
                    ended = matches!(marker, 0xDA | 0x90);
                    return Some((marker, segment));
                }
            }
        }
        None
    })
}

fn big_endian(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |value, &byte| value << 8 | usize::from(byte))
}

/// One frame as the decoders of dicom-rs want to see it: an object of one frame in one fragment.
struct EncodedFrame<'a> {
    uid: &'a str,
    bytes: &'a [u8],
    attributes: &'a Attributes,
    sample_bytes: usize,
}

impl PixelDataObject for EncodedFrame<'_> {
    fn transfer_syntax_uid(&self) -> &str {
        self.uid
    }

    fn rows(&self) -> Option<u16> {
        u16::try_from(self.attributes.size.height).ok()
    }

    fn cols(&self) -> Option<u16> {
        u16::try_from(self.attributes.size.width).ok()
    }

    fn samples_per_pixel(&self) -> Option<u16> {
        u16::try_from(self.attributes.samples_per_pixel).ok()
    }

    fn bits_allocated(&self) -> Option<u16> {
        Some(8 * self.sample_bytes as u16)
    }

    fn bits_stored(&self) -> Option<u16> {
        Some(self.attributes.bits_stored)
    }

    fn photometric_interpretation(&self) -> Option<&str> {
        Some(if self.attributes.is_grey() { "MONOCHROME2" } else { "RGB" })
    }

    fn number_of_frames(&self) -> Option<u32> {
        Some(1)
    }

    fn number_of_fragments(&self) -> Option<u32> {
        Some(1)
    }

    fn fragment(&self, fragment: usize) -> Option<Cow<'_, [u8]>> {
        (fragment == 0).then_some(Cow::Borrowed(self.bytes))
    }

    fn offset_table(&self) -> Option<Cow<'_, [u32]>> {
        Some(Cow::Borrowed(&[]))
    }

    fn raw_pixel_data(&self) -> Option<RawPixelData> {
        Some(RawPixelData { fragments: C::from_vec(vec![self.bytes.to_vec()]), offset_table: C::new() })
    }
}
