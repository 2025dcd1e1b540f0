//! Devices: where programs run.
//!
//! A [`Device`] is a [`Target`] to lower for; loading a program gives a [`Session`], the program bound to its memory.

mod ceilings;
mod choice;
pub mod cpu;
#[cfg(any(feature = "cuda", feature = "emulator"))]
pub mod cuda;
mod frames;
mod isolation;
mod layout;
mod precision;

pub use ceilings::Ceilings;
pub use choice::{DeviceChoice, Opened};
pub use frames::{FramePath, FramePathTimes, FrameSession, GreySamples, NotFinite};
pub use precision::{Precision, PrecisionChoice};

use crate::error::Result;
use crate::graph::{Tensor, ValueId};
use crate::program::{Program, Target};
use std::time::{Duration, Instant};

/// Somewhere programs run.
pub trait Device: Target + Send + Sync {
    /// One line for people: kind, instruction set or model, threads.
    fn describe(&self) -> String;

    /// What else people want to know of it when they read its times: a name and a value each.
    fn facts(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// The most that it can do, measured now; `None` where that says nothing.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the device fails.
    fn ceilings(&self) -> Result<Option<Ceilings>> {
        Ok(None)
    }

    /// The precisions it can multiply in; float32 is always among them.
    fn precisions(&self) -> Vec<Precision>;

    /// The one it does multiply in.
    fn precision(&self) -> Precision;

    /// The same device, multiplying in `precision`; programs are lowered for it anew.
    ///
    /// # Errors
    /// [`crate::Error::Device`] unless it is one of [`Device::precisions`].
    fn with_precision(&self, precision: Precision) -> Result<Box<dyn Device>>;

    /// The precision that frames are likely to be quickest in, of those whose masks are all but float32's, and why.
    fn fastest_precision(&self) -> (Precision, String);

    /// The same device with its convolutions of float16 numbers left to warpgroups where they can be: tensor cores that read
    /// operands by themselves.
    ///
    /// # Errors
    /// [`crate::Error::Device`] where there are none.
    fn by_warpgroups(&self) -> Result<Box<dyn Device>> {
        Err(crate::Error::Device(format!("{} has no warpgroups: that needs an sm_90", self.describe())))
    }

    /// Bytes of its own memory that were taken since it was opened, kernels included, beyond what its driver keeps for itself;
    /// by this process, unless another one came meanwhile. `None` where it has no memory of its own, or nobody can tell.
    fn memory_taken(&self) -> Option<u64> {
        None
    }

    /// From now on each launch of a frame, or of a training step, may begin before the one before it is done, and waits for it
    /// where it must. Not the default as long as nobody has measured it.
    ///
    /// # Errors
    /// [`crate::Error::Device`] where that cannot be had.
    fn launch_ahead(&self) -> Result<()> {
        Err(crate::Error::Device(format!("{} launches nothing: that is for GPUs", self.describe())))
    }

    /// The GPU, or emulated one, that this device is, if it is one.
    #[cfg(any(feature = "cuda", feature = "emulator"))]
    fn as_cuda(&self) -> Option<&cuda::CudaDevice> {
        None
    }

    /// Binds a program that was lowered for this device to memory of its own.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the memory cannot be had.
    fn load(&self, program: Program) -> Result<Box<dyn Session>>;
}

/// How long a run took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunTime {
    /// Until the host had started all steps, of a device that works beside it.
    pub enqueue: Option<Duration>,
    /// From the first step's start to the last one's end, on the device.
    pub compute: Duration,
}

/// A program with its memory. States keep their values from run to run.
pub trait Session: Send {
    /// The program.
    fn program(&self) -> &Program;

    /// Sets an input or a state, `data` in the order of its [`crate::graph::Shape`].
    ///
    /// # Errors
    /// [`crate::Error::Request`] when the value is no input or state, or has another number of elements.
    fn write(&mut self, value: ValueId, data: &[f32]) -> Result<()>;

    /// The kernels that a step starts, in order, where the device has such.
    fn kernels(&self, step: usize) -> Vec<&'static str> {
        let _ = step;
        Vec::new()
    }

    /// The format that a value is kept in, as the operand that products round it to or as float32.
    fn kept_in(&self, value: ValueId) -> Precision {
        let _ = value;
        Precision::Float32
    }

    /// What a step multiplies, where that is not what the device does throughout.
    fn multiplies_in(&self, step: usize) -> Option<Precision> {
        let _ = step;
        None
    }

    /// Of a step whose algorithm rounds more than sums of products do: the relative L2 error that its first result may have
    /// before an epilogue.
    fn error_bound(&self, step: usize) -> Option<f64> {
        let _ = step;
        None
    }

    /// Runs all steps.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the device fails.
    fn run(&mut self) -> Result<()>;

    /// As [`Session::run`], and says how long that took.
    ///
    /// # Errors
    /// As [`Session::run`].
    fn run_measured(&mut self) -> Result<RunTime> {
        let begun = Instant::now();
        self.run()?;
        Ok(RunTime { enqueue: None, compute: begun.elapsed() })
    }

    /// Whether the device starts all steps of a run as one.
    fn is_one_graph(&self) -> bool {
        false
    }

    /// The session as one that makes masks of frames by itself, with memory for that from the first time on; `None` where
    /// the device cannot, and then the host does what lies around the network.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the device fails or memory is short.
    fn frames(&mut self, path: &FramePath) -> Result<Option<&mut dyn FrameSession>> {
        let _ = path;
        Ok(None)
    }

    /// Fills the caches of a device that has its own with something else.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the device fails.
    fn flush_caches(&mut self) -> Result<()> {
        Ok(())
    }

    /// Runs all steps and adds the time each took to `times`, one entry a step.
    ///
    /// # Errors
    /// As [`Session::run`]; [`crate::Error::Request`] when `times` has another length.
    fn run_timed(&mut self, times: &mut [Duration]) -> Result<()>;

    /// Reads an output, an input or a state into `data`, in the order of its [`crate::graph::Shape`].
    ///
    /// # Errors
    /// [`crate::Error::Request`] when the value's memory may have been reused, when it is a filter that the device keeps in
    /// another form ([`crate::program::Step::filter_is_its_own`]), or when `data` has another length.
    fn read_into(&self, value: ValueId, data: &mut [f32]) -> Result<()>;

    /// As [`Session::read_into`], into a new tensor.
    ///
    /// # Errors
    /// As [`Session::read_into`].
    fn read(&self, value: ValueId) -> Result<Tensor> {
        let mut tensor = Tensor::filled(self.program().value(value).shape, 0.0);
        self.read_into(value, tensor.data_mut())?;
        Ok(tensor)
    }
}
