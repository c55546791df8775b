//! What the loop is asked, and what it answers.
use std::{collections::BTreeMap, sync::Arc};

use steno_chain::Note;
use steno_event::{Filled, Halves};
use steno_journal::Class;
use tokio::sync::{mpsc, oneshot};

use crate::{
    bell::{Bell, RingAtEnd},
    config::CommitConfig,
};

/// An event, all stateless work on it done.
#[derive(Debug, Clone)]
pub struct Item {
    /// Who it is.
    pub identity: [u8; 16],
    /// What the client sent.
    pub print: [u8; 16],
    /// Generation of the redaction rules it was made under.
    pub rules: u32,
    /// Members that the client left out.
    pub filled: Filled,
    /// The record, without its chain.
    pub halves: Halves,
    /// Its tenant, where chains are kept by tenant.
    pub tenant: Option<Box<str>>,
    /// Whether it is delivered ahead of others.
    pub critical: bool,
    /// Whether it ends something that was taken before: then it may use the room of critical events.
    pub ends: bool,
    /// Whether it stands for records whose space it frees: then it may use all of the bound.
    pub frees: bool,
    /// Whether its id may stand for another payload, too: then no `Conflict` is recorded, and who asked sends it again under another id.
    pub may_reuse: bool,
    /// When it was received, milliseconds since 1970.
    pub received_ms: u64,
}

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is on disk under this sequence number.
    Created(u64),
    /// It was there before. `compared`: its payload is known to be equal.
    Duplicate {
        /// Whether the payloads could be compared.
        compared: bool,
    },
    /// Its id was used before for something else.
    Conflict,
    /// It was dropped, as the policy says for a full spool.
    Dropped,
    /// It was not taken.
    Failed(Failure),
}

/// Why an event was not taken. It is safe to try again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No room.
    #[error("the spool is full")]
    Full,
    /// The disk refused.
    #[error("the disk refused: {0}")]
    Disk(String),
    /// It cannot fit into a block.
    #[error("the record does not fit into the journal")]
    TooLarge,
    /// The sidecar stops.
    #[error("the sidecar is shutting down")]
    Stopping,
}

/// A critical event that has just been synced.
#[derive(Debug, Clone)]
pub struct Critical {
    /// Its sequence number.
    pub seq: u64,
    /// Its frame, as in the block.
    pub frame: Vec<u8>,
}

/// Events of one request, and then what became of each, in order.
///
/// The loop gives all of it back: memory that one thread asked for and another frees has both wait for one lock of the allocator.
#[derive(Debug, Default)]
pub struct Batch {
    /// The events.
    pub items: Vec<Item>,
    /// Empty until the loop has answered.
    pub answers: Vec<Answer>,
}

/// What the loop is asked.
#[derive(Debug)]
pub enum Work {
    /// Take events.
    Items {
        /// The events.
        batch: Batch,
        /// Gets it back, with the answers.
        reply: oneshot::Sender<Batch>,
    },
    /// Write a record about the sidecar.
    Note {
        /// The record.
        note: Note,
        /// Records that it names as lost, by sequence number: from, up to. Their ids are free again.
        lost: Option<(u64, u64)>,
        /// Gets its sequence number once it is on disk.
        reply: Option<oneshot::Sender<Result<u64, Failure>>>,
    },
    /// Say where the event of an identity stands, if it is known.
    Find {
        /// Who it is.
        identity: [u8; 16],
        /// Gets its sequence number.
        reply: oneshot::Sender<Option<u64>>,
    },
    /// Sinks have delivered up to here.
    Positions(BTreeMap<u64, u64>),
    /// Begin another segment, so that what the one in use holds can be freed.
    Rotate,
    /// Go by another configuration; the note tells of it.
    Reload(Arc<CommitConfig>, Note),
    /// Take no more events, and write `Close` records.
    Close(oneshot::Sender<()>),
    /// End.
    End(oneshot::Sender<()>),
}

/// How to reach the loop.
#[derive(Debug, Clone)]
pub struct Handle {
    sender: Arc<Sender>,
}

/// The queue's one sending end; when it goes, the loop is woken to see that.
#[derive(Debug)]
struct Sender {
    queue: mpsc::Sender<Work>,
    bell: RingAtEnd,
}

/// The queue's other end.
#[derive(Debug)]
pub struct Inbox {
    pub(crate) queue: mpsc::Receiver<Work>,
    pub(crate) bell: Bell,
}

// === impl Work ===

impl Work {
    /// Events to take, and where the answers will be.
    pub fn items(items: Vec<Item>) -> (Self, oneshot::Receiver<Batch>) {
        let (reply, answered) = oneshot::channel();
        let answers = Vec::with_capacity(items.len());
        (Self::Items { batch: Batch { items, answers }, reply }, answered)
    }
}

// === impl Item ===

impl Item {
    /// Which part of the bound it may use.
    pub(crate) fn class(&self) -> Class {
        match (self.frees, self.critical || self.ends) {
            (true, _) => Class::Control,
            (false, true) => Class::Critical,
            (false, false) => Class::Normal,
        }
    }
}

// === impl Handle ===

impl Handle {
    /// A queue of at most `depth` pieces of work, and its two ends.
    pub fn new(depth: usize, bell: Bell) -> (Self, Inbox) {
        let (queue, receiver) = mpsc::channel(depth);
        let sender = Arc::new(Sender { queue, bell: RingAtEnd(bell.clone()) });
        (Self { sender }, Inbox { queue: receiver, bell })
    }

    async fn send(&self, work: Work) -> Result<(), Failure> {
        let Sender { queue, bell } = &*self.sender;
        // Where there is no room, whoever makes room must be awake.
        if queue.capacity() == 0 {
            bell.0.ring();
        }
        let is_quiet = matches!(work, Work::Items { .. });
        queue.send(work).await.map_err(|_| Failure::Stopping)?;
        if is_quiet {
            bell.0.submitted();
        } else {
            // Who asks for these may be on a thread that never rings by itself.
            bell.0.ring();
        }
        Ok(())
    }

    /// Wakes the loop if something waits: before its caller does something long.
    pub fn nudge(&self) {
        self.sender.bell.0.ring_if_waiting();
    }

    /// Has events taken; waits while the queue is full.
    pub async fn submit(&self, items: Vec<Item>) -> Vec<Answer> {
        let count = items.len();
        let stopping = || vec![Answer::Failed(Failure::Stopping); count];
        let (work, answered) = Work::items(items);
        if self.send(work).await.is_err() {
            return stopping();
        }
        answered.await.map_or_else(|_| stopping(), |batch| batch.answers)
    }

    /// Has a record written, from a thread outside the runtime; waits until it is on disk.
    pub fn note(&self, note: Note) -> Result<u64, Failure> {
        self.note_lost(note, None)
    }

    /// As [`Self::note`], of records that cannot be read any more: sequence numbers from, up to. An event among them may be sent again.
    pub fn note_lost(&self, note: Note, lost: Option<(u64, u64)>) -> Result<u64, Failure> {
        let (reply, answer) = oneshot::channel();
        let Sender { queue, bell } = &*self.sender;
        bell.0.ring_if_waiting();
        queue.blocking_send(Work::Note { note, lost, reply: Some(reply) }).map_err(|_| Failure::Stopping)?;
        bell.0.ring();
        answer.blocking_recv().unwrap_or(Err(Failure::Stopping))
    }

    /// Has a record written; waits until it is on disk.
    pub async fn tell(&self, note: Note) -> Result<u64, Failure> {
        let (reply, answer) = oneshot::channel();
        self.send(Work::Note { note, lost: None, reply: Some(reply) }).await?;
        answer.await.unwrap_or(Err(Failure::Stopping))
    }

    /// Where the event of an identity stands; `None`: it is not known.
    ///
    /// # Errors
    /// The loop has ended.
    pub async fn find(&self, identity: [u8; 16]) -> Result<Option<u64>, Failure> {
        let (reply, answer) = oneshot::channel();
        self.send(Work::Find { identity, reply }).await?;
        answer.await.map_err(|_| Failure::Stopping)
    }

    /// Tells how far sinks have delivered. Dropped where the queue is full: the next one will tell more.
    pub fn positions(&self, positions: BTreeMap<u64, u64>) {
        if self.sender.queue.try_send(Work::Positions(positions)).is_ok() {
            self.sender.bell.0.ring();
        }
    }

    /// Has another segment begun, so that what the one in use holds can be freed. Left out where the queue is full.
    pub fn rotate(&self) {
        if self.sender.queue.try_send(Work::Rotate).is_ok() {
            self.sender.bell.0.ring();
        }
    }

    /// Has another configuration take effect.
    pub async fn reload(&self, config: Arc<CommitConfig>, note: Note) {
        let _ = self.send(Work::Reload(config, note)).await;
    }

    /// Has no more events taken, and that recorded in the chains.
    pub async fn close(&self) {
        let (reply, done) = oneshot::channel();
        if self.send(Work::Close(reply)).await.is_ok() {
            let _ = done.await;
        }
    }

    /// Ends the loop.
    pub async fn end(&self) {
        let (reply, done) = oneshot::channel();
        if self.send(Work::End(reply)).await.is_ok() {
            let _ = done.await;
        }
    }

    /// Pieces of work that wait.
    pub fn queued(&self) -> usize {
        self.sender.queue.max_capacity() - self.sender.queue.capacity()
    }
}
