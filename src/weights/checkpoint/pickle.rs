//! A machine for the part of Python's pickle language that tensors are written in. It runs nothing.
//!
//! A pickle is a program for a stack machine (Python's `Lib/pickletools.py` documents every opcode). Two of its kinds
//! of opcodes make Python import and call what the file names; here they find their way to `globals.rs`, which knows a
//! short list of names and has a plain value for each. Objects lie in one list and refer to each other by number, so
//! nesting, sharing and cycles cost nothing and nothing recurses. Whatever a file declares is compared with what it
//! has before memory is taken, and the number of steps is bounded: they bound everything else.

use super::globals::Global;
use super::layout::Element;
use std::collections::HashMap;

/// Steps a pickle may take. A state dictionary takes about twenty a tensor.
const MOST_STEPS: usize = 1 << 21;

/// The newest protocol there is.
const NEWEST_PROTOCOL: u8 = 5;

/// Why a pickle was not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// It wants what Coronet does not do; a whole sentence about the file.
    Refused(String),
    /// It is no well-formed pickle, or not of the kind expected; what is wrong.
    Damaged(String),
}

/// [`Problem::Damaged`], for `ok_or` and `map_err`.
pub fn damaged(problem: impl Into<String>) -> Problem {
    Problem::Damaged(problem.into())
}

/// The number of an object in [`Pickle::objects`].
pub type Id = usize;

/// What a pickle can leave behind.
#[derive(Debug, Clone)]
pub enum Object {
    None,
    Bool(bool),
    Int(i128),
    Text(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    /// Entries in the order of the file; a key may stand twice.
    Dict(Vec<(Id, Id)>),
    Global(Global),
    /// A storage, by its number in [`Pickle::storages`].
    Storage(usize),
    /// Boxed, for objects are many and tensors few.
    Tensor(Box<TensorRecord>),
    /// Something without tensors whose value does not matter: a float, bytes, a set, a NumPy scalar.
    Inert,
}

/// A tensor as the file describes it; nothing about it has been checked.
#[derive(Debug, Clone)]
pub struct TensorRecord {
    pub element: Element,
    pub storage: usize,
    pub offset: i128,
    pub sizes: Vec<i128>,
    pub strides: Vec<i128>,
}

/// A storage as the file declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    pub key: String,
    pub element: Element,
    pub bytes: usize,
}

/// A pickle that has been read.
#[derive(Debug)]
pub struct Pickle {
    pub objects: Vec<Object>,
    pub root: Id,
    pub storages: Vec<Storage>,
}

impl Pickle {
    /// The object the pickle is about.
    pub fn root(&self) -> &Object {
        &self.objects[self.root]
    }
}

/// Reads the pickle that begins at the reader's place and leaves the reader behind it.
///
/// # Errors
/// [`Problem`].
pub fn read(reader: &mut Reader<'_>) -> Result<Pickle, Problem> {
    Machine::new(reader).run()
}

/// A place in the file's bytes.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.at
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: u64) -> Result<&'a [u8], Problem> {
        let rest = &self.bytes[self.at..];
        let count = usize::try_from(count).ok().filter(|&count| count <= rest.len());
        let count = count.ok_or_else(|| damaged("it ends early"))?;
        self.at += count;
        Ok(&rest[..count])
    }

    fn byte(&mut self) -> Result<u8, Problem> {
        Ok(self.take(1)?[0])
    }

    /// A little-endian number of up to eight bytes without sign.
    pub fn unsigned(&mut self, bytes: usize) -> Result<u64, Problem> {
        Ok(self.take(bytes as u64)?.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    /// The bytes up to the end of the line, which is passed over.
    fn line(&mut self) -> Result<&'a [u8], Problem> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|&byte| byte == b'\n').ok_or_else(|| damaged("it ends early"))?;
        self.at += length + 1;
        Ok(&rest[..length])
    }

    fn text_line(&mut self) -> Result<&'a str, Problem> {
        std::str::from_utf8(self.line()?).map_err(|_| damaged("it names something that is no text"))
    }
}

/// The machine's opcodes, by the names that `pickletools` gives them.
mod opcode {
    pub const MARK: u8 = b'(';
    pub const STOP: u8 = b'.';
    pub const POP: u8 = b'0';
    pub const POP_MARK: u8 = b'1';
    pub const DUP: u8 = b'2';
    pub const FLOAT: u8 = b'F';
    pub const INT: u8 = b'I';
    pub const BININT: u8 = b'J';
    pub const BININT1: u8 = b'K';
    pub const LONG: u8 = b'L';
    pub const BININT2: u8 = b'M';
    pub const NONE: u8 = b'N';
    pub const PERSID: u8 = b'P';
    pub const BINPERSID: u8 = b'Q';
    pub const REDUCE: u8 = b'R';
    pub const STRING: u8 = b'S';
    pub const BINSTRING: u8 = b'T';
    pub const SHORT_BINSTRING: u8 = b'U';
    pub const UNICODE: u8 = b'V';
    pub const BINUNICODE: u8 = b'X';
    pub const APPEND: u8 = b'a';
    pub const BUILD: u8 = b'b';
    pub const GLOBAL: u8 = b'c';
    pub const DICT: u8 = b'd';
    pub const EMPTY_DICT: u8 = b'}';
    pub const APPENDS: u8 = b'e';
    pub const GET: u8 = b'g';
    pub const BINGET: u8 = b'h';
    pub const INST: u8 = b'i';
    pub const LONG_BINGET: u8 = b'j';
    pub const LIST: u8 = b'l';
    pub const EMPTY_LIST: u8 = b']';
    pub const OBJ: u8 = b'o';
    pub const PUT: u8 = b'p';
    pub const BINPUT: u8 = b'q';
    pub const LONG_BINPUT: u8 = b'r';
    pub const SETITEM: u8 = b's';
    pub const TUPLE: u8 = b't';
    pub const EMPTY_TUPLE: u8 = b')';
    pub const SETITEMS: u8 = b'u';
    pub const BINFLOAT: u8 = b'G';
    pub const BINBYTES: u8 = b'B';
    pub const SHORT_BINBYTES: u8 = b'C';
    pub const PROTO: u8 = 0x80;
    pub const NEWOBJ: u8 = 0x81;
    pub const EXT1: u8 = 0x82;
    pub const EXT4: u8 = 0x84;
    pub const TUPLE1: u8 = 0x85;
    pub const TUPLE3: u8 = 0x87;
    pub const NEWTRUE: u8 = 0x88;
    pub const NEWFALSE: u8 = 0x89;
    pub const LONG1: u8 = 0x8a;
    pub const LONG4: u8 = 0x8b;
    pub const SHORT_BINUNICODE: u8 = 0x8c;
    pub const BINUNICODE8: u8 = 0x8d;
    pub const BINBYTES8: u8 = 0x8e;
    pub const EMPTY_SET: u8 = 0x8f;
    pub const ADDITEMS: u8 = 0x90;
    pub const FROZENSET: u8 = 0x91;
    pub const NEWOBJ_EX: u8 = 0x92;
    pub const STACK_GLOBAL: u8 = 0x93;
    pub const MEMOIZE: u8 = 0x94;
    pub const FRAME: u8 = 0x95;
    pub const BYTEARRAY8: u8 = 0x96;
    pub const NEXT_BUFFER: u8 = 0x97;
    pub const READONLY_BUFFER: u8 = 0x98;
}

/// The stack machine.
pub(super) struct Machine<'a, 'b> {
    reader: &'a mut Reader<'b>,
    pub(super) objects: Vec<Object>,
    pub(super) storages: Vec<Storage>,
    pub(super) storage_by_key: HashMap<String, usize>,
    stack: Vec<Id>,
    /// Heights of the stack at which a mark lies.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
    steps: usize,
}

impl<'a, 'b> Machine<'a, 'b> {
    fn new(reader: &'a mut Reader<'b>) -> Machine<'a, 'b> {
        Machine {
            reader,
            objects: Vec::new(),
            storages: Vec::new(),
            storage_by_key: HashMap::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            steps: 0,
        }
    }

    fn run(mut self) -> Result<Pickle, Problem> {
        loop {
            self.charge(1)?;
            let op = self.reader.byte()?;
            if op == opcode::STOP {
                let root = self.pop()?;
                return Ok(Pickle { objects: self.objects, root, storages: self.storages });
            }
            self.step(op)?;
        }
    }

    /// Counts work that grows with the file, so that no file can ask for more than its share.
    pub(super) fn charge(&mut self, steps: usize) -> Result<(), Problem> {
        self.steps = self.steps.saturating_add(steps);
        if self.steps > MOST_STEPS {
            return Err(Problem::Refused(format!(
                "holds a pickle of over {MOST_STEPS} steps, more than any state dictionary needs"
            )));
        }
        Ok(())
    }

    fn step(&mut self, op: u8) -> Result<(), Problem> {
        use opcode::*;
        match op {
            PROTO | FRAME => self.framing(op),
            NONE | NEWTRUE | NEWFALSE | INT | LONG | FLOAT | BININT | BININT1 | BININT2 | LONG1 | LONG4 | BINFLOAT => {
                let number = self.number(op)?;
                self.push_new(number)
            }
            STRING | UNICODE | BINSTRING | SHORT_BINSTRING | BINUNICODE | SHORT_BINUNICODE | BINUNICODE8 => {
                let text = self.text(op)?;
                self.push_new(text)
            }
            BINBYTES | SHORT_BINBYTES | BINBYTES8 | BYTEARRAY8 => {
                self.sized_bytes(op)?;
                self.push_new(Object::Inert)
            }
            EMPTY_DICT | EMPTY_LIST | EMPTY_TUPLE | EMPTY_SET | LIST | DICT | TUPLE | TUPLE1..=TUPLE3 | FROZENSET => {
                let container = self.container(op)?;
                self.push_new(container)
            }
            APPEND | APPENDS | SETITEM | SETITEMS | ADDITEMS => self.fill(op),
            MARK | POP | POP_MARK | DUP => self.shuffle(op),
            PUT | BINPUT | LONG_BINPUT | MEMOIZE => self.remember(op),
            GET | BINGET | LONG_BINGET => self.recall(op),
            GLOBAL | STACK_GLOBAL | REDUCE | BUILD | BINPERSID => self.call(op),
            PERSID | INST | OBJ | NEWOBJ | NEWOBJ_EX | EXT1..=EXT4 | NEXT_BUFFER | READONLY_BUFFER => {
                Err(self.foreign(op))
            }
            other => Err(damaged(format!("there is no pickle opcode {other:#04x}"))),
        }
    }

    fn framing(&mut self, op: u8) -> Result<(), Problem> {
        if op == opcode::PROTO {
            let protocol = self.reader.byte()?;
            if protocol > NEWEST_PROTOCOL {
                return Err(damaged(format!("there is no pickle protocol {protocol}")));
            }
        } else {
            // A frame says how far a reader may read ahead; this one has all there is already.
            self.reader.unsigned(8)?;
        }
        Ok(())
    }

    fn number(&mut self, op: u8) -> Result<Object, Problem> {
        use opcode::*;
        let bytes = match op {
            NONE => return Ok(Object::None),
            NEWTRUE | NEWFALSE => return Ok(Object::Bool(op == NEWTRUE)),
            INT | LONG | FLOAT => return self.decimal(op),
            BININT => return Ok(Object::Int(i128::from(self.reader.unsigned(4)? as u32 as i32))),
            BININT1 => return Ok(Object::Int(i128::from(self.reader.unsigned(1)?))),
            BININT2 => return Ok(Object::Int(i128::from(self.reader.unsigned(2)?))),
            BINFLOAT => {
                self.reader.take(8)?;
                return Ok(Object::Inert);
            }
            LONG1 => self.reader.unsigned(1)?,
            _ => self.reader.unsigned(4)?,
        };
        let digits = self.reader.take(bytes)?;
        // Longer ones are the states of random number generators.
        if digits.len() > 16 {
            return Ok(Object::Inert);
        }
        let negative = digits.last().is_some_and(|&byte| byte >= 0x80);
        let mut full = [if negative { 0xff } else { 0 }; 16];
        full[..digits.len()].copy_from_slice(digits);
        Ok(Object::Int(i128::from_le_bytes(full)))
    }

    /// A number written as text, protocol 0.
    fn decimal(&mut self, op: u8) -> Result<Object, Problem> {
        let line = self.reader.text_line()?;
        Ok(match (op, line) {
            (opcode::FLOAT, _) => Object::Inert,
            (opcode::INT, "00") => Object::Bool(false),
            (opcode::INT, "01") => Object::Bool(true),
            _ => line.trim_end_matches('L').parse().map_or(Object::Inert, Object::Int),
        })
    }

    fn text(&mut self, op: u8) -> Result<Object, Problem> {
        let bytes = match op {
            opcode::STRING => {
                let line = self.reader.line()?;
                let quoted = |quote: u8| line.strip_prefix(&[quote])?.strip_suffix(&[quote]);
                quoted(b'\'').or_else(|| quoted(b'"')).ok_or_else(|| damaged("a text lacks its quotes"))?
            }
            opcode::UNICODE => self.reader.line()?,
            _ => self.sized_bytes(op)?,
        };
        // Python 2 wrote bytes and text alike; what is no text is no name either.
        Ok(std::str::from_utf8(bytes).map_or(Object::Inert, |text| Object::Text(text.to_owned())))
    }

    /// Bytes behind their count.
    fn sized_bytes(&mut self, op: u8) -> Result<&'b [u8], Problem> {
        use opcode::*;
        let width = match op {
            SHORT_BINSTRING | SHORT_BINUNICODE | SHORT_BINBYTES => 1,
            BINSTRING | BINUNICODE | BINBYTES => 4,
            _ => 8,
        };
        let count = self.reader.unsigned(width)?;
        self.reader.take(count)
    }

    fn container(&mut self, op: u8) -> Result<Object, Problem> {
        use opcode::*;
        Ok(match op {
            EMPTY_DICT => Object::Dict(Vec::new()),
            EMPTY_LIST => Object::List(Vec::new()),
            EMPTY_TUPLE => Object::Tuple(Vec::new()),
            EMPTY_SET => Object::Inert,
            LIST => Object::List(self.pop_to_mark()?),
            TUPLE => Object::Tuple(self.pop_to_mark()?),
            DICT => Object::Dict(pairs(&self.pop_to_mark()?)?),
            FROZENSET => {
                self.pop_to_mark()?;
                Object::Inert
            }
            _ => {
                let mut items = (TUPLE1..=op).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
                items.reverse();
                Object::Tuple(items)
            }
        })
    }

    /// Puts what lies on the stack into the container below it.
    fn fill(&mut self, op: u8) -> Result<(), Problem> {
        use opcode::*;
        let items = match op {
            APPEND => vec![self.pop()?],
            SETITEM => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
            _ => self.pop_to_mark()?,
        };
        let target = self.top()?;
        match (&mut self.objects[target], op) {
            (Object::List(list), APPEND | APPENDS) => list.extend(items),
            (Object::Dict(dict), SETITEM | SETITEMS) => dict.extend(pairs(&items)?),
            (Object::Inert, _) => (),
            _ => return Err(damaged("it fills something that is no container")),
        }
        Ok(())
    }

    fn shuffle(&mut self, op: u8) -> Result<(), Problem> {
        match op {
            opcode::MARK => self.marks.push(self.stack.len()),
            opcode::DUP => self.stack.push(self.top()?),
            opcode::POP_MARK => drop(self.pop_to_mark()?),
            // Like Python's, a mark can be popped as if it were an object.
            _ if self.marks.last() == Some(&self.stack.len()) => drop(self.marks.pop()),
            _ => drop(self.pop()?),
        }
        Ok(())
    }

    fn remember(&mut self, op: u8) -> Result<(), Problem> {
        let place = match op {
            opcode::MEMOIZE => self.memo.len() as u64,
            _ => self.memo_place(op == opcode::PUT, if op == opcode::BINPUT { 1 } else { 4 })?,
        };
        let top = self.top()?;
        self.memo.insert(place, top);
        Ok(())
    }

    fn recall(&mut self, op: u8) -> Result<(), Problem> {
        let place = self.memo_place(op == opcode::GET, if op == opcode::BINGET { 1 } else { 4 })?;
        let id = *self.memo.get(&place).ok_or_else(|| damaged("it recalls what it never stored"))?;
        self.stack.push(id);
        Ok(())
    }

    fn memo_place(&mut self, as_text: bool, bytes: usize) -> Result<u64, Problem> {
        if as_text {
            let line = self.reader.text_line()?;
            line.parse().map_err(|_| damaged("a place in its memo is no number"))
        } else {
            self.reader.unsigned(bytes)
        }
    }

    /// The opcodes with which Python would import and call; `globals.rs` says what comes of them.
    fn call(&mut self, op: u8) -> Result<(), Problem> {
        use opcode::*;
        let result = match op {
            GLOBAL => {
                let module = self.reader.text_line()?;
                Object::Global(Global::find(module, self.reader.text_line()?)?)
            }
            STACK_GLOBAL => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Object::Text(module), Object::Text(name)) = (&self.objects[module], &self.objects[name]) else {
                    return Err(damaged("it names something that is no text"));
                };
                Object::Global(Global::find(module, name)?)
            }
            REDUCE => {
                let (arguments, callee) = (self.pop()?, self.pop()?);
                self.reduce(callee, arguments)?
            }
            BUILD => {
                let (state, target) = (self.pop()?, self.top()?);
                return self.build(target, state);
            }
            _ => {
                let id = self.pop()?;
                self.persistent(id)?
            }
        };
        self.push_new(result)
    }

    /// Why an opcode is refused that no state dictionary has.
    fn foreign(&mut self, op: u8) -> Problem {
        use opcode::*;
        let what = match op {
            INST => {
                let named = self.reader.text_line().and_then(|module| Ok((module, self.reader.text_line()?)));
                return named.map_or_else(|problem| problem, |(module, name)| Global::refusal(module, name));
            }
            OBJ | NEWOBJ | NEWOBJ_EX => "build an object",
            EXT1..=EXT4 => "call something from its extension registry",
            // No call: a reader gives meaning to such names, and PyTorch's gives them none.
            PERSID => return damaged("it keeps an object outside under a bare name"),
            _ => "fetch a buffer from outside the file",
        };
        Problem::Refused(format!(
            "asks Python to {what} (opcode {op:#04x}); Coronet reads tensors only and runs nothing"
        ))
    }

    fn push_new(&mut self, object: Object) -> Result<(), Problem> {
        self.stack.push(self.objects.len());
        self.objects.push(object);
        Ok(())
    }

    fn top(&self) -> Result<Id, Problem> {
        let floor = self.marks.last().copied().unwrap_or(0);
        self.stack[floor..].last().copied().ok_or_else(|| damaged("it takes from an empty stack"))
    }

    fn pop(&mut self) -> Result<Id, Problem> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, Problem> {
        let mark = self.marks.pop().ok_or_else(|| damaged("it takes from an empty stack"))?;
        Ok(self.stack.split_off(mark))
    }
}

/// Keys and values in turn.
fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>, Problem> {
    if !items.len().is_multiple_of(2) {
        return Err(damaged("a key in a dictionary has no value"));
    }
    Ok(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}
