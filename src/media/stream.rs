//! Frames from a stream of bytes, masks to one: y4m, or raw 8-bit samples.
//!
//! [y4m](https://wiki.multimedia.cx/index.php/YUV4MPEG2) is a line of text that names the size, then for each frame a
//! line `FRAME` and its planes. The luminance is what the network reads; where the stream has the usual limited range
//! of video, 16..235, it is brought to 0..255 first. A raw stream is one frame after the other, nothing between them.

use super::{Colour, Frame, Mask, Size};
use crate::error::{Error, Result};
use std::io::{self, BufRead, Read, Write};
use std::path::Path;

/// The longest side of a frame.
const MOST_SIDE: usize = 1 << 14;
/// The longest line of a y4m stream.
const MOST_LINE: u64 = 1 << 12;
const MAGIC: &str = "YUV4MPEG2";

/// Frames of a stream, all of one size.
#[derive(Debug)]
pub struct FrameStream<R> {
    input: R,
    name: String,
    size: Size,
    y4m: Option<Y4m>,
    /// Frames read.
    count: usize,
}

/// What the first line of a y4m stream says.
#[derive(Debug, Clone, PartialEq)]
struct Y4m {
    /// Bytes of the planes behind the luminance.
    chroma: usize,
    is_limited: bool,
    /// Frames a second, as numerator:denominator.
    rate: Option<String>,
}

impl<R: BufRead> FrameStream<R> {
    /// Raw grey frames of `size`, 8 bits a pixel. `name` is what errors call the stream.
    pub fn raw(input: R, name: &str, size: Size) -> FrameStream<R> {
        FrameStream { input, name: name.to_owned(), size, y4m: None, count: 0 }
    }

    /// A y4m stream.
    ///
    /// # Errors
    /// [`Error::Media`] when it is none, or of a kind that is not read; [`Error::Io`].
    pub fn y4m(mut input: R, name: &str) -> Result<FrameStream<R>> {
        let wrong = |problem: String| Error::media(Path::new(name), problem);
        let mut line = Vec::new();
        input.by_ref().take(MOST_LINE).read_until(b'\n', &mut line).map_err(Error::io("read", Path::new(name)))?;
        let line = String::from_utf8_lossy(&line);
        let Some(words) = line.strip_prefix(MAGIC).filter(|_| line.ends_with('\n')) else {
            let problem = "is no y4m stream, which begins with YUV4MPEG2; raw 8-bit frames need --raw WxH";
            return Err(wrong(if line.is_empty() { "is empty".to_owned() } else { problem.to_owned() }));
        };
        let (size, y4m) = header(words).map_err(wrong)?;
        Ok(FrameStream { input, name: name.to_owned(), size, y4m: Some(y4m), count: 0 })
    }

    /// The size of every frame.
    pub fn size(&self) -> Size {
        self.size
    }

    /// The next frame; `None` at the end.
    ///
    /// # Errors
    /// [`Error::Media`] when the stream ends within a frame or is damaged; [`Error::Io`].
    pub fn next_frame(&mut self) -> Result<Option<Frame>> {
        let has_more = !self.input.fill_buf().map_err(Error::io("read", Path::new(&self.name)))?.is_empty();
        if !has_more {
            return Ok(None);
        }
        if self.y4m.is_some() {
            self.read_frame_line()?;
        }
        let chroma = self.y4m.as_ref().map_or(0, |y4m| y4m.chroma);
        let mut bytes = vec![0; self.size.area() + chroma];
        let mut filled = 0;
        while filled < bytes.len() {
            match self.input.read(&mut bytes[filled..]) {
                Ok(0) => {
                    let (count, whole) = (self.count, bytes.len());
                    return Err(self.wrong(format!("ends within frame {count}, after {filled} of {whole} bytes")));
                }
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("read", Path::new(&self.name))(error)),
            }
        }
        bytes.truncate(self.size.area());
        if self.y4m.as_ref().is_some_and(|y4m| y4m.is_limited) {
            bytes.iter_mut().for_each(|sample| *sample = full_range(*sample));
        }
        self.count += 1;
        Frame::new(self.size, Colour::Grey, bytes).map(Some)
    }

    fn read_frame_line(&mut self) -> Result<()> {
        let mut line = Vec::new();
        let read = self.input.by_ref().take(MOST_LINE).read_until(b'\n', &mut line);
        read.map_err(Error::io("read", Path::new(&self.name)))?;
        // Parameters of a single frame say nothing about its samples.
        let is_frame = line.strip_suffix(b"\n").is_some_and(|line| line == b"FRAME" || line.starts_with(b"FRAME "));
        if is_frame { Ok(()) } else { Err(self.wrong(format!("has no FRAME where frame {} should begin", self.count))) }
    }

    fn wrong(&self, problem: String) -> Error {
        Error::media(Path::new(&self.name), problem)
    }

    /// Writes masks in the form of this stream: raw ones, or a y4m stream of one plane at the same rate.
    pub fn masks<W: Write>(&self, output: W) -> MaskStream<W> {
        let Size { width, height } = self.size;
        let header = self.y4m.as_ref().map(|y4m| {
            let rate = y4m.rate.as_deref().unwrap_or("25:1");
            format!("{MAGIC} W{width} H{height} F{rate} Ip A1:1 Cmono XCOLORRANGE=FULL\n")
        });
        MaskStream { output, is_y4m: header.is_some(), header }
    }
}

/// 16..235 onto 0..255, rounded to nearest; what lies outside is cut off.
fn full_range(sample: u8) -> u8 {
    (((u32::from(sample.clamp(16, 235)) - 16) * 255 + 109) / 219) as u8
}

/// The words behind the magic one.
fn header(words: &str) -> Result<(Size, Y4m), String> {
    let (mut width, mut height, mut rate, mut kind, mut range) = (None, None, None, "420", None);
    for word in words.split_whitespace() {
        match word.split_at_checked(1) {
            Some(("W", side)) => width = side.parse::<usize>().ok(),
            Some(("H", side)) => height = side.parse::<usize>().ok(),
            Some(("F", value)) => rate = is_rate(value).then(|| value.to_owned()),
            Some(("C", value)) => kind = value,
            Some(("X", value)) => range = value.strip_prefix("COLORRANGE=").or(range),
            _ => {}
        }
    }
    let is_side = |side: &usize| (1..=MOST_SIDE).contains(side);
    let side =
        |side: Option<usize>| side.filter(is_side).ok_or(format!("names no size from 1x1 to {MOST_SIDE}x{MOST_SIDE}"));
    let size = Size { width: side(width)?, height: side(height)? };
    let half = |length: usize| length.div_ceil(2);
    let chroma = match kind {
        "mono" => 0,
        "420" | "420jpeg" | "420mpeg2" | "420paldv" => 2 * half(size.width) * half(size.height),
        "422" => 2 * half(size.width) * size.height,
        "411" => 2 * size.width.div_ceil(4) * size.height,
        "444" => 2 * size.area(),
        "444alpha" => 3 * size.area(),
        other => {
            return Err(format!("has samples of kind C{other}; 8-bit C420, C422, C411, C444 and Cmono can be read"));
        }
    };
    let is_limited = match range {
        Some("FULL") => false,
        Some(_) => true,
        // As FFmpeg, which writes most of such streams, takes grey frames.
        None => kind != "mono",
    };
    Ok((size, Y4m { chroma, is_limited, rate }))
}

fn is_rate(text: &str) -> bool {
    let is_number = |text: &str| text.parse::<u32>().is_ok_and(|number| number > 0);
    text.split_once(':').is_some_and(|(numerator, denominator)| is_number(numerator) && is_number(denominator))
}

/// Masks to a stream of bytes: 255 where there is a vessel, else 0.
#[derive(Debug)]
pub struct MaskStream<W> {
    output: W,
    is_y4m: bool,
    /// Until the first mask or the end.
    header: Option<String>,
}

impl<W: Write> MaskStream<W> {
    /// Writes a mask, and sees that it leaves at once.
    ///
    /// # Errors
    /// Whatever the stream reports.
    pub fn write(&mut self, mask: &Mask) -> io::Result<()> {
        self.write_header()?;
        if self.is_y4m {
            self.output.write_all(b"FRAME\n")?;
        }
        self.output.write_all(&mask.pixels)?;
        self.output.flush()
    }

    /// Ends the stream: one without masks is a stream, too.
    ///
    /// # Errors
    /// Whatever the stream reports.
    pub fn finish(mut self) -> io::Result<()> {
        self.write_header()?;
        self.output.flush()
    }

    /// Unless it is there already.
    fn write_header(&mut self) -> io::Result<()> {
        self.header.take().map_or(Ok(()), |header| self.output.write_all(header.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn y4m(bytes: &[u8]) -> Result<FrameStream<&[u8]>> {
        FrameStream::y4m(bytes, "a pipe")
    }

    fn problem<T>(result: Result<T>) -> String {
        result.map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn luminance_is_read_and_chroma_passed_over() {
        // 3x3 pixels: chroma of 4:2:0 is 2x2 twice.
        let frame = |first: u8| [b"FRAME\n".as_slice(), &[first, 17, 126, 234, 235, 255, 0, 90, 200], &[7; 8]].concat();
        let bytes = [b"YUV4MPEG2 W3 H3 F15:1 Ip A1:1 C420jpeg\n".to_vec(), frame(16), frame(235)].concat();
        let mut stream = y4m(&bytes).unwrap();
        assert_eq!(stream.size(), Size { width: 3, height: 3 });
        // (y - 16) * 255 / 219: 1.16, 128.08, 253.84; 86.2, 214.2.
        assert_eq!(stream.next_frame().unwrap().unwrap().samples(), [0, 1, 128, 254, 255, 255, 0, 86, 214]);
        assert_eq!(stream.next_frame().unwrap().unwrap().samples()[0], 255);
        assert!(stream.next_frame().unwrap().is_none());
    }

    #[test]
    fn the_full_range_stays_as_it_is_where_it_is_stated_or_grey() {
        for (words, chroma) in [("Cmono", 0), ("C444 XCOLORRANGE=FULL", 4), ("C422 XYSCSS=422 XCOLORRANGE=FULL", 4)] {
            let bytes = [format!("YUV4MPEG2 W2 H1 {words}\nFRAME Ip\n").into_bytes(), vec![3, 250], vec![9; chroma]];
            let bytes = bytes.concat();
            let mut stream = y4m(&bytes[..bytes.len() - usize::from(words.starts_with("C422")) * 2]).unwrap();
            assert_eq!(stream.next_frame().unwrap().unwrap().samples(), [3, 250], "{words}");
            assert!(stream.next_frame().unwrap().is_none(), "{words}");
        }
        let mut stream = y4m(b"YUV4MPEG2 W2 H1 Cmono XCOLORRANGE=LIMITED\nFRAME\n\x10\xeb").unwrap();
        assert_eq!(stream.next_frame().unwrap().unwrap().samples(), [0, 255]);
    }

    #[test]
    fn streams_that_cannot_be_read_are_refused_in_one_sentence() {
        assert_eq!(problem(y4m(b"")), "a pipe: is empty");
        assert!(problem(y4m(b"\x89PNG")).contains("is no y4m stream"));
        assert!(problem(y4m(b"YUV4MPEG2 W2 H2")).contains("is no y4m stream"), "without an end of the line");
        for sides in ["", "W2", "W0 H4", "W4 H-1", "W4 H99999", "Wx H4"] {
            let line = format!("YUV4MPEG2 {sides}\n");
            assert!(problem(y4m(line.as_bytes())).contains("names no size"), "{sides}");
        }
        assert!(problem(y4m(b"YUV4MPEG2 W2 H2 C420p10\n")).contains("C420p10"));
        let mut stream = y4m(b"YUV4MPEG2 W2 H2 Cmono\nFRAME\nabcdFRAME\nab").unwrap();
        assert!(stream.next_frame().unwrap().is_some());
        assert_eq!(problem(stream.next_frame()), "a pipe: ends within frame 1, after 2 of 4 bytes");
        let mut stream = y4m(b"YUV4MPEG2 W2 H2 Cmono\nFRAMES\nabcd").unwrap();
        assert_eq!(problem(stream.next_frame()), "a pipe: has no FRAME where frame 0 should begin");
    }

    #[test]
    fn raw_frames_follow_each_other_and_masks_have_the_form_of_the_frames() {
        let size = Size { width: 2, height: 1 };
        let mask = Mask { size, pixels: vec![0, 255] };
        let mut stream = FrameStream::raw(&b"abcde"[..], "a pipe", size);
        assert_eq!(stream.next_frame().unwrap().unwrap().samples(), b"ab");
        assert_eq!(stream.next_frame().unwrap().unwrap().samples(), b"cd");
        assert_eq!(problem(stream.next_frame()), "a pipe: ends within frame 2, after 1 of 2 bytes");
        let mut written = Vec::new();
        let mut masks = stream.masks(&mut written);
        masks.write(&mask).unwrap();
        masks.write(&mask).unwrap();
        assert_eq!(written, [0, 255, 0, 255]);

        for (rate, expected) in [("F30000:1001", "F30000:1001"), ("", "F25:1"), ("F0:0", "F25:1")] {
            let line = format!("YUV4MPEG2 W2 H1 {rate}\n");
            let mut written = Vec::new();
            let mut masks = y4m(line.as_bytes()).unwrap().masks(&mut written);
            masks.write(&mask).unwrap();
            masks.write(&mask).unwrap();
            let head = format!("YUV4MPEG2 W2 H1 {expected} Ip A1:1 Cmono XCOLORRANGE=FULL\n");
            assert_eq!(written, [head.as_bytes(), b"FRAME\n\0\xff", b"FRAME\n\0\xff"].concat());
            // What comes out goes in again.
            let mut again = y4m(&written).unwrap();
            assert_eq!(again.next_frame().unwrap().unwrap().samples(), [0, 255]);
        }
    }

    #[test]
    fn the_end_of_a_stream_writes_the_header_that_no_mask_has_written() {
        let size = Size { width: 2, height: 1 };
        for masks_written in [0, 1] {
            let mut written = Vec::new();
            let mut masks = y4m(b"YUV4MPEG2 W2 H1 F15:1\n").unwrap().masks(&mut written);
            for _ in 0..masks_written {
                masks.write(&Mask { size, pixels: vec![0, 255] }).unwrap();
            }
            masks.finish().unwrap();
            let mut again = y4m(&written).unwrap();
            assert_eq!(again.size(), size);
            assert_eq!(again.next_frame().unwrap().is_some(), masks_written == 1);
            assert!(again.next_frame().unwrap().is_none());
        }
        let mut written = Vec::new();
        FrameStream::raw(&b""[..], "a pipe", size).masks(&mut written).finish().unwrap();
        assert!(written.is_empty());
    }

    #[test]
    fn limited_range_is_rounded_to_nearest() {
        for sample in 0..=255u8 {
            let exact = (f64::from(sample.clamp(16, 235)) - 16.0) * 255.0 / 219.0;
            assert!((f64::from(full_range(sample)) - exact).abs() <= 0.5, "{sample}");
        }
    }
}
