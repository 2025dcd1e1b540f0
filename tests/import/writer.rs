//! PyTorch's files without PyTorch: just enough of a pickler to write what `torch.save` does, and what it never would.

use std::io::{Cursor, Write};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// A storage: its class, the count of numbers that the pickle declares, and the bytes that the file has.
#[derive(Clone)]
pub struct Storage {
    pub class: &'static str,
    pub count: i64,
    pub bytes: Vec<u8>,
}

/// A tensor in one of the storages.
#[derive(Clone)]
pub struct Stored {
    pub name: String,
    pub storage: usize,
    pub offset: i64,
    pub sizes: Vec<i64>,
    pub strides: Vec<i64>,
}

/// A state dictionary and its storages.
#[derive(Clone, Default)]
pub struct State {
    pub storages: Vec<Storage>,
    pub tensors: Vec<Stored>,
}

impl State {
    /// One float32 tensor, `[0, 1, 2, 3, 4, 5]` as 2 x 3.
    pub fn small() -> State {
        let mut state = State::default();
        state.add("weight", &[2, 3], &[0., 1., 2., 3., 4., 5.]);
        state
    }

    /// Adds a tensor of float32 with a storage of its own.
    pub fn add(&mut self, name: &str, dims: &[usize], numbers: &[f32]) {
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.add_bytes(name, dims, "FloatStorage", numbers.len(), bytes);
    }

    /// Adds a tensor of any type with a storage of its own.
    pub fn add_bytes(&mut self, name: &str, dims: &[usize], class: &'static str, count: usize, bytes: Vec<u8>) {
        let strides = (0..dims.len()).map(|d| dims[d + 1..].iter().product::<usize>() as i64).collect();
        let sizes = dims.iter().map(|&side| side as i64).collect();
        self.tensors.push(Stored { name: name.into(), storage: self.storages.len(), offset: 0, sizes, strides });
        self.storages.push(Storage { class, count: count as i64, bytes });
    }

    /// The pickled dictionary.
    pub fn pickle(&self) -> Vec<u8> {
        [PROTOCOL_2, &self.dictionary(""), b"."].concat()
    }

    /// The dictionary as part of a pickle, every name behind `prefix`.
    pub fn dictionary(&self, prefix: &str) -> Vec<u8> {
        let mut out = [global("collections", "OrderedDict"), b")R(".to_vec()].concat();
        for tensor in &self.tensors {
            out.extend(text(&format!("{prefix}{}", tensor.name)));
            out.extend(self.tensor(tensor));
        }
        out.push(b'u');
        out
    }

    /// A tensor as part of a pickle.
    pub fn tensor(&self, tensor: &Stored) -> Vec<u8> {
        let Storage { class, count, .. } = &self.storages[tensor.storage];
        let storage =
            [text("storage"), global("torch", class), text(&tensor.storage.to_string()), text("cpu"), int(*count)];
        let place = [int(tensor.offset), tuple(&tensor.sizes), tuple(&tensor.strides)].concat();
        let hooks = [global("collections", "OrderedDict"), b")R".to_vec()].concat();
        let rebuild = global("torch._utils", "_rebuild_tensor_v2");
        [rebuild, b"((".to_vec(), storage.concat(), b"tQ".to_vec(), place, b"\x89".to_vec(), hooks, b"tR".to_vec()]
            .concat()
    }

    pub fn zip(&self) -> Vec<u8> {
        zip(&self.pickle(), &self.storages, CompressionMethod::Stored)
    }

    pub fn packed_zip(&self) -> Vec<u8> {
        zip(&self.pickle(), &self.storages, CompressionMethod::Deflated)
    }

    pub fn legacy(&self) -> Vec<u8> {
        legacy(&self.pickle(), &self.storages)
    }
}

pub const PROTOCOL_2: &[u8] = b"\x80\x02";

pub fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

pub fn int(number: i64) -> Vec<u8> {
    [b"\x8a\x08", &number.to_le_bytes()[..]].concat()
}

pub fn tuple(numbers: &[i64]) -> Vec<u8> {
    [b"(".to_vec(), numbers.iter().flat_map(|&number| int(number)).collect(), b"t".to_vec()].concat()
}

pub fn global(module: &str, name: &str) -> Vec<u8> {
    format!("c{module}\n{name}\n").into_bytes()
}

/// A zip file as `torch.save` writes it.
pub fn zip(pickle: &[u8], storages: &[Storage], method: CompressionMethod) -> Vec<u8> {
    let named = storages.iter().enumerate().map(|(key, storage)| (format!("data/{key}"), &storage.bytes[..]));
    let first = [("data.pkl".to_owned(), pickle), ("byteorder".to_owned(), &b"little"[..])];
    records(first.into_iter().chain(named), method)
}

/// A zip file of these records, in one folder.
pub fn records<'a>(records: impl IntoIterator<Item = (String, &'a [u8])>, method: CompressionMethod) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in records {
        zip.start_file(format!("archive/{name}"), SimpleFileOptions::default().compression_method(method)).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// The five pickles and the storages of the format before zip files.
pub fn legacy(pickle: &[u8], storages: &[Storage]) -> Vec<u8> {
    legacy_of(true, pickle, storages)
}

pub fn legacy_of(little_endian: bool, pickle: &[u8], storages: &[Storage]) -> Vec<u8> {
    let mut out = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.".to_vec();
    let machine = [text("little_endian"), vec![if little_endian { 0x88 } else { 0x89 }]].concat();
    out.extend([PROTOCOL_2, b"}", &machine, b"s."].concat());
    out.extend(pickle);
    let keys: Vec<u8> = (0..storages.len()).flat_map(|key| text(&key.to_string())).collect();
    out.extend([PROTOCOL_2, b"](", &keys, b"e."].concat());
    for storage in storages {
        out.extend(storage.count.to_le_bytes());
        out.extend(&storage.bytes);
    }
    out
}
