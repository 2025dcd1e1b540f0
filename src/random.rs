//! Random numbers from a seed.

/// SplitMix64 (Steele, Lea, Flood 2014): small, seedable, the same everywhere.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// The sequence of `seed`.
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// 64 random bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in (0, 1).
    pub(crate) fn uniform(&mut self) -> f64 {
        ((self.bits() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Normal with mean 0 and standard deviation 1 (Box-Muller).
    pub(crate) fn normal(&mut self) -> f64 {
        let (radius, angle) = ((-2.0 * self.uniform().ln()).sqrt(), std::f64::consts::TAU * self.uniform());
        radius * angle.cos()
    }

    /// A sequence of its own for each path of numbers, such as a seed, a frame and a row.
    pub(crate) fn of(path: &[u64]) -> Random {
        let mut random = Random(0x636f_726f_6e65_7400);
        for &number in path {
            random = Random(random.bits() ^ number);
            random.bits();
        }
        Random(random.bits())
    }

    /// Uniform in `from..to`.
    pub(crate) fn between(&mut self, from: f64, to: f64) -> f64 {
        from + (to - from) * self.uniform()
    }

    /// Uniform in `0..count`; 0 when `count` is.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        ((u128::from(self.bits()) * count as u128) >> 64) as usize
    }

    /// Poisson with this mean: by inversion where it is small, the rounded normal of the same variance where it is not.
    pub(crate) fn poisson(&mut self, mean: f64) -> f64 {
        if mean > 30.0 {
            return (mean + mean.sqrt() * self.normal()).round().max(0.0);
        }
        let (mut count, mut product, least) = (0.0, self.uniform(), (-mean).exp());
        while product > least {
            count += 1.0;
            product *= self.uniform();
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poisson_has_its_mean_and_variance() {
        for mean in [0.0, 0.3, 4.0, 29.0, 31.0, 500.0] {
            let mut random = Random::new(9);
            let draws: Vec<f64> = (0..20_000).map(|_| random.poisson(mean)).collect();
            let average = draws.iter().sum::<f64>() / 20_000.0;
            let variance = draws.iter().map(|d| (d - average).powi(2)).sum::<f64>() / 20_000.0;
            let spread = 5.0 * (mean / 20_000.0).sqrt();
            assert!((average - mean).abs() <= spread, "mean {average} for {mean}");
            assert!((variance - mean).abs() <= 0.06 * mean, "variance {variance} for {mean}");
        }
    }

    #[test]
    fn whole_numbers_below_another_come_equally_often() {
        let mut random = Random::new(4);
        let mut times = [0; 5];
        (0..50_000).for_each(|_| times[random.below(5)] += 1);
        assert!(times.iter().all(|&t| (9_600..10_400).contains(&t)), "{times:?}");
        assert_eq!((random.below(1), random.below(0)), (0, 0));
    }

    #[test]
    fn paths_of_numbers_have_sequences_of_their_own() {
        let firsts: Vec<u64> =
            [&[1, 2, 3][..], &[1, 2, 4], &[2, 1, 3], &[1, 2]].iter().map(|path| Random::of(path).bits()).collect();
        for (i, a) in firsts.iter().enumerate() {
            assert!(firsts[i + 1..].iter().all(|b| a != b));
        }
        assert_eq!(Random::of(&[1, 2, 3]).bits(), firsts[0]);
    }
}
