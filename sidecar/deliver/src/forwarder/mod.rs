//! The thread that delivers to one sink: reads what is synced, sends it, takes outcomes.
//!
//! [`Forwarder::turn`] is a step of a state machine: it gets the time and what arrived, and neither waits nor looks at a clock. [`Forwarder::run`]
//! is the thread around it. The journal is a [`Source`], the chain a [`Trail`], the destination a [`Sink`]; tests have their own.
//!
//! # In which order records are looked at
//! The cursor goes through the journal. A record that is delivered, in flight or [condemned](condemned) is skipped. A record whose lane takes
//! nothing is passed over, and the cursor comes back for it ([`in_flight`]). At most [`MAX_AHEAD`] records are looked at beyond
//! the first undelivered one.
//!
//! # What happens to a refused record
//! 1. Nothing more is sent, until everything in flight has come back.
//! 2. [`bisect`] sends the refused records in halves, with nothing else in flight, until it knows the records at fault.
//! 3. A record at fault is [condemned]: if the destination takes another record after it, and then refuses it again, it becomes a dead letter. If
//!    there is no other record, the sidecar writes one.
mod bisect;
mod condemned;
mod in_flight;
mod mailbox;
mod reload;
mod report;
mod requeue;
mod source;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use parking_lot::Mutex;
use steno_chain::{Kind, Lost, Note};
use steno_commit::{Critical, Frame, Handle, frames, lost_range};
use steno_event::json::{Json, parse};
use steno_journal::{Damage, Keys, sink_id};

use self::{
    bisect::{AtFault, Bisect, Verdict},
    condemned::{Condemned, MAX_CONDEMNED},
    in_flight::{InFlight, Room, Sent, Window},
    reload::Moving,
    report::Report,
    requeue::Requeue,
};
pub use self::{
    mailbox::{Control, Event, Inbox, Reporter, SinkFactory},
    source::{Fetch, JournalSource, Source},
};
use crate::{
    AGAIN, Breaker, BreakerConfig, DeadFolder, DeadLetter, Deliveries, Gate, Metrics, Outcome, Permit, Refusal, Sink, State,
    Status, breaker::next_random, status::Fate,
};

/// Settings of a forwarder.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The breaker's.
    pub breaker: BreakerConfig,
    /// Batch sizes by backlog: backlog at least, records.
    pub batch: Vec<(u64, u64)>,
    /// Bound of `dead/`, in bytes.
    pub dead_bytes: u64,
    /// Keys that dead letters in `dead/` are encrypted with.
    pub keys: Arc<Keys>,
    /// Nothing overtakes: critical events go in their place.
    pub in_order: bool,
    /// How far the sink may lag before records are left out for it; `None`: records that it has not confirmed are kept.
    pub max_lag: Option<Lag>,
}

/// How far a sink may lag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lag {
    /// Bytes of the spool.
    pub bytes: u64,
    /// Age of the oldest record that waits.
    pub age: Option<Duration>,
}

/// A time: since any start, and on the wall.
#[derive(Debug, Clone, Copy, Default)]
pub struct Now {
    /// A monotonic clock.
    pub since_start: Duration,
    /// Milliseconds since 1970.
    pub wall_ms: u64,
}

/// Records that are looked at beyond the first undelivered one. What is delivered among them is sent again after a crash.
const MAX_AHEAD: u64 = 1 << 20;
/// Records that are passed over in one turn, so that outcomes are taken meanwhile.
const MAX_PASSED_OVER: usize = 20_000;
/// Bytes in flight.
const IN_FLIGHT_BYTES: usize = 15 << 20;
/// Batches in flight. One lane alone gets four fifths of them.
const IN_FLIGHT_BATCHES: u64 = 10;
/// Records and bytes in flight to a sink that keeps all in one order: one transaction that commits, and the next one. The sink holds a copy of them, and
/// the client its own of the one that is being sent: up to 60 MiB under a backlog.
const IN_ORDER_WINDOW: Window = Window { records: 50_000, bytes: 30 << 20 };
/// Time between two looks at what is synced, while more arrives all the time: a wake-up for each block would cost more than the block.
const SYNCED_INTERVAL: Duration = Duration::from_millis(2);
/// The same while nothing may be sent.
const SYNCED_INTERVAL_OPEN: Duration = Duration::from_millis(100);
/// How long the records of a broken sink are waited for.
const BROKEN_DRAIN: Duration = Duration::from_secs(20);
/// How long a record that was refused alone waits for another one, before the sidecar writes one.
const PROBE_AFTER: Duration = Duration::from_millis(200);
/// Time between two tries of a record that was refused alone, while no other record is there.
const CONDEMNED_INTERVAL: Duration = Duration::from_secs(5);

/// What writes to the chain and saves positions: the commit loop.
pub trait Trail: Send {
    /// Writes a record of the sidecar and waits until it is synced.
    ///
    /// # Errors
    /// It could not be written, and why.
    fn write(&self, note: Note) -> Result<(), String>;

    /// Writes a record that says which records of the journal cannot be read: the first, and the one behind the last.
    ///
    /// # Errors
    /// It could not be written, and why.
    fn write_loss(&self, note: Note, range: (u64, u64)) -> Result<(), String>;

    /// Has a sink's position made durable.
    fn save_position(&self, sink: &str, position: u64);
}

impl Trail for Handle {
    fn write(&self, note: Note) -> Result<(), String> {
        self.note(note).map(drop).map_err(|failure| failure.to_string())
    }

    fn write_loss(&self, note: Note, range: (u64, u64)) -> Result<(), String> {
        self.note_lost(note, Some(range)).map(drop).map_err(|failure| failure.to_string())
    }

    fn save_position(&self, sink: &str, position: u64) {
        self.positions(BTreeMap::from([(sink_id(sink), position)]));
    }
}

/// The forwarder.
pub struct Forwarder {
    name: String,
    gate: Option<Arc<Gate>>,
    settings: Settings,
    inbox: Inbox,
    events: Receiver<Event>,
    factory: SinkFactory,
    sink: Option<Box<dyn Sink>>,
    /// Generation of the sink, or of the next one if there is none.
    generation: u64,
    breaker: Breaker,
    now: Now,
    source: Box<dyn Source>,
    trail: Box<dyn Trail>,
    /// The next record to look at.
    cursor: u64,
    synced: u64,
    /// When it looks at what is synced by itself; until then no message comes.
    look_at: Option<Duration>,
    deliveries: Arc<Deliveries>,
    metrics: Metrics,
    shown: fn(&Frame<'_>) -> String,
    dead: DeadFolder,
    in_flight: InFlight,
    /// Records that were refused outside a trial, until everything has come back.
    refused: Vec<u64>,
    bisect: Bisect,
    condemned: Condemned,
    condemned_retry_at: Duration,
    /// Nothing is sent before.
    retry_at: Duration,
    critical: VecDeque<Critical>,
    known_damage: Arc<Mutex<Vec<Damage>>>,
    moving: Option<Moving>,
    requeue: Requeue,
    stop: Option<(Duration, Sender<u64>)>,
    /// The half-open breaker's batch was sent.
    is_probed: bool,
    /// Something came back undelivered since the sink was last told that all is back.
    needs_resume: bool,
    /// The next turn comes at once.
    is_hurried: bool,
    seed: u64,
    report: Report,
}

/// Parts of a [`Forwarder`].
pub struct Parts {
    /// The sink's name, as in the journal's state.
    pub name: String,
    /// The sinks that it advances with.
    pub gate: Option<Arc<Gate>>,
    /// Its settings.
    pub settings: Settings,
    /// Makes its sink.
    pub factory: SinkFactory,
    /// The journal.
    pub source: Box<dyn Source>,
    /// First record that is not known to be delivered.
    pub position: u64,
    /// Damage that a record already names, shared by all forwarders of a journal.
    pub known_damage: Arc<Mutex<Vec<Damage>>>,
    /// The commit loop.
    pub trail: Box<dyn Trail>,
    /// Where dead letters go that no topic takes.
    pub dead: DeadFolder,
    /// Who waits for records.
    pub deliveries: Arc<Deliveries>,
    /// Where it reports its state.
    pub status: Arc<Status>,
    /// Its counters.
    pub metrics: Metrics,
    /// What may be kept of a record outside the journal, if the sink refuses it.
    pub shown: fn(&Frame<'_>) -> String,
    /// Decides by how much a cooldown is longer than configured.
    pub seed: u64,
}

/// A record as the journal has it.
pub fn as_it_is(frame: &Frame<'_>) -> String {
    String::from_utf8_lossy(frame.json).into_owned()
}

// === impl Forwarder ===

impl Forwarder {
    /// A forwarder over a journal.
    pub fn new(inbox: Inbox, events: Receiver<Event>, parts: Parts) -> Self {
        let Parts {
            name,
            gate,
            settings,
            factory,
            source,
            position,
            known_damage,
            trail,
            dead,
            deliveries,
            status,
            metrics,
            shown,
            seed,
        } = parts;
        Self {
            report: Report::new(status),
            breaker: Breaker::new(settings.breaker, Duration::ZERO, seed),
            name,
            gate,
            settings,
            inbox,
            events,
            factory,
            sink: None,
            generation: 0,
            now: Now::default(),
            synced: source.synced(),
            source,
            trail,
            cursor: position,
            look_at: None,
            deliveries,
            metrics,
            shown,
            dead,
            in_flight: InFlight::default(),
            refused: Vec::new(),
            bisect: Bisect::default(),
            condemned: Condemned::default(),
            condemned_retry_at: Duration::ZERO,
            retry_at: Duration::ZERO,
            critical: VecDeque::new(),
            known_damage,
            moving: None,
            requeue: Requeue::default(),
            stop: None,
            is_probed: false,
            needs_resume: false,
            is_hurried: false,
            seed,
        }
    }

    /// Works until it is asked to stop.
    pub fn run(mut self) {
        let started = Instant::now();
        loop {
            let first = match self.events.recv_timeout(self.next_wakeup()) {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let wall_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
            if self.turn(Now { since_start: started.elapsed(), wall_ms }, first) {
                return;
            }
        }
    }

    /// One step: takes an event and those that wait behind it, then sends what may be sent. True: it has stopped.
    pub fn turn(&mut self, now: Now, first: Option<Event>) -> bool {
        self.now = now;
        self.is_hurried = false;
        let mut outcomes = Vec::new();
        if let Some(event) = first {
            self.take(event, &mut outcomes);
        }
        while let Ok(event) = self.events.try_recv() {
            self.take(event, &mut outcomes);
        }
        self.settle(outcomes);
        self.look();
        self.check_silence();
        if self.in_flight.end_drains() {
            self.is_probed = false;
        }
        if self.in_flight.is_empty()
            && std::mem::take(&mut self.needs_resume)
            && let Some(sink) = &mut self.sink
        {
            sink.resume();
        }
        self.finish_move();
        self.send_ready();
        self.send_requeued();
        self.report();
        self.has_stopped()
    }

    /// How long nothing will happen by itself.
    pub fn next_wakeup(&self) -> Duration {
        if self.is_hurried {
            return Duration::ZERO;
        }
        let is_idle = self.in_flight.is_empty() && self.waiting() == 0 && self.stop.is_none() && self.requeue.is_empty();
        let base = if is_idle { Duration::from_secs(1) } else { Duration::from_millis(100) };
        let now = self.now.since_start;
        let times = [self.look_at, Some(self.retry_at).filter(|_| !is_idle), self.in_flight.next_retry(now)];
        let soonest = times.into_iter().flatten().filter(|at| *at > now || Some(*at) == self.look_at).min();
        soonest.map_or(base, |at| base.min(at.saturating_sub(now)))
    }

    /// Notices what is synced. While more arrives it looks by itself; then it asks for messages again.
    fn look(&mut self) {
        let before = self.synced;
        if self.look_at.is_some_and(|at| at <= self.now.since_start) {
            let is_more = self.source.synced() > before;
            self.look_at = is_more.then(|| self.now.since_start + self.synced_interval());
            if !is_more {
                // Asks first, then looks: nothing falls between.
                self.inbox.listen();
            }
        }
        self.synced = self.source.synced();
    }

    fn synced_interval(&self) -> Duration {
        if self.breaker.state() == State::Open { SYNCED_INTERVAL_OPEN } else { SYNCED_INTERVAL }
    }

    fn waiting(&self) -> u64 {
        self.synced.saturating_sub(self.deliveries.position())
    }

    fn take(&mut self, event: Event, outcomes: &mut Vec<Outcome>) {
        match event {
            Event::Synced(_) => self.look_at = Some(self.now.since_start + self.synced_interval()),
            Event::Critical(event) => self.critical.push_back(event),
            Event::Outcome(generation, _) | Event::Outcomes(generation, ..) | Event::Preflight(generation, _)
                if generation != self.generation => {}
            Event::Outcome(_, outcome) => outcomes.push(outcome),
            Event::Outcomes(_, seqs, result) => {
                outcomes.extend(seqs.into_iter().map(|seq| Outcome { seq, result: result.clone() }));
            }
            Event::Preflight(_, warnings) => {
                for warning in &warnings {
                    tracing::warn!(sink = self.name, warning, "preflight");
                }
                self.metrics.warnings.set(warnings.len() as i64);
                self.report.status.update(|status| status.warnings = warnings);
            }
            Event::Control(Control::Reload(settings, factory)) => self.reload(settings, factory),
            Event::Control(Control::Gate(gate)) => self.gate = gate,
            Event::Control(Control::Requeue) => self.requeue.look_now(),
            Event::Control(Control::Stop(timeout, done)) => self.stop = Some((self.now.since_start + timeout, done)),
        }
    }

    // --- outcomes ---

    fn settle(&mut self, outcomes: Vec<Outcome>) {
        if outcomes.is_empty() {
            return;
        }
        let now = self.now.since_start;
        let mut delivered = Vec::with_capacity(outcomes.len());
        let mut unneeded = Vec::new();
        for Outcome { seq, result } in outcomes {
            if seq & AGAIN != 0 {
                self.requeued(seq & !AGAIN, result);
                continue;
            }
            let Some(sent) = self.in_flight.back(seq, now) else { continue };
            let verdict = match result {
                Ok(()) => {
                    let took_ms = self.now.wall_ms.saturating_sub(sent.received_ms) as f64;
                    self.metrics.latency.observe(took_ms / 1000.0);
                    self.report.observe(took_ms);
                    delivered.push(seq);
                    Verdict::Done
                }
                Err(Refusal::NotNeeded) => {
                    unneeded.push(seq);
                    Verdict::Done
                }
                Err(refusal) => {
                    self.metrics.failed.inc();
                    self.needs_resume = true;
                    self.came_back(seq, sent, refusal)
                }
            };
            if self.bisect.is_on_trial()
                && let Some(AtFault { seq, reason }) = self.bisect.settle(seq, verdict)
            {
                self.condemn(seq, reason);
            }
        }
        self.deliveries.done(unneeded.into_iter());
        if !delivered.is_empty() {
            self.confirmed(delivered);
        }
    }

    /// A record came back undelivered.
    fn came_back(&mut self, seq: u64, sent: Sent, refusal: Refusal) -> Verdict {
        let is_on_trial = self.bisect.is_on_trial();
        match refusal {
            Refusal::Refused(reason) if is_on_trial => return Verdict::Refused(reason),
            Refusal::Refused(_) => self.refused.push(seq),
            Refusal::Unfit(reason) => {
                self.dead_letter(seq, &reason);
                return Verdict::Done;
            }
            Refusal::Behind | Refusal::NotNeeded => drop(self.in_flight.failed(sent.lane, seq, false)),
            refusal => self.failed_for_now(seq, sent, refusal),
        }
        Verdict::NotNow
    }

    fn confirmed(&mut self, delivered: Vec<u64>) {
        let now = self.now.since_start;
        let count = delivered.len() as u64;
        self.metrics.delivered.inc_by(count);
        self.report.status.update(|status| status.delivered += count);
        self.in_flight.confirmed(now);
        if !self.condemned.is_idle() {
            for seq in &delivered {
                self.condemned.remove(*seq);
            }
        }
        self.deliveries.done(delivered.into_iter());
        let was = self.breaker.state();
        self.breaker.success(now);
        self.report.was_open = false;
        if was != State::Closed {
            tracing::info!(sink = self.name, "deliveries go through again; the breaker is closed");
        }
        // The first one is tried first.
        for seq in self.condemned.success().into_iter().rev() {
            self.bisect.suspect_alone(seq);
        }
    }

    /// A record was refused while nothing else was in flight.
    fn condemn(&mut self, seq: u64, reason: String) {
        let now = self.now.since_start;
        let config = self.settings.breaker;
        let interval = if self.condemned.is_probed() { CONDEMNED_INTERVAL } else { PROBE_AFTER };
        self.condemned_retry_at = now + interval;
        let told = format!("record {seq} was refused: {reason}");
        if let Some(reason) = self.condemned.refuse(seq, reason, now, self.in_flight.is_empty()) {
            if !self.dead_letter(seq, &reason) {
                self.condemned.put_back(seq, reason);
            }
            return;
        }
        if self.condemned.blames_destination(now, config.threshold, config.no_broker_for) {
            self.condemned.forget_refusals();
            self.breaker.open(now, &format!("the destination takes nothing; {told}"));
            self.note_breaker();
        }
    }

    /// A record did not go through, for a reason that may pass.
    fn failed_for_now(&mut self, seq: u64, sent: Sent, refusal: Refusal) {
        let (reason, pause, is_broken) = match refusal {
            Refusal::Wait(asked, reason) => (reason, asked, false),
            Refusal::Broken(reason) => (reason, Duration::ZERO, true),
            Refusal::Later(reason) | Refusal::Refused(reason) | Refusal::Unfit(reason) => (reason, Duration::ZERO, false),
            Refusal::Busy | Refusal::Behind | Refusal::NotNeeded => ("the client's queue is full".into(), Duration::ZERO, false),
        };
        self.failed(sent.lane, seq, &reason);
        self.in_flight.hold(sent.lane, self.now.since_start + pause);
        if is_broken {
            self.break_sink();
        }
    }

    /// A lane failed for a reason that may pass. Counted once until its records have come back.
    fn failed(&mut self, lane: u32, seq: u64, reason: &str) {
        if !self.in_flight.failed(lane, seq, true) {
            return;
        }
        self.count_failure(reason);
        let retry_at = self.now.since_start + self.pause();
        self.in_flight.hold(lane, retry_at);
        if self.bisect.is_on_trial() {
            self.retry_at = self.retry_at.max(retry_at);
        }
    }

    /// The destination, or what leads to it, failed as a whole.
    fn failed_as_a_whole(&mut self, reason: &str) {
        self.count_failure(reason);
        self.retry_at = self.now.since_start + self.pause();
    }

    fn count_failure(&mut self, reason: &str) {
        let known = self.sink.as_ref().and_then(|sink| sink.last_error()).filter(|known| !reason.contains(known.as_str()));
        let reason = known.map_or_else(|| reason.to_owned(), |known| format!("{reason}: {known}"));
        self.condemned.forget_refusals();
        self.breaker.failure(self.now.since_start, &reason);
        self.report.failure = reason;
        self.note_breaker();
    }

    /// The wait before the next try: doubled with each failure, and up to a quarter longer or shorter, so that a fleet does not try in step.
    fn pause(&mut self) -> Duration {
        let base = Duration::from_millis(100 << self.breaker.failures().min(4));
        base * (192 + (next_random(&mut self.seed) % 129) as u32) / 256
    }

    fn note_breaker(&mut self) {
        let is_open = self.breaker.state() == State::Open;
        if is_open && !self.report.was_open {
            self.metrics.opened.inc();
            tracing::warn!(
                sink = self.name,
                reason = self.breaker.reason(),
                "the breaker is open: nothing is sent; the policy says whether new events are spooled or refused"
            );
        }
        self.report.was_open = is_open;
    }

    /// A destination that does not answer opens the breaker, without any failure.
    fn check_silence(&mut self) {
        let Some(sink) = &self.sink else { return };
        if self.waiting() == 0 && self.in_flight.is_empty() {
            return;
        }
        let now = self.now.since_start;
        let silent = Some(self.in_flight.silent_for(now)).filter(|silent| *silent >= sink.patience()).unwrap_or_default();
        let lasting = sink.absent_for().unwrap_or_default().max(silent);
        if lasting < self.settings.breaker.no_broker_for || self.breaker.state() != State::Closed {
            return;
        }
        let reason = sink.last_error().unwrap_or_else(|| format!("no answer for {} s", lasting.as_secs()));
        self.condemned.forget_refusals();
        self.breaker.no_broker(now, lasting, &format!("{} cannot be reached: {reason}", sink.describe()));
        self.note_breaker();
    }

    // --- sending ---

    fn batch_size(&self, backlog: u64) -> u64 {
        let step = self.settings.batch.iter().filter(|(least, _)| backlog >= *least).max_by_key(|(least, _)| *least);
        step.or_else(|| self.settings.batch.iter().min_by_key(|(least, _)| *least)).map_or(100, |(_, size)| *size)
    }

    fn send_ready(&mut self) {
        if self.moving.is_some() || self.now.since_start < self.retry_at {
            return;
        }
        let permit = self.breaker.permit(self.now.since_start);
        if permit == Permit::Nothing {
            // The next probe is a new one, whatever became of the last.
            self.is_probed = false;
            self.source.release();
            self.critical.clear();
            return;
        }
        if self.sink.is_none() {
            // It may have taken its time: the next turn knows how late it is.
            self.is_hurried = self.make_sink();
            return;
        }
        if !self.refused.is_empty() {
            if !self.in_flight.is_empty() {
                return;
            }
            self.bisect.suspect(std::mem::take(&mut self.refused));
        }
        if permit == Permit::Probe && !self.is_probed && self.bisect.is_idle() && self.in_flight.is_empty() {
            // What was refused first is tried first: the destination may be fixed.
            if let Some(first) = self.condemned.first() {
                self.bisect.suspect_alone(first);
            }
        }
        if !self.bisect.is_idle() {
            self.is_probed = true;
            self.send_suspects();
            return;
        }
        let batch = self.batch_size(self.waiting());
        let window = if self.settings.in_order {
            IN_ORDER_WINDOW
        } else {
            Window { records: (batch * IN_FLIGHT_BATCHES) as usize, bytes: IN_FLIGHT_BYTES }
        };
        if let Some(seq) = self.in_flight.take_rewind(self.now.since_start, window) {
            self.cursor = self.cursor.min(seq);
        }
        if permit == Permit::Probe {
            self.probe(batch, window);
            return;
        }
        self.send_critical(window);
        let mut sent: u32 = 0;
        let mut passed_over = 0;
        while passed_over < MAX_PASSED_OVER && self.in_flight.closed_lanes(self.now.since_start) < self.lanes() {
            match self.send_next(window) {
                Next::Sent => sent += 1,
                Next::PassedOver => passed_over += 1,
                Next::Nothing => break,
            }
        }
        if sent > 0 {
            self.metrics.batch.observe(f64::from(sent));
        }
        self.retry_condemned();
    }

    fn lanes(&self) -> usize {
        self.sink.as_ref().map_or(1, |sink| sink.lanes())
    }

    fn make_sink(&mut self) -> bool {
        if !self.in_flight.is_empty() {
            // A broken sink's records come back, as a rule.
            if self.in_flight.silent_for(self.now.since_start) < BROKEN_DRAIN {
                return false;
            }
            self.start_over();
        }
        self.generation += 1;
        match (self.factory)(Reporter::new(self.inbox.sender(), self.generation)) {
            Ok(sink) => {
                let destination = sink.describe();
                self.report.status.update(|status| status.destination = destination);
                self.sink = Some(sink);
                true
            }
            Err(reason) => {
                self.failed_as_a_whole(&reason);
                false
            }
        }
    }

    fn break_sink(&mut self) {
        self.sink = None;
        self.retry_at = self.retry_at.max(self.now.since_start + self.pause());
    }

    /// Begins at the first undelivered record, as if nothing had been sent.
    fn start_over(&mut self) {
        self.in_flight.clear();
        self.bisect.clear();
        self.refused.clear();
        self.condemned.clear();
        self.cursor = self.deliveries.position();
    }

    /// Half-open: the oldest batch, or a question if nothing waits.
    fn probe(&mut self, batch: u64, window: Window) {
        if self.is_probed && !self.in_flight.is_empty() {
            return;
        }
        if self.waiting() == 0 {
            let asked = self.sink.as_mut().map_or(Ok(()), |sink| sink.probe(Duration::from_secs(5)));
            match asked {
                Ok(()) => {
                    self.breaker.success(self.now.since_start);
                    self.report.was_open = false;
                }
                Err(reason) => self.failed_as_a_whole(&reason),
            }
            return;
        }
        if !self.in_flight.is_empty() {
            // What was in flight when the breaker opened answers, or comes back.
            return;
        }
        let (mut sent, mut passed_over) = (0, 0);
        while sent < batch && passed_over < MAX_PASSED_OVER {
            match self.send_next(window) {
                Next::Sent => sent += 1,
                Next::PassedOver => passed_over += 1,
                Next::Nothing => break,
            }
        }
        self.is_probed = sent > 0;
        let is_alone = sent == 0 && self.condemned.len() > 0 && self.cursor >= self.synced;
        if is_alone && self.write_probe() {
            return;
        }
        if is_alone && self.condemned_retry_at > self.now.since_start {
            // Only refused records are there, and the first was refused again.
            let reason = self.breaker.reason().to_owned();
            self.breaker.failure(self.now.since_start, &reason);
            self.note_breaker();
        }
    }

    /// Sends the next record that needs it.
    fn send_next(&mut self, window: Window) -> Next {
        loop {
            let (now, seq) = (self.now.since_start, self.cursor);
            if seq >= self.synced {
                self.source.release();
                return Next::Nothing;
            }
            if self.in_flight.contains(seq) || self.deliveries.is_done(seq) || self.condemned.contains(seq) {
                self.cursor += 1;
                continue;
            }
            if seq >= self.deliveries.position() + MAX_AHEAD
                || self.condemned.len() >= MAX_CONDEMNED
                || self.gate.as_ref().is_some_and(|gate| seq >= gate.position() + self.settings.ahead())
            {
                return Next::Nothing;
            }
            let frame = match self.source.at(seq) {
                Fetch::Record(frame) => frame,
                Fetch::End => return Next::Nothing,
                Fetch::Skip(next) => {
                    self.cursor = next;
                    continue;
                }
                Fetch::Lost(damage) => {
                    if !self.lost(&damage) {
                        return Next::Nothing;
                    }
                    self.cursor = damage.next_seq.max(seq + 1);
                    continue;
                }
                Fetch::Unreadable(error) => {
                    self.failed_as_a_whole(&format!("the journal cannot be read: {error}"));
                    return Next::Nothing;
                }
            };
            let Some(sink) = &mut self.sink else { return Next::Nothing };
            let in_flight = &self.in_flight;
            let lane = sink.lane(seq, &frame, &|lane| in_flight.room(lane, now, window) == Room::Send);
            match self.in_flight.room(lane, now, window) {
                Room::Send => {}
                Room::Wait => return Next::Nothing,
                Room::PassOver => {
                    self.in_flight.pass_over(lane, seq);
                    self.cursor += 1;
                    return Next::PassedOver;
                }
            }
            let sent = Sent { bytes: frame.json.len(), received_ms: frame.received_ms, lane };
            match sink.send(seq, &frame) {
                Ok(()) => {
                    self.in_flight.sent(seq, sent, now);
                    self.cursor += 1;
                    return Next::Sent;
                }
                Err(Refusal::Busy | Refusal::Behind) if !self.in_flight.is_empty() => return Next::Nothing,
                Err(refusal) => {
                    if !self.not_sent(seq, sent, refusal) {
                        return Next::Nothing;
                    }
                }
            }
        }
    }

    /// The client did not take a record. True: it needs sending no more.
    fn not_sent(&mut self, seq: u64, sent: Sent, refusal: Refusal) -> bool {
        match refusal {
            Refusal::Unfit(reason) => return self.dead_letter(seq, &reason),
            // The client knows that the destination would: as if it had refused it alone.
            Refusal::Refused(reason) => {
                self.condemn(seq, reason);
                return true;
            }
            Refusal::NotNeeded => {
                self.deliveries.done(std::iter::once(seq));
                return true;
            }
            Refusal::Busy | Refusal::Behind => {
                let reason = format!(
                    "the client's queue does not take a record of {} bytes though it is empty; raise queue.buffering.max.kbytes",
                    sent.bytes
                );
                self.failed(sent.lane, seq, &reason);
            }
            refusal => self.failed_for_now(seq, sent, refusal),
        }
        false
    }

    /// Records that cannot be read: a record names their loss, then nobody waits for them. False: that record could not be written yet.
    fn lost(&mut self, damage: &Damage) -> bool {
        let shared = self.known_damage.clone();
        // Held until the record is written: if several forwarders meet it, one writes.
        let mut all = shared.lock();
        let is_known = all.iter().any(|known| known.first_seq <= damage.first_seq && damage.next_seq <= known.next_seq);
        if !is_known {
            let lost = damage.ranges.iter().map(lost_range).collect();
            let note = Note::new(Kind::Quarantine, "A part of the journal could not be read any more.")
                .number("records", damage.next_seq.saturating_sub(damage.first_seq))
                .lost(lost);
            if let Err(error) = self.trail.write_loss(note, (damage.first_seq, damage.next_seq)) {
                self.failed_as_a_whole(&format!("a loss could not be recorded: {error}"));
                return false;
            }
            tracing::error!(
                first = damage.first_seq,
                next = damage.next_seq,
                "a part of the journal could not be read; its loss is recorded by name"
            );
            all.push(damage.clone());
        }
        drop(all);
        let missing = damage.first_seq..damage.next_seq;
        if missing.contains(&self.deliveries.position()) {
            self.deliveries.skip_to(damage.next_seq);
        } else {
            missing.clone().for_each(|seq| self.deliveries.note(seq, Fate::Lost));
            self.deliveries.done(missing);
        }
        true
    }

    fn send_critical(&mut self, window: Window) {
        if self.settings.in_order {
            self.critical.clear();
        }
        while let Some(critical) = self.critical.pop_front() {
            let seq = critical.seq;
            let is_passed = self.cursor > seq;
            if is_passed
                || seq >= self.deliveries.position() + MAX_AHEAD
                || self.gate.as_ref().is_some_and(|gate| seq >= gate.position() + self.settings.ahead())
                || self.in_flight.contains(seq)
                || self.deliveries.is_done(seq)
            {
                continue;
            }
            let (Some(frame), Some(sink)) = (frames(&critical.frame).next(), &mut self.sink) else { continue };
            let (in_flight, now) = (&self.in_flight, self.now.since_start);
            let lane = sink.lane(seq, &frame, &|lane| in_flight.room(lane, now, window) == Room::Send);
            if self.in_flight.room(lane, self.now.since_start, window) == Room::PassOver {
                continue;
            }
            if sink.send(seq, &frame).is_ok() {
                let sent = Sent { bytes: frame.json.len(), received_ms: frame.received_ms, lane };
                self.in_flight.sent(seq, sent, self.now.since_start);
            }
        }
    }

    // --- refused records ---

    /// Sends the next group of suspects, with nothing else in flight. Goes on while what is tried needs no answer.
    fn send_suspects(&mut self) {
        while self.in_flight.is_empty() && self.now.since_start >= self.retry_at && self.breaker.state() != State::Open {
            let group = self.bisect.start();
            if group.is_empty() {
                return;
            }
            for seq in group {
                let verdict = self.send_suspect(seq);
                if let Some(verdict) = verdict
                    && let Some(AtFault { seq, reason }) = self.bisect.settle(seq, verdict)
                {
                    self.condemn(seq, reason);
                }
            }
        }
    }

    /// Sends one suspect; a verdict if it is not in flight now.
    fn send_suspect(&mut self, seq: u64) -> Option<Verdict> {
        if self.deliveries.is_done(seq) {
            return Some(Verdict::Done);
        }
        if self.now.since_start < self.retry_at {
            return Some(Verdict::NotNow);
        }
        let Fetch::Record(frame) = self.source.at(seq) else {
            // It cannot be read now: whoever reads from the first undelivered record learns why.
            self.condemned.remove(seq);
            self.cursor = self.cursor.min(seq);
            return Some(Verdict::Done);
        };
        let Some(sink) = &mut self.sink else { return Some(Verdict::NotNow) };
        let sent = Sent { bytes: frame.json.len(), received_ms: frame.received_ms, lane: sink.lane(seq, &frame, &|_| true) };
        match sink.send(seq, &frame) {
            Ok(()) => {
                self.in_flight.sent(seq, sent, self.now.since_start);
                None
            }
            Err(Refusal::Refused(reason)) => Some(Verdict::Refused(reason)),
            Err(Refusal::Busy | Refusal::Behind) if !self.in_flight.is_empty() => Some(Verdict::NotNow),
            Err(refusal) => {
                let is_done = self.not_sent(seq, sent, refusal);
                if !is_done {
                    self.retry_at = self.retry_at.max(self.now.since_start + self.pause());
                }
                Some(if is_done { Verdict::Done } else { Verdict::NotNow })
            }
        }
    }

    /// Writes a record for the destination to take or to refuse, once between two successes. Whether it did.
    fn write_probe(&mut self) -> bool {
        if self.condemned.is_probed() {
            return false;
        }
        let note = Note::new(Kind::Probe, "A sink refused a record; this one shows whether it takes any other.")
            .text("sink", &*self.name)
            .number("refused", self.condemned.first().unwrap_or_default());
        match self.trail.write(note) {
            Ok(()) => self.condemned.probed(),
            Err(error) => tracing::warn!(sink = self.name, error, "a probe could not be written"),
        }
        self.condemned.is_probed()
    }

    /// While condemned records are all that is left: tries the first one again, and writes one record of the sidecar's own, for the destination to take
    /// or to refuse.
    fn retry_condemned(&mut self) {
        let now = self.now.since_start;
        let is_alone = self.condemned.len() > 0 && self.in_flight.is_empty() && self.cursor >= self.synced;
        if !is_alone || now < self.condemned_retry_at {
            return;
        }
        if self.write_probe() {
            return;
        }
        if let Some(first) = self.condemned.first() {
            self.bisect.suspect_alone(first);
            self.send_suspects();
        }
    }

    /// A record is at fault: keep it elsewhere, name it in the chain, and go on. False: it could not be kept yet.
    fn dead_letter(&mut self, seq: u64, reason: &str) -> bool {
        let Fetch::Record(frame) = self.source.at(seq) else { return true };
        let record = (self.shown)(&frame);
        // A record of the sidecar makes no other one, which might be refused in turn, and so on.
        let note = (!frame.is_note).then(|| dead_note(&self.name, seq, &record, reason));
        let by_topic = self.sink.as_mut().map(|sink| sink.send_dead(seq, &frame, reason));
        if !matches!(by_topic, Some(Ok(()))) {
            let destination = self.sink.as_ref().map(|sink| sink.describe()).unwrap_or_default();
            let sink = self.name.clone();
            let letter = DeadLetter { seq, reason: reason.into(), at_ms: self.now.wall_ms, sink, destination, record };
            let kept = if self.dead.bytes() < self.settings.dead_bytes {
                self.dead.put(&letter, &self.settings.keys).map_err(|error| error.to_string())
            } else {
                Err("dead/ is full; read it with `steno-sidecar dead list`, then requeue or remove what is settled".into())
            };
            if let Err(error) = kept {
                self.failed_as_a_whole(&format!("a dead letter could not be kept: {error}"));
                return false;
            }
        }
        // After the letter, which is the same however often it is kept: if there is no room for this record, nothing else piles up.
        if let Some(Err(error)) = note.map(|note| self.trail.write(note)) {
            self.failed_as_a_whole(&format!("a dead letter could not be recorded: {error}"));
            return false;
        }
        tracing::error!(sink = self.name, seq, reason, "the destination refuses this record; it is a dead letter");
        self.metrics.dead.inc();
        self.report.status.update(|status| status.dead += 1);
        self.deliveries.note(seq, Fate::DeadLettered);
        if let Some(gate) = &self.gate {
            gate.all().note(seq, Fate::DeadLettered);
        }
        self.deliveries.done(std::iter::once(seq));
        true
    }
}

/// What became of the next record.
enum Next {
    Sent,
    PassedOver,
    /// No record can be sent now.
    Nothing,
}

// === impl Settings ===

impl Settings {
    /// Records that may be in flight.
    fn ahead(&self) -> u64 {
        self.batch.iter().map(|(_, size)| *size).max().unwrap_or(100) * IN_FLIGHT_BATCHES
    }
}

fn dead_note(sink: &str, seq: u64, record: &str, reason: &str) -> Note {
    let note = Note::new(Kind::DeadLetter, "A sink refused a record for good; it is kept as a dead letter.");
    let (note, lost) = name_record(note, sink, seq, record);
    note.text("reason", reason).lost(lost.into_iter().collect())
}

/// Names a record in a record of the sidecar: its sink, numbers, id and hash.
fn name_record(note: Note, sink: &str, seq: u64, record: &str) -> (Note, Option<Lost>) {
    let note = note.text("sink", sink).number("journalSeq", seq);
    let Ok(Json::Object(record)) = parse(record) else { return (note, None) };
    let text = |object: &steno_event::json::Object<'_>, name: &str| {
        object.get(name).and_then(Json::as_str).unwrap_or_default().to_owned()
    };
    let note = note.text("eventId", text(&record, "eventId"));
    let Some(Json::Object(integrity)) = record.get("integrity") else { return (note, None) };
    let Some(Json::Number(chain_seq)) = integrity.get("seq") else { return (note, None) };
    let chain_seq = *chain_seq as u64;
    let lost = Lost { chain_id: text(integrity, "chainId"), first: chain_seq, last: chain_seq };
    (note.text("hash", text(integrity, "hash")).number("seq", chain_seq), Some(lost))
}
