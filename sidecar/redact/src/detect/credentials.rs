//! Credentials by their surroundings: `Bearer …`, `Basic …`, and what follows `:` or `=`.
use base64::{
    Engine,
    alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use memchr::{memchr_iter, memchr2_iter};
use steno_crds::Detector;

use super::{Hit, Wanted, follows_word, kv, push, run, url};

/// Bytes of a credential at least.
const LEAST: usize = 8;
/// A bearer token without a digit has at least so many; what is shorter is prose (`bearer authentication failed`).
const LEAST_WITHOUT_DIGIT: usize = 20;

/// Lenient: what some server would accept is a credential.
static BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Appends the credentials after an authentication scheme's name. The name stays.
pub(super) fn schemes(bytes: &[u8], out: &mut Vec<Hit>) {
    for space in memchr_iter(b' ', bytes) {
        let before = &bytes[..space];
        let scheme = |name: &[u8]| {
            before.len() >= name.len()
                && before[space - name.len()..].eq_ignore_ascii_case(name)
                && !follows_word(bytes, space - name.len())
        };
        // Most words end in another letter.
        let accepts: fn(&[u8]) -> bool = match before.last() {
            Some(b'r' | b'R') if scheme(b"bearer") => is_bearer,
            Some(b'c' | b'C') if scheme(b"basic") => is_basic,
            _ => continue,
        };
        let start = run(bytes, space, |byte| byte == b' ');
        let end = token68(bytes, start);
        if end - start >= LEAST && accepts(&bytes[start..end]) {
            push(out, Detector::Bearer, start, end);
        }
    }
}

/// Where the token68 (RFC 7235) ends that begins at `start`; a full stop after it is a sentence's.
fn token68(bytes: &[u8], start: usize) -> usize {
    let digits = run(bytes, start, |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/'));
    let end = run(bytes, digits, |byte| byte == b'=');
    if end > digits {
        return end;
    }
    end - bytes[start..end].iter().rev().take_while(|byte| **byte == b'.').count()
}

fn is_bearer(token: &[u8]) -> bool {
    token.len() >= LEAST_WITHOUT_DIGIT || token.iter().any(u8::is_ascii_digit)
}

/// Whether it decodes to `user:password`.
fn is_basic(token: &[u8]) -> bool {
    let standard: Vec<u8> = token
        .iter()
        .map(|byte| match byte {
            b'-' => b'+',
            b'_' => b'/',
            other => *other,
        })
        .collect();
    let Ok(pair) = BASE64.decode(standard) else { return false };
    let Some(colon) = pair.iter().position(|byte| *byte == b':') else { return false };
    let printable = |bytes: &[u8]| bytes.iter().all(|byte| !byte.is_ascii_control());
    // Prose that happens to be base64 decodes to noise. A Latin-1 password does not, but its user is ASCII.
    let latin = colon > 0 && pair[..colon].is_ascii();
    printable(&pair) && (latin || std::str::from_utf8(&pair).is_ok())
}

/// Appends passwords and secret parameters of URLs, and values that free text assigns to a secret name. The names stay.
pub(super) fn assignments(bytes: &[u8], wanted: Wanted, out: &mut Vec<Hit>) {
    let (urls, assigned) = (wanted.has(Detector::UrlCredentials), wanted.has(Detector::Kv));
    if !urls && !assigned {
        return;
    }
    // Separators before `skip` belong to one that was looked at; before `taken` they are inside a value.
    let (mut skip, mut taken) = (0, 0);
    for at in memchr2_iter(b':', b'=', bytes) {
        if bytes[at..].starts_with(b"://") {
            if urls && let Some((start, end)) = url::password(bytes, at) {
                push(out, Detector::UrlCredentials, start, end);
            }
            continue;
        }
        if at < skip || at < taken {
            continue;
        }
        if urls && let Some(name) = url::parameter_name(bytes, at) {
            if let Some(end) = url::secret_parameter(bytes, at, name) {
                push(out, Detector::UrlCredentials, at + 1, end);
            }
            continue;
        }
        let width = separator(bytes, at);
        skip = at + width;
        if assigned
            && bytes[at..skip] != *b"::"
            && let Some((start, end)) = kv::value(bytes, at, skip)
        {
            push(out, Detector::Kv, start, end);
            taken = end;
        }
    }
}

/// Bytes of the separator at `at`: `=`, `:`, or one of `==`, `=>`, `:=`, `::`.
fn separator(bytes: &[u8], at: usize) -> usize {
    match (bytes[at], bytes.get(at + 1)) {
        (b'=', Some(b'=' | b'>')) | (b':', Some(b'=' | b':')) => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::found;
    use super::*;

    #[test]
    fn credentials_after_a_scheme_are_found() {
        for (text, token) in [
            ("sent Bearer a1b2c3d4e today", "a1b2c3d4e"),
            ("BEARER   ALwTtguOsbigUQDVfxcVX", "ALwTtguOsbigUQDVfxcVX"),
            ("Authorization=bearer mF_9.B5f-4.1JqM~x/y+z0==,", "mF_9.B5f-4.1JqM~x/y+z0=="),
            ("was Bearer a1b2c3d4e.", "a1b2c3d4e"),
            ("basic dTpwdy05OTEx", "dTpwdy05OTEx"),
            ("saw Basic asO8cmdlbjpncsO2w59lLTc3 at", "asO8cmdlbjpncsO2w59lLTc3"),
            // user:p(e acute in Latin-1)ss
            ("Basic dXNlcjpw6XNz", "dXNlcjpw6XNz"),
        ] {
            assert_eq!(found(Detector::Bearer, text), [token], "{text}");
        }
    }

    #[test]
    fn prose_about_schemes_stays() {
        for text in [
            "bearer of bad news",
            "Bearer token missing",
            "WWW-Authenticate: Bearer realm=\"api\"",
            "forbearer a1b2c3d4e",
            "Basic authentication failed",
            "basic training starts monday",
            "a basic misunderstanding",
            "BASIC COMPILER 4.5",
            "Bearer ",
        ] {
            assert!(found(Detector::Bearer, text).is_empty(), "{text}");
        }
    }

    #[test]
    fn separators_of_several_bytes_are_one() {
        assert_eq!(found(Detector::Kv, "password => 'abc d'"), ["abc d"]);
        assert_eq!(found(Detector::Kv, "password := abc"), ["abc"]);
        assert_eq!(found(Detector::Kv, "password==abc"), ["abc"]);
        assert!(found(Detector::Kv, "Password::reset() and secret://vault").is_empty());
    }
}
