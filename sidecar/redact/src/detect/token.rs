//! Tokens and keys with a known beginning: JSON Web Tokens, PEM private keys, keys of cloud and code platforms. One automaton
//! looks for all beginnings at once.
use aho_corasick::{AhoCorasick, BuildError};
use memchr::memmem;
use steno_crds::Detector;

use super::{Hit, Wanted, follows_word, is_base64url, is_word, push, run};

/// `{"` in base64: where the header of a JWT begins.
const JWT: &str = "eyJ";
const PEM: &str = "-----BEGIN ";
/// The account key of Azure storage, inside a connection string.
const ACCOUNT: &str = "AccountKey=";

/// Base64 digits of an account key (64 bytes), without its padding.
const ACCOUNT_DIGITS: usize = 86;
/// Base64 digits of a JWT's header at least: `{"alg":""}` has more.
const JWT_HEADER: usize = 10;
/// Most bytes between the dashes of a PEM line.
const PEM_LABEL: usize = 64;

/// A platform's keys: what they begin with, what they consist of, and how much of it there is.
struct Key {
    prefix: &'static str,
    takes: fn(u8) -> bool,
    least: usize,
    most: usize,
}

const fn key(prefix: &'static str, takes: fn(u8) -> bool, least: usize) -> Key {
    Key { prefix, takes, least, most: usize::MAX }
}

/// AWS: 20 or 21 upper case letters and digits in all.
const fn aws(prefix: &'static str) -> Key {
    Key { prefix, takes: is_upper, least: 16, most: 20 }
}

const KEYS: &[Key] = &[
    aws("AKIA"),
    aws("ASIA"),
    aws("AGPA"),
    aws("AIDA"),
    aws("AIPA"),
    aws("AROA"),
    aws("ANPA"),
    aws("ANVA"),
    aws("ABIA"),
    aws("ACCA"),
    key("AIza", is_base64url, 35),
    key("ghp_", is_alphanumeric, 36),
    key("gho_", is_alphanumeric, 36),
    key("ghu_", is_alphanumeric, 36),
    key("ghs_", is_alphanumeric, 36),
    key("ghr_", is_alphanumeric, 36),
    key("github_pat_", is_identifier, 22),
    key("xoxb-", is_dashed, 10),
    key("xoxp-", is_dashed, 10),
    key("xoxa-", is_dashed, 10),
    key("xoxr-", is_dashed, 10),
    key("xoxs-", is_dashed, 10),
    key("sk_live_", is_alphanumeric, 16),
    key("sk_test_", is_alphanumeric, 16),
    key("rk_live_", is_alphanumeric, 16),
    key("rk_test_", is_alphanumeric, 16),
    key("glpat-", is_base64url, 20),
    key("npm_", is_alphanumeric, 36),
    key("pypi-AgEI", is_base64url, 16),
    key("sk-proj-", is_base64url, 20),
];

fn is_upper(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit()
}

fn is_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

fn is_identifier(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn is_dashed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-'
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/')
}

/// The automaton of all beginnings.
pub(super) struct Tokens(AhoCorasick);

// === impl Tokens ===

impl Tokens {
    pub(super) fn new() -> Result<Self, BuildError> {
        AhoCorasick::new([JWT, PEM, ACCOUNT].into_iter().chain(KEYS.iter().map(|key| key.prefix))).map(Self)
    }

    /// Appends the tokens and keys of a text.
    pub(super) fn find(&self, bytes: &[u8], wanted: Wanted, out: &mut Vec<Hit>) {
        // Where the last try of each detector ended: a beginning inside it is not tried again, which keeps the time linear.
        let (mut jwt_tried, mut pem_tried, mut key_tried) = (0, 0, 0);
        for literal in self.0.find_iter(bytes) {
            let (start, end) = (literal.start(), literal.end());
            match literal.pattern().as_usize() {
                0 if start >= jwt_tried && wanted.has(Detector::Jwt) => {
                    let (header, token) = jwt(bytes, start);
                    jwt_tried = token.unwrap_or(header);
                    if let Some(end) = token {
                        push(out, Detector::Jwt, start, end);
                    }
                }
                1 if start >= pem_tried && wanted.has(Detector::Pem) => {
                    if let Some(end) = private_key(bytes, end) {
                        pem_tried = end;
                        push(out, Detector::Pem, start, end);
                    }
                }
                2 if start >= key_tried && wanted.has(Detector::CloudKey) => {
                    let digits = run(bytes, end, is_base64);
                    if digits - end >= ACCOUNT_DIGITS {
                        key_tried = run(bytes, digits, |byte| byte == b'=');
                        push(out, Detector::CloudKey, end, key_tried);
                    }
                }
                pattern if pattern > 2 && start >= key_tried && wanted.has(Detector::CloudKey) => {
                    if let Some(end) = platform_key(bytes, start, end, &KEYS[pattern - 3]) {
                        key_tried = end;
                        push(out, Detector::CloudKey, start, end);
                    }
                }
                _ => {}
            }
        }
    }
}

/// Where the header of a JWT ends, and where the token does: three parts of base64url, or five (encrypted). The signature may be
/// missing where the second part is JSON, too: an unsecured token still tells who it is for.
fn jwt(bytes: &[u8], start: usize) -> (usize, Option<usize>) {
    let header = run(bytes, start, is_base64url);
    let part = |from: usize| (bytes.get(from) == Some(&b'.')).then(|| run(bytes, from + 1, is_base64url));
    if header - start < JWT_HEADER {
        return (header, None);
    }
    let Some(payload) = part(header) else { return (header, None) };
    let Some(signature) = part(payload) else { return (header, None) };
    let (has_payload, has_signature) = (payload > header + 1, signature > payload + 1);
    if has_signature
        && let Some(text) = part(signature)
        && text > signature + 1
        && let Some(tag) = part(text)
        && tag > text + 1
    {
        return (header, Some(tag));
    }
    let claims = bytes[header + 1..payload].starts_with(JWT.as_bytes());
    (header, (has_payload && (has_signature || claims)).then_some(signature))
}

/// Where the private key ends whose label begins at `label`: after its END line, or with the text.
fn private_key(bytes: &[u8], label: usize) -> Option<usize> {
    let dashes = |from: usize| {
        let line = &bytes[from..bytes.len().min(from + PEM_LABEL + 5)];
        memmem::find(line, b"-----").map(|at| from + at)
    };
    let close = dashes(label)?;
    let name = &bytes[label..close];
    if !name.ends_with(b"PRIVATE KEY") && !name.ends_with(b"PRIVATE KEY BLOCK") {
        return None;
    }
    let Some(end) = memmem::find(&bytes[close + 5..], b"-----END") else { return Some(bytes.len()) };
    let end = close + 5 + end + 8;
    Some(dashes(end).map_or(bytes.len(), |close| close + 5))
}

/// Where a platform's key ends.
fn platform_key(bytes: &[u8], start: usize, from: usize, key: &Key) -> Option<usize> {
    if follows_word(bytes, start) {
        return None;
    }
    let end = run(bytes, from, key.takes);
    ((key.least..=key.most).contains(&(end - from)) && !is_word(bytes, end)).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::super::tests::found;
    use super::*;

    #[test]
    fn tokens_of_three_and_five_parts_are_found_and_their_look_alikes_are_not() {
        let (header, claims) = ("eyJhbGciOiJIUzI1NiJ9", "eyJzdWIiOiJ4MSJ9");
        for token in [
            format!("{header}.{claims}.FkodC5q0-_w"),
            format!("{header}.{claims}."),
            format!("{header}.bm90IGpzb24.c2ln"),
            format!("{header}..aXY.dGV4dA.dGFn"),
            format!("{header}.a2V5.aXY.dGV4dA.dGFn"),
        ] {
            assert_eq!(found(Detector::Jwt, &format!("x={token} y")), [token.as_str()]);
            assert_eq!(found(Detector::Jwt, &format!("jwt{token}")).len(), 1);
        }
        for text in ["tokens start with eyJ as a rule", header, "eyJwYWdlIjoyLCJzaXplIjo1MH0=", "Zm9vYmFyYmF6.cXV4cXV1eA.Y29yZ2U"] {
            assert!(found(Detector::Jwt, text).is_empty(), "{text}");
        }
    }

    #[test]
    fn private_keys_are_found_to_their_end_or_that_of_the_text() {
        let key = "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----";
        assert_eq!(found(Detector::Pem, &format!("a {key} b {key} c")), [key, key]);
        assert_eq!(found(Detector::Pem, "a -----BEGIN PRIVATE KEY-----AAAA"), ["-----BEGIN PRIVATE KEY-----AAAA"]);
        assert_eq!(found(Detector::Pem, "-----BEGIN PGP PRIVATE KEY BLOCK-----\nA\n-----END").len(), 1);
        for text in ["-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----", "-----BEGIN PUBLIC KEY-----", "----- BEGIN PRIVATE KEY -----", "-----BEGIN "] {
            assert!(found(Detector::Pem, text).is_empty(), "{text}");
        }
    }

    #[test]
    fn keys_of_platforms_are_found_at_the_beginning_of_a_word() {
        for key in KEYS {
            let body: String = "A1B2C3D4E5F6G7H8I9J0".repeat(2);
            let text = format!("{}{}", key.prefix, &body[..key.least]);
            assert_eq!(found(Detector::CloudKey, &format!("k `{text}` k")), [text.as_str()]);
            assert!(found(Detector::CloudKey, &format!("a{text}")).is_empty(), "{text}");
            assert!(found(Detector::CloudKey, &text[..text.len() - 1]).is_empty(), "{text}");
        }
        let account = "A1".repeat(43) + "==";
        assert_eq!(found(Detector::CloudKey, &format!("AccountName=x;AccountKey={account};E=y")), [account.as_str()]);
        assert!(found(Detector::CloudKey, "akiaiosfodnn7example, ASIAPACIFIC, disk_test_results20260412nightly").is_empty());
    }
}
