//! How long the network took, frame by frame, as the figures people compare.

use std::time::Duration;

/// Milliseconds of one step over many frames. Percentiles are measured values (nearest rank), not interpolated.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Latency {
    /// The fastest.
    pub min: f64,
    /// The arithmetic mean.
    pub mean: f64,
    /// Half of the frames took no longer.
    pub median: f64,
    /// 90 % of the frames took no longer.
    pub p90: f64,
    /// 95 % of the frames took no longer.
    pub p95: f64,
    /// 99 % of the frames took no longer.
    pub p99: f64,
    /// The slowest.
    pub max: f64,
}

impl Latency {
    /// The figures of `samples`; `None` without any.
    pub fn of(samples: &[Duration]) -> Option<Latency> {
        let mut sorted: Vec<f64> = samples.iter().map(|sample| sample.as_secs_f64() * 1e3).collect();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        // Nearest rank: the smallest value with at least that share of the samples at or below it.
        let percentile = |share: usize| sorted[(sorted.len() * share).div_ceil(100).max(1) - 1];
        Some(Latency {
            min,
            mean: sorted.iter().sum::<f64>() / sorted.len() as f64,
            median: percentile(50),
            p90: percentile(90),
            p95: percentile(95),
            p99: percentile(99),
            max,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_1_to_200_milliseconds_are_nearest_ranks() {
        let samples: Vec<_> = (1..=200).rev().map(Duration::from_millis).collect();
        let latency = Latency::of(&samples).unwrap();
        let expected = Latency { min: 1.0, mean: 100.5, median: 100.0, p90: 180.0, p95: 190.0, p99: 198.0, max: 200.0 };
        assert_eq!(latency, expected);
    }

    #[test]
    fn one_sample_is_every_figure_and_none_gives_none() {
        let one = Latency::of(&[Duration::from_millis(8)]).unwrap();
        assert_eq!((one.min, one.mean, one.median, one.p99, one.max), (8.0, 8.0, 8.0, 8.0, 8.0));
        assert_eq!(Latency::of(&[]), None);
    }
}
