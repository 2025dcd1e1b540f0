//! Which device: the one name that people give on a command line, checked, and the device that comes of it.

use super::Device;
use super::cpu::CpuDevice;
#[cfg(any(feature = "cuda", feature = "emulator"))]
use super::cuda::CudaDevice;
use crate::error::Result;
use std::fmt;
use std::str::FromStr;

/// A device as people name it: `auto`, `cpu`, `cuda`, `cuda:1` or `emulated`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU whose driver and architecture fit, else the CPU.
    Auto,
    /// A GPU, counted from 0.
    Cuda(usize),
    /// The processor.
    Cpu,
    /// The GPU's kernels on the processor: slow, for checks.
    Emulated,
}

/// A device, and why it is this one where nobody named it.
pub struct Opened {
    /// The device.
    pub device: Box<dyn Device>,
    /// For [`DeviceChoice::Auto`], a line for people: which device, and why.
    pub reason: Option<String>,
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<DeviceChoice, String> {
        let unknown = || format!("a device is auto, cuda, cuda:1 (counted from 0), cpu or emulated, not {text}");
        match text {
            "auto" => Ok(DeviceChoice::Auto),
            "cuda" => Ok(DeviceChoice::Cuda(0)),
            "cpu" => Ok(DeviceChoice::Cpu),
            "emulated" => Ok(DeviceChoice::Emulated),
            other => {
                // The driver counts them by an int.
                let number = other.strip_prefix("cuda:").and_then(|number| u16::from_str(number).ok());
                number.map(|number| DeviceChoice::Cuda(number.into())).ok_or_else(unknown)
            }
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Cuda(0) => f.write_str("cuda"),
            DeviceChoice::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
            DeviceChoice::Cpu => f.write_str("cpu"),
            DeviceChoice::Emulated => f.write_str("emulated"),
        }
    }
}

impl DeviceChoice {
    /// Opens the device; `threads` are those of the CPU device, one for each core when `None`.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when it is not there, does not fit, or this build has no such device.
    pub fn open(self, threads: Option<usize>) -> Result<Opened> {
        let device: Box<dyn Device> = match self {
            DeviceChoice::Auto => return gpu_or_cpu(first_gpu(), threads),
            DeviceChoice::Cuda(ordinal) => gpu(ordinal)?,
            DeviceChoice::Cpu => Box::new(CpuDevice::new(threads)?),
            DeviceChoice::Emulated => emulated()?,
        };
        Ok(Opened { device, reason: None })
    }
}

/// The GPU where one was found, else the CPU, with the reason.
fn gpu_or_cpu(gpu: Result<Box<dyn Device>>, threads: Option<usize>) -> Result<Opened> {
    match gpu {
        Ok(device) => {
            let reason = format!("runs on the first GPU that fits: {}", device.describe());
            Ok(Opened { device, reason: Some(reason) })
        }
        Err(error) => {
            let device = CpuDevice::new(threads)?;
            let reason = format!("runs on the CPU ({}): {error}", device.describe());
            Ok(Opened { device: Box::new(device), reason: Some(reason) })
        }
    }
}

/// The first GPU that can be used; where there is none, what is wrong with the first of all.
#[cfg(feature = "cuda")]
fn first_gpu() -> Result<Box<dyn Device>> {
    let first = gpu(0);
    let others = if first.is_ok() { 0 } else { super::cuda::Gpu::count().unwrap_or(0) };
    (1..others).find_map(|ordinal| gpu(ordinal).ok()).map_or(first, Ok)
}

#[cfg(feature = "cuda")]
fn gpu(ordinal: usize) -> Result<Box<dyn Device>> {
    Ok(Box::new(CudaDevice::new(super::cuda::Gpu::new(ordinal)?)))
}

#[cfg(not(feature = "cuda"))]
fn first_gpu() -> Result<Box<dyn Device>> {
    gpu(0)
}

#[cfg(not(feature = "cuda"))]
fn gpu(_ordinal: usize) -> Result<Box<dyn Device>> {
    Err(crate::Error::Device("this build cannot use GPUs; build with the feature `cuda` for that".into()))
}

#[cfg(feature = "emulator")]
fn emulated() -> Result<Box<dyn Device>> {
    use super::cuda::{EmulatedDriver, Schedule};
    Ok(Box::new(CudaDevice::new(EmulatedDriver::new(Schedule::ALL[0]))))
}

#[cfg(not(feature = "emulator"))]
fn emulated() -> Result<Box<dyn Device>> {
    Err(crate::Error::Device("this build has no emulated GPU; build with the feature `emulator` for that".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in ["auto", "cuda", "cuda:7", "cpu", "emulated"] {
            assert_eq!(name.parse::<DeviceChoice>().unwrap().to_string(), name);
        }
        assert_eq!("cuda:0".parse(), Ok(DeviceChoice::Cuda(0)));
        for name in ["", "gpu", "cuda:", "cuda:-1", "cuda:one", "CPU"] {
            let problem = name.parse::<DeviceChoice>().unwrap_err();
            assert_eq!(
                problem,
                format!("a device is auto, cuda, cuda:1 (counted from 0), cpu or emulated, not {name}")
            );
        }
    }

    #[test]
    fn auto_takes_the_gpu_and_else_the_cpu_and_says_why() {
        let stand_in: Box<dyn Device> = Box::new(CpuDevice::new(Some(1)).unwrap());
        let described = stand_in.describe();
        let opened = gpu_or_cpu(Ok(stand_in), None).unwrap();
        assert_eq!(opened.reason, Some(format!("runs on the first GPU that fits: {described}")));

        let opened = gpu_or_cpu(Err(Error::Device("the driver is too old".into())), Some(1)).unwrap();
        assert_eq!(opened.device.describe(), described);
        assert_eq!(opened.reason, Some(format!("runs on the CPU ({described}): the driver is too old")));
    }

    #[test]
    fn only_auto_needs_a_reason() {
        assert!(DeviceChoice::Cpu.open(Some(1)).unwrap().reason.is_none());
        assert!(DeviceChoice::Auto.open(Some(1)).unwrap().reason.is_some());
    }
}
