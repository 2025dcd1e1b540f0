//! Readers and the writer, each on clips in which every frame is recognisable.

use super::*;
use image::{GrayImage, ImageBuffer, Luma};
use std::fs;

/// Eight bars, black or white: the bits of the index.
fn coded(index: usize, size: Size) -> Frame {
    let bar = |x: usize| if index >> (x * 8 / size.width) & 1 == 1 { 220 } else { 30 };
    let samples = (0..size.area()).map(|i| bar(i % size.width)).collect();
    Frame::new(size, Colour::Grey, samples).unwrap()
}

fn index_of(frame: Frame) -> usize {
    let size = frame.size();
    let grey = frame.into_grey();
    let middle = |bar: usize| grey.samples()[size.height / 2 * size.width + (2 * bar + 1) * size.width / 16];
    (0..8).map(|bar| usize::from(middle(bar) > 125) << bar).sum()
}

fn indices_in(path: &Path) -> Vec<usize> {
    let mut clip = open(path).unwrap();
    let indices: Vec<usize> = std::iter::from_fn(|| clip.next_frame().unwrap()).map(index_of).collect();
    assert_eq!(indices.len(), clip.info().frames);
    indices
}

fn refusal(path: &Path) -> String {
    let sentence = open(path).err().unwrap_or_else(|| panic!("{} was opened", path.display())).to_string();
    assert!(!sentence.contains('\n'), "{sentence}");
    sentence
}

const SIZE: Size = Size { width: 96, height: 64 };

fn save_png(path: &Path, frame: &Frame) {
    let (width, height) = (frame.size().width as u32, frame.size().height as u32);
    let image = GrayImage::from_raw(width, height, frame.samples().to_vec()).unwrap();
    image.save_with_format(path, image::ImageFormat::Png).unwrap();
}

#[test]
fn a_folder_is_read_in_natural_order_and_only_its_images() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for i in 0..12 {
        save_png(&at(&format!("frame{i}.dat")), &coded(i, SIZE));
    }
    fs::write(at("notes.png"), "not an image").unwrap();
    save_png(&at(".hidden.png"), &coded(99, Size { width: 8, height: 8 }));
    fs::create_dir(at("frame3.png")).unwrap();
    assert_eq!(indices_in(folder.path()), (0..12).collect::<Vec<_>>());
}

#[test]
fn one_image_is_a_clip_of_one_frame_in_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let image = GrayImage::from_raw(96, 64, coded(5, SIZE).samples().to_vec()).unwrap();
    use image::ImageFormat::{Bmp, Jpeg, Png, Pnm, Tiff};
    for format in [Bmp, Jpeg, Png, Pnm, Tiff] {
        let path = folder.path().join("clip.mp4");
        image.save_with_format(&path, format).unwrap();
        assert_eq!(indices_in(&path), [5], "{format:?}");
    }
}

#[test]
fn sixteen_bit_images_narrow_by_the_full_range() {
    let path = tempfile::tempdir().unwrap().keep().join("deep.png");
    let deep: ImageBuffer<Luma<u16>, Vec<u16>> = ImageBuffer::from_raw(3, 1, vec![0, 25_700, 65_535]).unwrap();
    deep.save(&path).unwrap();
    let frame = open(&path).unwrap().next_frame().unwrap().unwrap();
    assert_eq!(frame.samples(), [0, 100, 255]);
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

#[test]
fn images_of_different_sizes_are_refused_before_any_frame() {
    let folder = tempfile::tempdir().unwrap();
    save_png(&folder.path().join("1.png"), &coded(1, SIZE));
    save_png(&folder.path().join("2.png"), &coded(2, Size { width: 48, height: 64 }));
    let sentence = refusal(folder.path());
    assert!(sentence.ends_with("2.png: the image is 48x64, but the images before it are 96x64; a clip has one size"));
}

#[test]
fn what_is_no_clip_is_refused_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("empty.dcm"), "").unwrap();
    fs::write(at("text.mp4"), "This is a text, whatever its name says.\n".repeat(50)).unwrap();
    fs::create_dir(at("folder")).unwrap();
    assert!(refusal(&at("empty.dcm")).ends_with("the file is empty"));
    assert!(refusal(&at("folder")).contains("holds no png, jpg, bmp, tif or pgm image"));
    assert!(refusal(&at("absent.mp4")).starts_with("cannot read"));
    let sentence = refusal(&at("text.mp4"));
    assert!(sentence.contains("no DICOM, image or video") || sentence.contains("feature `video`"), "{sentence}");
}

#[test]
fn a_damaged_image_is_named() {
    use image::ImageFormat::{Jpeg, Png};
    let image = GrayImage::from_raw(96, 64, coded(1, SIZE).samples().to_vec()).unwrap();
    // A JPEG that lacks nothing but its end marker, and one that is cut in its data.
    for (format, name, cut) in [(Png, "PNG", 40), (Jpeg, "JPEG", 2), (Jpeg, "JPEG", 40)] {
        let folder = tempfile::tempdir().unwrap();
        for (file, cut) in [("1", 0), ("2", cut)] {
            let path = folder.path().join(file);
            image.save_with_format(&path, format).unwrap();
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..bytes.len() - cut]).unwrap();
        }
        let mut clip = open(folder.path()).unwrap();
        assert!(clip.next_frame().is_ok());
        let sentence = clip.next_frame().unwrap_err().to_string();
        assert!(sentence.contains(&format!("2: the {name} image is damaged")), "{cut}: {sentence}");
    }
}

#[test]
fn what_follows_a_whole_jpeg_does_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clip.jpg");
    let image = GrayImage::from_raw(96, 64, coded(5, SIZE).samples().to_vec()).unwrap();
    image.save_with_format(&path, image::ImageFormat::Jpeg).unwrap();
    let bytes = [&fs::read(&path).unwrap()[..], b"more, not of the picture"].concat();
    fs::write(&path, bytes).unwrap();
    assert_eq!(indices_in(&path), [5]);
}

#[cfg(feature = "video")]
mod video {
    use super::*;
    use ffmpeg_next as ffmpeg;

    fn record(path: &Path, size: Size, frames: impl IntoIterator<Item = Frame>) {
        let mut writer = VideoWriter::create(path, size, Some(Duration::from_millis(40))).unwrap();
        frames.into_iter().for_each(|frame| writer.write(&frame).unwrap());
        writer.finish().unwrap();
    }

    /// The same packets in another container.
    fn rewrap(from: &Path, to: &Path, format: &str) {
        let mut input = ffmpeg::format::input(from).unwrap();
        let mut output = ffmpeg::format::output_as(to, format).unwrap();
        let stream = input.stream(0).unwrap();
        let (parameters, time_base) = (stream.parameters(), stream.time_base());
        let context = ffmpeg::codec::Context::from_parameters(parameters).unwrap();
        output.add_stream_with(&context).unwrap().set_time_base(time_base);
        output.write_header().unwrap();
        let target = output.stream(0).unwrap().time_base();
        for (_, mut packet) in input.packets() {
            packet.rescale_ts(time_base, target);
            packet.set_position(-1);
            packet.write_interleaved(&mut output).unwrap();
        }
        output.write_trailer().unwrap();
    }

    #[test]
    fn a_video_comes_back_frame_by_frame_whatever_its_name_and_container() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        record(&at("clip.part"), SIZE, (0..50).map(|i| coded(i, SIZE)));
        let expected: Vec<usize> = (0..50).collect();
        assert_eq!(indices_in(&at("clip.part")), expected);
        let clip = open(&at("clip.part")).unwrap();
        assert_eq!((clip.info().size, clip.info().frame_time), (SIZE, Some(Duration::from_millis(40))));
        for format in ["matroska", "mov"] {
            rewrap(&at("clip.part"), &at(format), format);
            assert_eq!(indices_in(&at(format)), expected, "{format}");
        }
    }

    #[test]
    fn greys_survive_within_two_levels() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ramp.mp4");
        let size = Size { width: 512, height: 64 };
        let ramp = Frame::new(size, Colour::Grey, (0..size.area()).map(|i| (i % 512 / 2) as u8).collect()).unwrap();
        record(&path, size, [ramp.clone()]);
        let back = open(&path).unwrap().next_frame().unwrap().unwrap().into_grey();
        let worst = ramp.samples().iter().zip(back.samples()).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(worst <= Some(2), "{worst:?}");
    }

    #[test]
    fn odd_sizes_are_padded_to_even_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("odd.mp4");
        let size = Size { width: 97, height: 63 };
        record(&path, size, [coded(9, size)]);
        let mut clip = open(&path).unwrap();
        assert_eq!(clip.info().size, Size { width: 98, height: 64 });
        assert_eq!(index_of(clip.next_frame().unwrap().unwrap()), 9);
    }

    #[test]
    fn a_video_that_is_cut_off_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let whole = folder.path().join("whole");
        record(&whole, SIZE, (0..40).map(|i| coded(i * 5, SIZE)));
        for format in ["mp4", "matroska", "mov", "avi"] {
            let path = folder.path().join(format);
            rewrap(&whole, &path, format);
            let bytes = fs::read(&path).unwrap();
            for tenths in 1..10 {
                fs::write(&path, &bytes[..bytes.len() * tenths / 10]).unwrap();
                let sentence = refusal(&path);
                assert!(sentence.contains("truncated") || sentence.contains("cut off"), "{format}: {sentence}");
            }
        }
    }

    #[test]
    fn a_full_disk_is_an_error_and_not_a_broken_file() {
        let path = Path::new("/dev/full");
        if !path.exists() {
            println!("skipped: no /dev/full on this system");
            return;
        }
        let attempt = VideoWriter::create(path, SIZE, None).and_then(|mut writer| {
            (0..20).try_for_each(|i| writer.write(&coded(i, SIZE)))?;
            writer.finish()
        });
        assert!(attempt.unwrap_err().to_string().starts_with("cannot write /dev/full: No space left on device"));
    }

    #[test]
    fn a_frame_of_another_size_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = VideoWriter::create(&folder.path().join("x.mp4"), SIZE, None).unwrap();
        assert!(writer.write(&coded(1, Size { width: 8, height: 8 })).is_err());
    }
}
