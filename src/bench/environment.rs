//! What times depend on beside the program: machine, build, load.

use crate::calendar::utc_now;
use crate::device::Device;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;

/// Where and when something was measured. What the system does not say is `None`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// UTC.
    pub date: String,
    /// Coronet's version.
    pub coronet: String,
    /// The commit of a release build, `-dirty` behind it where there were changes beyond it.
    pub commit: Option<String>,
    /// `release` or `debug`.
    pub build: String,
    /// The device as it describes itself.
    pub device: String,
    /// What else it says.
    pub device_facts: BTreeMap<String, String>,
    /// The processor's model.
    pub processor: Option<String>,
    /// Logical cores that this process may use.
    pub cores: usize,
    /// Clock of the first core at the start, in MHz.
    pub processor_mhz: Option<f64>,
    /// How the system chooses clocks.
    pub governor: Option<String>,
    /// Processes that were ready to run in the minute before.
    pub load_average: Option<f64>,
    /// Operating system and processor architecture.
    pub system: String,
    /// The operating system's release.
    pub kernel: Option<String>,
}

fn line_of(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned()).filter(|text| !text.is_empty())
}

/// The value behind `name :` in a file of such lines.
fn value_in(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.split(':').next().is_some_and(|field| field.trim() == name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

impl Environment {
    /// Now, with this device.
    pub fn of(device: &dyn Device) -> Environment {
        let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Environment {
            date: utc_now(),
            coronet: env!("CARGO_PKG_VERSION").to_owned(),
            commit: crate::COMMIT.map(str::to_owned),
            build: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
            device: device.describe(),
            device_facts: facts_of(device),
            processor: value_in(&processor, "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            processor_mhz: value_in(&processor, "cpu MHz").and_then(|mhz| mhz.parse().ok()),
            governor: line_of("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            load_average: line_of("/proc/loadavg").and_then(|line| line.split(' ').next()?.parse().ok()),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            kernel: line_of("/proc/sys/kernel/osrelease"),
        }
    }

    /// What the device says once it has run, which may be other than what was asked of it.
    pub fn ask_again(&mut self, device: &dyn Device) {
        self.device_facts = facts_of(device);
    }
}

fn facts_of(device: &dyn Device) -> BTreeMap<String, String> {
    device.facts().into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The most memory that this process has had, where the system says.
pub fn peak_resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kilobytes = value_in(&status, "VmHWM")?;
    Some(kilobytes.strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::CpuDevice;

    #[test]
    fn values_are_found_by_their_whole_name() {
        let text = "cpu MHz\t\t: 2400.5\nmodel\t\t: 17\nmodel name\t: A: B\n";
        assert_eq!(value_in(text, "model name"), Some("A: B".into()));
        assert_eq!(value_in(text, "model"), Some("17".into()));
        assert_eq!(value_in(text, "name"), None);
    }

    #[test]
    fn the_device_and_this_process_are_described() {
        let device = CpuDevice::new(Some(1)).unwrap();
        let environment = Environment::of(&device);
        assert_eq!(environment.device, device.describe());
        assert!(environment.date.ends_with('Z') && environment.cores >= 1);
        #[cfg(target_os = "linux")]
        assert!(peak_resident_bytes().is_some_and(|bytes| (1 << 20..1 << 40).contains(&bytes)));
    }
}
