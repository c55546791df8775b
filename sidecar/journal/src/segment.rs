//! A segment file in memory.
use std::sync::{Arc, OnceLock};

use crate::{
    BlockHeader, Disk, DiskFile, Error, Result,
    envelope::{Cipher, decompressed},
    format::{FLAG_AES, FLAG_ZSTD, SegmentHeader},
};

/// A segment in use. Its file is opened by whoever reads it, for as long as that takes: a spool may have more segments than a
/// process may have open files.
pub(crate) struct Segment {
    pub(crate) name: String,
    pub(crate) generation: u64,
    pub(crate) first_seq: u64,
    pub(crate) disk: Arc<dyn Disk>,
    /// Where its blocks begin.
    pub(crate) blocks_at: u64,
    /// Bytes of its file.
    pub(crate) bytes: u64,
    /// What its blocks are encrypted with; `None`: they are not.
    pub(crate) cipher: Option<Cipher>,
    /// Whether its header says that its blocks are encrypted, or would say so if it could be read.
    pub(crate) encrypted: bool,
    /// Where its good blocks end, once that is known.
    pub(crate) end: OnceLock<u64>,
    /// Its blocks from this sequence number on do not count. Unset: all that are good do.
    pub(crate) upto: OnceLock<u64>,
    /// Wall clock when it was sealed, once that is known, in milliseconds since 1970.
    pub(crate) sealed_ms: OnceLock<u64>,
}

pub(crate) fn segment_name(generation: u64) -> String {
    format!("seg-{generation:016x}.log")
}

/// The generation in a segment's name; `None`: it is not named like one.
pub(crate) fn named_generation(name: &str) -> Option<u64> {
    let hex = name.strip_prefix("seg-")?.strip_suffix(".log")?;
    u64::from_str_radix(hex, 16).ok()
}

// === impl Segment ===

impl Segment {
    pub(crate) fn new(name: String, header: &SegmentHeader, disk: Arc<dyn Disk>, cipher: Option<Cipher>) -> Self {
        Self {
            name,
            generation: header.generation,
            first_seq: header.first_seq,
            disk,
            blocks_at: header.blocks_at(),
            bytes: header.bytes,
            encrypted: cipher.is_some(),
            cipher,
            end: OnceLock::new(),
            upto: OnceLock::new(),
            sealed_ms: OnceLock::new(),
        }
    }

    /// The sequence number from which on its blocks do not count.
    pub(crate) fn upto(&self) -> u64 {
        self.upto.get().copied().unwrap_or(u64::MAX)
    }

    pub(crate) fn open(&self) -> Result<Arc<dyn DiskFile>> {
        self.disk.open(&self.name, false).map_err(Error::io("open", &self.name))
    }

    /// A block's payload from what is stored; `None`: it was changed, or cannot be what its header says.
    pub(crate) fn payload(&self, header: &BlockHeader, stored: Vec<u8>) -> Option<Vec<u8>> {
        let plain = match (header.flags & FLAG_AES != 0, &self.cipher) {
            (false, _) => stored,
            (true, Some(cipher)) => cipher.open(header.ordinal, &header.authenticated(), &stored)?,
            (true, None) => return None,
        };
        if header.flags & FLAG_ZSTD == 0 { Some(plain) } else { decompressed(&plain, header.plain_len as usize) }
    }
}
