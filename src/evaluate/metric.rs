//! What a mask is judged by.

use crate::error::Result;
use crate::media::Mask;
use crate::metrics::{ClDice, Counts, hd95};

/// One of the numbers that a mask gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Metric {
    /// Intersection over union; see [`Counts::iou`].
    Iou,
    /// Dice coefficient; see [`Counts::dice`].
    Dice,
    /// Share of the vessel that was found; see [`Counts::sensitivity`].
    Sensitivity,
    /// Share of the background left alone; see [`Counts::specificity`].
    Specificity,
    /// Share of pixels called rightly; see [`Counts::accuracy`].
    Accuracy,
    /// Agreement as lines; see [`ClDice`].
    ClDice,
    /// Distance of the outlines, in pixels, small is good; see [`hd95`]. A frame has none when its mask or its label is
    /// empty and the other one is not.
    Hd95,
}

impl Metric {
    /// All of them, in the order of tables.
    pub const ALL: [Metric; 7] = [
        Metric::Iou,
        Metric::Dice,
        Metric::Sensitivity,
        Metric::Specificity,
        Metric::Accuracy,
        Metric::ClDice,
        Metric::Hd95,
    ];

    /// Its name in tables of numbers.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Iou => "iou",
            Metric::Dice => "dice",
            Metric::Sensitivity => "sensitivity",
            Metric::Specificity => "specificity",
            Metric::Accuracy => "accuracy",
            Metric::ClDice => "cl_dice",
            Metric::Hd95 => "hd95",
        }
    }
}

/// A value for each metric.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
pub struct PerMetric<T> {
    /// [`Metric::Iou`].
    pub iou: T,
    /// [`Metric::Dice`].
    pub dice: T,
    /// [`Metric::Sensitivity`].
    pub sensitivity: T,
    /// [`Metric::Specificity`].
    pub specificity: T,
    /// [`Metric::Accuracy`].
    pub accuracy: T,
    /// [`Metric::ClDice`].
    pub cl_dice: T,
    /// [`Metric::Hd95`].
    pub hd95: T,
}

impl<T> PerMetric<T> {
    /// The value of each metric from a function.
    pub fn from_fn(mut value: impl FnMut(Metric) -> T) -> PerMetric<T> {
        PerMetric {
            iou: value(Metric::Iou),
            dice: value(Metric::Dice),
            sensitivity: value(Metric::Sensitivity),
            specificity: value(Metric::Specificity),
            accuracy: value(Metric::Accuracy),
            cl_dice: value(Metric::ClDice),
            hd95: value(Metric::Hd95),
        }
    }

    /// The value of one metric.
    pub fn get(&self, metric: Metric) -> &T {
        match metric {
            Metric::Iou => &self.iou,
            Metric::Dice => &self.dice,
            Metric::Sensitivity => &self.sensitivity,
            Metric::Specificity => &self.specificity,
            Metric::Accuracy => &self.accuracy,
            Metric::ClDice => &self.cl_dice,
            Metric::Hd95 => &self.hd95,
        }
    }
}

/// How one mask agrees with its label.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FrameScores {
    /// Pixel by pixel.
    pub counts: Counts,
    /// As lines.
    pub cl_dice: f64,
    /// As outlines, in pixels; `None` where there is no distance.
    pub hd95: Option<f64>,
}

impl FrameScores {
    /// Compares `mask` with `label`.
    ///
    /// # Errors
    /// [`Error::Request`](crate::Error::Request) when the sizes differ.
    pub fn of(mask: &Mask, label: &Mask) -> Result<FrameScores> {
        Ok(FrameScores {
            counts: Counts::of(mask, label)?,
            cl_dice: ClDice::of(mask, label)?.cl_dice,
            hd95: hd95(mask, label)?,
        })
    }

    /// The value of one metric; only [`Metric::Hd95`] may be missing.
    pub fn get(&self, metric: Metric) -> Option<f64> {
        Some(match metric {
            Metric::Iou => self.counts.iou(),
            Metric::Dice => self.counts.dice(),
            Metric::Sensitivity => self.counts.sensitivity(),
            Metric::Specificity => self.counts.specificity(),
            Metric::Accuracy => self.counts.accuracy(),
            Metric::ClDice => self.cl_dice,
            Metric::Hd95 => return self.hd95,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_found_under_its_own_name() {
        let names = PerMetric::from_fn(Metric::name);
        for metric in Metric::ALL {
            assert_eq!(*names.get(metric), metric.name());
        }
        let written = serde_json::to_value(names).unwrap();
        for (name, value) in written.as_object().unwrap() {
            assert_eq!(value, name);
        }
    }
}
