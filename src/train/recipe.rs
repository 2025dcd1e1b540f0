//! How a network is trained: the optimiser, its schedule, the batches and what is done to them.

use super::Augmentation;
use crate::error::{Error, Result};
use crate::media::Size;
use crate::model::{Objective, Optimizer};
use std::fmt;
use std::str::FromStr;

/// Everything about training that is not data, network or chance.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// How often every sample is seen.
    pub epochs: usize,
    /// Windows a step.
    pub batch: usize,
    /// Side of the square the network sees, in pixels.
    pub side: usize,
    /// How gradients become steps.
    pub optimizer: Optimizer,
    /// What is minimised.
    pub objective: Objective,
    /// The highest learning rate.
    pub rate: f32,
    /// How the rate changes.
    pub schedule: Schedule,
    /// What is done to the samples at random, if anything.
    pub augmentation: Option<Augmentation>,
}

/// How the learning rate changes over a run.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Schedule {
    /// Not at all.
    Constant,
    /// A straight line up, then half a cosine down to nothing (Loshchilov and Hutter 2017).
    WarmUpCosine {
        /// The line's share of all steps, 0 to 1.
        warm_up: f32,
    },
}

/// A recipe by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// The article's protocol, to the letter.
    Article,
    /// Our own: AdamW, warm-up and cosine, cross entropy beside Dice, augmentation.
    Better,
}

impl Preset {
    /// All of them.
    pub const ALL: [Preset; 2] = [Preset::Article, Preset::Better];

    /// The recipe.
    pub fn recipe(self) -> Recipe {
        match self {
            Preset::Article => Recipe {
                epochs: 100,
                batch: 4,
                side: 448,
                optimizer: Optimizer::Sgd { momentum: 0.9 },
                objective: Objective { rho: 1e-4, background: 0.0, cross_entropy: 0.0 },
                rate: 2e-4,
                schedule: Schedule::Constant,
                augmentation: None,
            },
            Preset::Better => Recipe {
                epochs: 100,
                batch: 4,
                side: 448,
                optimizer: Optimizer::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 1e-2 },
                objective: Objective { rho: 0.0, background: 0.0, cross_entropy: 1.0 },
                rate: 1e-3,
                schedule: Schedule::WarmUpCosine { warm_up: 0.05 },
                augmentation: Some(Augmentation::default()),
            },
        }
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Preset::Article => "article",
            Preset::Better => "better",
        })
    }
}

impl FromStr for Preset {
    type Err = String;

    fn from_str(text: &str) -> Result<Preset, String> {
        let named = Preset::ALL.into_iter().find(|preset| preset.to_string() == text);
        named.ok_or_else(|| format!("a preset is article or better, not {text}"))
    }
}

impl Recipe {
    /// The size of what the network sees.
    pub fn size(&self) -> Size {
        Size { width: self.side, height: self.side }
    }

    /// Whether all numbers can be meant.
    ///
    /// # Errors
    /// [`Error::Request`] naming the one that cannot.
    pub fn check(&self) -> Result<()> {
        let positive = |what: &str, value: usize| match value {
            0 => Err(Error::Request(format!("{what} must be at least 1"))),
            _ => Ok(()),
        };
        positive("the number of epochs", self.epochs)?;
        positive("the batch", self.batch)?;
        if !(self.rate.is_finite() && self.rate > 0.0) {
            return Err(Error::Request(format!("the learning rate must be above 0, not {}", self.rate)));
        }
        if let Schedule::WarmUpCosine { warm_up } = self.schedule
            && !(0.0..=1.0).contains(&warm_up)
        {
            return Err(Error::Request(format!("the warm-up is a share of all steps, 0 to 1, not {warm_up}")));
        }
        self.augmentation.iter().try_for_each(Augmentation::check)
    }

    /// The learning rate of step `step`, counted from 0, of `steps`.
    pub fn rate_at(&self, step: u64, steps: u64) -> f32 {
        let Schedule::WarmUpCosine { warm_up } = self.schedule else { return self.rate };
        let rising = (f64::from(warm_up) * steps as f64).round();
        let share = if (step as f64) < rising {
            (step + 1) as f64 / rising
        } else {
            let gone = (step as f64 - rising) / (steps as f64 - rising).max(1.0);
            0.5 + 0.5 * (std::f64::consts::PI * gone).cos()
        };
        (f64::from(self.rate) * share) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_article_is_as_the_article_says() {
        let recipe = Preset::Article.recipe();
        assert_eq!((recipe.epochs, recipe.batch, recipe.side, recipe.rate), (100, 4, 448, 2e-4));
        assert_eq!(recipe.optimizer, Optimizer::Sgd { momentum: 0.9 });
        assert_eq!(recipe.objective, Objective { rho: 1e-4, background: 0.0, cross_entropy: 0.0 });
        assert_eq!(recipe.augmentation, None);
        assert!([0, 5, 99].into_iter().all(|step| recipe.rate_at(step, 100) == 2e-4));
    }

    #[test]
    fn the_rate_rises_to_the_top_and_falls_to_nothing() {
        let recipe = Recipe { rate: 2.0, schedule: Schedule::WarmUpCosine { warm_up: 0.1 }, ..Preset::Better.recipe() };
        let rates: Vec<f32> = (0..100).map(|step| recipe.rate_at(step, 100)).collect();
        assert_eq!((rates[0], rates[4], rates[9], rates[10]), (0.2, 1.0, 2.0, 2.0));
        assert_eq!(rates[55], 1.0);
        assert!(rates[99] < 0.001 && rates[10..].is_sorted_by(|a, b| a >= b));
    }

    #[test]
    fn recipes_survive_json_and_impossible_ones_are_refused() {
        for preset in Preset::ALL {
            let recipe = preset.recipe();
            assert!(recipe.check().is_ok());
            let text = serde_json::to_string(&recipe).unwrap();
            assert_eq!(serde_json::from_str::<Recipe>(&text).unwrap(), recipe);
            assert_eq!(preset.to_string().parse(), Ok(preset));
        }
        let good = Preset::Better.recipe();
        let said = |recipe: Recipe| recipe.check().unwrap_err().to_string();
        assert_eq!(said(Recipe { epochs: 0, ..good.clone() }), "the number of epochs must be at least 1");
        assert_eq!(said(Recipe { batch: 0, ..good.clone() }), "the batch must be at least 1");
        assert_eq!(said(Recipe { rate: f32::NAN, ..good }), "the learning rate must be above 0, not NaN");
    }
}
