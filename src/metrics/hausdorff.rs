//! HD95: how far apart the outlines of two masks lie, in pixels, the farthest twentieth of them left out.
//!
//! As MONAI defines it, `compute_hausdorff_distance(include_background=True, percentile=95, directed=False)` on one
//! channel: the outline of a mask is its pixels that touch the background, or the image's edge, with a side; from each
//! pixel of one outline the distance to the nearest pixel of the other one is taken; of each direction the 95th
//! percentile; of both the greater.

use super::percentile::percentile;
use super::same_size;
use crate::error::{Error, Result};
use crate::media::Mask;
use image::{GrayImage, Luma};
use imageproc::distance_transform::euclidean_squared_distance_transform;

/// The 95th percentile of the symmetric Hausdorff distance, in pixels; any value but 0 is vessel.
///
/// Empty against empty is 0. When one of the masks is empty there is no distance, and the answer is `None`; see
/// [`MeanDistance`] for how to count that.
///
/// # Errors
/// [`Error::Request`] when the sizes differ, or are too large for an image.
pub fn hd95(mask: &Mask, reference: &Mask) -> Result<Option<f64>> {
    same_size(mask, reference)?;
    match (mask.vessel_pixels(), reference.vessel_pixels()) {
        (0, 0) => return Ok(Some(0.0)),
        (0, _) | (_, 0) => return Ok(None),
        _ => {}
    }
    let (outline, reference) = (outline(mask)?, outline(reference)?);
    let there = directed(&outline, &reference);
    let back = directed(&reference, &outline);
    Ok(there.zip(back).map(|(there, back)| there.max(back)))
}

/// The mask's pixels that have background, or nothing, above, below, left or right of them.
fn outline(mask: &Mask) -> Result<GrayImage> {
    let (Ok(width), Ok(height)) = (u32::try_from(mask.size.width), u32::try_from(mask.size.height)) else {
        return Err(Error::Request(format!("a mask of {} is too large to measure distances in", mask.size)));
    };
    let vessel = |x: u32, y: u32| {
        x < width && y < height && mask.pixels.get(y as usize * mask.size.width + x as usize).is_some_and(|&p| p != 0)
    };
    let inside = |x: u32, y: u32| {
        let around = [(x.wrapping_sub(1), y), (x + 1, y), (x, y.wrapping_sub(1)), (x, y + 1)];
        around.into_iter().all(|(x, y)| vessel(x, y))
    };
    Ok(GrayImage::from_fn(width, height, |x, y| Luma([if vessel(x, y) && !inside(x, y) { 255 } else { 0 }])))
}

/// The 95th percentile of the distances from the pixels of one outline to the nearest of the other.
fn directed(from: &GrayImage, to: &GrayImage) -> Option<f64> {
    let squared = euclidean_squared_distance_transform(to);
    let pixels = from.iter().zip(squared.iter()).filter(|(pixel, _)| **pixel != 0);
    let mut distances: Vec<f64> = pixels.map(|(_, squared)| squared.sqrt()).collect();
    percentile(&mut distances, 0.95)
}

/// The mean of the distances of several images, and how many images have none.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct MeanDistance {
    /// In pixels, over the images that have a distance; `None` without such images.
    pub mean: Option<f64>,
    /// How many images have a distance.
    pub defined: usize,
    /// How many have none, because either the mask or the reference is empty.
    pub undefined: usize,
}

impl MeanDistance {
    /// Over `images`, one answer of [`hd95`] each.
    pub fn over(images: &[Option<f64>]) -> MeanDistance {
        let defined = images.iter().flatten().count();
        let mean = (defined > 0).then(|| images.iter().flatten().sum::<f64>() / defined as f64);
        MeanDistance { mean, defined, undefined: images.len() - defined }
    }
}

#[cfg(test)]
mod tests {
    use super::super::drawing::{mask, moved, pair};
    use super::*;
    use crate::media::Size;
    use approx::assert_abs_diff_eq;
    use proptest::prelude::*;

    fn of(drawing: &[&str], reference: &[&str]) -> Option<f64> {
        hd95(&mask(drawing), &mask(reference)).unwrap()
    }

    #[test]
    fn single_pixels_are_as_far_apart_as_they_are() {
        assert_eq!(of(&["#....", ".....", "....."], &[".....", ".....", "....#"]), Some(20f64.sqrt()));
        assert_eq!(of(&["#.."], &["..#"]), Some(2.0));
    }

    #[test]
    fn an_empty_mask_is_no_distance_away_from_an_empty_one_and_at_none_from_any_other() {
        assert_eq!(of(&["..."], &["..."]), Some(0.0));
        assert_eq!(of(&["..."], &["#.."]), None);
        assert_eq!(of(&["#.."], &["..."]), None);
    }

    /// There: 21 distances, twenty of 0 and one of 1; the 95th percentile is the 20th, 0. Back: all 0 but ten pixels
    /// of the upper row, whose distances are 1.
    #[test]
    fn one_pixel_in_twenty_does_not_count_and_more_do() {
        let (long, short) = ("#".repeat(21), format!("{}.", "#".repeat(20)));
        assert_eq!(of(&[&long], &[&short]), Some(0.0));
        let row = format!("{}{}", "#".repeat(10), ".".repeat(11));
        let none = ".".repeat(21);
        assert_eq!(of(&[&none, &long], &[&row, &long]), Some(1.0));
    }

    /// The square's inside is no outline: the pixel in its middle is 2 from it, and it is up to the diagonal of 2
    /// from the pixel: 4 of 16 pixels are at that distance, the 95th percentile is among them.
    #[test]
    fn distances_are_taken_from_outlines() {
        let square = ["#####", "#####", "#####", "#####", "#####"];
        let pixel = [".....", ".....", "..#..", ".....", "....."];
        assert_eq!(of(&square, &pixel), Some(8f64.sqrt()));
        assert_eq!(of(&["###", "###", "###"], &["###", "#.#", "###"]), Some(0.0));
    }

    #[test]
    fn the_mean_leaves_out_images_without_a_distance_and_counts_them() {
        let some = MeanDistance::over(&[Some(1.0), None, Some(4.0)]);
        assert_eq!(some, MeanDistance { mean: Some(2.5), defined: 2, undefined: 1 });
        assert_eq!(MeanDistance::over(&[None]), MeanDistance { mean: None, defined: 0, undefined: 1 });
        assert_eq!(MeanDistance::over(&[]), MeanDistance { mean: None, defined: 0, undefined: 0 });
    }

    /// From every pixel of an outline to every pixel of the other.
    fn plainly(mask: &Mask, reference: &Mask) -> Option<f64> {
        let outline = |mask: &Mask| -> Vec<(f64, f64)> {
            let Size { width, height } = mask.size;
            let is = |x: usize, y: usize| x < width && y < height && mask.pixels[y * width + x] != 0;
            let edge = |x: usize, y: usize| {
                x == 0 || y == 0 || !is(x - 1, y) || !is(x, y - 1) || !is(x + 1, y) || !is(x, y + 1)
            };
            let all = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
            all.filter(|&(x, y)| is(x, y) && edge(x, y)).map(|(x, y)| (x as f64, y as f64)).collect()
        };
        let (from, to) = (outline(mask), outline(reference));
        let directed = |from: &[(f64, f64)], to: &[(f64, f64)]| {
            let nearest =
                |a: &(f64, f64)| to.iter().map(|b| (a.0 - b.0).hypot(a.1 - b.1)).fold(f64::INFINITY, f64::min);
            percentile(&mut from.iter().map(nearest).collect::<Vec<f64>>(), 0.95)
        };
        match (from.is_empty(), to.is_empty()) {
            (true, true) => Some(0.0),
            (false, false) => directed(&from, &to).zip(directed(&to, &from)).map(|(a, b)| a.max(b)),
            _ => None,
        }
    }

    proptest! {
        #[test]
        fn it_is_symmetric_moves_with_the_masks_and_is_what_trying_all_pairs_gives(
            (a, b) in pair(), left in 0usize..4, top in 0usize..4,
        ) {
            let there = hd95(&a, &b).unwrap();
            prop_assert_eq!(there, hd95(&b, &a).unwrap());
            prop_assert_eq!(there, hd95(&moved(&a, left, top), &moved(&b, left, top)).unwrap());
            prop_assert_eq!(hd95(&a, &a).unwrap(), Some(0.0));
            match (there, plainly(&a, &b)) {
                (Some(found), Some(expected)) => { assert_abs_diff_eq!(found, expected, epsilon = 1e-12); }
                (found, expected) => prop_assert_eq!(found, expected),
            }
        }
    }
}
