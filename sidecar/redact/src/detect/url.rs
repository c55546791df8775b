//! Credentials in URLs: the password before the host, and secret query parameters.
use memchr::{memchr, memrchr};

use super::{follows_word, run};
use crate::names::Tail;

/// Where to stop looking for the `@` of a password with unescaped slashes: bounds the work for each URL.
const LONGEST_USERINFO: usize = 512;
/// Longest name of a parameter that is looked at.
const LONGEST_NAME: usize = 64;

fn ends_text(byte: u8) -> bool {
    byte.is_ascii_whitespace() || matches!(byte, b'"' | b'<' | b'>' | b'`')
}

fn ends_authority(byte: u8) -> bool {
    ends_text(byte) || matches!(byte, b'/' | b'?' | b'#' | b'\'')
}

/// The password of the URL whose `://` stands at `at`.
pub(super) fn password(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let scheme = follows_word(bytes, at) || (at > 0 && matches!(bytes[at - 1], b'+' | b'.' | b'-'));
    if !scheme {
        return None;
    }
    let start = at + 3;
    let end = run(bytes, start, |byte| !ends_authority(byte));
    let host = start + memrchr(b'@', &bytes[start..end]).or_else(|| unescaped(bytes, start, end))?;
    // A password may contain colons, a user may not.
    let colon = start + memchr(b':', &bytes[start..host])?;
    (colon + 1 < host).then_some((colon + 1, host))
}

/// Where `@` stands, from `start`, behind an authority that cannot be host and port: somebody left a slash in a password.
fn unescaped(bytes: &[u8], start: usize, end: usize) -> Option<usize> {
    let colon = memchr(b':', &bytes[start..end])?;
    let is_port = bytes[start + colon + 1..end].iter().all(u8::is_ascii_digit);
    if is_port || bytes[start] == b'[' {
        return None;
    }
    let limit = bytes.len().min(start + LONGEST_USERINFO);
    let rest = bytes.get(end..limit)?;
    let rest = &rest[..run(rest, 0, |byte| !ends_text(byte))];
    memchr(b'@', rest).map(|found| end - start + found)
}

/// The name before the `=` at `at`, if it is that of a parameter: in a query, a fragment or a form.
pub(super) fn parameter_name(bytes: &[u8], at: usize) -> Option<&[u8]> {
    if bytes[at] != b'=' {
        return None;
    }
    let in_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'%');
    let length = bytes[..at].iter().rev().take(LONGEST_NAME).take_while(|byte| in_name(**byte)).count();
    let (before, name) = bytes[..at].split_at(at - length);
    let delimited = matches!(before.last(), Some(b'?' | b'&' | b'#')) || before.ends_with(b"&amp;");
    (delimited && !name.is_empty()).then_some(name)
}

/// Where the value of a parameter ends whose `=` stands at `at`, if it is a secret.
pub(super) fn secret_parameter(bytes: &[u8], at: usize, name: &[u8]) -> Option<usize> {
    if !Tail::ascii(name).is_secret_parameter() {
        return None;
    }
    let end = run(bytes, at + 1, |byte| !ends_text(byte) && !matches!(byte, b'&' | b'#' | b'\''));
    (end > at + 1).then_some(end)
}

#[cfg(test)]
mod tests {
    use steno_crds::Detector;

    use super::super::tests::found;

    #[test]
    fn passwords_before_a_host_are_found() {
        for (text, password) in [
            ("dial postgres://app:pw-1@pg:5432/shop refused", "pw-1"),
            ("redis://:pw-2@cache-0:6379/2", "pw-2"),
            ("mysql://app:pa5s:w0rd@db/x", "pa5s:w0rd"),
            ("mongodb+srv://a:p!w$x-25*@m/x", "p!w$x-25*"),
            ("jdbc:mysql://a:p@ss@m1", "p@ss"),
            ("postgres://a:pa/s#s?1@h/x", "pa/s#s?1"),
            ("'redis://a:it's@h'", "it's"),
            ("postgres://u:p@[2001:db8::5]:5432/a", "p"),
        ] {
            assert_eq!(found(Detector::UrlCredentials, text), [password], "{text}");
        }
    }

    #[test]
    fn ports_paths_and_users_stay() {
        for text in [
            "https://bot@git.example.test/a/b.git",
            "http://registry:5000/team/app@v2",
            "http://app:3000?email=ann@example.test",
            "https://app:8443#me@home",
            "https://app.example.test/a:b@c/d",
            "http://[2001:db8::1]:8080/x@y",
            "host:5000/app@sha256:e3b0c442",
            "http://h:80 mailed to a@b",
            "build 3:2 @ host, :// alone, a://",
        ] {
            assert!(found(Detector::UrlCredentials, text).is_empty(), "{text}");
        }
    }

    #[test]
    fn secret_parameters_are_found_and_others_stay() {
        for (text, value) in [
            ("GET /d?f=a.pdf&token=qp-31 200", "qp-31"),
            ("/k?x-amz-signature=ab12&x-id=G", "ab12"),
            ("\"https://x/a?p=2&token=qp-48\": late", "qp-48"),
            ("https://x/#access_token=qp-46&t=o", "qp-46"),
            ("/a?x=1&amp;sig=s%2Bs#f", "s%2Bs"),
            ("?pin=1234", "1234"),
        ] {
            assert_eq!(found(Detector::UrlCredentials, text), [value], "{text}");
        }
        for text in ["/l?tokenType=o&page_token=C&signed=1&significant=2", "/cb?token=&x=1", "token=abc", "/l?signatureVersion=4"] {
            assert!(found(Detector::UrlCredentials, text).is_empty(), "{text}");
        }
    }
}
