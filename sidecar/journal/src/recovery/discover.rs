//! Finds what lies in a journal's directory: segments, spare files, and what is named like a segment and is none. A file is what its
//! contents say, not what its name says: two files whose names were swapped are both used, and named right again.
use std::{collections::BTreeMap, sync::Arc};

use crate::{
    Disk, Error, Keys, Result,
    disk::read_readable,
    format::{BLOCK_MAGIC, SEGMENT_HEADER, SEGMENT_HEADER_1, SegmentHeader, seed},
    segment::{Segment, named_generation, segment_name},
    state::State,
    window::Window,
};

/// A segment that was found.
pub(crate) struct FoundSegment {
    pub(crate) header: SegmentHeader,
    pub(crate) segment: Arc<Segment>,
    /// The file is shorter than its segment: something cut it.
    pub(crate) cut: bool,
    /// The file that it was found in.
    file: String,
    /// Nothing proves that it was used, and it holds no record.
    is_empty: bool,
}

/// What is named like a segment and cannot be used as one.
pub(crate) struct Unusable {
    pub(crate) name: String,
    /// By its name.
    pub(crate) generation: u64,
    pub(crate) bytes: u64,
    pub(crate) reason: &'static str,
}

#[derive(Default)]
pub(crate) struct Found {
    /// The journal; `None`: nothing says which.
    pub(crate) uuid: Option<[u8; 16]>,
    /// In the order of their generations.
    pub(crate) segments: Vec<FoundSegment>,
    pub(crate) spares: Vec<String>,
    pub(crate) unusable: Vec<Unusable>,
    /// Segments under wrong names: the name of each, and the right one.
    pub(crate) misnamed: Vec<(String, String)>,
    pub(crate) next_generation: u64,
    /// The state is that of another journal; nothing else was looked at.
    pub(crate) foreign_state: bool,
    /// The highest number that a file of another room names, by its name alone.
    pub(crate) named_end: u64,
}

/// A file and what its header says.
struct Candidate {
    name: String,
    size: u64,
    header: Option<SegmentHeader>,
}

/// Reads all headers. Changes nothing.
pub(crate) fn discover(disk: &Arc<dyn Disk>, state: Option<&State>, keys: &Keys) -> Result<Found> {
    let oldest = state.map_or(0, |state| state.oldest);
    let newest = state.and_then(|state| state.evidence.newest).map_or(0, |newest| newest.generation);
    let mut found = Found { next_generation: oldest.max(newest + 1), ..Found::default() };
    let (mut candidates, mut spares, mut of_ids) = (Vec::new(), Vec::new(), Vec::new());
    for (name, size) in disk.list().map_err(Error::io("list", "the directory"))? {
        if let Some(end) = index_end(&name) {
            found.named_end = found.named_end.max(end);
            of_ids.extend(uuid_of_ids(&**disk, &name));
        }
        // The lock is held by its file, and folders are not the journal's.
        if name == "lock" || name.contains('/') {
            continue;
        }
        let header = read_header(&**disk, &name)?;
        // A spare may carry a generation that was prepared and never named: never use that again.
        let generations = [header.as_ref().map_or(0, |header| header.generation), named_generation(&name).unwrap_or(0)];
        found.next_generation = found.next_generation.max(generations[0].max(generations[1]) + 1);
        if name.starts_with("spare-") {
            spares.push(Candidate { name, size, header });
        } else if header.is_some() || named_generation(&name).is_some() {
            candidates.push(Candidate { name, size, header });
        }
    }
    // Only a segment that was in use is one under a spare's name: what was prepared and never named holds nothing.
    let known: Vec<u64> = candidates.iter().chain(&spares).filter_map(Candidate::previous).chain([newest]).collect();
    for spare in spares {
        let is_used = |header: &SegmentHeader| header.generation >= oldest && known.contains(&header.generation);
        if spare.header.as_ref().is_some_and(is_used) { candidates.push(spare) } else { found.spares.push(spare.name) }
    }
    (found.uuid, found.foreign_state) = elect(&count_votes(&candidates, &of_ids), state);
    if found.foreign_state {
        return Ok(found);
    }
    let encrypted_from = state.and_then(|state| state.evidence.encrypted_from);
    let mut headless = Vec::new();
    for candidate in candidates {
        let named = named_generation(&candidate.name);
        let mut unusable = |reason| {
            // What is not named like a segment is left alone.
            if let Some(generation) = named {
                let Candidate { name, size: bytes, .. } = &candidate;
                found.unusable.push(Unusable { name: name.clone(), generation, bytes: *bytes, reason });
            }
        };
        match &candidate.header {
            // Its deletion was recorded before.
            _ if named.is_some_and(|named| named < oldest) && !candidate.is_live(found.uuid, oldest) => {
                found.spares.push(candidate.name);
            }
            None => headless.push(candidate),
            Some(header) if Some(header.uuid) != found.uuid => unusable("it belongs to another journal"),
            Some(header) if header.generation < oldest => unusable("it is an older segment under another name"),
            Some(header) if header.key_id == [0; 16] && encrypted_from.is_some_and(|from| header.generation >= from) => {
                unusable("it is in clear, and the journal was encrypted by then");
            }
            Some(header) => {
                // Without its key nothing is done to this directory at all.
                let key = keys.find(&header.key_id, &candidate.name)?;
                let cipher = key.map(|key| key.cipher(&header.salt, &header.uuid, header.generation)).transpose()?;
                let segment = Segment::new(candidate.name.clone(), header, disk.clone(), cipher);
                let cut = header.version >= 2 && candidate.size < header.bytes;
                let is_unknown = header.version >= 2 && !known.contains(&header.generation);
                let is_empty = is_unknown && !has_record(&segment, &header.uuid, 0)?;
                let segment = Arc::new(Segment { name: segment_name(header.generation), ..segment });
                found.segments.push(FoundSegment { header: header.clone(), segment, cut, file: candidate.name, is_empty });
            }
        }
    }
    drop_copies(&mut found);
    drop_unused(&mut found)?;
    for candidate in headless {
        salvage(disk, state, &mut found, candidate)?;
    }
    found.segments.sort_by_key(|found| found.header.generation);
    let misnamed = found.segments.iter().filter(|found| found.is_misnamed());
    found.misnamed = misnamed.map(|found| (found.file.clone(), found.segment.name.clone())).collect();
    Ok(found)
}

impl FoundSegment {
    fn is_misnamed(&self) -> bool {
        self.file != self.segment.name
    }
}

impl Candidate {
    /// The generation that it followed.
    fn previous(&self) -> Option<u64> {
        self.header.as_ref()?.previous.map(|previous| previous.generation)
    }

    /// Whether it holds a segment of this journal that is in use.
    fn is_live(&self, uuid: Option<[u8; 16]>, oldest: u64) -> bool {
        self.header.as_ref().is_some_and(|header| Some(header.uuid) == uuid && header.generation >= oldest)
    }
}

/// The end of the range in the name of a file of event ids.
fn index_end(name: &str) -> Option<u64> {
    let (_, end) = name.strip_prefix("idx-")?.split_once('-')?;
    u64::from_str_radix(end, 16).ok()
}

/// A segment that was being prepared when the power went, while the one before it went on: nothing was ever in it.
fn drop_unused(found: &mut Found) -> Result<()> {
    for index in (1..found.segments.len()).rev() {
        let [before, unused] = &found.segments[index - 1..=index] else { continue };
        if unused.is_empty && has_record(&before.segment, &before.header.uuid, unused.header.first_seq)? {
            let unused = found.segments.remove(index);
            found.spares.push(unused.file);
        }
    }
    Ok(())
}

/// Whether a segment holds a record at or above a sequence number.
fn has_record(segment: &Segment, uuid: &[u8; 16], from: u64) -> Result<bool> {
    let (seed, mut window) = (seed(uuid, segment.generation), Window::default());
    let mut at = segment.blocks_at;
    while let Some((start, block)) = window.resync(segment, seed, at, segment.bytes, 0)? {
        if block.count > 0 && block.next_seq() > from {
            return Ok(true);
        }
        at = start + block.stored_len();
    }
    Ok(false)
}

fn read_header(disk: &dyn Disk, name: &str) -> Result<Option<SegmentHeader>> {
    let file = match disk.open(name, false) {
        // Somebody removed or renamed it since: `journal inspect` may look beside a sidecar that runs.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(Error::io("open", name))?,
    };
    let mut bytes = [0; SEGMENT_HEADER as usize];
    read_readable(&*file, &mut bytes, 0).map_err(Error::io("read", name))?;
    let (first, second) = SegmentHeader::copies(name, &bytes)?;
    Ok(first.or(second))
}

/// How many files say that this is the journal with a UUID: segments under their right names, and files of event ids. Among equals the
/// newest segment decides.
type Votes = BTreeMap<[u8; 16], (usize, u64)>;

fn count_votes(candidates: &[Candidate], of_ids: &[[u8; 16]]) -> Votes {
    let mut votes = Votes::new();
    for candidate in candidates {
        let Some(header) = &candidate.header else { continue };
        let is_named = candidate.name == segment_name(header.generation);
        let vote = votes.entry(header.uuid).or_default();
        *vote = (vote.0 + usize::from(is_named), vote.1.max(header.generation));
    }
    for uuid in of_ids {
        // Ids alone are no journal.
        if let Some(vote) = votes.get_mut(uuid) {
            vote.0 += 1;
        }
    }
    votes
}

/// The journal: what the state says, unless more files agree on another one. Then the state is somebody else's.
fn elect(votes: &Votes, state: Option<&State>) -> (Option<[u8; 16]>, bool) {
    let best = votes.iter().max_by_key(|(_, vote)| **vote).map(|(uuid, vote)| (*uuid, vote.0));
    let Some(state) = state else { return (best.map(|(uuid, _)| uuid), false) };
    let own = 1 + votes.get(&state.uuid).map_or(0, |vote| vote.0);
    match best.filter(|(uuid, count)| *uuid != state.uuid && *count > own) {
        Some((uuid, _)) => (Some(uuid), true),
        None => (Some(state.uuid), false),
    }
}

/// The UUID in a file of event ids; its layout is that of the commit loop's index.
fn uuid_of_ids(disk: &dyn Disk, name: &str) -> Option<[u8; 16]> {
    let file = disk.open(name, false).ok()?;
    let mut bytes = [0; 512];
    read_readable(&*file, &mut bytes, 0).ok()?;
    let crc = u32::from_le_bytes(bytes[508..].try_into().ok()?);
    let is_valid = bytes.starts_with(b"STENOIDX") && crc == crc32c::crc32c(&bytes[..508]);
    if is_valid { bytes[16..32].try_into().ok() } else { None }
}

/// Of several files with one generation the one of that name counts; the others were copied over something else.
fn drop_copies(found: &mut Found) {
    found.segments.sort_by_key(|found| (found.header.generation, found.is_misnamed()));
    let segments = std::mem::take(&mut found.segments);
    for segment in segments {
        if found.segments.last().is_none_or(|last| last.header.generation != segment.header.generation) {
            found.segments.push(segment);
        } else if let Some(generation) = named_generation(&segment.file) {
            let (name, bytes, reason) = (segment.file, segment.segment.bytes, "it is a copy of another segment");
            found.unusable.push(Unusable { name, generation, bytes, reason });
        }
    }
}

/// A segment both of whose headers are damaged: its name says the generation, its first good block the sequence number, and any
/// other segment or the state the rest.
fn salvage(disk: &Arc<dyn Disk>, state: Option<&State>, found: &mut Found, candidate: Candidate) -> Result<()> {
    let Candidate { name, size, .. } = candidate;
    let known = found.segments.last().map(|found| (found.header.id_key, found.header.key_id));
    let known = known.or_else(|| state.map(|state| (state.id_key, state.key_id)));
    let named = named_generation(&name).unwrap_or(0);
    if let (Some(uuid), Some((id_key, key_id))) = (found.uuid, known) {
        let claimed = claimed_generation(&**disk, &name)?;
        for generation in std::iter::once(named).chain(claimed.filter(|claimed| *claimed != named)) {
            let right = segment_name(generation);
            let taken = found.segments.iter().any(|found| found.header.generation == generation);
            if taken || generation < state.map_or(0, |state| state.oldest) {
                continue;
            }
            let header = SegmentHeader {
                version: 1,
                uuid,
                generation,
                first_seq: 0,
                id_key,
                salt: [0; 16],
                key_id,
                created: 0,
                bytes: size,
                oldest: state.map_or(0, |state| state.oldest),
                previous: None,
                chain_floor: 0,
            };
            // Read under the name that it has.
            let mut segment = Segment::new(name.clone(), &header, disk.clone(), None);
            let first = Window::default().resync(&segment, seed(&uuid, generation), SEGMENT_HEADER_1, size, 0)?;
            let Some((at, block)) = first else { continue };
            segment.first_seq = block.first_seq;
            segment.blocks_at = at;
            // Its salt is gone with both copies of its header; encrypted blocks of it are lost, and named.
            segment.encrypted = key_id != [0; 16];
            let header = SegmentHeader { first_seq: block.first_seq, ..header };
            segment.name = right;
            found.segments.push(FoundSegment { header, segment: Arc::new(segment), cut: false, file: name, is_empty: false });
            return Ok(());
        }
    }
    found.unusable.push(Unusable { name, generation: named, bytes: size, reason: "neither its header nor a block can be read" });
    Ok(())
}

/// The generation that the first block of a file names. Nothing of it was checked.
fn claimed_generation(disk: &dyn Disk, name: &str) -> Result<Option<u64>> {
    let file = disk.open(name, false).map_err(Error::io("open", name))?;
    let mut bytes = vec![0; 16 << 10];
    let (count, _) = read_readable(&*file, &mut bytes, 0).map_err(Error::io("read", name))?;
    let at = [SEGMENT_HEADER, SEGMENT_HEADER_1].map(|at| at as usize);
    let block = at.into_iter().find(|at| *at < count && bytes[*at..].starts_with(BLOCK_MAGIC));
    Ok(block.and_then(|at| bytes.get(at + 8..at + 16)?.try_into().ok()).map(u64::from_le_bytes))
}
