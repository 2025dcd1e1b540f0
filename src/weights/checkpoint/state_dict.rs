//! The state dictionary inside whatever a training script has saved around it.
//!
//! What comes out are names and tensors: an entry that is no tensor is passed over, and prefixes that wrappers put in
//! front of every name are taken off.

use super::pickle::{Id, Object, Pickle, TensorRecord};
use super::shown;
use std::collections::BTreeMap;

/// Where training scripts keep a state dictionary, most telling name first.
const USUAL_NAMES: [&str; 8] =
    ["state_dict", "model_state_dict", "model", "net", "network", "model_state", "weights", "params"];

/// What wrappers put in front of names: `DataParallel`, `torch.compile`, and the attribute that holds the network.
const PREFIXES: [&str; 5] = ["module.", "_orig_mod.", "model.", "net.", "network."];

/// How deep a state dictionary may lie in others.
const DEEPEST: usize = 4;

/// The names and tensors of the pickle's state dictionary.
///
/// # Errors
/// Half a sentence about the file, when it holds none, several, or a name twice.
pub fn find(pickle: &Pickle) -> Result<BTreeMap<String, &TensorRecord>, String> {
    let mut dictionary = pickle.root();
    for _ in 0..DEEPEST {
        let Object::Dict(entries) = dictionary else { break };
        let inside = dictionaries(pickle, entries);
        // A usual name says more than tensors beside it: those may be a generator's state.
        let usual = USUAL_NAMES.iter().find_map(|usual| inside.iter().find(|(name, _)| name == usual));
        let tensors = tensors(pickle, entries)?;
        dictionary = match (usual, &inside[..]) {
            (Some((_, inner)), _) => inner,
            _ if !tensors.is_empty() => return Ok(tensors),
            (None, [(_, inner)]) => inner,
            (None, []) => break,
            (None, [(one, _), (other, _), ..]) => {
                let (one, other) = (shown(one), shown(other));
                return Err(format!(
                    "holds several dictionaries, such as {one} and {other}; save the network's state_dict() alone"
                ));
            }
        };
    }
    Err("holds no state dictionary: save a network's state_dict()".into())
}

fn tensors<'a>(pickle: &'a Pickle, entries: &[(Id, Id)]) -> Result<BTreeMap<String, &'a TensorRecord>, String> {
    let mut tensors = BTreeMap::new();
    for &(key, value) in entries {
        if let (Object::Text(name), Object::Tensor(tensor)) = (&pickle.objects[key], &pickle.objects[value])
            && tensors.insert(name.clone(), &**tensor).is_some()
        {
            return Err(format!("holds two tensors {}", shown(name)));
        }
    }
    Ok(tensors)
}

/// The dictionaries among the entries, those that hold something.
fn dictionaries<'a>(pickle: &'a Pickle, entries: &[(Id, Id)]) -> Vec<(&'a str, &'a Object)> {
    let named = entries.iter().filter_map(|&(key, value)| match (&pickle.objects[key], &pickle.objects[value]) {
        (Object::Text(name), inner @ Object::Dict(entries)) if !entries.is_empty() => Some((name.as_str(), inner)),
        _ => None,
    });
    named.collect()
}

/// The same tensors without the prefixes that all names carry.
pub fn without_prefixes<T>(tensors: BTreeMap<String, T>) -> BTreeMap<String, T> {
    // Of no names all would carry every prefix, without an end.
    if tensors.is_empty() {
        return tensors;
    }
    // Only the length is counted at first: a hostile name may carry very many.
    let mut cut = 0;
    let is_carried = |prefix: &str, cut: usize| tensors.keys().all(|name| name[cut..].starts_with(prefix));
    while let Some(prefix) = PREFIXES.iter().find(|prefix| is_carried(prefix, cut)) {
        cut += prefix.len();
    }
    tensors.into_iter().map(|(name, tensor)| (name[cut..].to_owned(), tensor)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_go_only_where_every_name_has_them() {
        let names = |names: &[&str]| {
            let tensors: BTreeMap<String, ()> = names.iter().map(|&name| (name.to_owned(), ())).collect();
            without_prefixes(tensors).into_keys().collect::<Vec<_>>()
        };
        assert_eq!(names(&["module.a", "module.b"]), ["a", "b"]);
        assert_eq!(names(&["module._orig_mod.a", "module._orig_mod.b"]), ["a", "b"]);
        assert_eq!(names(&["module.a", "b"]), ["b", "module.a"]);
        assert_eq!(names(&["module."]), [""]);
        assert_eq!(names(&["module.", "module.net."]), ["", "net."]);
        assert_eq!(names(&[]), [""; 0]);
    }

    /// Copied for each of them, the names would take minutes.
    #[test]
    fn a_quarter_of_a_million_prefixes_are_taken_off_at_once() {
        let long = |rest: &str| ("net.".repeat(250_000) + rest, ());
        let names: Vec<String> = without_prefixes(BTreeMap::from([long("a"), long("é")])).into_keys().collect();
        assert_eq!(names, ["a", "é"]);
    }
}
