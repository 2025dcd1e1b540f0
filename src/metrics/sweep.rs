//! All thresholds at once: how precision and recall, Dice and IoU of a whole data set change with the threshold.
//!
//! Probabilities are counted in bins, vessel and background apart, and then forgotten, so a data set of any size takes
//! the same few kilobytes. The bins are a thousandth wide; within a hundredth of 0 and 1, where a network that is sure
//! of itself puts most of its pixels, there are finer ones too, a hundred to a power of ten down to 10⁻⁷ from the end.
//! Without these, average precision would come out as much as 0.05 too low; with them it is right to a thousandth.

use super::Counts;
use crate::error::{Error, Result};
use crate::media::{Mask, ProbabilityMap};

/// Bins of equal width between 0 and 1. Thresholds are multiples of 1/100, so each begins a bin.
const BINS: u16 = 1_000;
/// Finer bins for each power of ten towards 0 and towards 1.
const PER_DECADE: u16 = 100;
/// Between which powers of 1/10 from the end.
const DECADES: std::ops::Range<u16> = 2..7;

/// Pixels of any number of images by their probability.
#[derive(Debug, Clone, PartialEq)]
pub struct Sweep {
    /// The lowest probability of each bin, rising from 0. The last bin begins at 1, which is all that it holds.
    edges: Vec<f32>,
    /// For each bin, the pixels that are vessel.
    vessel: Vec<u64>,
    /// For each bin, the pixels that are background.
    background: Vec<u64>,
}

/// The scores at one threshold, of the counts of all images together: every pixel counts the same.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct OperatingPoint {
    /// From this probability on a pixel is called vessel.
    pub threshold: f32,
    /// Intersection over union; see [`Counts::iou`].
    pub iou: f64,
    /// Dice coefficient; see [`Counts::dice`].
    pub dice: f64,
    /// Share of what was called vessel that is vessel; see [`Counts::precision`].
    pub precision: f64,
    /// Share of the vessel that was found, also called recall; see [`Counts::sensitivity`].
    pub sensitivity: f64,
}

/// A point of a precision-recall curve.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct PrecisionRecall {
    /// From this probability on a pixel is called vessel.
    pub threshold: f32,
    /// Share of what was called vessel that is vessel.
    pub precision: f64,
    /// Share of the vessel that was found.
    pub recall: f64,
}

impl Default for Sweep {
    fn default() -> Sweep {
        Sweep::new()
    }
}

impl Sweep {
    /// Without any pixel.
    pub fn new() -> Sweep {
        let mut edges: Vec<f32> = (0..=BINS).map(|i| f32::from(i) / f32::from(BINS)).collect();
        for i in PER_DECADE * DECADES.start..=PER_DECADE * DECADES.end {
            let from_end = 10f64.powf(-f64::from(i) / f64::from(PER_DECADE));
            edges.extend([from_end as f32, (1.0 - from_end) as f32]);
        }
        edges.sort_by(f32::total_cmp);
        edges.dedup();
        Sweep { vessel: vec![0; edges.len()], background: vec![0; edges.len()], edges }
    }

    /// Counts the pixels of an image. Any value of `reference` but 0 is vessel.
    ///
    /// # Errors
    /// [`Error::Request`] when the sizes differ; [`Error::Network`] when a value is not between 0 and 1, such as NaN.
    /// Nothing is counted then.
    pub fn add(&mut self, probability: &ProbabilityMap, reference: &Mask) -> Result<()> {
        if probability.size != reference.size || probability.values.len() != reference.pixels.len() {
            return Err(Error::Request(format!(
                "probabilities of {} cannot be compared with a reference of {}",
                probability.size, reference.size
            )));
        }
        if let Some(at) = probability.values.iter().position(|p| !(0.0..=1.0).contains(p)) {
            return Err(Error::Network(format!(
                "a probability lies between 0 and 1, but in column {}, row {} it is {}",
                at % probability.size.width.max(1),
                at / probability.size.width.max(1),
                probability.values[at]
            )));
        }
        for (&p, &is) in probability.values.iter().zip(&reference.pixels) {
            let bin = self.bins_up_to(p).saturating_sub(1);
            let counts = if is != 0 { &mut self.vessel } else { &mut self.background };
            counts[bin] += 1;
        }
        Ok(())
    }

    /// How many bins begin at `probability` or below.
    fn bins_up_to(&self, probability: f32) -> usize {
        self.edges.partition_point(|&edge| edge <= probability)
    }

    /// The counts when pixels in bin `first` and above are called vessel.
    fn counts(&self, first: usize) -> Counts {
        let (missed, called) = self.vessel.split_at(first);
        let (spared, invented) = self.background.split_at(first);
        Counts {
            true_positive: called.iter().sum(),
            false_positive: invented.iter().sum(),
            true_negative: spared.iter().sum(),
            false_negative: missed.iter().sum(),
        }
    }

    /// The scores at the 99 thresholds 0.01, 0.02, ... 0.99: exactly those of the masks that each threshold gives.
    pub fn operating_points(&self) -> Vec<OperatingPoint> {
        let at = |percent: u8| {
            let threshold = f32::from(percent) / 100.0;
            let counts = self.counts(self.edges.partition_point(|&edge| edge < threshold));
            OperatingPoint {
                threshold,
                iou: counts.iou(),
                dice: counts.dice(),
                precision: counts.precision(),
                sensitivity: counts.sensitivity(),
            }
        };
        (1..=99).map(at).collect()
    }

    /// The best of [`operating_points`](Sweep::operating_points) by Dice; of equals the one nearest to 0.5, of two such
    /// the lower. `None` without pixels.
    pub fn best(&self) -> Option<OperatingPoint> {
        if self.counts(0).total() == 0 {
            return None;
        }
        // In whole percent: as float32 0.52 is nearer to 0.5 than 0.48 is.
        let from_middle = |point: &OperatingPoint| ((100.0 * point.threshold).round() as i32 - 50).abs();
        self.operating_points().into_iter().reduce(|best, point| {
            let better = point.dice > best.dice || point.dice == best.dice && from_middle(&point) < from_middle(&best);
            if better { point } else { best }
        })
    }

    /// The precision-recall curve, from the highest threshold to the lowest: a point for each bin that holds pixels.
    /// Empty when no pixel is vessel, since recall is not defined then.
    pub fn curve(&self) -> Vec<PrecisionRecall> {
        let all: u64 = self.vessel.iter().sum();
        let mut points = Vec::new();
        let (mut found, mut called) = (0, 0);
        for ((&threshold, &vessel), &background) in self.edges.iter().zip(&self.vessel).zip(&self.background).rev() {
            found += vessel;
            called += vessel + background;
            if all > 0 && vessel + background > 0 {
                let (precision, recall) = (found as f64 / called as f64, found as f64 / all as f64);
                points.push(PrecisionRecall { threshold, precision, recall });
            }
        }
        points
    }

    /// The area under the precision-recall curve as a sum of steps, Σ (Rₙ - Rₙ₋₁) Pₙ: what scikit-learn's
    /// `average_precision_score` gives for probabilities rounded down to where their bin begins. `None` when no pixel
    /// is vessel.
    pub fn average_precision(&self) -> Option<f64> {
        let curve = self.curve();
        let mut before = 0.0;
        let steps = curve.iter().map(|point| {
            let step = (point.recall - before) * point.precision;
            before = point.recall;
            step
        });
        let area = steps.sum();
        (!curve.is_empty()).then_some(area)
    }
}

impl std::ops::AddAssign<&Sweep> for Sweep {
    fn add_assign(&mut self, other: &Sweep) {
        for (into, from) in [(&mut self.vessel, &other.vessel), (&mut self.background, &other.background)] {
            into.iter_mut().zip(from).for_each(|(sum, &more)| *sum += more);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::Size;
    use crate::random::Random;
    use approx::assert_abs_diff_eq;
    use proptest::prelude::*;

    fn image(pixels: &[(f32, bool)]) -> (ProbabilityMap, Mask) {
        let size = Size { width: pixels.len(), height: 1 };
        let values = pixels.iter().map(|p| p.0).collect();
        let mask = Mask { size, pixels: pixels.iter().map(|p| if p.1 { 255 } else { 0 }).collect() };
        (ProbabilityMap { size, values }, mask)
    }

    fn swept(pixels: &[(f32, bool)]) -> Sweep {
        let mut sweep = Sweep::new();
        let (probability, reference) = image(pixels);
        sweep.add(&probability, &reference).unwrap();
        sweep
    }

    /// Recall goes 1/2, 1/2, 1 with precisions 1, 1/2, 2/3: 1/2 · 1 + 1/2 · 2/3.
    #[test]
    fn four_pixels_are_counted_by_hand() {
        let sweep = swept(&[(0.8, true), (0.4, false), (0.35, true), (0.1, false)]);
        assert_abs_diff_eq!(sweep.average_precision().unwrap(), 5.0 / 6.0, epsilon = 1e-15);
        let curve: Vec<_> = sweep.curve().iter().map(|p| (p.threshold, p.precision, p.recall)).collect();
        let expected = [(0.8, 1.0, 0.5), (0.4, 0.5, 0.5), (0.35, 2.0 / 3.0, 1.0), (0.1, 0.5, 1.0)];
        assert_eq!(curve, expected);

        let points = sweep.operating_points();
        assert_eq!(points.len(), 99);
        assert_eq!((points[0].threshold, points[0].dice), (0.01, 4.0 / 6.0));
        assert_eq!((points[34].threshold, points[34].dice, points[34].iou), (0.35, 0.8, 2.0 / 3.0));
        assert_eq!((points[35].threshold, points[35].dice), (0.36, 0.5));
        assert_eq!((points[98].precision, points[98].sensitivity, points[98].dice), (1.0, 0.0, 0.0));
        assert_eq!(sweep.best(), Some(points[34]));
    }

    #[test]
    fn of_equal_thresholds_the_one_nearest_to_a_half_is_the_best() {
        assert_eq!(swept(&[(0.9, true), (0.2, false)]).best().unwrap().threshold, 0.5);
        assert_eq!(swept(&[(0.4, true), (0.2, false)]).best().unwrap().threshold, 0.4);
        assert_eq!(swept(&[(1.0, true), (0.7, false)]).best().unwrap().threshold, 0.71);
    }

    /// Dice is 2/3 at 0.48, and from 0.52 on once more; between them it is 2/5, below 4/7.
    #[test]
    fn of_two_thresholds_as_near_to_a_half_the_lower_is_the_best() {
        let sweep = swept(&[(0.9, true), (0.48, true), (0.51, false), (0.51, false), (0.475, false)]);
        let points = sweep.operating_points();
        assert_eq!((points[47].dice, points[51].dice), (2.0 / 3.0, 2.0 / 3.0));
        assert_eq!(sweep.best().unwrap().threshold, 0.48);
    }

    #[test]
    fn without_vessel_there_is_no_curve_and_without_pixels_nothing_is_best() {
        let sweep = swept(&[(0.3, false), (0.9, false)]);
        assert_eq!(sweep.average_precision(), None);
        assert!(sweep.curve().is_empty());
        assert_eq!(sweep.best().map(|best| best.dice), Some(1.0));
        assert_eq!(Sweep::new().best(), None);
        assert_eq!(Sweep::default().average_precision(), None);
    }

    #[test]
    fn the_ends_of_the_range_belong_to_it_and_nothing_else_does() {
        let sweep = swept(&[(1.0, true), (0.0, false), (-0.0, false)]);
        assert_eq!(sweep.average_precision(), Some(1.0));
        assert_eq!(sweep.counts(sweep.edges.len() - 1).true_positive, 1);

        for (wrong, named) in [(f32::NAN, "NaN"), (1.5, "1.5"), (-0.25, "-0.25"), (f32::INFINITY, "inf")] {
            let mut sweep = Sweep::new();
            let (probability, reference) = image(&[(0.5, true), (wrong, true)]);
            let error = sweep.add(&probability, &reference).unwrap_err();
            let text = format!("a probability lies between 0 and 1, but in column 1, row 0 it is {named}");
            assert_eq!(error.to_string(), text);
            assert_eq!(sweep, Sweep::new());
        }
    }

    #[test]
    fn sizes_must_agree() {
        let (probability, _) = image(&[(0.5, true)]);
        let (_, reference) = image(&[(0.5, true), (0.5, true)]);
        let error = Sweep::new().add(&probability, &reference).unwrap_err();
        assert_eq!(error.to_string(), "probabilities of 1x1 cannot be compared with a reference of 2x1");
    }

    /// Average precision by sorting all pixels, without bins.
    fn exactly(pixels: &[(f32, bool)]) -> f64 {
        let mut sorted = pixels.to_vec();
        sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
        let all = sorted.iter().filter(|p| p.1).count() as f64;
        let (mut found, mut called, mut area) = (0.0, 0.0, 0.0);
        for group in sorted.chunk_by(|a, b| a.0 == b.0) {
            let vessel = group.iter().filter(|p| p.1).count() as f64;
            found += vessel;
            called += group.len() as f64;
            area += vessel / all * found / called;
        }
        area
    }

    /// The pixels of a network that is unsure, and of one that is so sure of itself that nearly all of its
    /// probabilities lie within a thousandth of 0 or 1.
    #[test]
    fn bins_change_average_precision_by_less_than_a_thousandth() {
        for (steepness, near_the_ends) in [(1.0, 0.0), (12.0, 0.5)] {
            let mut random = Random::new(11);
            let pixels: Vec<(f32, bool)> = (0..100_000)
                .map(|_| {
                    let is = random.uniform() < 0.1;
                    let logit = steepness * (random.normal() + if is { 1.0 } else { -1.0 });
                    ((1.0 / (1.0 + (-logit).exp())) as f32, is)
                })
                .collect();
            let ends = pixels.iter().filter(|p| !(0.001..0.999).contains(&p.0)).count() as f64;
            assert!(ends >= near_the_ends * 1e5, "{ends}");
            assert_abs_diff_eq!(swept(&pixels).average_precision().unwrap(), exactly(&pixels), epsilon = 1e-3);
        }
    }

    proptest! {
        /// Probabilities on, just below and just above the thresholds, and anywhere else.
        #[test]
        fn scores_are_those_of_the_masks_that_each_threshold_gives(
            pixels in proptest::collection::vec(
                (prop_oneof![0.0f32..=1.0, (1u8..=99).prop_map(|i| f32::from(i) / 100.0)], -1i32..=1, any::<bool>()),
                1..60,
            ),
        ) {
            let step = |p: f32, by: i32| match by {
                -1 => p.next_down().max(0.0),
                1 => p.next_up().min(1.0),
                _ => p,
            };
            let pixels: Vec<(f32, bool)> = pixels.into_iter().map(|(p, by, is)| (step(p, by), is)).collect();
            for point in swept(&pixels).operating_points() {
                let called = |p: &&(f32, bool)| p.0 >= point.threshold;
                let count = |is: bool| pixels.iter().filter(called).filter(|p| p.1 == is).count() as u64;
                let vessel = pixels.iter().filter(|p| p.1).count() as u64;
                let counts = Counts {
                    true_positive: count(true),
                    false_positive: count(false),
                    false_negative: vessel - count(true),
                    true_negative: 0,
                };
                prop_assert_eq!((point.dice, point.iou), (counts.dice(), counts.iou()));
                prop_assert_eq!((point.precision, point.sensitivity), (counts.precision(), counts.sensitivity()));
            }
        }

        #[test]
        fn images_may_be_added_in_parts_and_in_any_order(
            pixels in proptest::collection::vec((0.0f32..=1.0, any::<bool>()), 2..40), cut in 1usize..2,
        ) {
            let mut parts = swept(&pixels[cut..]);
            parts += &swept(&pixels[..cut]);
            prop_assert_eq!(&parts, &swept(&pixels));
            if let Some(area) = parts.average_precision() {
                prop_assert!((0.0..=1.0 + 1e-12).contains(&area));
            }
        }
    }
}
