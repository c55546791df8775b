//! The canonical form: RFC 8785 (JSON Canonicalization Scheme).
use super::{Json, MARKER, Object};

/// Which side of a redacted value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// What readers see.
    Shown,
    /// What the fingerprint sees.
    Print,
}

/// The canonical text of a value as readers see it.
pub fn canonical(value: &Json<'_>) -> String {
    let mut out = Vec::with_capacity(256);
    write_json(&mut out, value, Form::Shown);
    // The writer emits the bytes of `str`s and ASCII only.
    String::from_utf8(out).unwrap_or_default()
}

/// Writes the canonical text of a value.
pub fn write_json(out: &mut Vec<u8>, value: &Json<'_>, form: Form) {
    match value {
        Json::Null => out.extend_from_slice(b"null"),
        Json::Bool(true) => out.extend_from_slice(b"true"),
        Json::Bool(false) => out.extend_from_slice(b"false"),
        Json::Number(number) => write_number(out, *number),
        Json::String(text) => write_string(out, text),
        Json::Array(items) => write_array(out, items, form),
        Json::Object(object) => write_object(out, object, form),
        Json::Redacted(redacted) if form == Form::Shown => write_string(out, &redacted.shown),
        Json::Redacted(redacted) => write_string(out, &redacted.print),
        Json::Removed if form == Form::Shown => out.extend_from_slice(b"null"),
        Json::Removed => write_string(out, MARKER),
        Json::Raw(text) => out.extend_from_slice(text.as_bytes()),
    }
}

fn write_array(out: &mut Vec<u8>, items: &[Json<'_>], form: Form) {
    out.push(b'[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_json(out, item, form);
    }
    out.push(b']');
}

fn write_object(out: &mut Vec<u8>, object: &Object<'_>, form: Form) {
    out.push(b'{');
    let mut first = true;
    for (name, value) in object.iter() {
        if form == Form::Shown && matches!(value, Json::Removed) {
            continue;
        }
        if !first {
            out.push(b',');
        }
        first = false;
        write_string(out, name);
        out.push(b':');
        write_json(out, value, form);
    }
    out.push(b'}');
}

/// Writes a number as ECMAScript's `Number::toString` prints it (RFC 8785, 3.2.2.3).
fn write_number(out: &mut Vec<u8>, number: f64) {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.abs() <= EXACT && number.fract() == 0.0 {
        out.extend_from_slice(itoa::Buffer::new().format(number as i64).as_bytes());
    } else {
        out.extend_from_slice(ryu_js::Buffer::new().format(number).as_bytes());
    }
}

/// What a byte of a string becomes: 0 itself, `u` a `\u00xx` escape, else a short escape.
const ESCAPES: [u8; 256] = {
    let mut table = [0u8; 256];
    let mut index = 0;
    while index < 0x20 {
        table[index] = b'u';
        index += 1;
    }
    table[0x08] = b'b';
    table[0x09] = b't';
    table[0x0A] = b'n';
    table[0x0C] = b'f';
    table[0x0D] = b'r';
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    table
};

/// Writes a string with the shortest escapes (RFC 8785, 3.2.2.2).
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let bytes = text.as_bytes();
    if is_plain(bytes) {
        out.extend_from_slice(bytes);
        out.push(b'"');
        return;
    }
    let mut start = 0;
    for (index, byte) in bytes.iter().enumerate() {
        let escape = ESCAPES[usize::from(*byte)];
        if escape == 0 {
            continue;
        }
        out.extend_from_slice(&bytes[start..index]);
        start = index + 1;
        if escape == b'u' {
            out.extend_from_slice(b"\\u00");
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
        } else {
            out.extend_from_slice(&[b'\\', escape]);
        }
    }
    out.extend_from_slice(&bytes[start..]);
    out.push(b'"');
}

/// Whether a text has nothing to escape. Most have not; without an exit in the loop the compiler looks at many bytes at a time.
fn is_plain(bytes: &[u8]) -> bool {
    const LANES: usize = 16;
    let special = |byte: u8| u8::from(byte < 0x20) | u8::from(byte == b'"') | u8::from(byte == b'\\');
    let (lanes, rest) = bytes.as_chunks::<LANES>();
    for lane in lanes {
        if lane.iter().fold(0, |found, byte| found | special(*byte)) != 0 {
            return false;
        }
    }
    rest.iter().fold(0, |found, byte| found | special(*byte)) == 0
}
