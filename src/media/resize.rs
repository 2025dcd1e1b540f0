//! Bilinear resizing of one plane of 32-bit floats, the only resizing between frames and the network.
//!
//! Pixel centres lie at half-integers. When an axis shrinks the triangle filter widens with it (antialiasing); when
//! it grows this is plain bilinear interpolation with the border repeated.

use super::Size;
use crate::error::{Error, Result};
use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::F32;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};

/// Resizes planes from one size to another, keeping its working memory from call to call.
pub struct BilinearResize {
    from: Size,
    to: Size,
    resizer: Resizer,
}

impl std::fmt::Debug for BilinearResize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BilinearResize").field("from", &self.from).field("to", &self.to).finish_non_exhaustive()
    }
}

impl BilinearResize {
    /// A resize from `from` to `to`.
    ///
    /// # Errors
    /// [`Error::Request`] when a side is 0 or beyond 32 bits.
    pub fn new(from: Size, to: Size) -> Result<BilinearResize> {
        for side in [from.width, from.height, to.width, to.height] {
            if side == 0 || u32::try_from(side).is_err() {
                return Err(Error::Request(format!("an image cannot be resized from {from} to {to}")));
            }
        }
        Ok(BilinearResize { from, to, resizer: Resizer::new() })
    }

    /// The size that goes in.
    pub fn from(&self) -> Size {
        self.from
    }

    /// The size that comes out.
    pub fn to(&self) -> Size {
        self.to
    }

    /// Resizes `source`, `from().area()` values, into `target`, `to().area()` values.
    ///
    /// # Errors
    /// [`Error::Request`] when a slice has another length.
    pub fn apply(&mut self, source: &[f32], target: &mut [f32]) -> Result<()> {
        let (from, to) = (self.from, self.to);
        if source.len() != from.area() || target.len() != to.area() {
            return Err(Error::Request(format!(
                "resizing {from} to {to} got planes of {} and {} values",
                source.len(),
                target.len()
            )));
        }
        if from == to {
            target.copy_from_slice(source);
            return Ok(());
        }
        // `new` has checked that the sides fit 32 bits. Images that know their type of pixels: those that carry it as a
        // value bring code for all thirteen, which was most of what the compiler had to do for this whole crate.
        let wrong = |e: &dyn std::fmt::Display| Error::Request(format!("cannot resize {from} to {to}: {e}"));
        let source =
            TypedImageRef::<F32>::from_buffer(from.width as u32, from.height as u32, bytemuck::cast_slice(source));
        let target =
            TypedImage::<F32>::from_buffer(to.width as u32, to.height as u32, bytemuck::cast_slice_mut(target));
        let (source, mut target) = (source.map_err(|e| wrong(&e))?, target.map_err(|e| wrong(&e))?);
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
        self.resizer.resize_typed(&source, &mut target, &options).map_err(|e| wrong(&e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_abs_diff_eq;

    fn resized(from: (usize, usize), to: (usize, usize), values: &[f32]) -> Vec<f32> {
        let size = |(width, height)| Size { width, height };
        let mut target = vec![f32::NAN; to.0 * to.1];
        BilinearResize::new(size(from), size(to)).unwrap().apply(values, &mut target).unwrap();
        target
    }

    /// Output centres 0.5, 1.5, 2.5, 3.5 lie at 0.25, 0.75, 1.25, 1.75 of the input, whose centres are 0.5 and 1.5.
    #[test]
    fn growing_interpolates_between_half_pixel_centres() {
        let row = resized((2, 1), (4, 1), &[0.0, 1.0]);
        assert_abs_diff_eq!(row.as_slice(), [0.0, 0.25, 0.75, 1.0].as_slice(), epsilon = 1e-6);
        let column = resized((1, 2), (1, 4), &[0.0, 1.0]);
        assert_abs_diff_eq!(column.as_slice(), [0.0, 0.25, 0.75, 1.0].as_slice(), epsilon = 1e-6);
    }

    /// Halving puts a triangle of half-width 2 on centre 1: weights 1/4, 3/4, 3/4, 1/4 at distances 1.5, 0.5, 0.5, 1.5,
    /// of which the border cuts one off.
    #[test]
    fn shrinking_widens_the_triangle() {
        let row = resized((4, 1), (2, 1), &[0.0, 0.0, 1.0, 1.0]);
        assert_abs_diff_eq!(row.as_slice(), [0.25 / 1.75, 1.5 / 1.75].as_slice(), epsilon = 1e-6);
    }

    #[test]
    fn the_same_size_is_copied_and_constants_stay_constant() {
        assert_eq!(resized((2, 2), (2, 2), &[1.0, -2.0, 3.5, 0.25]), [1.0, -2.0, 3.5, 0.25]);
        for value in resized((7, 5), (3, 11), &[0.7; 35]) {
            assert_abs_diff_eq!(value, 0.7, epsilon = 1e-6);
        }
    }

    #[test]
    fn planes_of_another_length_and_empty_sides_are_refused() {
        let size = Size { width: 2, height: 2 };
        let mut resize = BilinearResize::new(size, Size { width: 1, height: 1 }).unwrap();
        assert!(resize.apply(&[0.0; 3], &mut [0.0]).is_err());
        assert!(BilinearResize::new(size, Size { width: 0, height: 1 }).is_err());
    }
}
