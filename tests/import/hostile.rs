//! Pickles that would run something, or fill memory, or hang, if Python read them: each is refused in a sentence.

use super::writer::{PROTOCOL_2, State, Stored, global, int, legacy, text, tuple, zip};
use coronet::weights::checkpoint::Checkpoint;
use proptest::prelude::*;
use zip::CompressionMethod;

fn refusal(bytes: Vec<u8>) -> String {
    let sentence = Checkpoint::parse(bytes).unwrap_err();
    assert_eq!(sentence.lines().count(), 1, "{sentence}");
    assert!(sentence.len() < 400, "{sentence}");
    sentence
}

/// What is said about a pickle in each container; it must be the same.
fn refusal_everywhere(pickle: &[u8]) -> String {
    let zipped = refusal(zip(pickle, &[], CompressionMethod::Stored));
    assert_eq!(refusal(legacy(pickle, &[])), zipped);
    zipped
}

const NOTHING_RUNS: &str = "Coronet reads tensors only and runs nothing";

#[test]
fn whatever_a_pickle_wants_to_call_is_named_and_refused() {
    let call = |module: &str, name: &str| [PROTOCOL_2, &global(module, name), b"(", &text("id"), b"tR."].concat();
    for (module, name) in [
        ("os", "system"),
        ("posix", "system"),
        ("nt", "system"),
        ("builtins", "eval"),
        ("__builtin__", "exec"),
        ("builtins", "getattr"),
        ("subprocess", "Popen"),
        ("torch", "load"),
        ("torch.hub", "load"),
        ("torch._utils", "_rebuild_device_tensor_from_numpy"),
        ("torch", "QInt8Storage"),
        ("numpy", "load"),
        ("collections", "namedtuple"),
        ("importlib", "import_module"),
    ] {
        let expected = format!("asks Python to call {module}.{name}; {NOTHING_RUNS}");
        assert_eq!(refusal_everywhere(&call(module, name)), expected);
        let stack_global = [PROTOCOL_2, &text(module), &text(name), b"\x93(", &text("id"), b"tR."].concat();
        assert_eq!(refusal_everywhere(&stack_global), expected);
        let inst = [PROTOCOL_2, b"(", &text("id"), format!("i{module}\n{name}\n.").as_bytes()].concat();
        assert_eq!(refusal_everywhere(&inst), expected);
    }
}

#[test]
fn a_bare_pickle_that_runs_a_command_is_refused_whatever_its_protocol() {
    let expected = format!("asks Python to call os.system; {NOTHING_RUNS}");
    assert_eq!(refusal(b"cos\nsystem\n(S'id'\ntR.".to_vec()), expected);
    assert_eq!(refusal(b"(S'id'\nios\nsystem\n.".to_vec()), expected);
    assert_eq!(
        refusal(
            b"\x80\x04\x95\x1d\0\0\0\0\0\0\0\x8c\x02os\x94\x8c\x06system\x94\x93\x94\x8c\x02id\x94\x85\x94R\x94."
                .to_vec()
        ),
        expected
    );
}

#[test]
fn a_command_hidden_behind_good_tensors_or_in_a_later_pickle_is_found() {
    let state = State::small();
    let hidden = [global("os", "system"), b"(".to_vec(), text("id"), b"tR".to_vec()].concat();
    let pickle = [PROTOCOL_2, b"}(", &text("a"), &state.dictionary(""), &text("b"), &hidden, b"u."].concat();
    let expected = format!("asks Python to call os.system; {NOTHING_RUNS}");
    assert_eq!(refusal(zip(&pickle, &state.storages, CompressionMethod::Stored)), expected);
    assert_eq!(refusal(legacy(&pickle, &state.storages)), expected);

    // In place of the list of keys, which comes after a good dictionary.
    let whole = legacy(&state.pickle(), &[]);
    let keys = whole.len() - b"\x80\x02](e.".len();
    assert_eq!(refusal([&whole[..keys], PROTOCOL_2, &hidden, b"."].concat()), expected);
}

#[test]
fn objects_extensions_and_outside_buffers_are_refused() {
    let ordered = global("collections", "OrderedDict");
    for (body, what) in [
        ([&b"("[..], &ordered, b"o"].concat(), "build an object (opcode 0x6f)"),
        ([&ordered[..], b")\x81"].concat(), "build an object (opcode 0x81)"),
        ([&ordered[..], b")}\x92"].concat(), "build an object (opcode 0x92)"),
        (b"\x82\x01".to_vec(), "call something from its extension registry (opcode 0x82)"),
        (b"\x83\x01\x00".to_vec(), "call something from its extension registry (opcode 0x83)"),
        (b"\x84\x01\x00\x00\x00".to_vec(), "call something from its extension registry (opcode 0x84)"),
        (b"\x97".to_vec(), "fetch a buffer from outside the file (opcode 0x97)"),
    ] {
        let sentence = refusal_everywhere(&[PROTOCOL_2, &body, b"."].concat());
        assert_eq!(sentence, format!("asks Python to {what}; {NOTHING_RUNS}"));
    }
    let state = [PROTOCOL_2, b"K\x01}b."].concat();
    assert_eq!(refusal_everywhere(&state), format!("asks Python to set the state of an object; {NOTHING_RUNS}"));
}

#[test]
fn names_made_to_deceive_a_terminal_are_shown_escaped_and_cut() {
    let sentence = refusal_everywhere(&[PROTOCOL_2, b"cos\x1b[2J\nsys\rtem\n."].concat());
    assert_eq!(sentence, format!("asks Python to call os\\u{{1b}}[2J.sys\\rtem; {NOTHING_RUNS}"));
    let long = "x".repeat(1 << 20);
    assert!(refusal_everywhere(&[PROTOCOL_2, &global(&long, &long), b"."].concat()).contains("xxx..."));
}

#[test]
fn depth_loops_and_repetition_cost_nothing() {
    // A million lists in each other, and as many marks.
    let deep = [PROTOCOL_2, &b"]".repeat(1_000_000), &b"a".repeat(999_999), b"."].concat();
    assert!(refusal_everywhere(&deep).starts_with("holds no state dictionary"));
    assert!(refusal_everywhere(&[PROTOCOL_2, &b"(".repeat(1_000_000), b"."].concat()).contains("empty stack"));
    // A dictionary that holds itself under the usual name.
    let itself = [PROTOCOL_2, b"}q\x00", &text("state_dict"), b"h\x00s."].concat();
    assert!(refusal_everywhere(&itself).starts_with("holds no state dictionary"));
    // Ever the same long tuple, copied.
    let size = [&global("torch", "Size")[..], b"h\x00\x85R0"].concat();
    let copies = [PROTOCOL_2, b"(", &b"N".repeat(100_000), b"tq\x000", &size.repeat(10_000), b"N."].concat();
    assert!(refusal_everywhere(&copies).contains("more than any state dictionary needs"));
    assert!(refusal_everywhere(&[PROTOCOL_2, &b"N0".repeat(3_000_000), b"N."].concat()).contains("steps"));
}

#[test]
fn counts_are_compared_with_what_is_there_before_memory_is_taken() {
    for body in [
        &b"X\xff\xff\xff\xff"[..],
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x96\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x8b\xff\xff\xff\xff",
        b"\x8b\xff\xff\xff\x7f",
        b"T\xff\xff\xff\x7f",
        b"B\xff\xff\xff\xff",
    ] {
        let pickle = [PROTOCOL_2, body, b"."].concat();
        assert_eq!(refusal_everywhere(&pickle), "is no intact PyTorch checkpoint: it ends early", "{body:?}");
    }
}

#[test]
fn malformed_programs_are_refused() {
    for (body, words) in [
        (&b""[..], "empty stack"),
        (b"0", "empty stack"),
        (b"(", "empty stack"),
        (b"t", "empty stack"),
        (b"\x87", "empty stack"),
        (b"Ns", "empty stack"),
        (b"h\x07", "never stored"),
        (b"gseven\n", "no number"),
        (b"}(Nu", "no value"),
        (b"NNa", "no container"),
        (b"K\x01)R", "cannot be called"),
        (b"ctorch\nFloatStorage\n)R", "calls a storage"),
        (b"NQ", "lacks a tuple"),
        (b"Pname\n", "under a bare name"),
        (b")Q", "not described as one"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n)R", "not described as one"),
        (b"ctorch._utils\n_rebuild_parameter\nN\x85R", "is no tensor"),
        (b"S'", "ends early"),
        (b"Sx\n", "quotes"),
        (b"NN\x93", "no text"),
        (b"\xff", "no pickle opcode 0xff"),
        (b"\x80\x06", "no pickle protocol 6"),
    ] {
        let sentence = refusal_everywhere(&[PROTOCOL_2, body, b"."].concat());
        assert!(sentence.contains(words), "{body:?}: {sentence}");
    }
}

/// The small state with its one tensor changed, in each container.
fn tensor_refusals(change: impl Fn(&mut Stored)) -> String {
    let mut state = State::small();
    change(&mut state.tensors[0]);
    let sentence = refusal(state.zip());
    assert_eq!(refusal(state.legacy()), sentence);
    sentence
}

#[test]
fn tensors_that_leave_their_storage_are_refused_by_name() {
    let too_large = tensor_refusals(|t| t.sizes = vec![3, 3]);
    assert_eq!(too_large, "tensor weight has the shape [3, 3], but its storage holds 6 numbers");
    let beyond = tensor_refusals(|t| t.offset = 1);
    assert_eq!(beyond, "tensor weight reaches beyond its storage, which holds 6 numbers");
    assert_eq!(tensor_refusals(|t| t.strides = vec![4, 1]), beyond);
    assert_eq!(tensor_refusals(|t| t.offset = i64::MAX), beyond);
    assert_eq!(tensor_refusals(|t| t.strides = vec![i64::MAX, i64::MAX]), beyond);
    let repeated = tensor_refusals(|t| (t.sizes, t.strides) = (vec![1 << 40], vec![0]));
    assert_eq!(repeated, "tensor weight has the shape [1099511627776], but its storage holds 6 numbers");
    assert!(tensor_refusals(|t| t.sizes = vec![i64::MAX, i64::MAX]).contains("its storage holds 6 numbers"));
    assert!(tensor_refusals(|t| t.sizes = vec![-2, 3]).contains("[-2, 3] at an impossible place"));
    assert!(tensor_refusals(|t| t.offset = -1).contains("at an impossible place"));
    assert!(tensor_refusals(|t| t.strides = vec![3, -1]).contains("at an impossible place"));
    assert_eq!(tensor_refusals(|t| t.strides = vec![1]), "tensor weight has 2 sizes but 1 strides");
    assert!(tensor_refusals(|t| (t.sizes, t.strides) = (vec![1; 9], vec![1; 9])).contains("9 dimensions"));
}

#[test]
fn storages_that_are_not_what_they_are_declared_to_be_are_refused() {
    let with = |count: i64, class: &'static str| {
        let mut state = State::small();
        (state.storages[0].count, state.storages[0].class) = (count, class);
        state
    };
    let larger = with(1000, "FloatStorage");
    assert_eq!(refusal(larger.zip()), "has a record data/0 of 24 bytes, but declares 4000 for it");
    assert_eq!(refusal(larger.legacy()), "is no intact PyTorch checkpoint: it ends early");
    let absurd = with(i64::MAX, "FloatStorage");
    assert!(refusal(absurd.zip()).contains("storage 0 holds 9223372036854775807 numbers"));
    assert_eq!(refusal(absurd.legacy()), refusal(absurd.zip()));
    assert!(refusal(with(-1, "FloatStorage").zip()).contains("storage 0 holds -1 numbers"));
    // Another type: the bytes no longer add up.
    assert_eq!(refusal(with(6, "DoubleStorage").zip()), "has a record data/0 of 24 bytes, but declares 48 for it");
    assert_eq!(refusal(with(6, "HalfStorage").zip()), "has a record data/0 of 24 bytes, but declares 12 for it");
    // Declared in two ways.
    let mut state = State::small();
    let twice = [state.dictionary(""), text("b")].concat();
    state.storages[0].class = "IntStorage";
    let second = state.tensor(&state.tensors[0]);
    let pickle = [PROTOCOL_2, &twice, &second, b"s."].concat();
    let sentence = refusal(zip(&pickle, &state.storages, CompressionMethod::Stored));
    assert_eq!(sentence, "is no intact PyTorch checkpoint: storage 0 is declared in two ways");
}

#[test]
fn a_name_that_stands_twice_is_refused() {
    let mut state = State::small();
    state.add("weight", &[1], &[9.0]);
    assert_eq!(refusal(state.zip()), "holds two tensors weight");
    assert_eq!(refusal(state.legacy()), "holds two tensors weight");
}

#[test]
fn a_record_packed_beyond_belief_is_refused_unread() {
    let mut state = State::default();
    let count = 4 << 20;
    state.add_bytes("weight", &[count], "FloatStorage", count, vec![0; 4 * count]);
    let file = state.packed_zip();
    assert!(file.len() < 1 << 17);
    let mut checkpoint = Checkpoint::parse(file).unwrap();
    let sentence = checkpoint.read("weight").unwrap_err();
    assert!(sentence.starts_with("has a record data/0 of 16777216 bytes packed in "), "{sentence}");
}

/// Opcodes and pieces that pass the first checks, so that random programs get somewhere.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let pieces = [
        &b"("[..],
        b"0",
        b"1",
        b"2",
        b"N",
        b"}",
        b"]",
        b")",
        b"a",
        b"e",
        b"s",
        b"u",
        b"t",
        b"d",
        b"l",
        b"R",
        b"b",
        b"Q",
        b"\x85",
        b"\x86",
        b"\x87",
        b"\x94",
        b"\x88",
        b"K\x02",
        b"q\x01",
        b"h\x01",
        b"\x8a\x01\xff",
        b"\x8f",
        b"\x90",
    ];
    let mut pieces: Vec<Vec<u8>> = pieces.iter().map(|piece| piece.to_vec()).collect();
    pieces.extend([
        text("storage"),
        text("0"),
        int(6),
        int(i64::MIN),
        tuple(&[2, 3]),
        tuple(&[3, 1]),
        global("torch", "FloatStorage"),
        global("torch", "Size"),
        global("collections", "OrderedDict"),
        global("torch._utils", "_rebuild_tensor_v2"),
        global("torch._utils", "_rebuild_tensor_v3"),
        global("torch.nn.parameter", "Parameter"),
        State::small().dictionary(""),
        State::small().tensor(&State::small().tensors[0]),
    ]);
    prop_oneof![9 => prop::sample::select(pieces), 1 => prop::collection::vec(any::<u8>(), 1..4)]
}

proptest! {
    #[test]
    fn random_programs_never_panic(pieces in prop::collection::vec(piece(), 0..60)) {
        let pickle = [PROTOCOL_2, &pieces.concat(), b"."].concat();
        let storages = State::small().storages;
        let _ = Checkpoint::parse(zip(&pickle, &storages, CompressionMethod::Stored));
        let _ = Checkpoint::parse(legacy(&pickle, &storages));
    }
}
