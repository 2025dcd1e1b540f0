//! Time: heartbeats as an ECG would show them, contraction and breathing.

use crate::random::Random;
use std::f64::consts::PI;

/// Where heart and lungs are at one time.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Moment {
    /// Seconds since the contrast injection began.
    pub seconds: f64,
    /// Share of the heartbeat that has passed since its R wave, 0 to 1.
    pub cardiac_phase: f64,
    /// Contraction of the ventricles: 0 at the end of diastole, 1 at the end of systole.
    pub contraction: f64,
    /// How far the diaphragm has moved towards the feet, in mm.
    pub breath_mm: f64,
}

/// The rhythm of one patient.
#[derive(Debug, Clone)]
pub struct Rhythm {
    /// Times of R waves in seconds, rising, from before the first frame to after the last.
    r_waves: Vec<f64>,
    breath_depth_mm: f64,
    breath_period: f64,
    breath_start: f64,
}

impl Rhythm {
    /// A rhythm that covers `start..end` seconds; `breathing` is the diaphragm's way in mm.
    pub fn new(random: &mut Random, start: f64, end: f64, heart_rate: f64, breathing: f64) -> Rhythm {
        let interval = 60.0 / heart_rate;
        let mut time = start - interval * (1.0 + random.uniform());
        let mut r_waves = vec![time];
        while time <= end + interval {
            // Beat-to-beat variability of about 3 %.
            time += interval * (1.0 + 0.03 * random.normal()).clamp(0.85, 1.15);
            r_waves.push(time);
        }
        let breath_period = 3.6 + 1.2 * random.uniform();
        let breath_start = breath_period * random.uniform();
        Rhythm { r_waves, breath_depth_mm: breathing, breath_period, breath_start }
    }

    /// The R waves' times, in seconds since the injection began.
    pub fn r_waves(&self) -> &[f64] {
        &self.r_waves
    }

    /// Where everything is at `seconds`.
    pub fn at(&self, seconds: f64) -> Moment {
        let beat = self.r_waves.partition_point(|&r| r <= seconds).clamp(1, self.r_waves.len() - 1);
        let (from, to) = (self.r_waves[beat - 1], self.r_waves[beat]);
        let phase = ((seconds - from) / (to - from)).clamp(0.0, 1.0);
        // Long at the end of expiration, short at the end of inspiration.
        let breath = (PI * (seconds + self.breath_start) / self.breath_period).sin().powi(4);
        Moment {
            seconds,
            cardiac_phase: phase,
            contraction: contraction(phase * (to - from), to - from),
            breath_mm: self.breath_depth_mm * breath,
        }
    }
}

/// Contraction at `since` seconds after an R wave in a beat of `interval` seconds.
///
/// Ejection, fast filling, a long rest and the atrial kick: systole shortens with the root of the interval, diastole
/// takes what is left.
fn contraction(since: f64, interval: f64) -> f64 {
    let systole = 0.34 * interval.sqrt();
    let filled = systole + 0.45 * (interval - systole);
    let kick = interval - 0.2 * (interval - systole);
    /// What is left of the contraction before the atria add the rest.
    const BEFORE_KICK: f64 = 0.12;
    let ease = |x: f64| 0.5 - 0.5 * (PI * x.clamp(0.0, 1.0)).cos();
    let delay = 0.05 * interval; // the walls start after the R wave
    if since < systole {
        ease((since - delay) / (systole - delay))
    } else if since < kick {
        1.0 - (1.0 - BEFORE_KICK) * ease((since - systole) / (filled - systole))
    } else {
        BEFORE_KICK * (1.0 - ease((since - kick) / (interval - kick)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_abs_diff_eq;

    #[test]
    fn contraction_is_continuous_full_once_and_not_symmetric() {
        let interval = 0.8;
        let curve: Vec<f64> = (0..=800).map(|ms| contraction(f64::from(ms) / 1000.0, interval)).collect();
        assert!(curve.windows(2).all(|pair| (pair[1] - pair[0]).abs() < 0.02));
        assert_abs_diff_eq!(curve[0], 0.0);
        assert_abs_diff_eq!(curve[800], 0.0, epsilon = 1e-9);
        let peak = curve.iter().position(|&c| c == curve.iter().copied().fold(0.0, f64::max)).unwrap();
        assert_abs_diff_eq!(curve[peak], 1.0, epsilon = 1e-3);
        assert!((250..400).contains(&peak), "end of systole at {peak} ms");
        assert!(curve[600] < 0.2, "diastole rests");
    }

    #[test]
    fn phase_starts_anew_at_each_r_wave() {
        let rhythm = Rhythm::new(&mut Random::new(3), 0.0, 4.0, 70.0, 5.0);
        for &r in rhythm.r_waves().iter().filter(|r| (0.0..4.0).contains(*r)) {
            assert!(rhythm.at(r + 1e-6).cardiac_phase < 1e-3);
            assert!(rhythm.at(r - 1e-6).cardiac_phase > 0.999);
        }
        let breaths: Vec<f64> = (0..400).map(|i| rhythm.at(f64::from(i) / 100.0).breath_mm).collect();
        assert!(breaths.iter().all(|b| (0.0..=5.0).contains(b)));
        assert!(breaths.iter().copied().fold(0.0, f64::max) > 2.0);
    }
}
