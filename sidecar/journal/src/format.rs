//! Magic, versions and byte layouts; the prose is in the crate's documentation.
use crate::{Error, Result};

pub(crate) const VERSION: u16 = 1;
pub(crate) const SEGMENT_HEADER: u64 = 4096;
pub(crate) const SECTOR: usize = 512;
const SEGMENT_MAGIC: &[u8; 8] = b"STENOSEG";
pub(crate) const BLOCK_MAGIC: &[u8; 4] = b"SBLK";
/// Bytes of a block header before its ranges.
pub(crate) const BLOCK_FIXED: usize = 68;
/// Flag of a block that carries chain heads and no records.
pub const FLAG_SNAPSHOT: u16 = 1;
/// Flag of a block whose payload is compressed.
pub(crate) const FLAG_ZSTD: u16 = 2;
/// Flag of a block whose payload is encrypted.
pub(crate) const FLAG_AES: u16 = 4;
/// Where the second copy of a segment's header stands: an encrypted segment cannot be read without its salt.
pub(crate) const SECOND_HEADER: usize = 2048;

/// What a segment's header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) uuid: [u8; 16],
    pub(crate) generation: u64,
    pub(crate) first_seq: u64,
    pub(crate) id_key: [u8; 32],
    pub(crate) salt: [u8; 16],
    pub(crate) key_id: [u8; 16],
    pub(crate) created: u64,
    pub(crate) bytes: u64,
    pub(crate) oldest: u64,
}

/// A run of one chain's records in a block, and the chain's head after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainRange {
    /// The chain.
    pub id: String,
    /// Its epoch.
    pub epoch: u64,
    /// First of its sequence numbers in the block. In a snapshot: `last + 1`.
    pub first: u64,
    /// Last of them.
    pub last: u64,
    /// Hash of the last record.
    pub hash: [u8; 32],
}

/// What a block's header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockHeader {
    /// Kind of block.
    pub flags: u16,
    /// Generation of its segment.
    pub generation: u64,
    /// Sequence number of its first record.
    pub first_seq: u64,
    /// Number of records.
    pub count: u32,
    /// Place in the segment, from 0.
    pub ordinal: u32,
    /// Length of the header.
    pub header_len: u32,
    /// Length of the payload as stored.
    pub payload_len: u32,
    /// Length of the payload before compression.
    pub plain_len: u32,
    /// Checksum of the payload.
    pub payload_crc: u32,
    /// Wall clock, milliseconds since 1970.
    pub wall_ms: u64,
    /// Journal clock in milliseconds.
    pub journal_ms: u64,
    /// Chains that have records in it.
    pub ranges: Vec<ChainRange>,
}

/// A block that was read and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The header.
    pub header: BlockHeader,
    /// The payload.
    pub payload: Vec<u8>,
}

/// Checksums are continued from this, so that bytes of another journal or generation never validate.
pub(crate) fn seed(uuid: &[u8; 16], generation: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(uuid), &generation.to_le_bytes())
}

pub(crate) struct Cursor<'a>(pub(crate) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }
    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }
    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }
    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

// === impl SegmentHeader ===

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SECTOR] {
        let mut out = [0; SECTOR];
        out[0..8].copy_from_slice(SEGMENT_MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&(SEGMENT_HEADER as u32).to_le_bytes());
        out[16..32].copy_from_slice(&self.uuid);
        out[32..40].copy_from_slice(&self.generation.to_le_bytes());
        out[40..48].copy_from_slice(&self.first_seq.to_le_bytes());
        out[64..96].copy_from_slice(&self.id_key);
        out[96..112].copy_from_slice(&self.salt);
        out[112..128].copy_from_slice(&self.key_id);
        out[128..136].copy_from_slice(&self.created.to_le_bytes());
        out[136..144].copy_from_slice(&self.bytes.to_le_bytes());
        out[144..152].copy_from_slice(&self.oldest.to_le_bytes());
        let crc = crc32c::crc32c(&out[..508]);
        out[508..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// `Ok(None)`: not a valid header.
    pub(crate) fn decode(file: &str, bytes: &[u8]) -> Result<Option<Self>> {
        let Some(checked) = checked_sector(bytes, *SEGMENT_MAGIC) else { return Ok(None) };
        let mut cursor = Cursor(&checked[8..]);
        let version = cursor.u16().unwrap_or_default();
        if version > VERSION {
            return Err(Error::Newer { file: file.into(), found: version, known: VERSION });
        }
        let mut read = || {
            cursor.take(6)?;
            let (uuid, generation, first_seq) = (cursor.array()?, cursor.u64()?, cursor.u64()?);
            cursor.take(16)?;
            let (id_key, salt, key_id) = (cursor.array()?, cursor.array()?, cursor.array()?);
            Some(Self {
                uuid,
                generation,
                first_seq,
                id_key,
                salt,
                key_id,
                created: cursor.u64()?,
                bytes: cursor.u64()?,
                oldest: cursor.u64()?,
            })
        };
        Ok(read())
    }
}

/// The sector, if its magic and checksum are right.
pub(crate) fn checked_sector(bytes: &[u8], magic: [u8; 8]) -> Option<&[u8]> {
    let sector = bytes.get(..SECTOR)?;
    let crc = u32::from_le_bytes(sector[508..].try_into().ok()?);
    (sector[..8] == magic && crc == crc32c::crc32c(&sector[..508])).then_some(sector)
}

// === impl BlockHeader ===

impl BlockHeader {
    /// Sequence number after the block's last record.
    pub fn next_seq(&self) -> u64 {
        self.first_seq + u64::from(self.count)
    }

    /// Whether it carries chain heads instead of records.
    pub fn is_snapshot(&self) -> bool {
        self.flags & FLAG_SNAPSHOT != 0
    }

    pub(crate) fn stored_len(&self) -> u64 {
        (u64::from(self.header_len) + u64::from(self.payload_len)).next_multiple_of(8)
    }

    /// Length of a header with these ranges.
    pub(crate) fn len_with(ranges: &[ChainRange]) -> usize {
        BLOCK_FIXED + ranges.iter().map(|range| 2 + range.id.len() + 56).sum::<usize>() + 4
    }

    /// The header as it is authenticated with an encrypted payload: without its checksums, which are of what comes out.
    pub(crate) fn authenticated(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.header_len as usize);
        Self { payload_crc: 0, ..self.clone() }.encode_head(&mut out);
        out
    }

    /// Writes header, payload and padding.
    pub(crate) fn encode_block(&self, seed: u32, payload: &[&[u8]], out: &mut Vec<u8>) {
        let start = out.len();
        self.encode_head(out);
        let crc = crc32c::crc32c_append(seed, &out[start..]);
        out.extend_from_slice(&crc.to_le_bytes());
        for piece in payload {
            out.extend_from_slice(piece);
        }
        out.resize(start + (out.len() - start).next_multiple_of(8), 0);
    }

    /// Writes the header up to its checksum.
    fn encode_head(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(BLOCK_MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.flags.to_le_bytes());
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&self.first_seq.to_le_bytes());
        for number in [self.count, self.ordinal, self.header_len, self.payload_len, self.plain_len, self.payload_crc] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.wall_ms.to_le_bytes());
        out.extend_from_slice(&self.journal_ms.to_le_bytes());
        out.extend_from_slice(&(self.ranges.len() as u16).to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        for range in &self.ranges {
            out.extend_from_slice(&(range.id.len() as u16).to_le_bytes());
            out.extend_from_slice(range.id.as_bytes());
            for number in [range.epoch, range.first, range.last] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            out.extend_from_slice(&range.hash);
        }
    }

    /// The header at the start of `bytes`, if it validates.
    pub(crate) fn decode(seed: u32, bytes: &[u8]) -> Option<Self> {
        let header = Self::claimed(bytes)?;
        let length = header.header_len as usize;
        let crc = u32::from_le_bytes(bytes.get(length - 4..length)?.try_into().ok()?);
        (crc == crc32c::crc32c_append(seed, &bytes[..length - 4])).then_some(header)
    }

    /// What the bytes claim to be, without a look at the checksum.
    pub(crate) fn claimed(bytes: &[u8]) -> Option<Self> {
        let mut cursor = Cursor(bytes);
        if cursor.take(4)? != BLOCK_MAGIC || cursor.u16()? != VERSION {
            return None;
        }
        let (flags, generation, first_seq) = (cursor.u16()?, cursor.u64()?, cursor.u64()?);
        let (count, ordinal, header_len, payload_len) = (cursor.u32()?, cursor.u32()?, cursor.u32()?, cursor.u32()?);
        let (plain_len, payload_crc, wall_ms, journal_ms) = (cursor.u32()?, cursor.u32()?, cursor.u64()?, cursor.u64()?);
        let chains = cursor.u16()?;
        cursor.take(2)?;
        let mut ranges = Vec::new();
        for _ in 0..chains {
            let length = usize::from(cursor.u16()?);
            let id = String::from_utf8(cursor.take(length)?.to_vec()).ok()?;
            ranges.push(ChainRange {
                id,
                epoch: cursor.u64()?,
                first: cursor.u64()?,
                last: cursor.u64()?,
                hash: cursor.array()?,
            });
        }
        (header_len as usize == Self::len_with(&ranges)).then_some(Self {
            flags,
            generation,
            first_seq,
            count,
            ordinal,
            header_len,
            payload_len,
            plain_len,
            payload_crc,
            wall_ms,
            journal_ms,
            ranges,
        })
    }
}
