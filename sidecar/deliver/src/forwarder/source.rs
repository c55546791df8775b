//! Where the forwarder reads records: the journal, as far as it is synced.
use std::sync::Arc;

use steno_chain::Lost;
use steno_commit::{Frame, losses};
use steno_journal::{Block, Damage, Next, Reader, Shared};

/// Blocks whose age is compared in one turn.
const MAX_AGED_BLOCKS: usize = 4096;

/// What stands at a sequence number.
pub enum Fetch<'a> {
    /// A record.
    Record(Frame<'a>),
    /// Nothing yet.
    End,
    /// Nothing any more; the next record is this one.
    Skip(u64),
    /// Records that cannot be read.
    Lost(Damage),
    /// The journal cannot be read now, and why.
    Unreadable(String),
}

/// Records in order, by their sequence numbers in the journal.
pub trait Source: Send {
    /// The first sequence number that is not synced.
    fn synced(&self) -> u64;

    /// The first sequence number that is still there.
    fn oldest(&self) -> u64;

    /// What stands at a sequence number. Numbers in order cost one read a block.
    fn at(&mut self, seq: u64) -> Fetch<'_>;

    /// Frees what was read ahead.
    fn release(&mut self);

    /// When the block of a record was written, milliseconds since 1970.
    fn written_ms(&self, seq: u64) -> Option<u64>;

    /// Where a sink that may lag so many bytes must begin; `None` if it may stay at `from`.
    fn cut_to(&self, from: u64, bytes: u64) -> Option<u64>;

    /// The first record from `from` on whose block was written at `oldest_ms` or later; `None` if that is `from` itself.
    fn first_since(&self, from: u64, oldest_ms: u64) -> Option<u64>;

    /// What a sink misses without the records `from..end`: ranges by chain, and how many records.
    fn losses(&self, from: u64, end: u64, sink: &str) -> (Vec<Lost>, u64);
}

/// The journal as a source.
pub struct JournalSource {
    shared: Arc<Shared>,
    reader: Reader,
    current: Option<Cursor>,
}

/// A block, and a place in it.
struct Cursor {
    block: Block,
    /// Sequence number of the frame at `offset`.
    seq: u64,
    offset: usize,
}

enum Located {
    Here,
    Other(Fetch<'static>),
}

// === impl JournalSource ===

impl JournalSource {
    /// A source that begins at a sequence number.
    pub fn new(shared: Arc<Shared>, seq: u64) -> Self {
        Self { reader: Reader::new(shared.clone(), seq), shared, current: None }
    }

    fn locate(&mut self, seq: u64) -> Located {
        loop {
            if let Some(cursor) = &mut self.current {
                let first = cursor.block.header.first_seq;
                if (first..cursor.block.header.next_seq()).contains(&seq) {
                    if seq < cursor.seq {
                        (cursor.seq, cursor.offset) = (first, 0);
                    }
                    while cursor.seq < seq && cursor.step() {}
                    return Located::Here;
                }
                if first > seq {
                    if self.reader.position() == cursor.block.header.next_seq() && seq >= self.shared.oldest() {
                        // The caller went back.
                        self.current = None;
                        continue;
                    }
                    return Located::Other(Fetch::Skip(first));
                }
                self.current = None;
            }
            if self.reader.position() != seq {
                self.reader = Reader::new(self.shared.clone(), seq);
            }
            match self.reader.next() {
                Ok(Next::Block(block)) => {
                    let first = block.header.first_seq;
                    self.current = Some(Cursor { block, seq: first, offset: 0 });
                    if first > seq {
                        return Located::Other(Fetch::Skip(first));
                    }
                }
                Ok(Next::CaughtUp) => {
                    self.reader.release();
                    return Located::Other(Fetch::End);
                }
                Ok(Next::Lost(damage)) => return Located::Other(Fetch::Lost(damage)),
                Err(error) => return Located::Other(Fetch::Unreadable(error.to_string())),
            }
        }
    }
}

impl Source for JournalSource {
    fn synced(&self) -> u64 {
        self.shared.synced()
    }

    fn oldest(&self) -> u64 {
        self.shared.oldest()
    }

    fn at(&mut self, seq: u64) -> Fetch<'_> {
        if let Located::Other(fetch) = self.locate(seq) {
            return fetch;
        }
        let frame = self.current.as_ref().and_then(Cursor::frame);
        frame.map_or_else(|| Fetch::Unreadable(format!("record {seq} is missing in its block")), Fetch::Record)
    }

    fn release(&mut self) {
        self.current = None;
        self.reader.release();
    }

    fn written_ms(&self, seq: u64) -> Option<u64> {
        match Reader::new(self.shared.clone(), seq).next() {
            Ok(Next::Block(block)) => Some(block.header.wall_ms),
            _ => None,
        }
    }

    fn cut_to(&self, from: u64, bytes: u64) -> Option<u64> {
        self.shared.cut_to(from, bytes)
    }

    fn first_since(&self, from: u64, oldest_ms: u64) -> Option<u64> {
        let mut reader = Reader::new(self.shared.clone(), from);
        let mut end = None;
        for _ in 0..MAX_AGED_BLOCKS {
            match reader.next() {
                Ok(Next::Block(block)) if block.header.wall_ms < oldest_ms => end = Some(block.header.next_seq()),
                Ok(Next::Lost(damage)) => end = Some(damage.next_seq),
                _ => break,
            }
        }
        end
    }

    fn losses(&self, from: u64, end: u64, sink: &str) -> (Vec<Lost>, u64) {
        losses(&self.shared, from, end, Some(sink))
    }
}

// === impl Cursor ===

impl Cursor {
    fn frame(&self) -> Option<Frame<'_>> {
        steno_commit::frames(self.block.payload.get(self.offset..)?).next()
    }

    fn step(&mut self) -> bool {
        let Some(length) = self.frame().map(|frame| Frame::OVERHEAD + frame.json.len()) else { return false };
        self.offset += length;
        self.seq += 1;
        true
    }
}
