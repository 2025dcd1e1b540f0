//! Clips and streams through a network whose device makes the masks by itself, from the frames as they were read: everything
//! must be as if the host did it.

use coronet::device::Device;
use coronet::media::{ClipInfo, ClipKind, ClipReader, Colour, Frame, FrameRange, Size};
use coronet::model::{CeNet, Config, Stem};
use coronet::post::{MinimumArea, PostProcessing, Threshold};
use coronet::segment::{
    Delay, EngineNetwork, MaskSink, SegmentOptions, SegmentedFrame, StreamSegmenter, WindowNetwork, segment_clip,
};
use coronet::weights::Weights;
use coronet::{Error, Result};

const SOURCE: Size = Size { width: 75, height: 58 };
const INPUT: Size = Size { width: 96, height: 96 };

/// The same network, of which the host gets to do all it can.
struct OnHost(EngineNetwork);

impl WindowNetwork for OnHost {
    fn neighbours(&self) -> usize {
        self.0.neighbours()
    }

    fn colour(&self) -> Colour {
        self.0.colour()
    }

    fn input_size(&self) -> Size {
        self.0.input_size()
    }

    fn run(&mut self, window: &[&[f32]], probability: &mut [f32]) -> Result<()> {
        self.0.run(window, probability)
    }

    fn describe(&self) -> serde_json::Value {
        self.0.describe()
    }
}

/// Keeps what it is given.
#[derive(Default)]
struct Kept(Vec<SegmentedFrame>);

impl MaskSink for Kept {
    fn accept(&mut self, segmented: SegmentedFrame) -> Result<()> {
        self.0.push(segmented);
        Ok(())
    }
}

fn network(device: &dyn Device, neighbours: usize, channels: usize) -> EngineNetwork {
    let weights = Weights::seeded(Config::new(4, Stem::Half, neighbours, channels).unwrap(), 1).unwrap();
    EngineNetwork::load(&weights, device, INPUT).unwrap()
}

/// Blots that move, in colour or not.
struct Clip {
    info: ClipInfo,
    next: usize,
    colour: Colour,
}

fn clip(frames: usize, colour: Colour) -> Clip {
    let description = "blots".into();
    let info = ClipInfo { kind: ClipKind::Images, size: SOURCE, frames, frame_time: None, description };
    Clip { info, next: 0, colour }
}

impl ClipReader for Clip {
    fn info(&self) -> &ClipInfo {
        &self.info
    }

    fn next_frame(&mut self) -> Result<Option<Frame>> {
        let number = self.next;
        self.next += 1;
        let sample = |at: usize| {
            let (x, y) = (at / self.colour.samples() % SOURCE.width, at / self.colour.samples() / SOURCE.width);
            let wave = (0.2 * x as f32 + 0.9 * number as f32).sin() + (0.3 * y as f32 - 0.1 * x as f32).cos();
            (127.0 + 60.0 * wave) as u8 ^ (at % 5) as u8
        };
        let samples = (0..SOURCE.area() * self.colour.samples()).map(sample).collect();
        if number == self.info.frames { Ok(None) } else { Frame::new(SOURCE, self.colour, samples).map(Some) }
    }
}

/// A threshold that half of the pixels reach, so that there are components of every size.
fn post(device: &dyn Device, neighbours: usize) -> PostProcessing {
    let options = SegmentOptions { probability: true, ..SegmentOptions::default() };
    let mut network = OnHost(network(device, neighbours, 1));
    let probability = segmented(&mut network, 1, Colour::Grey, &options).remove(0).probability;
    let mut values = probability.unwrap().values;
    values.sort_by(f32::total_cmp);
    PostProcessing {
        threshold: Threshold::new(values[values.len() / 2]).unwrap(),
        minimum_area: MinimumArea::Pixels(7),
    }
}

fn segmented(
    network: &mut dyn WindowNetwork,
    frames: usize,
    colour: Colour,
    options: &SegmentOptions,
) -> Vec<SegmentedFrame> {
    let mut kept = Kept::default();
    segment_clip(&mut clip(frames, colour), network, options, &mut kept, &()).unwrap();
    kept.0
}

/// Whether a network that reads so many channels leaves the frames to its device.
pub fn is_on_device(device: &dyn Device, channels: usize) -> bool {
    network(device, 0, channels).on_device(SOURCE, &PostProcessing::default()).unwrap().is_some()
}

/// Masks and probabilities are the host's, where the clip's ends are repeated, too.
pub fn check_clips(device: &dyn Device) {
    for (neighbours, total, colour, range) in [
        (1, 3, Colour::Rgb, None),
        (2, 4, Colour::Grey, None),
        (1, 5, Colour::Grey, Some(FrameRange { start: 2, end: 4 })),
    ] {
        let options = SegmentOptions { frames: range, post: post(device, neighbours), probability: true };
        let expected = segmented(&mut OnHost(network(device, neighbours, 1)), total, colour, &options);
        assert!(expected.iter().all(|frame| (1..SOURCE.area()).contains(&frame.mask.vessel_pixels())));
        let got = segmented(&mut network(device, neighbours, 1), total, colour, &options);
        assert!(got == expected, "N = {neighbours}, {total} frames, {range:?}");
    }
}

/// A second clip finds nothing of the first, and nobody brings a probability that was not asked for.
pub fn check_clips_after_another(device: &dyn Device) {
    let options = SegmentOptions { post: post(device, 1), ..SegmentOptions::default() };
    let mut network = network(device, 1, 1);
    let expected = segmented(&mut network, 2, Colour::Grey, &options);
    segmented(&mut network, 1, Colour::Rgb, &SegmentOptions::default());
    let again = segmented(&mut network, 2, Colour::Grey, &options);
    assert!(again == expected && again.iter().all(|frame| frame.probability.is_none()));
}

/// All masks of a stream, in their order.
fn streamed(network: &mut dyn WindowNetwork, post: PostProcessing, delay: Delay) -> Vec<SegmentedFrame> {
    let mut clip = clip(4, Colour::Grey);
    let mut segmenter = StreamSegmenter::new(network, SOURCE, post, delay).unwrap().with_probability();
    let mut frames = Vec::new();
    while let Some(frame) = clip.next_frame().unwrap() {
        frames.extend(segmenter.push(frame).unwrap());
    }
    while let Some(frame) = segmenter.finish().unwrap() {
        frames.push(frame);
    }
    frames
}

/// However soon masks leave, they are the host's.
pub fn check_streams(device: &dyn Device) {
    let post = post(device, 1);
    for delay in [Delay::Neighbours, Delay::None] {
        let expected = streamed(&mut OnHost(network(device, 1, 1)), post, delay);
        assert!(expected.len() == 4 && streamed(&mut network(device, 1, 1), post, delay) == expected, "{delay:?}");
    }
}

/// What goes wrong is said in the same words.
pub fn check_errors(device: &dyn Device) {
    let narrow = Frame::new(Size { width: 5, height: 4 }, Colour::Grey, vec![0; 20]).unwrap();
    let said = |network: &mut dyn WindowNetwork| {
        let segmenter = StreamSegmenter::new(network, SOURCE, PostProcessing::default(), Delay::Neighbours);
        segmenter.unwrap().push(narrow.clone()).unwrap_err().to_string()
    };
    assert_eq!(said(&mut network(device, 1, 1)), said(&mut OnHost(network(device, 1, 1))));

    let poisoned = || {
        let mut network = network(device, 1, 1);
        let CeNet { graph, parameters, .. } = CeNet::build(network.config(), 1, INPUT.height, INPUT.width).unwrap();
        let (_, bias) = *parameters.last().unwrap();
        network.session().write(bias, &vec![f32::NAN; graph.shape(bias).elements()]).unwrap();
        network
    };
    let said = |network: &mut dyn WindowNetwork| {
        let options = SegmentOptions { frames: Some(FrameRange { start: 1, end: 2 }), ..SegmentOptions::default() };
        let run = segment_clip(&mut clip(3, Colour::Grey), network, &options, &mut Kept::default(), &());
        let error = run.unwrap_err();
        assert!(matches!(error, Error::Network(_)), "{error:?}");
        error.to_string()
    };
    let expected = "the network produced NaN in frame 1 at column 0, row 0; check its weights";
    assert_eq!(said(&mut poisoned()), expected);
    assert_eq!(said(&mut OnHost(poisoned())), expected);
}
