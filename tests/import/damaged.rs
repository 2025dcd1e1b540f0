//! Files cut short, flipped or of another kind give a sentence, never a panic and never other numbers unnoticed.

use super::writer::{State, legacy_of, records, zip};
use coronet::weights::checkpoint::Checkpoint;
use proptest::prelude::*;
use zip::CompressionMethod::{self, Stored};

fn refusal(bytes: &[u8]) -> String {
    let sentence = Checkpoint::parse(bytes.to_vec()).unwrap_err();
    assert_eq!(sentence.lines().count(), 1, "{sentence}");
    sentence
}

fn safetensors() -> Vec<u8> {
    let bytes: Vec<u8> = [0f32, 1., 2., 3., 4., 5.].iter().flat_map(|x| x.to_le_bytes()).collect();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2, 3], &bytes).unwrap();
    safetensors::serialize([("weight", view)], None).unwrap()
}

fn every_file() -> [(&'static str, Vec<u8>); 4] {
    let state = State::small();
    [
        ("zip", state.zip()),
        ("packed zip", state.packed_zip()),
        ("legacy", state.legacy()),
        ("safetensors", safetensors()),
    ]
}

#[test]
fn a_file_cut_at_any_byte_is_refused() {
    for (name, whole) in every_file() {
        assert!(Checkpoint::parse(whole.clone()).is_ok(), "{name}");
        for length in 0..whole.len() {
            assert!(Checkpoint::parse(whole[..length].to_vec()).is_err(), "{name} of {length} bytes");
        }
    }
}

#[test]
fn a_flipped_bit_in_a_zip_files_numbers_is_noticed() {
    let mut file = State::small().zip();
    let numbers: Vec<u8> = [1f32, 2., 3.].iter().flat_map(|x| x.to_le_bytes()).collect();
    let at = file.windows(numbers.len()).position(|window| window == numbers).unwrap();
    file[at] ^= 1;
    let problem = Checkpoint::parse(file).unwrap().read("weight").unwrap_err();
    assert!(problem.starts_with("has a damaged record data/0"), "{problem}");
}

#[test]
fn big_endian_files_are_refused_by_name() {
    let sentence = "was written on a big-endian machine, whose numbers Coronet does not read";
    let state = State::small();
    assert_eq!(refusal(&legacy_of(false, &state.pickle(), &state.storages)), sentence);
    let pickle = state.pickle();
    let file = [("data.pkl".into(), &pickle[..]), ("byteorder".into(), b"big"), ("data/0".into(), &[0; 24])];
    assert_eq!(refusal(&records(file, Stored)), sentence);
}

#[test]
fn files_of_other_kinds_are_called_what_they_are() {
    let neither = "is neither safetensors nor a PyTorch checkpoint";
    for bytes in [&b""[..], b"hello, this is a text file", b"\x89PNG\r\n\x1a\n", b"{\"json\": true}", &[0; 64]] {
        assert_eq!(refusal(bytes), neither);
    }
    let mut tar = vec![0; 1024];
    tar[257..262].copy_from_slice(b"ustar");
    assert!(refusal(&tar).starts_with("is a tar file, PyTorch's first format"));
    let other = "is a zip file, but none that torch.save wrote: it has no data.pkl";
    assert_eq!(refusal(&records([("word/document.xml".into(), &b"<x/>"[..])], Stored)), other);
    let script = [("data.pkl".into(), &b"\x80\x02N."[..]), ("constants.pkl".into(), b"\x80\x02).")];
    assert_eq!(refusal(&records(script, Stored)), "is a TorchScript program; save a network's state_dict() instead");
    assert_eq!(
        refusal(b"\x80\x02N."),
        "is no intact PyTorch checkpoint: it is a pickle, but none that torch.save wrote"
    );
    assert!(refusal(b"\xff\xff\xff\xff\xff\xff\xff\xff{}").starts_with("is a damaged safetensors file"));
    let header = format!("{{\"a\":{{\"dtype\":\"{}\"}}}}", "\\u001b".repeat(1 << 16));
    let sentence = refusal(&[&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat());
    assert!(sentence.starts_with("is a damaged safetensors file") && sentence.len() < 1000, "{sentence}");
    assert!(!sentence.contains('\u{1b}'), "{sentence}");
}

#[test]
fn missing_and_superfluous_records_are_told_apart() {
    let state = State::small();
    assert_eq!(refusal(&zip(&state.pickle(), &[], Stored)), "lacks the record data/0");
    // An attachment that no tensor is in does no harm.
    let pickle = state.pickle();
    let file = [
        ("data.pkl".into(), &pickle[..]),
        ("data/0".into(), &state.storages[0].bytes[..]),
        ("extra/notes.txt".into(), &b"notes"[..]),
    ];
    assert!(Checkpoint::parse(records(file, CompressionMethod::Deflated)).is_ok());
}

proptest! {
    #[test]
    fn flipped_bytes_never_panic(
        which in 0usize..4,
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let (_, mut file) = every_file()[which].clone();
        for (at, byte) in flips {
            let at = at.index(file.len());
            file[at] = byte;
        }
        if let Ok(mut checkpoint) = Checkpoint::parse(file) {
            let names: Vec<String> = checkpoint.tensors().keys().cloned().collect();
            for name in names {
                let _ = checkpoint.read(&name);
            }
        }
    }
}
