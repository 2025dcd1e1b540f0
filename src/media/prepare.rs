//! A frame becomes what the network reads: its colours, its size, its range of values.
//!
//! 8-bit samples are resized bilinearly (antialiased when shrinking) without rounding in between and scaled to
//! x/255*3.2-1.6, as CE-Net does; out come planes, `[C, H, W]`.

use super::{BilinearResize, Colour, Frame, Size};
use crate::error::{Error, Result};

/// Prepares frames of one size for one network, keeping its working memory.
#[derive(Debug)]
pub struct FramePreparer {
    colour: Colour,
    resize: BilinearResize,
    plane: Vec<f32>,
}

impl FramePreparer {
    /// From frames of `source` size to a network that reads `colour` at `target` size.
    ///
    /// # Errors
    /// [`Error::Request`] when a side is 0.
    pub fn new(source: Size, colour: Colour, target: Size) -> Result<FramePreparer> {
        Ok(FramePreparer { colour, resize: BilinearResize::new(source, target)?, plane: vec![0.0; source.area()] })
    }

    /// How many values a prepared frame has, C * H * W.
    pub fn values(&self) -> usize {
        self.colour.samples() * self.resize.to().area()
    }

    /// Prepares `frame` into `planes`, `values()` of them.
    ///
    /// # Errors
    /// [`Error::Request`] when the frame or `planes` has another size than announced.
    pub fn prepare(&mut self, frame: &Frame, planes: &mut [f32]) -> Result<()> {
        if frame.size() != self.resize.from() || planes.len() != self.values() {
            return Err(wrong_size(frame.size(), self.resize.from()));
        }
        let converted;
        let frame = match (frame.colour(), self.colour) {
            (Colour::Rgb, Colour::Grey) => {
                converted = frame.clone().into_grey();
                &converted
            }
            _ => frame,
        };
        let samples = frame.colour().samples();
        let area = self.resize.to().area();
        for (channel, target) in planes.chunks_exact_mut(area).take(samples).enumerate() {
            for (value, pixel) in self.plane.iter_mut().zip(frame.samples().chunks_exact(samples)) {
                *value = f32::from(pixel[channel]);
            }
            self.resize.apply(&self.plane, target)?;
            for value in target.iter_mut() {
                *value = *value / 255.0 * 3.2 - 1.6;
            }
        }
        if self.colour == Colour::Rgb && frame.colour() == Colour::Grey {
            planes.copy_within(..area, area);
            planes.copy_within(..area, 2 * area);
        }
        Ok(())
    }
}

/// The error of a frame that has another size than those before.
pub(crate) fn wrong_size(given: Size, expected: Size) -> Error {
    Error::Request(format!("a frame of {given} cannot be prepared where {expected} is expected"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_abs_diff_eq;

    fn prepared(frame: &Frame, colour: Colour, target: Size) -> Vec<f32> {
        let mut preparer = FramePreparer::new(frame.size(), colour, target).unwrap();
        let mut planes = vec![f32::NAN; preparer.values()];
        preparer.prepare(frame, &mut planes).unwrap();
        planes
    }

    fn size(width: usize, height: usize) -> Size {
        Size { width, height }
    }

    #[test]
    fn black_is_minus_1_6_and_white_is_1_6() {
        let frame = Frame::new(size(3, 1), Colour::Grey, vec![0, 255, 51]).unwrap();
        let planes = prepared(&frame, Colour::Grey, size(3, 1));
        assert_abs_diff_eq!(planes.as_slice(), [-1.6, 1.6, -0.96].as_slice(), epsilon = 1e-6);
    }

    #[test]
    fn colours_become_planes_and_grey_is_repeated_for_an_rgb_network() {
        let rgb = Frame::new(size(2, 1), Colour::Rgb, vec![0, 255, 51, 51, 0, 255]).unwrap();
        let planes = prepared(&rgb, Colour::Rgb, size(2, 1));
        assert_abs_diff_eq!(planes.as_slice(), [-1.6, -0.96, 1.6, -1.6, -0.96, 1.6].as_slice(), epsilon = 1e-6);
        let grey = Frame::new(size(2, 1), Colour::Grey, vec![0, 255]).unwrap();
        let planes = prepared(&grey, Colour::Rgb, size(2, 1));
        assert_abs_diff_eq!(planes.as_slice(), [-1.6, 1.6].repeat(3).as_slice(), epsilon = 1e-6);
    }

    /// Rec. 601: red 255 is luminance 76.
    #[test]
    fn an_rgb_frame_becomes_luminance_for_a_grey_network() {
        let rgb = Frame::new(size(1, 1), Colour::Rgb, vec![255, 0, 0]).unwrap();
        let planes = prepared(&rgb, Colour::Grey, size(1, 1));
        assert_abs_diff_eq!(planes[0], 76.0 / 255.0 * 3.2 - 1.6, epsilon = 1e-6);
    }

    /// 0 and 1 at twice the width lie at 0, 1/4, 3/4 and 1: fractions that 8 bits could not hold.
    #[test]
    fn nothing_is_rounded_to_8_bits_between_resizing_and_scaling() {
        let frame = Frame::new(size(2, 1), Colour::Grey, vec![0, 1]).unwrap();
        let planes = prepared(&frame, Colour::Grey, size(4, 1));
        let expected = [0.0, 0.25, 0.75, 1.0].map(|x: f32| x / 255.0 * 3.2 - 1.6);
        assert_abs_diff_eq!(planes.as_slice(), expected.as_slice(), epsilon = 1e-6);
    }

    #[test]
    fn a_frame_of_another_size_is_refused() {
        let mut preparer = FramePreparer::new(size(2, 2), Colour::Grey, size(1, 1)).unwrap();
        let frame = Frame::new(size(2, 1), Colour::Grey, vec![0, 1]).unwrap();
        assert!(preparer.prepare(&frame, &mut [0.0]).is_err());
    }
}
