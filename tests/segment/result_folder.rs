//! A folder of results is complete or not there, and never takes the place of what is not Coronet's.

use coronet::result_folder::ResultFolder;
use coronet::segment::RESULTS;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const SUMMARY: &[u8] = br#"{"schema":"coronet/segment"}"#;

/// Every file below `folder` with its contents, by its name relative to it.
pub fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open: Vec<PathBuf> = vec![folder.to_path_buf()];
    while let Some(next) = open.pop() {
        for path in fs::read_dir(next).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// Names directly in `folder`, hidden ones included.
pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn results(folder: &Path, overwrite: bool, files: &[(&str, &[u8])]) -> coronet::Result<()> {
    let results = ResultFolder::create(folder, &RESULTS, overwrite)?;
    for (name, bytes) in files {
        results.write(name, bytes)?;
    }
    results.write("summary.json", SUMMARY)?;
    results.commit()
}

#[test]
fn nothing_has_its_final_name_before_the_commit_and_nothing_else_is_left_after_it() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("deep/out");
    let folder = ResultFolder::create(&out, &RESULTS, false).unwrap();
    folder.write("masks/0000.png", b"mask").unwrap();
    folder.write("summary.json", SUMMARY).unwrap();
    assert!(names(&out).iter().all(|name| name.starts_with('.')), "{:?}", names(&out));
    folder.commit().unwrap();
    assert_eq!(names(&out), ["masks", "summary.json"]);
    assert_eq!(contents(&out)["masks/0000.png"], b"mask");
}

#[test]
fn without_a_commit_the_place_is_as_it_was() {
    let place = tempfile::tempdir().unwrap();
    let folder = ResultFolder::create(&place.path().join("a/b/c"), &RESULTS, false).unwrap();
    folder.write("masks/0000.png", b"mask").unwrap();
    drop(folder);
    assert!(names(place.path()).is_empty());

    fs::write(place.path().join("notes.txt"), "mine").unwrap();
    drop(ResultFolder::create(place.path(), &RESULTS, false).unwrap());
    assert_eq!(names(place.path()), ["notes.txt"]);
}

#[test]
fn results_are_replaced_only_when_asked_and_then_wholly() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path();
    fs::write(out.join("notes.txt"), "mine").unwrap();
    results(out, false, &[("masks/0000.png", b"old"), ("masks/0001.png", b"old"), ("probability/0000.png", b"old")])
        .unwrap();
    let before = contents(out);

    let error = results(out, false, &[("masks/0000.png", b"new")]).unwrap_err().to_string();
    let expected =
        format!("{} already holds results; choose another folder, or replace them with --overwrite", out.display());
    assert_eq!(error, expected);
    drop(ResultFolder::create(out, &RESULTS, true).unwrap());
    assert_eq!(contents(out), before, "a run that fails leaves the old results");

    results(out, true, &[("masks/0000.png", b"new")]).unwrap();
    assert_eq!(names(out), ["masks", "notes.txt", "summary.json"]);
    assert_eq!(names(&out.join("masks")), ["0000.png"], "no mask of the old run is among the new ones");
    assert_eq!(contents(out)["notes.txt"], b"mine");
}

#[test]
fn a_masks_folder_that_is_not_coronets_is_never_replaced() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("masks")).unwrap();
    fs::write(place.path().join("masks/by_hand.png"), "hours of work").unwrap();
    for overwrite in [false, true] {
        let error = results(place.path(), overwrite, &[]).unwrap_err().to_string();
        assert!(error.ends_with("holds 'masks', but no finished results of Coronet; choose another folder"), "{error}");
    }
    assert_eq!(contents(place.path())["masks/by_hand.png"], b"hours of work");
}

#[test]
fn results_that_appeared_meanwhile_are_not_replaced() {
    let place = tempfile::tempdir().unwrap();
    let slow = ResultFolder::create(place.path(), &RESULTS, false).unwrap();
    slow.write("summary.json", b"slow").unwrap();
    results(place.path(), false, &[("masks/0000.png", b"quick")]).unwrap();
    assert!(slow.commit().unwrap_err().to_string().contains("already holds results"));
    assert_eq!(contents(place.path())["summary.json"], SUMMARY);
    assert_eq!(names(place.path()), ["masks", "summary.json"]);
}

#[test]
fn a_file_in_the_place_of_the_folder_is_named() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("file");
    fs::write(&file, "text").unwrap();
    let error = ResultFolder::create(&file, &RESULTS, true).unwrap_err().to_string();
    assert_eq!(error, format!("{} is not a folder; choose another place", file.display()));
    let error = ResultFolder::create(Path::new(""), &RESULTS, true).unwrap_err().to_string();
    assert_eq!(error, "the folder for the results has no name");
    let error = ResultFolder::create(&file.join("out"), &RESULTS, true).unwrap_err().to_string();
    assert_eq!(error, format!("{} is not a folder; choose another place", file.display()));
}

#[test]
fn the_hidden_folder_of_a_killed_run_is_removed_and_that_of_a_living_one_is_not() {
    let place = tempfile::tempdir().unwrap();
    let living = ResultFolder::create(place.path(), &RESULTS, false).unwrap();
    living.write("masks/0000.png", b"mask").unwrap();
    // A killed run leaves its folder and, with the process, loses its lock.
    let killed = place.path().join(".coronet-killed");
    fs::create_dir_all(killed.join("masks")).unwrap();
    fs::write(killed.join("lock"), "").unwrap();

    let other = ResultFolder::create(place.path(), &RESULTS, false).unwrap();
    assert!(!killed.exists());
    drop(other);
    living.write("summary.json", SUMMARY).unwrap();
    living.commit().unwrap();
    assert_eq!(names(place.path()), ["masks", "summary.json"]);
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    // The kernel's own file system takes no files, not even root's.
    let place = Path::new("/proc/self");
    if !place.is_dir() {
        eprintln!("skipped: no /proc here");
        return;
    }
    let error = ResultFolder::create(place, &RESULTS, false).unwrap_err().to_string();
    assert!(error.starts_with("cannot write to /proc/self: "), "{error}");
    let error = ResultFolder::create(&place.join("out"), &RESULTS, false).unwrap_err().to_string();
    assert!(error.starts_with("cannot create /proc/self/out: "), "{error}");
}
