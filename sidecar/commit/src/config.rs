//! What the loop goes by.
use std::sync::{Arc, atomic::AtomicU64};

use steno_chain::NoteContext;
use steno_journal::{Envelope, Options};

/// What new events meet while the spool is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// They are refused.
    Reject,
    /// They are dropped, and the client is told.
    DropNewest,
    /// The oldest undelivered ones are dropped.
    DropOldest,
}

/// What the loop goes by.
#[derive(Debug, Clone)]
pub struct CommitConfig {
    /// What the sidecar's own records carry.
    pub note: NoteContext,
    /// First part of every chain's id: the pod's UID.
    pub pod_uid: String,
    /// Whether there are chains at all, and one a tenant.
    pub chains: bool,
    /// One chain a tenant.
    pub by_tenant: bool,
    /// Most chains.
    pub max_chains: usize,
    /// How long a retry is recognised, in milliseconds of the journal's clock.
    pub window_ms: u64,
    /// Event ids in memory. Counts at start only.
    pub max_entries: usize,
    /// What new events meet while the spool is full.
    pub when_full: WhenFull,
    /// Answer after the write, before the sync.
    pub answer_written: bool,
    /// Bounds of the journal.
    pub journal: Options,
    /// Compression and encryption of the journal.
    pub envelope: Envelope,
    /// Names of the sinks whose positions hold the journal; empty: it is not known yet which there are.
    pub sinks: Vec<String>,
    /// Room that later critical records need, of which an ordinary event must leave enough.
    pub reserve: Reserve,
}

/// Room that is promised to records that come later: what was taken in must be able to end.
#[derive(Debug, Clone, Default)]
pub struct Reserve {
    /// Bytes of all of them. Whoever makes the promise keeps it up to date.
    pub bytes: Arc<AtomicU64>,
    /// Bytes of the largest of them.
    pub largest: u64,
}
