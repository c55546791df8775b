//! The index as it follows the journal, and searching.
use std::{
    fs,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use steno_commit::frames;
use steno_event::{
    IdKey, identity,
    json::{Json, parse},
};
use steno_journal::{Next, Reader, Shared, Spot};

use crate::{
    Error, Order, Question,
    columns::{Columns, IDENTITY, MEMBERS, hash, short},
    piece::Piece,
};

/// Bytes of records after which a page ends.
const PAGE_BYTES: usize = 4 << 20;

/// The index of one journal.
pub struct Catalog {
    shared: Arc<Shared>,
    key: IdKey,
    uuid: [u8; 16],
    dir: PathBuf,
    rows: usize,
    state: Mutex<State>,
}

struct State {
    pieces: Vec<Arc<Piece>>,
    tail: Tail,
}

/// The unfinished piece, in memory.
#[derive(Default)]
struct Tail {
    first_seq: u64,
    end_seq: u64,
    columns: Columns,
    spots: Vec<Spot>,
    /// Writing it failed; not tried again before it has so many rows.
    not_before: usize,
}

/// A record that was found: its canonical JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its place in the journal.
    pub seq: u64,
    /// The record.
    pub json: String,
}

/// A page of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The records, in the order that was asked for.
    pub records: Vec<Found>,
    /// Where the next page begins; `None`: there is nothing more.
    pub next: Option<String>,
}

/// Blocks that a search has read: rows that lie together need one read.
struct Blocks<'a> {
    shared: &'a Arc<Shared>,
    last: Option<(u64, u64, Vec<u8>)>,
}

// === impl Catalog ===

impl Catalog {
    /// The index of a journal, in `query/` of its directory. What it has is taken up; the rest is read at the first search, or by
    /// [`Self::catch_up`]. `rows`: of a finished piece, [`crate::ROWS`] but in tests.
    pub fn open(shared: Arc<Shared>, key: IdKey, uuid: [u8; 16], journal: &Path, rows: usize) -> Result<Self, Error> {
        let dir = journal.join("query");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            match Piece::open(&path, &uuid)? {
                Some(piece) => found.push(piece),
                // It belongs to another journal or was cut off; it is ours to remove.
                None => fs::remove_file(&path)?,
            }
        }
        found.sort_by_key(|piece| piece.first_seq);
        let mut pieces: Vec<Arc<Piece>> = Vec::new();
        let mut expected = None;
        for piece in found {
            let follows = match expected {
                None => piece.first_seq <= shared.oldest(),
                Some(end) => piece.first_seq == end,
            };
            // No number beyond what is synced was ever indexed; where one was, it is another history.
            if follows && piece.end_seq <= shared.synced() {
                expected = Some(piece.end_seq);
                pieces.push(Arc::new(piece));
            } else {
                piece.remove();
            }
        }
        let first_seq = expected.unwrap_or_else(|| shared.oldest());
        let tail = Tail { first_seq, end_seq: first_seq, ..Tail::default() };
        Ok(Self { shared, key, uuid, dir, rows, state: Mutex::new(State { pieces, tail }) })
    }

    /// Reads what came since the last time, and lets go of what the journal has let go of.
    pub fn catch_up(&self) -> Result<(), Error> {
        self.followed().map(drop)
    }

    fn followed(&self) -> Result<parking_lot::MutexGuard<'_, State>, Error> {
        let mut state = self.state.lock();
        let mut reader = Reader::new(self.shared.clone(), state.tail.end_seq);
        loop {
            match reader.next()? {
                Next::CaughtUp => break,
                Next::Lost(damage) => state.tail.end_seq = damage.next_seq,
                Next::Block(block) => {
                    state.tail.spots.extend(reader.spot());
                    let (first, base) = (block.header.first_seq, state.tail.first_seq);
                    for (seq, frame) in (first..).zip(frames(&block.payload)) {
                        // A piece begins where the one before ended, even inside a block that was read again.
                        if seq < state.tail.end_seq {
                            continue;
                        }
                        let text = String::from_utf8_lossy(frame.json);
                        if let Ok(Json::Object(record)) = parse(&text) {
                            state.tail.columns.push(&self.key, (seq - base) as u32, &frame.identity, &record);
                        }
                    }
                    state.tail.end_seq = block.header.next_seq();
                    if state.tail.columns.len() >= self.rows.max(state.tail.not_before) {
                        self.finish(&mut state);
                    }
                }
            }
        }
        let oldest = self.shared.oldest();
        while state.pieces.first().is_some_and(|piece| piece.end_seq <= oldest) {
            state.pieces.remove(0).remove();
        }
        Ok(state)
    }

    /// Makes the tail a piece.
    fn finish(&self, state: &mut State) {
        let next = Tail { first_seq: state.tail.end_seq, end_seq: state.tail.end_seq, ..Tail::default() };
        let tail = std::mem::replace(&mut state.tail, next);
        let piece = Piece::write(&self.dir, &self.uuid, (tail.first_seq, tail.end_seq), &tail.columns, &tail.spots);
        match piece {
            Ok(piece) => state.pieces.push(Arc::new(piece)),
            Err(error) => {
                // Without room for it the rows stay in memory, where they are searched all the same.
                tracing::warn!(%error, "a piece of the index of queries cannot be written");
                let not_before = tail.columns.len() + self.rows;
                state.tail = Tail { not_before, ..tail };
            }
        }
    }

    /// Searches. It reads the disk: not for a thread that others wait for.
    pub fn search(&self, question: &Question) -> Result<Page, Error> {
        let wanted: Vec<(usize, Vec<u32>)> = question
            .wanted
            .iter()
            .enumerate()
            .filter(|(_, values)| !values.is_empty())
            .map(|(column, values)| (column, values.iter().map(|value| hash(&self.key, column, value)).collect()))
            .collect();
        self.find(&wanted, question, &|record| question.fits(record))
    }

    /// The event of a tenant's id.
    pub fn event(&self, tenant: &str, event_id: &str) -> Result<Option<Found>, Error> {
        let wanted = identity(&self.key, tenant, event_id);
        let question = Question::new([("kind", "any"), ("limit", "1")])?;
        // The identity tells: the record may show another id, where that was redacted.
        let found =
            self.find_where(&[(IDENTITY, vec![short(&wanted)])], &question, &|frame_identity, _| *frame_identity == wanted)?;
        Ok(found.records.into_iter().next())
    }

    fn find(
        &self,
        wanted: &[(usize, Vec<u32>)],
        question: &Question,
        fits: &dyn Fn(&steno_event::json::Object<'_>) -> bool,
    ) -> Result<Page, Error> {
        self.find_where(wanted, question, &|_, text| matches!(parse(text), Ok(Json::Object(record)) if fits(&record)))
    }

    fn find_where(
        &self,
        wanted: &[(usize, Vec<u32>)],
        question: &Question,
        fits: &dyn Fn(&[u8; 16], &str) -> bool,
    ) -> Result<Page, Error> {
        match self.find_once(wanted, question, fits) {
            // The journal let go of a piece meanwhile.
            Err(Error::Index(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                self.find_once(wanted, question, fits).or_else(|_| {
                    self.begin_again();
                    self.find_once(wanted, question, fits)
                })
            }
            // Damaged, cut, removed or unreadable: whatever it is, the journal has it all.
            Err(Error::Index(error)) => {
                tracing::warn!(%error, "the index of queries is damaged; it is made again");
                self.begin_again();
                self.find_once(wanted, question, fits)
            }
            done => done,
        }
    }

    /// Lets go of the whole index; the next look at the journal makes it again.
    fn begin_again(&self) {
        let mut state = self.state.lock();
        state.pieces.drain(..).for_each(|piece| piece.remove());
        let first_seq = self.shared.oldest();
        state.tail = Tail { first_seq, end_seq: first_seq, ..Tail::default() };
    }

    fn find_once(
        &self,
        wanted: &[(usize, Vec<u32>)],
        question: &Question,
        fits: &dyn Fn(&[u8; 16], &str) -> bool,
    ) -> Result<Page, Error> {
        let (pieces, tail_rows, tail_spots) = {
            let state = self.followed()?;
            let tail = &state.tail;
            let column = |column: usize| Ok(std::borrow::Cow::Borrowed(&tail.columns.hashes[column][..]));
            let times = || Ok(std::borrow::Cow::Borrowed(&tail.columns.times[..]));
            let rows = matching(tail.columns.len(), wanted, question, column, times)?;
            let seqs: Vec<u64> = rows.into_iter().map(|row| tail.first_seq + u64::from(tail.columns.seqs[row])).collect();
            (state.pieces.clone(), seqs, tail.spots.clone())
        };
        let mut blocks = Blocks { shared: &self.shared, last: None };
        let mut page = Page { records: Vec::new(), next: None };
        let mut bytes = 0;
        // Whether the page is full.
        let mut take = |seqs: Vec<u64>, spots: &[Spot], page: &mut Page| -> Result<bool, Error> {
            let in_order: Box<dyn Iterator<Item = u64>> = match question.order {
                Order::Newest => Box::new(seqs.into_iter().rev()),
                Order::Oldest => Box::new(seqs.into_iter()),
            };
            for seq in in_order.filter(|seq| question.fits_place(*seq)) {
                let Some((identity, json)) = blocks.record(seq, spots)? else { continue };
                if !fits(&identity, &json) {
                    continue;
                }
                if page.records.len() == question.limit || bytes > PAGE_BYTES {
                    page.next = page.records.last().map(|last| question.cursor(last.seq));
                    return Ok(true);
                }
                bytes += json.len();
                page.records.push(Found { seq, json });
            }
            Ok(false)
        };
        if question.order == Order::Newest && take(tail_rows.clone(), &tail_spots, &mut page)? {
            return Ok(page);
        }
        let in_order: Box<dyn Iterator<Item = &Arc<Piece>>> = match question.order {
            Order::Newest => Box::new(pieces.iter().rev()),
            Order::Oldest => Box::new(pieces.iter()),
        };
        for piece in in_order {
            let places = match question.order {
                Order::Newest => question.fits_place(piece.first_seq),
                Order::Oldest => question.fits_place(piece.end_seq.saturating_sub(1)),
            };
            let (earliest, latest) = piece.times;
            let in_time = question.may_fit(earliest, latest);
            if !places || !in_time {
                continue;
            }
            let column = |column: usize| piece.hashes(column).map(std::borrow::Cow::Owned);
            let rows = matching(piece.rows(), wanted, question, column, || piece.times().map(std::borrow::Cow::Owned))?;
            if rows.is_empty() {
                continue;
            }
            let seqs = piece.seqs()?;
            let seqs: Vec<u64> = rows.into_iter().map(|row| piece.first_seq + u64::from(seqs[row])).collect();
            if take(seqs, &piece.spots()?, &mut page)? {
                return Ok(page);
            }
        }
        if question.order == Order::Oldest {
            take(tail_rows, &tail_spots, &mut page)?;
        }
        Ok(page)
    }
}

/// The rows whose hashes are among those that are wanted.
fn matching<'a>(
    rows: usize,
    wanted: &[(usize, Vec<u32>)],
    question: &Question,
    column: impl Fn(usize) -> std::io::Result<std::borrow::Cow<'a, [u32]>>,
    times: impl Fn() -> std::io::Result<std::borrow::Cow<'a, [i64]>>,
) -> Result<Vec<usize>, Error> {
    let mut left: Option<Vec<usize>> = None;
    // The kind comes last: nearly all records are events.
    debug_assert!(MEMBERS.last() == Some(&"kind"));
    for (index, hashes) in wanted {
        let column = column(*index)?;
        let fits = |row: &usize| column.get(*row).is_some_and(|hash| hashes.contains(hash));
        left = Some(match left {
            None => (0..rows).filter(|row| fits(row)).collect(),
            Some(left) => left.into_iter().filter(fits).collect(),
        });
        if left.as_ref().is_some_and(Vec::is_empty) {
            return Ok(Vec::new());
        }
    }
    let mut left = left.unwrap_or_else(|| (0..rows).collect());
    if question.from.is_some() || question.to.is_some() {
        let times = times()?;
        left.retain(|row| times.get(*row).is_some_and(|time| question.may_fit(*time, *time)));
    }
    Ok(left)
}

// === impl Blocks ===

impl Blocks<'_> {
    /// A record and its identity; `None`: the journal has let go of it.
    fn record(&mut self, seq: u64, spots: &[Spot]) -> Result<Option<([u8; 16], String)>, Error> {
        let held = self.last.as_ref().is_some_and(|(first, end, _)| (*first..*end).contains(&seq));
        if !held {
            let index = spots.partition_point(|spot| spot.first_seq <= seq);
            let Some(spot) = index.checked_sub(1).and_then(|index| spots.get(index)) else { return Ok(None) };
            match Reader::at(self.shared.clone(), *spot).next()? {
                Next::Block(block) if (block.header.first_seq..block.header.next_seq()).contains(&seq) => {
                    self.last = Some((block.header.first_seq, block.header.next_seq(), block.payload));
                }
                _ => return Ok(None),
            }
        }
        let Some((first, _, payload)) = &self.last else { return Ok(None) };
        let frame = frames(payload).nth((seq - first) as usize);
        Ok(frame.map(|frame| (frame.identity, String::from_utf8_lossy(frame.json).into_owned())))
    }
}
