//! Text that a client chose, made safe to print on a terminal.
use std::{
    borrow::Cow,
    io::{self, IsTerminal as _},
};

/// The text without what a terminal obeys or shows elsewhere: control characters (C0, C1), line separators and directions of writing. They are shown by
/// their numbers, so that no event paints another row.
pub(crate) fn printed(text: &str) -> Cow<'_, str> {
    if !text.contains(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_obeyed(c) { out.push_str(&format!("\\u{{{:x}}}", c as u32)) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// The same for JSON, which stays JSON: by the numbers that it has for characters in strings. Line ends between its parts stay.
fn printed_json(text: &str) -> Cow<'_, str> {
    let is_odd = |c: char| c != '\n' && is_obeyed(c);
    if !text.contains(is_odd) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_odd(c) { out.push_str(&format!("\\u{:04x}", c as u32)) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// JSON as it goes out: to a terminal without what that obeys.
pub(crate) fn shown_json(text: &str) -> Cow<'_, str> {
    if io::stdout().is_terminal() { printed_json(text) } else { text.into() }
}

/// Writes lines of JSON. The formatter escapes C0; C1, directions of writing and line separators stand inside strings only, where their numbers mean the same.
pub(crate) struct Lines<W>(pub(crate) W);

impl<W: io::Write> io::Write for Lines<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Ok(text) = std::str::from_utf8(bytes) else { return self.0.write(bytes) };
        if text.is_ascii() {
            return self.0.write(bytes);
        }
        self.0.write_all(printed_json(text).as_bytes()).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Whether a terminal obeys a character, or shows elsewhere what follows it.
fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::{Lines, printed};

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        assert_eq!(printed("plain, ü 号"), "plain, ü 号");
        assert_eq!(printed("a\u{1b}[2Jb\nc\u{9b}d\u{202e}e\u{2028}"), "a\\u{1b}[2Jb\\u{a}c\\u{9b}d\\u{202e}e\\u{2028}");
    }

    #[test]
    fn a_line_stays_json_and_paints_nothing() {
        let line = "{\"path\":\"a\u{9b}2Jb\u{202e}c\u{2028}ü\"}\n";
        let mut out = Vec::new();
        Lines(&mut out).write_all(line.as_bytes()).unwrap();
        let written = String::from_utf8(out).unwrap();
        assert_eq!(written, "{\"path\":\"a\\u009b2Jb\\u202ec\\u2028ü\"}\n");
        let (sent, read): (serde_json::Value, serde_json::Value) =
            (serde_json::from_str(line).unwrap(), serde_json::from_str(&written).unwrap());
        assert_eq!(sent, read);
    }
}
