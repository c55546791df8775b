//! What others see of delivery: who waits for a record, and how things stand.
use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

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
    waiting: HashMap<u64, Vec<oneshot::Sender<Fate>>>,
    /// The last records that ended otherwise than by delivery.
    others: BTreeMap<u64, Fate>,
}

/// How a record ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The destination has it.
    Delivered,
    /// The destination refused it; it is a dead letter.
    DeadLettered,
    /// It was left out, as the policy says, or could not be read any more.
    Lost,
}

/// A first undelivered record that has not moved for so long is a stall.
const STALLED_MS: u64 = 5_000;
/// An undelivered record of this age is a backlog that does not go away by itself.
const OLD_MS: u64 = 30_000;

/// How many fates other than delivery are remembered.
const MAX_FATES: usize = 10_000;

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
    /// How long the first undelivered record has not moved, in milliseconds; 0: nothing waits.
    pub stalled_ms: u64,
    /// What holds that record, if the breaker is closed.
    pub stalled_by: String,
    /// Whether records were refused that are not dead letters yet.
    pub is_refusing: bool,
    /// Dead letters in `dead/` now.
    pub dead_kept: u64,
}

/// The snapshot, shared.
#[derive(Default)]
pub struct Status(Mutex<Snapshot>);

// === impl Snapshot ===

impl Snapshot {
    /// What holds the records of a sink whose breaker is closed; `None`: nothing does.
    pub fn stall(&self, wall_ms: u64) -> Option<String> {
        let age_ms = self.age_ms(wall_ms);
        if self.breaker != "closed" || self.backlog == 0 {
            return None;
        }
        // A sidecar that has just begun knows by the record's age.
        let is_old = self.stalled_ms >= 1000 && age_ms >= 2 * STALLED_MS;
        if self.stalled_ms >= STALLED_MS || is_old || self.is_refusing {
            let by = if self.stalled_by.is_empty() { String::new() } else { format!(": {}", self.stalled_by) };
            return Some(format!("record {} has waited for {} s{by}", self.position, age_ms.max(self.stalled_ms) / 1000));
        }
        (age_ms >= OLD_MS).then(|| {
            format!("delivery is slower than intake: the oldest of {} records waits for {} s", self.backlog, age_ms / 1000)
        })
    }

    /// Why this sink is not healthy; `None`: it is. A backlog that grows and a healthy sink never stand together.
    pub fn issue(&self, wall_ms: u64) -> Option<String> {
        if self.breaker != "closed" {
            return Some(format!("the breaker is {}: {}", self.breaker, self.reason));
        }
        if let Some(stall) = self.stall(wall_ms) {
            return Some(stall);
        }
        (self.dead_kept > 0).then(|| {
            format!(
                "{} dead letters are kept; read them with `steno-sidecar dead list`, then requeue or remove them",
                self.dead_kept
            )
        })
    }

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
        let inner = Inner { mark: Watermark::new(next), waiting: HashMap::new(), others: BTreeMap::new() };
        Self { inner: Mutex::new(inner), next: watch::Sender::new(next) }
    }

    /// Waits for a record until a time. How it ended; `None`: it is still under way.
    pub async fn wait(&self, seq: u64, until: tokio::time::Instant) -> Option<Fate> {
        let receiver = {
            let mut inner = self.inner.lock();
            if inner.mark.is_done(seq) {
                return Some(inner.fate(seq));
            }
            let (sender, receiver) = oneshot::channel();
            inner.waiting.entry(seq).or_default().push(sender);
            receiver
        };
        let fate = tokio::time::timeout_at(until, receiver).await.ok().and_then(Result::ok);
        if fate.is_none() {
            let mut inner = self.inner.lock();
            if let Some(waiting) = inner.waiting.get_mut(&seq) {
                waiting.retain(|sender| !sender.is_closed());
                if waiting.is_empty() {
                    inner.waiting.remove(&seq);
                }
            }
        }
        fate
    }

    /// How many records of a range ended as dead letters, and how many were lost, as far as is remembered.
    pub fn exceptions(&self, from: u64, end: u64) -> (u64, u64) {
        let inner = self.inner.lock();
        let range = inner.others.range(from..end.max(from));
        range.fold((0, 0), |(dead, lost), (_, fate)| match fate {
            Fate::DeadLettered => (dead + 1, lost),
            Fate::Lost => (dead, lost + 1),
            Fate::Delivered => (dead, lost),
        })
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

    /// A record ends otherwise than by delivery. [`Self::done`] follows.
    pub(crate) fn note(&self, seq: u64, fate: Fate) {
        self.inner.lock().note(seq, fate);
    }

    pub(crate) fn done(&self, seqs: impl Iterator<Item = u64>) {
        let mut inner = self.inner.lock();
        for seq in seqs {
            inner.mark.done(seq);
            if !inner.waiting.is_empty() {
                inner.answer(seq);
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
        inner.answer_below(next);
        drop(inner);
        self.publish(next);
    }

    /// Records below `next` that are not delivered never will be.
    pub(crate) fn skip_to(&self, next: u64) {
        let mut inner = self.inner.lock();
        let from = inner.mark.next().max(next.saturating_sub(MAX_FATES as u64));
        for seq in from..next {
            if !inner.mark.is_done(seq) {
                inner.note(seq, Fate::Lost);
            }
        }
        inner.mark.skip_to(next);
        inner.answer_below(next);
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
}

// === impl Inner ===

impl Inner {
    fn fate(&self, seq: u64) -> Fate {
        self.others.get(&seq).copied().unwrap_or(Fate::Delivered)
    }

    fn note(&mut self, seq: u64, fate: Fate) {
        self.others.insert(seq, fate);
        while self.others.len() > MAX_FATES {
            self.others.pop_first();
        }
    }

    fn answer(&mut self, seq: u64) {
        let fate = self.fate(seq);
        for waiting in self.waiting.remove(&seq).into_iter().flatten() {
            let _ = waiting.send(fate);
        }
    }

    fn answer_below(&mut self, next: u64) {
        let reached: Vec<u64> = self.waiting.keys().copied().filter(|seq| *seq < next).collect();
        for seq in reached {
            self.answer(seq);
        }
    }
}
