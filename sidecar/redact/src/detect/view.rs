//! The same text as a detector should see it: folded, or decoded, with the way back to the original.
//!
//! A [`View`] has the origin of each of its bytes, so that a secret found in it can be cut out of the original. What is folded: digits, letters and
//! spaces of other scripts that mean or look like ASCII (NFKD, look-alikes, all decimal digits), and invisible characters. What
//! is decoded: percent-encoding.
use std::sync::OnceLock;

use unicode_normalization::{UnicodeNormalization as _, char::is_combining_mark};

/// A text, and where each of its bytes comes from.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) text: String,
    /// For each byte of the text, and for its end: the place in the original.
    origin: Vec<u32>,
}

/// Letters of other scripts that look like a Latin one.
const ALIKE: &[(char, char)] = &[
    ('а', 'a'),
    ('А', 'A'),
    ('в', 'b'),
    ('В', 'B'),
    ('с', 'c'),
    ('С', 'C'),
    ('ԁ', 'd'),
    ('е', 'e'),
    ('Е', 'E'),
    ('һ', 'h'),
    ('Н', 'H'),
    ('і', 'i'),
    ('І', 'I'),
    ('ј', 'j'),
    ('к', 'k'),
    ('К', 'K'),
    ('ӏ', 'l'),
    ('м', 'm'),
    ('М', 'M'),
    ('п', 'n'),
    ('о', 'o'),
    ('О', 'O'),
    ('р', 'p'),
    ('Р', 'P'),
    ('ԛ', 'q'),
    ('ѕ', 's'),
    ('Ѕ', 'S'),
    ('т', 't'),
    ('Т', 'T'),
    ('ѵ', 'v'),
    ('ԝ', 'w'),
    ('х', 'x'),
    ('Х', 'X'),
    ('у', 'y'),
    ('У', 'Y'),
    ('α', 'a'),
    ('Α', 'A'),
    ('Β', 'B'),
    ('ε', 'e'),
    ('Ε', 'E'),
    ('Η', 'H'),
    ('ι', 'i'),
    ('Ι', 'I'),
    ('κ', 'k'),
    ('Κ', 'K'),
    ('Μ', 'M'),
    ('ν', 'v'),
    ('Ν', 'N'),
    ('ο', 'o'),
    ('Ο', 'O'),
    ('ρ', 'p'),
    ('Ρ', 'P'),
    ('τ', 't'),
    ('Τ', 'T'),
    ('υ', 'u'),
    ('Υ', 'Y'),
    ('χ', 'x'),
    ('Χ', 'X'),
    ('ω', 'w'),
    ('օ', 'o'),
    ('ѡ', 'w'),
    ('ո', 'n'),
    ('ս', 'u'),
    ('ı', 'i'),
    ('ł', 'l'),
    ('Ł', 'L'),
    ('ø', 'o'),
    ('Ø', 'O'),
    ('đ', 'd'),
    ('ɡ', 'g'),
];

/// The zero of each script's decimal digits (Unicode's class Nd; those of NFKD aside).
const ZEROS: &[u32] = &[
    0x0660, 0x06F0, 0x07C0, 0x0966, 0x09E6, 0x0A66, 0x0AE6, 0x0B66, 0x0BE6, 0x0C66, 0x0CE6, 0x0D66, 0x0DE6, 0x0E50, 0x0ED0,
    0x0F20, 0x1040, 0x1090, 0x17E0, 0x1810, 0x1946, 0x19D0, 0x1A80, 0x1A90, 0x1B50, 0x1BB0, 0x1C40, 0x1C50, 0xA620, 0xA8D0,
    0xA900, 0xA9D0, 0xA9F0, 0xAA50, 0xABF0,
];

fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// What stands for a character that is no letter.
fn plain(c: char) -> Option<char> {
    Some(match c {
        '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{fe58}' | '\u{fe63}' => '-',
        '“' | '”' | '„' | '«' | '»' => '"',
        '‘' | '’' | '‚' => '\'',
        '\u{2028}' | '\u{2029}' | '\u{85}' => '\n',
        '\u{1680}' | '\u{180f}' => ' ',
        _ => {
            let zero = ZEROS.iter().find(|zero| (**zero..**zero + 10).contains(&(c as u32)))?;
            char::from_digit(c as u32 - zero, 10)?
        }
    })
}

fn alike(c: char) -> Option<char> {
    static SORTED: OnceLock<Vec<(char, char)>> = OnceLock::new();
    let sorted = SORTED.get_or_init(|| {
        let mut all = ALIKE.to_vec();
        all.sort_unstable();
        all
    });
    sorted.binary_search_by_key(&c, |(from, _)| *from).ok().map(|at| sorted[at].1)
}

/// Folds one character; a letter keeps its script.
fn fold_char(c: char, out: &mut Vec<char>) {
    if c.is_ascii() {
        out.push(c);
    } else if let Some(plain) = plain(c) {
        out.push(plain);
    } else if !is_invisible(c) {
        out.extend(std::iter::once(c).nfkd().filter(|c| !is_combining_mark(*c)).map(|c| plain(c).unwrap_or(c)));
    }
}

// === impl View ===

impl View {
    /// A text with everything folded; `None`: it is ASCII.
    pub(crate) fn folded(text: &str) -> Option<Self> {
        if text.is_ascii() {
            return None;
        }
        // Folded characters with their origin.
        let mut chars: Vec<(char, u32)> = Vec::with_capacity(text.len());
        let mut folded = Vec::new();
        for (at, c) in text.char_indices() {
            folded.clear();
            fold_char(c, &mut folded);
            chars.extend(folded.iter().map(|c| (*c, at as u32)));
        }
        // A word of which each letter looks like a Latin one is read as Latin; others keep their script.
        let mut at = 0;
        while at < chars.len() {
            let length = chars[at..].iter().take_while(|(c, _)| c.is_alphabetic()).count();
            let word = &mut chars[at..at + length];
            let is_mixed = word.iter().any(|(c, _)| !c.is_ascii());
            if is_mixed && word.iter().all(|(c, _)| c.is_ascii() || alike(*c).is_some()) {
                for (c, _) in word {
                    *c = alike(*c).unwrap_or(*c);
                }
            }
            at += length.max(1);
        }
        let mut view = Self { text: String::with_capacity(text.len()), origin: Vec::with_capacity(text.len() + 1) };
        for (c, origin) in chars {
            view.text.push(c);
            view.origin.resize(view.text.len(), origin);
        }
        view.origin.push(text.len() as u32);
        Some(view)
    }

    /// A text with its percent-encoding, escapes (`\u003d`, `\x3d`) and entities (`&quot;`, `&#61;`) decoded; `None`: it has none. Several parameters `command` are one command line, as in `kubectl exec`.
    pub(crate) fn decoded(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let has_code = (0..bytes.len()).any(|at| code(bytes, at).is_some());
        let has_command = text.contains("&command=");
        if !has_code && !has_command {
            return None;
        }
        let (mut out, mut origin, mut at) = (Vec::with_capacity(bytes.len()), Vec::with_capacity(bytes.len() + 1), 0);
        while at < bytes.len() {
            let (byte, length) = match code(bytes, at) {
                Some(code) => code,
                None if has_command && bytes[at..].starts_with(b"&command=") => (b' ', 9),
                None => (bytes[at], 1),
            };
            out.push(byte);
            origin.push(at as u32);
            at += length;
        }
        origin.push(bytes.len() as u32);
        // What is no text becomes one byte that no detector looks for.
        let text = match String::from_utf8(out) {
            Ok(text) => text,
            Err(error) => {
                let mut bytes = error.into_bytes();
                let mut at = 0;
                while let Err(error) = std::str::from_utf8(&bytes[at..]) {
                    at += error.valid_up_to();
                    bytes[at] = 1;
                }
                String::from_utf8(bytes).unwrap_or_default()
            }
        };
        Some(Self { text, origin }).filter(|view| view.origin.len() == view.text.len() + 1)
    }

    /// The part of the original that a part of this text comes from.
    pub(crate) fn original(&self, start: usize, end: usize) -> (usize, usize) {
        let at = |at: usize| self.origin.get(at).map_or(0, |at| *at as usize);
        (at(start), at(end))
    }
}

/// Entities of HTML that stand where a secret's name or sign does.
const ENTITIES: &[(&[u8], u8)] = &[
    (b"&quot;", b'"'),
    (b"&apos;", b'\''),
    (b"&lt;", b'<'),
    (b"&gt;", b'>'),
    (b"&amp;", b'&'),
    (b"&equals;", b'='),
    (b"&colon;", b':'),
];

/// The byte that is encoded at a place, and how many bytes that takes. Of what is not ASCII only percent-encoding is decoded.
fn code(bytes: &[u8], at: usize) -> Option<(u8, usize)> {
    let number = |from: usize, to: usize, base: u32| {
        let digits = bytes.get(from..to).filter(|digits| !digits.is_empty() && digits[0] != b'+')?;
        u32::from_str_radix(std::str::from_utf8(digits).ok()?, base).ok()
    };
    let ascii = |code: u32| u8::try_from(code).ok().filter(|code| (b' '..0x7f).contains(code));
    match (bytes[at], bytes.get(at + 1)?) {
        (b'%', _) => Some((number(at + 1, at + 3, 16)? as u8, 3)),
        // PHP writes `\/`.
        (b'\\', b'/') => Some((b'/', 2)),
        (b'\\', b'u') => Some((ascii(number(at + 2, at + 6, 16)?)?, 6)),
        (b'\\', b'x') => Some((ascii(number(at + 2, at + 4, 16)?)?, 4)),
        (b'&', b'#') => {
            let length = bytes[at..].iter().take(8).position(|byte| *byte == b';')?;
            let is_hex = matches!(bytes[at + 2], b'x' | b'X');
            let code = if is_hex { number(at + 3, at + length, 16) } else { number(at + 2, at + length, 10) };
            Some((ascii(code?)?, length + 1))
        }
        (b'&', _) => ENTITIES.iter().find(|(text, _)| bytes[at..].starts_with(text)).map(|(text, byte)| (*byte, text.len())),
        _ => None,
    }
}

/// A name with everything folded, in lower case.
pub(crate) fn fold_name(name: &str) -> String {
    View::folded(name).map_or_else(|| name.to_owned(), |view| view.text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_ascii_is_folded_and_leads_back() {
        for (text, folded) in [
            ("ｐａｓｓｗｏｒｄ=１", "password=1"),
            ("pаssword", "password"),
            ("pass\u{200d}word", "password"),
            ("4184\u{a0}8653–٤", "4184 8653-4"),
            ("𝟒𝟕", "47"),
            ("lösenord", "losenord"),
            ("пароль", "пароль"),
        ] {
            assert_eq!(View::folded(text).unwrap().text, folded, "{text}");
        }
        let text = "号：ＤＥ９ x";
        let view = View::folded(text).unwrap();
        let at = view.text.find("DE9").unwrap();
        let (start, end) = view.original(at, at + 3);
        assert_eq!(&text[start..end], "ＤＥ９");
    }

    #[test]
    fn percent_encoding_is_decoded_and_what_is_no_text_stays_apart() {
        let text = "a=%C3%A9&b=%FF%zz&token%3Dx%20y";
        let view = View::decoded(text).unwrap();
        assert_eq!(view.text, "a=é&b=\u{1}%zz&token=x y");
        let at = view.text.find("x y").unwrap();
        let (start, end) = view.original(at, at + 3);
        assert_eq!(&text[start..end], "x%20y");
        assert_eq!(View::decoded("100% of it"), None);
        assert_eq!(View::decoded("command=mysql&command=-px").unwrap().text, "command=mysql -px");
    }
}
