//! Frames that come one by one: which windows the network sees, and when each mask leaves.

use super::fakes::{Clip, Network, SIZE};
use coronet::media::{ClipReader, Colour, Frame, Size};
use coronet::post::{MinimumArea, PostProcessing};
use coronet::segment::{Delay, SegmentedFrame, StreamSegmenter};

/// Keeps the single pixel that the pretended network marks.
fn post() -> PostProcessing {
    PostProcessing { minimum_area: MinimumArea::Pixels(0), ..Default::default() }
}

fn marked(segmented: &SegmentedFrame) -> Vec<usize> {
    (0..SIZE.area()).filter(|&i| segmented.mask.pixels[i] == 255).collect()
}

/// What each frame brings, as the numbers of masks, and what the end brings.
fn masks_of(network: &mut Network, total: usize, delay: Delay) -> (Vec<Option<usize>>, Vec<usize>) {
    let mut clip = Clip::of(total);
    let mut segmenter = StreamSegmenter::new(network, SIZE, post(), delay).unwrap();
    let number = |segmented: SegmentedFrame| {
        assert_eq!(marked(&segmented), [segmented.index]);
        assert!(segmented.frame.samples().iter().all(|&grey| usize::from(grey) == segmented.index));
        segmented.index
    };
    let mut with_frames = Vec::new();
    while let Some(frame) = clip.next_frame().unwrap() {
        with_frames.push(segmenter.push(frame).unwrap().map(number));
    }
    let mut at_the_end = Vec::new();
    while let Some(segmented) = segmenter.finish().unwrap() {
        at_the_end.push(number(segmented));
    }
    (with_frames, at_the_end)
}

/// The windows of a clip of `total` frames in which the network sees none behind `newest(middle)`.
fn windows(neighbours: usize, total: usize, newest: impl Fn(usize) -> usize) -> Vec<Vec<usize>> {
    let window = |middle: usize| {
        let before = (1..=neighbours).rev().map(|distance| middle.saturating_sub(distance));
        let after = (0..=neighbours).map(|distance| (middle + distance).min(newest(middle)));
        before.chain(after).collect()
    };
    (0..total).map(window).collect()
}

#[test]
fn each_mask_leaves_n_frames_later_with_the_windows_of_a_clip() {
    for neighbours in 0..=3 {
        for total in [0, 1, 2, 3, 5, 9] {
            let mut network = Network::with(neighbours);
            let (with_frames, at_the_end) = masks_of(&mut network, total, Delay::Neighbours);
            let expected: Vec<_> = (0..total).map(|index| index.checked_sub(neighbours)).collect();
            assert_eq!(with_frames, expected, "N={neighbours}, {total} frames");
            assert_eq!(at_the_end, (total.saturating_sub(neighbours)..total).collect::<Vec<_>>());
            let last = total.saturating_sub(1);
            assert_eq!(*network.windows.lock().unwrap(), windows(neighbours, total, |_| last));
        }
    }
}

#[test]
fn a_mask_leaves_at_once_with_the_newest_frame_repeated() {
    for neighbours in 0..=3 {
        let mut network = Network::with(neighbours);
        let (with_frames, at_the_end) = masks_of(&mut network, 6, Delay::None);
        assert_eq!(with_frames, (0..6).map(Some).collect::<Vec<_>>());
        assert!(at_the_end.is_empty());
        assert_eq!(*network.windows.lock().unwrap(), windows(neighbours, 6, |middle| middle));
    }
}

#[test]
fn frames_of_another_size_and_frames_after_the_end_are_refused() {
    let mut network = Network::with(1);
    let mut segmenter = StreamSegmenter::new(&mut network, SIZE, post(), Delay::Neighbours).unwrap();
    let frame = |size: Size| Frame::new(size, Colour::Grey, vec![0; size.area()]).unwrap();
    let narrow = Size { width: SIZE.width - 1, ..SIZE };
    assert!(segmenter.push(frame(narrow)).unwrap_err().to_string().contains("cannot be prepared"));
    // It has left nothing behind.
    assert!(segmenter.push(frame(SIZE)).unwrap().is_none());
    assert_eq!(segmenter.finish().unwrap().map(|segmented| segmented.index), Some(0));
    assert!(segmenter.finish().unwrap().is_none());
    let late = segmenter.push(frame(SIZE)).unwrap_err().to_string();
    assert_eq!(late, "a frame came after the end of the stream");
}

#[test]
fn numbers_that_are_none_are_an_error_with_the_frame() {
    let mut network = Network { poison: Some((1, f32::NAN)), ..Network::with(0) };
    let mut segmenter = StreamSegmenter::new(&mut network, SIZE, post(), Delay::None).unwrap();
    let frame = |grey: u8| Frame::new(SIZE, Colour::Grey, vec![grey; SIZE.area()]).unwrap();
    assert!(segmenter.push(frame(0)).unwrap().is_some());
    let problem = segmenter.push(frame(1)).unwrap_err().to_string();
    assert!(problem.starts_with("the network produced NaN in frame 1 at column "), "{problem}");
}

#[test]
fn a_frame_whose_mask_fails_has_none_and_the_next_ones_go_on() {
    for delay in [Delay::Neighbours, Delay::None] {
        let waiting = usize::from(delay == Delay::Neighbours);
        let mut network = Network { poison: Some((1, f32::NAN)), ..Network::with(1) };
        let mut segmenter = StreamSegmenter::new(&mut network, SIZE, post(), delay).unwrap();
        // The pretended network knows a frame by its grey: it fails for each of these, more of them than a window holds.
        let frame = |grey: u8| Frame::new(SIZE, Colour::Grey, vec![grey; SIZE.area()]).unwrap();
        let failed = |problem: coronet::Error, index: usize| {
            let start = format!("the network produced NaN in frame {index} at column ");
            assert!(problem.to_string().starts_with(&start), "{delay:?}: {problem}");
        };
        for arrived in 0..6 {
            match segmenter.push(frame(1)) {
                Ok(masks) => assert!(masks.is_none() && arrived < waiting, "{delay:?}: frame {arrived}"),
                Err(problem) => failed(problem, arrived - waiting),
            }
        }
        let segmented = match delay {
            Delay::Neighbours => {
                failed(segmenter.push(frame(2)).unwrap_err(), 5);
                segmenter.finish().unwrap().unwrap()
            }
            Delay::None => segmenter.push(frame(2)).unwrap().unwrap(),
        };
        assert_eq!((segmented.index, marked(&segmented)), (6, vec![2]), "{delay:?}");
        assert!(segmenter.finish().unwrap().is_none());
    }
    // Those that the end brings fail once, each.
    let mut network = Network { poison: Some((1, f32::INFINITY)), ..Network::with(2) };
    let mut segmenter = StreamSegmenter::new(&mut network, SIZE, post(), Delay::Neighbours).unwrap();
    for _ in 0..9 {
        let _ = segmenter.push(Frame::new(SIZE, Colour::Grey, vec![1; SIZE.area()]).unwrap());
    }
    for index in [7, 8] {
        let problem = segmenter.finish().unwrap_err().to_string();
        assert!(problem.contains(&format!("infinity in frame {index} at column ")), "{problem}");
    }
    assert!(segmenter.finish().unwrap().is_none());
}
