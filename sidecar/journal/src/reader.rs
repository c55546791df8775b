//! Readers: blocks in order, from any sequence number up to what is synced.
use std::sync::Arc;

use crate::{
    Block, BlockHeader, Damage, Extent, Result,
    damage::{Heads, between},
    format::seed,
    segment::Segment,
    shared::Shared,
    window::Window,
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

// === impl Reader ===

impl Reader {
    /// A reader whose first block holds `seq`, or comes first behind it.
    pub fn new(shared: Arc<Shared>, seq: u64) -> Self {
        let next_seq = seq.max(shared.oldest());
        Self { shared, next_seq, place: None, window: Window::default(), last: None }
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

    /// What comes next. A loss that spans several blocks or segments comes once. Not an iterator: being caught up is no end.
    ///
    /// # Errors
    /// The disk failed in a way that is no damage; the next call tries again.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Next> {
        let mut lost: Option<Damage> = None;
        loop {
            if !self.find_place() {
                self.release_if_done();
                return Ok(lost.map_or(Next::CaughtUp, Next::Lost));
            }
            let Some(place) = &mut self.place else { return Ok(Next::CaughtUp) };
            let header = self.window.header(&place.segment, place.seed, place.offset, place.limit)?;
            let believed = place.next_first.max(1).min(place.segment.upto());
            let header = header.filter(|header| header.is_snapshot() || header.first_seq < believed);
            let Some(header) = header.filter(|header| header.is_snapshot() || header.first_seq <= self.next_seq) else {
                if self.next_seq >= place.next_first && !place.is_last {
                    self.place = None;
                    continue;
                }
                let damage = self.damaged(None)?;
                join(&mut lost, damage);
                continue;
            };
            let at = place.offset;
            if header.is_snapshot() || header.next_seq() <= self.next_seq {
                place.offset += header.stored_len();
                continue;
            }
            let stored = self.window.stored(&place.segment, place.seed, at, &header, place.limit)?;
            let Some(payload) = stored.and_then(|stored| place.segment.payload(&header, stored)) else {
                let damage = self.damaged(Some(&header))?;
                join(&mut lost, damage);
                continue;
            };
            if let Some(lost) = lost {
                // The block comes with the next call.
                return Ok(Next::Lost(lost));
            }
            place.offset += header.stored_len();
            self.last = Some(Spot { generation: header.generation, offset: at, first_seq: header.first_seq });
            self.next_seq = header.next_seq();
            return Ok(Next::Block(Block { header, payload }));
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
            segment.end.get().copied().unwrap_or(segment.bytes)
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
            offset: segment.blocks_at,
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

    /// Records at `next_seq` cannot be read: names them, and goes on behind them. `None`: no record is missing, only a
    /// snapshot.
    fn damaged(&mut self, claimed: Option<&BlockHeader>) -> Result<Option<Damage>> {
        let Some(place) = &mut self.place else { return Ok(None) };
        let (first_seq, segment, offset) = (self.next_seq, place.segment.clone(), place.offset);
        // Behind a block whose header is good the search begins at its end: what looks like a block inside is its payload.
        let behind = claimed.map_or(offset + 8, |header| offset + header.stored_len());
        let found = self.window.resync(&segment, place.seed, behind, place.limit, first_seq)?;
        let found = found.filter(|(_, header)| header.first_seq < place.next_first.min(segment.upto()));
        if let Some((at, header)) = &found
            && header.first_seq == first_seq
        {
            place.offset = *at;
            return Ok(None);
        }
        let next_seq = match (&found, claimed) {
            (Some((_, header)), _) => header.first_seq,
            (None, Some(claimed)) if place.is_last => claimed.next_seq().min(place.next_first),
            (None, _) => place.next_first,
        };
        let (is_last, limit, seed) = (place.is_last, place.limit, place.seed);
        place.offset = found.as_ref().map_or(limit, |(at, _)| *at);
        let ranges = match claimed {
            Some(header) if header.next_seq() == next_seq => header.ranges.clone(),
            _ => {
                let segments = self.shared.inner.lock().segments.clone();
                let index = segments.iter().position(|known| known.generation == segment.generation).unwrap_or(0);
                let before = self.window.heads_before(&self.shared.uuid, &segments, (index, offset))?;
                let mut after = self.heads_at_end(&segments, index, is_last)?;
                let mut at = found.as_ref().map(|(at, _)| *at);
                let mut seen = std::collections::BTreeSet::new();
                while let Some(from) = at {
                    let Some(header) = self.window.header(&segment, seed, from, limit)? else { break };
                    for range in &header.ranges {
                        if seen.insert(range.id.clone()) {
                            let head = crate::ChainRange { last: range.first.saturating_sub(1), ..range.clone() };
                            if range.first == 0 {
                                // It began behind the loss.
                                after.known.remove(&range.id);
                            } else {
                                after.known.insert(range.id.clone(), head);
                            }
                        }
                    }
                    at = Some(from + header.stored_len());
                }
                between(&before, &after, first_seq..next_seq)
            }
        };
        self.next_seq = next_seq;
        if !is_last && found.is_none() {
            self.place = None;
        }
        Ok(Some(Damage { first_seq, next_seq, ranges, extent: Extent::Exact }))
    }

    /// Heads of the chains at the end of a segment: the next one's snapshot, or the writer's.
    fn heads_at_end(&mut self, segments: &[Arc<Segment>], index: usize, is_last: bool) -> Result<Heads> {
        if !is_last && let Some(next) = segments.get(index + 1) {
            let seed = seed(&self.shared.uuid, next.generation);
            let snapshot = self.window.header(next, seed, next.blocks_at, next.bytes)?.filter(BlockHeader::is_snapshot);
            if let Some(header) = snapshot {
                let known = header.ranges.into_iter().map(|range| (range.id.clone(), range)).collect();
                return Ok(Heads { known, complete: true, reached: 0 });
            }
        }
        Ok(Heads { known: self.shared.inner.lock().heads.all().clone(), complete: true, reached: 0 })
    }
}

/// Adds a loss to the one before it.
fn join(lost: &mut Option<Damage>, damage: Option<Damage>) {
    match (lost, damage) {
        (Some(lost), Some(damage)) => lost.join(damage),
        (lost @ None, damage) => *lost = damage,
        (Some(_), None) => {}
    }
}
