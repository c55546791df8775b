//! The record's bytes, as two halves around the `integrity` member.
use crate::json::{Form, Json, Object, compare_names, write_json, write_string};

/// Canonical bytes of a record without `integrity`: `bytes[..split]` goes before that member, the rest after it. Both halves are
/// never empty of members: `eventId` sorts before and `kind` after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Halves {
    /// Both halves, one after the other; a comma stands where the second begins.
    pub bytes: Vec<u8>,
    /// Where the second half begins.
    pub split: usize,
    /// Where the text of `action` stands, without its quotes: start and length.
    pub action: (u32, u32),
    /// Where the text of `eventId` stands, without its quotes: start and length.
    pub event_id: (u32, u32),
}

/// Writes a record's canonical bytes.
pub fn encode(members: &Object<'_>) -> Halves {
    let mut bytes = Vec::with_capacity(1024);
    let (mut split, mut action, mut event_id) = (None, (0, 0), (0, 0));
    bytes.push(b'{');
    for (name, value) in members.iter() {
        if matches!(value, Json::Removed) {
            continue;
        }
        if split.is_none() && compare_names(name, "integrity").is_gt() {
            split = Some(bytes.len());
        }
        if bytes.len() > 1 {
            bytes.push(b',');
        }
        write_string(&mut bytes, name);
        bytes.push(b':');
        let start = bytes.len();
        write_json(&mut bytes, value, Form::Shown);
        let inside = (start as u32 + 1, (bytes.len() - start).saturating_sub(2) as u32);
        match &**name {
            "action" => action = inside,
            "eventId" => event_id = inside,
            _ => {}
        }
    }
    let split = split.unwrap_or(bytes.len());
    bytes.push(b'}');
    Halves { bytes, split, action, event_id }
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Appends `text` as a JSON string, quotes included.
pub fn escape_into(out: &mut Vec<u8>, text: &str) {
    write_string(out, text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::parse;

    #[test]
    fn a_member_spliced_between_the_halves_makes_the_canonical_form() {
        let text = r#"{"action":"a\"b","eventId":"e","kind":"Event","zebra":1}"#;
        let Json::Object(members) = parse(text).unwrap() else { unreachable!() };
        let halves = encode(&members);
        let spliced = [&halves.bytes[..halves.split], br#","integrity":{"seq":1}"#, &halves.bytes[halves.split..]].concat();
        let spliced = String::from_utf8(spliced).unwrap();
        assert_eq!(spliced, crate::json::canonical(&parse(&spliced).unwrap()));
        let piece = |(start, length): (u32, u32)| &spliced[start as usize..(start + length) as usize];
        assert_eq!((piece(halves.action), piece(halves.event_id)), (r#"a\"b"#, "e"));
    }
}
