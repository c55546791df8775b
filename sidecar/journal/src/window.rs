//! A piece of a segment in memory, and looking for blocks in it.
use std::{collections::BTreeSet, sync::Arc};

use crate::{
    BlockHeader, DiskFile, Error, Result,
    damage::{HeadMap, Heads},
    disk::read_readable,
    format::{BLOCK_FIXED, BLOCK_MAGIC, seed},
    segment::Segment,
};

/// A piece of a segment in memory. It keeps the file open that it read last; [`Self::forget`] closes it.
#[derive(Default)]
pub(crate) struct Window {
    bytes: Vec<u8>,
    start: u64,
    /// Some of `bytes` could not be read, and is zeros.
    unreadable: bool,
    file: Option<(u64, Arc<dyn DiskFile>)>,
}

/// How much is read at a time, in bytes.
const READ_AHEAD: usize = 128 << 10;

// === impl Window ===

impl Window {
    /// Bytes `offset..offset + length`, fewer at `limit` or at the end of the file. A place that the device cannot read is zeros.
    pub(crate) fn get(&mut self, segment: &Segment, offset: u64, length: usize, limit: u64) -> Result<&[u8]> {
        let length = length.min(limit.saturating_sub(offset) as usize);
        let is_same = self.file.as_ref().is_some_and(|(generation, _)| *generation == segment.generation);
        let have = is_same && offset >= self.start && offset + length as u64 <= self.start + self.bytes.len() as u64;
        if !have {
            let want = length.max(READ_AHEAD).min(limit.saturating_sub(offset) as usize);
            self.fill(segment, offset, want)?;
        }
        let from = (offset - self.start) as usize;
        Ok(&self.bytes[from..(from + length).min(self.bytes.len())])
    }

    fn fill(&mut self, segment: &Segment, offset: u64, want: usize) -> Result<()> {
        if self.file.as_ref().is_none_or(|(generation, _)| *generation != segment.generation) {
            self.file = None;
            match segment.open() {
                Ok(file) => self.file = Some((segment.generation, file)),
                // A segment that somebody removed is damage, like one that cannot be read.
                Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                    self.bytes.clear();
                    (self.start, self.unreadable) = (offset, true);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        let Some((_, file)) = &self.file else { return Ok(()) };
        self.bytes.resize(want, 0);
        if self.bytes.capacity() > 8 * READ_AHEAD {
            self.bytes.shrink_to(want.max(READ_AHEAD));
        }
        let (count, bad) = read_readable(&**file, &mut self.bytes, offset).map_err(Error::io("read", &segment.name))?;
        if bad > 0 {
            tracing::error!(file = segment.name, offset, pages = bad, "the device cannot read a part of a segment");
        }
        self.bytes.truncate(count);
        (self.start, self.unreadable) = (offset, bad > 0);
        Ok(())
    }

    /// Whether a place could not be read. It may say so of a readable place nearby.
    pub(crate) fn is_unreadable(&mut self, segment: &Segment, offset: u64, length: usize, limit: u64) -> Result<bool> {
        self.get(segment, offset, length, limit)?;
        Ok(self.unreadable)
    }

    pub(crate) fn forget(&mut self) {
        self.file = None;
        self.bytes.clear();
        self.start = 0;
    }

    /// The valid header at an offset.
    pub(crate) fn header(&mut self, segment: &Segment, seed: u32, offset: u64, limit: u64) -> Result<Option<BlockHeader>> {
        let fixed = self.get(segment, offset, BLOCK_FIXED, limit)?;
        let Some(length) = fixed.get(32..36).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes) else {
            return Ok(None);
        };
        let bytes = self.get(segment, offset, length as usize, limit)?;
        Ok(BlockHeader::decode(seed, bytes)
            .filter(|header| header.generation == segment.generation)
            .filter(|header| offset.checked_add(header.stored_len()).is_some_and(|end| end <= limit)))
    }

    /// The payload behind a header as it is stored, if its checksum is right.
    pub(crate) fn stored(
        &mut self,
        segment: &Segment,
        seed: u32,
        at: u64,
        header: &BlockHeader,
        limit: u64,
    ) -> Result<Option<Vec<u8>>> {
        let whole = header.header_len as usize + header.payload_len as usize;
        let bytes = self.get(segment, at, whole, limit)?;
        let Some(payload) = bytes.get(header.header_len as usize..whole) else { return Ok(None) };
        Ok((crc32c::crc32c_append(seed, payload) == header.payload_crc).then(|| payload.to_vec()))
    }

    /// The first valid block behind `offset` whose records are at or above `least`.
    pub(crate) fn resync(
        &mut self,
        segment: &Segment,
        seed: u32,
        offset: u64,
        limit: u64,
        least: u64,
    ) -> Result<Option<(u64, BlockHeader)>> {
        let mut at = offset.next_multiple_of(8);
        while at + (BLOCK_FIXED as u64) <= limit {
            let chunk = self.get(segment, at, READ_AHEAD, limit)?;
            if chunk.len() < BLOCK_FIXED {
                return Ok(None);
            }
            let steps = (chunk.len() - 3) / 8;
            let found = (0..=steps).find(|step| chunk.get(step * 8..step * 8 + 4) == Some(BLOCK_MAGIC));
            let Some(step) = found else {
                at += (steps as u64 + 1) * 8;
                continue;
            };
            at += step as u64 * 8;
            if let Some(header) = self.header(segment, seed, at, limit)?
                && header.first_seq >= least
                && self.stored(segment, seed, at, &header, limit)?.is_some()
            {
                return Ok(Some((at, header)));
            }
            at += 8;
        }
        Ok(None)
    }

    /// The next valid block at or behind an offset.
    fn next_valid(&mut self, segment: &Segment, seed: u32, at: u64, limit: u64) -> Result<Option<(u64, BlockHeader)>> {
        match self.header(segment, seed, at, limit)? {
            Some(header) => Ok(Some((at, header))),
            None => self.resync(segment, seed, at + 8, limit, 0),
        }
    }

    /// Heads of all chains before an offset of a segment, from its snapshot and the blocks before; if the snapshot is damaged,
    /// from older segments.
    pub(crate) fn heads_before(
        &mut self,
        uuid: &[u8; 16],
        segments: &[Arc<Segment>],
        (index, offset): (usize, u64),
    ) -> Result<Heads> {
        let (mut heads, mut ended) = (Heads::default(), BTreeSet::new());
        let (mut limit, mut newer) = (Some(offset), u64::MAX);
        for segment in segments.iter().take(index + 1).rev() {
            let seed = seed(uuid, segment.generation);
            let limit = limit.take().or_else(|| segment.end.get().copied()).unwrap_or(segment.bytes);
            let (mut found, mut ended_here) = (HeadMap::new(), BTreeSet::new());
            let mut at = segment.blocks_at;
            while let Some((start, header)) = self.next_valid(segment, seed, at, limit)? {
                // Blocks of an abandoned segment at or above the newer one's first number do not count.
                if !header.is_snapshot() && header.first_seq >= newer.min(segment.upto()) {
                    break;
                }
                heads.complete |= header.is_snapshot();
                heads.reached = heads.reached.max(header.next_seq());
                for range in &header.ranges {
                    if header.ends_chains() {
                        found.remove(&range.id);
                        ended_here.insert(range.id.clone());
                    } else {
                        found.insert(range.id.clone(), range.clone());
                    }
                }
                at = start + header.stored_len();
            }
            for (id, head) in found {
                if !ended.contains(&id) {
                    heads.known.entry(id).or_insert(head);
                }
            }
            ended.extend(ended_here);
            // The first segment of a journal begins without chains.
            heads.complete |= segment.first_seq == 0;
            if heads.complete {
                break;
            }
            newer = segment.first_seq;
        }
        self.forget();
        Ok(heads)
    }
}
