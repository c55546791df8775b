//! Credentials in headers, URLs and free text.
use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{kv::is_placeholder, pattern};
use crate::names::{self, looks_random};

/// `Bearer` and `Basic` credentials. Prose follows these words, too: a bearer's token has a digit, or is long and no name of a class; basic credentials
/// decode to text with a colon.
pub(super) fn bearer(text: &str, add: &mut dyn FnMut(usize, usize)) {
    pattern!(shape, r#"(?i)\b(?:(bearer)|basic)["']?(?:[ \t:+]|%20)+["']?([A-Za-z0-9._~+/-]{8,}={0,2})"#);
    for found in shape().into_iter().flat_map(|shape| shape.captures_iter(text)) {
        let Some(token) = found.get(2) else { continue };
        let is_secret = if found.get(1).is_some() {
            is_token(token.as_str())
        } else {
            let padded = token.as_str().trim_end_matches('=').replace('-', "+").replace('_', "/");
            let padding = "=".repeat((4 - padded.len() % 4) % 4);
            STANDARD.decode(format!("{padded}{padding}")).is_ok_and(|plain| plain.contains(&b':'))
        };
        if is_secret {
            add(token.start(), token.end());
        }
    }
}

fn is_token(token: &str) -> bool {
    let has_digit = token.bytes().any(|byte| byte.is_ascii_digit());
    // `com.example.BearerFilter`: letters with dots between them.
    let is_class =
        token.contains('.') && token.split('.').all(|part| part.len() > 1 && part.bytes().all(|byte| byte.is_ascii_alphabetic()));
    has_digit || token.len() >= 20 && !is_class
}

/// Passwords and tokens in URLs, and secret query parameters.
pub(super) fn url(text: &str, add: &mut dyn FnMut(usize, usize)) {
    pattern!(userinfo, r"(?:[A-Za-z][A-Za-z0-9+.-]*:(?://|\\/\\/)|(?:^|\s)//)([^\s/?#@:\\]*):([^\s/?#]*)@([^\s/?#]*)");
    pattern!(user, r"[A-Za-z][A-Za-z0-9+.-]*://([A-Za-z0-9_~.%-]{10,})@[A-Za-z0-9\[]");
    pattern!(parameter, r#"(?:^|[?&;#\s"']|\\u0026)([A-Za-z0-9_.%\[\]-]+)=([^&\s#"'<>;\\]+)"#);
    pattern!(query, r"^[A-Za-z0-9_.%\[\]-]+=[^\s&=]*(?:&[A-Za-z0-9_.%\[\]-]+=[^\s&]*)*$");
    for found in userinfo().into_iter().flat_map(|shape| shape.captures_iter(text)) {
        let (Some(user), Some(password), Some(host)) = (found.get(1), found.get(2), found.get(3)) else { continue };
        // `image:tag@sha256:…` is no password.
        if host.as_str().starts_with("sha256:") {
            continue;
        }
        if !is_placeholder(password.as_str()) {
            add(password.start(), password.end());
        }
        // A token stands where the user's name does, if the password says nothing.
        let is_user = matches!(password.as_str(), "" | "x-oauth-basic" | "x") || user.as_str().starts_with("ghp_");
        if is_user && looks_random(user.as_str()) {
            add(user.start(), user.end());
        }
    }
    for user in user().into_iter().flat_map(|shape| shape.captures_iter(text)).filter_map(|found| found.get(1)) {
        let is_mail = user.as_str().contains("%40");
        if looks_random(user.as_str()) && !is_mail && !user.as_str().contains('.') {
            add(user.start(), user.end());
        }
    }
    // A password that nobody escaped: with `/`, `?` or `#` in it, up to the first `@`. What begins as a port does is one.
    pattern!(unescaped, r#"[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#@:]*:([^\s@"'<>]*[/?#][^\s@"'<>]*)@[A-Za-z0-9\[]"#);
    for found in unescaped().into_iter().flat_map(|shape| shape.captures_iter(text)).filter_map(|found| found.get(1)) {
        let rest = found.as_str().trim_start_matches(|c: char| c.is_ascii_digit());
        if !rest.starts_with(['/', '?', '#']) {
            add(found.start(), found.end());
        }
    }
    // With a space in it.
    pattern!(
        spaced,
        r"(?:postgres(?:ql)?|mysql|mariadb|mongodb(?:\+srv)?|redis|rediss|amqps?)://[^\s/?#@:]+:([^/?#@\n]{1,80})@[A-Za-z0-9\[]"
    );
    for found in spaced().into_iter().flat_map(|shape| shape.captures_iter(text)).filter_map(|found| found.get(1)) {
        if found.as_str().contains(' ') {
            add(found.start(), found.end());
        }
    }
    let is_url = text.contains(['?', '&', '#']);
    if !is_url && !query().is_some_and(|shape| shape.is_match(text)) {
        return;
    }
    let mut at = 0;
    // Parameters share their separators, so each search begins at the end of the value before.
    while let Some(found) = parameter().and_then(|shape| shape.captures_at(text, at)) {
        let (Some(name), Some(value)) = (found.get(1), found.get(2)) else { break };
        // Without a sign of a URL, secret names are the business of [`super::kv`].
        let is_own = is_url || names::is_parameter_only(name.as_str());
        if is_own && names::is_secret_parameter(name.as_str(), value.as_str()) && !is_placeholder(value.as_str()) {
            add(value.start(), value.end());
        }
        at = value.end();
    }
}

/// Endings of files and units that look like a domain.
const NO_DOMAINS: &[&str] = &[
    "automount",
    "conf",
    "cpp",
    "css",
    "device",
    "gif",
    "go",
    "html",
    "ico",
    "jpeg",
    "jpg",
    "js",
    "json",
    "log",
    "mount",
    "path",
    "pdf",
    "php",
    "png",
    "py",
    "rb",
    "rs",
    "scope",
    "service",
    "slice",
    "socket",
    "svg",
    "swap",
    "target",
    "tgz",
    "timer",
    "ts",
    "txt",
    "webp",
    "xml",
    "yaml",
    "yml",
    "zip",
];
/// Users of version control over SSH.
const NO_USERS: &[&str] = &["git", "hg", "svn", "gitea", "gitlab", "aur"];
/// Hosts that these users are of.
const FORGES: &[&str] =
    &["github.com", "gitlab.com", "bitbucket.org", "codeberg.org", "ssh.dev.azure.com", "gitea.com", "aur.archlinux.org"];

/// E-mail addresses, internationalised ones too (RFC 6531).
pub(super) fn email(text: &str, add: &mut dyn FnMut(usize, usize)) {
    pattern!(
        shape,
        r"([A-Za-z0-9\x{a1}-\x{10FFFF}._%+'-]{1,64}|\x22[^\x22@\n]{1,62}\x22)@((?:[A-Za-z0-9\x{a1}-\x{10FFFF}-]{1,63}\.){1,8}[A-Za-z\x{a1}-\x{10FFFF}][A-Za-z0-9\x{a1}-\x{10FFFF}-]{1,62}|\[[0-9A-Fa-f:.]{3,45}\])"
    );
    for found in shape().into_iter().flat_map(|shape| shape.captures_iter(text)) {
        let (Some(all), Some(user), Some(host)) = (found.get(0), found.get(1), found.get(2)) else { continue };
        let host = host.as_str().to_ascii_lowercase();
        let last = host.rsplit('.').next().unwrap_or_default();
        let is_unit = NO_DOMAINS.contains(&last);
        let user = user.as_str();
        let behind = text[all.end()..].chars().next();
        // `git@host:owner/name`
        let is_remote = NO_USERS.contains(&user) && (behind == Some(':') || FORGES.contains(&host.as_str()));
        if !is_unit && !is_remote {
            add(all.start(), all.end());
        }
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
        assert_eq!(found(url, "https://aB3dE5fG7hJ9@github.com/o/r https://aB3dE5fG7hJ9:@h/x"), ["aB3dE5fG7hJ9", "aB3dE5fG7hJ9"]);
        assert_eq!(found(email, "ann@bücher.example git@github.com getty@tty1.service logo@2x.png"), ["ann@bücher.example"]);
        assert!(found(url, "oci://app:v1.2@sha256:abc https://git@h/x").is_empty());
        assert!(found(url, "http://host:3000?email=a@b x:8443#x@y host:5000/app@sha256:aa").is_empty());
    }
}
