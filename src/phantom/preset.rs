//! Named settings.

use super::{Settings, System};
use crate::media::Size;
use crate::random::Random;
use std::fmt;
use std::str::FromStr;

/// A rule that turns a seed and a clip's number into settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// What everyone compares on: usual views in turn, everything else fixed but the patient. Its statistics are held
    /// against real angiograms; see `docs/phantom.md`.
    Reference,
    /// What networks learn from: system, view, dose, agent, streaming, heart rate, breathing, texture, magnification
    /// and number of stenoses drawn for each clip.
    Varied,
}

/// Systems and angles of the reference, in turn: the standard projections.
const VIEWS: [(System, f64, f64); 8] = [
    (System::Right, 32.0, 2.0),
    (System::Left, -25.0, -20.0),
    (System::Right, -30.0, 0.0),
    (System::Left, 40.0, 22.0),
    (System::Right, 15.0, 25.0),
    (System::Left, -10.0, 35.0),
    (System::Right, 45.0, -5.0),
    (System::Left, 45.0, -25.0),
];

impl Preset {
    /// All of them.
    pub const ALL: [Preset; 2] = [Preset::Reference, Preset::Varied];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Preset::Reference => "reference",
            Preset::Varied => "varied",
        }
    }

    /// The settings of clip number `clip`, counted from 0, of the set that `seed` stands for.
    pub fn settings(self, seed: u64, clip: usize) -> Settings {
        // Each preset has patients of its own: nobody learns from those that everyone compares on.
        let mut random = match self {
            Preset::Reference => Random::of(&[seed, clip as u64, 1]),
            Preset::Varied => Random::of(&[seed, clip as u64]),
        };
        let patient = random.bits();
        let (system, primary_angle, secondary_angle) = VIEWS[clip % VIEWS.len()];
        let reference = Settings {
            system,
            primary_angle,
            secondary_angle,
            size: Size { width: 512, height: 512 },
            frames: 60,
            frames_per_second: 15.0,
            start_seconds: -0.4,
            dose_ngy: 240.0,
            heart_rate: 72.0,
            breathing_mm: 5.0,
            agent_attenuation: 0.21,
            streaming: 0.5,
            texture: 0.085,
            field_mm: 120.0,
            stenoses: 1,
            catheter_in_mask: false,
            seed: patient,
        };
        match self {
            Preset::Reference => reference,
            Preset::Varied => Settings {
                system: if random.uniform() < 0.5 { System::Left } else { System::Right },
                primary_angle: random.between(-50.0, 55.0),
                secondary_angle: random.between(-32.0, 35.0),
                dose_ngy: 240.0 * 4f64.powf(random.between(-1.0, 0.7)),
                heart_rate: random.between(50.0, 105.0),
                breathing_mm: random.between(0.0, 12.0),
                agent_attenuation: random.between(0.14, 0.34),
                streaming: random.between(0.2, 0.8),
                texture: random.between(0.02, 0.14),
                field_mm: random.between(95.0, 150.0),
                stenoses: (random.uniform() * 3.0) as usize,
                ..reference
            },
        }
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Preset {
    type Err = String;

    fn from_str(text: &str) -> Result<Preset, String> {
        let found = Preset::ALL.into_iter().find(|preset| preset.name() == text);
        found.ok_or_else(|| format!("the presets are reference and varied; there is no {text}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_share_no_patient() {
        let patients = |preset: Preset| (0..50).map(move |clip| preset.settings(1, clip).seed);
        assert!(patients(Preset::Varied).all(|varied| patients(Preset::Reference).all(|fixed| fixed != varied)));
    }
}
