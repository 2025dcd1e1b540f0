//! Width and height of frames, as people write them.

use coronet::media::Size;
use std::str::FromStr;

/// A size as people write it.
#[derive(Debug, Clone, Copy)]
pub struct FrameSize(pub Size);

impl FromStr for FrameSize {
    type Err = String;

    fn from_str(text: &str) -> Result<FrameSize, String> {
        let side = |text: &str| text.parse::<usize>().ok().filter(|&side| (1..=1 << 14).contains(&side));
        let sides = text.split_once('x').and_then(|(width, height)| Some((side(width)?, side(height)?)));
        let (width, height) = sides.ok_or("a size is WxH in pixels, each from 1 to 16384, such as 512x512")?;
        Ok(FrameSize(Size { width, height }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_make_no_sense_are_refused() {
        for size in ["512", "0x4", "4x0", "axb", "1x20000", "4x4x4"] {
            assert!(size.parse::<FrameSize>().is_err(), "{size}");
        }
        assert_eq!("512x400".parse::<FrameSize>().unwrap().0, Size { width: 512, height: 400 });
    }
}
