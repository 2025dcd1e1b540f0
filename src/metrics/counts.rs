//! Pixel by pixel: everything is derived from four [`Counts`]. Over several images a score is either the mean of the
//! images' scores or the score of the summed counts (pooled); both are given, since a few large vessels dominate the
//! second.

use super::same_size;
use crate::error::Result;
use crate::media::Mask;

/// Pixels by what they are and what they were called. Vessel is positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// Vessel, called vessel.
    pub true_positive: u64,
    /// Background, called vessel.
    pub false_positive: u64,
    /// Background, called background.
    pub true_negative: u64,
    /// Vessel, called background.
    pub false_negative: u64,
}

impl Counts {
    /// Compares `mask` with `reference`; any value but 0 is vessel.
    ///
    /// # Errors
    /// [`Error::Request`](crate::Error::Request) when the sizes differ.
    pub fn of(mask: &Mask, reference: &Mask) -> Result<Counts> {
        same_size(mask, reference)?;
        let mut counts = Counts::default();
        for (&called, &is) in mask.pixels.iter().zip(&reference.pixels) {
            match (called != 0, is != 0) {
                (true, true) => counts.true_positive += 1,
                (true, false) => counts.false_positive += 1,
                (false, false) => counts.true_negative += 1,
                (false, true) => counts.false_negative += 1,
            }
        }
        Ok(counts)
    }

    /// All pixels.
    pub fn total(&self) -> u64 {
        self.true_positive + self.false_positive + self.true_negative + self.false_negative
    }

    /// Intersection over union, TP / (TP + FP + FN). 1 when both masks are empty.
    pub fn iou(&self) -> f64 {
        share(self.true_positive, self.true_positive + self.false_positive + self.false_negative)
    }

    /// Dice coefficient, 2 TP / (2 TP + FP + FN). 1 when both masks are empty.
    pub fn dice(&self) -> f64 {
        share(2 * self.true_positive, 2 * self.true_positive + self.false_positive + self.false_negative)
    }

    /// The share of the vessel that was found, TP / (TP + FN). 1 when the reference holds no vessel.
    pub fn sensitivity(&self) -> f64 {
        share(self.true_positive, self.true_positive + self.false_negative)
    }

    /// The share of what was called vessel that is vessel, TP / (TP + FP). 1 when nothing was called vessel.
    pub fn precision(&self) -> f64 {
        share(self.true_positive, self.true_positive + self.false_positive)
    }

    /// The share of the background left alone, TN / (TN + FP). 1 when the reference is all vessel.
    pub fn specificity(&self) -> f64 {
        share(self.true_negative, self.true_negative + self.false_positive)
    }

    /// The share of pixels called rightly, (TP + TN) / all. 1 when there are no pixels.
    pub fn accuracy(&self) -> f64 {
        share(self.true_positive + self.true_negative, self.total())
    }

    /// The five scores of [`Scores`].
    pub fn scores(&self) -> Scores {
        Scores {
            iou: self.iou(),
            dice: self.dice(),
            sensitivity: self.sensitivity(),
            specificity: self.specificity(),
            accuracy: self.accuracy(),
        }
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.true_positive += other.true_positive;
        self.false_positive += other.false_positive;
        self.true_negative += other.true_negative;
        self.false_negative += other.false_negative;
    }
}

impl std::iter::Sum for Counts {
    fn sum<I: Iterator<Item = Counts>>(counts: I) -> Counts {
        counts.fold(Counts::default(), |mut sum, one| {
            sum += one;
            sum
        })
    }
}

/// `part / whole`, and 1 for 0/0: nothing was asked for and nothing was missed.
pub(super) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 1.0 } else { part as f64 / whole as f64 }
}

/// The five scores, each 0 to 1; see the functions of [`Counts`] for their definitions.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Scores {
    /// Intersection over union.
    pub iou: f64,
    /// Dice coefficient.
    pub dice: f64,
    /// Share of the vessel that was found.
    pub sensitivity: f64,
    /// Share of the background left alone.
    pub specificity: f64,
    /// Share of pixels called rightly.
    pub accuracy: f64,
}

/// The scores of several images.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Agreement {
    /// How many images.
    pub images: usize,
    /// The mean of the images' scores: every image counts the same.
    pub mean: Scores,
    /// The scores of the summed counts: every pixel counts the same.
    pub pooled: Scores,
    /// The summed counts.
    pub counts: Counts,
}

impl Agreement {
    /// The scores over `images`, one [`Counts`] each; `None` without images, for which no mean exists.
    pub fn over(images: &[Counts]) -> Option<Agreement> {
        if images.is_empty() {
            return None;
        }
        let mean = |score: fn(&Counts) -> f64| images.iter().map(score).sum::<f64>() / images.len() as f64;
        let counts: Counts = images.iter().copied().sum();
        Some(Agreement {
            images: images.len(),
            mean: Scores {
                iou: mean(Counts::iou),
                dice: mean(Counts::dice),
                sensitivity: mean(Counts::sensitivity),
                specificity: mean(Counts::specificity),
                accuracy: mean(Counts::accuracy),
            },
            pooled: counts.scores(),
            counts,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::Size;
    use approx::assert_abs_diff_eq;
    use proptest::prelude::*;

    fn row(pixels: &[u8]) -> Mask {
        Mask { size: Size { width: pixels.len(), height: 1 }, pixels: pixels.to_vec() }
    }

    fn counts(tp: u64, fp: u64, tn: u64, fn_: u64) -> Counts {
        Counts { true_positive: tp, false_positive: fp, true_negative: tn, false_negative: fn_ }
    }

    /// Two hits, one false alarm, three rightly empty, one miss.
    #[test]
    fn scores_of_a_hand_counted_row() {
        let mask = row(&[255, 255, 255, 0, 0, 0, 0]);
        let reference = row(&[255, 255, 0, 255, 0, 0, 0]);
        let c = Counts::of(&mask, &reference).unwrap();
        assert_eq!(c, counts(2, 1, 3, 1));
        assert_eq!(c.iou(), 2.0 / 4.0);
        assert_eq!(c.dice(), 4.0 / 6.0);
        assert_eq!(c.sensitivity(), 2.0 / 3.0);
        assert_eq!(c.precision(), 2.0 / 3.0);
        assert_eq!(c.specificity(), 3.0 / 4.0);
        assert_eq!(c.accuracy(), 5.0 / 7.0);
    }

    #[test]
    fn empty_against_empty_is_perfect_and_empty_against_vessel_is_not() {
        let (empty, full) = (row(&[0, 0]), row(&[255, 255]));
        let perfect = Scores { iou: 1.0, dice: 1.0, sensitivity: 1.0, specificity: 1.0, accuracy: 1.0 };
        assert_eq!(Counts::of(&empty, &empty).unwrap().scores(), perfect);
        assert_eq!(Counts::of(&full, &full).unwrap().scores(), perfect);
        assert_eq!(Counts::of(&empty, &full).unwrap().precision(), 1.0);
        let missed = Counts::of(&empty, &full).unwrap().scores();
        assert_eq!(missed, Scores { iou: 0.0, dice: 0.0, sensitivity: 0.0, specificity: 1.0, accuracy: 0.0 });
        let invented = Counts::of(&full, &empty).unwrap().scores();
        assert_eq!(invented, Scores { iou: 0.0, dice: 0.0, sensitivity: 1.0, specificity: 0.0, accuracy: 0.0 });
    }

    /// Dice 1 on a tiny image and 0.5 on a large one: the mean is 0.75, the pooled score stays near the large one.
    #[test]
    fn the_mean_weighs_images_and_the_pool_weighs_pixels() {
        let agreement = Agreement::over(&[counts(1, 0, 9, 0), counts(10, 10, 70, 10)]).unwrap();
        assert_eq!(agreement.images, 2);
        assert_eq!(agreement.mean.dice, 0.75);
        assert_eq!(agreement.pooled.dice, 22.0 / 42.0);
        assert_eq!(agreement.mean.iou, (1.0 + 10.0 / 30.0) / 2.0);
        assert_eq!(agreement.pooled.iou, 11.0 / 31.0);
        assert_eq!(agreement.counts, counts(11, 10, 79, 10));
        assert_eq!(Agreement::over(&[]), None);
    }

    #[test]
    fn masks_of_different_sizes_cannot_be_compared() {
        let error = Counts::of(&row(&[0; 3]), &row(&[0; 4])).unwrap_err();
        assert_eq!(error.to_string(), "a mask of 3x1 cannot be compared with a reference of 4x1");
    }

    proptest! {
        #[test]
        fn scores_lie_between_0_and_1_and_dice_follows_from_iou(
            tp in 0u64..1 << 40, fp in 0u64..1 << 40, tn in 0u64..1 << 40, fn_ in 0u64..1 << 40,
        ) {
            let c = counts(tp, fp, tn, fn_);
            assert_abs_diff_eq!(c.dice(), 2.0 * c.iou() / (1.0 + c.iou()), epsilon = 1e-12);
            let s = c.scores();
            for score in [s.iou, s.dice, s.sensitivity, s.specificity, s.accuracy] {
                prop_assert!((0.0..=1.0).contains(&score));
            }
        }

        #[test]
        fn swapping_mask_and_reference_keeps_iou_dice_and_accuracy(
            pixels in proptest::collection::vec((any::<bool>(), any::<bool>()), 1..64)
        ) {
            let plane = |pick: fn(&(bool, bool)) -> bool| {
                row(&pixels.iter().map(|p| if pick(p) { 255 } else { 0 }).collect::<Vec<_>>())
            };
            let (a, b) = (plane(|p| p.0), plane(|p| p.1));
            let (there, back) = (Counts::of(&a, &b).unwrap(), Counts::of(&b, &a).unwrap());
            prop_assert_eq!(there.total(), pixels.len() as u64);
            prop_assert_eq!(there.iou(), back.iou());
            prop_assert_eq!(there.dice(), back.dice());
            prop_assert_eq!(there.accuracy(), back.accuracy());
            prop_assert_eq!(there.false_positive, back.false_negative);
        }
    }
}
