//! A clip whose frame i is a plain grey i, and a network whose answer for a frame is a single vessel pixel, number i.

use coronet::media::{ClipInfo, ClipKind, ClipReader, Colour, Frame, Size};
use coronet::segment::{MaskSink, SegmentedFrame, WindowNetwork};
use coronet::{Error, Result};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Source and network have this size, so that nothing is interpolated.
pub const SIZE: Size = Size { width: 16, height: 12 };

/// What a stage does wrong at one frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    Error,
    Panic,
}

impl Fault {
    fn strike(self, stage: &str) -> Result<()> {
        match self {
            Fault::Error => Err(Error::Device(format!("the {stage} fails on purpose"))),
            Fault::Panic => panic!("the {stage} panics on purpose"),
        }
    }
}

/// Where and how something goes wrong, if at all.
pub type Trouble = Option<(usize, Fault)>;

fn strike(trouble: Trouble, at: usize, stage: &str) -> Result<()> {
    match trouble {
        Some((place, fault)) if place == at => fault.strike(stage),
        _ => Ok(()),
    }
}

/// A clip of frames 0, 1, 2, ...
pub struct Clip {
    pub info: ClipInfo,
    /// How many frames `next_frame` has handed over.
    pub read: Arc<AtomicUsize>,
    /// How many frames there really are.
    pub actual: usize,
    pub trouble: Trouble,
    pub colour: Colour,
    /// The number of a frame that is one column narrower than the others.
    pub narrow: Option<usize>,
}

impl Clip {
    pub fn of(frames: usize) -> Clip {
        let info = ClipInfo {
            kind: ClipKind::Images,
            size: SIZE,
            frames,
            frame_time: Some(std::time::Duration::from_millis(40)),
            description: "made up".into(),
        };
        Clip { info, read: Arc::default(), actual: frames, trouble: None, colour: Colour::Grey, narrow: None }
    }
}

impl ClipReader for Clip {
    fn info(&self) -> &ClipInfo {
        &self.info
    }

    fn next_frame(&mut self) -> Result<Option<Frame>> {
        let index = self.read.load(Ordering::SeqCst);
        strike(self.trouble, index, "reader")?;
        if index == self.actual {
            return Ok(None);
        }
        self.read.fetch_add(1, Ordering::SeqCst);
        let width = SIZE.width - usize::from(self.narrow == Some(index));
        let size = Size { width, ..SIZE };
        Frame::new(size, self.colour, vec![index as u8; size.area() * self.colour.samples()]).map(Some)
    }
}

/// Recognises the frames of a [`Clip`] by their grey.
pub struct Network {
    pub neighbours: usize,
    pub colour: Colour,
    /// The frames of every window it was given.
    pub windows: Arc<Mutex<Vec<Vec<usize>>>>,
    pub trouble: Trouble,
    /// Answers with this at pixel 17 of a frame.
    pub poison: Option<(usize, f32)>,
}

impl Network {
    pub fn with(neighbours: usize) -> Network {
        Network { neighbours, colour: Colour::Grey, windows: Arc::default(), trouble: None, poison: None }
    }
}

/// The grey that a prepared value came from.
fn grey(value: f32) -> usize {
    ((value + 1.6) / 3.2 * 255.0).round() as usize
}

impl WindowNetwork for Network {
    fn neighbours(&self) -> usize {
        self.neighbours
    }

    fn colour(&self) -> Colour {
        self.colour
    }

    fn input_size(&self) -> Size {
        SIZE
    }

    fn run(&mut self, window: &[&[f32]], probability: &mut [f32]) -> Result<()> {
        assert_eq!(window.len(), 2 * self.neighbours + 1);
        assert_eq!(probability.len(), SIZE.area());
        assert!(window.iter().all(|planes| planes.len() == self.colour.samples() * SIZE.area()));
        let seen: Vec<usize> = window.iter().map(|planes| grey(planes[planes.len() - 1])).collect();
        let middle = seen[self.neighbours];
        strike(self.trouble, middle, "network")?;
        self.windows.lock().unwrap().push(seen);
        probability.fill(0.25);
        probability[middle] = 0.75;
        if let Some((_, value)) = self.poison.filter(|(frame, _)| *frame == middle) {
            probability[17] = value;
        }
        Ok(())
    }

    fn describe(&self) -> serde_json::Value {
        serde_json::json!({ "device": "pretended", "neighbours": self.neighbours })
    }
}

/// Keeps what it is given.
#[derive(Default)]
pub struct Kept {
    pub frames: Vec<SegmentedFrame>,
    pub trouble: Trouble,
}

impl MaskSink for Kept {
    fn accept(&mut self, segmented: SegmentedFrame) -> Result<()> {
        strike(self.trouble, segmented.index, "sink")?;
        self.frames.push(segmented);
        Ok(())
    }
}
