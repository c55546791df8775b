//! Opening a journal: what is there, what was lost, and where to go on. The rules stand in the crate's documentation.
use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use parking_lot::Mutex;

use crate::{
    BlockHeader, ChainRange, Disk, DiskFile, Envelope, Error, Journal, Keys, Options, Result,
    format::{BLOCK_FIXED, BLOCK_MAGIC, SECOND_HEADER, SECTOR, SEGMENT_HEADER, SegmentHeader, seed},
    journal::{Active, Segment, Shared, SharedInner, Tail, segment_name},
    reader::Window,
    state::{State, StateFile},
};

/// Records that were lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// First sequence number that is lost.
    pub first_seq: u64,
    /// First one that is not.
    pub next_seq: u64,
    /// The same in each chain's own numbers. A chain may be missing where its numbers could not be known.
    pub ranges: Vec<ChainRange>,
    /// At the end of the journal: the records may never have been acknowledged.
    pub at_tail: bool,
}

/// A journal that was opened.
pub struct Opened {
    /// The writer.
    pub journal: Journal,
    /// Whether there was none before.
    pub fresh: bool,
    /// What the newest segment lost.
    pub damage: Vec<Damage>,
    /// Journal clock at the last block.
    pub journal_ms: u64,
    /// Wall clock at the last block; 0 where there is none.
    pub wall_ms: u64,
}

/// Most records of a block, for a damaged one whose header cannot be believed.
const PLAUSIBLE_COUNT: u32 = 1 << 20;
/// No record is smaller, in bytes.
const SMALLEST_RECORD: u32 = 32;

struct Found {
    segments: Vec<(SegmentHeader, Arc<Segment>)>,
    spares: Vec<String>,
    next_generation: u64,
}

/// What the newest segment holds.
struct Scan {
    end: u64,
    ordinal: u32,
    next_seq: u64,
    heads: BTreeMap<String, ChainRange>,
    damage: Vec<Damage>,
    journal_ms: u64,
    wall_ms: u64,
    has_snapshot: bool,
}

// === impl Journal ===

impl Journal {
    /// Opens the journal of a directory, or makes one.
    pub fn open(disk: Arc<dyn Disk>, options: Options, envelope: Envelope) -> Result<Opened> {
        let state = StateFile::read(&*disk)?;
        let found = find(&*disk, state.as_ref(), &envelope.keys)?;
        match found.segments.last().cloned() {
            Some((header, _)) => resume(disk, options, envelope, state.unwrap_or_default(), found, &header),
            None => create(disk, options, envelope, state, found),
        }
    }
}

fn find(disk: &dyn Disk, state: Option<&State>, keys: &Keys) -> Result<Found> {
    let oldest = state.map_or(0, |state| state.oldest);
    let mut found = Found { segments: Vec::new(), spares: Vec::new(), next_generation: oldest };
    let mut headless = Vec::new();
    for (name, _) in disk.list().map_err(Error::io("list", "the directory"))? {
        let is_spare = name.starts_with("spare-");
        if !is_spare && !name.starts_with("seg-") {
            continue;
        }
        let file = disk.open(&name, false).map_err(Error::io("open", &name))?;
        let mut bytes = [0; SEGMENT_HEADER as usize];
        file.read_at(&mut bytes, 0).map_err(Error::io("read", &name))?;
        let header = match SegmentHeader::decode(&name, &bytes[..SECTOR])? {
            None if !is_spare => SegmentHeader::decode(&name, &bytes[SECOND_HEADER..SECOND_HEADER + SECTOR])?
                .filter(|header| name == segment_name(header.generation)),
            header => header,
        };
        // A spare may carry a generation that was prepared and never named: never use that again.
        let generation = header.as_ref().map_or(0, |header| header.generation);
        found.next_generation = found.next_generation.max(generation + 1);
        match header {
            Some(header) if !is_spare && header.generation >= oldest && name == segment_name(header.generation) => {
                // Without its key nothing is done to this directory at all.
                let key = keys.find(&header.key_id, &name)?;
                let cipher = key.map(|key| key.cipher(&header.salt, &header.uuid, header.generation)).transpose()?;
                let segment = Segment {
                    name,
                    generation: header.generation,
                    first_seq: header.first_seq,
                    file,
                    cipher,
                    end: OnceLock::new(),
                    sealed_ms: OnceLock::new(),
                };
                found.segments.push((header, Arc::new(segment)));
            }
            Some(_) if generation < oldest => found.spares.push(name),
            _ if is_spare => found.spares.push(name),
            _ => headless.push((name, file)),
        }
    }
    for (name, file) in headless {
        salvage(disk, state, &mut found, name, file)?;
    }
    found.segments.sort_by_key(|(header, _)| header.generation);
    // One journal a directory: the newest segment says which.
    if let Some(uuid) = found.segments.last().map(|(header, _)| header.uuid) {
        found.segments.retain(|(header, _)| header.uuid == uuid);
    }
    Ok(found)
}

/// A segment whose header is damaged: its name says the generation, its first good block the sequence number, and any other
/// segment or the state the rest. What still cannot be read is put aside, and shows as a gap.
fn salvage(disk: &dyn Disk, state: Option<&State>, found: &mut Found, name: String, file: Arc<dyn DiskFile>) -> Result<()> {
    let generation = name.strip_prefix("seg-").and_then(|rest| rest.strip_suffix(".log"));
    let generation = generation.and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or_default();
    found.next_generation = found.next_generation.max(generation + 1);
    if generation < state.map_or(0, |state| state.oldest) {
        found.spares.push(name);
        return Ok(());
    }
    let size = file.size().map_err(Error::io("stat", &name))?;
    let known = found.segments.last().map(|(header, _)| (header.uuid, (header.id_key, header.key_id), header.bytes));
    let known = known.or_else(|| state.map(|state| (state.uuid, (state.id_key, state.key_id), size.max(64 << 10))));
    let segment = |first_seq| Segment {
        name: name.clone(),
        generation,
        first_seq,
        file: file.clone(),
        // Its salt is gone with both copies of its header; encrypted blocks of it are lost, and told.
        cipher: None,
        end: OnceLock::new(),
        sealed_ms: OnceLock::new(),
    };
    if let Some((uuid, (id_key, key_id), bytes)) = known {
        let probe = segment(0);
        let first = Window::default().resync(&probe, seed(&uuid, generation), SEGMENT_HEADER, size, 0)?;
        if let Some((_, block)) = first {
            let first_seq = block.first_seq;
            let oldest = state.map_or(0, |state| state.oldest);
            let header = SegmentHeader { uuid, generation, first_seq, id_key, salt: [0; 16], key_id, created: 0, bytes, oldest };
            found.segments.push((header, Arc::new(segment(first_seq))));
            return Ok(());
        }
    }
    let mut bytes = vec![0; 1 << 20];
    let count = file.read_at(&mut bytes, 0).unwrap_or_default();
    let _ = disk.quarantine(&format!("{name}.blk"), &bytes[..count]);
    found.spares.push(name);
    Ok(())
}

fn create(disk: Arc<dyn Disk>, options: Options, envelope: Envelope, state: Option<State>, found: Found) -> Result<Opened> {
    let mut id_key = [0; 32];
    getrandom::fill(&mut id_key).map_err(|error| Error::io("read", "the random source")(error.into()))?;
    let uuid = *uuid::Uuid::new_v4().as_bytes();
    // A state without segments: the journal was lost. Its positions say nothing about the new one, but its numbers are not used again.
    let lost = state.as_ref().and_then(|state| state.positions.values().max().copied()).filter(|next| *next > 0);
    let next_seq = lost.unwrap_or(0);
    let damage = lost.map(|next_seq| Damage { first_seq: 0, next_seq, ranges: Vec::new(), at_tail: false });
    let generation = found.next_generation.max(1);
    let slot = state.map_or(0, |state| state.generation);
    let key_id = envelope.keys.current_id();
    let masked = envelope.keys.mask(&key_id, &uuid, &id_key, "state")?;
    let current = State { generation: slot, uuid, id_key: masked, key_id, oldest: generation, positions: BTreeMap::new() };
    let mut state = StateFile::open(&*disk, current.clone())?;
    state.save(current)?;
    disk.sync_dir().map_err(Error::io("sync", "the directory"))?;
    let tail = Tail { generation: 0, offset: 0, seq: next_seq };
    let shared = Shared { uuid, inner: Mutex::new(SharedInner { segments: Vec::new(), tail, heads: BTreeMap::new() }) };
    let journal =
        Journal::new(disk, options, envelope, id_key, Arc::new(shared), None, next_seq, generation, state, found.spares);
    Ok(Opened { journal, fresh: true, damage: damage.into_iter().collect(), journal_ms: 0, wall_ms: 0 })
}

fn resume(
    disk: Arc<dyn Disk>,
    options: Options,
    envelope: Envelope,
    state: State,
    found: Found,
    newest: &SegmentHeader,
) -> Result<Opened> {
    let uuid = newest.uuid;
    let Found { segments, spares, next_generation } = found;
    let Some((_, last)) = segments.last().cloned() else {
        return create(disk, options, envelope, Some(state), Found { segments, spares, next_generation });
    };
    let mut scan = scan(&*disk, &uuid, &last, true)?;
    if !scan.has_snapshot {
        earlier_heads(&*disk, &uuid, &segments, &mut scan)?;
    }
    let same = state.uuid == uuid;
    let positions = if same { state.positions.clone() } else { BTreeMap::new() };
    // A position above the tail: records that were delivered are no longer here. Never use their numbers again.
    if let Some(known) = positions.values().max().copied().filter(|known| *known > scan.next_seq) {
        scan.damage.push(Damage { first_seq: scan.next_seq, next_seq: known, ranges: Vec::new(), at_tail: true });
        scan.next_seq = known;
    }
    // The oldest segments may be gone with what they held.
    let needed = positions.values().min().copied().unwrap_or(0);
    let oldest_held = segments.first().map_or(0, |(header, _)| header.first_seq);
    let begins_later = if same && state.oldest > 1 && positions.is_empty() { false } else { oldest_held > needed };
    if begins_later {
        scan.damage.push(Damage { first_seq: needed, next_seq: oldest_held, ranges: Vec::new(), at_tail: false });
    }
    let seq = scan.next_seq;
    let next_generation = next_generation.max(last.generation + 1);
    let segment_bytes = newest.bytes.clamp(64 << 10, 1 << 30);
    let damaged = !scan.damage.is_empty();
    let tail = Tail { generation: last.generation, offset: scan.end, seq };
    let active = Active { segment: last.clone(), offset: scan.end, ordinal: scan.ordinal, wall_ms: scan.wall_ms, written: 0 };
    // Behind damage a fresh segment is begun, so that nothing of the damaged one is overwritten.
    let keys = &envelope.keys;
    let id_key = keys.mask(&newest.key_id, &uuid, &newest.id_key, &last.name)?;
    let key_id = keys.current_id();
    let masked = keys.mask(&key_id, &uuid, &id_key, "state")?;
    // Another key begins with a segment of its own, too.
    let unlike = last.cipher.is_some() != (key_id != [0; 16]);
    let active = if damaged || unlike || newest.key_id != key_id {
        let _ = last.end.set(scan.end);
        let _ = last.sealed_ms.set(scan.wall_ms);
        None
    } else {
        Some(active)
    };
    let oldest = if same { state.oldest } else { 0 };
    let state = StateFile::open(&*disk, State { uuid, id_key: masked, key_id, positions, oldest, ..state })?;
    let segments = segments.into_iter().map(|(_, segment)| segment).collect();
    let shared = Shared { uuid, inner: Mutex::new(SharedInner { segments, tail, heads: scan.heads }) };
    // A segment keeps the size it was made with; a changed bound counts from the next journal on.
    let options = Options { segment_bytes: segment_bytes.min(options.max_bytes / 4), ..options };
    let journal = Journal::new(disk, options, envelope, id_key, Arc::new(shared), active, seq, next_generation, state, spares);
    Ok(Opened { journal, fresh: false, damage: scan.damage, journal_ms: scan.journal_ms, wall_ms: scan.wall_ms })
}

/// Chain heads from older segments, where the newest one's snapshot cannot be read.
fn earlier_heads(disk: &dyn Disk, uuid: &[u8; 16], segments: &[(SegmentHeader, Arc<Segment>)], scan_to: &mut Scan) -> Result<()> {
    let newest_first = segments.last().map_or(0, |(header, _)| header.first_seq);
    for (_, segment) in segments.iter().rev().skip(1) {
        let earlier = scan(disk, uuid, segment, false)?;
        for (id, head) in earlier.heads {
            // Blocks of an abandoned segment at or above the newer one's first number do not count; its heads would be above.
            if earlier.next_seq <= newest_first {
                scan_to.heads.entry(id).or_insert(head);
            }
        }
        if earlier.has_snapshot {
            break;
        }
    }
    Ok(())
}

/// Reads a segment from front to end. `keep`: put damaged blocks aside.
fn scan(disk: &dyn Disk, uuid: &[u8; 16], segment: &Segment, keep: bool) -> Result<Scan> {
    let seed = seed(uuid, segment.generation);
    let limit = segment.file.size().map_err(Error::io("stat", &segment.name))?;
    let mut window = Window::default();
    let mut scan = Scan {
        end: SEGMENT_HEADER,
        ordinal: 0,
        next_seq: segment.first_seq,
        heads: BTreeMap::new(),
        damage: Vec::new(),
        journal_ms: 0,
        wall_ms: 0,
        has_snapshot: false,
    };
    loop {
        let header = window.header(segment, seed, scan.end, limit)?;
        let header = header.filter(|header| header.generation == segment.generation && header.first_seq == scan.next_seq);
        if let Some(header) = &header
            && window.stored(segment, seed, scan.end, header, limit)?.is_some()
        {
            scan.take(header);
            continue;
        }
        let found = window.resync(segment, seed, scan.end + 8, limit, scan.next_seq)?;
        let claimed = header.or_else(|| damaged_header(&mut window, segment, &scan, limit));
        if found.is_none() && claimed.is_none() {
            return Ok(scan);
        }
        let end = found.as_ref().map_or(limit, |(at, _)| *at);
        if keep {
            put_aside(disk, segment, scan.end, end.min(scan.end + (1 << 20)));
        }
        scan.lose(claimed.as_ref(), found.as_ref().map(|(_, header)| header));
        if let Some((at, _)) = found {
            scan.end = at;
        } else {
            scan.end = limit;
            return Ok(scan);
        }
    }
}

/// A place that does not validate, but names this generation or the sequence number that is due: a damaged block, not the end.
fn damaged_header(window: &mut Window, segment: &Segment, scan: &Scan, limit: u64) -> Option<BlockHeader> {
    let (at, next_seq) = (scan.end, scan.next_seq);
    let bytes = window.get(segment, at, BLOCK_FIXED, limit).ok()?.to_vec();
    let number = |from: usize| bytes.get(from..from + 8).and_then(|part| part.try_into().ok()).map(u64::from_le_bytes);
    let agree = usize::from(bytes.get(..4) == Some(BLOCK_MAGIC))
        + usize::from(number(8) == Some(segment.generation))
        + usize::from(number(16) == Some(next_seq) && next_seq != 0);
    if agree < 2 {
        return None;
    }
    let count = bytes.get(24..28).and_then(|part| part.try_into().ok()).map_or(1, u32::from_le_bytes);
    let whole = window.get(segment, at, 64 << 10, limit).ok()?.to_vec();
    let ranges = BlockHeader::claimed(&whole).map(|claimed| claimed.ranges).unwrap_or_default();
    // Nothing of this was checked: only what continues a known chain is believed.
    let plausible = |range: &ChainRange| {
        let head = scan.heads.get(&range.id);
        let continues = head.is_some_and(|head| head.epoch == range.epoch && range.first == head.last + 1);
        continues && range.last >= range.first && range.last - range.first < u64::from(PLAUSIBLE_COUNT)
    };
    let ranges: Vec<ChainRange> = ranges.into_iter().filter(plausible).collect();
    // Any of these fields may be the damaged one: claim the most that is plausible. Numbers are cheap, silence is not.
    let by_ranges: u64 = ranges.iter().map(|range| range.last - range.first + 1).sum();
    let by_length = bytes.get(36..40).and_then(|part| part.try_into().ok()).map_or(1, u32::from_le_bytes) / SMALLEST_RECORD;
    let count = if count > PLAUSIBLE_COUNT { 0 } else { count }.max(by_ranges as u32);
    let count = if ranges.is_empty() { count.max(by_length.min(PLAUSIBLE_COUNT)) } else { count }.max(1);
    Some(BlockHeader {
        flags: 0,
        generation: segment.generation,
        first_seq: next_seq,
        count,
        ordinal: 0,
        header_len: 0,
        payload_len: 0,
        plain_len: 0,
        payload_crc: 0,
        wall_ms: 0,
        journal_ms: 0,
        ranges,
    })
}

fn put_aside(disk: &dyn Disk, segment: &Segment, from: u64, to: u64) {
    let mut bytes = vec![0; to.saturating_sub(from) as usize];
    let count = segment.file.read_at(&mut bytes, from).unwrap_or_default();
    let name = format!("{:016x}-{from}.blk", segment.generation);
    if let Err(error) = disk.quarantine(&name, &bytes[..count]) {
        tracing::warn!(file = name, %error, "a damaged block could not be put aside");
    }
}

// === impl Scan ===

impl Scan {
    fn take(&mut self, header: &BlockHeader) {
        self.end += header.stored_len();
        self.ordinal = header.ordinal + 1;
        self.next_seq = header.next_seq();
        self.wall_ms = self.wall_ms.max(header.wall_ms);
        self.journal_ms = self.journal_ms.max(header.journal_ms);
        self.has_snapshot |= header.is_snapshot();
        for range in &header.ranges {
            self.heads.insert(range.id.clone(), range.clone());
        }
    }

    /// Notes a loss between the last good block and `found` (or the end, as far as `claimed` says).
    fn lose(&mut self, claimed: Option<&BlockHeader>, found: Option<&BlockHeader>) {
        let snapshot_only = self.ordinal == 0 && found.is_some_and(|header| header.first_seq == self.next_seq);
        if snapshot_only {
            return;
        }
        let first_seq = self.next_seq;
        let next_seq = found.map_or_else(|| claimed.map_or(first_seq, BlockHeader::next_seq), |header| header.first_seq);
        let count = next_seq - first_seq;
        let mut ranges = claimed.map(|header| header.ranges.clone()).unwrap_or_default();
        if ranges.is_empty() {
            // Any of the known chains may have had them.
            ranges.extend(self.heads.values().map(|head| {
                let behind =
                    found.and_then(|found| found.ranges.iter().find(|range| range.id == head.id && range.epoch == head.epoch));
                let last = behind.map_or(head.last + count, |range| range.first.saturating_sub(1));
                ChainRange { first: head.last + 1, last, hash: [0; 32], ..head.clone() }
            }));
            ranges.retain(|range| range.last >= range.first);
        }
        for range in &ranges {
            // The chain goes on above, from an unknown hash: whoever writes next begins a new epoch.
            let head = ChainRange { hash: [0; 32], ..range.clone() };
            self.heads.insert(range.id.clone(), head);
        }
        self.next_seq = next_seq;
        self.damage.push(Damage { first_seq, next_seq, ranges, at_tail: found.is_none() });
    }
}
