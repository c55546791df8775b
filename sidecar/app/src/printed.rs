//! Text that a client chose, made safe to print on a terminal.
use std::borrow::Cow;

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

/// Whether a terminal obeys a character, or shows elsewhere what follows it.
pub(crate) fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::printed;

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        assert_eq!(printed("plain, ü 号"), "plain, ü 号");
        assert_eq!(printed("a\u{1b}[2Jb\nc\u{9b}d\u{202e}e\u{2028}"), "a\\u{1b}[2Jb\\u{a}c\\u{9b}d\\u{202e}e\\u{2028}");
    }
}
