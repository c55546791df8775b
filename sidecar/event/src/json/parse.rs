//! Text to tree, in one pass over a pull parser.
use std::borrow::Cow;

use jiter::{Jiter, JiterError, LinePosition, Peek};

use super::{Json, Object, survives};

/// Deepest nesting that is read. Audit events are flat; what is deeper is an attack or a mistake.
pub const MAX_DEPTH: usize = 64;

/// Why text could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong.
    pub kind: FaultKind,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// Where in the tree, such as `metadata.items[3]`; empty at the root.
    pub path: String,
}

/// What is wrong with a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultKind {
    /// Not JSON.
    Syntax(String),
    /// A member's name stands twice in one object.
    Duplicate(String),
    /// A number that IEEE double does not hold.
    Number,
    /// Nested deeper than [`MAX_DEPTH`].
    Depth,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, line, column, path } = self;
        let place = if path.is_empty() { "the root" } else { path };
        match kind {
            FaultKind::Syntax(what) => write!(f, "not JSON at line {line}, column {column}: {what}"),
            FaultKind::Duplicate(name) => write!(f, "the member {name:?} stands twice in {place}; send it once"),
            FaultKind::Number => write!(
                f,
                "the number at {place} does not survive IEEE double (beyond 2^53, or too many digits); send it as a string"
            ),
            FaultKind::Depth => write!(f, "nested deeper than {MAX_DEPTH} levels; flatten it or send the inner part as a string"),
        }
    }
}

impl std::error::Error for Fault {}

/// Reads one JSON text.
pub fn parse(text: &str) -> Result<Json<'_>, Fault> {
    Reader::new(text).read()
}

/// Reads one JSON text of a source that cannot be told to send another: a number that would not survive becomes its text, and so does what is
/// nested too deep. Says where that was done.
pub fn parse_kept(text: &str) -> Result<(Json<'_>, Vec<String>), Fault> {
    let mut reader = Reader { kept: Some(Vec::new()), ..Reader::new(text) };
    let tree = reader.read()?;
    Ok((tree, reader.kept.unwrap_or_default()))
}

/// Reads one JSON text of a client as far as it can be read: like [`parse_kept`], and half of a character becomes U+FFFD.
///
/// # Errors
///
/// The text is no JSON, or a name stands twice in one object.
pub fn parse_repaired(text: &str) -> Result<(Json<'_>, Vec<String>), Fault> {
    let fault = match parse_kept(text) {
        Ok(read) => return Ok(read),
        Err(fault) => fault,
    };
    // Half of a character is no JSON for the parser.
    if let Some(whole) = without_lone_surrogates(text)
        && let Ok((tree, mut kept)) = parse_kept(&whole)
    {
        kept.push("(half of a character)".into());
        return Ok((tree.into_static(), kept));
    }
    // What is nested far too deep is no syntax for the parser either; the strict reader names it.
    Err(parse(text).err().filter(|strict| strict.kind == FaultKind::Depth).unwrap_or(fault))
}

/// A text whose escapes of lone surrogates (`\ud83d`, half of a character that somebody cut) are U+FFFD; `None`: it has none.
pub fn without_lone_surrogates(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let unit = |at: usize| -> Option<u16> {
        let escape = text.get(at..at + 6)?;
        u16::from_str_radix(escape.strip_prefix("\\u")?, 16).ok()
    };
    let (mut out, mut from, mut at) = (None::<String>, 0, 0);
    while let Some(found) = memchr::memchr(b'\\', &bytes[at..]) {
        at += found;
        match unit(at) {
            Some(0xD800..=0xDBFF) if unit(at + 6).is_some_and(|low| (0xDC00..=0xDFFF).contains(&low)) => at += 12,
            Some(0xD800..=0xDFFF) => {
                let out = out.get_or_insert_with(|| String::with_capacity(text.len()));
                out.push_str(&text[from..at]);
                out.push_str("\\ufffd");
                at += 6;
                from = at;
            }
            // Whatever is escaped has one byte at least.
            _ => at += 2,
        }
        if at >= bytes.len() {
            break;
        }
    }
    out.map(|out| out + text.get(from..).unwrap_or_default())
}

/// Levels that [`parse_kept`] leaves for what is put around its tree.
const SPARE: usize = 4;

struct Reader<'a> {
    text: &'a str,
    jiter: Jiter<'a>,
    /// The way to the value being read; kept on failure so that the fault can name it.
    path: Vec<Step<'a>>,
    /// Where a value was kept as text; `None`: such a value is refused.
    kept: Option<Vec<String>>,
}

enum Step<'a> {
    Name(Cow<'a, str>),
    Index(usize),
}

type Failed = (FaultKind, usize);

fn syntax(error: JiterError) -> Failed {
    (FaultKind::Syntax(error.error_type.to_string()), error.index)
}

/// The part of `text` that `piece` is, if the parser did not have to unescape it.
fn borrow<'a>(text: &'a str, piece: &str) -> Cow<'a, str> {
    let offset = (piece.as_ptr() as usize).wrapping_sub(text.as_ptr() as usize);
    match text.get(offset..offset.wrapping_add(piece.len())) {
        Some(same) if std::ptr::eq(same.as_ptr(), piece.as_ptr()) => Cow::Borrowed(same),
        _ => Cow::Owned(piece.to_owned()),
    }
}

// === impl Reader ===

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, jiter: Jiter::new(text.as_bytes()), path: Vec::new(), kept: None }
    }

    fn read(&mut self) -> Result<Json<'a>, Fault> {
        self.root().map_err(|(kind, at)| {
            let LinePosition { line, column } = self.jiter.error_position(at);
            Fault { kind, line, column, path: self.shown_path() }
        })
    }

    fn root(&mut self) -> Result<Json<'a>, Failed> {
        let peek = self.jiter.peek().map_err(syntax)?;
        let value = self.value(peek, 0)?;
        self.jiter.finish().map_err(syntax)?;
        Ok(value)
    }

    fn value(&mut self, peek: Peek, depth: usize) -> Result<Json<'a>, Failed> {
        match peek {
            Peek::String => {
                let piece = self.jiter.known_str().map_err(syntax)?;
                Ok(Json::String(borrow(self.text, piece)))
            }
            Peek::Object | Peek::Array if self.kept.is_some() && depth + SPARE >= MAX_DEPTH => {
                let start = self.jiter.current_index();
                self.jiter.known_skip(peek).map_err(syntax)?;
                Ok(self.keep(start))
            }
            Peek::Object => self.object(depth + 1),
            Peek::Array => self.array(depth + 1),
            Peek::Null => self.jiter.known_null().map_err(syntax).map(|()| Json::Null),
            Peek::True | Peek::False => self.jiter.known_bool(peek).map_err(syntax).map(Json::Bool),
            _ => self.number(peek),
        }
    }

    fn number(&mut self, peek: Peek) -> Result<Json<'a>, Failed> {
        let at = self.jiter.current_index();
        let bytes = self.jiter.known_number_bytes(peek).map_err(syntax)?;
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        match survives(text) {
            Some(number) => Ok(Json::Number(number)),
            None if self.kept.is_some() => Ok(self.keep(at)),
            None => Err((FaultKind::Number, at)),
        }
    }

    /// What was read since `start`, as text.
    fn keep(&mut self, start: usize) -> Json<'a> {
        let path = self.shown_path();
        if let Some(kept) = &mut self.kept {
            kept.push(path);
        }
        Json::String(Cow::Borrowed(self.text.get(start..self.jiter.current_index()).unwrap_or_default()))
    }

    fn check_depth(&self, depth: usize) -> Result<(), Failed> {
        if depth > MAX_DEPTH { Err((FaultKind::Depth, self.jiter.current_index())) } else { Ok(()) }
    }

    fn object(&mut self, depth: usize) -> Result<Json<'a>, Failed> {
        self.check_depth(depth)?;
        let start = self.jiter.current_index();
        let text = self.text;
        let mut members = Vec::new();
        let mut name = self.jiter.known_object().map_err(syntax)?.map(|name| borrow(text, name));
        if name.is_some() {
            members.reserve(if depth == 1 { 24 } else { 8 });
        }
        while let Some(current) = name {
            let peek = self.jiter.peek().map_err(syntax)?;
            if matches!(peek, Peek::String | Peek::Null | Peek::True | Peek::False) {
                let value = self.value(peek, depth)?;
                members.push((current, value));
            } else {
                self.path.push(Step::Name(current));
                let value = self.value(peek, depth)?;
                if let Some(Step::Name(current)) = self.path.pop() {
                    members.push((current, value));
                }
            }
            name = self.jiter.next_key().map_err(syntax)?.map(|name| borrow(text, name));
        }
        Object::from_members(members).map(Json::Object).map_err(|name| (FaultKind::Duplicate(name), start))
    }

    fn array(&mut self, depth: usize) -> Result<Json<'a>, Failed> {
        self.check_depth(depth)?;
        let mut items = Vec::new();
        let mut peek = self.jiter.known_array().map_err(syntax)?;
        while let Some(current) = peek {
            self.path.push(Step::Index(items.len()));
            items.push(self.value(current, depth)?);
            self.path.pop();
            peek = self.jiter.array_step().map_err(syntax)?;
        }
        Ok(Json::Array(items))
    }

    fn shown_path(&self) -> String {
        let mut shown = String::new();
        for step in &self.path {
            match step {
                Step::Name(name) if shown.is_empty() => shown.push_str(name),
                Step::Name(name) => shown.extend([".", name]),
                Step::Index(index) => shown.push_str(&format!("[{index}]")),
            }
        }
        // A path is for people; a client can make it as long as the body.
        shown.chars().take(200).collect()
    }
}
