//! Weights files: what is written comes back, and every damaged file gets a sentence.

use coronet::model::{Config, Stem};
use coronet::weights::Weights;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::HashMap;

fn weights() -> Weights {
    Weights::seeded(Config::new(4, Stem::Half, 1, 1).unwrap(), 7).unwrap()
}

/// The file of `weights` after `change` to its tensors, with `header`.
fn file(change: impl FnOnce(&mut Vec<(String, Vec<usize>, Vec<f32>)>), header: &[(&str, &str)]) -> Vec<u8> {
    let mut tensors: Vec<_> =
        weights().iter().map(|(n, t)| (n.to_owned(), t.shape().dims(), t.data().to_vec())).collect();
    change(&mut tensors);
    let views: Vec<_> = tensors
        .iter()
        .map(|(n, dims, data)| (n, TensorView::new(Dtype::F32, dims.clone(), bytemuck::cast_slice(data)).unwrap()))
        .collect();
    let header: HashMap<String, String> = header.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
    safetensors::serialize(views, (!header.is_empty()).then_some(header)).unwrap()
}

fn problem(bytes: &[u8]) -> String {
    Weights::parse(bytes).unwrap_err()
}

#[test]
fn what_is_saved_comes_back_with_its_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let config = Config::new(8, Stem::Quarter, 2, 3).unwrap();
    let weights = Weights::seeded(config, 3).unwrap();
    weights.save(&path).unwrap();
    assert_eq!(Weights::load(&path).unwrap(), weights);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file may be left");
}

#[test]
fn a_file_without_a_header_works() {
    assert_eq!(Weights::parse(&file(|_| (), &[])).unwrap(), weights());
}

#[test]
fn parameters_of_the_articles_network_number_29_million() {
    let config = Config::new(64, Stem::Half, 2, 1).unwrap();
    let count: usize = config.parameters().unwrap().iter().map(|(_, shape)| shape.elements()).sum();
    assert_eq!((count as f64 / 1e4).round(), 2899.0);
}

#[test]
fn nan_is_refused_with_the_tensors_name() {
    let bytes = file(|tensors| tensors.iter_mut().find(|t| t.0 == "fuse.weight").unwrap().2[3] = f32::NAN, &[]);
    assert_eq!(problem(&bytes), "tensor fuse.weight holds NaN at position 3");
}

#[test]
fn a_missing_an_unknown_and_a_misshapen_tensor_are_named() {
    let missing = file(|tensors| tensors.retain(|t| t.0 != "dac.dilate2.bias"), &[]);
    assert!(problem(&missing).starts_with("holds no tensor dac.dilate2.bias"));
    let unknown = file(|tensors| tensors.push(("extra".into(), vec![1], vec![0.0])), &[]);
    assert!(problem(&unknown).starts_with("holds a tensor extra"));
    let misshapen = file(
        |tensors| {
            let tensor = tensors.iter_mut().find(|t| t.0 == "dac.dilate2.bias").unwrap();
            (tensor.1, tensor.2) = (vec![3], vec![0.0; 3]);
        },
        &[],
    );
    assert_eq!(problem(&misshapen), "tensor dac.dilate2.bias has the shape [3], not [32]");
}

#[test]
fn weights_of_another_network_are_refused() {
    let other = file(|tensors| tensors.retain(|t| t.0.starts_with("encoder")), &[]);
    assert!(problem(&other).contains("does not hold the weights of a 3D-2D CE-Net"));
    let header = [
        ("coronet.architecture", "cenet3d"),
        ("coronet.width", "8"),
        ("coronet.stem", "half"),
        ("coronet.neighbours", "1"),
        ("coronet.in_channels", "1"),
    ];
    assert!(problem(&file(|_| (), &header)).contains("the header says 3D-2D CE-Net, width 8"));
    assert!(problem(&file(|_| (), &[("coronet.architecture", "unet")])).contains("another network (unet"));
}

/// A file of this header, and no numbers.
fn bare(header: &str) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()
}

#[test]
fn text_made_to_deceive_a_terminal_is_shown_escaped_and_cut() {
    let escape = bare(r#"{"__metadata__":{"coronet.architecture":"\u001b[2J"}}"#);
    assert_eq!(problem(&escape), "holds the weights of another network (\\u{1b}[2J, not cenet3d)");
    let long = "\u{1b}".repeat(1 << 20);
    let cut = "\\u{1b}".repeat(100) + "...";
    assert_eq!(
        problem(&file(|_| (), &[("coronet.architecture", long.as_str())])),
        format!("holds the weights of another network ({cut}, not cenet3d)")
    );
    let stem = problem(&file(|_| (), &[("coronet.architecture", "cenet3d"), ("coronet.stem", long.as_str())]));
    assert!(stem.starts_with("a stem is half or quarter, not \\u{1b}\\u{1b}") && stem.ends_with("..."), "{stem}");
    let unknown = problem(&file(|tensors| tensors.push((long.clone(), vec![1], vec![0.0])), &[]));
    assert!(unknown.starts_with(&format!("holds a tensor {cut}, which ")), "{unknown}");
    // What the library says about a file repeats its words, too.
    let foreign = r#"{"a":{"dtype":"LONG","shape":[0],"data_offsets":[0,0]}}"#;
    for word in ["\\u001b", "x"].map(|word| word.repeat(1 << 20)) {
        let said = problem(&bare(&foreign.replace("LONG", &word)));
        assert!(said.starts_with("is not a safetensors file, or a damaged one (") && said.len() < 1000, "{said}");
        assert!(!said.contains('\u{1b}'), "{said}");
    }
    let misshapen = file(
        |tensors| {
            let tensor = tensors.iter_mut().find(|t| t.0 == "dac.dilate2.bias").unwrap();
            (tensor.1, tensor.2) = (vec![1; 1 << 20], vec![0.0]);
        },
        &[],
    );
    let said = problem(&misshapen);
    assert!(said.starts_with("tensor dac.dilate2.bias has the shape [1, 1, 1") && said.len() < 200, "{said}");
}

#[test]
fn truncated_and_foreign_files_are_refused() {
    let whole = file(|_| (), &[]);
    for length in [0, 4, 8, 100, whole.len() / 2, whole.len() - 1] {
        assert!(problem(&whole[..length]).contains("not a safetensors file"), "{length} bytes");
    }
    assert!(problem(b"hello, this is a text file, not weights").contains("not a safetensors file"));
}
