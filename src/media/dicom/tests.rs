use super::super::{ClipReader, open};
use super::fixture::*;
use dicom_core::VR;
use dicom_dictionary_std::{tags, uids};
use std::path::Path;
use std::time::Duration;

const AREA: usize = 16 * 8;

fn frames_of(path: &Path) -> Vec<Vec<u8>> {
    let mut clip = open(path).unwrap();
    let frames: Vec<_> =
        std::iter::from_fn(|| clip.next_frame().unwrap()).map(|frame| frame.samples().to_vec()).collect();
    assert_eq!(frames.len(), clip.info().frames);
    frames
}

fn refusal(path: &Path) -> String {
    match open(path) {
        Err(error) => error.to_string(),
        Ok(mut clip) => loop {
            match clip.next_frame() {
                Err(error) => break error.to_string(),
                Ok(frame) => assert!(frame.is_some(), "{} was read to its end", path.display()),
            }
        },
    }
}

fn in_folder(test: impl FnOnce(&Path)) {
    let folder = tempfile::tempdir().unwrap();
    test(&folder.path().join("clip.bin"));
}

fn jpeg(grey: u8) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let image = image::GrayImage::from_pixel(16, 8, image::Luma([grey]));
    image.write_to(&mut bytes, image::ImageFormat::Jpeg).unwrap();
    let mut bytes = bytes.into_inner();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[test]
fn eight_bit_frames_come_back_as_they_are_and_in_order() {
    in_folder(|path| {
        let pixels: Vec<u8> = (0..3 * AREA).map(|i| (i % 251) as u8).collect();
        save_bytes(path, image(3, 8, 8), &pixels);
        assert_eq!(frames_of(path), pixels.chunks(AREA).map(<[u8]>::to_vec).collect::<Vec<_>>());
        let clip = open(path).unwrap();
        assert_eq!(clip.info().frame_time, Some(Duration::from_micros(66_500)));
        assert_eq!(clip.info().description, "DICOM XA, Explicit VR Little Endian, 8 bit, MONOCHROME2");
    });
}

#[test]
fn a_preamble_may_begin_as_a_file_without_one_does() {
    in_folder(|path| {
        save_bytes(path, image(1, 8, 8), &[9; AREA]);
        let mut bytes = std::fs::read(path).unwrap();
        bytes[..8].copy_from_slice(b"\x02\0\0\0UL\x04\0");
        std::fs::write(path, bytes).unwrap();
        assert_eq!(frames_of(path), [[9; AREA]]);
    });
}

#[test]
fn monochrome1_is_inverted() {
    in_folder(|path| {
        let mut object = image(1, 8, 8);
        text(&mut object, tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME1");
        save_bytes(path, object, &[10; AREA]);
        assert_eq!(frames_of(path), [[245; AREA]]);
    });
}

#[test]
fn the_first_window_decides_and_values_outside_of_it_saturate() {
    in_folder(|path| {
        let mut object = image(1, 16, 12);
        text(&mut object, tags::WINDOW_CENTER, VR::DS, "1128\\5");
        text(&mut object, tags::WINDOW_WIDTH, VR::DS, "256\\7");
        let pixels: Vec<u16> = (0..AREA as u16).map(|i| 900 + 4 * i).collect();
        save_words(path, object, &pixels);
        let expected: Vec<u8> = pixels.iter().map(|&v| (i32::from(v) - 1000).clamp(0, 255) as u8).collect();
        assert_eq!(frames_of(path), [expected]);
    });
}

#[test]
fn without_a_window_deep_values_stretch_from_the_clips_lowest_to_its_highest() {
    in_folder(|path| {
        let mut pixels = vec![500u16; 2 * AREA];
        pixels[0] = 400;
        pixels[2 * AREA - 1] = 655;
        save_words(path, image(2, 16, 12), &pixels);
        let frames = frames_of(path);
        assert_eq!((frames[0][0], frames[0][1]), (0, 100));
        assert_eq!((frames[1][0], frames[1][AREA - 1]), (100, 255));
    });
}

#[test]
fn signed_values_are_rescaled_before_the_window() {
    in_folder(|path| {
        let mut object = image(1, 16, 16);
        number(&mut object, tags::PIXEL_REPRESENTATION, 1);
        text(&mut object, tags::RESCALE_SLOPE, VR::DS, "2");
        text(&mut object, tags::RESCALE_INTERCEPT, VR::DS, "328");
        text(&mut object, tags::WINDOW_CENTER, VR::DS, "128");
        text(&mut object, tags::WINDOW_WIDTH, VR::DS, "256");
        save_words(path, object, &[-100i16 as u16; AREA]);
        assert_eq!(frames_of(path), [[128; AREA]]);
    });
}

#[test]
fn a_voi_lut_maps_values_and_clamps_at_its_ends() {
    in_folder(|path| {
        let mut object = image(1, 16, 12);
        voi_lut(&mut object, 100, 12, &[0, 819, 1638, 4095]);
        let mut pixels = vec![0u16; AREA];
        pixels[..6].copy_from_slice(&[99, 100, 101, 102, 103, 4000]);
        save_words(path, object, &pixels);
        assert_eq!(frames_of(path)[0][..6], [0, 0, 51, 102, 255, 255]);
    });
}

#[test]
fn a_voi_lut_begins_at_a_value_behind_the_modality_step() {
    let entries = [0, 819, 1638, 4095];
    let shown_first = |path: &Path| frames_of(path)[0][..4].to_vec();
    in_folder(|path| {
        // Unsigned pixels, rescaled to values below 0.
        let mut object = image(1, 16, 12);
        text(&mut object, tags::RESCALE_SLOPE, VR::DS, "1");
        text(&mut object, tags::RESCALE_INTERCEPT, VR::DS, "-1024");
        voi_lut(&mut object, -1024i16 as u16, 12, &entries);
        let mut pixels = vec![0u16; AREA];
        pixels[..4].copy_from_slice(&[0, 1, 2, 3]);
        save_words(path, object, &pixels);
        assert_eq!(shown_first(path), [0, 51, 102, 255]);
        // Signed pixels, which a table makes values above 32767.
        let mut object = image(1, 16, 16);
        number(&mut object, tags::PIXEL_REPRESENTATION, 1);
        lut(&mut object, tags::MODALITY_LUT_SEQUENCE, -2i16 as u16, 16, &[40_000, 40_001, 40_002, 40_003]);
        voi_lut(&mut object, 40_000, 12, &entries);
        pixels[..4].copy_from_slice(&[-2i16 as u16, -1i16 as u16, 0, 1]);
        save_words(path, object, &pixels);
        assert_eq!(shown_first(path), [0, 51, 102, 255]);
    });
}

#[test]
fn run_length_frames_of_two_bytes_come_back() {
    in_folder(|path| {
        let mut object = image(2, 16, 16);
        text(&mut object, tags::WINDOW_CENTER, VR::DS, "32768");
        text(&mut object, tags::WINDOW_WIDTH, VR::DS, "65536");
        let frame = |high: u8| run_length(&[vec![high; AREA], vec![high; AREA]]);
        save_fragments(path, object, uids::RLE_LOSSLESS, vec![], vec![frame(7), frame(200)]);
        assert_eq!(frames_of(path), [[7; AREA], [200; AREA]]);
    });
}

/// A 16-bit image whose window shows the values 257 i as i.
fn deep_image() -> dicom_object::InMemDicomObject {
    let mut object = image(1, 16, 16);
    text(&mut object, tags::WINDOW_CENTER, VR::DS, "32768");
    text(&mut object, tags::WINDOW_WIDTH, VR::DS, "65536");
    object
}

fn deep_samples() -> Vec<u16> {
    (0..AREA as u16).map(|i| 257 * (i * i % 256)).collect()
}

fn shown(samples: &[u16]) -> Vec<u8> {
    samples.iter().map(|sample| (sample / 257) as u8).collect()
}

#[test]
fn jpeg_lossless_comes_back_exactly_in_8_and_16_bits() {
    for syntax in [uids::JPEG_LOSSLESS, uids::JPEG_LOSSLESS_SV1] {
        in_folder(|path| {
            let samples: Vec<u16> = (0..AREA as u16).map(|i| i * i % 256).collect();
            let frames = vec![jpeg_lossless(&samples, 16, 8), jpeg_lossless(&[255; AREA], 16, 8)];
            save_fragments(path, image(2, 8, 8), syntax, vec![], frames);
            let expected = samples.iter().map(|&sample| sample as u8).collect::<Vec<_>>();
            assert_eq!(frames_of(path), [expected, vec![255; AREA]]);

            let frame = jpeg_lossless(&deep_samples(), 16, 16);
            save_fragments(path, deep_image(), syntax, vec![], vec![frame]);
            assert_eq!(frames_of(path), [shown(&deep_samples())]);
        });
    }
}

#[test]
fn lossless_jpeg_of_which_its_decoder_gives_wrong_values_is_refused() {
    let plain = jpeg_lossless(&[7; AREA], 16, 8);
    let with_interval = |samples: u8| [&plain[..2], &[0xFF, 0xDD, 0, 4, 0, samples], &plain[2..]].concat();
    let mut shifted = plain.clone();
    let scan = shifted.windows(2).position(|marker| marker == [0xFF, 0xDA]).unwrap();
    shifted[scan + 9] = 1;
    in_folder(|path| {
        save_fragments(path, image(1, 8, 8), uids::JPEG_LOSSLESS_SV1, vec![], vec![with_interval(0)]);
        assert_eq!(frames_of(path), [[7; AREA]]);
        for (frame, what) in [(with_interval(16), "restart markers"), (shifted, "a point transform")] {
            save_fragments(path, image(1, 8, 8), uids::JPEG_LOSSLESS_SV1, vec![], vec![frame]);
            let expected = format!("frame 0 cannot be decoded: it is lossless JPEG with {what}, which is not read");
            assert!(refusal(path).contains(&expected), "{}", refusal(path));
        }
    });
}

#[test]
fn jpeg_ls_comes_back_exactly() {
    in_folder(|path| {
        let frame = encoded_by_the_registry(deep_image(), &deep_samples(), uids::JPEGLS_LOSSLESS);
        save_fragments(path, deep_image(), uids::JPEGLS_LOSSLESS, vec![], vec![frame]);
        assert_eq!(frames_of(path), [shown(&deep_samples())]);
    });
}

/// A JPEG 2000 frame of 16x8 pixels, from FFmpeg, which has the only encoder at hand; `None` where it lacks it.
#[cfg(feature = "video")]
fn jpeg_2000(format: ffmpeg_next::format::Pixel, planes: &[&[u8]]) -> Option<Vec<u8>> {
    use ffmpeg_next as ffmpeg;
    let Some(codec) = ffmpeg::encoder::find_by_name("libopenjpeg") else {
        println!("skipped: this FFmpeg has no encoder libopenjpeg");
        return None;
    };
    let mut encoder = ffmpeg::codec::Context::new_with_codec(codec).encoder().video().unwrap();
    encoder.set_width(16);
    encoder.set_height(8);
    encoder.set_format(format);
    encoder.set_time_base((1, 25));
    let options = [("format", "j2k"), ("irreversible", "0"), ("numresolution", "3")];
    let mut encoder = encoder.open_with(options.into_iter().collect()).unwrap();
    let mut picture = ffmpeg::frame::Video::new(format, 16, 8);
    for (index, plane) in planes.iter().enumerate() {
        let stride = picture.stride(index);
        for (row, source) in picture.data_mut(index).chunks_mut(stride).zip(plane.chunks(16)) {
            row[..16].copy_from_slice(source);
        }
    }
    encoder.send_frame(&picture).unwrap();
    encoder.send_eof().unwrap();
    let mut packet = ffmpeg::Packet::empty();
    encoder.receive_packet(&mut packet).unwrap();
    let mut frame = packet.data().unwrap().to_vec();
    frame.resize(frame.len().next_multiple_of(2), 0);
    Some(frame)
}

#[test]
#[cfg(feature = "video")]
fn jpeg_2000_comes_back_exactly() {
    let grey: Vec<u8> = (0..AREA).map(|i| (i * i % 256) as u8).collect();
    let Some(frame) = jpeg_2000(ffmpeg_next::format::Pixel::GRAY8, &[&grey]) else { return };
    in_folder(|path| {
        save_fragments(path, image(1, 8, 8), uids::JPEG2000_LOSSLESS, vec![], vec![frame]);
        assert_eq!(frames_of(path), [grey]);
    });
}

/// A colour image of one frame.
fn colour_image(photometric: &str) -> dicom_object::InMemDicomObject {
    let mut object = image(1, 8, 8);
    number(&mut object, tags::SAMPLES_PER_PIXEL, 3);
    number(&mut object, tags::PLANAR_CONFIGURATION, 0);
    text(&mut object, tags::PHOTOMETRIC_INTERPRETATION, VR::CS, photometric);
    object
}

/// Luminance and colour differences of a red, and the red itself.
const RED: ([u8; 3], [u8; 3]) = ([81, 90, 240], [238, 14, 14]);

#[test]
fn colour_differences_in_lossless_jpeg_become_colours() {
    in_folder(|path| {
        let frame = jpeg_lossless_of(3, &RED.0.map(u16::from).repeat(AREA), 16, 8);
        for (photometric, shown) in [("YBR_FULL", RED.1), ("RGB", RED.0)] {
            save_fragments(path, colour_image(photometric), uids::JPEG_LOSSLESS_SV1, vec![], vec![frame.clone()]);
            assert_eq!(frames_of(path), [shown.repeat(AREA)]);
        }
    });
}

#[test]
#[cfg(feature = "video")]
fn colour_differences_in_jpeg_2000_become_colours() {
    let planes = RED.0.map(|value| vec![value; AREA]);
    let planes = planes.each_ref().map(Vec::as_slice);
    let Some(frame) = jpeg_2000(ffmpeg_next::format::Pixel::YUV444P, &planes) else { return };
    in_folder(|path| {
        save_fragments(path, colour_image("YBR_FULL"), uids::JPEG2000_LOSSLESS, vec![], vec![frame]);
        assert_eq!(frames_of(path), [RED.1.repeat(AREA)]);
    });
}

#[test]
fn frames_in_several_fragments_are_put_together_with_and_without_an_offset_table() {
    let mut fragments = Vec::new();
    let mut offsets = Vec::new();
    let mut offset = 0;
    for grey in [10, 120, 240] {
        offsets.push(offset);
        let bytes = jpeg(grey);
        for piece in bytes.chunks(bytes.len() / 4 * 2) {
            offset += 8 + piece.len() as u32;
            fragments.push(piece.to_vec());
        }
    }
    for table in [vec![], offsets, vec![0, 1, 2]] {
        in_folder(|path| {
            save_fragments(path, image(3, 8, 8), uids::JPEG_BASELINE8_BIT, table, fragments.clone());
            let greys: Vec<u8> = frames_of(path).iter().map(|frame| frame[0]).collect();
            assert_eq!(greys, [10, 120, 240]);
        });
    }
}

#[test]
fn a_frame_of_another_size_than_the_header_says_is_an_error() {
    in_folder(|path| {
        let mut object = image(1, 8, 8);
        number(&mut object, tags::ROWS, 16);
        save_fragments(path, object, uids::JPEG_BASELINE8_BIT, vec![], vec![jpeg(9)]);
        assert!(refusal(path).ends_with("frame 0 cannot be decoded: it is 16x8, but the clip is 16x16"));
    });
}

#[test]
fn a_frame_count_that_disagrees_with_the_pixel_data_is_an_error() {
    in_folder(|path| {
        save_bytes(path, image(3, 8, 8), &[0; 2 * AREA]);
        assert!(refusal(path).contains("states 3 frame(s) of 16x8, which take 384 bytes, but the pixel data has 256"));
        save_fragments(path, image(3, 8, 8), uids::JPEG_BASELINE8_BIT, vec![], vec![jpeg(9), jpeg(9)]);
        assert!(refusal(path).contains("states 3 frame(s), but the pixel data holds 2"));
    });
}

#[test]
fn a_video_inside_dicom_is_refused_by_name() {
    in_folder(|path| {
        save_fragments(path, image(1, 8, 8), uids::MPEG4HP41, vec![], vec![vec![0; 8]]);
        assert!(refusal(path).contains("has the transfer syntax MPEG-4 AVC/H.264"));
    });
}

#[test]
fn a_file_cut_anywhere_gives_one_sentence_and_no_panic() {
    in_folder(|path| {
        let files: [&dyn Fn(); 3] = [
            &|| save_bytes(path, image(2, 8, 8), &[77; 2 * AREA]),
            &|| save_fragments(path, image(2, 8, 8), uids::JPEG_BASELINE8_BIT, vec![], vec![jpeg(9), jpeg(8)]),
            &|| {
                let frame = run_length(&[vec![3; AREA]]);
                save_fragments(path, image(2, 8, 8), uids::RLE_LOSSLESS, vec![], vec![frame.clone(), frame]);
            },
        ];
        for save in files {
            save();
            let whole = std::fs::read(path).unwrap();
            for length in (140..whole.len()).step_by(7) {
                std::fs::write(path, &whole[..length]).unwrap();
                let sentence = refusal(path);
                assert!(sentence.contains("truncated") && !sentence.contains('\n'), "{length}: {sentence}");
            }
        }
    });
}

#[test]
fn damaged_bytes_never_panic() {
    in_folder(|path| {
        let frame = run_length(&[vec![3; AREA]]);
        save_fragments(path, image(2, 8, 8), uids::RLE_LOSSLESS, vec![], vec![frame.clone(), frame]);
        let whole = std::fs::read(path).unwrap();
        for at in (128..whole.len()).step_by(5) {
            for value in [0, 0xFF] {
                let mut damaged = whole.clone();
                damaged[at] = value;
                std::fs::write(path, &damaged).unwrap();
                if let Ok(mut clip) = open(path) {
                    while let Ok(Some(_)) = clip.next_frame() {}
                }
            }
        }
    });
}

#[test]
fn a_deflated_data_set_is_inflated() {
    in_folder(|path| {
        let pixels: Vec<u8> = (0..2 * AREA).map(|i| (i % 251) as u8).collect();
        save_deflated(path, image(2, 8, 8), &pixels);
        assert_eq!(frames_of(path), pixels.chunks(AREA).map(<[u8]>::to_vec).collect::<Vec<_>>());
    });
}

#[test]
fn a_header_can_neither_fill_the_stack_nor_the_memory() {
    // A sequence and an item in it, both without a length, and their ends.
    let (begin, end) = (
        b"\x08\0\x40\x11SQ\0\0\xFF\xFF\xFF\xFF\xFE\xFF\0\xE0\xFF\xFF\xFF\xFF",
        b"\xFE\xFF\x0D\xE0\0\0\0\0\xFE\xFF\xDD\xE0\0\0\0\0",
    );
    let nested = |depth: usize| [begin.repeat(depth), end.repeat(depth)].concat();
    in_folder(|path| {
        let save_with = |more: &[u8]| {
            save_bytes(path, image(1, 8, 8), &[9; AREA]);
            let whole = std::fs::read(path).unwrap();
            let at = whole.windows(6).position(|bytes| bytes == b"\xE0\x7F\x10\0OB").unwrap();
            std::fs::write(path, [&whole[..at], more, &whole[at..]].concat()).unwrap();
        };
        save_with(&nested(64));
        assert_eq!(frames_of(path), [[9; AREA]]);
        save_with(&nested(20_000));
        assert!(refusal(path).ends_with("truncated or damaged: its sequences are nested more than 64 deep"));
        save_with(b"\x08\0\x08\0OB\0\0\xF0\xFF\xFF\xFF");
        let too_long = "truncated or damaged: an element of 4294967280 bytes is longer than the file";
        assert!(refusal(path).ends_with(too_long));
        // The transfer syntax as text, which may be of any length.
        let mut whole = std::fs::read(path).unwrap();
        let at = whole.windows(6).position(|bytes| bytes == b"\x02\0\x10\0UI").unwrap();
        whole[at + 4..at + 12].copy_from_slice(b"UT\0\0\xF0\xFF\xFF\xFF");
        std::fs::write(path, whole).unwrap();
        assert!(refusal(path).ends_with(too_long));
    });
}

#[test]
fn an_item_outside_of_a_sequence_is_an_error() {
    in_folder(|path| {
        save_bytes(path, image(1, 8, 8), &[9; AREA]);
        let whole = std::fs::read(path).unwrap();
        let at = whole.windows(6).position(|bytes| bytes == b"\xE0\x7F\x10\0OB").unwrap();
        let item = b"\xFE\xFF\x0D\xE0\0\0\0\0\xFE\xFF\0\xE0\0\0\0\0";
        std::fs::write(path, [&whole[..at], item, &whole[at..]].concat()).unwrap();
        assert!(refusal(path).ends_with("the decoder gave up on damaged data"));
    });
}

#[test]
fn the_real_cine_has_96_frames_that_differ() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/rca_cine.dcm");
    if !path.exists() {
        println!("skipped: {} is not there", path.display());
        return;
    }
    let clip = super::DicomReader::open(&path).unwrap();
    let info = clip.info().clone();
    assert_eq!((info.frames, info.size.width, info.size.height), (96, 512, 512));
    assert_eq!(info.frame_time, Some(Duration::from_millis(33)));
    let frames = frames_of(&path);
    assert!(frames.windows(2).all(|pair| pair[0] != pair[1]));
    let mean = |frame: &[u8]| frame.iter().map(|&v| u64::from(v)).sum::<u64>() / frame.len() as u64;
    assert!(frames.iter().all(|frame| (60..120).contains(&mean(frame))));
}
