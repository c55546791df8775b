//! The writer: appends blocks, syncs them, rolls and recycles segments.
use std::{collections::BTreeMap, sync::Arc};

use crate::{
    Disk, DiskFile, Envelope, Error, Result,
    envelope::OVERHEAD,
    format::{
        BlockHeader, ChainRange, FLAG_AES, FLAG_ENDED, FLAG_SNAPSHOT, FLAG_ZSTD, Previous, SEGMENT_HEADER, SEGMENT_VERSION,
        SegmentHeader, seed,
    },
    segment::{Segment, segment_name},
    shared::{Shared, Tail},
    state::{Evidence, Newest, State, StateFile},
};

/// How a journal is kept.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Bound of everything in the directory, in bytes.
    pub max_bytes: u64,
    /// Size of a new segment in bytes. A segment is larger if the heads of the chains need it.
    pub segment_bytes: u64,
    /// Segments that only the sidecar's own records may use.
    pub control_segments: u64,
    /// Delivered blocks are kept so long, in milliseconds of wall clock; 0: no age asked for.
    pub retain_ms: u64,
    /// Delivered blocks are kept up to so many bytes; 0: no amount asked for.
    pub retain_bytes: u64,
    /// Files of freed segments are used again, which is faster; else they are removed, and what was in them is gone.
    pub recycle: bool,
}

/// Who may use which part of the bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Ordinary events: all but the segments of the classes below.
    Normal,
    /// Critical events: one segment more.
    Critical,
    /// Records of the sidecar itself: everything.
    Control,
}

/// A block to append.
#[derive(Debug)]
pub struct NewBlock<'a> {
    /// Which part of the bound it may use.
    pub class: Class,
    /// Number of records.
    pub count: u32,
    /// Heads of the chains after this block.
    pub ranges: Vec<ChainRange>,
    /// These chains end with it: their heads are no longer kept.
    pub ends: bool,
    /// Wall clock, milliseconds since 1970.
    pub wall_ms: u64,
    /// Journal clock in milliseconds.
    pub journal_ms: u64,
    /// The payload, in pieces.
    pub payload: &'a [&'a [u8]],
}

/// How much of the bound is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of segments that hold something still needed, whether full or not.
    pub live: u64,
    /// Bytes of segments with records that a sink does not have yet.
    pub undelivered: u64,
    /// Bytes of files waiting to be used again.
    pub spare: u64,
    /// Bytes of other rooms' files.
    pub extra: u64,
    /// The bound.
    pub bound: u64,
    /// Segments in use.
    pub segments: usize,
}

/// A segment in use, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its file.
    pub name: String,
    /// Its generation.
    pub generation: u64,
    /// Its first sequence number.
    pub first_seq: u64,
    /// Whether its blocks are encrypted.
    pub encrypted: bool,
    /// Size of its file.
    pub bytes: u64,
}

/// The segment that is written to.
pub(crate) struct Active {
    pub(crate) segment: Arc<Segment>,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) offset: u64,
    pub(crate) ordinal: u32,
    pub(crate) wall_ms: u64,
    /// Up to here the file has extents that were written before: a block inside them changes no metadata of the file system.
    pub(crate) written: u64,
    /// It is the reserve: no ordinary event began it.
    pub(crate) from_reserve: bool,
}

/// A file that waits to be used, with space reserved for a segment.
pub(crate) struct Spare {
    pub(crate) name: String,
    /// Up to here it was written before.
    pub(crate) written: u64,
}

/// Zeros written ahead of a file that grows. A sync of a file that has grown is a transaction of the file system, of several writes;
/// this way there is one for many blocks.
const AHEAD: u64 = 256 << 10;

/// A block's payload on its way to the disk.
struct Stored<'a> {
    flags: u16,
    plain_len: usize,
    payload: &'a [&'a [u8]],
}

struct Pending {
    end: u64,
    next_seq: u64,
    wall_ms: u64,
    ranges: Vec<ChainRange>,
    ends: bool,
}

/// The writer.
pub struct Journal {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) options: Options,
    pub(crate) envelope: Envelope,
    pub(crate) id_key: [u8; 32],
    pub(crate) shared: Arc<Shared>,
    pub(crate) active: Option<Active>,
    pub(crate) next_seq: u64,
    pub(crate) next_generation: u64,
    pub(crate) state: StateFile,
    pub(crate) spares: Vec<Spare>,
    pub(crate) extra: u64,
    /// Bytes of all segments in use.
    live: u64,
    /// Bytes that the heads of the chains take in a snapshot.
    heads_bytes: usize,
    /// A block that could not be written: its file, and where it begins.
    failed: Option<(Arc<dyn DiskFile>, u64)>,
    /// Journal clock of the last block, in milliseconds.
    clock_ms: u64,
    pending: Option<Pending>,
    buffer: Vec<u8>,
}

/// Spare files that are kept for use; more are removed.
const SPARES: usize = 2;
/// Bytes of a snapshot besides the heads, rounded up.
const SNAPSHOT_FIXED: u64 = 128;
/// Bytes of a block besides payload, ranges and encryption, rounded up.
const BLOCK_SLACK: usize = 128;

// === impl Journal ===

/// What a journal is made from, once its directory was read.
pub(crate) struct Parts {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) options: Options,
    pub(crate) envelope: Envelope,
    pub(crate) id_key: [u8; 32],
    pub(crate) shared: Arc<Shared>,
    pub(crate) active: Option<Active>,
    pub(crate) next_seq: u64,
    pub(crate) next_generation: u64,
    pub(crate) state: StateFile,
    pub(crate) spares: Vec<String>,
    pub(crate) journal_ms: u64,
}

impl Journal {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { disk, options, envelope, id_key, shared, active, next_seq, next_generation, state, spares, journal_ms } =
            parts;
        let spares = if options.recycle { spares } else { without(&*disk, spares) };
        let spares = spares.into_iter().map(|name| Spare { name, written: 0 }).collect();
        let inner = shared.inner.lock();
        let live = inner.segments.iter().map(|segment| segment.bytes).sum();
        let heads_bytes = inner.heads.bytes();
        drop(inner);
        Self {
            disk,
            options,
            envelope,
            id_key,
            shared,
            active,
            next_seq,
            next_generation,
            state,
            spares,
            extra: 0,
            live,
            heads_bytes,
            failed: None,
            clock_ms: journal_ms,
            pending: None,
            buffer: Vec::new(),
        }
    }

    /// The journal's UUID.
    pub fn uuid(&self) -> [u8; 16] {
        self.shared.uuid
    }

    /// The journal's key for ids and fingerprints.
    pub fn id_key(&self) -> [u8; 32] {
        self.id_key
    }

    /// Sequence number of the next record.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The segments in use, oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let inner = self.shared.inner.lock();
        let info = |segment: &Arc<Segment>| SegmentInfo {
            name: segment.name.clone(),
            generation: segment.generation,
            first_seq: segment.first_seq,
            encrypted: segment.encrypted,
            bytes: segment.bytes,
        };
        inner.segments.iter().map(info).collect()
    }

    /// What readers need.
    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// The disk.
    pub fn disk(&self) -> Arc<dyn Disk> {
        self.disk.clone()
    }

    /// Changes the bound and what is kept, from now on. The next segment has the new size.
    pub fn set_options(&mut self, options: Options) {
        self.options = options;
        self.leave_larger_segment();
    }

    /// Begins a segment of the size that counts now if the newest one is larger: it could be as large as a bound that was lowered, and
    /// would hold the space for as long as it is the newest. For this one segment the bound does not count.
    pub(crate) fn leave_larger_segment(&mut self) {
        let newest = self.shared.inner.lock().segments.last().map_or(0, |segment| segment.bytes);
        if newest <= self.next_segment_bytes() || self.pending.is_some() {
            return;
        }
        let wall_ms = self.active.as_ref().map_or(0, |active| active.wall_ms);
        if let Err(error) = self.roll(Class::Control, wall_ms) {
            tracing::warn!(%error, "failed to begin a smaller segment; the larger one holds its space for now");
        }
    }

    /// Changes how new blocks are kept. Another key begins with a segment of its own.
    pub fn set_envelope(&mut self, envelope: Envelope) {
        let same = self.envelope.keys.current_id() == envelope.keys.current_id();
        self.envelope = envelope;
        if same {
            return;
        }
        self.abandon();
        // The state's copy of the key for ids is masked with the key that counts from now on.
        let (uuid, key_id) = (self.shared.uuid, self.envelope.keys.current_id());
        let masked = self.envelope.keys.mask(&key_id, &uuid, &self.id_key, "state");
        let evidence = self.encryption_evidence(key_id);
        let saved = masked.and_then(|id_key| {
            let next = State { id_key, key_id, evidence, ..self.state.current.clone() };
            self.state.save(next.clone())?;
            // In both slots: the other one still has it as it was.
            self.state.save(next)
        });
        if let Err(error) = saved {
            tracing::warn!(%error, "the state keeps its key for ids as it was until the next start");
        }
    }

    /// What the state says of encryption once a key counts.
    fn encryption_evidence(&self, key_id: [u8; 16]) -> Evidence {
        let evidence = self.state.current.evidence;
        let was_clear = self.state.current.key_id == [0; 16];
        match (was_clear, key_id == [0; 16]) {
            (true, false) => Evidence { encrypted_from: Some(self.next_generation), id_key_exposed: true, ..evidence },
            (_, true) => Evidence { encrypted_from: None, ..evidence },
            (false, false) => evidence,
        }
    }

    /// Tells how many bytes other rooms use in the directory.
    pub fn set_extra(&mut self, bytes: u64) {
        self.extra = bytes;
    }

    /// Bytes of a new segment: what the options say, or more if the heads of the chains would take more than a quarter of it.
    fn next_segment_bytes(&self) -> u64 {
        self.options.segment_bytes.max((self.heads_bytes as u64 * 4).next_multiple_of(64 << 10))
    }

    /// Largest payload of a block, in bytes, if it touches these chains. A block up to that size fits into an empty segment
    /// under the options of now; the one owner of this bound.
    pub fn payload_room(&self, ranges_bytes: usize) -> u64 {
        let heads = self.heads_bytes;
        // Chains that the block begins are in the snapshot of a later segment only, but a block that fails is written again there.
        let taken = SEGMENT_HEADER + SNAPSHOT_FIXED + heads as u64 + (ranges_bytes + OVERHEAD + BLOCK_SLACK) as u64;
        self.next_segment_bytes().saturating_sub(taken)
    }

    /// Whether the heads of the chains leave room for one more, in bytes of [`ChainRange::stored_len`]. Heads take at most an eighth of
    /// a segment, so that the records that must be written of all chains together fit into the headroom.
    pub fn has_head_room(&self, more: usize) -> bool {
        (self.heads_bytes + more) as u64 <= self.options.segment_bytes / 8
    }

    /// The number that a chain begins with which nobody knows yet. Above 0 after a loss that may have held chains.
    pub fn chain_floor(&self) -> u64 {
        self.state.current.evidence.chain_floor
    }

    /// Appends a block: written, not yet synced. At most one block may wait for [`Self::sync`].
    /// A failure leaves the journal as it was before the call, in a state to take further blocks.
    ///
    /// # Errors
    /// [`Error::Full`] if the bound or the disk has no room, [`Error::TooLarge`] above [`Self::payload_room`], [`Error::TooMany`] for
    /// counts that the format cannot hold, [`Error::Io`] if the disk refused.
    pub fn append(&mut self, block: &NewBlock<'_>) -> Result<()> {
        BlockHeader::check_counts(&block.ranges)?;
        let plain_len: usize = block.payload.iter().map(|piece| piece.len()).sum();
        let smaller = self.envelope.compressed(block.payload, plain_len);
        let pieces: &[&[u8]] = &[smaller.as_deref().unwrap_or_default()];
        let (payload, mut flags) = if smaller.is_some() { (pieces, FLAG_ZSTD) } else { (block.payload, 0) };
        if block.ends {
            flags |= FLAG_ENDED;
        }
        let payload_len = payload.iter().map(|piece| piece.len()).sum::<usize>() + OVERHEAD;
        let needed = (BlockHeader::len_with(&block.ranges) + payload_len).next_multiple_of(8) as u64;
        self.make_room(needed, block.class, block.wall_ms)?;
        let Some(active) = &self.active else { return Err(self.full()) };
        let (segment, file, offset, ordinal) = (active.segment.clone(), active.file.clone(), active.offset, active.ordinal);
        let stored = Stored { flags, plain_len, payload };
        self.encode(&segment, ordinal, block, &stored)?;
        if let Err(source) = file.write_at(&self.buffer, offset) {
            self.fail();
            return Err(Error::io("write", &segment.name)(source));
        }
        self.write_ahead(offset + self.buffer.len() as u64);
        self.clock_ms = self.clock_ms.max(block.journal_ms);
        self.pending = Some(Pending {
            end: offset + self.buffer.len() as u64,
            next_seq: self.next_seq + u64::from(block.count),
            wall_ms: block.wall_ms,
            ranges: block.ranges.clone(),
            ends: block.ends,
        });
        Ok(())
    }

    /// Zeros behind a block that reaches beyond what was written before. A failure costs speed only: the block is there.
    fn write_ahead(&mut self, end: u64) {
        let Some(active) = &mut self.active else { return };
        if end <= active.written {
            return;
        }
        let upto = (end + AHEAD).min(active.segment.bytes).max(end);
        active.written = upto;
        let zeros = vec![0; (upto - end) as usize];
        if !zeros.is_empty() && active.file.write_at(&zeros, end).is_err() {
            active.written = end;
        }
    }

    /// Makes the appended block durable and shows it to readers. On failure the block is void: its sequence numbers are
    /// free again, and the next block goes to a fresh segment.
    pub fn sync(&mut self) -> Result<()> {
        let Some(pending) = self.pending.take() else { return Ok(()) };
        let Some(active) = &mut self.active else { return Ok(()) };
        if let Err(source) = active.file.sync() {
            let name = active.segment.name.clone();
            self.fail();
            return Err(Error::io("sync", name)(source));
        }
        active.offset = pending.end;
        active.ordinal += 1;
        active.wall_ms = pending.wall_ms;
        self.next_seq = pending.next_seq;
        let mut inner = self.shared.inner.lock();
        inner.tail = Tail { generation: active.segment.generation, offset: pending.end, seq: pending.next_seq };
        for range in pending.ranges {
            if pending.ends {
                inner.heads.remove(&range.id);
            } else {
                inner.heads.set(range);
            }
        }
        self.heads_bytes = inner.heads.bytes();
        Ok(())
    }

    fn encode(&mut self, segment: &Segment, ordinal: u32, block: &NewBlock<'_>, stored: &Stored<'_>) -> Result<()> {
        let seed = seed(&self.shared.uuid, segment.generation);
        let mut header = BlockHeader {
            flags: stored.flags,
            generation: segment.generation,
            first_seq: self.next_seq,
            count: block.count,
            ordinal,
            header_len: BlockHeader::len_with(&block.ranges) as u32,
            payload_len: stored.payload.iter().map(|piece| piece.len()).sum::<usize>() as u32,
            plain_len: stored.plain_len as u32,
            payload_crc: 0,
            wall_ms: block.wall_ms,
            journal_ms: block.journal_ms,
            ranges: block.ranges.clone(),
        };
        let sealed;
        let piece;
        let mut payload = stored.payload;
        if let Some(cipher) = &segment.cipher
            && !header.is_snapshot()
        {
            header.flags |= FLAG_AES;
            header.payload_len += OVERHEAD as u32;
            sealed = cipher.seal(ordinal, &header.authenticated(), payload)?;
            piece = [sealed.as_slice()];
            payload = &piece;
        }
        header.payload_crc = payload.iter().fold(seed, |crc, piece| crc32c::crc32c_append(crc, piece));
        self.buffer.clear();
        header.encode_block(seed, payload, &mut self.buffer);
        if self.buffer.capacity() > 4 << 20 {
            self.buffer.shrink_to(self.buffer.len());
        }
        Ok(())
    }

    /// Begins the next segment although there is room in this one, so that what this one holds can be freed. One without a record stays.
    pub fn rotate(&mut self, wall_ms: u64) -> Result<()> {
        if self.pending.is_some() || self.active.as_ref().is_some_and(|active| active.ordinal <= 1) {
            return Ok(());
        }
        // The headroom is not for that.
        if !self.may_roll(Class::Normal) {
            return Err(self.full());
        }
        self.roll(Class::Normal, wall_ms)
    }

    // --- segments ---

    /// Gives up the segment that is written to: its unsynced pages are never touched again.
    fn abandon(&mut self) {
        self.pending = None;
        if let Some(active) = self.active.take() {
            let _ = active.segment.end.set(active.offset);
            let _ = active.segment.sealed_ms.set(active.wall_ms);
        }
    }

    /// Gives the segment up because a block could not be written to it.
    fn fail(&mut self) {
        self.failed = self.active.as_ref().map(|active| (active.file.clone(), active.offset));
        self.abandon();
    }

    /// Has a block that failed never validate: another block has its sequence number. The next segment says so, too; this is for the
    /// case that it is lost.
    fn void_failed(&mut self) {
        let Some((file, offset)) = self.failed.take() else { return };
        if let Err(error) = file.write_at(&[0; 64], offset).and_then(|()| file.sync()) {
            tracing::debug!(%error, "a block that failed stays where it is");
        }
    }

    fn make_room(&mut self, needed: u64, class: Class, wall_ms: u64) -> Result<()> {
        if self.fits_active(needed, class) {
            return Ok(());
        }
        let (next, heads) = (self.next_segment_bytes(), self.heads_bytes as u64);
        if SEGMENT_HEADER + SNAPSHOT_FIXED + heads + needed > next {
            return Err(Error::TooLarge { bytes: needed as usize, segment: next });
        }
        if !self.may_roll(class) {
            return Err(self.full());
        }
        self.roll(class, wall_ms)
    }

    fn fits_active(&self, needed: u64, class: Class) -> bool {
        let Some(active) = &self.active else { return false };
        let fits = active.offset + needed <= active.segment.bytes;
        // A segment from the reserve of a full disk is for those who may use the headroom. The sidecar's own records may use what is
        // there already, also above a bound that was lowered.
        let may = match class {
            Class::Normal => !(active.from_reserve && self.spares.is_empty()),
            Class::Critical => true,
            Class::Control => return fits,
        };
        fits && may && self.live <= self.limit(class)
    }

    fn may_roll(&self, class: Class) -> bool {
        self.live + self.next_segment_bytes() <= self.limit(class)
    }

    /// Bytes of segments that may be in use for a class of blocks.
    fn limit(&self, class: Class) -> u64 {
        let kept = match class {
            Class::Normal => self.options.control_segments + 1,
            Class::Critical => self.options.control_segments,
            Class::Control => 0,
        };
        self.options.max_bytes.saturating_sub(self.extra + 16_384 + kept * self.next_segment_bytes())
    }

    fn full(&self) -> Error {
        let usage = self.usage();
        Error::Full { used: usage.live + usage.extra, bound: usage.bound }
    }

    /// Whether a block of this class and size would be taken now.
    pub fn has_room(&self, class: Class, bytes: u64) -> bool {
        self.fits_active(bytes + 1024, class) || self.may_roll(class)
    }

    /// Whether a block of this class and size would be taken now, and behind it critical ones of `later` bytes in all, none of
    /// which is larger than `piece`.
    pub fn has_room_for(&self, class: Class, bytes: u64, later: u64, piece: u64) -> bool {
        if !self.has_room(class, bytes) {
            return false;
        }
        if later == 0 {
            return true;
        }
        let segment = self.next_segment_bytes();
        let heads = self.heads_bytes as u64;
        // What a segment holds for certain: the end of each may be too short for one more piece.
        let usable = segment.saturating_sub(SEGMENT_HEADER + SNAPSHOT_FIXED + heads + piece);
        let in_active = self.active.as_ref().map_or(0, |active| active.segment.bytes.saturating_sub(active.offset + piece));
        let rolls = self.limit(Class::Critical).saturating_sub(self.live) / segment.max(1);
        in_active + rolls * usable >= bytes + later
    }

    /// Starts the next segment: header, snapshot, sync, rename, directory sync, state. Blocks come after.
    fn roll(&mut self, class: Class, wall_ms: u64) -> Result<()> {
        let generation = self.next_generation;
        // Even a failed try uses its generation up, so that nothing it left behind ever validates.
        self.next_generation += 1;
        let spare = self.take_spare(class)?;
        let name = segment_name(generation);
        let prepared = match self.prepare(&spare, &name, generation, wall_ms) {
            Ok(prepared) => prepared,
            Err(error) => {
                let _ = self.disk.remove(&spare.name);
                let _ = self.disk.remove(&name);
                // The new name may be on disk, and says that older segments hold nothing from here on: they must not.
                self.abandon();
                return Err(error);
            }
        };
        let prepared = Active { from_reserve: class > Class::Normal, ..prepared };
        self.abandon();
        self.live += prepared.segment.bytes;
        self.shared.inner.lock().segments.push(prepared.segment.clone());
        // A start must know of the segment before anything is in it: else its loss would not show.
        let evidence = Evidence {
            newest: Some(Newest { generation, bytes: prepared.segment.bytes, first_seq: prepared.segment.first_seq }),
            tail: self.state.current.evidence.tail.max(self.next_seq),
            ..self.state.current.evidence
        };
        self.state.save(State { evidence, ..self.state.current.clone() })?;
        self.active = Some(prepared);
        self.void_failed();
        self.keep_reserve();
        Ok(())
    }

    /// A file for the next segment. The last spare is a reserve: it has its space for certain, and on a disk that is full it is for
    /// those who may use the headroom.
    fn take_spare(&mut self, class: Class) -> Result<Spare> {
        let may_take = self.spares.len() > 1 || class > Class::Normal;
        // The one that was written to most: overwriting is faster than writing.
        let best = self.spares.iter().enumerate().max_by_key(|(_, spare)| spare.written).map(|(index, _)| index);
        match best.filter(|_| may_take) {
            Some(index) => Ok(self.spares.swap_remove(index)),
            None => self.new_spare(),
        }
    }

    fn new_spare(&self) -> Result<Spare> {
        // Not a name that recycled segments have.
        let is_free = |name: &String| self.spares.iter().all(|spare| spare.name != *name);
        let name = (0..).map(|number| format!("spare-r{number}.log")).find(is_free).unwrap_or_default();
        let made = self.disk.open(&name, true).and_then(|file| file.allocate(self.next_segment_bytes()));
        if let Err(source) = made {
            let _ = self.disk.remove(&name);
            return Err(Error::io("allocate", name)(source));
        }
        Ok(Spare { name, written: 0 })
    }

    /// Has one spare file ready, with its space reserved, if the bound and the disk allow it.
    pub fn keep_reserve(&mut self) {
        if self.spares.is_empty() && self.live + self.next_segment_bytes() <= self.limit(Class::Control) {
            match self.new_spare() {
                Ok(spare) => self.spares.push(spare),
                Err(error) => tracing::debug!(%error, "no reserve for a full disk"),
            }
        }
    }

    /// Removes a spare file, so that its space is there for other files of the directory. Whether there was one.
    pub fn give_up_reserve(&mut self) -> bool {
        let Some(spare) = self.spares.pop() else { return false };
        self.disk.remove(&spare.name).is_ok()
    }

    fn prepare(&mut self, spare: &Spare, name: &str, generation: u64, wall_ms: u64) -> Result<Active> {
        let Spare { name: spare, written } = spare;
        let file = self.disk.open(spare, true).map_err(Error::io("open", spare))?;
        let bytes = self.next_segment_bytes();
        // A file is as long as its segment from the beginning: a shorter one was cut.
        file.allocate(bytes).map_err(Error::io("allocate", spare))?;
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).map_err(|error| Error::io("read", "the random source")(error.into()))?;
        let (uuid, keys) = (self.shared.uuid, &self.envelope.keys);
        let key_id = keys.current_id();
        let header = SegmentHeader {
            version: SEGMENT_VERSION,
            uuid,
            generation,
            first_seq: self.next_seq,
            id_key: keys.mask(&key_id, &uuid, &self.id_key, name)?,
            salt,
            key_id,
            created: wall_ms,
            bytes,
            oldest: self.state.current.oldest,
            chain_floor: self.chain_floor(),
            previous: self.shared.inner.lock().segments.last().map(|segment| Previous {
                generation: segment.generation,
                first_seq: segment.first_seq,
                end_seq: segment.upto().min(self.next_seq),
            }),
        };
        let cipher = keys.current().map(|key| key.cipher(&salt, &uuid, generation)).transpose()?;
        let segment = Arc::new(Segment::new(name.to_owned(), &header, self.disk.clone(), cipher));
        let heads: Vec<ChainRange> = self.shared.inner.lock().heads.all().values().cloned().map(as_snapshot).collect();
        BlockHeader::check_counts(&heads)?;
        let journal_ms = self.clock_ms;
        let class = Class::Control;
        let snapshot = NewBlock { class, count: 0, ranges: heads, ends: false, wall_ms, journal_ms, payload: &[] };
        self.encode(&segment, 0, &snapshot, &Stored { flags: FLAG_SNAPSHOT, plain_len: 0, payload: &[] })?;
        file.write_at(&header.encode(), 0).map_err(Error::io("write", spare))?;
        file.write_at(&header.encode(), header.second_at() as u64).map_err(Error::io("write", spare))?;
        file.write_at(&self.buffer, SEGMENT_HEADER).map_err(Error::io("write", spare))?;
        file.sync().map_err(Error::io("sync", spare))?;
        self.disk.rename(spare, name).map_err(Error::io("rename", spare))?;
        self.disk.sync_dir().map_err(Error::io("sync", "the directory"))?;
        let offset = SEGMENT_HEADER + self.buffer.len() as u64;
        Ok(Active { segment, file, offset, ordinal: 1, wall_ms, written: *written, from_reserve: false })
    }

    // --- positions and space ---

    /// Positions of the sinks that are durable.
    pub fn positions(&self) -> &BTreeMap<u64, u64> {
        &self.state.current.positions
    }

    /// Makes positions durable (next sequence number to deliver, by [`crate::sink_id`]).
    pub fn save_positions(&mut self, positions: &BTreeMap<u64, u64>) -> Result<()> {
        if *positions == self.state.current.positions {
            return Ok(());
        }
        let mut next = self.state.current.clone();
        next.positions.clone_from(positions);
        next.evidence.tail = next.evidence.tail.max(self.next_seq);
        self.state.save(next)
    }

    /// Has the state know how far the log reaches by now, so that a loss at its end shows. Writes nothing if it knows.
    pub fn save_progress(&mut self) -> Result<()> {
        if self.state.current.evidence.tail >= self.next_seq {
            return Ok(());
        }
        let mut next = self.state.current.clone();
        next.evidence.tail = self.next_seq;
        self.state.save(next)
    }

    /// Frees segments whose records are all below every durable position, and below `keep_from`. `pressed`: also those that would
    /// be retained, one at a time. Gives back how many were freed.
    pub fn free(&mut self, now_ms: u64, keep_from: u64, pressed: bool) -> Result<usize> {
        let Some(delivered) = self.state.current.positions.values().min().copied() else { return Ok(0) };
        let delivered = delivered.min(keep_from);
        let free = self.freeable(delivered, now_ms, pressed);
        if free.is_empty() {
            return Ok(0);
        }
        let mut next = self.state.current.clone();
        next.oldest = free.last().map_or(next.oldest, |segment| segment.generation + 1);
        self.state.save(next)?;
        let count = free.len();
        self.shared.inner.lock().segments.drain(..count);
        for segment in free {
            self.live -= segment.bytes;
            self.recycle(&segment);
        }
        self.keep_reserve();
        Ok(count)
    }

    fn freeable(&self, delivered: u64, now_ms: u64, pressed: bool) -> Vec<Arc<Segment>> {
        let inner = self.shared.inner.lock();
        let ends = inner.segments.iter().skip(1).map(|next| next.first_seq);
        let sealed: Vec<_> = inner.segments.iter().zip(ends).collect();
        let is_delivered = |end: u64| end <= delivered;
        let delivered_bytes = sealed.iter().filter(|(_, end)| is_delivered(*end)).map(|(segment, _)| segment.bytes).sum();
        let mut kept_bytes: u64 = delivered_bytes;
        let mut free = Vec::new();
        for (segment, end) in sealed {
            let held = Arc::strong_count(segment) > 1;
            let age = segment.sealed_ms.get().map_or(u64::MAX, |sealed| now_ms.saturating_sub(*sealed));
            let (by_age, by_bytes) = (self.options.retain_ms, self.options.retain_bytes);
            let retained =
                (by_age > 0 || by_bytes > 0) && (by_age == 0 || age < by_age) && (by_bytes == 0 || kept_bytes <= by_bytes);
            if held || !is_delivered(end) || (retained && !pressed) {
                break;
            }
            kept_bytes -= segment.bytes;
            free.push(segment.clone());
            if pressed {
                break;
            }
        }
        free
    }

    /// The first sequence number after the oldest segment, where that segment could be dropped: it is not the one written to.
    pub fn droppable(&self) -> Option<u64> {
        let inner = self.shared.inner.lock();
        inner.segments.get(1).map(|next| next.first_seq)
    }

    fn recycle(&mut self, segment: &Segment) {
        let (name, generation) = (&segment.name, segment.generation);
        // A failure here leaves a segment below the oldest generation: recovery makes a spare of it.
        if self.options.recycle && self.spares.len() < SPARES {
            let spare = format!("spare-{generation}.log");
            if self.disk.rename(name, &spare).is_ok() {
                let written = segment.end.get().copied().unwrap_or(0);
                self.spares.push(Spare { name: spare, written });
            }
        } else if let Err(error) = self.disk.remove(name) {
            tracing::warn!(file = name, %error, "a freed segment could not be removed; it is tried again at the next start");
        }
    }

    /// How much of the bound is used.
    pub fn usage(&self) -> Usage {
        let segments = self.shared.inner.lock().segments.len();
        let delivered = self.state.current.positions.values().min().copied().unwrap_or(0);
        Usage {
            live: self.live,
            undelivered: self.shared.bytes_from(delivered),
            spare: self.spares.len() as u64 * self.next_segment_bytes(),
            extra: self.extra,
            bound: self.options.max_bytes,
            segments,
        }
    }

    /// Heads of all chains.
    pub fn heads(&self) -> Vec<ChainRange> {
        self.shared.inner.lock().heads.all().values().cloned().collect()
    }
}

/// Removes files; gives back those that are still there.
fn without(disk: &dyn Disk, mut files: Vec<String>) -> Vec<String> {
    files.retain(|file| disk.remove(file).is_err());
    files
}

fn as_snapshot(head: ChainRange) -> ChainRange {
    ChainRange { first: head.last + 1, ..head }
}
