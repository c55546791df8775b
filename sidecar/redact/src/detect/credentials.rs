//! Credentials in headers, URLs and free text.
use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::pattern;
use crate::names;

/// `Bearer` and `Basic` credentials. Prose follows these words, too: a bearer's token has a digit or is long, and basic credentials decode
/// to text with a colon.
pub(super) fn bearer(text: &str, add: &mut dyn FnMut(usize, usize)) {
    pattern!(shape, r"(?i)\b(?:(bearer)|basic)[ \t:]+([A-Za-z0-9._~+/-]{8,}={0,2})");
    for found in shape().into_iter().flat_map(|shape| shape.captures_iter(text)) {
        let Some(token) = found.get(2) else { continue };
        let is_secret = if found.get(1).is_some() {
            token.as_str().bytes().any(|byte| byte.is_ascii_digit()) || token.len() >= 20
        } else {
            let padded = token.as_str().trim_end_matches('=');
            let padding = "=".repeat((4 - padded.len() % 4) % 4);
            STANDARD
                .decode(format!("{padded}{padding}"))
                .is_ok_and(|plain| plain.contains(&b':') && std::str::from_utf8(&plain).is_ok())
        };
        if is_secret {
            add(token.start(), token.end());
        }
    }
}

/// Passwords in URLs, and secret query parameters.
pub(super) fn url(text: &str, add: &mut dyn FnMut(usize, usize)) {
    pattern!(userinfo, r"[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#@:]*:([^\s/?#]+)@");
    pattern!(parameter, r#"(?:^|[?&;\s])([A-Za-z0-9_.-]+)=([^&\s#"'<>;]+)"#);
    for found in userinfo().into_iter().flat_map(|shape| shape.captures_iter(text)).filter_map(|found| found.get(1)) {
        add(found.start(), found.end());
    }
    // A password that nobody escaped: with `/`, `?` or `#` in it, up to the first `@`. What begins as a port does is one.
    pattern!(unescaped, r#"[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#@:]*:([^\s@"'<>]*[/?#][^\s@"'<>]*)@[A-Za-z0-9\[]"#);
    for found in unescaped().into_iter().flat_map(|shape| shape.captures_iter(text)).filter_map(|found| found.get(1)) {
        let rest = found.as_str().trim_start_matches(|c: char| c.is_ascii_digit());
        if !rest.starts_with(['/', '?', '#']) {
            add(found.start(), found.end());
        }
    }
    if !text.contains(['?', '&']) {
        return;
    }
    let mut at = 0;
    // Parameters share their separators, so each search begins at the end of the value before.
    while let Some(found) = parameter().and_then(|shape| shape.captures_at(text, at)) {
        let (Some(name), Some(value)) = (found.get(1), found.get(2)) else { break };
        if names::is_secret_parameter(name.as_str()) && !is_placeholder(value.as_str()) {
            add(value.start(), value.end());
        }
        at = value.end();
    }
}

/// Words that stand where a secret would, and are none.
const STOP: &[&str] = &[
    "required",
    "missing",
    "invalid",
    "incorrect",
    "expired",
    "null",
    "none",
    "nil",
    "empty",
    "true",
    "false",
    "undefined",
    "must",
    "is",
    "not",
    "changed",
    "reset",
    "updated",
];

fn is_placeholder(value: &str) -> bool {
    value.starts_with(['<', '$', '{', '%', '['])
        || value.bytes().all(|byte| matches!(byte, b'*' | b'x' | b'X'))
        || STOP.iter().any(|word| word.eq_ignore_ascii_case(value.trim_end_matches(['.', '!', ':'])))
}

/// `password=…` and the like in free text and connection strings.
pub(super) fn kv(text: &str, add: &mut dyn FnMut(usize, usize)) {
    pattern!(
        shape,
        r#"(?xi)
        (?:^|[^A-Za-z0-9_.-]) (?:--)? [A-Za-z0-9_.-]*?
        (?:password|passwd|pwd|passphrase|secret_access_key|secret_key|client_secret|secret|api[_-]?key|access_token|refresh_token|auth_token|private_key)
        \\?["']?[\ \t]*[=:][\ \t]*
        (?: \\?"([^"]*?)(?:\\?"|\z) | '([^']*)(?:'|\z) | ([^\s;,&)}"']+) )"#
    );
    for found in shape().into_iter().flat_map(|shape| shape.captures_iter(text)) {
        let value = (1..=3).find_map(|group| found.get(group));
        if let Some(value) = value
            && !value.is_empty()
            && !is_placeholder(value.as_str())
        {
            add(value.start(), value.end());
        }
    }
}

/// E-mail addresses.
pub(super) fn email(text: &str, add: &mut dyn FnMut(usize, usize)) {
    pattern!(shape, r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,24}\b");
    for found in shape().into_iter().flat_map(|shape| shape.find_iter(text)) {
        add(found.start(), found.end());
    }
}

#[cfg(test)]
mod tests {
    use super::{super::found, *};

    #[test]
    fn credentials_are_found_and_prose_is_not() {
        assert_eq!(found(bearer, "Authorization: Bearer abc123def456"), ["abc123def456"]);
        assert_eq!(found(bearer, "basic dXNlcjpwYXNz"), ["dXNlcjpwYXNz"]);
        assert!(found(bearer, "bearer of bad news; Basic authentication failed; basic training").is_empty());
        assert_eq!(found(url, "https://u:p@ss@h/x?a=1&token=abc&sig=z9"), ["p@ss", "abc", "z9"]);
        assert!(found(url, "http://host:3000?email=a@b x:8443#x@y host:5000/app@sha256:aa").is_empty());
        assert_eq!(found(kv, "Server=db;Password=s3cr3t; DB_PASSWORD = 'a b' api-key: k9"), ["s3cr3t", "a b", "k9"]);
        assert_eq!(found(kv, r#"{\"password\":\"hunter2\"} pwd="two warm so"#), ["hunter2", "two warm so"]);
        assert!(found(kv, "password:\nuser: bob").is_empty());
        assert!(found(kv, "password: required, password=***, pwd=${DB_PASSWORD} secret=null").is_empty());
    }
}
