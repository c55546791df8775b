//! Tokens and keys that are told by their own form.
use super::pattern;

/// JSON Web Tokens: base64url parts, the first of which is a JSON object (`eyJ` is `{"`). Three of them with a signature, which is empty
/// in an unsecured one and may be cut off where the second is an object too; five in an encrypted one (RFC 7519, 7515, 7516).
pub(super) fn jwt(text: &str, add: &mut dyn FnMut(usize, usize)) {
    pattern!(
        shape,
        r"(?:eyJ|eyA|ew[0-9A-Za-z])[A-Za-z0-9_-]{5,}\.(?:[A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+){1,3}|eyJ[A-Za-z0-9_-]{2,}\.?)"
    );
    for found in shape().into_iter().flat_map(|shape| shape.find_iter(text)) {
        add(found.start(), found.end());
    }
}

/// PEM private keys, to their end or the end of the text.
pub(super) fn pem(text: &str, add: &mut dyn FnMut(usize, usize)) {
    pattern!(
        shape,
        r"(?s)----[- ]?BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?[ -]?----.*?(?:----[- ]?END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?[ -]?-----?|\z)"
    );
    for found in shape().into_iter().flat_map(|shape| shape.find_iter(text)) {
        add(found.start(), found.end());
    }
}
