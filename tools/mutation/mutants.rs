//! What to break: every mutant of a kernel's text, each one small change that a case must notice.
//!
//! Text in, mutants out. The text is read as tokens, with the spaces that clang-format leaves around binary operators
//! telling comparisons from templates and products from pointers. Preprocessor lines and what depends on them are left
//! alone: there the device and the emulator have bodies of their own.

use std::ops::Range;

/// One change of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mutant {
    /// The file's name in `kernels/`.
    pub file: String,
    /// Counted from 1.
    pub line_number: usize,
    /// What is replaced, in bytes of the file.
    pub span: Range<usize>,
    pub replacement: String,
    /// The text of the lines that the span touches, without the spaces around.
    pub line: String,
    /// The same lines, mutated.
    pub mutated: String,
}

impl Mutant {
    fn new(file: &str, text: &str, span: Range<usize>, replacement: &str) -> Mutant {
        let start = text[..span.start].rfind('\n').map_or(0, |at| at + 1);
        let end = text[span.end..].find('\n').map_or(text.len(), |at| span.end + at);
        let mutated = format!("{}{replacement}{}", &text[start..span.start], &text[span.end..end]);
        let joined = |lines: &str| lines.split('\n').map(str::trim).collect::<Vec<_>>().join(" ");
        Mutant {
            file: file.to_owned(),
            line_number: text[..span.start].matches('\n').count() + 1,
            line: joined(&text[start..end]),
            mutated: joined(&mutated),
            replacement: replacement.to_owned(),
            span,
        }
    }

    /// The lines that the span touches in `text`, the whole file, counted from 1.
    pub fn lines(&self, text: &str) -> Range<usize> {
        self.line_number..self.line_number + 1 + text[self.span.clone()].matches('\n').count()
    }

    /// The whole file, mutated.
    pub fn apply(&self, text: &str) -> String {
        format!("{}{}{}", &text[..self.span.start], self.replacement, &text[self.span.end..])
    }
}

/// All mutants of a file, in the order of its text.
pub fn mutants(file: &str, text: &str) -> Vec<Mutant> {
    let source = Source { text, tokens: tokens(text) };
    let mut edits: Vec<(Range<usize>, String)> = Vec::new();
    for at in 0..source.tokens.len() {
        source.edits_at(at, &mut edits);
    }
    edits.sort_by_key(|(span, _)| span.start);
    edits.dedup();
    edits.into_iter().map(|(span, replacement)| Mutant::new(file, text, span, &replacement)).collect()
}

/// A stretch of the text that means one thing.
type Token = Range<usize>;

/// Operators of more than one character, longest first.
const LONG: [&str; 22] = [
    "<<=", ">>=", "->", "++", "--", "<<", ">>", "<=", ">=", "==", "!=", "&&", "||", "+=", "-=", "*=", "/=", "%=", "&=",
    "|=", "^=", "::",
];

/// The tokens of code that every compiler sees: no comments, no preprocessor lines, nothing that depends on those.
fn tokens(text: &str) -> Vec<Token> {
    let (mut tokens, mut at, mut depth) = (Vec::new(), 0, 0);
    while at < text.len() {
        let rest = &text[at..];
        let line_starts = text[..at].rsplit('\n').next().is_none_or(|before| before.trim().is_empty());
        if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if rest.starts_with('#') && line_starts {
            let end = directive_len(rest);
            depth += i32::from(rest.starts_with("#if")) - i32::from(rest.starts_with("#endif"));
            at += end;
        } else if line_starts && (rest.starts_with("template ") || rest.starts_with("using ")) {
            at += rest.find('\n').unwrap_or(rest.len());
        } else {
            let len = token_len(rest);
            if depth == 0 && !rest.starts_with(char::is_whitespace) {
                tokens.push(at..at + len);
            }
            at += len;
        }
    }
    tokens
}

/// A preprocessor line with those that a backslash joins to it.
fn directive_len(rest: &str) -> usize {
    let mut end = 0;
    for line in rest.split_inclusive('\n') {
        end += line.len();
        if !line.trim_end().ends_with('\\') {
            break;
        }
    }
    end
}

fn token_len(rest: &str) -> usize {
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
    if let Some(text) = rest.strip_prefix('"') {
        return text.find('"').map_or(rest.len(), |end| end + 2);
    }
    if rest.starts_with(|c: char| c.is_alphanumeric() || c == '_') {
        return rest.find(|c| !is_word(c)).unwrap_or(rest.len());
    }
    let long = LONG.iter().find(|operator| rest.starts_with(**operator));
    long.map_or_else(|| rest.chars().next().map_or(1, char::len_utf8), |operator| operator.len())
}

struct Source<'a> {
    text: &'a str,
    tokens: Vec<Token>,
}

impl Source<'_> {
    /// What token `at` says; nothing beyond the ends.
    fn token(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| &self.text[token.clone()])
    }

    fn between(&self, first: usize, end: usize) -> &str {
        if first >= end { "" } else { &self.text[self.span(first, end)] }
    }

    fn span(&self, first: usize, end: usize) -> Range<usize> {
        self.tokens[first].start..self.tokens[end - 1].end
    }

    /// Whether a space stands on both sides, as around binary operators.
    fn is_spaced(&self, at: usize) -> bool {
        let token = &self.tokens[at];
        let space =
            |at: Option<usize>| at.and_then(|at| self.text.as_bytes().get(at)).is_some_and(u8::is_ascii_whitespace);
        space(token.start.checked_sub(1)) && space(Some(token.end))
    }

    /// The changes that begin with token `at`.
    fn edits_at(&self, at: usize, edits: &mut Vec<(Range<usize>, String)>) {
        let token = self.token(at);
        let mut replace = |first: usize, end: usize, by: String| edits.push((self.span(first, end), by));
        match token {
            "for" => self.loop_edits(at, &mut replace),
            "if" if self.token(at + 1) == "(" => {
                let end = self.closing(at + 1);
                let leaves = matches!(self.token(end + 1), "return" | "continue");
                replace(at + 2, end, (!leaves).to_string());
            }
            "min" | "max" | "merge" | "merged" if self.token(at + 1) == "(" => self.call_edits(at, &mut replace),
            "__syncthreads"
            | "__syncwarp"
            | "__threadfence"
            | "cp_async_commit"
            | "cp_async_wait"
            | "wait_for_launches_before" => {
                let end = (at..self.tokens.len()).find(|&i| self.token(i) == ";").unwrap_or(at);
                replace(at, end, String::new());
                if token == "cp_async_wait" {
                    let close = end - 3; // > ( ) ;
                    replace(at + 2, close, format!("{} + 1", self.between(at + 2, close)));
                }
            }
            "&&" | "||" if self.is_spaced(at) => {
                let (first, end) = (self.operand_start(at, &[]), self.operand_end(at));
                let (left, right) = (self.between(first, at).to_owned(), self.between(at + 1, end).to_owned());
                replace(first, end, left);
                replace(first, end, right);
            }
            "?" => {
                let first = self.operand_start(at, &["&&", "||"]);
                replace(first, at, "true".into());
                replace(first, at, "false".into());
            }
            "++" if self.token(at + 1).starts_with(char::is_alphabetic) => {
                replace(at, at + 2, format!("{}++", self.token(at + 1)));
            }
            "!" => replace(at, at + 1, String::new()),
            "-" if !self.is_spaced(at) => replace(at, at + 1, String::new()),
            "^" if self.is_spaced(at) => {
                replace(at, at + 1, "|".into());
                replace(at - 1, at + 2, self.token(at - 1).to_owned());
            }
            "+=" | "-=" if !self.is_loop_step(at) => {
                replace(at, at + 1, "=".into());
                replace(at, at + 1, if token == "+=" { "-=" } else { "+=" }.into());
            }
            _ => {
                if let Some((_, by)) = SWAPS.iter().find(|(from, _)| *from == token).filter(|_| self.is_spaced(at)) {
                    replace(at, at + 1, (*by).into());
                }
            }
        }
    }

    /// `for (T i = INIT; CONDITION; STEP)`: starts later, steps further. What is halved starts at half.
    fn loop_edits(&self, at: usize, replace: &mut impl FnMut(usize, usize, String)) {
        let close = self.closing(at + 1);
        let semicolons: Vec<usize> = (at..close).filter(|&i| self.token(i) == ";").collect();
        let [first, second] = semicolons[..] else { return };
        let Some(equals) = (at..first).find(|&i| self.token(i) == "=") else { return };
        let halves = self.token(second + 2) == "/=";
        let init = self.between(equals + 1, first);
        replace(equals + 1, first, if halves { format!("({init}) / 2") } else { format!("{init} + 1") });
        match self.token(second + 2) {
            "++" => replace(second + 2, second + 3, " += 2".into()),
            "+=" | "/=" => replace(second + 3, close, format!("2 * ({})", self.between(second + 3, close))),
            _ => {}
        }
    }

    /// A clamp gives one of its operands whatever the other is; a merge leaves out its second.
    fn call_edits(&self, at: usize, replace: &mut impl FnMut(usize, usize, String)) {
        let close = self.closing(at + 1);
        let Some(comma) = (at + 2..close).find(|&i| self.token(i) == "," && self.depth(at + 2, i) == 0) else { return };
        let (first, second) = (self.between(at + 2, comma), self.between(comma + 1, close));
        let is_call = !self.token(at + 3).starts_with(char::is_alphabetic); // not `merged(Moments a, ...)`
        if matches!(self.token(at), "min" | "max") {
            replace(at, close + 1, format!("({first})"));
            replace(at, close + 1, format!("({second})"));
        } else if is_call {
            replace(comma + 1, close, first.to_owned());
        }
    }

    /// Whether an assignment is the step of a loop, so closed by the bracket of its `for`.
    fn is_loop_step(&self, at: usize) -> bool {
        let end = (at..self.tokens.len()).find(|&i| matches!(self.token(i), ";" | ")" | "{"));
        // Brackets of calls in what is added close within it.
        end.is_some_and(|_| {
            let mut depth = 0;
            for i in at..self.tokens.len() {
                match self.token(i) {
                    "(" | "[" | "{" => depth += 1,
                    ")" | "]" | "}" if depth == 0 => return true,
                    ")" | "]" | "}" => depth -= 1,
                    ";" if depth == 0 => return false,
                    _ => {}
                }
            }
            false
        })
    }

    /// The bracket that closes the one at `open`.
    fn closing(&self, open: usize) -> usize {
        (open + 1..self.tokens.len()).find(|&i| self.depth(open, i + 1) == 0).unwrap_or(open)
    }

    /// How many brackets are open after tokens `first..end`.
    fn depth(&self, first: usize, end: usize) -> i32 {
        (first..end)
            .map(|i| match self.token(i) {
                "(" | "[" | "{" => 1,
                ")" | "]" | "}" => -1,
                _ => 0,
            })
            .sum()
    }

    /// Where the operand begins that ends before `at`; it may hold the operators of `inner`.
    fn operand_start(&self, at: usize, inner: &[&str]) -> usize {
        let mut depth = 0;
        for i in (0..at).rev() {
            let token = self.token(i);
            match token {
                ")" | "]" | "}" => depth += 1,
                "(" | "[" | "{" if depth > 0 => depth -= 1,
                _ if depth > 0 => {}
                "(" | "[" | "{" | ";" | "," | "?" | ":" | "=" | "return" | "+=" => return i + 1,
                "&&" | "||" if !inner.contains(&token) => return i + 1,
                _ => {}
            }
        }
        0
    }

    /// The end of the operand that begins after `at`.
    fn operand_end(&self, at: usize) -> usize {
        let mut depth = 0;
        for i in at + 1..self.tokens.len() {
            match self.token(i) {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" if depth > 0 => depth -= 1,
                _ if depth > 0 => {}
                ")" | "]" | "}" | ";" | "," | "?" | ":" | "&&" | "||" => return i,
                _ => {}
            }
        }
        self.tokens.len()
    }
}

/// Binary operators and what is put in their place.
const SWAPS: [(&str, &str); 15] = [
    ("<", "<="),
    ("<=", "<"),
    (">", ">="),
    (">=", ">"),
    ("==", "!="),
    ("!=", "=="),
    ("+", "-"),
    ("-", "+"),
    ("*", "+"),
    ("/", "*"),
    ("%", "/"),
    ("<<", ">>"),
    (">>", "<<"),
    ("&", "|"),
    ("|", "&"),
];
