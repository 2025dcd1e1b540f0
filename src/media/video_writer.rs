//! Frames into an mp4 file that ordinary players show: H.264 where the machine's FFmpeg has an encoder, else MPEG-4.
//!
//! The file is written to exactly the path given; temporary names and renaming are the caller's. Odd sizes are
//! padded to even ones by repeating the last column and row, because yuv420p has no half pixels.

use super::video::{set_ranges, silence};
use super::{Colour, Frame, Size};
use crate::error::{Error, Result};
use ffmpeg::format::Pixel;
use ffmpeg::software::scaling;
use ffmpeg_next as ffmpeg;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The time from frame to frame where a clip does not say: the middle of what angiography uses.
const DEFAULT_FRAME_TIME: Duration = Duration::from_nanos(1_000_000_000 / 15);
/// Frame times are rounded to this many ticks a second; MPEG-4 allows no more than 65535, and 60000 holds the
/// usual rates (12.5, 15, 24, 25, 29.97, 30, 60) and every whole millisecond exactly.
const TICKS: f64 = 60_000.0;

/// An encoder's own settings, by name.
type Options = &'static [(&'static str, &'static str)];

/// Encoders to try, with their options, best first.
const ENCODERS: [(&str, &str, Options); 3] = [
    ("libx264", "H.264 (libx264)", &[("preset", "veryfast"), ("crf", "20")]),
    ("libopenh264", "H.264 (libopenh264)", &[]),
    ("mpeg4", "MPEG-4 part 2 (mpeg4)", &[]),
];

/// Writes a video, frame by frame.
pub struct VideoWriter {
    path: PathBuf,
    size: Size,
    output: ffmpeg::format::context::Output,
    encoder: ffmpeg::encoder::Video,
    encoder_name: &'static str,
    scaler: Scaler,
    time_base: ffmpeg::Rational,
    stream_time_base: ffmpeg::Rational,
    written: i64,
    file: File,
    io_error: IoError,
}

/// libswscale's context.
struct Scaler(scaling::Context);

// SAFETY: the context belongs to one writer, is used through `&mut` only and keeps no state of the thread that made it.
unsafe impl Send for Scaler {}

impl VideoWriter {
    /// Creates or overwrites `path`, whatever its suffix, for frames of `size`, `frame_time` apart (1/15 s if `None`).
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be created or written, [`Error::Media`] when this machine's FFmpeg has no
    /// encoder that takes the size.
    pub fn create(path: &Path, size: Size, frame_time: Option<Duration>) -> Result<VideoWriter> {
        silence();
        let file = File::create(path).map_err(Error::io("create", path))?;
        let io_error = IoError::default();
        let fail = |e: ffmpeg::Error| io_error.or(path, e);
        let recording =
            RecordingFile { file: file.try_clone().map_err(Error::io("create", path))?, error: io_error.clone() };
        let stream = ffmpeg::format::context::StreamIo::from_write_seek(recording).map_err(fail)?;
        // Faststart opens the file a second time, by this name; `file:` keeps a colon in it from being a protocol.
        let name = path.to_str().map(|p| format!("file:{p}"));
        let mut output = ffmpeg::format::output_to_stream(stream, name.as_deref(), Some("mp4")).map_err(fail)?;
        let padded = Size { width: size.width.next_multiple_of(2), height: size.height.next_multiple_of(2) };
        let time_base = time_base(frame_time.unwrap_or(DEFAULT_FRAME_TIME));
        let (encoder, encoder_name) = open_encoder(path, padded, time_base)?;
        output.add_stream_with(&encoder).map_err(fail)?.set_time_base(time_base);
        let mut options = ffmpeg::Dictionary::new();
        if name.is_some() {
            options.set("movflags", "+faststart");
        }
        output.write_header_with(options).map_err(fail)?;
        let stream_time_base = output.stream(0).map_or(time_base, |s| s.time_base());
        let (width, height) = (padded.width as u32, padded.height as u32);
        let flags = scaling::Flags::BILINEAR | scaling::Flags::ACCURATE_RND;
        let scaler = scaling::Context::get(Pixel::RGB24, width, height, Pixel::YUV420P, width, height, flags);
        let mut scaler = Scaler(scaler.map_err(fail)?);
        set_ranges(&mut scaler.0, true, false);
        let path = path.to_path_buf();
        Ok(VideoWriter {
            path,
            size,
            output,
            encoder,
            encoder_name,
            scaler,
            time_base,
            stream_time_base,
            written: 0,
            file,
            io_error,
        })
    }

    /// The format and the encoder that writes it.
    pub fn encoder(&self) -> &'static str {
        self.encoder_name
    }

    /// Appends a frame.
    ///
    /// # Errors
    /// [`Error::Request`] for a frame of another size, [`Error::Io`] when the disk is full or fails.
    pub fn write(&mut self, frame: &Frame) -> Result<()> {
        if frame.size() != self.size {
            return Err(Error::Request(format!("a frame of {} cannot go into a video of {}", frame.size(), self.size)));
        }
        let padded = padded_rgb(frame);
        let mut picture = ffmpeg::frame::Video::empty();
        self.scaler.0.run(&padded, &mut picture).map_err(|e| self.io_error.or(&self.path, e))?;
        picture.set_pts(Some(self.written));
        picture.set_color_range(ffmpeg::color::Range::MPEG);
        self.written += 1;
        self.encoder.send_frame(&picture).map_err(|e| self.io_error.or(&self.path, e))?;
        self.write_packets()
    }

    /// Writes what the encoder still holds and the index, and flushes the file to disk.
    ///
    /// # Errors
    /// [`Error::Io`] when the disk is full or fails, [`Error::Media`] when no frame was written.
    pub fn finish(mut self) -> Result<()> {
        if self.written == 0 {
            return Err(Error::media(&self.path, "a video needs at least one frame"));
        }
        self.encoder.send_eof().map_err(|e| self.io_error.or(&self.path, e))?;
        self.write_packets()?;
        let trailer = self.output.write_trailer();
        // A write that failed inside of FFmpeg's buffers is not always in the trailer's result.
        self.io_error.check(&self.path)?;
        trailer.map_err(|e| self.io_error.or(&self.path, e))?;
        self.file.sync_all().map_err(Error::io("write", &self.path))
    }

    fn write_packets(&mut self) -> Result<()> {
        let mut packet = ffmpeg::Packet::empty();
        loop {
            match self.encoder.receive_packet(&mut packet) {
                Ok(()) => {}
                Err(ffmpeg::Error::Eof | ffmpeg::Error::Other { errno: ffmpeg::util::error::EAGAIN }) => break,
                Err(e) => return Err(self.io_error.or(&self.path, e)),
            }
            packet.set_stream(0);
            packet.rescale_ts(self.time_base, self.stream_time_base);
            packet.set_duration(self.stream_duration());
            packet.write_interleaved(&mut self.output).map_err(|e| self.io_error.or(&self.path, e))?;
        }
        self.io_error.check(&self.path)
    }

    /// One frame's time in the stream's ticks.
    fn stream_duration(&self) -> i64 {
        let ratio = f64::from(self.time_base) / f64::from(self.stream_time_base);
        ratio.round() as i64
    }
}

fn time_base(frame_time: Duration) -> ffmpeg::Rational {
    let seconds = if frame_time.is_zero() { DEFAULT_FRAME_TIME } else { frame_time }.as_secs_f64();
    let ticks = (seconds * TICKS).round().clamp(1.0, f64::from(i32::MAX)) as i32;
    ffmpeg::Rational::new(ticks, TICKS as i32).reduce()
}

fn open_encoder(
    path: &Path,
    size: Size,
    time_base: ffmpeg::Rational,
) -> Result<(ffmpeg::encoder::Video, &'static str)> {
    let mut refusal = "this machine's FFmpeg has none of the encoders libx264, libopenh264 and mpeg4".to_string();
    for (name, label, options) in ENCODERS {
        let Some(codec) = ffmpeg::encoder::find_by_name(name) else { continue };
        match open_one(codec, options, size, time_base) {
            Ok(encoder) => return Ok((encoder, label)),
            Err(e) => refusal = format!("the encoder {name} refuses a video of {size}: {e}"),
        }
    }
    Err(Error::media(path, refusal))
}

fn open_one(
    codec: ffmpeg::Codec,
    options: Options,
    size: Size,
    time_base: ffmpeg::Rational,
) -> Result<ffmpeg::encoder::Video, ffmpeg::Error> {
    let mut video = ffmpeg::codec::Context::new_with_codec(codec).encoder().video()?;
    video.set_width(size.width as u32);
    video.set_height(size.height as u32);
    video.set_format(Pixel::YUV420P);
    video.set_time_base(time_base);
    video.set_frame_rate(Some(time_base.invert()));
    video.set_colorspace(ffmpeg::color::Space::SMPTE170M);
    video.set_color_range(ffmpeg::color::Range::MPEG);
    // mp4 keeps the codec's headers apart from its packets.
    video.set_flags(ffmpeg::codec::Flags::GLOBAL_HEADER);
    // For encoders without a quality setting of their own: about 0.15 bytes a pixel and frame.
    let rate = size.area() as f64 * 1.2 / f64::from(time_base);
    if options.is_empty() {
        video.set_bit_rate(rate.clamp(200e3, 50e6) as usize);
    }
    video.open_with(options.iter().copied().collect())
}

/// The frame as RGB at even width and height, the last column and row repeated where needed.
fn padded_rgb(frame: &Frame) -> ffmpeg::frame::Video {
    let size = frame.size();
    let (width, height) = (size.width.next_multiple_of(2), size.height.next_multiple_of(2));
    let mut picture = ffmpeg::frame::Video::new(Pixel::RGB24, width as u32, height as u32);
    let stride = picture.stride(0);
    let samples = frame.colour().samples();
    for (y, row) in picture.data_mut(0).chunks_mut(stride).take(height).enumerate() {
        let start = y.min(size.height - 1) * size.width * samples;
        let source = &frame.samples()[start..start + size.width * samples];
        for (x, pixel) in row.chunks_exact_mut(3).take(width).enumerate() {
            let x = x.min(size.width - 1);
            match frame.colour() {
                Colour::Grey => pixel.fill(source[x]),
                Colour::Rgb => pixel.copy_from_slice(&source[3 * x..3 * x + 3]),
            }
        }
    }
    picture
}

/// The first error of the file below FFmpeg, which only passes on that there was one.
#[derive(Clone, Default)]
struct IoError(Arc<Mutex<Option<io::Error>>>);

impl IoError {
    fn record(&self, error: &io::Error) {
        let copy = error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error);
        self.0.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(copy);
    }

    fn check(&self, path: &Path) -> Result<()> {
        let error = self.0.lock().unwrap_or_else(|e| e.into_inner());
        match error.as_ref() {
            Some(e) => Err(Error::io("write", path)(
                e.raw_os_error().map_or_else(|| e.kind().into(), io::Error::from_raw_os_error),
            )),
            None => Ok(()),
        }
    }

    /// The file's own error if there was one, else FFmpeg's.
    fn or(&self, path: &Path, error: ffmpeg::Error) -> Error {
        match self.check(path) {
            Err(own) => own,
            Ok(()) => Error::media(path, format!("the video cannot be written: {error}")),
        }
    }
}

/// A file that keeps its first error.
struct RecordingFile {
    file: File,
    error: IoError,
}

impl Write for RecordingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes).inspect_err(|e| self.error.record(e))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush().inspect_err(|e| self.error.record(e))
    }
}

impl Seek for RecordingFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to).inspect_err(|e| self.error.record(e))
    }
}
