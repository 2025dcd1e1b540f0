//! `--device` and `--threads`, the same for every verb that computes something.

use super::note;
use clap::Args;
use coronet::Result;
use coronet::device::{Device, DeviceChoice, Precision, PrecisionChoice};
use std::num::NonZeroUsize;

/// Where to compute.
#[derive(Debug, Clone, Copy, Args)]
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
}

impl DeviceOptions {
    /// The device; which one `auto` has found, and why, is a line on stderr unless `quiet`.
    pub fn open(&self, quiet: bool) -> Result<Box<dyn Device>> {
        let opened = self.device.open(self.threads.map(NonZeroUsize::get))?;
        if let Some(reason) = opened.reason.filter(|_| !quiet) {
            note(&format!("coronet: {reason}"));
        }
        if self.warpgroups { opened.device.by_warpgroups() } else { Ok(opened.device) }
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
        let device = ["--device".to_owned(), self.device.to_string()];
        device.into_iter().chain(threads.into_iter().flatten()).chain(warpgroups).collect()
    }

    /// What was asked for, in words: `cuda by warpgroups`.
    pub fn said(&self) -> String {
        format!("{}{}", self.device, if self.warpgroups { " by warpgroups" } else { "" })
    }
}
