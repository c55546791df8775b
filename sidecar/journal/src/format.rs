//! Magic, versions and byte layouts; the prose is in the crate's documentation.
use crate::{Error, Result};

/// Version of blocks.
const BLOCK_VERSION: u16 = 1;
/// Version of segment headers that this program writes.
pub(crate) const SEGMENT_VERSION: u16 = 2;
/// Where blocks begin in a segment that this program writes.
pub(crate) const SEGMENT_HEADER: u64 = 8192;
/// Where blocks begin in a segment of version 1.
pub(crate) const SEGMENT_HEADER_1: u64 = 4096;
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
/// Flag of a block after which its chains have ended: their heads are no longer kept.
pub const FLAG_ENDED: u16 = 8;
/// Where the copies of a segment's header stand. The second one of version 1 shares a page with the first; an encrypted
/// segment cannot be read without its salt, so version 2 keeps the copies in two pages.
pub(crate) const SECOND_HEADER: usize = 4096;
pub(crate) const SECOND_HEADER_1: usize = 2048;
/// No record is smaller, in bytes: a frame without its record.
pub(crate) const SMALLEST_RECORD: u64 = 76;

/// What a segment's header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) version: u16,
    pub(crate) uuid: [u8; 16],
    pub(crate) generation: u64,
    pub(crate) first_seq: u64,
    pub(crate) id_key: [u8; 32],
    pub(crate) salt: [u8; 16],
    pub(crate) key_id: [u8; 16],
    pub(crate) created: u64,
    pub(crate) bytes: u64,
    pub(crate) oldest: u64,
    /// The segment before it; `None`: it was the first, or a version 1 header does not say.
    pub(crate) previous: Option<Previous>,
    /// Numbers that chains begin with which nobody knows, as in the state.
    pub(crate) chain_floor: u64,
}

/// What a segment knows of the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Previous {
    pub(crate) generation: u64,
    /// Its first sequence number. If it is gone, the segment before that one is not believed from there on.
    pub(crate) first_seq: u64,
    /// Its blocks from this sequence number on do not count: a sync of them failed, or they were told of as lost.
    pub(crate) end_seq: u64,
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
        out[8..10].copy_from_slice(&self.version.to_le_bytes());
        out[12..16].copy_from_slice(&(self.blocks_at() as u32).to_le_bytes());
        out[16..32].copy_from_slice(&self.uuid);
        out[32..40].copy_from_slice(&self.generation.to_le_bytes());
        out[40..48].copy_from_slice(&self.first_seq.to_le_bytes());
        // Generations begin at 1.
        let previous = self.previous.unwrap_or_default();
        out[48..56].copy_from_slice(&previous.generation.to_le_bytes());
        out[152..160].copy_from_slice(&previous.first_seq.to_le_bytes());
        out[160..168].copy_from_slice(&previous.end_seq.to_le_bytes());
        out[56..64].copy_from_slice(&self.chain_floor.to_le_bytes());
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
        if version > SEGMENT_VERSION {
            return Err(Error::Newer { file: file.into(), found: version, known: SEGMENT_VERSION });
        }
        let mut read = || {
            cursor.take(6)?;
            let (uuid, generation, first_seq) = (cursor.array()?, cursor.u64()?, cursor.u64()?);
            let generation_before = cursor.u64()?;
            let chain_floor = cursor.u64()?;
            let (id_key, salt, key_id) = (cursor.array()?, cursor.array()?, cursor.array()?);
            let (created, bytes, oldest) = (cursor.u64()?, cursor.u64()?, cursor.u64()?);
            let previous = Previous { generation: generation_before, first_seq: cursor.u64()?, end_seq: cursor.u64()? };
            Some(Self {
                version,
                previous: (generation_before > 0).then_some(previous),
                chain_floor,
                uuid,
                generation,
                first_seq,
                id_key,
                salt,
                key_id,
                created,
                bytes,
                oldest,
            })
        };
        Ok(read())
    }

    /// Where its blocks begin.
    pub(crate) const fn blocks_at(&self) -> u64 {
        if self.version < 2 { SEGMENT_HEADER_1 } else { SEGMENT_HEADER }
    }

    /// Where its second copy stands.
    pub(crate) const fn second_at(&self) -> usize {
        if self.version < 2 { SECOND_HEADER_1 } else { SECOND_HEADER }
    }

    /// The valid copies of a header in the first bytes of a file: the first one, and the second one.
    pub(crate) fn copies(file: &str, bytes: &[u8]) -> Result<(Option<Self>, Option<Self>)> {
        let at = |offset: usize| Self::decode(file, bytes.get(offset..).unwrap_or_default());
        let first = at(0)?;
        let second = match at(SECOND_HEADER)?.filter(|header| header.version >= 2) {
            None => at(SECOND_HEADER_1)?.filter(|header| header.version < 2),
            second => second,
        };
        Ok((first, second))
    }
}

/// The sector, if its magic and checksum are right.
pub(crate) fn checked_sector(bytes: &[u8], magic: [u8; 8]) -> Option<&[u8]> {
    let sector = bytes.get(..SECTOR)?;
    let crc = u32::from_le_bytes(sector[508..].try_into().ok()?);
    (sector[..8] == magic && crc == crc32c::crc32c(&sector[..508])).then_some(sector)
}

// === impl ChainRange ===

impl ChainRange {
    /// Bytes that it takes in a block's header.
    pub const fn stored_len(&self) -> usize {
        2 + self.id.len() + 56
    }
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

    /// Whether its chains ended with it.
    pub fn ends_chains(&self) -> bool {
        self.flags & FLAG_ENDED != 0
    }

    pub(crate) fn stored_len(&self) -> u64 {
        (u64::from(self.header_len) + u64::from(self.payload_len)).next_multiple_of(8)
    }

    /// Checks what the header's fields can hold. A count that does not fit is an error when it is made, not when it is read.
    pub(crate) fn check_counts(ranges: &[ChainRange]) -> Result<()> {
        let limit = usize::from(u16::MAX);
        if ranges.len() > limit {
            return Err(Error::TooMany { what: "chains of a block", count: ranges.len(), limit });
        }
        let longest = ranges.iter().map(|range| range.id.len()).max().unwrap_or(0);
        if longest > limit {
            return Err(Error::TooMany { what: "bytes of a chain's id", count: longest, limit });
        }
        Ok(())
    }

    /// Length of a header with these ranges.
    pub(crate) fn len_with(ranges: &[ChainRange]) -> usize {
        BLOCK_FIXED + ranges.iter().map(ChainRange::stored_len).sum::<usize>() + 4
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
        out.extend_from_slice(&BLOCK_VERSION.to_le_bytes());
        out.extend_from_slice(&self.flags.to_le_bytes());
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&self.first_seq.to_le_bytes());
        for number in [self.count, self.ordinal, self.header_len, self.payload_len, self.plain_len, self.payload_crc] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.wall_ms.to_le_bytes());
        out.extend_from_slice(&self.journal_ms.to_le_bytes());
        // Checked by `check_counts` before.
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
        if cursor.take(4)? != BLOCK_MAGIC || cursor.u16()? != BLOCK_VERSION {
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
