//! Videos that the writer of this crate does not make: other codecs, containers, bit depths and ranges.
//!
//! FFmpeg encodes them here; what this machine's FFmpeg has no encoder for is skipped with a line that says so.

use super::ffmpeg;
use crate::media::open;
use ffmpeg::color::Range;
use ffmpeg::format::Pixel;
use std::fs;
use std::path::Path;

const WIDTH: usize = 96;
const HEIGHT: usize = 64;

/// How a video is made.
#[derive(Debug, Clone, Copy)]
struct Recipe {
    codec: &'static str,
    container: &'static str,
    pixel: Pixel,
    range: Range,
}

const fn recipe(codec: &'static str, container: &'static str, pixel: Pixel, range: Range) -> Recipe {
    Recipe { codec, container, pixel, range }
}

impl Recipe {
    /// Bytes of a sample: formats of up to 8 bits have one, deeper ones two, low byte first.
    fn sample_bytes(self) -> usize {
        let name = self.pixel.descriptor().unwrap().name();
        if name.ends_with("le") { 2 } else { 1 }
    }

    /// A picture with this luminance and without colour.
    fn picture(self, luminance: impl Fn(usize, usize) -> u16) -> ffmpeg::frame::Video {
        let mut picture = ffmpeg::frame::Video::new(self.pixel, WIDTH as u32, HEIGHT as u32);
        picture.set_color_range(self.range);
        let bytes = self.sample_bytes();
        // No format with two bytes here but those of 10 bits has colour.
        let neutral = if bytes == 2 { 512 } else { 128 };
        for plane in 0..picture.planes() {
            let stride = picture.stride(plane);
            for (y, row) in picture.data_mut(plane).chunks_mut(stride).enumerate() {
                for (x, sample) in row.chunks_exact_mut(bytes).enumerate() {
                    let value = if plane == 0 { luminance(x.min(WIDTH - 1), y.min(HEIGHT - 1)) } else { neutral };
                    sample.copy_from_slice(&value.to_le_bytes()[..bytes]);
                }
            }
        }
        picture
    }

    /// Encodes `frames` pictures of a 25th of a second; false where this FFmpeg cannot.
    fn record(self, path: &Path, frames: usize, luminance: impl Fn(usize, usize, usize) -> u16) -> bool {
        super::silence();
        let Some(codec) = ffmpeg::encoder::find_by_name(self.codec) else {
            println!("skipped: this FFmpeg has no encoder {}", self.codec);
            return false;
        };
        let mut output = ffmpeg::format::output_as(path, self.container).unwrap();
        let time_base = ffmpeg::Rational::new(1, 25);
        let mut video = ffmpeg::codec::Context::new_with_codec(codec).encoder().video().unwrap();
        video.set_width(WIDTH as u32);
        video.set_height(HEIGHT as u32);
        video.set_format(self.pixel);
        video.set_time_base(time_base);
        video.set_frame_rate(Some(time_base.invert()));
        video.set_color_range(self.range);
        video.set_bit_rate(4_000_000);
        let mut encoder = video.open().unwrap();
        output.add_stream_with(&encoder).unwrap().set_time_base(time_base);
        output.write_header().unwrap();
        let target = output.stream(0).unwrap().time_base();
        for index in 0..=frames {
            if index < frames {
                let mut picture = self.picture(|x, y| luminance(index, x, y));
                picture.set_pts(Some(index as i64));
                encoder.send_frame(&picture).unwrap();
            } else {
                encoder.send_eof().unwrap();
            }
            let mut packet = ffmpeg::Packet::empty();
            while encoder.receive_packet(&mut packet).is_ok() {
                packet.set_stream(0);
                packet.set_duration(1);
                packet.rescale_ts(time_base, target);
                packet.write_interleaved(&mut output).unwrap();
            }
        }
        output.write_trailer().unwrap();
        true
    }
}

/// Eight bars, dark or bright: the bits of the index.
fn coded(index: usize, x: usize, _: usize) -> u16 {
    if index >> (x * 8 / WIDTH) & 1 == 1 { 210 } else { 40 }
}

fn index_of(samples: &[u8]) -> usize {
    let middle = |bar: usize| samples[HEIGHT / 2 * WIDTH + (2 * bar + 1) * WIDTH / 16];
    (0..8).map(|bar| usize::from(middle(bar) > 125) << bar).sum()
}

#[test]
fn codecs_and_containers_of_angiography_archives_come_back_frame_by_frame() {
    let folder = tempfile::tempdir().unwrap();
    for made in [
        recipe("mpeg4", "avi", Pixel::YUV420P, Range::MPEG),
        recipe("mjpeg", "avi", Pixel::YUVJ420P, Range::JPEG),
        recipe("wmv1", "asf", Pixel::YUV420P, Range::MPEG),
        recipe("wmv2", "asf", Pixel::YUV420P, Range::MPEG),
        recipe("ffv1", "matroska", Pixel::YUV444P, Range::MPEG),
        recipe("mpeg2video", "mpegts", Pixel::YUV420P, Range::MPEG),
    ] {
        let path = folder.path().join("clip");
        if !made.record(&path, 40, coded) {
            continue;
        }
        let mut clip = open(&path).unwrap_or_else(|error| panic!("{made:?}: {error}"));
        assert_eq!(clip.info().frame_time, Some(std::time::Duration::from_millis(40)), "{made:?}");
        let frames = std::iter::from_fn(|| clip.next_frame().unwrap());
        let indices: Vec<usize> = frames.map(|frame| index_of(frame.into_grey().samples())).collect();
        assert_eq!(indices, (0..40).collect::<Vec<_>>(), "{made:?}");
        assert_eq!(clip.info().frames, 40, "{made:?}");
    }
}

#[test]
fn a_packet_without_data_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clip");
    if !recipe("mjpeg", "mov", Pixel::YUVJ420P, Range::JPEG).record(&path, 20, coded) {
        return;
    }
    let mut bytes = fs::read(&path).unwrap();
    let table = bytes.windows(4).position(|name| name == b"stsz").unwrap() + 8;
    // Sizes that differ, and how many of them there are.
    assert_eq!(bytes[table..table + 8], [0, 0, 0, 0, 0, 0, 0, 20]);
    let place = |frame: usize| table + 8 + 4 * frame;
    let size = |frame: usize| u32::from_be_bytes(bytes[place(frame)..place(frame + 1)].try_into().unwrap());
    // Frame 9 takes the data of frame 10, which are behind its own, where no decoder looks.
    let both = size(9) + size(10);
    bytes[place(9)..place(10)].copy_from_slice(&both.to_be_bytes());
    bytes[place(10)..place(11)].fill(0);
    fs::write(&path, bytes).unwrap();
    let mut clip = open(&path).unwrap();
    let frames = std::iter::from_fn(|| clip.next_frame().unwrap());
    let indices: Vec<usize> = frames.map(|frame| index_of(frame.into_grey().samples())).collect();
    assert_eq!(indices, (0..20).filter(|&index| index != 10).collect::<Vec<_>>());
}

#[test]
fn luminance_of_any_depth_and_range_becomes_0_to_255() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("grey");
    // The stored values that stand for black and for white.
    for (pixel, range, black, white) in [
        (Pixel::YUV420P, Range::MPEG, 16, 235),
        (Pixel::YUV420P, Range::JPEG, 0, 255),
        (Pixel::YUV422P, Range::MPEG, 16, 235),
        (Pixel::YUV420P10LE, Range::MPEG, 64, 940),
        (Pixel::YUV420P10LE, Range::JPEG, 0, 1023),
        (Pixel::YUV422P10LE, Range::MPEG, 64, 940),
        (Pixel::GRAY8, Range::JPEG, 0, 255),
        (Pixel::GRAY10LE, Range::JPEG, 0, 1023),
        (Pixel::GRAY16LE, Range::JPEG, 0, 65535),
    ] {
        let made = recipe("ffv1", "matroska", pixel, range);
        let share = |x: usize| x as f64 / (WIDTH - 1) as f64;
        let stored =
            |_: usize, x: usize, _: usize| (f64::from(black) + share(x) * f64::from(white - black)).round() as u16;
        if !made.record(&path, 1, stored) {
            return;
        }
        let frame = open(&path).unwrap().next_frame().unwrap().unwrap().into_grey();
        for (x, &value) in frame.samples()[..WIDTH].iter().enumerate() {
            let expected = 255.0 * share(x);
            assert!((f64::from(value) - expected).abs() <= 1.5, "{made:?}, column {x}: {value} for {expected}");
        }
    }
}

#[test]
fn a_windows_media_or_avi_file_that_is_cut_off_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for made in [
        recipe("wmv2", "asf", Pixel::YUV420P, Range::MPEG),
        recipe("mjpeg", "avi", Pixel::YUVJ420P, Range::JPEG),
        recipe("mpeg4", "mov", Pixel::YUV420P, Range::MPEG),
    ] {
        let path = folder.path().join("clip");
        if !made.record(&path, 40, coded) {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        for tenths in 1..10 {
            fs::write(&path, &bytes[..bytes.len() * tenths / 10]).unwrap();
            let refused = open(&path).err().unwrap_or_else(|| panic!("{made:?}: {tenths} tenths were opened"));
            let sentence = refused.to_string();
            assert!(sentence.contains("truncated") || sentence.contains("cut off"), "{made:?}: {sentence}");
        }
    }
}
