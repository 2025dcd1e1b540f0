//! How sure a mean is: bootstrap intervals that treat a clip as one observation.
//!
//! The frames of a clip show the same vessels and are nothing like independent, so whole clips are drawn, with
//! replacement, and the percentiles of the statistic over many such draws are the interval's ends (Efron 1979; the
//! cluster bootstrap of Davison and Hinkley 1997, section 3.8).

use super::percentile::percentile;
use crate::error::{Error, Result};
use crate::random::Random;

/// A percentile bootstrap over clips. By default 2,000 draws and a confidence of 95 %.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Bootstrap {
    resamples: usize,
    confidence: f64,
    seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Bootstrap {
        Bootstrap { resamples: 2_000, confidence: 0.95, seed: 0 }
    }
}

/// An estimate and the interval in which the true value is likely to lie.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Interval {
    /// The mean, or whatever the statistic is, over the clips as they are.
    pub estimate: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Bootstrap {
    /// Draws `resamples` times from `seed`, for intervals of `confidence`, such as 0.95.
    ///
    /// # Errors
    /// [`Error::Request`] without resamples, or when the confidence is not between 0 and 1.
    pub fn new(resamples: usize, confidence: f64, seed: u64) -> Result<Bootstrap> {
        if resamples == 0 {
            return Err(Error::Request("a bootstrap needs at least one resample".into()));
        }
        if !(confidence > 0.0 && confidence < 1.0) {
            return Err(Error::Request(format!("a confidence lies between 0 and 1, not at {confidence}")));
        }
        Ok(Bootstrap { resamples, confidence, seed })
    }

    /// The mean over all images and its interval, from the values of each clip's images. Every image counts the same,
    /// so a long clip weighs more than a short one.
    ///
    /// Clips without values are left out; `None` when fewer than two are left, since one clip says nothing about how
    /// clips differ. Values must be finite.
    pub fn mean<V: AsRef<[f64]>>(&self, clips: &[V]) -> Option<Interval> {
        let filled = clips.iter().map(AsRef::as_ref).filter(|values| !values.is_empty());
        let clips: Vec<(f64, usize)> = filled.map(|values| (values.iter().sum(), values.len())).collect();
        self.interval(&clips, |sample| {
            let sum: f64 = sample.iter().map(|clip| clip.0).sum();
            sum / sample.iter().map(|clip| clip.1).sum::<usize>() as f64
        })
    }

    /// Any `statistic` of the clips and its interval, such as the Dice coefficient of pooled counts; `None` with fewer
    /// than two clips. The statistic must be finite for every choice of clips.
    ///
    /// ```
    /// use coronet::metrics::{Bootstrap, Counts};
    ///
    /// let clips = [10, 20, 30].map(|found| Counts { true_positive: found, false_negative: 5, ..Counts::default() });
    /// let pooled = |sample: &[&Counts]| sample.iter().copied().copied().sum::<Counts>().dice();
    /// let dice = Bootstrap::default().interval(&clips, pooled).unwrap();
    /// assert_eq!(dice.estimate, 120.0 / 135.0);
    /// assert!(dice.low < dice.estimate && dice.estimate < dice.high);
    /// ```
    pub fn interval<T>(&self, clips: &[T], statistic: impl Fn(&[&T]) -> f64) -> Option<Interval> {
        if clips.len() < 2 {
            return None;
        }
        let mut sample: Vec<&T> = clips.iter().collect();
        let estimate = statistic(&sample);
        let mut random = Random::new(self.seed);
        let mut drawn: Vec<f64> = (0..self.resamples)
            .map(|_| {
                sample.iter_mut().for_each(|clip| *clip = &clips[random.below(clips.len())]);
                statistic(&sample)
            })
            .collect();
        let tail = (1.0 - self.confidence) / 2.0;
        let low = percentile(&mut drawn, tail)?;
        let high = percentile(&mut drawn, 1.0 - tail)?;
        Some(Interval { estimate, low, high })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_abs_diff_eq;
    use proptest::prelude::*;

    #[test]
    fn one_clip_has_no_interval_however_many_images_it_has() {
        let bootstrap = Bootstrap::default();
        assert_eq!(bootstrap.mean(&[vec![0.1, 0.9, 0.5]]), None);
        assert_eq!(bootstrap.mean(&[vec![0.1, 0.9], vec![]]), None);
        assert_eq!(bootstrap.mean::<Vec<f64>>(&[]), None);
    }

    /// Both draws are the same clip in half of all samples, so both ends are clips.
    #[test]
    fn the_interval_of_two_clips_reaches_from_one_to_the_other() {
        let found = Bootstrap::default().mean(&[[0.5, 0.7], [0.8, 1.0]]).unwrap();
        assert_abs_diff_eq!(found.estimate, 0.75, epsilon = 1e-12);
        assert_abs_diff_eq!(found.low, 0.6, epsilon = 1e-12);
        assert_abs_diff_eq!(found.high, 0.9, epsilon = 1e-12);
    }

    #[test]
    fn every_image_counts_the_same() {
        let found = Bootstrap::default().mean(&[vec![1.0; 9], vec![0.0]]).unwrap();
        assert_abs_diff_eq!(found.estimate, 0.9, epsilon = 1e-12);
    }

    /// The standard error of a mean of 400 clips is s / 20, and 95 % of a normal distribution lie within 1.96 of them.
    /// Repeating each value within its clip adds no information, so it must not narrow the interval.
    #[test]
    fn of_many_clips_it_is_the_interval_of_the_normal_distribution() {
        let mut random = Random::new(3);
        let clips: Vec<Vec<f64>> = (0..400).map(|_| vec![random.normal(); 10]).collect();
        let found = Bootstrap::default().mean(&clips).unwrap();
        let variance = clips.iter().map(|c| (c[0] - found.estimate).powi(2)).sum::<f64>() / 400.0;
        let half = 1.96 * variance.sqrt() / 20.0;
        assert_abs_diff_eq!(found.high - found.estimate, half, epsilon = 0.08 * half);
        assert_abs_diff_eq!(found.estimate - found.low, half, epsilon = 0.08 * half);
    }

    #[test]
    fn a_seed_gives_the_same_interval_again_and_another_seed_a_similar_one() {
        let clips: Vec<Vec<f64>> = (0..30).map(|i| vec![f64::from(i % 7) / 7.0; 1 + i as usize % 4]).collect();
        let of = |seed| Bootstrap::new(2_000, 0.95, seed).unwrap().mean(&clips).unwrap();
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        assert_abs_diff_eq!(of(1).low, of(2).low, epsilon = 0.02);
        assert_abs_diff_eq!(of(1).high, of(2).high, epsilon = 0.02);
    }

    #[test]
    fn no_resamples_and_a_confidence_outside_0_to_1_are_refused() {
        assert_eq!(Bootstrap::new(0, 0.95, 0).unwrap_err().to_string(), "a bootstrap needs at least one resample");
        for confidence in [0.0, 1.0, -0.5, 95.0, f64::NAN] {
            assert!(Bootstrap::new(10, confidence, 0).is_err(), "{confidence}");
        }
    }

    proptest! {
        #[test]
        fn it_contains_the_mean_stays_within_the_values_and_widens_with_confidence(
            clips in proptest::collection::vec(proptest::collection::vec(0.0..1.0f64, 3), 2..12),
        ) {
            let of = |confidence| Bootstrap::new(400, confidence, 0).unwrap().mean(&clips).unwrap();
            let (wide, narrow) = (of(0.95), of(0.5));
            prop_assert!(wide.low <= wide.estimate + 1e-12 && wide.estimate <= wide.high + 1e-12);
            prop_assert!(wide.low <= narrow.low && narrow.high <= wide.high);
            let all = clips.iter().flatten().copied();
            prop_assert!(all.clone().fold(f64::INFINITY, f64::min) <= wide.low + 1e-12);
            prop_assert!(wide.high <= all.fold(f64::NEG_INFINITY, f64::max) + 1e-12);
        }

        #[test]
        fn clips_that_agree_have_an_interval_of_no_width(value in 0.0..1.0f64, clips in 2usize..9) {
            let found = Bootstrap::default().mean(&vec![[value]; clips]).unwrap();
            assert_abs_diff_eq!(found.low, value, epsilon = 1e-12);
            assert_abs_diff_eq!(found.high, value, epsilon = 1e-12);
        }
    }
}
