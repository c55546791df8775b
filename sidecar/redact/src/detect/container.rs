//! What stands inside base64 and hexadecimal: if the decoded text has a secret in it, the encoded one goes whole.
use base64::{
    Engine as _,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use steno_crds::Detector;

use super::{Hit, Set, bit, find_at};

/// Shortest run that is decoded.
pub(super) const LEAST: usize = 20;
/// Longest run that is decoded; what is longer is a file.
const MOST: usize = 64 << 10;

const LAX: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent).with_decode_allow_trailing_bits(true);
const PLAIN: GeneralPurpose = GeneralPurpose::new(&STANDARD, LAX);
const URL: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, LAX);

/// Decodes each run, and looks inside.
pub(super) fn look_inside(text: &str, on: Set, depth: usize, hits: &mut Vec<Hit>) {
    // Addresses are found in much that is none.
    let on = on & !(bit(Detector::Ip) | bit(Detector::Email) | bit(Detector::Iban) | bit(Detector::Ssn));
    let bytes = text.as_bytes();
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_');
    let (mut at, mut inside) = (0, Vec::new());
    while at < bytes.len() {
        let length = bytes[at..].iter().take_while(|byte| is_part(**byte)).count();
        let end = at + length;
        if (LEAST..=MOST).contains(&length)
            && let Some(decoded) = decoded(&text[at..end])
        {
            inside.clear();
            find_at(&decoded, on, depth + 1, &mut inside);
            if let Some(first) = inside.first() {
                let padding = bytes[end..].iter().take(2).take_while(|byte| **byte == b'=').count();
                hits.push(Hit { start: at, end: end + padding, by: first.by });
            }
        }
        at = end.max(at + 1);
    }
}

fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|digit| digit as u8)
}

/// The text that a run encodes, if it is readable.
fn decoded(run: &str) -> Option<String> {
    let is_hex = run.len().is_multiple_of(2) && run.bytes().all(|byte| byte.is_ascii_hexdigit());
    let from_hex =
        || run.as_bytes().chunks_exact(2).map(|pair| Some(nibble(pair[0])? << 4 | nibble(pair[1])?)).collect::<Option<Vec<u8>>>();
    let bytes = if is_hex {
        from_hex()
    } else if run.contains(['+', '/']) {
        PLAIN.decode(run).ok()
    } else {
        URL.decode(run).ok()
    };
    let text = String::from_utf8(bytes?).ok()?;
    // What is random by chance looks like text only where it is short.
    let is_readable = text.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\r' | '\t'));
    let ascii = text.bytes().filter(|byte| (b' '..0x7f).contains(byte)).count();
    (is_readable && ascii * 4 >= text.len() * 3).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_looked_into_and_the_whole_goes() {
        let on = bit(Detector::Kv) | bit(Detector::Pan) | bit(Detector::CloudKey);
        let found = |text: &str| {
            let mut hits = Vec::new();
            look_inside(text, on, 0, &mut hits);
            hits.iter().map(|hit| text[hit.start..hit.end].to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(
            found("p=eyJ1c2VyIjogImJvYiIsICJwYXNzd29yZCI6ICJacTdEWDV0WHpCdGUifQ== x"),
            ["eyJ1c2VyIjogImJvYiIsICJwYXNzd29yZCI6ICJacTdEWDV0WHpCdGUifQ=="]
        );
        assert_eq!(found("70617373776f72643d5a7137575974323343596a5a").len(), 1);
        assert!(found("41111111-1111-4111-8111-111111111112 aGVsbG8gd29ybGQsIGhlbGxvIHdvcmxk").is_empty());
    }
}
