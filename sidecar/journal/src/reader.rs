//! Readers: blocks in order, from any sequence number up to what is synced.
use std::{collections::BTreeMap, sync::Arc};

use crate::{
    Block, BlockHeader, ChainRange, Damage, Error, Result, Shared,
    format::{BLOCK_FIXED, SEGMENT_HEADER, seed},
    journal::Segment,
};

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// A block; its records may begin below the reader's position, never at or above the next block's.
    Block(Block),
    /// Nothing more is synced.
    CaughtUp,
    /// Records that cannot be read any more. The reader goes on behind them.
    Lost(Damage),
}

/// Reads blocks in order.
pub struct Reader {
    shared: Arc<Shared>,
    next_seq: u64,
    place: Option<Place>,
    window: Window,
    heads: BTreeMap<String, (u64, u64)>,
    last: Option<Spot>,
}

/// Where a block lies, so that it is found again without reading what is before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spot {
    /// Generation of its segment.
    pub generation: u64,
    /// Where it begins in the segment, in bytes.
    pub offset: u64,
    /// Its first sequence number.
    pub first_seq: u64,
}

struct Place {
    segment: Arc<Segment>,
    seed: u32,
    offset: u64,
    limit: u64,
    /// First sequence number of the segment behind, or of what comes next.
    next_first: u64,
    is_last: bool,
}

/// A piece of a segment in memory.
#[derive(Default)]
pub(crate) struct Window {
    bytes: Vec<u8>,
    start: u64,
    file: usize,
}

/// How much is read at a time, in bytes.
const READ_AHEAD: usize = 128 << 10;

// === impl Window ===

impl Window {
    /// Bytes `offset..offset + length`, fewer at `limit`.
    pub(crate) fn get(&mut self, segment: &Segment, offset: u64, length: usize, limit: u64) -> Result<&[u8]> {
        let length = length.min(limit.saturating_sub(offset) as usize);
        let id = std::ptr::from_ref(segment) as usize;
        let have = self.file == id && offset >= self.start && offset + length as u64 <= self.start + self.bytes.len() as u64;
        if !have {
            let want = length.max(READ_AHEAD).min(limit.saturating_sub(offset) as usize);
            self.bytes.resize(want, 0);
            if self.bytes.capacity() > 8 * READ_AHEAD {
                self.bytes.shrink_to(want.max(READ_AHEAD));
            }
            let count = segment.file.read_at(&mut self.bytes, offset).map_err(Error::io("read", &segment.name))?;
            self.bytes.truncate(count);
            (self.start, self.file) = (offset, id);
        }
        let from = (offset - self.start) as usize;
        Ok(&self.bytes[from..(from + length).min(self.bytes.len())])
    }

    pub(crate) fn forget(&mut self) {
        self.file = 0;
    }

    /// The valid header at an offset.
    pub(crate) fn header(&mut self, segment: &Segment, seed: u32, offset: u64, limit: u64) -> Result<Option<BlockHeader>> {
        let fixed = self.get(segment, offset, BLOCK_FIXED, limit)?;
        let Some(length) = fixed.get(32..36).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes) else {
            return Ok(None);
        };
        let bytes = self.get(segment, offset, length as usize, limit)?;
        Ok(BlockHeader::decode(seed, bytes)
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
            let found = (0..=steps).find(|step| chunk.get(step * 8..step * 8 + 4) == Some(crate::format::BLOCK_MAGIC));
            let Some(step) = found else {
                at += (steps as u64 + 1) * 8;
                continue;
            };
            at += step as u64 * 8;
            if let Some(header) = self.header(segment, seed, at, limit)?
                && header.generation == segment.generation
                && header.first_seq >= least
                && self.stored(segment, seed, at, &header, limit)?.is_some()
            {
                return Ok(Some((at, header)));
            }
            at += 8;
        }
        Ok(None)
    }
}

// === impl Reader ===

impl Reader {
    /// A reader whose first block holds `seq`, or comes first behind it.
    pub fn new(shared: Arc<Shared>, seq: u64) -> Self {
        let next_seq = seq.max(shared.oldest());
        Self { shared, next_seq, place: None, window: Window::default(), heads: BTreeMap::new(), last: None }
    }

    /// A reader whose first block is the one at a spot, where it is still there; else as [`Self::new`].
    pub fn at(shared: Arc<Shared>, spot: Spot) -> Self {
        let mut reader = Self::new(shared, spot.first_seq);
        if reader.next_seq == spot.first_seq
            && reader.find_place()
            && let Some(place) = &mut reader.place
            && place.segment.generation == spot.generation
        {
            place.offset = spot.offset;
        }
        reader
    }

    /// Where the block lies that came last.
    pub fn spot(&self) -> Option<Spot> {
        self.last
    }

    /// Sequence number that is read next.
    pub fn position(&self) -> u64 {
        self.next_seq
    }

    /// Lets go of the segment, so that it can be used again; reading goes on where it was.
    pub fn release(&mut self) {
        self.place = None;
        self.window.forget();
    }

    /// What comes next. Not an iterator: being caught up is no end.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Next> {
        loop {
            if !self.find_place() {
                self.release_if_done();
                return Ok(Next::CaughtUp);
            }
            let Some(place) = &mut self.place else { return Ok(Next::CaughtUp) };
            let header = self.window.header(&place.segment, place.seed, place.offset, place.limit)?;
            let header = header
                .filter(|header| header.generation == place.segment.generation && header.first_seq < place.next_first.max(1));
            let Some(header) = header.filter(|header| header.is_snapshot() || header.first_seq <= self.next_seq) else {
                if self.next_seq >= place.next_first && !place.is_last {
                    self.place = None;
                    continue;
                }
                return self.damaged(None);
            };
            let at = place.offset;
            let skip = header.is_snapshot() || header.next_seq() <= self.next_seq;
            if skip {
                place.offset += header.stored_len();
                self.note(&header.ranges);
                continue;
            }
            let stored = self.window.stored(&place.segment, place.seed, at, &header, place.limit)?;
            let Some(payload) = stored.and_then(|stored| place.segment.payload(&header, stored)) else {
                return self.damaged(Some(&header));
            };
            place.offset += header.stored_len();
            self.last = Some(Spot { generation: header.generation, offset: at, first_seq: header.first_seq });
            self.next_seq = header.next_seq();
            self.note(&header.ranges);
            return Ok(Next::Block(Block { header, payload }));
        }
    }

    fn note(&mut self, ranges: &[ChainRange]) {
        for range in ranges {
            self.heads.insert(range.id.clone(), (range.epoch, range.last));
        }
    }

    /// Makes sure that `place` is where `next_seq` is; false where nothing more is synced.
    fn find_place(&mut self) -> bool {
        let inner = self.shared.inner.lock();
        if self.next_seq >= inner.tail.seq {
            return false;
        }
        let end_of = |segment: &Segment| {
            if segment.generation == inner.tail.generation {
                return inner.tail.offset;
            }
            segment.end.get().copied().unwrap_or_else(|| segment.file.size().unwrap_or_default())
        };
        if let Some(place) = &mut self.place {
            let index = inner.segments.iter().position(|segment| segment.generation == place.segment.generation);
            if let Some(index) = index {
                place.limit = end_of(&place.segment);
                place.is_last = index + 1 == inner.segments.len();
                place.next_first = inner.segments.get(index + 1).map_or(inner.tail.seq, |next| next.first_seq);
                if self.next_seq < place.next_first || place.is_last {
                    return true;
                }
            }
            self.place = None;
        }
        // Several segments may begin with the same number where one was given up; the last of them holds it.
        let index = inner.segments.partition_point(|segment| segment.first_seq <= self.next_seq).saturating_sub(1);
        let Some(segment) = inner.segments.get(index) else { return false };
        self.next_seq = self.next_seq.max(segment.first_seq);
        let place = Place {
            segment: segment.clone(),
            seed: seed(&self.shared.uuid, segment.generation),
            offset: SEGMENT_HEADER,
            limit: end_of(segment),
            next_first: inner.segments.get(index + 1).map_or(inner.tail.seq, |next| next.first_seq),
            is_last: index + 1 == inner.segments.len(),
        };
        drop(inner);
        self.window.forget();
        self.place = Some(place);
        true
    }

    fn release_if_done(&mut self) {
        let done = self.place.as_ref().is_some_and(|place| !place.is_last);
        if done {
            self.release();
        }
    }

    /// Records at `next_seq` cannot be read: says which, and goes on behind them.
    fn damaged(&mut self, claimed: Option<&BlockHeader>) -> Result<Next> {
        let Some(place) = &mut self.place else { return Ok(Next::CaughtUp) };
        let first_seq = self.next_seq;
        let found = self.window.resync(&place.segment, place.seed, place.offset + 8, place.limit, first_seq)?;
        let found = found.filter(|(_, header)| header.first_seq < place.next_first);
        if let Some((at, header)) = &found
            && header.first_seq == first_seq
        {
            // Only a snapshot was damaged: no record is missing.
            place.offset = *at;
            return self.next();
        }
        let next_seq = match (&found, claimed) {
            (Some((_, header)), _) => header.first_seq,
            (None, Some(claimed)) if place.is_last => claimed.next_seq().min(place.next_first),
            (None, _) => place.next_first,
        };
        // What the chains' numbers are behind the damage, up to the end of what can be read in this segment.
        let mut after: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        let mut at = found.as_ref().map(|(at, _)| *at);
        while let Some(offset) = at {
            let Some(header) = self.window.header(&place.segment, place.seed, offset, place.limit)? else { break };
            for range in &header.ranges {
                after.entry(range.id.clone()).or_insert((range.epoch, range.first));
            }
            at = Some(offset + header.stored_len());
        }
        let (is_last, generation) = (place.is_last, place.segment.generation);
        place.offset = found.as_ref().map_or(place.limit, |(at, _)| *at);
        let mut ranges: Vec<ChainRange> = claimed.map(|header| header.ranges.clone()).unwrap_or_default();
        if ranges.is_empty() {
            for (id, (epoch, head)) in self.known_heads(is_last, generation)? {
                let before = self.heads.get(&id).filter(|(known, _)| *known == epoch).map_or(0, |(_, last)| *last);
                let last = after.get(&id).filter(|(known, _)| *known == epoch).map_or(head, |(_, first)| first.saturating_sub(1));
                if last > before {
                    ranges.push(ChainRange { id, epoch, first: before + 1, last, hash: [0; 32] });
                }
            }
        }
        self.next_seq = next_seq;
        if !is_last && found.is_none() {
            self.place = None;
        }
        Ok(Next::Lost(Damage { first_seq, next_seq, ranges, at_tail: false }))
    }

    /// Heads of the chains at the end of this segment: the next one's snapshot, or the writer's.
    fn known_heads(&mut self, is_last: bool, generation: u64) -> Result<BTreeMap<String, (u64, u64)>> {
        let inner = self.shared.inner.lock();
        let next = inner.segments.iter().find(|segment| segment.generation > generation).cloned();
        let current = inner.heads.values().map(|head| (head.id.clone(), (head.epoch, head.last))).collect();
        drop(inner);
        let (false, Some(next)) = (is_last, next) else { return Ok(current) };
        let seed = seed(&self.shared.uuid, next.generation);
        let size = next.file.size().map_err(Error::io("stat", &next.name))?;
        let snapshot = self.window.header(&next, seed, SEGMENT_HEADER, size)?;
        self.window.forget();
        Ok(snapshot
            .map_or(current, |header| header.ranges.into_iter().map(|range| (range.id, (range.epoch, range.last))).collect()))
    }
}
