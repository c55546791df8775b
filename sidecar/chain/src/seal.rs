//! Putting a record into its chain.
use sha2::{Digest, Sha256};
use steno_event::escape_into;

/// Where a chain stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainState {
    /// The chain.
    pub id: String,
    /// Its epoch, from 1.
    pub epoch: u64,
    /// Sequence number of its next record.
    pub next: u64,
    /// Hash of its last record; zeros where an epoch begins.
    pub prev: [u8; 32],
}

/// A record in its chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Its hash.
    pub hash: [u8; 32],
    /// Its sequence number.
    pub seq: u64,
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn hex_into(out: &mut Vec<u8>, bytes: &[u8; 32]) {
    for byte in bytes {
        out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }
}

/// Writes a record, made of the canonical halves before and after `integrity`, to `out`, and moves the chain on.
pub fn seal(state: &mut ChainState, head: &[u8], tail: &[u8], out: &mut Vec<u8>) -> Sealed {
    let start = out.len();
    out.extend_from_slice(head);
    out.extend_from_slice(b",\"integrity\":{\"alg\":\"sha256-jcs\",\"chainId\":");
    escape_into(out, &state.id);
    out.extend_from_slice(b",\"epoch\":");
    out.extend_from_slice(state.epoch.to_string().as_bytes());
    let hash_at = out.len();
    out.extend_from_slice(b",\"prevHash\":\"");
    hex_into(out, &state.prev);
    out.extend_from_slice(b"\",\"seq\":");
    out.extend_from_slice(state.next.to_string().as_bytes());
    out.push(b'}');
    let rest_at = out.len();
    out.extend_from_slice(tail);
    let hash: [u8; 32] = Sha256::digest(&out[start..]).into();
    // The hash goes in where it sorts: behind `epoch`.
    let mut member = Vec::with_capacity(75 + rest_at - hash_at);
    member.extend_from_slice(b",\"hash\":\"");
    hex_into(&mut member, &hash);
    member.push(b'"');
    member.extend_from_slice(&out[hash_at..rest_at]);
    out.truncate(hash_at);
    out.extend_from_slice(&member);
    out.extend_from_slice(tail);
    let seq = state.next;
    state.next += 1;
    state.prev = hash;
    Sealed { hash, seq }
}

// === impl ChainState ===

impl ChainState {
    /// A chain that begins.
    pub fn begin(id: String) -> Self {
        Self { id, epoch: 1, next: 0, prev: [0; 32] }
    }

    /// The next epoch, from `next` on.
    #[must_use]
    pub fn new_epoch(self, next: u64) -> Self {
        Self { epoch: self.epoch + 1, next: next.max(self.next), prev: [0; 32], id: self.id }
    }
}

#[cfg(test)]
mod tests {
    use steno_event::json::{Json, canonical, parse};

    use super::*;

    #[test]
    fn a_sealed_record_is_canonical_and_its_hash_can_be_recomputed() {
        let mut state = ChainState { id: "a\"/é".into(), epoch: 3, next: 7, prev: [0xab; 32] };
        let mut out = Vec::new();
        let sealed = seal(&mut state, br#"{"action":"x","eventId":"e""#, br#","kind":"Event","metadata":{"n":1.5}}"#, &mut out);
        let text = String::from_utf8(out).unwrap();
        let Json::Object(mut record) = parse(&text).unwrap() else { unreachable!() };
        assert_eq!(text, canonical(&Json::Object(record.clone())));
        let Some(Json::Object(integrity)) = record.get_mut("integrity") else { unreachable!() };
        let hash = integrity.remove("hash").unwrap();
        let mut expected = Vec::new();
        hex_into(&mut expected, &Sha256::digest(canonical(&Json::Object(record))).into());
        assert_eq!(hash.as_str().unwrap().as_bytes(), expected);
        assert_eq!((state.next, state.prev, sealed.seq), (8, sealed.hash, 7));
    }
}
