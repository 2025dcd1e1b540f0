//! Weights that cannot be used are refused by name, before anything is written.

use super::clips;
use super::place::Place;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A clip, a good weights file and a bad one.
struct Case {
    place: Place,
    clip: PathBuf,
    good: Vec<u8>,
}

impl Case {
    fn new() -> Case {
        let place = Place::new();
        let clip = clips::folder(place.at("clip"), &clips::frames(2));
        let good = fs::read(place.weights(1)).unwrap();
        Case { place, clip, good }
    }

    fn refusal_of(&self, weights: &Path) -> String {
        let out = self.place.at("new/out");
        let sentence = self.place.refusal(&mut self.place.segment_with(&self.clip, weights, &out, 96));
        assert!(sentence.contains(weights.to_str().unwrap()), "the file is not named: {sentence}");
        sentence
    }

    /// What is said about a file of these bytes behind its name.
    fn problem(&self, bytes: &[u8]) -> String {
        let path = self.place.at("bad.safetensors");
        fs::write(&path, bytes).unwrap();
        let sentence = self.refusal_of(&path);
        let start = format!("weights {}: ", path.display());
        sentence.strip_prefix(&start).unwrap_or_else(|| panic!("{sentence}")).to_owned()
    }

    /// The good file with `tensor`'s numbers changed.
    fn with_tensor(&self, tensor: &str, change: impl Fn(&mut Vec<f32>)) -> Vec<u8> {
        let file = SafeTensors::deserialize(&self.good).unwrap();
        let tensors: Vec<(String, Vec<usize>, Vec<f32>)> = file
            .iter()
            .map(|(name, view)| {
                let mut numbers: Vec<f32> = bytemuck::pod_collect_to_vec(view.data());
                if name == tensor {
                    change(&mut numbers);
                }
                (name.to_owned(), view.shape().to_vec(), numbers)
            })
            .collect();
        file_of(&tensors, None)
    }
}

fn file_of(tensors: &[(String, Vec<usize>, Vec<f32>)], header: Option<HashMap<String, String>>) -> Vec<u8> {
    let views = tensors.iter().map(|(name, shape, numbers)| {
        (name, TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(numbers)).unwrap())
    });
    safetensors::serialize(views, header).unwrap()
}

#[test]
fn weights_of_another_network_are_refused() {
    let case = Case::new();
    let foreign = [("layer1.0.conv1.weight".to_owned(), vec![2, 2], vec![0.5; 4])];
    let problem = case.problem(&file_of(&foreign, None));
    assert_eq!(problem, "does not hold the weights of a 3D-2D CE-Net: it holds no tensor temporal.weight");
    let header = HashMap::from([("coronet.architecture".to_owned(), "unet".to_owned())]);
    let problem = case.problem(&file_of(&foreign, Some(header)));
    assert_eq!(problem, "holds the weights of another network (unet, not cenet3d)");
}

#[test]
fn truncated_weights_and_files_of_another_kind_are_refused() {
    let case = Case::new();
    let length = case.good.len();
    for kept in [0, 1, 8, 100, length / 2, length - 1] {
        let problem = case.problem(&case.good[..kept]);
        assert!(problem.starts_with("is not a safetensors file, or a damaged one"), "{kept}: {problem}");
    }
    let problem = case.problem(b"PK\x03\x04 a PyTorch checkpoint is a zip file and no safetensors file");
    assert!(problem.starts_with("is not a safetensors file, or a damaged one"), "{problem}");
}

#[test]
fn numbers_that_are_none_are_refused_with_their_place() {
    let case = Case::new();
    for (number, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        let bytes = case.with_tensor("dac.conv1x1.bias", |numbers| numbers[5] = number);
        assert_eq!(case.problem(&bytes), format!("tensor dac.conv1x1.bias holds {shown} at position 5"));
    }
}

#[test]
fn weights_that_overflow_are_found_at_the_first_frame_and_leave_no_mask() {
    // Infinite activations of both signs meet in the last convolution.
    let case = Case::new();
    let weights = case.place.at("huge.safetensors");
    fs::write(&weights, case.with_tensor("head.conv2.weight", |numbers| numbers.fill(f32::MAX))).unwrap();
    let sentence = case.place.refusal(&mut case.place.segment_with(&case.clip, &weights, &case.place.at("out"), 96));
    assert!(sentence.starts_with("the network produced NaN in frame 0 at column "), "{sentence}");
}

#[test]
fn weights_that_cannot_be_read_are_named() {
    let case = Case::new();
    let sentence = case.refusal_of(&case.place.at("absent.safetensors"));
    assert!(sentence.starts_with("cannot read weights ") && sentence.contains("No such file"), "{sentence}");
    let sentence = case.refusal_of(&case.clip);
    assert!(sentence.starts_with("cannot read weights ") && sentence.contains("Is a directory"), "{sentence}");
}
