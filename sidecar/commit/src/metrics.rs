//! What the loop counts.
use std::{
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use steno_journal::Damage;

/// The loop's metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Events that were taken.
    pub accepted: Counter,
    /// Retries that were recognised.
    pub duplicates: Counter,
    /// Ids that were used again for something else.
    pub conflicts: Counter,
    /// Events that were dropped because the spool was full.
    pub dropped: Counter,
    /// Blocks that could not be written.
    pub failed_blocks: Counter,
    /// Time of a sync.
    pub fsync: Histogram,
    /// Events in a block.
    pub block_events: Histogram,
    /// Bytes in use.
    pub spool_bytes: Gauge,
    /// The bound.
    pub spool_limit: Gauge,
    /// Event ids that are remembered.
    pub dedupe_entries: Gauge,
    /// Chains.
    pub chains: Gauge,
    /// Sequence number of the last record in the journal.
    pub head: Gauge,
    /// Whether the last block could be written.
    pub writable: Arc<AtomicBool>,
    /// Records that were lost to damage.
    pub lost: Counter,
    /// Bytes of segments with records that a sink does not have yet.
    pub undelivered_bytes: Gauge,
    /// What the loop has asked of the disk.
    pub progress: Progress,
    /// Events are refused because the bound is reached.
    pub full: Arc<AtomicBool>,
    /// Losses that the chains name, of records that are not delivered.
    pub losses: Arc<Mutex<Vec<Damage>>>,
}

/// When the loop asked the disk for something that is not answered yet. A disk that hangs answers nothing: health is made from this, not
/// from the last answer.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Mutex<Option<Instant>>>);

/// Something that was asked of the disk; answered when it is dropped.
#[derive(Debug)]
pub(crate) struct Asked(Progress);

impl Progress {
    pub(crate) fn ask(&self) -> Asked {
        *self.0.lock() = Some(Instant::now());
        Asked(self.clone())
    }

    /// How long the disk has not answered.
    pub fn waits(&self) -> Option<Duration> {
        self.0.lock().map(|since| since.elapsed())
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        *self.0.0.lock() = None;
    }
}

/// 50 µs to 3.3 s by factors of two.
fn seconds() -> Histogram {
    Histogram::new((0..17).map(|step| 50e-6 * f64::from(1 << step)))
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            accepted: Counter::default(),
            duplicates: Counter::default(),
            conflicts: Counter::default(),
            dropped: Counter::default(),
            failed_blocks: Counter::default(),
            fsync: seconds(),
            block_events: Histogram::new((0..13).map(|step| f64::from(1 << step))),
            spool_bytes: Gauge::default(),
            spool_limit: Gauge::default(),
            dedupe_entries: Gauge::default(),
            chains: Gauge::default(),
            head: Gauge::default(),
            writable: Arc::new(AtomicBool::new(true)),
            lost: Counter::default(),
            undelivered_bytes: Gauge::default(),
            progress: Progress::default(),
            full: Arc::default(),
            losses: Arc::default(),
        }
    }
}

impl Metrics {
    /// Registers all of them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("events_accepted", "Events that were written to the journal", self.accepted.clone());
        registry.register("events_duplicate", "Retries that were recognised and not written again", self.duplicates.clone());
        registry.register(
            "events_conflict",
            "Events refused because their id was used for another payload",
            self.conflicts.clone(),
        );
        registry.register(
            "events_dropped",
            "Events dropped because the spool was full (DropNewest, DropOldest)",
            self.dropped.clone(),
        );
        registry.register("journal_blocks_failed", "Blocks that could not be written or synced", self.failed_blocks.clone());
        registry.register(
            "journal_records_lost",
            "Records that were lost to damage of the journal; an upper bound where the number is not known",
            self.lost.clone(),
        );
        registry.register_with_unit("journal_fsync", "Time of one sync of the journal", Unit::Seconds, self.fsync.clone());
        registry.register("journal_block_events", "Events in one block of the journal", self.block_events.clone());
        registry.register_with_unit("spool_used", "Bytes of the spool in use", Unit::Bytes, self.spool_bytes.clone());
        registry.register_with_unit(
            "spool_undelivered",
            "Bytes of segments with records that a sink does not have yet",
            Unit::Bytes,
            self.undelivered_bytes.clone(),
        );
        registry.register_with_unit("spool_limit", "Bound of the spool", Unit::Bytes, self.spool_limit.clone());
        registry.register("dedupe_entries", "Event ids that are remembered", self.dedupe_entries.clone());
        registry.register("chains", "Hash chains of this sidecar", self.chains.clone());
        registry.register("chain_head", "Sequence number of the last record in the journal", self.head.clone());
    }
}
