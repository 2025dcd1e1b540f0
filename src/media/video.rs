//! A video file as a clip, through the system's FFmpeg libraries.
//!
//! Frames are handed over as they are stored, in the order in which they are shown: not resampled to a constant
//! rate, not rotated, not deinterlaced, pixels taken as square. Sources of luminance and colour differences give
//! grey frames of the luminance, expanded from 16..=235 to 0..=255 unless the stream says that it uses the full
//! range; sources of red, green and blue give RGB.
//!
//! No index of a container says reliably how many frames its decoder will deliver (edit lists, invisible and
//! dropped frames), so opening a clip decodes it once to count. That pass also finds a damaged or truncated file
//! before anything is written for it.

mod container;
#[cfg(test)]
mod tests;

use super::{ClipInfo, ClipKind, ClipReader, Colour, Frame, MAX_PIXELS, Size, checked_size, without_panic};
use crate::error::{Error, Result};
use ffmpeg::format::Pixel;
use ffmpeg::software::scaling;
use ffmpeg_next as ffmpeg;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Reads the frames of one video stream.
pub(super) struct VideoReader {
    path: PathBuf,
    info: ClipInfo,
    decoding: Decoding,
    converter: Option<Converter>,
    next: usize,
}

impl VideoReader {
    /// Decodes the file once to count its frames, then makes ready to decode it again.
    pub(super) fn open(path: &Path) -> Result<VideoReader> {
        silence();
        let mut counting = Decoding::start(path)?;
        let mut picture = ffmpeg::frame::Video::empty();
        let mut size = None;
        let mut frames = 0;
        while counting.next(&mut picture).map_err(|problem| Error::media(path, problem))? {
            let this = checked_size(path, picture.width() as usize, picture.height() as usize)?;
            let first = *size.get_or_insert(this);
            if this != first {
                let problem =
                    format!("frame {frames} is {this}, but the frames before it are {first}; a clip has one size");
                return Err(Error::media(path, problem));
            }
            frames += 1;
        }
        let size = size.ok_or_else(|| Error::media(path, "the video stream holds no frame"))?;
        let (frame_time, description) = (counting.frame_time, counting.description.clone());
        let info = ClipInfo { kind: ClipKind::Video, size, frames, frame_time, description };
        let path = path.to_path_buf();
        Ok(VideoReader { decoding: Decoding::start(&path)?, path, info, converter: None, next: 0 })
    }

    fn convert(&mut self, picture: &ffmpeg::frame::Video) -> Result<Frame, String> {
        let size = Size { width: picture.width() as usize, height: picture.height() as usize };
        if size != self.info.size {
            return Err(format!("frame {} is {size}, but the clip is {}", self.next, self.info.size));
        }
        let source = Source { format: picture.format(), full_range: is_full_range(picture) };
        if self.converter.as_ref().is_none_or(|c| c.source != source) {
            self.converter = Some(Converter::new(source, size)?);
        }
        match &mut self.converter {
            Some(converter) => converter.run(picture),
            None => Err("no converter".into()),
        }
    }
}

impl ClipReader for VideoReader {
    fn info(&self) -> &ClipInfo {
        &self.info
    }

    fn next_frame(&mut self) -> Result<Option<Frame>> {
        let mut picture = ffmpeg::frame::Video::empty();
        let in_file = |path: &Path, problem: String| Error::media(path, problem);
        if !self.decoding.next(&mut picture).map_err(|problem| in_file(&self.path, problem))? {
            if self.next != self.info.frames {
                let problem = format!("held {} frames when it was opened and {} now", self.info.frames, self.next);
                return Err(in_file(&self.path, problem));
            }
            return Ok(None);
        }
        let frame = without_panic(|| self.convert(&picture)).map_err(|problem| in_file(&self.path, problem))?;
        self.next += 1;
        Ok(Some(frame))
    }
}

/// FFmpeg writes to stderr by itself; a library does not.
pub(super) fn silence() {
    ffmpeg::util::log::set_level(ffmpeg::util::log::Level::Quiet);
}

/// Demuxing and decoding of the best video stream of a file.
struct Decoding {
    input: ffmpeg::format::context::Input,
    decoder: ffmpeg::decoder::Video,
    stream: usize,
    delivered: usize,
    draining: bool,
    frame_time: Option<Duration>,
    description: String,
}

impl Decoding {
    fn start(path: &Path) -> Result<Decoding> {
        let mut file = File::open(path).map_err(Error::io("read", path))?;
        let length = file.metadata().map_err(Error::io("read", path))?.len();
        if let Some(end) = container::stated_end(&mut file).map_err(Error::io("read", path))?
            && end > length
        {
            let problem = format!("the video is truncated: it goes on to byte {end}, but the file has {length} bytes");
            return Err(Error::media(path, problem));
        }
        Decoding::of_file(file).map_err(|problem| Error::media(path, problem))
    }

    fn of_file(file: File) -> Result<Decoding, String> {
        // Through our own file: no path is ever taken for a URL or a pattern, and playlists open nothing else.
        let stream = ffmpeg::format::context::StreamIo::from_read_seek(file).map_err(|e| e.to_string())?;
        let mut options = ffmpeg::Dictionary::new();
        options.set("protocol_whitelist", "none");
        let input = ffmpeg::format::input_from_stream(stream, None, Some(options)).map_err(|e| match e {
            ffmpeg::Error::InvalidData => {
                "is no DICOM, image or video file that can be read (if it was a video, it is damaged or cut off)".into()
            }
            e => format!("cannot be read as a video: {e}"),
        })?;
        let container = input.format().name().to_string();
        let stream = input
            .streams()
            .best(ffmpeg::media::Type::Video)
            .filter(|s| !s.disposition().contains(ffmpeg::format::stream::Disposition::ATTACHED_PIC))
            .ok_or_else(|| format!("holds no video stream (FFmpeg takes it for {container})"))?;
        let (index, rate) = (stream.index(), stream.avg_frame_rate());
        let mut context = ffmpeg::codec::Context::from_parameters(stream.parameters()).map_err(|e| e.to_string())?;
        // SAFETY: a plain field of a context that is not open yet and that nothing else refers to.
        unsafe { (*context.as_mut_ptr()).max_pixels = MAX_PIXELS as i64 };
        let codec = context.id().name();
        let decoder = context
            .decoder()
            .video()
            .map_err(|e| format!("holds {codec} video, which this machine's FFmpeg cannot decode: {e}"))?;
        Ok(Decoding {
            description: format!("{container} video, {codec}"),
            input,
            decoder,
            stream: index,
            delivered: 0,
            draining: false,
            frame_time: frame_time(rate),
        })
    }

    /// Decodes the next frame into `picture`; false after the last.
    fn next(&mut self, picture: &mut ffmpeg::frame::Video) -> Result<bool, String> {
        loop {
            match self.decoder.receive_frame(picture) {
                Ok(()) if picture.is_corrupt() || picture.has_decode_errors() => return Err(self.damaged("")),
                Ok(()) => {
                    self.delivered += 1;
                    return Ok(true);
                }
                Err(ffmpeg::Error::Eof) => return Ok(false),
                Err(ffmpeg::Error::Other { errno: ffmpeg::util::error::EAGAIN }) => self.feed()?,
                Err(e) => return Err(self.damaged(&format!(": {e}"))),
            }
        }
    }

    /// Gives the decoder the stream's next packet, or tells it that there are no more.
    fn feed(&mut self) -> Result<(), String> {
        if self.draining {
            return Err(self.damaged(""));
        }
        let mut packet = ffmpeg::Packet::empty();
        loop {
            match packet.read(&mut self.input) {
                Ok(()) if packet.stream() != self.stream => packet = ffmpeg::Packet::empty(),
                Ok(()) if packet.is_corrupt() => return Err(self.damaged(": its data are cut off")),
                // Stands for a frame that is shown once more; a decoder takes it for the end, or for an error.
                Ok(()) if packet.size() == 0 => packet = ffmpeg::Packet::empty(),
                Ok(()) => break,
                Err(ffmpeg::Error::Eof) => {
                    self.draining = true;
                    return self.decoder.send_eof().map_err(|e| self.damaged(&format!(": {e}")));
                }
                Err(e) => return Err(self.damaged(&format!(": {e}"))),
            }
        }
        self.decoder.send_packet(&packet).map_err(|e| self.damaged(&format!(": {e}")))
    }

    fn damaged(&self, cause: &str) -> String {
        format!("the video is truncated or damaged at frame {} or shortly after{cause}", self.delivered)
    }
}

fn frame_time(rate: ffmpeg::Rational) -> Option<Duration> {
    let (frames, seconds) = (rate.numerator(), rate.denominator());
    if frames <= 0 || seconds <= 0 {
        return None;
    }
    Duration::try_from_secs_f64(f64::from(seconds) / f64::from(frames)).ok().filter(|d| !d.is_zero())
}

fn is_full_range(picture: &ffmpeg::frame::Video) -> bool {
    let by_format = matches!(
        picture.format(),
        Pixel::YUVJ420P | Pixel::YUVJ422P | Pixel::YUVJ444P | Pixel::YUVJ440P | Pixel::YUVJ411P
    );
    by_format || picture.color_range() == ffmpeg::color::Range::JPEG
}

/// What a converter was made for.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Source {
    format: Pixel,
    full_range: bool,
}

/// From the decoder's pixel format to grey or RGB.
struct Converter {
    source: Source,
    colour: Colour,
    scaler: scaling::Context,
    picture: ffmpeg::frame::Video,
}

// SAFETY: libswscale's context belongs to this struct alone, is used through `&mut` only and keeps no state of the
// thread that made it.
unsafe impl Send for Converter {}

impl Converter {
    fn new(source: Source, size: Size) -> Result<Converter, String> {
        let descriptor = source.format.descriptor();
        let name = descriptor.map_or("unknown", |d| d.name());
        let is_rgb = descriptor.is_some_and(|d| {
            // SAFETY: a descriptor points to a constant of libavutil.
            let flags = unsafe { (*d.as_ptr()).flags };
            flags & u64::from(ffmpeg::ffi::AV_PIX_FMT_FLAG_RGB as u32 | ffmpeg::ffi::AV_PIX_FMT_FLAG_PAL as u32) != 0
        });
        // SAFETY: as above.
        let deep = descriptor.is_some_and(|d| unsafe { (*d.as_ptr()).comp[0].depth } > 8);
        // libswscale expands what is deeper than 8 bits and not called grey from the narrow range, whatever it is
        // told. From luminance to luminance it changes no range, and the first plane is all that is looked at.
        let keeps_range = deep && source.full_range && !name.starts_with("gray");
        let (colour, target) = match (is_rgb, keeps_range) {
            (true, _) => (Colour::Rgb, Pixel::RGB24),
            (false, true) => (Colour::Grey, Pixel::YUV420P),
            (false, false) => (Colour::Grey, Pixel::GRAY8),
        };
        let flags = scaling::Flags::BILINEAR | scaling::Flags::ACCURATE_RND | scaling::Flags::FULL_CHR_H_INT;
        let (width, height) = (size.width as u32, size.height as u32);
        let mut scaler = scaling::Context::get(source.format, width, height, target, width, height, flags)
            .map_err(|_| format!("has the pixel format {name}, which FFmpeg cannot convert"))?;
        if target == Pixel::GRAY8 {
            set_ranges(&mut scaler, source.full_range || name.starts_with("gray"), true);
        }
        Ok(Converter { source, colour, scaler, picture: ffmpeg::frame::Video::new(target, width, height) })
    }

    fn run(&mut self, picture: &ffmpeg::frame::Video) -> Result<Frame, String> {
        self.scaler.run(picture, &mut self.picture).map_err(|e| e.to_string())?;
        let size = Size { width: self.picture.width() as usize, height: self.picture.height() as usize };
        let row_bytes = size.width * self.colour.samples();
        let stride = self.picture.stride(0);
        let rows = self.picture.data(0).chunks(stride).take(size.height);
        let samples = rows.flat_map(|row| row.iter().take(row_bytes)).copied().collect();
        Frame::new(size, self.colour, samples).map_err(|e| e.to_string())
    }
}

/// Tells libswscale which side uses the full range 0..=255 and which 16..=235, with Rec. 601 colours.
pub(super) fn set_ranges(scaler: &mut scaling::Context, source_full: bool, target_full: bool) {
    let unchanged = 1 << 16;
    // SAFETY: the context is valid for as long as it is borrowed; the coefficient tables are constants of libswscale.
    // A negative result says that ranges have no meaning for this pair of formats, which is what is wanted then.
    unsafe {
        let rec601 = ffmpeg::ffi::sws_getCoefficients(ffmpeg::ffi::SWS_CS_ITU601);
        ffmpeg::ffi::sws_setColorspaceDetails(
            scaler.as_mut_ptr(),
            rec601,
            i32::from(source_full),
            rec601,
            i32::from(target_full),
            0,
            unchanged,
            unchanged,
        );
    }
}
