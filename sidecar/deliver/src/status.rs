//! What others see of delivery: who waits for a record, and how things stand.
use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use crate::Watermark;

/// Who waits for which record.
pub struct Deliveries {
    inner: Mutex<Inner>,
    next: watch::Sender<u64>,
}

struct Inner {
    mark: Watermark,
    waiting: HashMap<u64, Vec<oneshot::Sender<()>>>,
}

/// How delivery stands.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// Destination, for people.
    pub destination: String,
    /// The breaker's state.
    pub breaker: &'static str,
    /// Why it is not closed, or what failed last.
    pub reason: String,
    /// Wall clock, milliseconds since 1970, of the breaker's last change.
    pub since_ms: u64,
    /// Failures in a row.
    pub failures: u32,
    /// First record that is not known to be delivered.
    pub position: u64,
    /// Records that wait.
    pub backlog: u64,
    /// Records on their way.
    pub in_flight: usize,
    /// Records of a batch at this backlog.
    pub batch_size: u64,
    /// Wall clock of the oldest record that is not delivered; 0: there is none.
    pub oldest_ms: u64,
    /// Mean time of the last deliveries, in milliseconds.
    pub batch_ms: f64,
    /// Records delivered since the start.
    pub delivered: u64,
    /// Records that went to dead letters since the start.
    pub dead: u64,
    /// Records left out since the start, because the sink was too far behind.
    pub left_out: u64,
    /// What the preflight found.
    pub warnings: Vec<String>,
}

/// The snapshot, shared.
#[derive(Default)]
pub struct Status(Mutex<Snapshot>);

// === impl Snapshot ===

impl Snapshot {
    /// Age of the oldest record that is not delivered, in milliseconds, at a time since 1970; 0: there is none.
    pub fn age_ms(&self, wall_ms: u64) -> u64 {
        if self.oldest_ms == 0 { 0 } else { wall_ms.saturating_sub(self.oldest_ms) }
    }
}

// === impl Status ===

impl Status {
    /// How things stand.
    pub fn get(&self) -> Snapshot {
        self.0.lock().clone()
    }

    /// Whether the breaker is closed.
    pub fn is_closed(&self) -> bool {
        self.0.lock().breaker == "closed"
    }

    /// Changes something.
    pub fn update(&self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.0.lock());
    }
}

// === impl Deliveries ===

impl Deliveries {
    /// Everything below `next` is delivered.
    pub fn new(next: u64) -> Self {
        let inner = Inner { mark: Watermark::new(next), waiting: HashMap::new() };
        Self { inner: Mutex::new(inner), next: watch::Sender::new(next) }
    }

    /// Waits for a record, at most so long. Whether it was delivered.
    pub async fn wait(&self, seq: u64, most: Duration) -> bool {
        let receiver = {
            let mut inner = self.inner.lock();
            if inner.mark.is_done(seq) {
                return true;
            }
            let (sender, receiver) = oneshot::channel();
            inner.waiting.entry(seq).or_default().push(sender);
            receiver
        };
        let done = tokio::time::timeout(most, receiver).await.is_ok_and(|done| done.is_ok());
        if !done {
            let mut inner = self.inner.lock();
            if let Some(waiting) = inner.waiting.get_mut(&seq) {
                waiting.retain(|sender| !sender.is_closed());
                if waiting.is_empty() {
                    inner.waiting.remove(&seq);
                }
            }
        }
        done
    }

    /// Waits until everything below `seq` is delivered, at most so long. Gives back the position then.
    pub async fn wait_below(&self, seq: u64, most: Duration) -> u64 {
        let mut receiver = self.next.subscribe();
        let reached = tokio::time::timeout(most, receiver.wait_for(|next| *next >= seq)).await;
        drop(reached);
        self.position()
    }

    /// First record that is not known to be delivered.
    pub fn position(&self) -> u64 {
        self.inner.lock().mark.next()
    }

    pub(crate) fn done(&self, seqs: impl Iterator<Item = u64>) {
        let mut inner = self.inner.lock();
        for seq in seqs {
            inner.mark.done(seq);
            if !inner.waiting.is_empty() {
                for waiting in inner.waiting.remove(&seq).into_iter().flatten() {
                    let _ = waiting.send(());
                }
            }
        }
        let next = inner.mark.next();
        drop(inner);
        self.publish(next);
    }

    /// Everything below `next` is delivered.
    pub(crate) fn reach(&self, next: u64) {
        let mut inner = self.inner.lock();
        inner.mark.skip_to(next);
        let reached: Vec<u64> = inner.waiting.keys().copied().filter(|seq| *seq < next).collect();
        for waiting in reached.into_iter().filter_map(|seq| inner.waiting.remove(&seq)).flatten() {
            let _ = waiting.send(());
        }
        drop(inner);
        self.publish(next);
    }

    pub(crate) fn skip_to(&self, next: u64) {
        let mut inner = self.inner.lock();
        inner.mark.skip_to(next);
        // Nobody will ever deliver these; whoever waits learns that it is only spooled.
        inner.waiting.retain(|seq, _| *seq >= next);
        let next = inner.mark.next();
        drop(inner);
        self.publish(next);
    }

    fn publish(&self, next: u64) {
        self.next.send_if_modified(|known| std::mem::replace(known, next) != next);
    }

    pub(crate) fn is_done(&self, seq: u64) -> bool {
        self.inner.lock().mark.is_done(seq)
    }

    pub(crate) fn ahead(&self) -> usize {
        self.inner.lock().mark.ahead()
    }
}
