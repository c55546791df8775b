//! What takes the place of a secret.
use std::fmt::Write;

use hmac::{Hmac, Mac};
use sha2::Sha256;
use steno_crds::RedactionAction;

use crate::rules::HashKey;

/// What `Replace` shows.
pub(crate) const PLACEHOLDER: &str = "[REDACTED]";

/// Characters that `Mask` keeps.
const KEPT: usize = 4;
/// A shorter value is masked whole: four of six characters would be most of it.
const LEAST_FOR_KEEPING: usize = 8;
/// Stars of a mask at most: a long value must not stay long.
const MOST_STARS: usize = 12;

/// A key for `Hash`, ready for use.
pub(crate) struct Hasher {
    id: String,
    mac: Hmac<Sha256>,
}

/// What takes the place of one secret.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Put {
    /// What is shown; nothing where it was removed.
    pub(crate) shown: Option<String>,
    /// What was done.
    pub(crate) action: RedactionAction,
    /// It should have been a hash, and there is no key.
    pub(crate) keyless: bool,
}

/// Applies an action to a text. `digits`: the text is a number, and a mask keeps digits only.
pub(crate) fn put(action: RedactionAction, hasher: Option<&Hasher>, text: &str, digits: bool) -> Put {
    match (action, hasher) {
        (RedactionAction::Remove, _) => Put { shown: None, action, keyless: false },
        (RedactionAction::Replace, _) => Put { shown: Some(PLACEHOLDER.to_owned()), action, keyless: false },
        (RedactionAction::Mask, _) => Put { shown: Some(mask(text, digits)), action, keyless: false },
        (RedactionAction::Hash, Some(hasher)) => Put { shown: Some(hasher.hash(text)), action, keyless: false },
        (RedactionAction::Hash, None) => Put { shown: None, action: RedactionAction::Remove, keyless: true },
    }
}

/// What takes the place of an identity: a hash, so that equal ones stay equal, and never nothing.
pub(crate) fn identify(hasher: Option<&Hasher>, text: &str) -> Put {
    match hasher {
        Some(hasher) => Put { shown: Some(hasher.hash(text)), action: RedactionAction::Hash, keyless: false },
        None => Put { shown: Some(PLACEHOLDER.to_owned()), action: RedactionAction::Replace, keyless: true },
    }
}

/// The word of an action in a record.
pub(crate) const fn word(action: RedactionAction) -> &'static str {
    match action {
        RedactionAction::Mask => "Mask",
        RedactionAction::Hash => "Hash",
        RedactionAction::Replace => "Replace",
        RedactionAction::Remove => "Remove",
    }
}

fn chosen(text: &str, digits: bool) -> impl DoubleEndedIterator<Item = char> {
    text.chars().filter(move |c| !digits || c.is_ascii_digit())
}

fn mask(text: &str, digits: bool) -> String {
    let count = chosen(text, digits).count();
    let kept = if count < LEAST_FOR_KEEPING { 0 } else { KEPT };
    let mut out = "*".repeat((count - kept).min(MOST_STARS));
    let tail: Vec<char> = chosen(text, digits).rev().take(kept).collect();
    out.extend(tail.into_iter().rev());
    out
}

// === impl Hasher ===

impl Hasher {
    /// A hasher; `None` where the key is empty and so of no use.
    pub(crate) fn new(key: HashKey) -> Option<Self> {
        if key.key.is_empty() {
            return None;
        }
        // HMAC takes keys of any length.
        let mac = Hmac::<Sha256>::new_from_slice(&key.key).ok()?;
        Some(Self { id: key.id, mac })
    }

    fn hash(&self, text: &str) -> String {
        let mut mac = self.mac.clone();
        mac.update(text.as_bytes());
        let mut out = format!("hmac-sha256:{}:", self.id);
        for byte in mac.finalize().into_bytes() {
            // Writing to a string does not fail.
            let _ = write!(out, "{byte:02x}");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hasher() -> Option<Hasher> {
        Hasher::new(HashKey { id: "k1".into(), key: b"Jefe".to_vec() })
    }

    #[test]
    fn a_mask_keeps_the_last_four_of_what_is_long_enough() {
        for (text, digits, masked) in [
            ("4111 1111 1111 1111", true, "************1111"),
            ("378282246310005", true, "***********0005"),
            ("correct-horse", false, "*********orse"),
            ("schlüssel", false, "*****ssel"),
            ("739164", false, "******"),
            ("", false, ""),
        ] {
            assert_eq!(mask(text, digits), masked);
        }
        assert_eq!(mask(&"x".repeat(5_000), false).len(), MOST_STARS + KEPT);
    }

    #[test]
    fn a_hash_is_the_hmac_of_rfc_4231() {
        let put = put(RedactionAction::Hash, hasher().as_ref(), "what do ya want for nothing?", false);
        let expected = "hmac-sha256:k1:5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(put.shown.as_deref(), Some(expected));
    }

    #[test]
    fn without_a_key_a_hash_removes_and_an_identity_is_replaced() {
        assert!(Hasher::new(HashKey { id: "k".into(), key: Vec::new() }).is_none());
        let removed = Put { shown: None, action: RedactionAction::Remove, keyless: true };
        assert_eq!(put(RedactionAction::Hash, None, "x", false), removed);
        let replaced = Put { shown: Some(PLACEHOLDER.into()), action: RedactionAction::Replace, keyless: true };
        assert_eq!(identify(None, "x"), replaced);
    }
}
