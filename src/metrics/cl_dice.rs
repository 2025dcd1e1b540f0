//! Centreline Dice (clDice): agreement of vessels as lines, whatever their width.
//!
//! Shit et al., "clDice - a Novel Topology-Preserving Loss Function for Tubular Structure Segmentation", CVPR 2021.

use super::counts::share;
use super::{same_size, skeletonize};
use crate::error::Result;
use crate::media::Mask;

/// Centreline Dice and the two shares it is made of, each 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ClDice {
    /// The share of the mask's skeleton that lies on the reference; falls with invented vessels. 1 when the mask is
    /// empty.
    pub topology_precision: f64,
    /// The share of the reference's skeleton that lies on the mask; falls with missed vessels. 1 when the reference is
    /// empty.
    pub topology_sensitivity: f64,
    /// The harmonic mean of both. 1 when both masks are empty, 0 when one is, 0 when both shares are 0.
    pub cl_dice: f64,
}

impl ClDice {
    /// Compares `mask` with `reference`; any value but 0 is vessel. Skeletons are those of [`skeletonize`].
    ///
    /// # Errors
    /// [`Error::Request`](crate::Error::Request) when the sizes differ.
    pub fn of(mask: &Mask, reference: &Mask) -> Result<ClDice> {
        same_size(mask, reference)?;
        let topology_precision = share_on(&skeletonize(mask), reference);
        let topology_sensitivity = share_on(&skeletonize(reference), mask);
        let cl_dice = harmonic_mean(topology_precision, topology_sensitivity);
        Ok(ClDice { topology_precision, topology_sensitivity, cl_dice })
    }
}

/// The share of `skeleton` that lies on `mask`.
fn share_on(skeleton: &Mask, mask: &Mask) -> f64 {
    let on = skeleton.pixels.iter().zip(&mask.pixels).filter(|(s, m)| **s != 0 && **m != 0).count();
    share(on as u64, skeleton.vessel_pixels() as u64)
}

fn harmonic_mean(a: f64, b: f64) -> f64 {
    if a + b == 0.0 { 0.0 } else { 2.0 * a * b / (a + b) }
}

#[cfg(test)]
mod tests {
    use super::super::drawing::{mask, moved, pair};
    use super::*;
    use proptest::prelude::*;

    fn of(drawing: &[&str], reference: &[&str]) -> ClDice {
        ClDice::of(&mask(drawing), &mask(reference)).unwrap()
    }

    /// The bar's skeleton has six pixels, five in its middle row, of which three lie on the reference; the reference is
    /// its own skeleton, and all three of its pixels lie on the bar.
    #[test]
    fn a_bar_against_a_shorter_line_is_counted_by_hand() {
        let found = of(&["#######", "#######", "#######"], &[".......", ".###...", "......."]);
        assert_eq!((found.topology_precision, found.topology_sensitivity), (3.0 / 6.0, 1.0));
        assert_eq!(found.cl_dice, 2.0 * 0.5 / 1.5);
    }

    #[test]
    fn empty_against_empty_is_perfect_and_everything_else_that_is_empty_is_0() {
        let values = |c: ClDice| (c.topology_precision, c.topology_sensitivity, c.cl_dice);
        assert_eq!(values(of(&["..."], &["..."])), (1.0, 1.0, 1.0));
        assert_eq!(values(of(&["..."], &["##."])), (1.0, 0.0, 0.0));
        assert_eq!(values(of(&["##."], &["..."])), (0.0, 1.0, 0.0));
        assert_eq!(values(of(&["#.."], &["..#"])), (0.0, 0.0, 0.0));
    }

    #[test]
    fn masks_of_different_sizes_cannot_be_compared() {
        let error = ClDice::of(&mask(&["..."]), &mask(&["...."])).unwrap_err();
        assert_eq!(error.to_string(), "a mask of 3x1 cannot be compared with a reference of 4x1");
    }

    proptest! {
        #[test]
        fn swapping_the_masks_swaps_the_shares_and_moving_both_changes_nothing(
            (a, b) in pair(), left in 0usize..4, top in 0usize..4,
        ) {
            let (there, back) = (ClDice::of(&a, &b).unwrap(), ClDice::of(&b, &a).unwrap());
            prop_assert_eq!(there.topology_precision, back.topology_sensitivity);
            prop_assert_eq!(there.cl_dice, back.cl_dice);
            prop_assert!((0.0..=1.0).contains(&there.cl_dice));
            prop_assert_eq!(ClDice::of(&moved(&a, left, top), &moved(&b, left, top)).unwrap(), there);
            prop_assert_eq!(ClDice::of(&a, &a).unwrap().cl_dice, 1.0);
        }
    }
}
