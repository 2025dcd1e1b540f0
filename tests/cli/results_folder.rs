//! A folder that cannot take the results, or not all of them, gets none.

use super::clips;
use super::place::{Disk, Place, results, sentence, tree};
use std::fs;
use std::path::Path;

#[test]
fn a_place_that_cannot_be_a_folder_is_refused() {
    let place = Place::new();
    let input = clips::folder(place.at("clip"), &clips::frames(2));
    fs::write(place.at("file"), "text").unwrap();
    std::os::unix::fs::symlink("nowhere", place.at("dangling")).unwrap();
    fs::create_dir_all(place.at("foreign/masks")).unwrap();
    for (name, problem) in [
        ("file", "is not a folder; choose another place"),
        ("file/below", "file is not a folder; choose another place"),
        ("dangling", "is not a folder; choose another place"),
        ("foreign", "holds 'masks', but no finished results of Coronet; choose another folder"),
    ] {
        let sentence = place.refusal(place.segment(&input, 0, &place.at(name)).arg("--overwrite"));
        assert!(sentence.starts_with(place.path().to_str().unwrap()) && sentence.ends_with(problem), "{sentence}");
    }
    let nameless = place.refusal(&mut place.segment(&input, 0, Path::new("")));
    assert_eq!(nameless, "a value is required for '--out <DIR>' but none was supplied; see --help");
}

#[test]
fn the_clips_own_folder_takes_no_results() {
    let place = Place::new();
    let input = clips::folder(place.at("clip"), &clips::frames(2));
    let sentence = place.refusal(&mut place.segment(&input, 0, &input.join("../clip")));
    assert!(sentence.ends_with("clip is the clip's own folder; choose another one for the results"), "{sentence}");
    place.segment(&input, 0, &input.join("results")).assert().success();
    place.segment(&input, 0, &input.join("results")).arg("--overwrite").assert().success();
}

#[test]
fn a_file_system_that_takes_no_files_is_refused() {
    let place = Place::new();
    let input = clips::folder(place.at("clip"), &clips::frames(2));
    if Path::new("/proc/self").is_dir() {
        let sentence = place.refusal(&mut place.segment(&input, 0, Path::new("/proc/coronet")));
        assert!(sentence.starts_with("cannot create /proc/coronet: "), "{sentence}");
    }
    let Some(disk) = Disk::mount(place.at("disk"), "size=1m,ro") else { return };
    for (folder, start) in [(disk.0.clone(), "cannot write to "), (disk.0.join("out"), "cannot create ")] {
        let sentence = place.refusal(&mut place.segment(&input, 0, &folder));
        assert!(sentence.starts_with(&format!("{start}{}", folder.display())), "{sentence}");
        assert!(sentence.contains("Read-only file system"), "{sentence}");
    }
}

#[test]
fn a_disk_that_fills_up_at_any_point_keeps_nothing_but_what_was_there() {
    let place = Place::new();
    let input = clips::folder(place.at("clip"), &clips::frames(3));
    let (mut failures, mut whole) = (0, false);
    for kib in (4..400).step_by(16) {
        let Some(disk) = Disk::mount(place.at("disk"), &format!("size={kib}k")) else { return };
        let out = disk.0.join("out");
        let output = place.segment(&input, 0, &out).arg("--probability").output().unwrap();
        if output.status.success() {
            whole = true;
            assert_eq!(results(&out).keys().filter(|name| name.starts_with("masks/")).count(), 3);
            break;
        }
        failures += 1;
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]));
        let sentence = sentence(std::str::from_utf8(&output.stderr).unwrap());
        assert!(sentence.contains("No space left on device"), "{kib} KiB: {sentence}");
        assert!(sentence.contains(out.to_str().unwrap()) && !sentence.contains("/.coronet"), "{kib} KiB: {sentence}");
        assert!(tree(&disk.0).is_empty(), "{kib} KiB: {:?}", tree(&disk.0).keys());
    }
    assert!(whole && failures >= 3, "{failures} sizes were too small, one sufficed: {whole}");
}
