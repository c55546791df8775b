//! The thread that forwards: reads what is synced, sends it, takes outcomes.
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use parking_lot::Mutex;
use steno_chain::{Kind, Lost, Note};
use steno_commit::{Critical, Frame, Handle, Held, Observer, frames, losses, lost_range};
use steno_event::json::{Json, parse};
use steno_journal::{Block, Damage, Keys, Next, Reader, Shared, sink_id};

use crate::{
    Breaker, BreakerConfig, DeadFolder, DeadLetter, Deliveries, Gate, Metrics, Outcome, Permit, Refusal, Sink, State, Status,
};

/// What the forwarder goes by.
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
    /// How far the sink may stay behind before records are left out for it; `None`: what it has not confirmed is kept.
    pub max_lag: Option<Lag>,
}

/// How far a sink may stay behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lag {
    /// Bytes of the spool.
    pub bytes: u64,
    /// Age of the oldest record that waits.
    pub age: Option<Duration>,
}

/// Makes a sink that reports to a channel.
pub type SinkFactory = Box<dyn Fn(Reporter) -> Result<Box<dyn Sink>, String> + Send>;

/// How a sink reports. What one reports whose place another has taken counts for nobody.
#[derive(Clone)]
pub struct Reporter {
    events: Sender<Event>,
    generation: u64,
}

/// What the forwarder is told.
pub enum Event {
    /// More is synced.
    Synced(u64),
    /// A critical event was synced.
    Critical(Critical),
    /// A record came back, from a sink of this generation.
    Outcome(u64, Outcome),
    /// What the preflight found, of a sink of this generation.
    Preflight(u64, Vec<String>),
    /// Something from outside.
    Control(Control),
}

/// What others may ask.
pub enum Control {
    /// Go by other settings; with a factory, to another destination.
    Reload(Settings, Option<SinkFactory>),
    /// Go with others, or alone.
    Gate(Option<Arc<Gate>>),
    /// Stop when all is delivered, at the latest after so long; tells how many records are left.
    Stop(Duration, Sender<u64>),
}

/// The sending end, for the commit loop and for others.
#[derive(Clone)]
pub struct Inbox {
    sender: Sender<Event>,
    told: Arc<AtomicBool>,
}

/// At most so many records are delivered ahead of others.
const MOST_AHEAD: usize = 1024;
/// Bytes on their way at a time.
const IN_FLIGHT_BYTES: usize = 12 << 20;
/// Batches on their way at a time.
const IN_FLIGHT_BATCHES: u64 = 8;
/// Between two looks at what is synced, while more comes all the time: a wake-up for each block would cost more than the block.
const LINGER: Duration = Duration::from_millis(2);
/// The same while nothing may be sent.
const LINGER_OPEN: Duration = Duration::from_millis(100);
/// Blocks that are looked at in one turn for their age.
const AGED: usize = 4096;

/// The forwarder.
pub struct Forwarder {
    name: String,
    gate: Option<Arc<Gate>>,
    settings: Settings,
    inbox: Inbox,
    events: Receiver<Event>,
    factory: SinkFactory,
    sink: Option<Box<dyn Sink>>,
    /// Of the sink, or of the next one where there is none.
    generation: u64,
    breaker: Breaker,
    started: Instant,
    reader: Reader,
    shared: Arc<Shared>,
    current: Option<Cursor>,
    deliveries: Arc<Deliveries>,
    status: Arc<Status>,
    metrics: Metrics,
    shown: fn(&Frame<'_>) -> String,
    commit: Handle,
    dead: DeadFolder,
    /// Records on their way: their bytes and when they were received.
    in_flight: HashMap<u64, (usize, u64)>,
    in_flight_bytes: usize,
    /// Something failed: nothing is sent until all has come back.
    draining: bool,
    /// Records that failed together with one that is refused; tried in halves.
    suspects: Vec<Vec<u64>>,
    /// The half that is being tried.
    on_trial: Option<Vec<u64>>,
    trial_failed: bool,
    refused_now: Vec<u64>,
    resume_at: Instant,
    critical: VecDeque<Critical>,
    synced: u64,
    /// When it looks again by itself; until then it is not told of more.
    look_at: Option<Instant>,
    /// There is nothing to read from: a new reader begins at the watermark.
    released: bool,
    saved_at: Instant,
    oldest: Option<(u64, u64)>,
    known_damage: Arc<Mutex<Vec<Damage>>>,
    stop: Option<(Instant, Sender<u64>)>,
    probed: bool,
    mean_ms: f64,
    was_open: bool,
}

/// A block that is being sent.
struct Cursor {
    block: Block,
    /// Sequence number of the frame at `offset`.
    seq: u64,
    offset: usize,
}

/// What [`Forwarder::new`] is made of.
pub struct Parts {
    /// The sink's name, as in the journal's state.
    pub name: String,
    /// The sinks that it goes with.
    pub gate: Option<Arc<Gate>>,
    /// What it goes by.
    pub settings: Settings,
    /// Makes its sink.
    pub factory: SinkFactory,
    /// The journal.
    pub shared: Arc<Shared>,
    /// First record that is not known to be delivered.
    pub position: u64,
    /// Damage that a record tells of already; of all forwarders of a journal.
    pub known_damage: Arc<Mutex<Vec<Damage>>>,
    /// The commit loop.
    pub commit: Handle,
    /// Where dead letters go that no topic takes.
    pub dead: DeadFolder,
    /// Who waits for records.
    pub deliveries: Arc<Deliveries>,
    /// Where it tells how things stand.
    pub status: Arc<Status>,
    /// What it counts.
    pub metrics: Metrics,
    /// What may be kept of a record outside the journal, where the sink refuses it.
    pub shown: fn(&Frame<'_>) -> String,
}

/// A record as the journal has it.
pub fn as_it_is(frame: &Frame<'_>) -> String {
    String::from_utf8_lossy(frame.json).into_owned()
}

// === impl Reporter ===

impl Reporter {
    /// For a sink that reports to a channel.
    pub fn new(events: Sender<Event>, generation: u64) -> Self {
        Self { events, generation }
    }

    /// What became of a record.
    pub fn outcome(&self, seq: u64, result: Result<(), Refusal>) {
        let _ = self.events.send(Event::Outcome(self.generation, Outcome { seq, result }));
    }

    /// What a preflight found.
    pub fn preflight(&self, warnings: Vec<String>) {
        let _ = self.events.send(Event::Preflight(self.generation, warnings));
    }
}

// === impl Inbox ===

impl Inbox {
    /// A channel to a forwarder that is made later.
    pub fn channel() -> (Self, Receiver<Event>) {
        let (sender, events) = unbounded();
        (Self { sender, told: Arc::new(AtomicBool::new(false)) }, events)
    }

    /// Asks for something.
    pub fn ask(&self, control: Control) {
        let _ = self.sender.send(Event::Control(control));
    }

    /// The sending end for sinks and preflights.
    pub fn sender(&self) -> Sender<Event> {
        self.sender.clone()
    }
}

impl Observer for Inbox {
    fn synced(&mut self, next_seq: u64, critical: Vec<Critical>) {
        for event in critical {
            let _ = self.sender.send(Event::Critical(event));
        }
        // One message is enough until it is read.
        if !self.told.swap(true, Ordering::AcqRel) {
            let _ = self.sender.send(Event::Synced(next_seq));
        }
    }
}

// === impl Forwarder ===

impl Forwarder {
    /// A forwarder over the journal.
    pub fn new(inbox: Inbox, events: Receiver<Event>, parts: Parts) -> Self {
        let Parts {
            name,
            gate,
            settings,
            factory,
            shared,
            position,
            known_damage,
            commit,
            dead,
            deliveries,
            status,
            metrics,
            shown,
        } = parts;
        let now = Instant::now();
        let breaker = Breaker::new(settings.breaker, Duration::ZERO);
        let reader = Reader::new(shared.clone(), position);
        Self {
            name,
            gate,
            settings,
            inbox,
            events,
            factory,
            sink: None,
            generation: 0,
            breaker,
            started: now,
            reader,
            synced: shared.synced(),
            shared,
            current: None,
            deliveries,
            status,
            metrics,
            shown,
            commit,
            dead,
            in_flight: HashMap::new(),
            in_flight_bytes: 0,
            draining: false,
            suspects: Vec::new(),
            on_trial: None,
            trial_failed: false,
            refused_now: Vec::new(),
            resume_at: now,
            critical: VecDeque::new(),
            look_at: None,
            released: false,
            saved_at: now,
            oldest: None,
            known_damage,
            stop: None,
            probed: false,
            mean_ms: 0.0,
            was_open: false,
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Works until it is told to stop.
    pub fn run(mut self) {
        loop {
            let wait = self.patience();
            match self.events.recv_timeout(wait) {
                Ok(event) => {
                    let mut outcomes = Vec::new();
                    self.take(event, &mut outcomes);
                    while let Ok(event) = self.events.try_recv() {
                        self.take(event, &mut outcomes);
                    }
                    self.settle(outcomes);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.look();
            self.check_broker();
            self.recover();
            self.pump();
            self.tell();
            if self.stopped() {
                return;
            }
        }
    }

    /// Sees what is synced. While more comes it looks by itself; then it is told again.
    fn look(&mut self) {
        let now = Instant::now();
        let before = self.synced;
        if self.look_at.is_some_and(|at| at <= now) {
            let more = self.shared.synced() > before;
            self.look_at = more.then(|| now + self.linger());
            if !more {
                // Told again first, then looked: nothing falls between.
                self.inbox.told.store(false, Ordering::SeqCst);
            }
        }
        self.synced = self.shared.synced();
    }

    fn linger(&self) -> Duration {
        if self.breaker.state() == State::Open { LINGER_OPEN } else { LINGER }
    }

    /// How long nothing will happen by itself.
    fn patience(&self) -> Duration {
        let to_resume = self.resume_at.saturating_duration_since(Instant::now());
        let idle = self.in_flight.is_empty() && self.waiting() == 0 && self.stop.is_none();
        let base = if idle { Duration::from_secs(1) } else { Duration::from_millis(100) };
        let to_look = self.look_at.map_or(base, |at| at.saturating_duration_since(Instant::now()));
        let base = base.min(to_look);
        if to_resume.is_zero() || idle { base } else { base.min(to_resume) }
    }

    fn waiting(&self) -> u64 {
        self.synced.saturating_sub(self.deliveries.position())
    }

    fn take(&mut self, event: Event, outcomes: &mut Vec<Outcome>) {
        match event {
            Event::Synced(_) => self.look_at = Some(Instant::now() + self.linger()),
            Event::Critical(event) => self.critical.push_back(event),
            Event::Outcome(generation, _) | Event::Preflight(generation, _) if generation != self.generation => {}
            Event::Outcome(_, outcome) => outcomes.push(outcome),
            Event::Preflight(_, warnings) => {
                for warning in &warnings {
                    tracing::warn!(warning, "preflight");
                }
                self.metrics.warnings.set(warnings.len() as i64);
                self.status.update(|status| status.warnings = warnings);
            }
            Event::Control(Control::Reload(settings, factory)) => self.reload(settings, factory),
            Event::Control(Control::Gate(gate)) => self.gate = gate,
            Event::Control(Control::Stop(most, done)) => self.stop = Some((Instant::now() + most, done)),
        }
    }

    // --- outcomes ---

    fn settle(&mut self, outcomes: Vec<Outcome>) {
        if outcomes.is_empty() {
            return;
        }
        let now_ms = wall_ms();
        let mut delivered = Vec::with_capacity(outcomes.len());
        let mut failure: Option<String> = None;
        let mut pause = Duration::ZERO;
        for Outcome { seq, result } in outcomes {
            let Some((bytes, received_ms)) = self.in_flight.remove(&seq) else { continue };
            self.in_flight_bytes -= bytes;
            match result {
                Ok(()) => {
                    delivered.push(seq);
                    let took = now_ms.saturating_sub(received_ms) as f64;
                    self.metrics.latency.observe(took / 1000.0);
                    self.mean_ms += (took - self.mean_ms) * 0.01;
                }
                Err(refusal) => {
                    self.metrics.failed.inc();
                    match refusal {
                        Refusal::Refused { reason, alone } => {
                            let by_itself = alone || self.on_trial.as_ref().is_some_and(|trial| trial.len() == 1);
                            if by_itself {
                                self.bury(seq, &reason);
                            } else {
                                self.refused_now.push(seq);
                            }
                            self.trial_failed = true;
                            self.draining = true;
                        }
                        Refusal::Behind => self.draining = true,
                        Refusal::Later(reason) => failure = Some(reason),
                        Refusal::Wait(asked, reason) => {
                            pause = pause.max(asked);
                            failure = Some(reason);
                        }
                        Refusal::Busy => failure = Some("the client's queue is full".into()),
                        Refusal::Broken(reason) => {
                            self.sink = None;
                            failure = Some(reason);
                        }
                    }
                }
            }
        }
        if !delivered.is_empty() {
            self.metrics.delivered.inc_by(delivered.len() as u64);
            let count = delivered.len() as u64;
            self.status.update(|status| status.delivered += count);
            self.deliveries.done(delivered.into_iter());
            let was = self.breaker.state();
            self.breaker.success(self.now());
            if was != State::Closed {
                tracing::info!(sink = self.name, "deliveries go through again; the breaker is closed");
            }
        }
        if let Some(reason) = failure {
            self.failed(&reason);
            self.resume_at = self.resume_at.max(Instant::now() + pause);
        }
    }

    /// Something did not go through and may later. Counted once until all has come back.
    fn failed(&mut self, reason: &str) {
        if self.on_trial.is_some() {
            self.trial_failed = true;
        }
        if self.draining && self.breaker.reason() == reason {
            return;
        }
        self.draining = true;
        self.breaker.failure(self.now(), reason);
        let pause = Duration::from_millis(100 << self.breaker.failures().min(4));
        self.resume_at = Instant::now() + pause;
        self.note_breaker();
    }

    fn note_breaker(&mut self) {
        let open = self.breaker.state() == State::Open;
        if open && !self.was_open {
            self.metrics.opened.inc();
            tracing::warn!(
                sink = self.name,
                reason = self.breaker.reason(),
                "the breaker is open: nothing is sent, new events are spooled or refused as the policy says"
            );
        }
        self.was_open = open;
    }

    fn check_broker(&mut self) {
        let absent = self.sink.as_ref().and_then(|sink| sink.absent_for());
        if let Some(absent) = absent
            && (self.waiting() > 0 || !self.in_flight.is_empty())
        {
            self.breaker.no_broker(
                self.now(),
                absent,
                if self.name == "kafka" {
                    "no broker can be reached; check kafka.brokers, the network and the brokers' logs"
                } else {
                    "a batch is under way for long, and the destination does not answer"
                },
            );
            self.note_breaker();
        }
    }

    /// All that was on its way has come back: go on from the watermark.
    fn recover(&mut self) {
        if !self.in_flight.is_empty() {
            return;
        }
        if let Some(trial) = self.on_trial.take() {
            // What is left of it goes first, before those behind it.
            let mut left: Vec<u64> = trial.into_iter().filter(|seq| !self.deliveries.is_done(*seq)).collect();
            if self.trial_failed && left.len() > 1 {
                let second = left.split_off(left.len() / 2);
                self.suspects.push(second);
            }
            if !left.is_empty() {
                self.suspects.push(left);
                self.refused_now.clear();
            }
        }
        self.trial_failed = false;
        if !self.refused_now.is_empty() {
            let mut together = std::mem::take(&mut self.refused_now);
            together.sort_unstable();
            self.suspects.push(together);
        }
        if self.draining {
            self.draining = false;
            self.probed = false;
            self.current = None;
            self.reader = Reader::new(self.shared.clone(), self.deliveries.position());
            if let Some(sink) = &mut self.sink {
                sink.resume();
            }
        }
    }

    // --- sending ---

    fn batch_size(&self, backlog: u64) -> u64 {
        let step = self.settings.batch.iter().filter(|(least, _)| backlog >= *least).max_by_key(|(least, _)| *least);
        step.or_else(|| self.settings.batch.iter().min_by_key(|(least, _)| *least)).map_or(100, |(_, size)| *size)
    }

    fn pump(&mut self) {
        if self.draining || Instant::now() < self.resume_at {
            return;
        }
        let permit = self.breaker.permit(self.now());
        if permit == Permit::Nothing {
            // What is tried after the next cooldown is tried anew, whatever came of the last time.
            self.probed = false;
            if !std::mem::replace(&mut self.released, true) {
                self.current = None;
                self.reader = Reader::new(self.shared.clone(), self.deliveries.position());
            }
            self.critical.clear();
            return;
        }
        self.released = false;
        if self.sink.is_none() && !self.make_sink() {
            return;
        }
        if !self.suspects.is_empty() {
            self.try_suspects();
            return;
        }
        let batch = self.batch_size(self.waiting());
        if permit == Permit::Probe {
            self.try_out(batch);
        } else {
            self.send_critical();
            let most = (batch * IN_FLIGHT_BATCHES) as usize;
            let mut sent = 0;
            while self.in_flight.len() < most && self.in_flight_bytes < IN_FLIGHT_BYTES && self.send_next() {
                sent += 1;
            }
            if sent > 0 {
                self.metrics.batch.observe(f64::from(sent));
            }
        }
    }

    fn make_sink(&mut self) -> bool {
        self.generation += 1;
        match (self.factory)(Reporter::new(self.inbox.sender(), self.generation)) {
            Ok(sink) => {
                let destination = sink.describe();
                self.status.update(|status| status.destination = destination);
                self.sink = Some(sink);
                true
            }
            Err(reason) => {
                self.failed(&reason);
                false
            }
        }
    }

    /// Half-open: the oldest batch, or a question where nothing waits.
    fn try_out(&mut self, batch: u64) {
        if self.probed {
            return;
        }
        self.probed = true;
        if self.waiting() == 0 {
            let asked = self.sink.as_mut().map_or(Ok(()), |sink| sink.probe(Duration::from_secs(5)));
            match asked {
                Ok(()) => self.breaker.success(self.now()),
                Err(reason) => {
                    self.draining = false;
                    self.failed(&reason);
                }
            }
            return;
        }
        let mut sent = 0;
        while sent < batch && self.send_next() {
            sent += 1;
        }
        if sent == 0 && self.in_flight.is_empty() {
            self.probed = false;
        }
    }

    /// Sends the next record that needs sending; false where there is none or the sink takes no more.
    fn send_next(&mut self) -> bool {
        loop {
            if self.draining {
                return false;
            }
            let Some(cursor) = &mut self.current else {
                if !self.next_block() {
                    return false;
                }
                continue;
            };
            let Some(frame) = frames(&cursor.block.payload[cursor.offset..]).next() else {
                self.current = None;
                continue;
            };
            let (seq, bytes) = (cursor.seq, frame.json.len());
            let length = Frame::OVERHEAD + bytes;
            if self.in_flight.contains_key(&seq) || self.deliveries.is_done(seq) {
                cursor.step(length);
                continue;
            }
            if self.gate.as_ref().is_some_and(|gate| seq >= gate.position() + self.settings.ahead()) {
                // The others are not as far.
                return false;
            }
            let Some(sink) = &mut self.sink else { return false };
            match sink.send(seq, &frame) {
                Ok(()) => {
                    self.in_flight.insert(seq, (bytes, frame.received_ms));
                    self.in_flight_bytes += bytes;
                    cursor.step(length);
                    return true;
                }
                Err(Refusal::Busy | Refusal::Behind) => return false,
                Err(Refusal::Refused { reason, .. }) => {
                    cursor.step(length);
                    self.bury(seq, &reason);
                }
                Err(Refusal::Later(reason) | Refusal::Wait(_, reason)) => {
                    self.failed(&reason);
                    return false;
                }
                Err(Refusal::Broken(reason)) => {
                    self.sink = None;
                    self.failed(&reason);
                    return false;
                }
            }
        }
    }

    fn next_block(&mut self) -> bool {
        match self.reader.next() {
            Ok(Next::Block(block)) => {
                let seq = block.header.first_seq;
                self.current = Some(Cursor { block, seq, offset: 0 });
                true
            }
            Ok(Next::CaughtUp) => {
                self.reader.release();
                false
            }
            Ok(Next::Lost(damage)) => {
                self.lost(&damage);
                true
            }
            Err(error) => {
                self.failed(&format!("the journal cannot be read: {error}"));
                false
            }
        }
    }

    /// Records that cannot be read: their loss gets a record of its own, then they are not waited for.
    fn lost(&mut self, damage: &Damage) {
        let shared = self.known_damage.clone();
        // Held until the record is written: of several forwarders that meet it, one tells.
        let mut all = shared.lock();
        let known = all.iter().any(|known| known.first_seq <= damage.first_seq && damage.next_seq <= known.next_seq);
        if !known {
            let lost = damage.ranges.iter().map(lost_range).collect();
            let note = Note::new(Kind::Quarantine, "A part of the journal could not be read any more.")
                .number("records", damage.next_seq.saturating_sub(damage.first_seq))
                .lost(lost);
            if let Err(error) = self.commit.note_lost(note, Some((damage.first_seq, damage.next_seq))) {
                self.failed(&format!("a loss could not be recorded: {error}"));
                return;
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
            self.deliveries.done(missing);
        }
    }

    fn send_critical(&mut self) {
        if self.settings.in_order {
            self.critical.clear();
        }
        while let Some(critical) = self.critical.pop_front() {
            let seq = critical.seq;
            let behind = self.current.as_ref().map_or(self.reader.position(), |cursor| cursor.seq) > seq;
            if behind
                || self.gate.as_ref().is_some_and(|gate| seq >= gate.position() + self.settings.ahead())
                || self.in_flight.contains_key(&seq)
                || self.deliveries.is_done(seq)
                || self.deliveries.ahead() >= MOST_AHEAD
            {
                continue;
            }
            let (Some(frame), Some(sink)) = (frames(&critical.frame).next(), &mut self.sink) else { continue };
            if sink.send(seq, &frame).is_ok() {
                self.in_flight.insert(seq, (frame.json.len(), frame.received_ms));
                self.in_flight_bytes += frame.json.len();
            }
        }
    }

    // --- refused for good ---

    /// Tries a half of what failed together, with nothing else on its way.
    fn try_suspects(&mut self) {
        if !self.in_flight.is_empty() || self.on_trial.is_some() {
            return;
        }
        let Some(trial) = self.suspects.pop() else { return };
        let trial: Vec<u64> = trial.into_iter().filter(|seq| !self.deliveries.is_done(*seq)).collect();
        for seq in &trial {
            let sent =
                self.with_record(*seq, |sink, frame| sink.send(*seq, frame).map(|()| (frame.json.len(), frame.received_ms)));
            match sent {
                Some(Ok(place)) => {
                    self.in_flight_bytes += place.0;
                    self.in_flight.insert(*seq, place);
                }
                Some(Err(Refusal::Refused { reason, .. })) => self.bury(*seq, &reason),
                Some(Err(Refusal::Busy | Refusal::Behind)) => break,
                None => {
                    // It cannot be read now: whoever reads from the watermark learns why.
                    self.suspects.clear();
                    self.draining = true;
                    break;
                }
                Some(Err(Refusal::Later(reason) | Refusal::Wait(_, reason) | Refusal::Broken(reason))) => {
                    self.failed(&reason);
                    break;
                }
            }
        }
        if !self.in_flight.is_empty() {
            self.on_trial = Some(trial);
            return;
        }
        // What could not be sent goes first again.
        let left: Vec<u64> = trial.into_iter().filter(|seq| !self.deliveries.is_done(*seq)).collect();
        if left.is_empty() || self.suspects.is_empty() {
            self.draining |= self.suspects.is_empty();
        } else {
            self.suspects.push(left);
        }
    }

    fn with_record<T>(&mut self, seq: u64, act: impl FnOnce(&mut dyn Sink, &Frame<'_>) -> T) -> Option<T> {
        let held = Held::read(&self.shared, seq)?;
        let frame = held.frame()?;
        self.sink.as_deref_mut().map(|sink| act(sink, &frame))
    }

    /// A record is refused for good: tell of it in the chain, keep it elsewhere, and go on.
    fn bury(&mut self, seq: u64, reason: &str) {
        let held = Held::read(&self.shared, seq);
        let Some(frame) = held.as_ref().and_then(Held::frame) else { return };
        let record = (self.shown)(&frame);
        // A record of the sidecar that is refused makes no other one, which might be refused in its turn, and so on.
        let note = (!frame.is_note).then(|| dead_note(&self.name, seq, &record, reason));
        let by_topic = self.sink.as_mut().map(|sink| sink.send_dead(seq, &frame, reason));
        if !matches!(by_topic, Some(Ok(()))) {
            let destination = self.sink.as_ref().map(|sink| sink.describe()).unwrap_or_default();
            let sink = self.name.clone();
            let letter = DeadLetter { seq, reason: reason.into(), at_ms: wall_ms(), sink, destination, record };
            let kept = if self.dead.bytes() < self.settings.dead_bytes {
                self.dead.put(&letter, &self.settings.keys).map_err(|error| error.to_string())
            } else {
                Err("dead/ is full; read it with `steno-sidecar dead list`, then remove what is settled".into())
            };
            if let Err(error) = kept {
                self.failed(&format!("a dead letter could not be kept: {error}"));
                return;
            }
        }
        // Behind the letter, which is the same however often it is kept: where there is no room for it nothing else piles up.
        if let Some(Err(error)) = note.map(|note| self.commit.note(note)) {
            self.failed(&format!("a dead letter could not be recorded: {error}"));
            return;
        }
        tracing::error!(sink = self.name, seq, reason, "a record was refused for good; it is a dead letter");
        self.metrics.dead.inc();
        self.status.update(|status| status.dead += 1);
        self.deliveries.done(std::iter::once(seq));
    }

    // --- the rest ---

    fn reload(&mut self, settings: Settings, factory: Option<SinkFactory>) {
        self.breaker.configure(settings.breaker);
        self.settings = settings;
        let Some(factory) = factory else { return };
        // The old destination gets a little time for what is on its way; what is left goes to the new one.
        let until = Instant::now() + Duration::from_secs(5);
        let (mut outcomes, mut later) = (Vec::new(), Vec::new());
        while outcomes.len() < self.in_flight.len() && self.breaker.state() == State::Closed {
            match self.events.recv_deadline(until) {
                // One change after the other: a later one counts.
                Ok(Event::Control(control)) => later.push(control),
                Ok(event) => self.take(event, &mut outcomes),
                Err(_) => break,
            }
        }
        self.settle(outcomes);
        if !self.in_flight.is_empty() {
            tracing::warn!(
                records = self.in_flight.len(),
                "the old destination did not confirm in time; these go to the new one too"
            );
        }
        self.in_flight.clear();
        self.in_flight_bytes = 0;
        self.on_trial = None;
        self.suspects.clear();
        self.refused_now.clear();
        self.sink = None;
        self.generation += 1;
        self.factory = factory;
        self.breaker = Breaker::new(self.settings.breaker, self.now());
        self.resume_at = Instant::now();
        self.draining = true;
        for control in later {
            self.take(Event::Control(control), &mut Vec::new());
        }
    }

    fn tell(&mut self) {
        let position = self.deliveries.position();
        let oldest_held = self.shared.oldest();
        if position < oldest_held {
            // Dropped by the policy, with a record that says so for this sink.
            self.deliveries.skip_to(oldest_held);
        }
        let due = self.saved_at.elapsed() >= Duration::from_secs(1) || (self.stop.is_some() && self.waiting() == 0);
        if self.leave_out(due) || due {
            self.saved_at = Instant::now();
            self.save();
        }
        let position = self.deliveries.position();
        if let Some(gate) = &self.gate {
            gate.reached(&self.name, position);
        }
        let backlog = self.waiting();
        if due || self.breaker.state() != State::Closed {
            self.note_oldest(position, backlog);
        } else if backlog == 0 {
            self.oldest = None;
        }
        let (now, wall) = (self.now(), wall_ms());
        let state = self.breaker.state();
        let since_ms = wall.saturating_sub(now.saturating_sub(self.breaker.since()).as_millis() as u64);
        let batch_size = self.batch_size(backlog);
        let oldest_ms = self.oldest.map_or(0, |(_, ms)| ms);
        self.metrics.breaker.set(match state {
            State::Closed => 0,
            State::HalfOpen => 1,
            State::Open => 2,
        });
        self.metrics.backlog.set(backlog as i64);
        self.metrics.oldest.set(if oldest_ms == 0 { 0 } else { wall.saturating_sub(oldest_ms) as i64 / 1000 });
        let (failures, in_flight, batch_ms) = (self.breaker.failures(), self.in_flight.len(), self.mean_ms);
        let reason = self.breaker.reason();
        self.status.update(|status| {
            status.breaker = state.word();
            reason.clone_into(&mut status.reason);
            status.since_ms = since_ms;
            (status.failures, status.position, status.backlog, status.in_flight) = (failures, position, backlog, in_flight);
            (status.batch_size, status.oldest_ms, status.batch_ms) = (batch_size, oldest_ms, batch_ms);
        });
    }

    /// Has the position made durable: the sink's own, or that of all.
    fn save(&self) {
        let own = self.deliveries.position();
        let position = self.gate.as_ref().map_or(own, |gate| gate.position().min(own));
        self.commit.positions(BTreeMap::from([(sink_id(&self.name), position)]));
    }

    /// Leaves out records that wait for a sink that may be left behind, as the policy says, after a record that names them.
    /// Whether it did. Age is looked at only `by_age` too.
    fn leave_out(&mut self, by_age: bool) -> bool {
        let Some(lag) = self.settings.max_lag else { return false };
        let from = self.deliveries.position();
        let by_bytes = self.shared.cut_to(from, lag.bytes);
        let by_age = lag.age.filter(|_| by_age).and_then(|age| self.aged(from, age));
        let Some(end) = by_bytes.max(by_age).filter(|end| *end > from) else { return false };
        let (lost, records) = losses(&self.shared, from, end, Some(&self.name));
        let reason = if by_age >= by_bytes { "maxLag.age" } else { "maxLag.bytes" };
        let note = Note::new(Kind::Drop, "A sink was too far behind; these records were left out for it, as the policy says.")
            .text("sink", &*self.name)
            .text("reason", reason)
            .number("records", records)
            .lost(lost);
        if let Err(error) = self.commit.note(note) {
            // They wait on until it can be told that they are left out.
            tracing::warn!(sink = self.name, %error, "records that are left out could not be recorded yet");
            return false;
        }
        tracing::warn!(sink = self.name, records, "the sink is too far behind: records were left out for it");
        self.metrics.left_out.inc_by(records);
        self.status.update(|status| status.left_out += records);
        self.deliveries.skip_to(end);
        true
    }

    /// The first record behind `from` that is in a block younger than an age; `None`: that at `from` is.
    fn aged(&self, from: u64, age: Duration) -> Option<u64> {
        let oldest_ms = wall_ms().saturating_sub(age.as_millis() as u64);
        let mut reader = Reader::new(self.shared.clone(), from);
        let mut end = None;
        for _ in 0..AGED {
            match reader.next() {
                Ok(Next::Block(block)) if block.header.wall_ms < oldest_ms => end = Some(block.header.next_seq()),
                Ok(Next::Lost(damage)) => end = Some(damage.next_seq),
                _ => break,
            }
        }
        end
    }

    fn note_oldest(&mut self, position: u64, backlog: u64) {
        if backlog == 0 {
            self.oldest = None;
        } else if self.oldest.is_none_or(|(seq, _)| seq != position) {
            let block = Reader::new(self.shared.clone(), position).next();
            self.oldest = if let Ok(Next::Block(block)) = block { Some((position, block.header.wall_ms)) } else { None };
        }
    }

    fn stopped(&mut self) -> bool {
        let Some((until, done)) = &self.stop else { return false };
        let left = self.synced.saturating_sub(self.deliveries.position());
        let over = left == 0 || Instant::now() >= *until;
        if over {
            self.save();
            let _ = done.send(left);
        }
        over
    }
}

// === impl Settings ===

impl Settings {
    /// Records that may be on their way.
    fn ahead(&self) -> u64 {
        self.batch.iter().map(|(_, size)| *size).max().unwrap_or(100) * IN_FLIGHT_BATCHES
    }
}

// === impl Cursor ===

impl Cursor {
    fn step(&mut self, length: usize) {
        self.offset += length;
        self.seq += 1;
    }
}

fn dead_note(sink: &str, seq: u64, record: &str, reason: &str) -> Note {
    let note = Note::new(Kind::DeadLetter, "A sink refused a record for good; it is kept as a dead letter.")
        .text("sink", sink)
        .number("journalSeq", seq)
        .text("reason", reason);
    let Ok(Json::Object(record)) = parse(record) else { return note };
    let text = |object: &steno_event::json::Object<'_>, name: &str| {
        object.get(name).and_then(Json::as_str).unwrap_or_default().to_owned()
    };
    let note = note.text("eventId", text(&record, "eventId"));
    let Some(Json::Object(integrity)) = record.get("integrity") else { return note };
    let Some(Json::Number(chain_seq)) = integrity.get("seq") else { return note };
    let chain_seq = *chain_seq as u64;
    let lost = Lost { chain_id: text(integrity, "chainId"), first: chain_seq, last: chain_seq };
    note.text("hash", text(integrity, "hash")).number("seq", chain_seq).lost(vec![lost])
}

fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
