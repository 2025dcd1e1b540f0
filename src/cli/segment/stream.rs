//! `coronet segment -`: frames from standard input, masks to standard output, each as soon as it is known.

use super::super::progress::{interrupted, listen_for_ctrl_c};
use super::super::{count, note};
use super::{Arguments, open_network};
use coronet::media::{FrameStream, MaskStream};
use coronet::post::PostProcessing;
use coronet::segment::{Delay, Latency, SegmentedFrame, StreamSegmenter, WindowNetwork};
use coronet::{Error, Result};
use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::time::Duration;

/// What errors call the streams.
const INPUT: &str = "standard input";
const OUTPUT: &str = "standard output";
/// Masks whose times are kept, the last ones: a stream may never end.
const TIMED: usize = 1 << 16;

/// How long the network took for the last masks.
#[derive(Debug, Default)]
struct Times {
    last: VecDeque<Duration>,
    /// All masks so far.
    masks: usize,
}

impl Times {
    fn take(&mut self, time: Duration) {
        if self.last.len() == TIMED {
            self.last.pop_front();
        }
        self.last.push_back(time);
        self.masks += 1;
    }

    /// `; network step 3.1 ms (median), 3.4 ms (p99)`; nothing without a mask.
    fn words(&mut self) -> String {
        let of_last = if self.masks > TIMED { format!(" of the last {TIMED}") } else { String::new() };
        Latency::of(self.last.make_contiguous()).map_or(String::new(), |latency| {
            format!("; network step {:.1} ms (median), {:.1} ms (p99){of_last}", latency.median, latency.p99)
        })
    }
}

/// Runs the verb on the standard streams.
pub fn run(arguments: &Arguments) -> Result<()> {
    listen_for_ctrl_c();
    let input = BufReader::with_capacity(1 << 20, io::stdin().lock());
    // Ctrl-C ends the one that gives the frames, too, perhaps before the first.
    let as_stopped = |error| if interrupted() { stopped_after(0) } else { error };
    let mut frames = open(arguments, input).map_err(as_stopped)?;
    let mut network = open_network(arguments)?;
    let masks = frames.masks(io::stdout().lock());
    let mut times = segment(arguments, &mut frames, &mut *network, masks)?;
    if !arguments.quiet {
        let size = frames.size();
        note(&format!("coronet: {} of {size}{}", count(times.masks, "mask"), times.words()));
    }
    Ok(())
}

fn stopped_after(masks: usize) -> Error {
    Error::InterruptedAfter(count(masks, "mask"))
}

fn open<R: BufRead>(arguments: &Arguments, input: R) -> Result<FrameStream<R>> {
    match arguments.raw {
        Some(size) => Ok(FrameStream::raw(input, INPUT, size.0)),
        None => FrameStream::y4m(input, INPUT),
    }
}

/// Segments all frames, and where the stream breaks off those that came whole; how long the network took.
fn segment<R: BufRead, W: Write>(
    arguments: &Arguments,
    frames: &mut FrameStream<R>,
    network: &mut dyn WindowNetwork,
    mut masks: MaskStream<W>,
) -> Result<Times> {
    let delay = if arguments.immediate { Delay::None } else { Delay::Neighbours };
    let post = PostProcessing { threshold: arguments.threshold, minimum_area: arguments.min_area };
    let mut segmenter = StreamSegmenter::new(network, frames.size(), post, delay)?;
    let mut times = Times::default();
    let mut give = |segmented: SegmentedFrame| is_read(masks.write(&segmented.mask));
    let (mut go_on, mut broken_off) = (true, None);
    while go_on {
        if interrupted() {
            return Err(stopped_after(times.masks));
        }
        let frame = match frames.next_frame() {
            Ok(Some(frame)) => frame,
            // Ctrl-C ends the one that gives the frames, too, at its end or in the middle of a frame.
            _ if interrupted() => return Err(stopped_after(times.masks)),
            Ok(None) => break,
            Err(error) => {
                broken_off = Some(error);
                break;
            }
        };
        if let Some(segmented) = segmenter.push(frame)? {
            go_on = give(segmented)?;
            times.take(segmenter.network_time());
        }
    }
    while go_on {
        if interrupted() {
            return Err(stopped_after(times.masks));
        }
        let Some(segmented) = segmenter.finish()? else { break };
        go_on = give(segmented)?;
        times.take(segmenter.network_time());
    }
    if go_on {
        is_read(masks.finish())?;
    }
    broken_off.map_or(Ok(times), Err)
}

/// Whether somebody reads what was written; whoever has gone away has had what it wanted.
fn is_read(written: io::Result<()>) -> Result<bool> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::io("write to", Path::new(OUTPUT))(error)),
    }
}
