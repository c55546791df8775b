//! What replaces a value.
use std::fmt;

use hmac::{Hmac, Mac};
use sha2::Sha256;
use steno_crds::RedactionAction as Action;
use steno_event::json::{Json, MARKER, Redacted, canonical};

/// The key of `Hash`.
#[derive(Clone, PartialEq, Eq)]
pub struct HashKey {
    /// A name that tells nothing of the key.
    pub id: String,
    /// The key.
    pub key: Vec<u8>,
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HashKey({}, …)", self.id)
    }
}

// === impl HashKey ===

impl HashKey {
    /// `hmac-sha256:<keyId>:<hex>` of a text.
    pub fn hash(&self, text: &str) -> Option<String> {
        hash(self, text)
    }
}

/// What stands for a value that is replaced.
pub(crate) const REPLACED: &str = "[REDACTED]";

/// `hmac-sha256:<keyId>:<hex>` of a text.
pub(crate) fn hash(key: &HashKey, text: &str) -> Option<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(&key.key).ok()?;
    mac.update(text.as_bytes());
    let code = mac.finalize().into_bytes();
    let hex = code.iter().fold(String::with_capacity(64), |hex, byte| hex + &format!("{byte:02x}"));
    Some(format!("hmac-sha256:{}:{hex}", key.id))
}

/// Keeps the last four letters and digits of what is long enough to hide the rest.
pub(crate) fn mask(text: &str) -> String {
    let plain: Vec<char> = text.chars().filter(|c| c.is_alphanumeric()).collect();
    if plain.len() < 8 {
        return "****".into();
    }
    let hidden = "*".repeat((plain.len() - 4).min(12));
    hidden + &plain[plain.len() - 4..].iter().collect::<String>()
}

/// What a text becomes; `None`: it is cut out. Gives back the action that was done.
pub(crate) fn text(action: Action, text: &str, key: Option<&HashKey>) -> (Option<String>, Action) {
    match action {
        Action::Mask => (Some(mask(text)), Action::Mask),
        Action::Hash => match key.and_then(|key| hash(key, text)) {
            Some(hash) => (Some(hash), Action::Hash),
            None => (None, Action::Remove),
        },
        Action::Replace => (Some(REPLACED.into()), Action::Replace),
        Action::Remove => (None, Action::Remove),
    }
}

/// Redacts a whole value; gives back the action that was done.
pub(crate) fn whole(action: Action, value: &mut Json<'_>, key: Option<&HashKey>) -> Action {
    let plain = match &*value {
        Json::String(text) => text.to_string(),
        Json::Redacted(redacted) => redacted.shown.clone(),
        other => canonical(other),
    };
    // A part of an object's text tells about its inside.
    let action =
        if action == Action::Mask && matches!(value, Json::Array(_) | Json::Object(_)) { Action::Replace } else { action };
    let (shown, done) = text(action, &plain, key);
    *value = match shown {
        Some(shown) => Json::Redacted(Box::new(Redacted { shown, print: MARKER.into() })),
        None => Json::Removed,
    };
    done
}
