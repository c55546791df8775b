//! Values that free text assigns to a secret name: `password=…`, `client_secret: "…"`, connection strings, log lines.
use crate::names::Tail;

/// Longest part of a name that is looked at.
const LONGEST_NAME: usize = 64;
/// Most spaces between a name and its separator.
const MOST_SPACES: usize = 8;

/// Words that stand after `password:` and are no password, without their final punctuation.
const STOP: &[&str] = &[
    "required", "missing", "invalid", "incorrect", "expired", "null", "none", "nil", "empty", "true", "false", "undefined", "must",
    "is", "not", "changed", "reset", "updated",
];

/// The secret value of the separator that begins at `at` and ends before `after`.
pub(super) fn value(bytes: &[u8], at: usize, after: usize) -> Option<(usize, usize)> {
    if !is_assigned(bytes, at) {
        return None;
    }
    let from = super::run(bytes, after, |byte| matches!(byte, b' ' | b'\t'));
    let (start, end) = extent(bytes, from)?;
    (!is_placeholder(&bytes[start..end])).then_some((start, end))
}

/// Whether the name before a separator is one that a secret is assigned to.
fn is_assigned(bytes: &[u8], at: usize) -> bool {
    let spaces = bytes[..at].iter().rev().take(MOST_SPACES).take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let mut name = &bytes[..at - spaces];
    let mut quoted = false;
    if let [before @ .., b'"' | b'\''] = name {
        quoted = true;
        name = before;
        // JSON inside a string inside text: `{\"password\":\"…\"}`.
        while let [before @ .., b'\\'] = name {
            name = before;
        }
    }
    let in_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let length = name.iter().rev().take(LONGEST_NAME).take_while(|byte| in_name(**byte)).count();
    let tail = Tail::ascii(&name[name.len() - length..]);
    // In quotes it is a member's name, not prose: JSON that was cut, or a dictionary that was printed.
    tail.is_assigned() || (quoted && tail.is_secret())
}

/// Where the value at `from` begins and ends. `None` for what is empty or a template.
fn extent(bytes: &[u8], from: usize) -> Option<(usize, usize)> {
    let mut from = from;
    while bytes.get(from) == Some(&b'\\') && matches!(bytes.get(from + 1), Some(b'\\' | b'"' | b'\'')) {
        from += 1;
    }
    let escaped = from > 0 && bytes[from - 1] == b'\\';
    let quote = bytes.get(from).copied().filter(|byte| matches!(byte, b'"' | b'\'' | b'`'));
    let start = from + usize::from(quote.is_some());
    // `<hidden>`, `{}`, `${PASSWORD}` (below), `%s`, `[FILTERED]`
    if matches!(bytes.get(start)?, b'<' | b'{' | b'%' | b'[') {
        return None;
    }
    let rest = &bytes[start..];
    let length = match quote {
        None => rest.iter().position(|byte| byte.is_ascii_whitespace() || matches!(byte, b';' | b',' | b'&' | b')' | b'}')),
        Some(quote) if escaped => escaped_quote(rest, quote),
        Some(quote) => closing_quote(rest, quote),
    };
    let end = length.map_or(bytes.len(), |length| start + length);
    (end > start).then_some((start, end))
}

/// The closing quote of a value in quotes that are escaped themselves.
fn escaped_quote(rest: &[u8], quote: u8) -> Option<usize> {
    let at = memchr::memchr(quote, rest)?;
    Some(at - usize::from(at > 0 && rest[at - 1] == b'\\'))
}

/// The first quote that no backslash escapes.
fn closing_quote(rest: &[u8], quote: u8) -> Option<usize> {
    let mut at = 0;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return Some(at),
            _ => at += 1,
        }
    }
    None
}

/// Whether a value only stands for a secret: a word of the stop list, a mask, a variable.
fn is_placeholder(value: &[u8]) -> bool {
    if let [b'$', variable @ ..] = value {
        return is_variable(variable);
    }
    let masked = value.iter().all(|byte| *byte == b'*') || value.iter().all(|byte| matches!(byte, b'x' | b'X'));
    let punctuation = value.iter().rev().take_while(|byte| matches!(byte, b'.' | b'!' | b'?' | b':')).count();
    let word = &value[..value.len() - punctuation];
    masked || STOP.iter().any(|stop| word.eq_ignore_ascii_case(stop.as_bytes()))
}

/// Whether `$…` is a variable: `${…}`, `$(…)`, `$DB_PASSWORD2`, `$password`. `$ummer2024` is a password.
fn is_variable(name: &[u8]) -> bool {
    matches!(name.first(), None | Some(b'{' | b'('))
        || name.iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_')
        || name.iter().all(|byte| byte.is_ascii_alphabetic() || *byte == b'_')
}

#[cfg(test)]
mod tests {
    use steno_crds::Detector;

    use super::super::tests::found;

    #[test]
    fn values_of_secret_names_are_found() {
        for (text, value) in [
            ("login user=bob password=hunter2 from kiosk", "hunter2"),
            ("tried pwd: letme1n twice", "letme1n"),
            ("passphrase: \"two warm socks\" ok", "two warm socks"),
            ("init(api-key='abc d\\'ef', r=1)", "abc d\\'ef"),
            ("spring.datasource.password = kv-ini\nx", "kv-ini"),
            ("mysql --password=kv-cli shop", "kv-cli"),
            ("Config{host=h, DB_PASSWORD=kv-java} invalid", "kv-java"),
            ("password=P@ss/w0rd!#1 rejected", "P@ss/w0rd!#1"),
            ("password=nullify77 tried", "nullify77"),
            ("password=$ummer2024 tried", "$ummer2024"),
            ("password=schlüssel-ß9", "schlüssel-ß9"),
            ("body {\"token\": \"abc d\", \"x\":1} cut", "abc d"),
            ("body {\\\"password\\\":\\\"abc d\\\",\\\"x\\\":1}", "abc d"),
            ("{'pin': 660142, 'door': 1", "660142"),
            ("password=\"never closed", "never closed"),
        ] {
            assert_eq!(found(Detector::Kv, text), [value], "{text}");
        }
    }

    #[test]
    fn prose_and_placeholders_stay() {
        for text in [
            "password: Required.", "password=NULL", "password: must contain a digit", "password=***", "password=xxxxxxxx",
            "password: <redacted>", "password=%s", "password={}", "password=${DB_PASSWORD}", "password=$DB_PASSWORD",
            "password=[FILTERED]", "api_key={{ .Values.apiKey }}", "password=;user=bob", "passwordChangedAt=2026-01-02",
            "secretName=db-creds", "password_policy: strong", "token: opaque", "pinned: three", "password != null", "password=",
            "password=\"\"", "password:\nuser: bob",
        ] {
            assert!(found(Detector::Kv, text).is_empty(), "{text}");
        }
    }
}
