//! Reads a segment from front to end: where its good blocks end, what is lost between them, and where its chains stand.
use std::{collections::BTreeSet, ops::Range};

use crate::{
    BlockHeader, ChainRange, Damage, Disk, Extent, Result,
    damage::HeadMap,
    format::{BLOCK_FIXED, BLOCK_MAGIC, SMALLEST_RECORD, seed},
    segment::Segment,
    window::Window,
};

/// Most records of a block, for a damaged one whose header cannot be believed.
const PLAUSIBLE_COUNT: u64 = 1 << 20;
/// Bytes of a damaged block that are kept aside.
const KEPT_ASIDE: u64 = 1 << 20;

/// How a segment is read.
#[derive(Clone, Copy)]
pub(crate) struct Reading {
    /// Keep damaged blocks aside.
    pub(crate) keep: bool,
    /// The file is shorter than its segment.
    pub(crate) cut: bool,
}

/// What a segment holds.
pub(crate) struct Scan {
    pub(crate) end: u64,
    pub(crate) ordinal: u32,
    pub(crate) next_seq: u64,
    pub(crate) heads: HeadMap,
    /// Chains that ended here.
    pub(crate) ended: BTreeSet<String>,
    pub(crate) damage: Vec<Damage>,
    pub(crate) journal_ms: u64,
    pub(crate) wall_ms: u64,
    pub(crate) has_snapshot: bool,
    /// The end is not known: blocks that cannot be seen may have followed.
    pub(crate) open_ended: bool,
    /// Behind the end stands a good block that is not believed.
    pub(crate) unbelieved: bool,
    /// Something was lost of which not all chains are known.
    pub(crate) unknown_chains: bool,
}

/// A block that does not validate.
struct Claim {
    first_seq: u64,
    count: u64,
    ranges: Vec<ChainRange>,
    /// `ranges` has all of its chains.
    complete: bool,
}

/// Reads a segment.
pub(crate) fn scan(disk: &dyn Disk, uuid: &[u8; 16], segment: &Segment, reading: Reading) -> Result<Scan> {
    let seed = seed(uuid, segment.generation);
    let limit = segment.bytes;
    let mut window = Window::default();
    let mut scan = Scan::at(segment.blocks_at, segment.first_seq);
    loop {
        let header = window.header(segment, seed, scan.end, limit)?.filter(|header| header.first_seq == scan.next_seq);
        if let Some(header) = &header
            && window.stored(segment, seed, scan.end, header, limit)?.is_some()
        {
            if !header.is_snapshot() && header.first_seq >= segment.upto() {
                scan.unbelieved = true;
                return Ok(scan);
            }
            scan.take(header);
            continue;
        }
        // What looks like a block inside a block whose header is good is its payload.
        let behind = header.as_ref().map_or(scan.end + 8, |header| scan.end + header.stored_len());
        let found = window.resync(segment, seed, behind, limit, scan.next_seq)?;
        let found = found.filter(|(_, header)| header.is_snapshot() || header.first_seq < segment.upto());
        let claim = match header {
            Some(header) => Some(Claim::of(header)),
            None => damaged_header(&mut window, segment, &scan, limit)?,
        };
        if found.is_none() {
            // Could a block have begun here that cannot be seen? The end of a file that was cut, or an unreadable place.
            let seen = window.get(segment, scan.end, BLOCK_FIXED, limit)?.len();
            let room = limit.saturating_sub(scan.end) >= BLOCK_FIXED as u64;
            let unreadable = room && window.is_unreadable(segment, scan.end, BLOCK_FIXED, limit)?;
            scan.open_ended = unreadable || (reading.cut && room && (seen < BLOCK_FIXED || claim.is_some()));
        }
        if found.is_none() && claim.is_none() {
            return Ok(scan);
        }
        let end = found.as_ref().map_or(limit, |(at, _)| *at);
        if reading.keep {
            put_aside(disk, segment, scan.end, end.min(scan.end + KEPT_ASIDE));
        }
        scan.lose(claim, found.as_ref().map(|(_, header)| header));
        match found {
            Some((at, _)) => scan.end = at,
            None => return Ok(scan),
        }
    }
}

/// A place that does not validate, but names this generation or the sequence number that is due: a damaged block, not the end.
fn damaged_header(window: &mut Window, segment: &Segment, scan: &Scan, limit: u64) -> Result<Option<Claim>> {
    let (at, next_seq) = (scan.end, scan.next_seq);
    let bytes = window.get(segment, at, BLOCK_FIXED, limit)?.to_vec();
    let number = |from: usize| bytes.get(from..from + 8).and_then(|part| part.try_into().ok()).map(u64::from_le_bytes);
    let short = |from: usize| bytes.get(from..from + 4).and_then(|part| part.try_into().ok()).map(u32::from_le_bytes);
    let agree = usize::from(bytes.get(..4) == Some(BLOCK_MAGIC))
        + usize::from(number(8) == Some(segment.generation))
        + usize::from(number(16) == Some(next_seq) && next_seq != 0);
    if agree < 2 {
        return Ok(None);
    }
    let whole = window.get(segment, at, 64 << 10, limit)?.to_vec();
    let ranges = BlockHeader::claimed(&whole).map(|claimed| claimed.ranges).unwrap_or_default();
    // Nothing of this was checked: only what continues a known chain is believed.
    let plausible = |range: &ChainRange| {
        let head = scan.heads.get(&range.id);
        let continues = head.is_some_and(|head| head.epoch == range.epoch && range.first == head.last + 1);
        continues && range.last >= range.first && range.last - range.first < PLAUSIBLE_COUNT
    };
    let ranges: Vec<ChainRange> = ranges.into_iter().filter(plausible).collect();
    // Any of these fields may be the damaged one: claim the most that is plausible. Numbers are cheap, silence is not.
    let by_ranges: u64 = ranges.iter().map(|range| range.last - range.first + 1).sum();
    let by_length = u64::from(short(36).unwrap_or(1)) / SMALLEST_RECORD;
    let claimed = short(24).map_or(1, u64::from);
    let complete = by_ranges == claimed;
    let count = if claimed > PLAUSIBLE_COUNT { 0 } else { claimed }.max(by_ranges);
    let count = if complete { count } else { count.max(by_length.min(PLAUSIBLE_COUNT)) }.max(1);
    Ok(Some(Claim { first_seq: next_seq, count, ranges, complete }))
}

fn put_aside(disk: &dyn Disk, segment: &Segment, from: u64, to: u64) {
    let mut bytes = vec![0; to.saturating_sub(from) as usize];
    let read = segment
        .open()
        .and_then(|file| crate::disk::read_readable(&*file, &mut bytes, from).map_err(crate::Error::io("read", &segment.name)));
    let count = read.map_or(0, |(count, _)| count);
    let name = format!("{:016x}-{from}.blk", segment.generation);
    if let Err(error) = disk.quarantine(&name, &bytes[..count]) {
        tracing::warn!(file = name, %error, "failed to keep a damaged block in the quarantine");
    }
}

// === impl Claim ===

impl Claim {
    /// The claim of a header that is good, before a payload that is not.
    fn of(header: BlockHeader) -> Self {
        Self { first_seq: header.first_seq, count: u64::from(header.count), ranges: header.ranges, complete: true }
    }
}

// === impl Scan ===

impl Scan {
    /// Of nothing yet, at the place where blocks begin.
    pub(crate) fn at(end: u64, next_seq: u64) -> Self {
        Self {
            end,
            ordinal: 0,
            next_seq,
            heads: HeadMap::new(),
            ended: BTreeSet::new(),
            damage: Vec::new(),
            journal_ms: 0,
            wall_ms: 0,
            has_snapshot: false,
            open_ended: false,
            unbelieved: false,
            unknown_chains: false,
        }
    }

    fn take(&mut self, header: &BlockHeader) {
        self.end += header.stored_len();
        self.ordinal = header.ordinal + 1;
        self.next_seq = header.next_seq();
        self.wall_ms = self.wall_ms.max(header.wall_ms);
        self.journal_ms = self.journal_ms.max(header.journal_ms);
        self.has_snapshot |= header.is_snapshot();
        for range in &header.ranges {
            if header.ends_chains() {
                self.heads.remove(&range.id);
                self.ended.insert(range.id.clone());
            } else {
                self.heads.insert(range.id.clone(), range.clone());
            }
        }
    }

    /// Notes a loss between the last good block and `found`, or the end as far as the claim says.
    fn lose(&mut self, claim: Option<Claim>, found: Option<&BlockHeader>) {
        let snapshot_only = self.ordinal == 0 && found.is_some_and(|header| header.first_seq == self.next_seq);
        if snapshot_only {
            return;
        }
        let first_seq = self.next_seq;
        let by_claim = claim.as_ref().map_or(first_seq, |claim| claim.first_seq + claim.count);
        let next_seq = found.map_or(by_claim, |header| header.first_seq);
        let extent = if found.is_some() { Extent::Exact } else { Extent::AtMost };
        // A claim of other records than these, such as of one block among several, says nothing of the rest.
        let claim = claim.filter(|claim| claim.complete && by_claim == next_seq);
        self.unknown_chains |= claim.is_none();
        let ranges = claim.map_or_else(|| self.any_chain(first_seq..next_seq, found), |claim| claim.ranges);
        self.break_chains(&ranges);
        self.next_seq = next_seq;
        self.damage.push(Damage { first_seq, next_seq, ranges, extent });
    }

    /// The sequence number up to which blocks were found, whatever was told of as lost behind.
    pub(crate) fn believed(&self) -> u64 {
        let at_end = self.damage.last().filter(|damage| damage.next_seq == self.next_seq && damage.next_seq > damage.first_seq);
        at_end.map_or(self.next_seq, |damage| damage.first_seq)
    }

    /// Any of the known chains may have had these lost records.
    pub(crate) fn any_chain(&self, lost: Range<u64>, found: Option<&BlockHeader>) -> Vec<ChainRange> {
        let furthest = |head: &ChainRange| {
            // Heads of an older segment may be behind. No chain is further than the journal.
            if self.has_snapshot { head.last + (lost.end - lost.start) } else { lost.end - 1 }
        };
        let behind = |id: &str| found.and_then(|found| found.ranges.iter().find(|range| range.id == id));
        let known = self.heads.values().map(|head| {
            let last = behind(&head.id).map_or_else(|| furthest(head), |range| range.first.saturating_sub(1));
            ChainRange { first: head.last + 1, last, hash: [0; 32], ..head.clone() }
        });
        // A chain that goes on behind the loss and was not known before it began in it, with 0 or with a chain floor.
        let begun = found.iter().flat_map(|found| &found.ranges).filter(|range| !self.heads.contains_key(&range.id));
        let begun = begun.filter(|range| range.first > 0);
        let begun = begun.map(|range| ChainRange { first: 0, last: range.first - 1, hash: [0; 32], ..range.clone() });
        known.chain(begun).filter(|range| range.last >= range.first).collect()
    }

    /// These chains go on above, from an unknown hash: whoever writes next begins a new epoch.
    pub(crate) fn break_chains(&mut self, lost: &[ChainRange]) {
        for range in lost {
            self.heads.insert(range.id.clone(), ChainRange { hash: [0; 32], ..range.clone() });
        }
    }
}
