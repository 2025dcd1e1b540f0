//! What a run says about itself: while it goes, after each epoch, and to itself when it goes on after a stop.

use crate::metrics::{Counts, Scores};

/// One step, for whoever watches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Steps done in all.
    pub step: u64,
    /// The epoch it belongs to, counted from 1.
    pub epoch: usize,
    /// The mean loss of the epoch so far.
    pub loss: f64,
    /// The IoU of the epoch's training masks so far, pooled over pixels.
    pub train_iou: f64,
}

/// A complete epoch.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Epoch {
    /// Counted from 1.
    pub number: usize,
    /// Steps done in all.
    pub step: u64,
    /// The learning rate of its last step.
    pub rate: f64,
    /// Mean of the whole loss over its steps, each before its step.
    pub loss: f64,
    /// Mean of the Dice term of the vessel.
    pub dice_loss: f64,
    /// IoU of the training masks, pooled over pixels, at the network's size, as the network was at each step.
    pub train_iou: f64,
    /// Means over the test part's frames at their own size, without post-processing; `None` where nothing is tested on.
    pub test: Option<Scores>,
    /// Training's share of its time, in seconds.
    pub seconds: f64,
    /// Windows learned from in a second.
    pub samples_per_second: f64,
    /// When it ended, in seconds since 1970.
    pub time: f64,
}

impl Epoch {
    /// The columns of `metrics.csv`.
    pub(super) const HEADER: &'static str = "epoch,step,rate,loss,dice_loss,train_iou,test_iou,test_dice,\
         test_sensitivity,test_specificity,test_accuracy,seconds,samples_per_second";

    /// Its line in `metrics.csv`; what was not measured is empty.
    pub(super) fn row(&self) -> String {
        let test = self.test.map(|t| [t.iou, t.dice, t.sensitivity, t.specificity, t.accuracy]);
        let test: Vec<String> =
            (0..5).map(|i| test.map_or(String::new(), |scores| format!("{:.6}", scores[i]))).collect();
        format!(
            "{},{},{:e},{:.6},{:.6},{:.6},{},{:.1},{:.2}",
            self.number,
            self.step,
            self.rate as f32,
            self.loss,
            self.dice_loss,
            self.train_iou,
            test.join(","),
            self.seconds,
            self.samples_per_second
        )
    }

    /// What makes an epoch the best: its IoU on the test part, or, where there is none, a small loss.
    pub(super) fn merit(&self) -> f64 {
        self.test.map_or(-self.loss, |scores| scores.iou)
    }
}

/// How far a run is, kept in its checkpoint.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) struct Progress {
    /// When the run began, in seconds since 1970.
    pub begun: f64,
    /// Steps done in all.
    pub step: u64,
    /// The complete epochs.
    pub epochs: Vec<Epoch>,
    /// The epoch that is not complete.
    pub sums: Sums,
}

/// What has come together in an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Sums {
    pub steps: u64,
    pub loss: f64,
    pub dice_loss: f64,
    pub counts: Counts,
    pub seconds: f64,
}

impl Progress {
    /// The position of the best epoch; the first of equals.
    pub fn best(&self) -> Option<usize> {
        let merits = self.epochs.iter().map(Epoch::merit).enumerate();
        merits.reduce(|best, other| if other.1 > best.1 { other } else { best }).map(|(position, _)| position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(number: usize, loss: f64, iou: Option<f64>) -> Epoch {
        let test = iou.map(|iou| Scores { iou, dice: 0.5, sensitivity: 0.25, specificity: 0.75, accuracy: 1.0 });
        let rate = f64::from(1e-3f32);
        Epoch {
            number,
            step: 10,
            rate,
            loss,
            dice_loss: 0.5,
            train_iou: 0.25,
            test,
            seconds: 2.0,
            samples_per_second: 20.0,
            time: 0.0,
        }
    }

    #[test]
    fn a_row_has_as_many_fields_as_the_header() {
        for epoch in [epoch(1, 0.75, Some(0.5)), epoch(1, 0.75, None)] {
            assert_eq!(epoch.row().split(',').count(), Epoch::HEADER.split(',').count());
        }
        let row = epoch(3, 0.75, Some(0.5)).row();
        assert!(row.starts_with("3,10,1e-3,0.750000"), "{row}");
        assert!(row.ends_with(",0.750000,0.500000,0.250000,0.500000,0.500000,0.250000,0.750000,1.000000,2.0,20.00"));
    }

    #[test]
    fn the_best_epoch_has_the_highest_test_iou_or_the_least_loss() {
        let best = |epochs: Vec<Epoch>| Progress { begun: 0.0, step: 0, epochs, sums: Sums::default() }.best();
        assert_eq!(best(vec![]), None);
        assert_eq!(best(vec![epoch(1, 0.1, Some(0.3)), epoch(2, 0.2, Some(0.4)), epoch(3, 0.0, Some(0.4))]), Some(1));
        assert_eq!(best(vec![epoch(1, 0.1, None), epoch(2, 0.05, None), epoch(3, 0.2, None)]), Some(1));
    }
}
