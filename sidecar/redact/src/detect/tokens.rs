//! Tokens and keys that are told by their own form.
use super::pattern;

/// JSON Web Tokens: base64url parts, the first of which is a JSON object (`eyJ` is `{"`). Three of them with a signature, which is empty
/// in an unsecured one and may be cut off where the second is an object too; five in an encrypted one (RFC 7519, 7515, 7516).
pub(super) fn jwt(text: &str, add: &mut dyn FnMut(usize, usize)) {
    pattern!(shape, r"eyJ[A-Za-z0-9_-]{5,}\.(?:[A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+){1,3}|eyJ[A-Za-z0-9_-]{2,}\.?)");
    for found in shape().into_iter().flat_map(|shape| shape.find_iter(text)) {
        add(found.start(), found.end());
    }
}

/// PEM private keys, to their end or the end of the text.
pub(super) fn pem(text: &str, add: &mut dyn FnMut(usize, usize)) {
    pattern!(shape, r"(?s)-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----.*?(?:-----END (?:[A-Z0-9]+ )*PRIVATE KEY-----|\z)");
    for found in shape().into_iter().flat_map(|shape| shape.find_iter(text)) {
        add(found.start(), found.end());
    }
}

/// Keys and tokens of cloud and code platforms, by the prefixes that their makers document.
pub(super) fn cloud_key(text: &str, add: &mut dyn FnMut(usize, usize)) {
    pattern!(
        shape,
        r"(?x)(?:^|[^A-Za-z0-9_])(
            (?:AKIA|ASIA|AGPA|AIDA|AROA|ANPA|ANVA|ABIA|ACCA)[A-Z0-9]{16,124}\b
          | AIza[0-9A-Za-z_-]{35}
          | gh[pousr]_[A-Za-z0-9]{36,}
          | github_pat_[A-Za-z0-9_]{22,}
          | xox[bpars]-[A-Za-z0-9-]{10,}
          | [sr]k_(?:live|test)_[A-Za-z0-9]{16,}
          | glpat-[A-Za-z0-9_-]{20,}
          | npm_[A-Za-z0-9]{36}
          | pypi-AgEI[A-Za-z0-9_-]{20,}
          | sk-(?:proj-)?[A-Za-z0-9_-]{20,}
        )"
    );
    pattern!(azure, r"(?i)AccountKey=([A-Za-z0-9+/]{40,}={0,2})");
    for shape in [shape(), azure()].into_iter().flatten() {
        for found in shape.captures_iter(text).filter_map(|found| found.get(1)).filter(|found| is_key(found.as_str())) {
            add(found.start(), found.end());
        }
    }
}

/// Words and slugs begin like keys, too.
fn is_key(text: &str) -> bool {
    let has = |test: fn(&u8) -> bool| text.bytes().any(|byte| test(&byte));
    if let Some(rest) = text.strip_prefix("sk-") {
        // A slug is words with hyphens between them.
        return has(u8::is_ascii_digit) && (has(u8::is_ascii_uppercase) || !rest.contains('-'));
    }
    // Ids of AWS have 20 characters; of other lengths, only what no word has.
    let is_aws = text.len() != 20 && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    !is_aws || has(u8::is_ascii_digit)
}
