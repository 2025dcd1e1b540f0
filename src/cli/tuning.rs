//! The tables of `coronet tune`: where they lie, and `--tuning`, by which a GPU takes one.
//!
//! `--tuning FILE` must fit; the file in the default place is taken where it is there and fits.

use coronet::device::Device;
use coronet::{Error, Result};
use std::path::Path;

/// Has a GPU cut its convolutions as a table says, and says which on stderr unless `quiet`: that of `named`, no table
/// for `none`, and else the one in the default place if there is one.
///
/// # Errors
/// [`Error::Request`] and [`Error::Io`] when the named file cannot be used, [`Error::Device`] when one is named for a
/// device that is no GPU.
#[cfg(any(feature = "cuda", feature = "emulator"))]
pub fn tuned(device: Box<dyn Device>, named: Option<&Path>, quiet: bool) -> Result<Box<dyn Device>> {
    use super::note;
    use coronet::device::cuda::Ways;

    if named.is_some_and(is_none) {
        return Ok(device);
    }
    let Some(gpu) = device.as_cuda() else { return without_gpu(device, named) };
    let Some(file) = named.map(Path::to_path_buf).or_else(|| default_file(gpu)) else { return Ok(device) };
    let say = |text: String| {
        if !quiet {
            note(&format!("coronet: {text}"));
        }
    };
    let by_rule = "convolutions are cut by rule; `coronet tune` measures anew";
    let read = Ways::read(&file).and_then(|ways| ways.check_device(gpu).map(|()| ways));
    match read {
        Err(error) if named.is_some() => return Err(error),
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => say(format!("{error}; {by_rule}")),
        Ok(ways) if !ways.are_of_this_build() => {
            say(format!("{} was measured with other kernels; {by_rule}", file.display()));
        }
        Ok(ways) => {
            say(format!("convolutions are cut as {} says, where it does", file.display()));
            return Ok(Box::new(gpu.clone().with_ways(std::sync::Arc::new(ways))));
        }
    }
    Ok(device)
}

/// As above in a build that has no GPUs.
#[cfg(not(any(feature = "cuda", feature = "emulator")))]
pub fn tuned(device: Box<dyn Device>, named: Option<&Path>, _quiet: bool) -> Result<Box<dyn Device>> {
    without_gpu(device, named)
}

fn without_gpu(device: Box<dyn Device>, named: Option<&Path>) -> Result<Box<dyn Device>> {
    match named.filter(|file| !is_none(file)) {
        None => Ok(device),
        Some(file) => {
            let (file, device) = (file.display(), device.describe());
            Err(Error::Device(format!("--tuning {file} is for GPUs, but the device is {device}")))
        }
    }
}

/// Whether no table is asked for.
fn is_none(named: &Path) -> bool {
    named.as_os_str() == "none"
}

/// The default place of a GPU's table: in the folder that `CORONET_TUNING` names, else among the user's caches; `None`
/// where the environment names neither.
#[cfg(any(feature = "cuda", feature = "emulator"))]
pub fn default_file(gpu: &coronet::device::cuda::CudaDevice) -> Option<std::path::PathBuf> {
    use std::path::PathBuf;
    let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // A relative path has no meaning there, says the XDG Base Directory Specification.
    let caches = || named("XDG_CACHE_HOME").filter(|path| path.is_absolute());
    let folder = named("CORONET_TUNING").or_else(|| {
        let caches = caches().or_else(|| named("HOME").map(|home| home.join(".cache")))?;
        Some(caches.join("coronet"))
    })?;
    Some(folder.join(gpu.ways_file_name()))
}
