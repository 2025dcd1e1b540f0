//! `coronet segment -`: frames from standard input, masks to standard output.

use super::clips::{self, SIZE, frames};
use super::place::{CORONET, Place, results, sentence, within};
use std::io::{Read, Write};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// The verb with small weights on the CPU.
fn segment(place: &Place, neighbours: usize, options: &[&str]) -> Command {
    let mut command = Command::new(CORONET);
    command.env_remove("RUST_BACKTRACE").args(["segment", "-", "--size", "96", "--device", "cpu", "--weights"]);
    command.arg(place.weights(neighbours)).args(options);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Gives it all bytes at once.
fn fed(mut command: Command, bytes: Vec<u8>) -> Output {
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let feeder = std::thread::spawn(move || {
        // A program that refuses need not read on.
        let _ = stdin.write_all(&bytes);
    });
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    output
}

fn raw(count: usize) -> Vec<u8> {
    frames(count).into_iter().flat_map(image::GrayImage::into_raw).collect()
}

const RAW: [&str; 2] = ["--raw", "64x48"];

/// The masks of the same frames as a clip.
fn masks_of_clip(place: &Place, neighbours: usize, count: usize) -> Vec<u8> {
    let (clip, out) = (clips::folder(place.at("clip"), &frames(count)), place.at("out"));
    let output = place.segment(&clip, neighbours, &out).arg("--quiet").output().unwrap();
    assert!(output.status.success());
    let results = results(&out);
    let mask = |bytes: &&[u8]| image::load_from_memory(bytes).unwrap().into_luma8().into_raw();
    within(&results, "masks").values().flat_map(mask).collect()
}

#[test]
fn masks_of_raw_frames_and_of_y4m_are_those_of_the_clip() {
    let place = Place::new();
    let expected = masks_of_clip(&place, 1, 5);
    assert_eq!(expected.len(), 5 * SIZE.area());
    assert!(expected.contains(&0) && expected.contains(&255));
    let output = fed(segment(&place, 1, &RAW), raw(5));
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && output.stdout == expected, "{err}");
    assert!(err.starts_with("coronet: 5 masks of 64x48; network step "), "{err}");

    let as_y4m = |header: &str, pixels: &[u8]| {
        let frames = pixels.chunks_exact(SIZE.area()).flat_map(|frame| [b"FRAME\n", frame].concat());
        header.bytes().chain(frames).collect::<Vec<u8>>()
    };
    let output = fed(segment(&place, 1, &["--quiet"]), as_y4m("YUV4MPEG2 W64 H48 F15:2 Cmono\n", &raw(5)));
    assert!(output.status.success() && output.stderr.is_empty());
    assert!(output.stdout == as_y4m("YUV4MPEG2 W64 H48 F15:2 Ip A1:1 Cmono XCOLORRANGE=FULL\n", &expected));
}

#[test]
fn an_empty_raw_stream_has_no_masks_and_one_of_y4m_without_frames_is_one_without_masks() {
    let place = Place::new();
    let output = fed(segment(&place, 1, &RAW), Vec::new());
    assert!(output.status.success() && output.stdout.is_empty());
    let output = fed(segment(&place, 1, &["--quiet"]), b"YUV4MPEG2 W64 H48 F15:2 Cmono\n".to_vec());
    assert!(output.status.success() && output.stderr.is_empty());
    assert_eq!(output.stdout, b"YUV4MPEG2 W64 H48 F15:2 Ip A1:1 Cmono XCOLORRANGE=FULL\n");
}

fn mask(child: &mut Child) -> Vec<u8> {
    let mut mask = vec![0; SIZE.area()];
    child.stdout.as_mut().unwrap().read_exact(&mut mask).unwrap();
    mask
}

#[test]
fn a_mask_leaves_before_the_next_frame_comes_and_the_last_ones_at_the_end() {
    let place = Place::new();
    let expected = masks_of_clip(&place, 1, 3);
    let raw = raw(3);
    let mut frames = raw.chunks_exact(SIZE.area());
    let mut child = segment(&place, 1, &RAW).spawn().unwrap();
    let mut give = |child: &mut Child| child.stdin.as_mut().unwrap().write_all(frames.next().unwrap()).unwrap();
    give(&mut child);
    for number in 0..2 {
        give(&mut child);
        assert!(mask(&mut child) == expected[number * SIZE.area()..][..SIZE.area()], "mask {number}");
    }
    drop(child.stdin.take());
    assert!(mask(&mut child) == expected[2 * SIZE.area()..]);
    assert!(child.wait().unwrap().success());

    // At once: one mask for one frame.
    let mut child = segment(&place, 1, &["--raw", "64x48", "--immediate"]).spawn().unwrap();
    for frame in raw.chunks_exact(SIZE.area()) {
        child.stdin.as_mut().unwrap().write_all(frame).unwrap();
        let mask = mask(&mut child);
        assert!(mask.iter().all(|pixel| matches!(pixel, 0 | 255)));
    }
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_stream_that_breaks_off_is_one_sentence_and_whole_masks() {
    let place = Place::new();
    let expected = masks_of_clip(&place, 1, 2);
    let mut bytes = raw(3);
    bytes.truncate(2 * SIZE.area() + 7);
    let output = fed(segment(&place, 1, &RAW), bytes);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        sentence(&String::from_utf8(output.stderr).unwrap()),
        "standard input: ends within frame 2, after 7 of 3072 bytes"
    );
    assert!(output.stdout == expected);

    let output = fed(segment(&place, 1, &[]), b"GIF89a".to_vec());
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    assert!(sentence(&String::from_utf8(output.stderr).unwrap()).contains("is no y4m stream"));
}

#[test]
fn a_reader_that_goes_away_ends_it_without_a_word() {
    let place = Place::new();
    let mut child = segment(&place, 0, &["--raw", "64x48", "--quiet"]).spawn().unwrap();
    drop(child.stdout.take());
    let output = {
        let mut stdin = child.stdin.take().unwrap();
        let _ = stdin.write_all(&raw(4));
        drop(stdin);
        child.wait_with_output().unwrap()
    };
    assert!(output.status.success() && output.stderr.is_empty());
}

/// Sends Ctrl-C to a process that listens to it, and waits until it has surely taken notice.
fn press_ctrl_c(child: &Child) {
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    std::thread::sleep(Duration::from_millis(500));
}

fn assert_stopped_after(output: &Output, masks: &str) {
    let err = std::str::from_utf8(&output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{err}");
    assert_eq!(sentence(err), format!("stopped before the end; {masks} complete, nothing was half-written"));
}

#[test]
fn ctrl_c_that_ends_the_one_that_gives_the_frames_ends_with_130() {
    let place = Place::new();
    for rest in [0, 7] {
        let mut child = segment(&place, 0, &RAW).spawn().unwrap();
        child.stdin.as_mut().unwrap().write_all(&raw(2)[..SIZE.area() + rest]).unwrap();
        mask(&mut child);
        press_ctrl_c(&child);
        // Now the stream ends, between frames and within one.
        drop(child.stdin.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.stdout.is_empty());
        assert_stopped_after(&output, "1 mask");
    }
}

#[test]
fn ctrl_c_is_heard_while_the_last_masks_are_made() {
    let place = Place::new();
    // Larger than what a pipe holds, so that each mask waits until it is read.
    let area = 1024 * 512;
    let mut child = segment(&place, 2, &["--raw", "1024x512"]).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&vec![90u8; 3 * area]).unwrap();
    let mut read = |bytes: usize| child.stdout.as_mut().unwrap().read_exact(&mut vec![0u8; bytes]).unwrap();
    read(area);
    drop(stdin);
    // The second of three is on its way.
    read(1);
    press_ctrl_c(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.stdout.len(), area - 1);
    assert_stopped_after(&output, "2 masks");
}

#[test]
fn options_of_clips_and_of_streams_do_not_mix() {
    let place = Place::new();
    let clip = clips::folder(place.at("clip"), &frames(2));
    let refused = |words: &[&str]| {
        let mut command = assert_cmd::Command::new(CORONET);
        let sentence = place.refusal(command.env_remove("RUST_BACKTRACE").arg("segment").args(words));
        command.assert().code(2);
        sentence
    };
    for options in [&["--out", "x"][..], &["--json"], &["--frames", "0..1"], &["--overwrite"], &["--probability"]] {
        let sentence = refused(&[&["-"], options].concat());
        assert!(sentence.contains("go to standard output") && sentence.ends_with("see --help"), "{sentence}");
    }
    let clip = clip.to_str().unwrap();
    for options in [&["--raw", "4x4"][..], &["--immediate"]] {
        let sentence = refused(&[&[clip, "--out", "x"], options].concat());
        assert!(sentence.starts_with("--raw and --immediate are for frames from standard input"), "{sentence}");
    }
    let sentence = refused(&[clip]);
    assert_eq!(sentence, "the following required arguments were not provided: --out <DIR>; see --help");
}
