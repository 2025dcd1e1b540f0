//! What travels between files and the engine: frames, probability maps and masks.

use super::BilinearResize;
use crate::error::{Error, Result};

/// Width and height of an image, in pixels; both at least 1 for every frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Size {
    /// Pixels per row.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

impl Size {
    /// Pixels in one plane.
    pub fn area(self) -> usize {
        self.width * self.height
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// How many 8-bit samples a pixel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// One sample, luminance.
    Grey,
    /// Three samples, interleaved red, green, blue.
    Rgb,
}

impl Colour {
    /// Samples per pixel.
    pub fn samples(self) -> usize {
        match self {
            Colour::Grey => 1,
            Colour::Rgb => 3,
        }
    }
}

/// One 8-bit frame of a clip, rows from the top, no padding between rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    size: Size,
    colour: Colour,
    samples: Vec<u8>,
}

impl Frame {
    /// A frame of `samples`, `size.area() * colour.samples()` of them.
    ///
    /// # Errors
    /// [`Error::Request`] when the count of samples does not fit the size, or a side is 0.
    pub fn new(size: Size, colour: Colour, samples: Vec<u8>) -> Result<Frame> {
        let expected = size.area() * colour.samples();
        if expected == 0 || samples.len() != expected {
            return Err(Error::Request(format!(
                "a {size} frame of {} sample(s) a pixel needs {expected} bytes, got {}",
                colour.samples(),
                samples.len()
            )));
        }
        Ok(Frame { size, colour, samples })
    }

    /// Width and height.
    pub fn size(&self) -> Size {
        self.size
    }

    /// Grey or RGB.
    pub fn colour(&self) -> Colour {
        self.colour
    }

    /// The samples, interleaved.
    pub fn samples(&self) -> &[u8] {
        &self.samples
    }

    /// Luminance with Rec. 601 weights (0.299 R + 0.587 G + 0.114 B, rounded); a grey frame is returned as it is.
    pub fn into_grey(self) -> Frame {
        match self.colour {
            Colour::Grey => self,
            Colour::Rgb => {
                let grey = self.samples.chunks_exact(3).map(|p| luminance(p[0], p[1], p[2])).collect();
                Frame { size: self.size, colour: Colour::Grey, samples: grey }
            }
        }
    }

    /// A frame without colour as a grey one: RGB whose three samples are equal in every pixel. Others come back as they
    /// are.
    pub fn without_equal_samples(self) -> Frame {
        let is_grey = self.colour == Colour::Rgb && self.samples.chunks_exact(3).all(|p| p[0] == p[1] && p[1] == p[2]);
        // Luminance keeps equal samples as they are.
        if is_grey { self.into_grey() } else { self }
    }

    /// Three equal samples for a grey frame; an RGB frame is returned as it is.
    pub fn into_rgb(self) -> Frame {
        match self.colour {
            Colour::Rgb => self,
            Colour::Grey => {
                let rgb = self.samples.iter().flat_map(|&v| [v, v, v]).collect();
                Frame { size: self.size, colour: Colour::Rgb, samples: rgb }
            }
        }
    }
}

/// Rec. 601 luminance of an 8-bit RGB pixel, rounded to nearest. Equal samples come back unchanged.
pub fn luminance(red: u8, green: u8, blue: u8) -> u8 {
    ((299 * u32::from(red) + 587 * u32::from(green) + 114 * u32::from(blue) + 500) / 1000) as u8
}

/// A vessel probability for every pixel, 0 to 1, rows from the top.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbabilityMap {
    /// Width and height.
    pub size: Size,
    /// `size.area()` values.
    pub values: Vec<f32>,
}

/// A vessel mask: 255 where there is vessel, 0 elsewhere, rows from the top.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    /// Width and height.
    pub size: Size,
    /// `size.area()` values, each 0 or 255.
    pub pixels: Vec<u8>,
}

/// From this 8-bit value on a label's pixel is vessel.
pub(crate) const VESSEL: u8 = 128;

impl Mask {
    /// What an image drawn by hand says: vessel where its luminance is at least 128.
    pub fn of_label(label: Frame) -> Mask {
        let (size, grey) = (label.size(), label.into_grey());
        Mask { size, pixels: grey.samples().iter().map(|&value| if value >= VESSEL { 255 } else { 0 }).collect() }
    }

    /// The share of vessel, 0 to 1, in each pixel of the resize's target.
    ///
    /// # Errors
    /// [`crate::Error::Request`] when the mask does not have the resize's source size.
    pub fn shares(&self, resize: &mut BilinearResize) -> Result<Vec<f32>> {
        let whole: Vec<f32> = self.pixels.iter().map(|&pixel| if pixel == 0 { 0.0 } else { 1.0 }).collect();
        let mut shares = vec![0.0; resize.to().area()];
        resize.apply(&whole, &mut shares)?;
        Ok(shares)
    }

    /// The mask at the resize's target size: vessel where at least half of a pixel is.
    ///
    /// # Errors
    /// As [`Mask::shares`].
    pub fn resized(&self, resize: &mut BilinearResize) -> Result<Mask> {
        let pixels = self.shares(resize)?.into_iter().map(|share| if share >= 0.5 { 255 } else { 0 }).collect();
        Ok(Mask { size: resize.to(), pixels })
    }

    /// How many pixels are vessel.
    pub fn vessel_pixels(&self) -> usize {
        self.pixels.iter().filter(|&&p| p != 0).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn luminance_follows_rec_601_and_keeps_greys() {
        assert_eq!(luminance(255, 0, 0), 76);
        assert_eq!(luminance(0, 255, 0), 150);
        assert_eq!(luminance(0, 0, 255), 29);
        for v in 0..=255 {
            assert_eq!(luminance(v, v, v), v);
        }
    }

    #[test]
    fn only_frames_without_colour_lose_their_equal_samples() {
        let size = Size { width: 2, height: 1 };
        let frame = |colour, samples: &[u8]| Frame::new(size, colour, samples.to_vec()).unwrap();
        let grey = frame(Colour::Grey, &[7, 200]);
        assert_eq!(frame(Colour::Rgb, &[7, 7, 7, 200, 200, 200]).without_equal_samples(), grey);
        assert_eq!(grey.clone().without_equal_samples(), grey);
        for colourful in [[7, 7, 7, 200, 200, 201], [8, 7, 7, 200, 200, 200]] {
            let frame = frame(Colour::Rgb, &colourful);
            assert_eq!(frame.clone().without_equal_samples(), frame);
        }
    }

    #[test]
    fn a_frame_with_missing_samples_is_refused() {
        let size = Size { width: 3, height: 2 };
        assert!(Frame::new(size, Colour::Grey, vec![0; 5]).is_err());
        assert!(Frame::new(size, Colour::Rgb, vec![0; 18]).is_ok());
        assert!(Frame::new(Size { width: 0, height: 2 }, Colour::Grey, vec![]).is_err());
    }
}
