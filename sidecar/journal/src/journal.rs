//! The writer: appends blocks, syncs them, rolls and recycles segments.
use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use parking_lot::Mutex;

use crate::{
    Disk, DiskFile, Envelope, Error, Result,
    envelope::{Cipher, OVERHEAD, decompressed},
    format::{BlockHeader, ChainRange, FLAG_AES, FLAG_SNAPSHOT, FLAG_ZSTD, SECOND_HEADER, SEGMENT_HEADER, SegmentHeader, seed},
    state::{State, StateFile},
};

/// How a journal is kept.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Bound of everything in the directory, in bytes.
    pub max_bytes: u64,
    /// Size of a segment in bytes.
    pub segment_bytes: u64,
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
    /// Ordinary events: all but two segments.
    Normal,
    /// Critical events: all but one segment.
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
    /// Bytes of segments that hold something still needed.
    pub live: u64,
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

/// What writer and readers share.
pub struct Shared {
    pub(crate) uuid: [u8; 16],
    pub(crate) inner: Mutex<SharedInner>,
}

pub(crate) struct SharedInner {
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) tail: Tail,
    pub(crate) heads: BTreeMap<String, ChainRange>,
}

/// Up to where everything is synced.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tail {
    pub(crate) generation: u64,
    pub(crate) offset: u64,
    pub(crate) seq: u64,
}

/// A segment in use.
pub(crate) struct Segment {
    pub(crate) name: String,
    pub(crate) generation: u64,
    pub(crate) first_seq: u64,
    pub(crate) file: Arc<dyn DiskFile>,
    /// What its blocks are encrypted with; `None`: they are not.
    pub(crate) cipher: Option<Cipher>,
    /// Where its good blocks end, once that is known.
    pub(crate) end: OnceLock<u64>,
    /// Wall clock of its last block, once it is sealed by this process.
    pub(crate) sealed_ms: OnceLock<u64>,
}

/// The segment that is written to.
pub(crate) struct Active {
    pub(crate) segment: Arc<Segment>,
    pub(crate) offset: u64,
    pub(crate) ordinal: u32,
    pub(crate) wall_ms: u64,
    /// Up to here the file has extents that were written before: a block inside them changes no metadata of the file system.
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
    pub(crate) spares: Vec<String>,
    pub(crate) extra: u64,
    pending: Option<Pending>,
    buffer: Vec<u8>,
}

/// Spare files that are kept for use; more are removed.
const SPARES: usize = 2;

pub(crate) fn segment_name(generation: u64) -> String {
    format!("seg-{generation:016x}.log")
}

// === impl Segment ===

impl Segment {
    /// A block's payload from what is stored; `None`: it was changed, or cannot be what its header says.
    pub(crate) fn payload(&self, header: &BlockHeader, stored: Vec<u8>) -> Option<Vec<u8>> {
        let plain = match (header.flags & FLAG_AES != 0, &self.cipher) {
            (false, _) => stored,
            (true, Some(cipher)) => cipher.open(header.ordinal, &header.authenticated(), &stored)?,
            (true, None) => return None,
        };
        if header.flags & FLAG_ZSTD == 0 { Some(plain) } else { decompressed(&plain, header.plain_len as usize) }
    }
}

// === impl Journal ===

impl Journal {
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        options: Options,
        envelope: Envelope,
        id_key: [u8; 32],
        shared: Arc<Shared>,
        active: Option<Active>,
        next_seq: u64,
        next_generation: u64,
        state: StateFile,
        spares: Vec<String>,
    ) -> Self {
        let buffer = Vec::new();
        let spares = if options.recycle { spares } else { without(&*disk, spares) };
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
            pending: None,
            buffer,
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
            encrypted: segment.cipher.is_some(),
            bytes: segment.file.size().unwrap_or_default(),
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

    /// Changes the bound and what is kept, from now on. The size of segments stays.
    pub fn set_options(&mut self, options: Options) {
        self.options = Options { segment_bytes: self.options.segment_bytes, ..options };
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
        let saved = masked.and_then(|id_key| self.state.save(State { id_key, key_id, ..self.state.current.clone() }));
        if let Err(error) = saved {
            tracing::warn!(%error, "the state keeps its key for ids as it was until the next start");
        }
    }

    /// Tells how many bytes other rooms use in the directory.
    pub fn set_extra(&mut self, bytes: u64) {
        self.extra = bytes;
    }

    /// Appends a block: written, not yet synced. At most one block may wait for [`Self::sync`].
    /// A failure leaves the journal as it was before the call, in a state to take further blocks.
    pub fn append(&mut self, block: &NewBlock<'_>) -> Result<()> {
        let plain_len: usize = block.payload.iter().map(|piece| piece.len()).sum();
        let smaller = self.envelope.compressed(block.payload, plain_len);
        let pieces: &[&[u8]] = &[smaller.as_deref().unwrap_or_default()];
        let (payload, flags) = if smaller.is_some() { (pieces, FLAG_ZSTD) } else { (block.payload, 0) };
        let payload_len = payload.iter().map(|piece| piece.len()).sum::<usize>() + OVERHEAD;
        let needed = (BlockHeader::len_with(&block.ranges) + payload_len).next_multiple_of(8);
        let snapshot = self.snapshot_len(&block.ranges);
        if needed as u64 + snapshot + SEGMENT_HEADER > self.options.segment_bytes {
            return Err(Error::TooLarge { bytes: needed, segment: self.options.segment_bytes });
        }
        self.make_room(needed as u64, block.class, block.wall_ms)?;
        let Some(active) = &self.active else { return Err(self.full()) };
        let (segment, offset, ordinal) = (active.segment.clone(), active.offset, active.ordinal);
        let stored = Stored { flags, plain_len, payload };
        self.encode(&segment, ordinal, block, &stored)?;
        if let Err(source) = segment.file.write_at(&self.buffer, offset) {
            self.abandon();
            return Err(Error::io("write", &segment.name)(source));
        }
        self.write_ahead(offset + self.buffer.len() as u64);
        self.pending = Some(Pending {
            end: offset + self.buffer.len() as u64,
            next_seq: self.next_seq + u64::from(block.count),
            wall_ms: block.wall_ms,
            ranges: block.ranges.clone(),
        });
        Ok(())
    }

    /// Zeros behind a block that reaches beyond what was written before. A failure costs speed only: the block is there.
    fn write_ahead(&mut self, end: u64) {
        let segment_bytes = self.options.segment_bytes;
        let Some(active) = &mut self.active else { return };
        if end <= active.written {
            return;
        }
        let upto = (end + AHEAD).min(segment_bytes).max(end);
        active.written = upto;
        let zeros = vec![0; (upto - end) as usize];
        if !zeros.is_empty() && active.segment.file.write_at(&zeros, end).is_err() {
            active.written = end;
        }
    }

    /// Makes the appended block durable and shows it to readers. On failure the block is void: its sequence numbers are
    /// free again, and the next block goes to a fresh segment.
    pub fn sync(&mut self) -> Result<()> {
        let Some(pending) = self.pending.take() else { return Ok(()) };
        let Some(active) = &mut self.active else { return Ok(()) };
        if let Err(source) = active.segment.file.sync() {
            let name = active.segment.name.clone();
            self.abandon();
            return Err(Error::io("sync", name)(source));
        }
        active.offset = pending.end;
        active.ordinal += 1;
        active.wall_ms = pending.wall_ms;
        self.next_seq = pending.next_seq;
        let mut inner = self.shared.inner.lock();
        inner.tail = Tail { generation: active.segment.generation, offset: pending.end, seq: pending.next_seq };
        for range in pending.ranges {
            inner.heads.insert(range.id.clone(), range);
        }
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
        if self.shared.inner.lock().segments.len() as u64 + 1 > self.limit(Class::Normal) {
            return Err(self.full());
        }
        self.roll(wall_ms)
    }

    fn snapshot_len(&self, more: &[ChainRange]) -> u64 {
        let inner = self.shared.inner.lock();
        let known: usize = inner.heads.values().map(|head| head.id.len() + 58).sum();
        let new: usize = more.iter().map(|head| head.id.len() + 58).sum();
        (known + new + 128) as u64
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

    fn make_room(&mut self, needed: u64, class: Class, wall_ms: u64) -> Result<()> {
        let limit = self.limit(class);
        let live = self.shared.inner.lock().segments.len() as u64;
        if let Some(active) = &self.active {
            if live <= limit && active.offset + needed <= self.options.segment_bytes {
                return Ok(());
            }
            if live + 1 > limit {
                return Err(self.full());
            }
        } else if live + 1 > limit {
            return Err(self.full());
        }
        self.roll(wall_ms)
    }

    /// Most segments in use for a class of blocks.
    fn limit(&self, class: Class) -> u64 {
        let all = self.options.max_bytes.saturating_sub(self.extra + 16_384) / self.options.segment_bytes;
        match class {
            Class::Normal => all.saturating_sub(2),
            Class::Critical => all.saturating_sub(1),
            Class::Control => all,
        }
    }

    fn full(&self) -> Error {
        let usage = self.usage();
        Error::Full { used: usage.live + usage.extra, bound: usage.bound }
    }

    /// Whether a block of this class and size would be taken now.
    pub fn has_room(&self, class: Class, bytes: u64) -> bool {
        let live = self.shared.inner.lock().segments.len() as u64;
        let limit = self.limit(class);
        let fits = self.active.as_ref().is_some_and(|active| active.offset + bytes + 1024 <= self.options.segment_bytes);
        (fits && live <= limit) || live < limit
    }

    /// Starts the next segment: header, snapshot, sync, rename, directory sync. Blocks come after.
    fn roll(&mut self, wall_ms: u64) -> Result<()> {
        let generation = self.next_generation;
        // Even a failed try uses its generation up, so that nothing it left behind ever validates.
        self.next_generation += 1;
        let spare = self.spares.pop().unwrap_or_else(|| format!("spare-{generation}.log"));
        let name = segment_name(generation);
        match self.prepare(&spare, &name, generation, wall_ms) {
            Ok(active) => {
                self.abandon();
                let mut inner = self.shared.inner.lock();
                inner.segments.push(active.segment.clone());
                drop(inner);
                self.active = Some(active);
                Ok(())
            }
            Err(error) => {
                let _ = self.disk.remove(&spare);
                let _ = self.disk.remove(&name);
                // The new name may be on disk, and says that older segments hold nothing from here on: they must not.
                self.abandon();
                Err(error)
            }
        }
    }

    fn prepare(&mut self, spare: &str, name: &str, generation: u64, wall_ms: u64) -> Result<Active> {
        let file = self.disk.open(spare, true).map_err(Error::io("open", spare))?;
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).map_err(|error| Error::io("read", "the random source")(error.into()))?;
        let (uuid, keys) = (self.shared.uuid, &self.envelope.keys);
        let key_id = keys.current_id();
        let header = SegmentHeader {
            uuid,
            generation,
            first_seq: self.next_seq,
            id_key: keys.mask(&key_id, &uuid, &self.id_key, name)?,
            salt,
            key_id,
            created: wall_ms,
            bytes: self.options.segment_bytes,
            oldest: self.state.current.oldest,
        };
        let segment = Arc::new(Segment {
            name: name.to_owned(),
            generation,
            first_seq: self.next_seq,
            file: file.clone(),
            cipher: keys.current().map(|key| key.cipher(&salt, &uuid, generation)).transpose()?,
            end: OnceLock::new(),
            sealed_ms: OnceLock::new(),
        });
        let heads: Vec<ChainRange> = self.shared.inner.lock().heads.values().cloned().map(as_snapshot).collect();
        let snapshot = NewBlock { class: Class::Control, count: 0, ranges: heads, wall_ms, journal_ms: 0, payload: &[] };
        self.encode(&segment, 0, &snapshot, &Stored { flags: FLAG_SNAPSHOT, plain_len: 0, payload: &[] })?;
        file.write_at(&header.encode(), 0).map_err(Error::io("write", spare))?;
        file.write_at(&header.encode(), SECOND_HEADER as u64).map_err(Error::io("write", spare))?;
        file.write_at(&self.buffer, SEGMENT_HEADER).map_err(Error::io("write", spare))?;
        file.sync().map_err(Error::io("sync", spare))?;
        self.disk.rename(spare, name).map_err(Error::io("rename", spare))?;
        self.disk.sync_dir().map_err(Error::io("sync", "the directory"))?;
        let written = file.size().map_err(Error::io("read", name))?;
        Ok(Active { segment, offset: SEGMENT_HEADER + self.buffer.len() as u64, ordinal: 1, wall_ms, written })
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
            self.recycle(&segment.name, segment.generation);
        }
        Ok(count)
    }

    fn freeable(&self, delivered: u64, now_ms: u64, pressed: bool) -> Vec<Arc<Segment>> {
        let inner = self.shared.inner.lock();
        let ends = inner.segments.iter().skip(1).map(|next| next.first_seq);
        let sealed: Vec<_> = inner.segments.iter().zip(ends).collect();
        let is_delivered = |end: u64| end <= delivered;
        let delivered_bytes = sealed.iter().filter(|(_, end)| is_delivered(*end)).count() as u64 * self.options.segment_bytes;
        let mut kept_bytes = delivered_bytes;
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
            kept_bytes -= self.options.segment_bytes;
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

    fn recycle(&mut self, name: &str, generation: u64) {
        // A failure here leaves a segment below the oldest generation: recovery makes a spare of it.
        if self.options.recycle && self.spares.len() < SPARES {
            let spare = format!("spare-{generation}.log");
            if self.disk.rename(name, &spare).is_ok() {
                self.spares.push(spare);
            }
        } else if let Err(error) = self.disk.remove(name) {
            tracing::warn!(file = name, %error, "a freed segment could not be removed; it is tried again at the next start");
        }
    }

    /// How much of the bound is used.
    pub fn usage(&self) -> Usage {
        let segments = self.shared.inner.lock().segments.len();
        Usage {
            live: segments as u64 * self.options.segment_bytes,
            spare: self.spares.len() as u64 * self.options.segment_bytes,
            extra: self.extra,
            bound: self.options.max_bytes,
            segments,
        }
    }

    /// Heads of all chains.
    pub fn heads(&self) -> Vec<ChainRange> {
        self.shared.inner.lock().heads.values().cloned().collect()
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

// === impl Shared ===

impl Shared {
    /// Sequence number after the last synced record.
    pub fn synced(&self) -> u64 {
        self.inner.lock().tail.seq
    }

    /// Oldest sequence number that is still on disk.
    pub fn oldest(&self) -> u64 {
        let inner = self.inner.lock();
        inner.segments.first().map_or(inner.tail.seq, |segment| segment.first_seq)
    }

    /// The oldest segment's first sequence number such that no more than `bytes` lie from there on; `None`: it is so from `seq` on already. Whole
    /// segments only, and never the one that is written to.
    pub fn cut_to(&self, seq: u64, bytes: u64) -> Option<u64> {
        let inner = self.inner.lock();
        let first = inner.segments.partition_point(|segment| segment.first_seq <= seq).saturating_sub(1);
        let held = |segment: &Arc<Segment>| {
            let is_tail = segment.generation == inner.tail.generation;
            let end = if is_tail { Some(inner.tail.offset) } else { segment.end.get().copied() };
            end.unwrap_or_else(|| segment.file.size().unwrap_or_default())
        };
        // Not the segment that holds `seq`: how much of it is behind that number is not known.
        let mut left: u64 = inner.segments.iter().skip(first + 1).map(held).sum();
        if left <= bytes {
            return None;
        }
        let mut cut = first + 1;
        while left > bytes && cut + 1 < inner.segments.len() {
            left -= inner.segments.get(cut).map_or(0, held);
            cut += 1;
        }
        inner.segments.get(cut).map(|segment| segment.first_seq)
    }

    /// First sequence numbers of the segments in use, oldest first.
    pub fn segment_starts(&self) -> Vec<(u64, u64)> {
        self.inner.lock().segments.iter().map(|segment| (segment.generation, segment.first_seq)).collect()
    }
}
