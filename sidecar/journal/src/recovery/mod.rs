//! Opens a journal: what is there, what was lost, and where to go on. The rules stand in the crate's documentation.
mod discover;
mod scan;

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

use crate::{
    ChainRange, Damage, Disk, Envelope, Error, Extent, Journal, Options, Result,
    damage::{HeadMap, Heads, between},
    disk::read_readable,
    format::{BlockHeader, SECTOR, SMALLEST_RECORD, seed},
    journal::{Active, Parts},
    segment::{Segment, named_generation},
    shared::{ChainHeads, Shared, SharedInner, Tail},
    state::{self, Evidence, Newest, State, StateFile},
    window::Window,
};
use discover::{Found, FoundSegment, Unusable, discover};
use scan::{Reading, Scan, scan};

/// A journal that was opened.
pub struct Opened {
    /// The writer.
    pub journal: Journal,
    /// Whether there was none before.
    pub fresh: bool,
    /// What was lost, as far as it shows at once. Losses inside older segments show when they are read.
    pub damage: Vec<Damage>,
    /// Journal clock at the last block, in milliseconds.
    pub journal_ms: u64,
    /// Wall clock at the last block, in milliseconds since 1970; 0 if there is none.
    pub wall_ms: u64,
    /// Files that are named like segments and cannot be used, with the reason.
    pub unusable: Vec<String>,
    /// The state could not be read: sinks get what is there once more.
    pub state_lost: bool,
    /// Hashes of event ids were made with another key: the old one was on this disk in clear.
    pub id_key_changed: bool,
}

/// The highest sequence number, exclusive, that a file of another room proves to have been in the journal with this UUID.
pub type Reached<'a> = &'a dyn Fn(&[u8; 16]) -> u64;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Use,
    Inspect,
}

/// What is there, and what to do with it.
struct Plan {
    uuid: [u8; 16],
    state: State,
    segments: Vec<FoundSegment>,
    scan: Scan,
    fresh: bool,
    /// Losses before the end of the log.
    damage: Vec<Damage>,
    /// Places of good blocks that are not believed, because who knew so is gone. They must not come back.
    void: Vec<(Arc<Segment>, u64)>,
}

/// How much is written again at a time, in bytes.
const COPY_BYTES: usize = 1 << 20;
/// Bytes of a segment whose size nobody knows.
const ANY_SEGMENT: u64 = 16 << 20;

// === impl Journal ===

impl Journal {
    /// Opens the journal of a directory, or creates one.
    ///
    /// # Errors
    /// The directory is of a newer version, a key is missing, or the disk refused. Damage is no error.
    pub fn open(disk: Arc<dyn Disk>, options: Options, envelope: Envelope) -> Result<Opened> {
        open(disk, options, envelope, &|_| 0, Mode::Use)
    }

    /// Opens a journal beside which other files prove how far it reached.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_beside(disk: Arc<dyn Disk>, options: Options, envelope: Envelope, reached: Reached<'_>) -> Result<Opened> {
        open(disk, options, envelope, reached, Mode::Use)
    }

    /// Opens a journal to read it; nothing is written.
    ///
    /// # Errors
    /// As [`Self::open`]; and a directory that holds no journal.
    pub fn inspect(disk: Arc<dyn Disk>, envelope: Envelope, reached: Reached<'_>) -> Result<Opened> {
        let options = Options {
            max_bytes: 1 << 40,
            segment_bytes: ANY_SEGMENT,
            control_segments: 1,
            retain_ms: 0,
            retain_bytes: 0,
            recycle: true,
        };
        open(disk, options, envelope, reached, Mode::Inspect)
    }
}

fn open(disk: Arc<dyn Disk>, options: Options, envelope: Envelope, reached: Reached<'_>, mode: Mode) -> Result<Opened> {
    let (mut state, mut elsewhere) = StateFile::find(&*disk)?;
    let mut found = discover(&disk, state.as_ref(), &envelope.keys)?;
    if found.foreign_state {
        tracing::error!(
            "the journal's state is that of another journal; it is kept in the quarantine, and sinks get what is there once more"
        );
        if mode == Mode::Use {
            disk.set_aside(elsewhere.as_deref().unwrap_or(state::FILE)).map_err(Error::io("set aside", state::FILE))?;
        }
        (state, elsewhere) = (None, None);
        found = discover(&disk, None, &envelope.keys)?;
    }
    let state_lost = state.is_none() && !found.segments.is_empty();
    // The lock is held by its file, which keeps its name.
    let is_segment = |name: &String| found.misnamed.iter().any(|(known, _)| known == name);
    let elsewhere = elsewhere.filter(|name| name != "lock" && !is_segment(name));
    found.misnamed.extend(elsewhere.map(|name| (name, state::FILE.to_owned())));
    // Whatever is renamed, or whose name another file gets, is no spare.
    let is_renamed = |name: &String| found.misnamed.iter().any(|(from, to)| from == name || to == name);
    found.spares.retain(|name| name.starts_with("spare-") || named_generation(name).is_some());
    found.spares.retain(|name| !is_renamed(name));
    if mode == Mode::Inspect {
        for (name, right) in &found.misnamed {
            let segment = found.segments.iter_mut().find(|found| found.segment.name == *right);
            if let Some(segment) = segment.and_then(|found| Arc::get_mut(&mut found.segment)) {
                segment.name.clone_from(name);
            }
        }
    } else {
        // Names that a crash left in memory only must not be relied on.
        disk.sync_dir().map_err(Error::io("sync", "the directory"))?;
        found.unusable.retain(|file| found.misnamed.iter().all(|(name, _)| *name != file.name));
        set_aside(&*disk, &found.unusable);
        rename_right(&*disk, &found.misnamed)?;
    }
    let unusable = found.unusable.iter().map(|file| format!("{}: {}", file.name, file.reason)).collect();
    let Some(uuid) = found.uuid else {
        let opened = create(disk, options, envelope, found, mode)?;
        return Ok(Opened { unusable, ..opened });
    };
    let (spares, next_generation) = (found.spares.clone(), found.next_generation);
    let plan = plan(&disk, uuid, state, found, reached(&uuid), mode)?;
    let opened = carry_out(disk, options, envelope, plan, (spares, next_generation), mode)?;
    Ok(Opened { unusable, state_lost, ..opened })
}

fn set_aside(disk: &dyn Disk, unusable: &[Unusable]) {
    for file in unusable {
        tracing::error!(file = file.name, reason = file.reason, "a segment cannot be used; it is kept in the quarantine");
        if let Err(error) = disk.set_aside(&file.name) {
            tracing::warn!(file = file.name, %error, "failed to move a file to the quarantine; it stays where it is");
        }
    }
}

/// Gives files the names that their contents ask for. A crash in between leaves names that the next start sees through.
fn rename_right(disk: &dyn Disk, misnamed: &[(String, String)]) -> Result<()> {
    for (name, right) in misnamed {
        tracing::error!(file = name, "a file of the journal has another one's name; it is renamed to {right}");
        disk.rename(name, &format!("moved-{right}")).map_err(Error::io("rename", name))?;
    }
    for (_, right) in misnamed {
        disk.rename(&format!("moved-{right}"), right).map_err(Error::io("rename", right))?;
    }
    if misnamed.is_empty() { Ok(()) } else { disk.sync_dir().map_err(Error::io("sync", "the directory")) }
}

/// A journal if nothing says which one there was.
fn create(disk: Arc<dyn Disk>, options: Options, envelope: Envelope, found: Found, mode: Mode) -> Result<Opened> {
    if mode == Mode::Inspect {
        return Err(Error::io("open", "state")(std::io::ErrorKind::NotFound.into()));
    }
    let mut id_key = [0; 32];
    getrandom::fill(&mut id_key).map_err(|error| Error::io("read", "the random source")(error.into()))?;
    let uuid = *uuid::Uuid::new_v4().as_bytes();
    // Files without a journal: it was lost, with its name. Its numbers are not used again.
    let bytes: u64 = found.unusable.iter().map(|file| file.bytes).sum();
    let lost = found.named_end + bytes / SMALLEST_RECORD;
    let is_lost = !found.unusable.is_empty() || found.named_end > 0;
    let damage = is_lost.then(|| Damage { first_seq: 0, next_seq: lost.max(1), ranges: Vec::new(), extent: Extent::AtMost });
    let next_seq = damage.as_ref().map_or(0, |damage| damage.next_seq);
    let generation = found.next_generation.max(1);
    let key_id = envelope.keys.current_id();
    let evidence = Evidence {
        tail: next_seq,
        encrypted_from: (key_id != [0; 16]).then_some(generation),
        id_key_exposed: key_id == [0; 16],
        ..Evidence::default()
    };
    let id_key_stored = envelope.keys.mask(&key_id, &uuid, &id_key, "state")?;
    let current =
        State { generation: 0, uuid, id_key: id_key_stored, key_id, oldest: generation, positions: BTreeMap::new(), evidence };
    let mut state = StateFile::open(&*disk, current.clone())?;
    state.save(current)?;
    disk.sync_dir().map_err(Error::io("sync", "the directory"))?;
    let tail = Tail { generation: 0, offset: 0, seq: next_seq };
    let inner = SharedInner { segments: Vec::new(), tail, heads: ChainHeads::default() };
    let mut journal = Journal::new(Parts {
        disk,
        options,
        envelope,
        id_key,
        shared: Arc::new(Shared { uuid, inner: Mutex::new(inner) }),
        active: None,
        next_seq,
        next_generation: generation,
        state,
        spares: found.spares,
        journal_ms: 0,
    });
    journal.keep_reserve();
    let damage = damage.into_iter().collect();
    let (unusable, state_lost, id_key_changed) = (Vec::new(), false, false);
    Ok(Opened { journal, fresh: true, damage, journal_ms: 0, wall_ms: 0, unusable, state_lost, id_key_changed })
}

/// Reads what is there and decides. Writes nothing but copies of damaged blocks.
fn plan(disk: &Arc<dyn Disk>, uuid: [u8; 16], state: Option<State>, found: Found, reached: u64, mode: Mode) -> Result<Plan> {
    let state_lost = state.is_none();
    let mut state = state.unwrap_or_default();
    let Found { segments, unusable, named_end, .. } = found;
    if state_lost && let Some(newest) = segments.last() {
        // As much as a segment's header knows.
        (state.id_key, state.key_id) = (newest.header.id_key, newest.header.key_id);
        state.oldest = newest.header.oldest;
        state.evidence.chain_floor = segments.iter().map(|found| found.header.chain_floor).max().unwrap_or(0);
        state.evidence.encrypted_from = (newest.header.key_id != [0; 16]).then_some(newest.header.generation);
        state.evidence.id_key_exposed = newest.header.key_id == [0; 16];
    }
    let reached = if state_lost { reached.max(named_end) } else { reached };
    let delivered = state.positions.values().min().copied();
    believe(&segments, &state.evidence);
    let mut scan = match segments.last() {
        Some(last) => {
            let reading = Reading { keep: mode == Mode::Use, cut: last.cut };
            scan(&**disk, &uuid, &last.segment, reading)?
        }
        // Nothing is left: what was delivered is not missed.
        None => Scan::at(0, delivered.unwrap_or(0)),
    };
    let arcs: Vec<Arc<Segment>> = segments.iter().map(|found| found.segment.clone()).collect();
    if !scan.has_snapshot {
        earlier_heads(&uuid, &arcs, &segments, &mut scan)?;
    }
    let fresh = arcs.is_empty() && state.evidence.newest.is_none() && state.evidence.tail == 0 && delivered.unwrap_or(0) == 0;
    lose_tail(&mut scan, (&state, state_lost), &segments, &unusable, reached);
    let current = Heads { known: scan.heads.clone(), complete: true, reached: 0 };
    let mut void = Vec::new();
    let mut damage = holes(disk, &uuid, &arcs, &segments, &unusable, (state.oldest, &current), &mut void)?;
    if scan.unbelieved
        && let Some(last) = arcs.last()
    {
        void.push((last.clone(), scan.end));
    }
    damage.splice(0..0, lost_front(&uuid, &state, &segments, &unusable, &current)?);
    Ok(Plan { uuid, state, segments, scan, fresh, damage, void })
}

/// Heads of the chains if the newest segment's snapshot cannot be read.
fn earlier_heads(uuid: &[u8; 16], arcs: &[Arc<Segment>], segments: &[FoundSegment], scan: &mut Scan) -> Result<()> {
    let Some(last) = segments.last() else {
        scan.unknown_chains |= !arcs.is_empty();
        return Ok(());
    };
    let earlier = Window::default().heads_before(uuid, arcs, (arcs.len() - 1, last.segment.blocks_at))?;
    scan.unknown_chains |= !earlier.complete;
    // Behind a loss the chains went on further up, at most where the journal did.
    let first_seq = last.header.first_seq;
    let before = segments.len().checked_sub(2).and_then(|index| segments.get(index)).map(|before| before.header.generation);
    let follows =
        last.header.previous.is_some_and(|previous| Some(previous.generation) == before && previous.end_seq == first_seq);
    let jumped = !follows || earlier.reached < first_seq;
    let mut skipped = Vec::new();
    for (id, head) in earlier.known {
        if scan.ended.contains(&id) || scan.heads.contains_key(&id) {
            continue;
        }
        if jumped && head.last + 1 < first_seq {
            skipped.push(ChainRange { first: head.last + 1, last: first_seq - 1, hash: [0; 32], ..head });
        } else {
            scan.heads.insert(id, head);
        }
    }
    scan.break_chains(&skipped);
    if !skipped.is_empty() {
        let damage = Damage { first_seq, next_seq: first_seq, ranges: skipped, extent: Extent::AtMost };
        scan.damage.insert(0, damage);
    }
    Ok(())
}

/// Notes for each segment up to where it is believed. It may end with a block whose sync failed, whose number another block has
/// in the next segment, be that one here or gone.
fn believe(segments: &[FoundSegment], evidence: &Evidence) {
    for pair in segments.windows(2) {
        let [before, after] = pair else { continue };
        let upto = match after.header.previous {
            Some(previous) if previous.generation == before.header.generation => previous.end_seq,
            Some(previous) if previous.generation > before.header.generation => previous.first_seq,
            _ => after.header.first_seq,
        };
        let _ = before.segment.upto.set(upto);
    }
    if let Some(last) = segments.last()
        && let Some(newest) = evidence.newest.filter(|newest| newest.generation > last.header.generation)
    {
        let _ = last.segment.upto.set(newest.first_seq);
    }
}

/// Names what the end of the log lost, by what the state and other files know of it.
fn lose_tail(
    scan: &mut Scan,
    (state, state_lost): (&State, bool),
    segments: &[FoundSegment],
    unusable: &[Unusable],
    reached: u64,
) {
    let last = segments.last().map(|last| last.header.generation);
    let evidence = &state.evidence;
    let is_behind = |generation: u64| last.is_none_or(|last| generation > last);
    // A lost segment could have held as many records as its bytes allow, from its first number on. So could what cannot be seen of one.
    let could_reach = |first_seq: u64, bytes: u64| first_seq.max(scan.next_seq) + bytes / SMALLEST_RECORD;
    let newest = evidence.newest.filter(|newest| is_behind(newest.generation));
    let newest = newest.map(|newest| could_reach(newest.first_seq, newest.bytes));
    let damaged = unusable.iter().filter(|file| evidence.newest.is_none() && is_behind(file.generation));
    let damaged = damaged.map(|file| could_reach(0, file.bytes.max(ANY_SEGMENT))).max();
    let cut = segments.last().filter(|_| scan.open_ended).map(|last| could_reach(0, last.segment.bytes.saturating_sub(scan.end)));
    // Without a state nobody knows whether there was a newer segment, unless the files of ids know the very end.
    let blind = segments.last().filter(|_| state_lost && reached != scan.next_seq);
    let blind = blind.map(|last| could_reach(0, last.segment.bytes));
    let unseen = newest.or(damaged).max(cut).max(blind);
    let known = evidence.tail.max(reached).max(state.positions.values().max().copied().unwrap_or(0));
    let next_seq = known.max(unseen.unwrap_or(0));
    if next_seq <= scan.next_seq {
        return;
    }
    let first_seq = scan.next_seq;
    let ranges = scan.any_chain(first_seq..next_seq, None);
    scan.break_chains(&ranges);
    scan.unknown_chains = true;
    scan.next_seq = next_seq;
    let extent = if unseen.is_some() { Extent::AtMost } else { Extent::Exact };
    let damage = Damage { first_seq, next_seq, ranges, extent };
    match scan.damage.last_mut().filter(|before| before.next_seq == first_seq) {
        Some(before) => before.join(damage),
        None => scan.damage.push(damage),
    }
}

/// Losses between segments: one that cannot be used, or that its successor knows and that is gone.
fn holes(
    disk: &Arc<dyn Disk>,
    uuid: &[u8; 16],
    arcs: &[Arc<Segment>],
    segments: &[FoundSegment],
    unusable: &[Unusable],
    (oldest, current): (u64, &Heads),
    void: &mut Vec<(Arc<Segment>, u64)>,
) -> Result<Vec<Damage>> {
    let mut damage = Vec::new();
    for (index, pair) in segments.windows(2).enumerate() {
        let [before, after] = pair else { continue };
        let (from, to) = (before.header.generation, after.header.generation);
        let named = unusable.iter().any(|file| file.generation > from && file.generation < to);
        let previous = after.header.previous.map(|previous| previous.generation);
        let missed = previous.is_some_and(|previous| previous > from && previous >= oldest);
        if !named && !missed {
            continue;
        }
        let upto = after.header.first_seq;
        let held = scan(&**disk, uuid, &before.segment, Reading { keep: false, cut: before.cut })?;
        let _ = before.segment.end.set(held.end);
        if held.unbelieved {
            void.push((before.segment.clone(), held.end));
        }
        // What is damaged at its own end is part of the loss.
        let first_seq = held.believed();
        if first_seq >= upto {
            continue;
        }
        let mut window = Window::default();
        let heads = window.heads_before(uuid, arcs, (index, held.end))?;
        let ranges = between(&heads, &snapshot(&mut window, uuid, &after.segment, current)?, first_seq..upto);
        damage.push(Damage { first_seq, next_seq: upto, ranges, extent: Extent::Exact });
    }
    Ok(damage)
}

/// Undelivered records below the oldest segment that is there.
fn lost_front(
    uuid: &[u8; 16],
    state: &State,
    segments: &[FoundSegment],
    unusable: &[Unusable],
    current: &Heads,
) -> Result<Option<Damage>> {
    let (Some(first), Some(newest)) = (segments.first(), segments.last()) else { return Ok(None) };
    let delivered = state.positions.values().min().copied();
    let oldest = state.oldest.max(newest.header.oldest);
    let is_gone = |generation: u64| generation >= oldest && generation < first.header.generation;
    let misses_one = first.header.previous.is_some_and(|previous| is_gone(previous.generation))
        || unusable.iter().any(|file| is_gone(file.generation))
        || (first.header.version < 2 && first.header.generation > oldest && oldest <= 1);
    // If nobody knows what was delivered, only a segment that was in use and is gone is a loss.
    if delivered.is_none() && !misses_one {
        return Ok(None);
    }
    let needed = delivered.unwrap_or(0);
    if first.header.first_seq <= needed {
        return Ok(None);
    }
    let after = snapshot(&mut Window::default(), uuid, &first.segment, current)?;
    // Where the chains stood at `needed` is not known, but for 0.
    let before = Heads { known: HeadMap::new(), complete: needed == 0, reached: 0 };
    let ranges = between(&before, &after, needed..first.header.first_seq);
    let extent = if delivered == Some(0) { Extent::Exact } else { Extent::AtMost };
    Ok(Some(Damage { first_seq: needed, next_seq: first.header.first_seq, ranges, extent }))
}

/// Heads of the chains at the beginning of a segment; the current ones if its snapshot cannot be read, which are further.
fn snapshot(window: &mut Window, uuid: &[u8; 16], segment: &Arc<Segment>, current: &Heads) -> Result<Heads> {
    let seed = seed(uuid, segment.generation);
    let header = window.header(segment, seed, segment.blocks_at, segment.bytes)?.filter(BlockHeader::is_snapshot);
    let known = header.map(|header| header.ranges.into_iter().map(|range| (range.id.clone(), range)).collect());
    Ok(known.map_or_else(|| current.clone(), |known| Heads { known, complete: true, reached: 0 }))
}

/// Makes durable what was found, then builds the journal on it. Nothing is answered for, delivered or chained upon before.
fn carry_out(
    disk: Arc<dyn Disk>,
    options: Options,
    envelope: Envelope,
    plan: Plan,
    (spares, next_generation): (Vec<String>, u64),
    mode: Mode,
) -> Result<Opened> {
    let Plan { uuid, state, segments, scan, fresh, damage, void } = plan;
    let keys = &envelope.keys;
    let newest = segments.last();
    let (stored, stored_key, name) = match newest {
        Some(newest) => (newest.header.id_key, newest.header.key_id, newest.segment.name.as_str()),
        None => (state.id_key, state.key_id, "state"),
    };
    let mut id_key = keys.mask(&stored_key, &uuid, &stored, name)?;
    let key_id = keys.current_id();
    let was_clear = state.key_id == [0; 16];
    let mut evidence = state.evidence;
    evidence.encrypted_from = match (was_clear, key_id == [0; 16]) {
        (_, true) => None,
        (true, false) => Some(next_generation),
        (false, false) => evidence.encrypted_from,
    };
    evidence.id_key_exposed |= key_id == [0; 16] || was_clear;
    let id_key_changed = evidence.id_key_exposed && key_id != [0; 16] && mode == Mode::Use && !fresh;
    if id_key_changed {
        getrandom::fill(&mut id_key).map_err(|error| Error::io("read", "the random source")(error.into()))?;
        evidence.id_key_exposed = false;
    }
    evidence.tail = evidence.tail.max(scan.next_seq);
    let last = newest.map(|found| &found.segment);
    let last = last.map(|last| Newest { generation: last.generation, bytes: last.bytes, first_seq: last.first_seq });
    evidence.newest = evidence.newest.into_iter().chain(last).max_by_key(|newest| newest.generation);
    if scan.unknown_chains {
        evidence.chain_floor = scan.next_seq;
    }
    let id_key_stored = keys.mask(&key_id, &uuid, &id_key, "state")?;
    let next = State { uuid, id_key: id_key_stored, key_id, evidence, ..state.clone() };
    let state = if mode == Mode::Use {
        if let Some(newest) = newest {
            write_again(&newest.segment, scan.end)?;
        }
        for (segment, at) in void {
            let file = segment.open()?;
            file.write_at(&[0; SECTOR], at).map_err(Error::io("write", &segment.name))?;
            file.sync().map_err(Error::io("sync", &segment.name))?;
        }
        let mut file = StateFile::open(&*disk, state)?;
        file.save(next.clone())?;
        if id_key_changed {
            // The other slot has the old key.
            file.save(next)?;
        }
        disk.sync_dir().map_err(Error::io("sync", "the directory"))?;
        file
    } else {
        StateFile::read_only(next)
    };
    let unlike = newest.is_some_and(|newest| newest.header.key_id != key_id || newest.header.version < 2) || id_key_changed;
    // Behind damage a fresh segment is begun, so that nothing of the damaged one is overwritten.
    let go_on = scan.damage.is_empty() && scan.has_snapshot && !unlike && mode == Mode::Use;
    let active = match newest {
        Some(newest) if go_on && !newest.cut => Some(Active {
            segment: newest.segment.clone(),
            file: newest.segment.open()?,
            offset: scan.end,
            ordinal: scan.ordinal,
            wall_ms: scan.wall_ms,
            written: scan.end,
            from_reserve: false,
        }),
        _ => None,
    };
    seal(&segments, &scan, active.is_some());
    let tail = Tail { generation: newest.map_or(0, |newest| newest.header.generation), offset: scan.end, seq: scan.next_seq };
    let segments = segments.into_iter().map(|found| found.segment).collect();
    let inner = SharedInner { segments, tail, heads: ChainHeads::new(scan.heads) };
    let mut journal = Journal::new(Parts {
        disk,
        options,
        envelope,
        id_key,
        shared: Arc::new(Shared { uuid, inner: Mutex::new(inner) }),
        active,
        next_seq: scan.next_seq,
        next_generation,
        state,
        spares: if mode == Mode::Use { spares } else { Vec::new() },
        journal_ms: scan.journal_ms,
    });
    if mode == Mode::Use {
        journal.leave_larger_segment();
        journal.keep_reserve();
    }
    let damage = damage.into_iter().chain(scan.damage).collect();
    let (journal_ms, wall_ms) = (scan.journal_ms, scan.wall_ms);
    Ok(Opened { journal, fresh, damage, journal_ms, wall_ms, unusable: Vec::new(), state_lost: false, id_key_changed })
}

/// Notes when segments were sealed: when the next one was begun. Retention counts from then.
fn seal(segments: &[FoundSegment], scan: &Scan, goes_on: bool) {
    let mut sealed_ms = scan.wall_ms;
    for (index, found) in segments.iter().enumerate().rev() {
        let is_last = index + 1 == segments.len();
        if is_last && !goes_on {
            let _ = found.segment.end.set(scan.end);
            let _ = found.segment.upto.set(scan.believed());
        }
        if !is_last || !goes_on {
            let _ = found.segment.sealed_ms.set(sealed_ms);
        }
        // A salvaged header does not know: then the one behind counts.
        if found.header.created > 0 {
            sealed_ms = found.header.created;
        }
    }
}

/// Writes a segment again, the same bytes in their places, and syncs it. A crash may have left blocks in memory only, and after a failed
/// sync of an earlier process their pages may be clean and on no disk: a sync alone would not write them. A cut in between costs
/// nothing, for a sector that was durable is overwritten with itself.
fn write_again(segment: &Segment, end: u64) -> Result<()> {
    let file = segment.open()?;
    let mut buffer = vec![0; COPY_BYTES.min(end as usize)];
    let mut at = 0;
    while at < end {
        let want = buffer.len().min((end - at) as usize);
        let (count, bad) = read_readable(&*file, &mut buffer[..want], at).map_err(Error::io("read", &segment.name))?;
        if count == 0 {
            break;
        }
        if bad == 0 {
            file.write_at(&buffer[..count], at).map_err(Error::io("write", &segment.name))?;
        } else {
            // Not over a place that cannot be read: it may be readable another time.
            for page in (0..count).step_by(PAGE) {
                let to = (page + PAGE).min(count);
                if file.read_at(&mut buffer[page..to], at + page as u64).is_ok() {
                    file.write_at(&buffer[page..to], at + page as u64).map_err(Error::io("write", &segment.name))?;
                }
            }
        }
        at += count as u64;
    }
    file.sync().map_err(Error::io("sync", &segment.name))
}

/// Unit in which a place is unreadable, in bytes.
const PAGE: usize = 4096;
