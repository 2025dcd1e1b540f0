//! Files that PyTorch itself wrote (`tools/checkpoints.py`) hold what PyTorch says they do.

use coronet::weights::checkpoint::Checkpoint;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Entry {
    Tensors(BTreeMap<String, Expected>),
    Refused(String),
}

#[derive(Deserialize)]
struct Expected {
    r#type: String,
    shape: Vec<usize>,
    numbers: Vec<f32>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import/pytorch")
}

fn index() -> BTreeMap<String, Entry> {
    serde_json::from_slice(&std::fs::read(folder().join("index.json")).unwrap()).unwrap()
}

#[test]
fn every_number_of_every_tensor_is_the_one_that_pytorch_wrote() {
    let mut compared = 0;
    for (file, entry) in index() {
        let Entry::Tensors(tensors) = entry else { continue };
        let mut checkpoint = Checkpoint::open(&folder().join(&file)).unwrap();
        for (name, Expected { r#type, shape, numbers }) in tensors {
            let layout = checkpoint.tensors().get(&name).unwrap_or_else(|| panic!("{file} lacks {name}"));
            assert_eq!((layout.element().name(), layout.dims()), (r#type.as_str(), &shape[..]), "{file} {name}");
            match checkpoint.read(&name) {
                Ok(read) => assert_eq!(read, numbers, "{file} {name}"),
                Err(problem) => assert_eq!(problem, format!("tensor {name} is int64, not floating-point"), "{file}"),
            }
            compared += 1;
        }
    }
    assert!(compared > 100, "{compared}");
}

#[test]
fn what_would_run_in_python_and_what_is_no_state_dictionary_is_refused_by_name() {
    let mut refused = 0;
    for (file, entry) in index() {
        let Entry::Refused(words) = entry else { continue };
        let sentence = Checkpoint::open(&folder().join(&file)).unwrap_err().to_string();
        assert!(sentence.contains(&words), "{file}: {sentence}");
        refused += 1;
    }
    assert!(refused > 5, "{refused}");
    assert!(!Path::new("coronet-was-here").exists());
}
