//! Which kernels a place in the text is part of, so that what became of its mutants can be told kernel by kernel.
//!
//! A kernel is made of itself and of all that it names, directly or through what that names. Overloads of a name are
//! not told apart, so a mutant may count for a kernel, too, that calls the other one.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// A function, structure, macro or constant at the top of a file.
#[derive(Debug, Clone)]
struct Item {
    file: String,
    span: Range<usize>,
    /// What must be named for it to be meant: its name, and of a template's specialisation what it is for.
    names: Vec<String>,
    is_kernel: bool,
    /// All that it names.
    words: BTreeSet<String>,
}

/// Kernels by name, each with what it is made of.
#[derive(Debug, Default)]
pub struct Kernels {
    parts: BTreeMap<String, Vec<Item>>,
}

impl Kernels {
    /// The kernels of a file, which may include others.
    pub fn of(file: &str, texts: &BTreeMap<String, String>) -> Kernels {
        let files: BTreeSet<String> = included(file, texts).into_iter().collect();
        let items: Vec<Item> = files.iter().flat_map(|file| items(file, &texts[file])).collect();
        let (kernels, others): (Vec<Item>, Vec<Item>) = items.into_iter().partition(|item| item.is_kernel);
        let parts_of = |kernel: Item| {
            let (mut words, mut rest) = (kernel.words.clone(), others.clone());
            let (name, mut parts) = (kernel.names[0].clone(), vec![kernel]);
            loop {
                let is_named = |item: &Item| item.names.iter().all(|name| words.contains(name));
                let (named, unnamed): (Vec<Item>, Vec<Item>) = rest.into_iter().partition(is_named);
                if named.is_empty() {
                    return (name, parts);
                }
                words.extend(named.iter().flat_map(|item| item.words.clone()));
                parts.extend(named);
                rest = unnamed;
            }
        };
        Kernels { parts: kernels.into_iter().map(parts_of).collect() }
    }

    pub fn extend(&mut self, others: Kernels) {
        self.parts.extend(others.parts);
    }

    /// Those that byte `at` of a file is part of.
    pub fn at(&self, file: &str, at: usize) -> Vec<&str> {
        let is_in = |parts: &[Item]| parts.iter().any(|part| part.file == file && part.span.contains(&at));
        self.parts.iter().filter(|(_, parts)| is_in(parts)).map(|(name, _)| name.as_str()).collect()
    }
}

/// A file and all that it includes of the texts there are, itself first.
pub fn included(file: &str, texts: &BTreeMap<String, String>) -> Vec<String> {
    let mut found = vec![file.to_owned()];
    for line in texts.get(file).map_or("", String::as_str).lines() {
        let name = line.strip_prefix("#include \"").and_then(|rest| rest.strip_suffix('"'));
        if let Some(name) = name.filter(|name| texts.contains_key(*name)) {
            found.extend(included(name, texts));
        }
    }
    found
}

/// A text of the same length without comments.
fn without_comments(text: &str) -> String {
    let blank = |line: &str| match line.find("//") {
        Some(at) => line[..at].to_owned() + &" ".repeat(line.trim_end_matches('\n').len() - at) + "\n",
        None => line.to_owned(),
    };
    text.split_inclusive('\n').map(blank).collect()
}

/// What stands at the top of a file or in a namespace.
fn items(file: &str, text: &str) -> Vec<Item> {
    let code = without_comments(text);
    let (mut items, mut start, mut depth) = (Vec::new(), None, 0);
    for (at, c) in code.char_indices() {
        let begin = match start {
            Some(begin) => begin,
            // What is left of a namespace is its bracket.
            None if c.is_whitespace() || c == '}' => continue,
            None => *start.insert(at),
        };
        let (so_far, rest) = (&code[begin..=at], &code[at + 1..]);
        let ends = if so_far.starts_with('#') {
            c == '\n' && !so_far.ends_with("\\\n")
        } else {
            depth += i32::from("({".contains(c)) - i32::from(")}".contains(c));
            let is_macro = so_far.split('(').next().is_some_and(|name| name.ends_with("_KERNEL"));
            depth == 0 && (c == ';' || c == '}' && !rest.starts_with(';') || c == ')' && is_macro)
        };
        if so_far.starts_with("namespace") && c == '{' {
            (start, depth) = (None, 0);
        } else if ends {
            items.extend(names(so_far).map(|names| Item {
                file: file.to_owned(),
                span: begin..at + 1,
                names,
                is_kernel: is_kernel(so_far),
                words: words(so_far).map(str::to_owned).collect(),
            }));
            start = None;
        }
    }
    items
}

/// As the build script finds them: written out, or by a macro that is called `..._KERNEL`.
fn is_kernel(item: &str) -> bool {
    let is_macro = |(name, _): (&str, &str)| !name.contains(char::is_whitespace);
    item.starts_with("extern \"C\" __global__") || item.split_once("_KERNEL(").is_some_and(is_macro)
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    let is_word = |word: &&str| word.starts_with(|c: char| c.is_alphabetic() || c == '_');
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(is_word)
}

/// What an item is called; nothing where it only includes a file, for instance.
fn names(item: &str) -> Option<Vec<String>> {
    let one = |name: &str| Some(vec![name.to_owned()]);
    if item.starts_with('#') {
        return one(words(item.strip_prefix("#define ")?).next()?);
    }
    if let Some((_, arguments)) = item.split_once("_KERNEL(").filter(|_| is_kernel(item)) {
        return one(words(arguments).next()?);
    }
    let item = if item.starts_with("template ") { item.split_once(">\n")?.1 } else { item };
    if let Some(structure) = item.strip_prefix("struct ") {
        // Behind a colon stands what it is made of.
        let head = structure.split(['{', ';', ':']).next()?;
        return Some(words(head).map(str::to_owned).collect());
    }
    let head = match item.split_once("__launch_bounds__(") {
        Some((_, rest)) => rest.split_once(')')?.1,
        None => item,
    };
    one(words(head.split(['(', '=', ';', '{', '[']).next()?).last()?)
}
