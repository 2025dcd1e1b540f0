//! What is no clip, or a damaged one, is refused by name, and nothing is left behind.

use super::clips;
use super::place::Place;
use std::fs;
use std::path::Path;

/// The sentence about `input`, which must name it.
fn refusal(place: &Place, input: &Path) -> String {
    let sentence = place.refusal(&mut place.segment(input, 1, &place.at("out")));
    assert!(sentence.contains(input.to_str().unwrap()), "{} is not named: {sentence}", input.display());
    sentence
}

/// Refuses `whole` cut at many places, with the same sentence into a folder that is there already.
#[cfg(any(feature = "dicom", feature = "video"))]
fn cut_anywhere(place: &Place, whole: &Path, kept: impl Iterator<Item = usize>) -> Vec<(usize, String)> {
    let bytes = fs::read(whole).unwrap();
    let input = place.at("cut");
    place.weights(1);
    let sentences: Vec<_> = kept
        .map(|length| {
            fs::write(&input, &bytes[..length]).unwrap();
            (length, refusal(place, &input))
        })
        .collect();
    fs::create_dir(place.at("out")).unwrap();
    assert_eq!(Some(refusal(place, &input)), sentences.last().map(|(_, sentence)| sentence.clone()));
    sentences
}

#[test]
#[cfg(feature = "dicom")]
fn a_dicom_file_cut_anywhere_is_called_truncated() {
    let place = Place::new();
    let whole = clips::dicom(place.at("whole.dcm"), &clips::frames(5));
    let length = fs::metadata(&whole).unwrap().len() as usize;
    let header = length - 5 * clips::SIZE.area();
    let cuts = (132..header).step_by(37).chain([header, header + 1, length / 2, length - 3072, length - 1]);
    for (cut, sentence) in cut_anywhere(&place, &whole, cuts) {
        assert!(sentence.contains("truncated"), "{cut} of {length}: {sentence}");
    }
}

#[test]
#[cfg(feature = "video")]
fn a_video_cut_anywhere_is_called_truncated() {
    let place = Place::new();
    let whole = clips::video(place.at("whole.mp4"), &clips::frames(7));
    let length = fs::metadata(&whole).unwrap().len() as usize;
    let cuts = [12, 30, 40, 100, 500].into_iter().chain((1..20).map(|part| length * part / 20)).chain([length - 1]);
    for (cut, sentence) in cut_anywhere(&place, &whole, cuts) {
        assert!(sentence.contains("truncated") || sentence.contains("cut off"), "{cut} of {length}: {sentence}");
    }
}

#[test]
fn what_is_no_clip_is_refused_with_the_reason() {
    let place = Place::new();
    place.weights(1);
    fs::create_dir(place.at("nothing")).unwrap();
    fs::create_dir_all(place.at("notes/deeper")).unwrap();
    fs::write(place.at("notes/readme.png"), "text").unwrap();
    fs::write(place.at("text.mp4"), "This is a text, whatever its name says.\n".repeat(50)).unwrap();
    fs::write(place.at("short.mp4"), "ab").unwrap();
    fs::write(place.at("empty.dcm"), "").unwrap();
    fs::write(place.at("zeros.dcm"), [0; 5000]).unwrap();
    let no_video = if cfg!(feature = "video") { "is no DICOM, image or video file" } else { "feature `video`" };
    for (name, reason) in [
        ("nothing", ": the folder holds no png, jpg, bmp, tif or pgm image"),
        ("notes", ": the folder holds no png, jpg, bmp, tif or pgm image"),
        ("text.mp4", no_video),
        ("short.mp4", no_video),
        ("zeros.dcm", no_video),
        ("empty.dcm", ": the file is empty"),
        ("absent.dcm", "No such file or directory"),
        ("empty.dcm/below", "Not a directory"),
    ] {
        let sentence = refusal(&place, &place.at(name));
        assert!(sentence.contains(reason), "{name}: {sentence}");
    }
    assert_eq!(refusal(&place, Path::new("/dev/null")), "/dev/null: is neither a file nor a folder");
}

#[test]
fn frames_of_different_sizes_are_refused() {
    let place = Place::new();
    let folder = clips::folder(place.at("clip"), &clips::frames(4));
    let odd = folder.join("10.png");
    clips::png(&odd, &image::GrayImage::new(32, 48));
    let problem = "the image is 32x48, but the images before it are 64x48; a clip has one size";
    assert_eq!(refusal(&place, &odd.parent().unwrap().join("")).as_str(), format!("{}: {problem}", odd.display()));
}

#[test]
fn a_damaged_image_in_the_middle_is_named_and_takes_no_mask_with_it() {
    let place = Place::new();
    let folder = clips::folder(place.at("clip"), &clips::frames(9));
    let damaged = folder.join("12.png");
    let whole = fs::read(&damaged).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 0x55;
    for bytes in [&whole[..whole.len() / 2], &whole[..whole.len() - 20], &flipped] {
        fs::write(&damaged, bytes).unwrap();
        let sentence = refusal(&place, &folder);
        assert!(sentence.starts_with(&format!("{}: the PNG image is damaged", damaged.display())), "{sentence}");
    }
    // Frames 0 and 1 need no more than frame 2.
    place.segment(&folder, 1, &place.at("out")).args(["--frames", "0..2"]).assert().success();
}

#[test]
fn a_file_that_may_not_be_read_is_named() {
    let place = Place::new();
    let input = place.at("secret.png");
    clips::png(&input, &clips::frame(0));
    let mut permissions = fs::metadata(&input).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o000);
    fs::set_permissions(&input, permissions).unwrap();
    if fs::read(&input).is_ok() {
        eprintln!("skipped: root may read everything");
        return;
    }
    let sentence = refusal(&place, &input);
    assert!(sentence.starts_with("cannot read ") && sentence.contains("Permission denied"), "{sentence}");
}

#[test]
#[cfg(not(feature = "dicom"))]
fn without_the_feature_dicom_a_dicom_file_is_known_and_refused() {
    let place = Place::new();
    let mut bytes = vec![0; 128];
    bytes.extend_from_slice(b"DICM\x02\0\0\0UL\x04\0\0\0\0\0");
    fs::write(place.at("clip.dcm"), bytes).unwrap();
    let sentence = refusal(&place, &place.at("clip.dcm"));
    assert!(sentence.ends_with("is a DICOM file, which this build cannot read: build it with the feature `dicom`"));
}

#[test]
#[cfg(not(feature = "video"))]
fn without_the_feature_video_a_video_is_refused_with_the_features_name() {
    let place = Place::new();
    fs::write(place.at("clip.mp4"), b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom\0\0\0\x08mdat").unwrap();
    let sentence = refusal(&place, &place.at("clip.mp4"));
    assert!(sentence.ends_with("if it is a video, build Coronet with the feature `video`"), "{sentence}");
}
