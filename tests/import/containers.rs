//! The same tensors come out of every container, whatever their type, their strides and what lies around them.

use super::writer::{PROTOCOL_2, State, Stored, global, legacy, text, zip};
use coronet::weights::checkpoint::Checkpoint;
use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView};
use std::collections::{BTreeMap, HashMap};
use zip::CompressionMethod;

type Numbers = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Everything in a file.
fn read(bytes: Vec<u8>) -> Numbers {
    let mut file = Checkpoint::parse(bytes).unwrap();
    let dims: Vec<_> = file.tensors().iter().map(|(name, layout)| (name.clone(), layout.dims().to_vec())).collect();
    dims.into_iter().map(|(name, dims)| (name.clone(), (dims, file.read(&name).unwrap()))).collect()
}

fn numbers(tensors: &[(&str, &[usize], &[f32])]) -> Numbers {
    tensors.iter().map(|(name, dims, numbers)| (name.to_string(), (dims.to_vec(), numbers.to_vec()))).collect()
}

fn every_container(state: &State) -> [(&'static str, Vec<u8>); 3] {
    [("zip", state.zip()), ("packed zip", state.packed_zip()), ("legacy", state.legacy())]
}

#[test]
fn all_containers_hold_the_same_numbers() {
    let expected = numbers(&[("weight", &[2, 3], &[0., 1., 2., 3., 4., 5.])]);
    for (name, file) in every_container(&State::small()) {
        assert_eq!(read(file), expected, "{name}");
    }
}

#[test]
fn safetensors_that_begin_like_a_zip_file_are_safetensors() {
    let bytes: Vec<u8> = [0f32, 1., 2., 3., 4., 5.].iter().flat_map(|x| x.to_le_bytes()).collect();
    let padded = |padding: usize| {
        let view = TensorView::new(Dtype::F32, vec![2, 3], &bytes).unwrap();
        let header = HashMap::from([("padding".to_owned(), "x".repeat(padding))]);
        safetensors::serialize([("weight", view)], Some(header)).unwrap()
    };
    // The header's length is a multiple of 8, and so is the number that "PK" makes.
    let shortest = u64::from_le_bytes(padded(0)[..8].try_into().unwrap()) as usize;
    let file = padded(usize::from(u16::from_le_bytes(*b"PK")) - shortest);
    assert!(file.starts_with(b"PK"));
    assert_eq!(read(file), read(State::small().zip()));
}

#[test]
fn every_floating_point_type_is_read() {
    let mut state = State::default();
    let bytes = |numbers: [f32; 2], to: fn(f32) -> Vec<u8>| numbers.into_iter().flat_map(to).collect::<Vec<u8>>();
    state.add_bytes("double", &[2], "DoubleStorage", 2, bytes([1.5, -2.], |x| f64::from(x).to_le_bytes().into()));
    state.add_bytes("float", &[2], "FloatStorage", 2, bytes([1.5, -2.], |x| x.to_le_bytes().into()));
    state.add_bytes("half", &[2], "HalfStorage", 2, bytes([1.5, -2.], |x| f16::from_f32(x).to_le_bytes().into()));
    state.add_bytes("brain", &[2], "BFloat16Storage", 2, bytes([1.5, -2.], |x| bf16::from_f32(x).to_le_bytes().into()));
    let names = ["brain", "double", "float", "half"];
    let expected = numbers(&names.map(|name| (name, &[2][..], &[1.5, -2.][..])));
    for (name, file) in every_container(&state) {
        assert_eq!(read(file), expected, "{name}");
    }
}

#[test]
fn tensors_share_a_storage_through_offsets_and_strides() {
    let mut state = State::small();
    let view = |name: &str, offset, sizes: &[i64], strides: &[i64]| Stored {
        name: name.into(),
        storage: 0,
        offset,
        sizes: sizes.into(),
        strides: strides.into(),
    };
    state.tensors.push(view("transposed", 0, &[3, 2], &[1, 3]));
    state.tensors.push(view("last", 5, &[], &[]));
    state.tensors.push(view("column", 1, &[2], &[3]));
    let expected = numbers(&[
        ("weight", &[2, 3], &[0., 1., 2., 3., 4., 5.]),
        ("transposed", &[3, 2], &[0., 3., 1., 4., 2., 5.]),
        ("last", &[], &[5.]),
        ("column", &[2], &[1., 4.]),
    ]);
    for (name, file) in every_container(&state) {
        assert_eq!(read(file), expected, "{name}");
    }
}

#[test]
fn a_state_dictionary_is_found_inside_a_checkpoint_and_without_its_prefix() {
    let state = State::small();
    for key in ["state_dict", "model", "model_state_dict", "anything"] {
        let outer = [text("epoch"), b"K\x03".to_vec(), text(key), state.dictionary("module.")].concat();
        let pickle = [PROTOCOL_2, b"}(", &outer, b"u."].concat();
        let expected = read(state.zip());
        assert_eq!(read(zip(&pickle, &state.storages, CompressionMethod::Stored)), expected, "{key}");
        assert_eq!(read(legacy(&pickle, &state.storages)), expected, "{key}");
    }
}

#[test]
fn of_two_dictionaries_the_one_with_the_usual_name_is_taken_and_without_one_none() {
    let state = State::small();
    let file = |first: &str, second: &str| {
        let outer = [text(first), state.dictionary("a."), text(second), state.dictionary("b.")].concat();
        zip(&[PROTOCOL_2, b"}(", &outer, b"u."].concat(), &state.storages, CompressionMethod::Stored)
    };
    assert!(read(file("ema", "state_dict")).contains_key("b.weight"));
    assert_eq!(
        Checkpoint::parse(file("ema", "student")).unwrap_err(),
        "holds several dictionaries, such as ema and student; save the network's state_dict() alone"
    );
}

#[test]
fn parameters_attributes_and_what_needs_no_value_are_passed_over() {
    let state = State::small();
    let parameter = [
        global("torch._utils", "_rebuild_parameter"),
        b"(".to_vec(),
        state.tensor(&state.tensors[0]),
        b"\x88}tR".to_vec(),
    ];
    let scalar = [global("numpy._core.multiarray", "scalar"), b"(".to_vec(), global("numpy", "dtype"), b"NtR".to_vec()];
    let entries = [text("weight"), parameter.concat(), text("best"), scalar.concat()].concat();
    let attributes = [b"}".to_vec(), text("_metadata"), b"}sb".to_vec()].concat();
    let dict = global("collections", "OrderedDict");
    let pickle = [PROTOCOL_2, &dict, b")R(", &entries, b"u", &attributes, b"."].concat();
    assert_eq!(read(zip(&pickle, &state.storages, CompressionMethod::Stored)), read(state.zip()));
}

#[test]
fn a_parameter_of_the_first_pytorch_and_an_ordered_dict_of_python_2_are_read() {
    let state = State::small();
    let parameter = [
        global("torch.nn.parameter", "Parameter"),
        b"(".to_vec(),
        state.tensor(&state.tensors[0]),
        b"tR(\x88\x89}tb".to_vec(),
    ];
    let pair = [b"](U\x06weight".to_vec(), parameter.concat(), b"e".to_vec()].concat();
    let pickle = [PROTOCOL_2, &global("collections", "OrderedDict"), b"(](", &pair, b"etR."].concat();
    assert_eq!(read(legacy(&pickle, &state.storages)), read(state.legacy()));
}
