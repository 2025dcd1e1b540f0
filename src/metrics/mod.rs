//! How well a segmentation agrees with a reference, and how sure that is.
//!
//! | | of | says |
//! |---|---|---|
//! | [`Counts`] | two masks | IoU, Dice, sensitivity, specificity, accuracy, precision: the share of pixels |
//! | [`ClDice`] | two masks | whether the vessels are the same as lines, thin ones counting as much as wide ones |
//! | [`hd95`] | two masks | how far apart their outlines lie, in pixels |
//! | [`Sweep`] | probabilities and masks | precision and recall, Dice and IoU at every threshold |
//! | [`Bootstrap`] | the values of many clips | the interval in which the mean is likely to lie |
//!
//! Where a formula gives 0/0 its function says what stands there instead; on the whole: empty against empty is perfect.

mod cl_dice;
mod counts;
mod hausdorff;
mod interval;
mod percentile;
mod skeleton;
mod sweep;

pub use cl_dice::ClDice;
pub use counts::{Agreement, Counts, Scores};
pub use hausdorff::{MeanDistance, hd95};
pub use interval::{Bootstrap, Interval};
pub use skeleton::skeletonize;
pub use sweep::{OperatingPoint, PrecisionRecall, Sweep};

use crate::error::{Error, Result};
use crate::media::Mask;

/// # Errors
/// [`Error::Request`] when the masks differ in size.
fn same_size(mask: &Mask, reference: &Mask) -> Result<()> {
    if mask.size == reference.size && mask.pixels.len() == reference.pixels.len() {
        return Ok(());
    }
    Err(Error::Request(format!("a mask of {} cannot be compared with a reference of {}", mask.size, reference.size)))
}

#[cfg(test)]
mod drawing {
    use crate::media::{Mask, Size};
    use proptest::prelude::*;

    /// A mask from a drawing: `#` is vessel.
    pub(super) fn mask(rows: &[&str]) -> Mask {
        let size = Size { width: rows.first().map_or(0, |row| row.len()), height: rows.len() };
        let pixels = rows.iter().flat_map(|row| row.bytes().map(|b| if b == b'#' { 255 } else { 0 })).collect();
        Mask { size, pixels }
    }

    /// A mask as a drawing, for messages that can be read.
    pub(super) fn rows(mask: &Mask) -> Vec<String> {
        let letter = |&p: &u8| if p != 0 { '#' } else { '.' };
        mask.pixels.chunks(mask.size.width.max(1)).map(|row| row.iter().map(letter).collect()).collect()
    }

    /// `mask` with background around it: `left` columns, `top` rows, and one of each beyond.
    pub(super) fn moved(mask: &Mask, left: usize, top: usize) -> Mask {
        let size = Size { width: mask.size.width + left + 1, height: mask.size.height + top + 1 };
        let mut pixels = vec![0; size.area()];
        for (y, row) in mask.pixels.chunks(mask.size.width).enumerate() {
            let start = (top + y) * size.width + left;
            pixels[start..start + row.len()].copy_from_slice(row);
        }
        Mask { size, pixels }
    }

    /// Pairs of masks of one size, up to 14 pixels a side, from nearly empty to nearly full.
    pub(super) fn pair() -> impl Strategy<Value = (Mask, Mask)> {
        (1usize..14, 1usize..14, 0u8..=8, 0u8..=8).prop_flat_map(|(width, height, some, others)| {
            let size = Size { width, height };
            let of = move |dense: u8| {
                proptest::collection::vec(0u8..8, size.area()).prop_map(move |levels| Mask {
                    size,
                    pixels: levels.iter().map(|&level| if level < dense { 255 } else { 0 }).collect(),
                })
            };
            (of(some), of(others))
        })
    }
}
