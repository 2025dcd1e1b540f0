//! `--device`, `--threads` and what else says how a device computes, the same for every verb that computes something.

use super::{note, tuning};
use clap::{Args, ValueHint};
use coronet::Result;
use coronet::device::{Device, DeviceChoice, Precision, PrecisionChoice};
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// Where to compute.
#[derive(Debug, Clone, Args)]
pub struct DeviceOptions {
    /// Where to compute: auto (a GPU that fits, else the CPU), cuda, cuda:1 (counted from 0), cpu, or emulated (the
    /// GPU's kernels on the CPU: slow)
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,

    /// Threads of the CPU device; all cores by default
    #[arg(long, value_name = "T")]
    threads: Option<NonZeroUsize>,

    /// Leave convolutions in float16 to the warpgroups of an sm_90 (H100, H200), whose tensor cores read operands by
    /// themselves; to be compared with the other way, and not measured yet
    #[arg(long)]
    warpgroups: bool,

    /// Begin each launch of a frame a little before the one before it is done, and wait where it must (programmatic dependent
    /// launch, from sm_90 on); not measured yet
    #[arg(long)]
    launches_ahead: bool,

    /// How a GPU cuts its convolutions on tensor cores: the file of `coronet tune`, or none for the rule by size; by
    /// default the file that `coronet tune` keeps for this GPU, if there is one, but not with --warpgroups
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    tuning: Option<PathBuf>,
}

impl DeviceOptions {
    /// The device; which one `auto` has found, and why, and how its convolutions were tuned, if they were, is a line on
    /// stderr each unless `quiet`.
    pub fn open(&self, quiet: bool) -> Result<Box<dyn Device>> {
        let opened = self.device.open(self.threads.map(NonZeroUsize::get))?;
        if let Some(reason) = opened.reason.filter(|_| !quiet) {
            note(&format!("coronet: {reason}"));
        }
        if self.launches_ahead {
            opened.device.launch_ahead()?;
        }
        match (&self.tuning, self.warpgroups) {
            // Who asks for warpgroups wants to see them, not what was found to be better.
            (None, true) => opened.device.by_warpgroups(),
            (tuning, warpgroups) => {
                let device = tuning::tuned(opened.device, tuning.as_deref(), quiet)?;
                if warpgroups { device.by_warpgroups() } else { Ok(device) }
            }
        }
    }

    /// The device, multiplying as asked for, and in what; `auto` and why is a line on stderr unless `quiet`.
    pub fn open_in(&self, choice: PrecisionChoice, quiet: bool) -> Result<(Box<dyn Device>, Precision)> {
        let device = self.open(quiet)?;
        let precision = match choice {
            PrecisionChoice::Only(precision) => precision,
            PrecisionChoice::Auto => {
                let (precision, why) = device.fastest_precision();
                if !quiet {
                    note(&format!("coronet: multiplies in {precision}: {why}"));
                }
                precision
            }
        };
        Ok((device.with_precision(precision)?, precision))
    }

    /// The options as another process of this program takes them.
    pub fn words(&self) -> Vec<String> {
        let threads = self.threads.map(|threads| ["--threads".to_owned(), threads.to_string()]);
        let warpgroups = self.warpgroups.then(|| "--warpgroups".to_owned());
        let ahead = self.launches_ahead.then(|| "--launches-ahead".to_owned());
        let device = ["--device".to_owned(), self.device.to_string()];
        let tuning = self.tuning.as_ref().map(|file| ["--tuning".to_owned(), file.display().to_string()]);
        let (threads, tuning) = (threads.into_iter().flatten(), tuning.into_iter().flatten());
        device.into_iter().chain(threads).chain(warpgroups).chain(ahead).chain(tuning).collect()
    }

    /// What was asked for, in words: `cuda by warpgroups`.
    pub fn said(&self) -> String {
        let by = if self.warpgroups { " by warpgroups" } else { "" };
        let launches = if self.launches_ahead { ", launches ahead" } else { "" };
        format!("{}{by}{launches}", self.device)
    }
}
