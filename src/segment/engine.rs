//! The engine as a [`WindowNetwork`]: weights, a device and an input size become a network ready to run.

use super::WindowNetwork;
use crate::device::{Device, FramePath, FrameSession, Precision, RunTime, Session};
use crate::error::{Error, Result};
use crate::media::{Colour, Size};
use crate::model::{ARCHITECTURE, CeNet, Config};
use crate::post::PostProcessing;
use crate::program::{Placement, Program};
use crate::weights::Weights;
use std::time::{Duration, Instant};

/// A 3D-2D CE-Net on a device, bound to its memory.
pub struct EngineNetwork {
    network: CeNet,
    session: Box<dyn Session>,
    device: String,
    precision: Precision,
    /// Where its weights come from, for people.
    origin: Option<String>,
    size: Size,
    /// The window as the session takes it: channels, then frames.
    window: Vec<f32>,
}

impl EngineNetwork {
    /// Loads `weights` onto `device` for frames of `size`.
    ///
    /// # Errors
    /// [`Error::Request`] when the size does not fit the network, [`Error::Device`] when memory is short.
    pub fn load(weights: &Weights, device: &dyn Device, size: Size) -> Result<EngineNetwork> {
        let config = weights.config();
        let network = CeNet::build(config, 1, size.height, size.width)?;
        let outputs = [network.probability];
        let program = Program::lower(&network.graph, &outputs, device, Placement::Shared)?;
        let mut session = device.load(program)?;
        weights.write_into(&network, |id, numbers| session.write(id, numbers))?;
        let window = vec![0.0; config.in_channels() * config.frames() * size.area()];
        let (device, precision) = (device.describe(), device.precision());
        Ok(EngineNetwork { network, session, device, precision, origin: None, size, window })
    }

    /// The same network that says where its weights come from when it describes itself.
    pub fn with_origin(self, origin: impl Into<String>) -> EngineNetwork {
        EngineNetwork { origin: Some(origin.into()), ..self }
    }

    /// The network's configuration.
    pub fn config(&self) -> Config {
        self.network.config
    }

    /// What computes it.
    pub fn session(&mut self) -> &mut dyn Session {
        &mut *self.session
    }

    /// As [`WindowNetwork::run`], and says how long each part took.
    ///
    /// # Errors
    /// As [`WindowNetwork::run`].
    pub fn run_measured(&mut self, window: &[&[f32]], probability: &mut [f32]) -> Result<EngineTimes> {
        let begun = Instant::now();
        self.write_window(window)?;
        let upload = begun.elapsed();
        let RunTime { enqueue, compute } = self.session.run_measured()?;
        let begun = Instant::now();
        self.session.read_into(self.network.probability, probability)?;
        Ok(EngineTimes { upload, enqueue, compute, download: begun.elapsed() })
    }

    fn write_window(&mut self, window: &[&[f32]]) -> Result<()> {
        let (frames, channels, area) = (self.config().frames(), self.config().in_channels(), self.size.area());
        if window.len() != frames || window.iter().any(|frame| frame.len() != channels * area) {
            return Err(Error::Request(format!(
                "the network takes {frames} frames of {} with {channels} channel(s)",
                self.size
            )));
        }
        for (index, plane) in self.window.chunks_exact_mut(area).enumerate() {
            let (channel, frame) = (index / frames, index % frames);
            plane.copy_from_slice(&window[frame][channel * area..(channel + 1) * area]);
        }
        self.session.write(self.network.window, &self.window)
    }
}

/// How long the parts of a run took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineTimes {
    /// To put the window together and give it to the device.
    pub upload: Duration,
    /// Until the host had started all steps, of a device that works beside it.
    pub enqueue: Option<Duration>,
    /// All steps, on the device.
    pub compute: Duration,
    /// To take the probability from the device.
    pub download: Duration,
}

impl WindowNetwork for EngineNetwork {
    fn neighbours(&self) -> usize {
        self.config().neighbours()
    }

    fn colour(&self) -> Colour {
        if self.config().in_channels() == 3 { Colour::Rgb } else { Colour::Grey }
    }

    fn input_size(&self) -> Size {
        self.size
    }

    fn run(&mut self, window: &[&[f32]], probability: &mut [f32]) -> Result<()> {
        self.write_window(window)?;
        self.session.run()?;
        self.session.read_into(self.network.probability, probability)
    }

    fn on_device(&mut self, source: Size, post: &PostProcessing) -> Result<Option<&mut dyn FrameSession>> {
        if self.colour() != Colour::Grey {
            return Ok(None);
        }
        let (window, probability) = (self.network.window, self.network.probability);
        self.session.frames(&FramePath { window, probability, source, post: *post })
    }

    fn describe(&self) -> serde_json::Value {
        serde_json::json!({
            "architecture": ARCHITECTURE,
            "configuration": self.config(),
            "weights": self.origin,
            "input_size": self.size,
            "device": self.device,
            "precision": self.precision,
            "arena_bytes": self.session.program().arena_len() * size_of::<f32>(),
        })
    }
}
