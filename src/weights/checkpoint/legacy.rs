//! The files that PyTorch wrote before its zip files, and still writes on request.
//!
//! One after the other: a pickled magic number, a pickled protocol number, a pickled dictionary about the machine, the
//! pickled object, the pickled list of its storages' keys, and for each storage a count of numbers and their bytes.

use super::pickle::{self, Object, Pickle, Problem, Reader, damaged};
use super::shown;
use std::collections::HashMap;
use std::ops::Range;

const MAGIC_NUMBER: i128 = 0x1950_a86a_20f9_469c_fc6c;
const PROTOCOL_NUMBER: i128 = 1001;

/// The pickled object, and where in the file each of its storages lies.
///
/// # Errors
/// [`Problem`].
pub fn read(bytes: &[u8]) -> Result<(Pickle, Vec<Range<usize>>), Problem> {
    let mut reader = Reader::new(bytes);
    let magic = pickle::read(&mut reader)?;
    if !matches!(magic.root(), Object::Int(MAGIC_NUMBER)) {
        return Err(damaged("it is a pickle, but none that torch.save wrote"));
    }
    let protocol = pickle::read(&mut reader)?;
    if !matches!(protocol.root(), Object::Int(PROTOCOL_NUMBER)) {
        return Err(damaged(format!("it is not of PyTorch's protocol {PROTOCOL_NUMBER}")));
    }
    check_machine(&pickle::read(&mut reader)?)?;
    let object = pickle::read(&mut reader)?;
    let keys = pickle::read(&mut reader)?;
    let ranges = storages(&mut reader, &object, &keys)?;
    Ok((object, ranges))
}

fn check_machine(about: &Pickle) -> Result<(), Problem> {
    let Object::Dict(entries) = about.root() else { return Err(damaged("it does not say what machine wrote it")) };
    let little = entries.iter().find_map(|&(key, value)| match (&about.objects[key], &about.objects[value]) {
        (Object::Text(key), Object::Bool(little)) if key == "little_endian" => Some(*little),
        _ => None,
    });
    match little {
        Some(true) => Ok(()),
        Some(false) => {
            Err(Problem::Refused("was written on a big-endian machine, whose numbers Coronet does not read".into()))
        }
        None => Err(damaged("it does not say what machine wrote it")),
    }
}

/// Passes over the storages, in the order of `keys`, and notes where each lies.
fn storages(reader: &mut Reader<'_>, object: &Pickle, keys: &Pickle) -> Result<Vec<Range<usize>>, Problem> {
    let by_key: HashMap<&str, usize> =
        object.storages.iter().enumerate().map(|(number, storage)| (storage.key.as_str(), number)).collect();
    let Object::List(listed) = keys.root() else { return Err(damaged("it has no list of storages")) };
    let mut ranges = vec![None; object.storages.len()];
    for &id in listed {
        let Object::Text(key) = &keys.objects[id] else { return Err(damaged("it has no list of storages")) };
        let number =
            *by_key.get(key.as_str()).ok_or_else(|| damaged(format!("no tensor is in storage {}", shown(key))))?;
        let storage = &object.storages[number];
        let count = reader.unsigned(8)?;
        if count.checked_mul(storage.element.bytes() as u64) != Some(storage.bytes as u64) {
            let declared = storage.bytes / storage.element.bytes();
            return Err(damaged(format!("storage {} has {count} numbers, not the {declared} declared", shown(key))));
        }
        let begin = reader.position();
        reader.take(storage.bytes as u64)?;
        if ranges[number].replace(begin..reader.position()).is_some() {
            return Err(damaged(format!("storage {} is there twice", shown(key))));
        }
    }
    let missing = || damaged("a storage that tensors are in is missing");
    ranges.into_iter().collect::<Option<Vec<_>>>().ok_or_else(missing)
}
