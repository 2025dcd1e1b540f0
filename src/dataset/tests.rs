use super::fixture::{SIZE, write_clip, write_frame, write_label};
use super::*;
use crate::media::Size;
use tempfile::TempDir;

/// A folder with clips of so many frames, named a, b, c, ...
fn dataset(frames: &[usize]) -> (TempDir, Dataset) {
    let folder = TempDir::new().unwrap();
    for (name, &frames) in ('a'..='z').zip(frames) {
        write_clip(folder.path(), &name.to_string(), frames);
    }
    let opened = Dataset::open(folder.path()).unwrap();
    (folder, opened)
}

#[test]
fn frames_and_labels_of_one_name_belong_together() {
    let folder = TempDir::new().unwrap();
    let clip = write_clip(folder.path(), "clip10", 12);
    write_clip(folder.path(), "clip9", 1);
    std::fs::remove_file(clip.join("labels/0003.png")).unwrap();
    std::fs::write(folder.path().join("README.txt"), "about").unwrap();
    std::fs::write(clip.join("frames/Thumbs.db"), "x").unwrap();
    let dataset = Dataset::open(folder.path()).unwrap();
    let names: Vec<&str> = dataset.clips().iter().map(|clip| clip.name.as_str()).collect();
    assert_eq!(names, ["clip9", "clip10"]);
    let id = FrameId { clip: 1, frame: 11 };
    assert_eq!(dataset.read_frame(id).unwrap().samples(), [110; 20]);
    assert_eq!(dataset.read_label(id).unwrap().vessel_pixels(), 11);
    let unlabelled = FrameId { clip: 1, frame: 3 };
    assert!(dataset.frame(unlabelled).label.is_none());
    assert!(dataset.read_label(unlabelled).unwrap_err().to_string().ends_with("0003.png has no label"));
    let whole = Section { clip: 1, frames: 0..12 };
    assert_eq!(whole.labelled(&dataset).count(), 11);
}

/// Spoils a good data set of one clip and gives what is then said about it.
fn problems(spoil: impl FnOnce(&Path)) -> Vec<String> {
    let folder = TempDir::new().unwrap();
    let clip = write_clip(folder.path(), "clip", 4);
    spoil(&clip);
    let all = match Dataset::survey(folder.path()) {
        Ok((dataset, problems)) => {
            assert_eq!(dataset.clips().is_empty(), !problems.is_empty());
            problems
        }
        Err(error) => vec![error],
    };
    if let Some(first) = all.first() {
        assert_eq!(Dataset::open(folder.path()).unwrap_err().to_string(), first.to_string());
    }
    let place = format!("{}/", folder.path().display());
    all.iter().map(|error| error.to_string().replace(&place, "")).collect()
}

#[test]
fn what_does_not_fit_together_is_named() {
    let other = Size { width: 5, height: 5 };
    assert_eq!(problems(|_| {}), [""; 0]);
    let missing_frame = problems(|clip| std::fs::remove_file(clip.join("frames/0003.png")).unwrap());
    assert_eq!(missing_frame, ["clip/labels/0003.png: is a label without a frame: frames/ holds none of its name"]);
    let gap = problems(|clip| {
        std::fs::remove_file(clip.join("frames/0001.png")).unwrap();
        std::fs::remove_file(clip.join("labels/0001.png")).unwrap();
    });
    assert_eq!(gap, ["clip/frames: frame 1 is missing: the clip goes on with frame 2"]);
    let large_label = problems(|clip| write_label(clip, 2, other));
    assert_eq!(large_label, ["clip/labels/0002.png: the label is 5x5, but its frame is 5x4"]);
    let large_frame = problems(|clip| {
        write_frame(clip, 2, other);
        write_label(clip, 2, other);
    });
    assert_eq!(large_frame, ["clip/frames/0002.png: the frame is 5x5, but 0000.png is 5x4; a clip has one size"]);
    let corrupt = problems(|clip| std::fs::write(clip.join("labels/0002.png"), "no image").unwrap());
    assert_eq!(corrupt, ["clip/labels/0002.png: is not an image"]);
    let twice = problems(|clip| {
        std::fs::copy(clip.join("frames/0002.png"), clip.join("frames/0002.jpg")).unwrap();
    });
    assert_eq!(twice, ["clip/frames/0002.png: stands for the same frame as 0002.jpg"]);
    let no_frames = problems(|clip| std::fs::remove_dir_all(clip.join("frames")).unwrap());
    assert_eq!(no_frames, ["clip: is no clip: it has no folder frames/"]);
    let empty = problems(|clip| {
        std::fs::remove_dir_all(clip.join("labels")).unwrap();
        (0..4).for_each(|i| std::fs::remove_file(clip.join(format!("frames/{i:04}.png"))).unwrap());
    });
    assert_eq!(empty, ["clip/frames: holds no png, jpg, bmp, tif or pgm image"]);
}

#[test]
fn a_folder_that_is_no_data_set_is_refused() {
    let folder = TempDir::new().unwrap();
    let said = |path: &Path| Dataset::open(path).unwrap_err().to_string();
    assert!(said(folder.path()).contains("holds no clip, which is a folder with frames/NNNN.png"));
    let clip = write_clip(folder.path(), "clip", 1);
    assert!(said(&clip).ends_with("is one clip; give the folder that holds it"));
    assert!(said(&folder.path().join("absent")).starts_with("cannot read "));
}

#[test]
fn an_image_that_changes_size_later_is_refused() {
    let (folder, dataset) = dataset(&[2]);
    write_frame(&folder.path().join("a"), 1, Size { width: 3, height: 3 });
    let error = dataset.read_frame(FrameId { clip: 0, frame: 1 }).unwrap_err().to_string();
    assert!(error.ends_with("the image is 3x3 now, but was 5x4 when the data set was opened"), "{error}");
}

#[test]
fn windows_repeat_the_ends_of_their_section() {
    let section = Section { clip: 0, frames: 2..5 };
    let frames = |middle, neighbours| section.window(middle, neighbours).map(|id| id.frame).collect::<Vec<_>>();
    assert_eq!(frames(2, 1), [2, 2, 3]);
    assert_eq!(frames(4, 2), [2, 3, 4, 4, 4]);
    assert_eq!(frames(3, 0), [3]);
    assert_eq!(frames(3, 3), [2, 2, 2, 3, 4, 4, 4]);
}

#[test]
fn the_articles_split_cuts_a_sixth_off_one_end_of_each_clip() {
    let (_folder, dataset) = dataset(&[12; 20]);
    let split = Split::new(&dataset, SplitChoice::PerClip, 7).unwrap();
    let mut at_front = 0;
    for clip in 0..20 {
        let test = split.test.iter().find(|section| section.clip == clip).unwrap().frames.clone();
        let train = split.train.iter().find(|section| section.clip == clip).unwrap().frames.clone();
        assert!((test == (0..2) && train == (2..12)) || (test == (10..12) && train == (0..10)));
        at_front += usize::from(test.start == 0);
    }
    assert!((1..20).contains(&at_front), "all on one side: {at_front}");
    assert_eq!(Split::new(&dataset, SplitChoice::PerClip, 7).unwrap(), split);
    assert_ne!(Split::new(&dataset, SplitChoice::PerClip, 8).unwrap(), split);
}

#[test]
fn a_sixth_is_rounded_and_short_clips_stay_whole() {
    let (_folder, dataset) = dataset(&[6, 8, 9, 5, 1, 1, 1, 1, 1]);
    let split = Split::new(&dataset, SplitChoice::PerClip, 1).unwrap();
    let tested = |clip| split.test.iter().filter(|s| s.clip == clip).map(|s| s.frames.len()).sum::<usize>();
    assert_eq!([tested(0), tested(1), tested(2)], [1, 1, 2]);
    assert_eq!((3..9).filter(|&clip| tested(clip) > 0).count(), 1);
    let frames = |part: &[Section]| part.iter().map(|section| section.frames.len()).sum::<usize>();
    assert_eq!(frames(&split.train) + frames(&split.test), 6 + 8 + 9 + 5 + 5);
}

#[test]
fn folds_test_on_each_clip_once_whatever_clips_are_beside_it() {
    let (_folder, dataset) = dataset(&[2; 10]);
    let fold = |fold| Split::new(&dataset, SplitChoice::Folds { folds: 4, fold }, 3).unwrap();
    let mut tested: Vec<usize> = (0..4).flat_map(|i| fold(i).test.into_iter().map(|section| section.clip)).collect();
    tested.sort_unstable();
    assert_eq!(tested, (0..10).collect::<Vec<_>>());
    for i in 0..4 {
        let split = fold(i);
        assert!((2..=3).contains(&split.test.len()));
        assert!(split.train.iter().all(|section| !split.test.contains(section)));
        assert_eq!(split.train.len() + split.test.len(), 10);
    }
}

#[test]
fn splits_that_leave_a_part_empty_are_refused() {
    let (folder, dataset) = dataset(&[2]);
    let said = |choice| Split::new(&dataset, choice, 1).unwrap_err().to_string();
    assert!(
        said(SplitChoice::PerClip)
            .ends_with("leaves no labelled frame to test on (1 clip); add clips, or train on all of it")
    );
    assert!(said(SplitChoice::Folds { folds: 2, fold: 0 }).contains("2 folds need as many clips, and "));
    assert!(said(SplitChoice::Folds { folds: 1, fold: 0 }).starts_with("fold 0 of 1 does not exist"));
    assert_eq!(Split::new(&dataset, SplitChoice::All, 1).unwrap().train.len(), 1);
    std::fs::remove_dir_all(folder.path().join("a/labels")).unwrap();
    let unlabelled = Dataset::open(folder.path()).unwrap();
    let error = Split::new(&unlabelled, SplitChoice::All, 1).unwrap_err().to_string();
    assert!(error.ends_with("has no labelled frame to learn from"));
    assert_eq!(dataset.clips()[0].size, SIZE);
}

#[test]
fn a_fold_to_test_on_needs_no_labels_anywhere() {
    let (folder, dataset) = dataset(&[2, 2]);
    let choice = SplitChoice::Folds { folds: 2, fold: 0 };
    assert_eq!(Split::fold(&dataset, 2, 0, 1).unwrap(), Split::new(&dataset, choice, 1).unwrap().test);
    for clip in ["a", "b"] {
        std::fs::remove_dir_all(folder.path().join(clip).join("labels")).unwrap();
    }
    let unlabelled = Dataset::open(folder.path()).unwrap();
    assert_eq!(Split::fold(&unlabelled, 2, 0, 1).unwrap(), Split::fold(&dataset, 2, 0, 1).unwrap());
    let error = Split::fold(&unlabelled, 2, 2, 1).unwrap_err().to_string();
    assert!(error.starts_with("fold 2 of 2 does not exist"), "{error}");
}
