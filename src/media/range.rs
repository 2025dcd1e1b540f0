//! Which frames of a clip to segment, and which to read for it.

use crate::error::{Error, Result};
use std::ops::Range;
use std::str::FromStr;

/// Frames `start..end` of a clip, counted from 0, half open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct FrameRange {
    /// The first frame.
    pub start: usize,
    /// One past the last frame.
    pub end: usize,
}

impl FrameRange {
    /// The frames as a range of a clip of `frames` frames.
    ///
    /// # Errors
    /// [`Error::Request`] when the range is empty or reaches beyond the clip.
    pub fn within(self, frames: usize) -> Result<Range<usize>> {
        let clip = format!("the clip has {frames} frame{}, 0..{frames}", if frames == 1 { "" } else { "s" });
        if self.start >= self.end {
            Err(Error::Request(format!("frames {self} are none at all (the end is not included); {clip}")))
        } else if self.end > frames {
            Err(Error::Request(format!("frames {self} reach beyond the clip; {clip}")))
        } else {
            Ok(self.start..self.end)
        }
    }
}

impl std::fmt::Display for FrameRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

impl FromStr for FrameRange {
    type Err = Error;

    fn from_str(text: &str) -> Result<FrameRange> {
        let number = |text: &str| text.trim().parse::<usize>().ok();
        text.split_once("..")
            .and_then(|(start, end)| Some(FrameRange { start: number(start)?, end: number(end)? }))
            .ok_or_else(|| Error::Request(format!("'{text}' is not a range of frames such as 10..20")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_half_open_and_checked_against_the_clip() {
        let range = |text: &str| text.parse::<FrameRange>().unwrap();
        assert_eq!(range("3..5").within(5).unwrap(), 3..5);
        assert_eq!(range("0..1").within(1).unwrap(), 0..1);
        let beyond = range("3..6").within(5).unwrap_err().to_string();
        assert_eq!(beyond, "frames 3..6 reach beyond the clip; the clip has 5 frames, 0..5");
        let empty = range("3..3").within(5).unwrap_err().to_string();
        assert_eq!(empty, "frames 3..3 are none at all (the end is not included); the clip has 5 frames, 0..5");
        assert!(range("4..2").within(1).unwrap_err().to_string().ends_with("the clip has 1 frame, 0..1"));
    }

    #[test]
    fn only_two_whole_numbers_with_two_dots_are_a_range() {
        for text in
            ["", "..", "3", "3..", "..3", "-1..3", "a..b", "1...3", "1..=3", "1..2..3", "1..99999999999999999999"]
        {
            assert!(text.parse::<FrameRange>().is_err(), "{text}");
        }
    }
}
