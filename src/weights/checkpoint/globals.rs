//! The names that a checkpoint may mention, and the plain value that each call of them stands for.
//!
//! Python would import these names and call them. Nothing of the kind happens here: a name that is not on the list
//! ends the reading, and a call of one that is becomes a record (a dictionary, a tensor's layout) made by this file.

use super::layout::Element;
use super::pickle::{Id, Machine, Object, Problem, Storage, TensorRecord, damaged};
use super::shown;

/// More dimensions than any layer's parameters have.
const MOST_DIMENSIONS: usize = 8;

/// The longest key of a storage: PyTorch numbers them.
const LONGEST_KEY: usize = 64;

/// A name on the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Global {
    /// `collections.OrderedDict`, which state dictionaries are.
    OrderedDict,
    /// `torch._utils._rebuild_tensor` and `_v2`: a tensor of its storage's type.
    RebuildTensor,
    /// `torch._utils._rebuild_tensor_v3`: a tensor that states its type.
    RebuildTypedTensor,
    /// `torch._utils._rebuild_parameter` and relatives: a tensor that was trained.
    Parameter,
    /// `torch.Size`, a tuple.
    Size,
    /// A storage class, `torch.FloatStorage` and so on.
    Storage(Element),
    /// A type, `torch.float32` and so on.
    Dtype(Element),
    /// What checkpoints keep beside tensors: devices, counters, sets, NumPy's numbers. Their values are not needed.
    Inert,
}

impl Global {
    /// The global of this name.
    ///
    /// # Errors
    /// [`Problem::Refused`] with the name, when it is not on the list.
    pub fn find(module: &str, name: &str) -> Result<Global, Problem> {
        let inert = match module {
            "torch" => name == "device",
            "torch.serialization" => name == "_get_layout",
            "_codecs" => name == "encode",
            "collections" => matches!(name, "Counter" | "defaultdict"),
            "builtins" | "__builtin__" => {
                matches!(name, "set" | "frozenset" | "bytearray" | "complex" | "dict" | "list")
            }
            "numpy.core.multiarray" | "numpy._core.multiarray" => matches!(name, "scalar" | "_reconstruct"),
            "numpy" => matches!(name, "dtype" | "ndarray"),
            _ => false,
        };
        let found = match (module, name) {
            _ if inert => Some(Global::Inert),
            ("collections", "OrderedDict") => Some(Global::OrderedDict),
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Some(Global::RebuildTensor),
            ("torch._utils", "_rebuild_tensor_v3") => Some(Global::RebuildTypedTensor),
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state")
            | ("torch.nn.parameter", "Parameter") => Some(Global::Parameter),
            ("torch", "Size") => Some(Global::Size),
            ("torch" | "torch.storage", _) => {
                Element::of_storage(name).map(Global::Storage).or_else(|| Element::of_dtype(name).map(Global::Dtype))
            }
            _ => None,
        };
        found.ok_or_else(|| Global::refusal(module, name))
    }

    /// What is said about a name that is not on the list.
    pub fn refusal(module: &str, name: &str) -> Problem {
        let name = shown(&format!("{module}.{name}"));
        Problem::Refused(format!("asks Python to call {name}; Coronet reads tensors only and runs nothing"))
    }
}

impl Machine<'_, '_> {
    /// The value of a call.
    pub(super) fn reduce(&mut self, callee: Id, arguments: Id) -> Result<Object, Problem> {
        let (Object::Global(callee), Object::Tuple(arguments)) = (&self.objects[callee], &self.objects[arguments])
        else {
            return Err(damaged("it calls what cannot be called"));
        };
        let (callee, first) = (*callee, arguments.first().copied());
        match callee {
            Global::OrderedDict => self.ordered_dict(first),
            Global::RebuildTensor => Ok(Object::Tensor(Box::new(self.tensor(arguments)?))),
            Global::RebuildTypedTensor => {
                let element = match arguments.get(6).map(|&id| &self.objects[id]) {
                    Some(Object::Global(Global::Dtype(element))) => *element,
                    _ => return Err(damaged("a tensor states no type")),
                };
                Ok(Object::Tensor(Box::new(TensorRecord { element, ..self.tensor(arguments)? })))
            }
            Global::Parameter => match first.map(|id| &self.objects[id]) {
                Some(Object::Tensor(tensor)) => Ok(Object::Tensor(tensor.clone())),
                _ => Err(damaged("a parameter is no tensor")),
            },
            Global::Size => {
                let sizes = self.tuple(first)?.to_vec();
                self.charge(sizes.len())?;
                Ok(Object::Tuple(sizes))
            }
            Global::Inert => Ok(Object::Inert),
            Global::Storage(_) | Global::Dtype(_) => Err(damaged("it calls a storage or a type")),
        }
    }

    /// Gives an object its attributes, none of which matters: a state dictionary's `_metadata`, whether a tensor was
    /// to be trained.
    pub(super) fn build(&self, target: Id, state: Id) -> Result<(), Problem> {
        match (&self.objects[target], &self.objects[state]) {
            (Object::Dict(_) | Object::Inert, _) => Ok(()),
            (Object::Tensor(_), Object::Tuple(state)) if state.len() <= 3 => Ok(()),
            _ => Err(Problem::Refused(
                "asks Python to set the state of an object; Coronet reads tensors only and runs nothing".into(),
            )),
        }
    }

    /// The object that PyTorch keeps outside the pickle: `("storage", class, key, device, numbers)`.
    pub(super) fn persistent(&mut self, id: Id) -> Result<Object, Problem> {
        let [kind, class, key, _, count, view @ ..] = self.tuple(Some(id))? else {
            return Err(damaged("a storage is not described as one"));
        };
        let objects = &self.objects;
        let (Object::Text(kind), Object::Global(Global::Storage(element)), Object::Text(key), Object::Int(count)) =
            (&objects[*kind], &objects[*class], &objects[*key], &objects[*count])
        else {
            return Err(damaged("a storage is not described as one"));
        };
        if kind != "storage" {
            return Err(damaged(format!("it keeps a {} outside", shown(kind))));
        }
        if view.iter().any(|&id| !matches!(objects[id], Object::None)) {
            return Err(Problem::Refused("has storages that are parts of others, as only very old files do".into()));
        }
        if key.len() > LONGEST_KEY {
            return Err(damaged(format!("storage {} has too long a name", shown(key))));
        }
        let bytes = usize::try_from(*count).ok().and_then(|count| count.checked_mul(element.bytes()));
        let bytes = bytes.ok_or_else(|| damaged(format!("storage {} holds {count} numbers", shown(key))))?;
        let storage = Storage { key: key.clone(), element: *element, bytes };
        self.declare(storage).map(Object::Storage)
    }

    /// The number of a storage, which is declared anew for each tensor in it, always alike.
    fn declare(&mut self, storage: Storage) -> Result<usize, Problem> {
        if let Some(&known) = self.storage_by_key.get(&storage.key) {
            if self.storages[known] != storage {
                return Err(damaged(format!("storage {} is declared in two ways", shown(&storage.key))));
            }
            return Ok(known);
        }
        self.storage_by_key.insert(storage.key.clone(), self.storages.len());
        self.storages.push(storage);
        Ok(self.storages.len() - 1)
    }

    /// An empty dictionary, or one of a list of pairs, as Python 2 wrote it.
    fn ordered_dict(&mut self, entries: Option<Id>) -> Result<Object, Problem> {
        let Some(entries) = entries else { return Ok(Object::Dict(Vec::new())) };
        let Object::List(entries) = &self.objects[entries] else {
            return Err(damaged("a dictionary is made of something else than entries"));
        };
        let pair = |&id: &Id| match &self.objects[id] {
            Object::List(pair) | Object::Tuple(pair) if pair.len() == 2 => Ok((pair[0], pair[1])),
            _ => Err(damaged("a dictionary is made of something else than entries")),
        };
        let dict = entries.iter().map(pair).collect::<Result<Vec<_>, _>>()?;
        // A list can be recalled and copied again and again.
        self.charge(dict.len())?;
        Ok(Object::Dict(dict))
    }

    /// The tensor that `(storage, offset, sizes, strides, ...)` describes.
    fn tensor(&self, arguments: &[Id]) -> Result<TensorRecord, Problem> {
        let [storage, offset, sizes, strides, ..] = arguments else {
            return Err(damaged("a tensor is not described as one"));
        };
        let (Object::Storage(storage), Object::Int(offset)) = (&self.objects[*storage], &self.objects[*offset]) else {
            return Err(damaged("a tensor is not described as one"));
        };
        let element = self.storages[*storage].element;
        let (sizes, strides) = (self.dimensions(*sizes)?, self.dimensions(*strides)?);
        Ok(TensorRecord { element, storage: *storage, offset: *offset, sizes, strides })
    }

    fn dimensions(&self, id: Id) -> Result<Vec<i128>, Problem> {
        let items = self.tuple(Some(id))?;
        if items.len() > MOST_DIMENSIONS {
            return Err(damaged(format!("a tensor has {} dimensions", items.len())));
        }
        let number = |&id: &Id| match self.objects[id] {
            Object::Int(number) => Ok(number),
            _ => Err(damaged("a tensor's sizes are no numbers")),
        };
        items.iter().map(number).collect()
    }

    fn tuple(&self, id: Option<Id>) -> Result<&[Id], Problem> {
        match id.map(|id| &self.objects[id]) {
            Some(Object::Tuple(items)) => Ok(items),
            _ => Err(damaged("it lacks a tuple where one belongs")),
        }
    }
}
