//! `coronet segment -`: frames from standard input, masks to standard output, each as soon as it is known.

use super::super::progress::{interrupted, listen_for_ctrl_c};
use super::super::{count, note};
use super::{Arguments, open_network};
use coronet::media::{FrameStream, MaskStream};
use coronet::post::PostProcessing;
use coronet::segment::{Delay, Latency, SegmentedFrame, StreamSegmenter, WindowNetwork};
use coronet::{Error, Result};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::time::Duration;

/// What errors call the streams.
const INPUT: &str = "standard input";
const OUTPUT: &str = "standard output";

/// Runs the verb on the standard streams.
pub fn run(arguments: &Arguments) -> Result<()> {
    listen_for_ctrl_c();
    let input = BufReader::with_capacity(1 << 20, io::stdin().lock());
    let mut frames = open(arguments, input)?;
    let mut network = open_network(arguments)?;
    let masks = frames.masks(io::stdout().lock());
    let times = segment(arguments, &mut frames, &mut *network, masks)?;
    if !arguments.quiet {
        let size = frames.size();
        let network = Latency::of(&times).map_or(String::new(), |latency| {
            format!("; network step {:.1} ms (median), {:.1} ms (p99)", latency.median, latency.p99)
        });
        note(&format!("coronet: {} of {size}{network}", count(times.len(), "mask")));
    }
    Ok(())
}

fn open<R: BufRead>(arguments: &Arguments, input: R) -> Result<FrameStream<R>> {
    match arguments.raw {
        Some(size) => Ok(FrameStream::raw(input, INPUT, size.0)),
        None => FrameStream::y4m(input, INPUT),
    }
}

/// Segments all frames; how long the network took for each.
fn segment<R: BufRead, W: Write>(
    arguments: &Arguments,
    frames: &mut FrameStream<R>,
    network: &mut dyn WindowNetwork,
    mut masks: MaskStream<W>,
) -> Result<Vec<Duration>> {
    let delay = if arguments.immediate { Delay::None } else { Delay::Neighbours };
    let post = PostProcessing { threshold: arguments.threshold, minimum_area: arguments.min_area };
    let mut segmenter = StreamSegmenter::new(network, frames.size(), post, delay)?;
    let mut times = Vec::new();
    let mut give = |segmented: SegmentedFrame, time: Duration| -> Result<bool> {
        times.push(time);
        is_read(masks.write(&segmented.mask))
    };
    let mut masks_given = 0;
    let stopped_after = |masks: usize| Error::InterruptedAfter(count(masks, "mask"));
    let mut go_on = true;
    while go_on {
        if interrupted() {
            return Err(stopped_after(masks_given));
        }
        let frame = match frames.next_frame() {
            Ok(Some(frame)) => frame,
            // Ctrl-C ends the one that gives the frames, too, at its end or in the middle of a frame.
            _ if interrupted() => return Err(stopped_after(masks_given)),
            Ok(None) => break,
            Err(error) => return Err(error),
        };
        if let Some(segmented) = segmenter.push(frame)? {
            go_on = give(segmented, segmenter.network_time())?;
            masks_given += 1;
        }
    }
    while go_on {
        if interrupted() {
            return Err(stopped_after(masks_given));
        }
        let Some(segmented) = segmenter.finish()? else { break };
        go_on = give(segmented, segmenter.network_time())?;
        masks_given += 1;
    }
    if go_on {
        is_read(masks.finish())?;
    }
    Ok(times)
}

/// Whether somebody reads what was written; whoever has gone away has had what it wanted.
fn is_read(written: io::Result<()>) -> Result<bool> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::io("write to", Path::new(OUTPUT))(error)),
    }
}
