//! What lies on disk, compressed and encrypted.
//!
//! # Keys
//! A key is 32 random bytes; its id is derived from it and stands where it was used, so that several may be in use: new segments use the current one, old ones are read
//! with theirs. Nothing is encrypted with the key itself: HKDF-SHA256 (RFC 5869) makes one for each use.
//!
//! | use | salt | info |
//! |---|---|---|
//! | a key's id (first 16 bytes) | none | `steno key id` |
//! | a segment | the segment's random salt | `steno segment` ‖ journal UUID ‖ generation |
//! | the journal's key for ids | journal UUID | `steno id key` |
//! | a file beside the segments | the file's random salt | `steno file` |
//!
//! # Blocks
//! The payload is compressed (zstd) where that makes it smaller, then encrypted (AES-256-GCM). Stored is `nonce part (8) ‖ ciphertext ‖ tag (16)`. The nonce is the block's ordinal
//! (4 bytes, little-endian) and the nonce part, which is random for each process that writes: a block that was torn by a crash and
//! the one that takes its ordinal do not share a nonce. Authenticated with it is the block's header, its checksums left out.
//!
//! # The key for ids
//! Segment headers and the state hold it masked (exclusive or) with 32 bytes of HKDF. Indexes hold nothing of events but hashes under that key, so they
//! need no more than that.
//!
//! # Files (dead letters)
//! ```text
//!   0  8  magic "STENOENV"      16 16  key id
//!   8  2  version (1)           32 16  salt
//!  10  6  reserved              48  …  ciphertext, 16 bytes tag (nonce 0: the salt makes the key this file's own)
//! ```
use std::sync::Arc;

use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf,
};

use crate::{Error, Result};

/// Length of a key's id.
pub const KEY_ID: usize = 16;
/// Bytes that encryption adds to a block's payload.
pub(crate) const OVERHEAD: usize = PART + 16;
const PART: usize = 8;
const FILE_MAGIC: &[u8; 8] = b"STENOENV";
const FILE_HEADER: usize = 48;
/// Smaller payloads are not worth compressing.
const WORTH: usize = 512;
/// zstd's fastest level that is not negative; the journal is on the way of every event.
const LEVEL: i32 = 1;

/// A key.
#[derive(Clone)]
pub struct Key {
    id: [u8; KEY_ID],
    secret: [u8; 32],
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Key {}

/// The keys of a journal.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Keys {
    current: Option<Key>,
    old: Vec<Key>,
}

/// How new blocks are kept.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Envelope {
    /// Keys; without a current one nothing is encrypted.
    pub keys: Arc<Keys>,
    /// Whether blocks are compressed.
    pub compress: bool,
}

/// What cannot be used as a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a key is 32 random bytes, as they are, in hexadecimal or in base64 (openssl rand -base64 32); this has {0} bytes")]
pub struct BadKey(pub usize);

/// The cipher of one segment.
pub(crate) struct Cipher {
    key: LessSafeKey,
    part: [u8; PART],
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({})", shown(&self.id))
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("current", &self.current).field("old", &self.old).finish()
    }
}

impl std::fmt::Debug for Envelope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Envelope").field("keys", &self.keys).field("compress", &self.compress).finish()
    }
}

/// A key's id as people see it.
pub fn shown(id: &[u8; KEY_ID]) -> String {
    id.iter().take(8).fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| Error::io("read", "the random source")(error.into()))?;
    Ok(bytes)
}

// === impl Key ===

impl Key {
    /// A key from what its file holds.
    pub fn read(bytes: &[u8]) -> std::result::Result<Self, BadKey> {
        use base64::Engine as _;
        let text = bytes.trim_ascii();
        let hex = |text: &[u8]| {
            let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
            text.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect::<Option<Vec<u8>>>()
        };
        let decoded = match bytes.len() {
            32 => Some(bytes.to_vec()),
            _ if text.len() == 64 => hex(text),
            _ => base64::engine::general_purpose::STANDARD.decode(text).ok(),
        };
        let secret: [u8; 32] = decoded.and_then(|key| key.try_into().ok()).ok_or(BadKey(bytes.len()))?;
        let mut key = Self { id: [0; KEY_ID], secret };
        key.id = key.derive(&[], &[b"steno key id"]);
        Ok(key)
    }

    /// Its id.
    pub const fn id(&self) -> &[u8; KEY_ID] {
        &self.id
    }

    fn derive<const N: usize>(&self, salt: &[u8], info: &[&[u8]]) -> [u8; N] {
        let mut out = [0; N];
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(&self.secret);
        // It fails for more than 255 hashes' length only.
        let done = prk.expand(info, Length(N)).and_then(|okm| okm.fill(&mut out));
        debug_assert!(done.is_ok());
        out
    }

    fn aead(&self, salt: &[u8], info: &[&[u8]]) -> Result<LessSafeKey> {
        let bytes: [u8; 32] = self.derive(salt, info);
        let key =
            UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| Error::io("use", "a key")(std::io::Error::other("refused")))?;
        Ok(LessSafeKey::new(key))
    }

    pub(crate) fn cipher(&self, salt: &[u8; 16], uuid: &[u8; 16], generation: u64) -> Result<Cipher> {
        let key = self.aead(salt, &[b"steno segment", uuid, &generation.to_le_bytes()])?;
        Ok(Cipher { key, part: random()? })
    }
}

// === impl Keys ===

impl Keys {
    /// The key that new segments use, and those that older ones were written with.
    pub const fn new(current: Option<Key>, old: Vec<Key>) -> Self {
        Self { current, old }
    }

    /// The key that new segments use.
    pub const fn current(&self) -> Option<&Key> {
        self.current.as_ref()
    }

    /// The same for what must never be stored in clear: where new segments have no key, they have the first of the old ones. `None`: there is none at all.
    pub fn always(&self) -> Option<Self> {
        let current = self.current.clone().or_else(|| self.old.first().cloned())?;
        Some(Self { current: Some(current), old: self.old.clone() })
    }

    /// Whether a key is among them.
    pub fn has(&self, id: &[u8; KEY_ID]) -> bool {
        self.current.iter().chain(&self.old).any(|key| key.id == *id)
    }

    /// The id that new segments carry; zeros: they are not encrypted.
    pub(crate) fn current_id(&self) -> [u8; KEY_ID] {
        self.current.as_ref().map_or([0; KEY_ID], |key| key.id)
    }

    /// The key of an id; `None` inside: it stands for no encryption.
    pub(crate) fn find(&self, id: &[u8; KEY_ID], file: &str) -> Result<Option<&Key>> {
        if *id == [0; KEY_ID] {
            return Ok(None);
        }
        let known = self.current.iter().chain(&self.old).find(|key| key.id == *id);
        known.map(Some).ok_or_else(|| Error::NoKey { file: file.into(), id: shown(id) })
    }

    /// Masks or unmasks the journal's key for ids, with the key of this id.
    pub(crate) fn mask(&self, id: &[u8; KEY_ID], uuid: &[u8; 16], id_key: &[u8; 32], file: &str) -> Result<[u8; 32]> {
        let Some(key) = self.find(id, file)? else { return Ok(*id_key) };
        let mut pad: [u8; 32] = key.derive(uuid, &[b"steno id key"]);
        pad.iter_mut().zip(id_key).for_each(|(pad, byte)| *pad ^= byte);
        Ok(pad)
    }

    /// The contents of a file beside the segments, as they are kept.
    pub fn seal_file(&self, plain: &[u8]) -> Result<Vec<u8>> {
        let Some(key) = &self.current else { return Ok(plain.to_vec()) };
        let salt: [u8; 16] = random()?;
        let mut out = vec![0; FILE_HEADER];
        out[..8].copy_from_slice(FILE_MAGIC);
        out[8..10].copy_from_slice(&1u16.to_le_bytes());
        out[16..32].copy_from_slice(&key.id);
        out[32..48].copy_from_slice(&salt);
        let mut sealed = plain.to_vec();
        let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
        key.aead(&salt, &[b"steno file"])?
            .seal_in_place_append_tag(nonce, Aad::from(&out), &mut sealed)
            .map_err(|_| Error::io("encrypt", "a file")(std::io::Error::other("refused")))?;
        out.extend_from_slice(&sealed);
        Ok(out)
    }

    /// The contents of a file that [`Self::seal_file`] made, or that was never encrypted.
    pub fn open_file(&self, file: &str, bytes: Vec<u8>) -> Result<Vec<u8>> {
        let Some((head, sealed)) = bytes.split_at_checked(FILE_HEADER).filter(|(head, _)| head.starts_with(FILE_MAGIC)) else {
            return Ok(bytes);
        };
        let id: [u8; KEY_ID] = head[16..32].try_into().unwrap_or_default();
        let Some(key) = self.find(&id, file)? else { return Ok(bytes) };
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
        let plain = key.aead(&head[32..48], &[b"steno file"])?.open_in_place(nonce, Aad::from(head), &mut sealed);
        let length = plain.map_err(|_| Error::io("decrypt", file)(std::io::Error::other("it was changed")))?.len();
        sealed.truncate(length);
        Ok(sealed)
    }
}

// === impl Envelope ===

impl Envelope {
    /// The payload compressed, where that makes it smaller.
    pub(crate) fn compressed(&self, pieces: &[&[u8]], length: usize) -> Option<Vec<u8>> {
        if !self.compress || length < WORTH {
            return None;
        }
        let plain = pieces.concat();
        zstd::bulk::compress(&plain, LEVEL).ok().filter(|smaller| smaller.len() < length)
    }
}

/// What was compressed; `None`: it was not.
pub(crate) fn decompressed(bytes: &[u8], length: usize) -> Option<Vec<u8>> {
    // No block is larger: a length beyond this was not written by us.
    (length <= 64 << 20).then(|| zstd::bulk::decompress(bytes, length).ok()).flatten().filter(|plain| plain.len() == length)
}

// === impl Cipher ===

impl Cipher {
    fn nonce(ordinal: u32, part: &[u8]) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[..4].copy_from_slice(&ordinal.to_le_bytes());
        nonce[4..].copy_from_slice(part);
        Nonce::assume_unique_for_key(nonce)
    }

    /// The payload of a block as it is stored.
    pub(crate) fn seal(&self, ordinal: u32, header: &[u8], pieces: &[&[u8]]) -> Result<Vec<u8>> {
        let mut sealed = pieces.concat();
        self.key
            .seal_in_place_append_tag(Self::nonce(ordinal, &self.part), Aad::from(header), &mut sealed)
            .map_err(|_| Error::io("encrypt", "a block")(std::io::Error::other("refused")))?;
        sealed.splice(0..0, self.part);
        Ok(sealed)
    }

    /// The payload of a block; `None`: the key is another, or bytes were changed.
    pub(crate) fn open(&self, ordinal: u32, header: &[u8], stored: &[u8]) -> Option<Vec<u8>> {
        let (part, sealed) = stored.split_at_checked(PART)?;
        let mut sealed = sealed.to_vec();
        let length = self.key.open_in_place(Self::nonce(ordinal, part), Aad::from(header), &mut sealed).ok()?.len();
        sealed.truncate(length);
        Some(sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_taken_raw_in_hexadecimal_and_in_base64_and_nothing_else_is_one() {
        let raw: Vec<u8> = (0..32).collect();
        let key = Key::read(&raw).unwrap();
        let hex = raw.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        for same in [hex.as_str(), "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"] {
            assert_eq!(Key::read(same.as_bytes()).unwrap().id(), key.id());
        }
        for bad in ["", "password", "AAEC", &hex[..62]] {
            assert_eq!(Key::read(bad.as_bytes()).unwrap_err(), BadKey(bad.len()));
        }
        assert!(!format!("{key:?}").contains(&hex[..16]), "a key is never shown");
    }

    #[test]
    fn a_file_is_read_with_its_key_only_and_a_changed_one_is_told() {
        let keys = |byte: u8| Keys::new(Some(Key::read(&[byte; 32]).unwrap()), Vec::new());
        let sealed = keys(1).seal_file(b"a secret").unwrap();
        assert!(!sealed.windows(8).any(|window| window == b"a secret"));
        assert_eq!(keys(1).open_file("f", sealed.clone()).unwrap(), b"a secret");
        let rotated = Keys::new(Some(Key::read(&[2; 32]).unwrap()), vec![Key::read(&[1; 32]).unwrap()]);
        assert_eq!(rotated.open_file("f", sealed.clone()).unwrap(), b"a secret");
        assert!(matches!(keys(2).open_file("f", sealed.clone()), Err(Error::NoKey { .. })));
        for at in [20, 40, 50, sealed.len() - 1] {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(keys(1).open_file("f", changed).is_err(), "byte {at}");
        }
        assert_eq!(keys(1).open_file("f", b"{}".to_vec()).unwrap(), b"{}", "what was never encrypted is read, too");
    }
}
