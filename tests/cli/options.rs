//! Options that make no sense are refused in one line, like everything else.

use super::clips;
use super::place::Place;
use assert_cmd::Command;

/// What `coronet segment` says about `extra` for a clip of five frames.
fn refusal(extra: &[&str]) -> String {
    let place = Place::new();
    let input = clips::folder(place.at("clip"), &clips::frames(5));
    place.refusal(place.segment(&input, 1, &place.at("out")).args(extra))
}

#[test]
fn ranges_outside_of_the_clip_are_refused_with_the_clips_own() {
    for (range, problem) in [
        ("3..6", "frames 3..6 reach beyond the clip; the clip has 5 frames, 0..5"),
        ("5..6", "frames 5..6 reach beyond the clip; the clip has 5 frames, 0..5"),
        ("3..3", "frames 3..3 are none at all (the end is not included); the clip has 5 frames, 0..5"),
        ("4..2", "frames 4..2 are none at all (the end is not included); the clip has 5 frames, 0..5"),
    ] {
        assert_eq!(refusal(&["--frames", range]), problem);
    }
}

#[test]
fn values_that_are_none_are_wrong_usage_and_still_one_line() {
    for (arguments, problem) in [
        (["--threshold", "NaN"], "a threshold lies between 0 and 1, not NaN"),
        (["--threshold", "2"], "a threshold lies between 0 and 1, not 2"),
        (["--threshold", "-0.1"], "a threshold lies between 0 and 1, not -0.1"),
        (["--threshold", "half"], "'half'"),
        (["--frames", "7"], "'7' is not a range of frames such as 10..20"),
        (["--frames", "-1..3"], "'-1..3' is not a range of frames such as 10..20"),
        (["--min-area", "-3"], "'-3' is not an area"),
        (["--threads", "0"], "zero"),
        (["--treshold", "0.5"], "similar argument exists: '--threshold'"),
    ] {
        let sentence = refusal(&arguments);
        assert!(sentence.contains(problem) && sentence.ends_with("see --help"), "{arguments:?}: {sentence}");
    }
}

#[test]
fn what_is_missing_is_named_in_one_line() {
    let place = Place::new();
    let mut command = Command::new(super::place::CORONET);
    let sentence = place.refusal(command.args(["segment", "clip.dcm"]).current_dir(place.path()));
    assert!(sentence.contains("--out <DIR>") && sentence.ends_with("see --help"), "{sentence}");
    let mut command = Command::new(super::place::CORONET);
    let sentence = place.refusal(command.arg("segmnt").current_dir(place.path()));
    assert!(sentence.contains("'segmnt'") && sentence.contains("'segment'"), "{sentence}");
}

#[test]
fn sizes_that_the_network_cannot_work_on_are_refused_with_ones_that_it_can() {
    let place = Place::new();
    let input = clips::folder(place.at("clip"), &clips::frames(1));
    let said = |side| {
        let mut command = place.segment_with(&input, &place.weights(1), &place.at("out"), side);
        place.refusal(&mut command)
    };
    assert_eq!(
        said(80),
        "an input of 80x80 is too small: with stem half both sides must be at least 96, \
         so that the pooling of 6x6 cells finds a bottleneck of 6x6"
    );
    assert_eq!(
        said(100),
        "an input of 100x100 does not fit: with stem half both sides must be multiples of 16 of at least 96"
    );
    said(8);
    assert_eq!(
        said(16_000_000),
        "an input of 16000000x16000000 is too large: sides of up to 16384 pixels are possible"
    );
}
