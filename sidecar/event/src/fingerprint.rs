//! Who an event is, and whether two are equal: keyed 128-bit hashes (BLAKE3, truncated).
//!
//! The key is random and a journal's own, so that neither hash can be precomputed and a fingerprint in a `Conflict` record
//! tells nobody what was in the event.
use crate::json::{Form, Json, Object, write_json};

/// A journal's key for identities and fingerprints.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct IdKey(pub [u8; 32]);

impl std::fmt::Debug for IdKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IdKey(…)")
    }
}

fn short(hash: blake3::Hash) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&hash.as_bytes()[..16]);
    out
}

/// The identity of an event: its tenant and id as sent, before redaction.
pub fn identity(key: &IdKey, tenant: &str, event_id: &str) -> [u8; 16] {
    // The length in front keeps ("ab", "c") and ("a", "bc") apart.
    let mut text = Vec::with_capacity(tenant.len() + event_id.len() + 12);
    text.extend_from_slice(b"id\0\0");
    text.extend_from_slice(&(tenant.len() as u64).to_le_bytes());
    text.extend_from_slice(tenant.as_bytes());
    text.extend_from_slice(event_id.as_bytes());
    short(blake3::keyed_hash(&key.0, &text))
}

/// The fingerprint of what a client sent: canonical form of the mapped, redacted, untruncated members, a fixed marker in place of
/// each redacted value. The event's id and tenant are left out: they are its identity.
pub fn fingerprint(key: &IdKey, sent: &Object<'_>, scratch: &mut Vec<u8>) -> [u8; 16] {
    scratch.clear();
    scratch.extend_from_slice(b"print\0");
    for (name, value) in sent.iter().filter(|(name, _)| !matches!(&**name, "eventId" | "tenantId")) {
        write_json(scratch, &Json::String(std::borrow::Cow::Borrowed(name)), Form::Print);
        write_json(scratch, value, Form::Print);
    }
    short(blake3::keyed_hash(&key.0, scratch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::{Redacted, parse};

    #[test]
    fn identities_do_not_run_into_each_other() {
        let key = IdKey([7; 32]);
        assert_ne!(identity(&key, "ab", "c"), identity(&key, "a", "bc"));
        assert_ne!(identity(&key, "a", "b"), identity(&IdKey([8; 32]), "a", "b"));
    }

    #[test]
    fn a_redacted_value_prints_the_same_whatever_was_done_to_it() {
        let print = |shown: Json<'static>| {
            let Json::Object(mut members) = parse(r#"{"action":"a"}"#).unwrap() else { unreachable!() };
            members.insert("secret", shown);
            fingerprint(&IdKey([1; 32]), &members, &mut Vec::new())
        };
        let redacted =
            |shown: &str| Json::Redacted(Box::new(Redacted { shown: shown.into(), print: crate::json::MARKER.into() }));
        assert_eq!(print(redacted("[REDACTED]")), print(redacted("hmac-sha256:k:ab")));
        assert_eq!(print(redacted("[REDACTED]")), print(Json::Removed));
        assert_ne!(print(redacted("[REDACTED]")), print(Json::text("[REDACTED]")));
    }
}
