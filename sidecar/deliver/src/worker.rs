//! A sink that takes several records at a time, each batch whole or not at all, on a thread of its own.
use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use steno_commit::Frame;

use steno_event::json::{Json, parse};

use crate::{AGAIN, Record, Refusal, Reporter, Sink};

/// A destination as its thread sees it. Calls may block.
pub trait Backend: Send {
    /// Delivers a batch, in order. `Ok`: all of it is there for good. A refusal concerns the whole batch.
    fn write(&mut self, batch: &[Record]) -> Result<(), Refusal>;

    /// The same. While it waits for the destination it calls `meanwhile`, which prepares the next batch and returns soon.
    fn write_while(&mut self, batch: &[Record], meanwhile: &mut dyn FnMut()) -> Result<(), Refusal> {
        let _ = meanwhile;
        self.write(batch)
    }

    /// Whether the destination is there.
    fn probe(&mut self) -> Result<(), String>;

    /// Takes a dead letter once more. Unlike [`Self::write`] it may lie below what was written already.
    fn write_again(&mut self, record: &Record) -> Result<(), Refusal> {
        self.write(std::slice::from_ref(record))
    }

    /// Takes a record that is refused for good, and why; a refusal where it takes none.
    fn write_dead(&mut self, _record: &Record, _reason: &str) -> Result<(), Refusal> {
        Err(Refusal::Unfit("this sink takes no dead letters".into()))
    }

    /// Nothing came for a second.
    fn idle(&mut self) {}
}

/// What a sink's own redaction makes of a record's text; `None`: it stays as it is. The error: it could not be applied, and the record must not go.
pub type Shape = Arc<dyn Fn(&[u8]) -> Result<Option<Vec<u8>>, String> + Send + Sync>;

/// The key of a record, where a sink has keys.
pub(crate) type KeyOf = Arc<dyn Fn(&Frame<'_>) -> Option<Vec<u8>> + Send + Sync>;
/// How long a destination has been away.
pub(crate) type Absence = Arc<dyn Fn() -> Option<Duration> + Send + Sync>;

/// The connection's last error.
pub(crate) type Trouble = Arc<dyn Fn() -> Option<String> + Send + Sync>;
/// Why a record cannot go to the destination.
pub(crate) type Limit = Arc<dyn Fn(&Record) -> Result<Option<String>, Refusal> + Send + Sync>;

/// How a worker goes about it.
pub struct Manner {
    /// Records of a batch at most.
    pub records: usize,
    /// Bytes of a batch at most, its first record aside.
    pub bytes: usize,
    /// Whether the next one must not begin before this one has ended.
    pub alone: bool,
    /// Whether nothing may go before a batch that was refused.
    pub in_order: bool,
    /// The sink's own redaction.
    pub shape: Option<Shape>,
    /// Makes keys.
    pub key: Option<KeyOf>,
    /// Tells of an absence.
    pub absence: Option<Absence>,
    /// The connection's last error.
    pub trouble: Option<Trouble>,
    /// Why a record cannot go to the destination, whatever it is sent with.
    pub limit: Option<Limit>,
    /// Where it leads, for people.
    pub describe: String,
}

/// The sink.
pub struct Worker {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    manner: Manner,
    /// Since when a batch is under way: milliseconds since the process began, and one; 0: none is.
    under_way: Arc<AtomicU64>,
    /// Begun anew when all that was sent before has come back.
    round: u64,
    /// Nothing more is written: another worker takes the place.
    abandoned: Arc<AtomicBool>,
}

/// A batch that is under way for longer is as good as none.
const LONG: Duration = Duration::from_secs(15);

enum Job {
    /// A record, and the round that it was sent in.
    Record(u64, Record),
    Probe(Sender<Result<(), String>>),
    Dead(Record, String, Sender<Result<(), Refusal>>),
    Again(Record),
}

/// Longest wait for a dead letter.
const DEAD_WAIT: Duration = Duration::from_mins(1);

// === impl Worker ===

impl Worker {
    /// A thread for a destination, reporting to a channel.
    pub fn new(backend: Box<dyn Backend>, manner: Manner, reporter: Reporter) -> Result<Self, String> {
        let (sender, jobs) = unbounded();
        let under_way = Arc::new(AtomicU64::new(0));
        let busy = under_way.clone();
        let abandoned = Arc::new(AtomicBool::new(false));
        let over = abandoned.clone();
        let (records, bytes, in_order) = (manner.records, manner.bytes, manner.in_order);
        let work = move || work(backend, &jobs, &reporter, (&busy, &over), (records, bytes), in_order);
        let thread = std::thread::Builder::new().name("steno-sink".into()).spawn(work).map_err(|error| error.to_string())?;
        Ok(Self { jobs: Some(sender), thread: Some(thread), manner, under_way, round: 0, abandoned })
    }

    fn shaped(&self, frame: &Frame<'_>) -> Result<Option<Vec<u8>>, Refusal> {
        let shaped = self.manner.shape.as_ref().map_or(Ok(None), |shape| {
            catch_unwind(AssertUnwindSafe(|| shape(frame.json))).unwrap_or_else(|_| Err("it panicked".into()))
        });
        shaped.map_err(|why| Refusal::Unfit(format!("the sink's own redaction could not be applied: {why}")))
    }

    /// Has the thread do something, and waits for its answer.
    fn ask(&self, job: impl FnOnce(Sender<Result<(), Refusal>>) -> Job) -> Result<(), Refusal> {
        let (reply, answer) = crossbeam_channel::bounded(1);
        let asked = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job(reply)).is_ok());
        let answer = if asked { answer.recv_timeout(DEAD_WAIT).ok() } else { None };
        answer.unwrap_or_else(|| Err(Refusal::Later("the sink does not answer in time".into())))
    }

    fn record(&self, seq: u64, frame: &Frame<'_>, shaped: Option<Vec<u8>>) -> Record {
        let key = self.manner.key.as_ref().and_then(|key| key(frame));
        if let Some(json) = shaped {
            let kind = kind_of(&json);
            return Record { kind, key, ..Record::new(seq, frame, json) };
        }
        Record { key, ..Record::new(seq, frame, frame.json.to_vec()) }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // What is queued still is not for this one to write: who comes next begins with what was confirmed.
        self.abandoned.store(true, Ordering::Release);
        self.jobs = None;
        if let Some(thread) = self.thread.take().filter(|_| self.manner.alone) {
            let _ = thread.join();
        }
    }
}

impl Sink for Worker {
    fn send(&mut self, seq: u64, frame: &Frame<'_>) -> Result<(), Refusal> {
        let shaped = self.shaped(frame)?;
        let record = self.record(seq, frame, shaped);
        if let Some(reason) = self.manner.limit.as_ref().map_or(Ok(None), |limit| limit(&record))? {
            return Err(Refusal::Refused(reason));
        }
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(Job::Record(self.round, record)).is_ok());
        if sent { Ok(()) } else { Err(Refusal::Broken("the sink's thread ended".into())) }
    }

    fn send_dead(&mut self, seq: u64, frame: &Frame<'_>, reason: &str) -> Result<(), Refusal> {
        let record = self.record(seq, frame, None);
        self.ask(|reply| Job::Dead(record, reason.into(), reply))
    }

    fn send_again(&mut self, seq: u64, frame: &Frame<'_>) -> Result<(), Refusal> {
        let shaped = self.shaped(frame)?;
        let record = self.record(seq, frame, shaped);
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(Job::Again(record)).is_ok());
        if sent { Ok(()) } else { Err(Refusal::Broken("the sink's thread ended".into())) }
    }

    fn resume(&mut self) {
        self.round += 1;
    }

    fn probe(&mut self, wait: Duration) -> Result<(), String> {
        let (reply, answer) = crossbeam_channel::bounded(1);
        let asked = self.jobs.as_ref().is_some_and(|jobs| jobs.send(Job::Probe(reply)).is_ok());
        let answer = if asked { answer.recv_timeout(wait).ok() } else { None };
        answer.unwrap_or_else(|| Err("it does not answer in time".into()))
    }

    fn absent_for(&self) -> Option<Duration> {
        if let Some(absence) = &self.manner.absence {
            return absence();
        }
        let since = self.under_way.load(Ordering::Relaxed);
        let lasting = (since > 0).then(|| Duration::from_millis(clock().saturating_sub(since)));
        lasting.filter(|lasting| *lasting > LONG)
    }

    fn last_error(&self) -> Option<String> {
        self.manner.trouble.as_ref().and_then(|trouble| trouble())
    }

    fn patience(&self) -> Duration {
        if self.manner.absence.is_some() { Duration::ZERO } else { LONG }
    }

    fn describe(&self) -> String {
        self.manner.describe.clone()
    }
}

fn work(
    mut backend: Box<dyn Backend>,
    jobs: &Receiver<Job>,
    reporter: &Reporter,
    (busy, abandoned): (&AtomicU64, &AtomicBool),
    (records, bytes): (usize, usize),
    in_order: bool,
) {
    let second = Duration::from_secs(1);
    let mut quiet_since = Instant::now();
    // In order: a batch of this round failed, and nothing of it that comes behind may go before it.
    let mut halted = None;
    let tell = |seq: u64, result: Result<(), Refusal>| reporter.outcome(seq, result);
    let mut written = Vec::new();
    // Jobs that were taken while a batch was written.
    let mut taken = VecDeque::new();
    loop {
        let next = taken.pop_front().map_or_else(|| jobs.recv_timeout(second), Ok);
        if abandoned.load(Ordering::Acquire) {
            // Each has an outcome all the same: where the sink is made anew, somebody waits for it.
            let mut left = next.ok();
            while let Some(job) = left.take().or_else(|| taken.pop_front()).or_else(|| jobs.recv().ok()) {
                if let Job::Record(_, record) = job {
                    tell(record.seq, Err(Refusal::Behind));
                }
            }
            return;
        }
        let (round, first) = match next {
            Ok(Job::Record(round, record)) if halted == Some(round) => {
                tell(record.seq, Err(Refusal::Behind));
                continue;
            }
            Ok(Job::Record(round, record)) => (round, record),
            Ok(Job::Dead(record, reason, reply)) => {
                let _ = reply.send(dead(&mut *backend, &record, &reason));
                continue;
            }
            Ok(Job::Again(record)) => {
                tell(record.seq | AGAIN, again(&mut *backend, &record));
                continue;
            }
            Ok(Job::Probe(reply)) => {
                let _ = reply.send(probed(&mut *backend));
                continue;
            }
            Err(RecvTimeoutError::Timeout) => {
                (written, taken) = Default::default();
                idle(&mut *backend);
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if quiet_since.elapsed() > second {
            idle(&mut *backend);
            quiet_since = Instant::now();
        }
        let mut batch = vec![first];
        let mut size = 0;
        let mut other = None;
        while batch.len() < records && size < bytes && other.is_none() {
            match taken.pop_front().or_else(|| jobs.try_recv().ok()) {
                Some(Job::Record(_, record)) => {
                    size += record.json.len();
                    batch.push(record);
                }
                Some(job) => other = Some(job),
                None => break,
            }
        }
        // A panic ends the batch, not the thread: the forwarder waits for an outcome of each record.
        busy.store(clock(), Ordering::Relaxed);
        let mut meanwhile = || {
            written.clear();
            taken.extend(jobs.try_iter().take(records.saturating_sub(taken.len())));
        };
        let result = catch_unwind(AssertUnwindSafe(|| backend.write_while(&batch, &mut meanwhile)))
            .unwrap_or_else(|_| Err(Refusal::Broken("the sink panicked; it is made anew".into())));
        busy.store(0, Ordering::Relaxed);
        reporter.outcomes(batch.iter().map(|record| record.seq).collect(), result.clone());
        // Let go of while the next one is written: that takes its time, too.
        written = batch;
        // What was to come behind a batch that may go later would overtake it, or wait for the same time-out again.
        let behind = match &result {
            Err(_) if in_order => {
                halted = Some(round);
                Some(Refusal::Behind)
            }
            Err(refusal @ (Refusal::Later(_) | Refusal::Wait(..) | Refusal::Broken(_))) => Some(refusal.clone()),
            _ => None,
        };
        let mut rest = other;
        while let Some(job) =
            rest.take().or_else(|| behind.as_ref().and_then(|_| taken.pop_front().or_else(|| jobs.try_recv().ok())))
        {
            match job {
                Job::Record(_, record) => tell(record.seq, behind.clone().map_or(Ok(()), Err)),
                Job::Probe(reply) => drop(reply.send(probed(&mut *backend))),
                Job::Dead(record, reason, reply) => drop(reply.send(dead(&mut *backend, &record, &reason))),
                Job::Again(record) => tell(record.seq | AGAIN, again(&mut *backend, &record)),
            }
        }
    }
}

/// The type of a record whose own redaction may have changed its action.
fn kind_of(json: &[u8]) -> String {
    let text = std::str::from_utf8(json).unwrap_or_default();
    let action = match parse(text) {
        Ok(Json::Object(record)) => record.get("action").and_then(Json::as_str).map(str::to_owned),
        _ => None,
    };
    action.map_or_else(|| "steno.event".into(), |action| format!("steno.event.{action}"))
}

/// Milliseconds since the first call, and one.
fn clock() -> u64 {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    ORIGIN.get_or_init(Instant::now).elapsed().as_millis() as u64 + 1
}

fn dead(backend: &mut dyn Backend, record: &Record, reason: &str) -> Result<(), Refusal> {
    let written = catch_unwind(AssertUnwindSafe(|| backend.write_dead(record, reason)));
    written.unwrap_or_else(|_| Err(Refusal::Broken("the sink panicked".into())))
}

fn again(backend: &mut dyn Backend, record: &Record) -> Result<(), Refusal> {
    let written = catch_unwind(AssertUnwindSafe(|| backend.write_again(record)));
    written.unwrap_or_else(|_| Err(Refusal::Broken("the sink panicked".into())))
}

fn idle(backend: &mut dyn Backend) {
    if catch_unwind(AssertUnwindSafe(|| backend.idle())).is_err() {
        tracing::error!("a sink panicked while it was idle");
    }
}

fn probed(backend: &mut dyn Backend) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| backend.probe())).unwrap_or_else(|_| Err("the sink panicked".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Event, Outcome};

    /// Panics at the first batch, refuses the second for a while, and takes the third.
    struct Fickle(u32);

    impl Backend for Fickle {
        fn write(&mut self, _: &[Record]) -> Result<(), Refusal> {
            self.0 += 1;
            match self.0 {
                1 => panic!("as a library might"),
                2 => Err(Refusal::Wait(Duration::from_secs(7), "later".into())),
                _ => Ok(()),
            }
        }

        fn probe(&mut self) -> Result<(), String> {
            panic!("here, too")
        }
    }

    /// Refuses the batch that a record is in, and keeps what it takes.
    struct Refusing(u64, Arc<parking_lot::Mutex<Vec<u64>>>);

    impl Backend for Refusing {
        fn write(&mut self, batch: &[Record]) -> Result<(), Refusal> {
            if batch.iter().any(|record| record.seq == self.0) {
                return Err(Refusal::Refused("it".into()));
            }
            self.1.lock().extend(batch.iter().map(|record| record.seq));
            Ok(())
        }

        fn probe(&mut self) -> Result<(), String> {
            Ok(())
        }
    }

    #[test]
    fn in_order_nothing_goes_before_what_failed_however_fast_more_is_sent() {
        for refused in [0, 3, 57, 400] {
            let (sender, events) = unbounded();
            let written = Arc::default();
            let mut worker =
                Worker::new(Box::new(Refusing(refused, Arc::clone(&written))), manner(true), Reporter::new(sender, 1)).unwrap();
            (0..500).for_each(|seq| worker.send(seq, &FRAME).unwrap());
            let mut outcomes = Vec::new();
            while outcomes.len() < 500 {
                outcomes.extend(next(&events));
            }
            assert!(written.lock().iter().all(|seq| *seq < refused), "{refused}: {:?}", written.lock());
            assert!(outcomes.iter().filter(|outcome| outcome.seq > refused).all(|outcome| outcome.result.is_err()));
            // Until all has come back, and it is begun anew.
            worker.send(600, &FRAME).unwrap();
            assert!(matches!(events.recv(), Ok(Event::Outcome(1, Outcome { seq: 600, result: Err(Refusal::Behind) }))));
            worker.resume();
            worker.send(600, &FRAME).unwrap();
            assert_eq!(next(&events), [Outcome { seq: 600, result: Ok(()) }]);
        }
    }

    #[test]
    fn a_worker_that_is_given_up_writes_nothing_more() {
        let (sender, _events) = unbounded();
        let written: Arc<parking_lot::Mutex<Vec<u64>>> = Arc::default();
        let slow = Slow(written.clone());
        let mut worker = Worker::new(Box::new(slow), Manner { records: 1, ..manner(true) }, Reporter::new(sender, 1)).unwrap();
        (0..50).for_each(|seq| worker.send(seq, &FRAME).unwrap());
        // Waits for the batch that is under way.
        drop(worker);
        assert!(written.lock().len() < 50, "what was queued was written though another takes the place");
    }

    struct Slow(Arc<parking_lot::Mutex<Vec<u64>>>);

    impl Backend for Slow {
        fn write(&mut self, batch: &[Record]) -> Result<(), Refusal> {
            std::thread::sleep(Duration::from_millis(20));
            self.0.lock().extend(batch.iter().map(|record| record.seq));
            Ok(())
        }

        fn probe(&mut self) -> Result<(), String> {
            Ok(())
        }
    }

    /// The outcomes of the next message.
    fn next(events: &Receiver<Event>) -> Vec<Outcome> {
        match events.recv_timeout(Duration::from_mins(1)) {
            Ok(Event::Outcome(1, outcome)) => vec![outcome],
            Ok(Event::Outcomes(1, seqs, result)) => seqs.into_iter().map(|seq| Outcome { seq, result: result.clone() }).collect(),
            _ => panic!("no outcome"),
        }
    }

    /// Takes batches, and calls back while it waits, as often as it likes.
    struct Patient(Arc<parking_lot::Mutex<Vec<u64>>>);

    impl Backend for Patient {
        fn write(&mut self, _: &[Record]) -> Result<(), Refusal> {
            unreachable!("it is called with what to do meanwhile")
        }

        fn write_while(&mut self, batch: &[Record], meanwhile: &mut dyn FnMut()) -> Result<(), Refusal> {
            meanwhile();
            std::thread::yield_now();
            meanwhile();
            self.0.lock().extend(batch.iter().map(|record| record.seq));
            if batch[0].seq % 7 == 3 { Err(Refusal::Later("for now".into())) } else { Ok(()) }
        }

        fn probe(&mut self) -> Result<(), String> {
            Ok(())
        }
    }

    #[test]
    fn what_is_taken_while_a_batch_is_written_keeps_its_place_and_has_an_outcome() {
        let (sender, events) = unbounded();
        let written: Arc<parking_lot::Mutex<Vec<u64>>> = Arc::default();
        let mut worker = Worker::new(Box::new(Patient(written.clone())), manner(false), Reporter::new(sender, 1)).unwrap();
        let mut probes = Vec::new();
        for seq in 0..2_000 {
            worker.send(seq, &FRAME).unwrap();
            if seq % 100 == 0 {
                let (reply, answer) = crossbeam_channel::bounded(1);
                worker.jobs.as_ref().unwrap().send(Job::Probe(reply)).unwrap();
                probes.push(answer);
            }
        }
        let mut outcomes = Vec::new();
        while outcomes.len() < 2_000 {
            outcomes.extend(next(&events));
        }
        let told: Vec<u64> = outcomes.iter().map(|outcome| outcome.seq).collect();
        assert_eq!(told, (0..2_000).collect::<Vec<_>>(), "each once, in order");
        assert!(written.lock().is_sorted(), "{:?}", written.lock());
        assert!(probes.iter().all(|answer| answer.recv_timeout(Duration::from_mins(1)).is_ok()));
    }

    const FRAME: Frame<'static> = Frame {
        is_note: false,
        is_critical: false,
        identity: [0; 16],
        print: [0; 16],
        rules: 0,
        filled: 0,
        received_ms: 0,
        action: (0, 0),
        event_id: (0, 0),
        split: 0,
        json: b"{}",
    };

    fn manner(in_order: bool) -> Manner {
        Manner {
            records: 10,
            bytes: 1 << 20,
            alone: true,
            in_order,
            shape: None,
            key: None,
            absence: None,
            trouble: None,
            limit: None,
            describe: String::new(),
        }
    }

    #[test]
    fn each_record_has_an_outcome_whatever_the_destination_does() {
        let (sender, events) = unbounded();
        let mut worker = Worker::new(Box::new(Fickle(0)), manner(false), Reporter::new(sender, 1)).unwrap();
        let mut seen = Vec::new();
        while seen.last() != Some(&Ok(())) {
            worker.send(seen.len() as u64, &FRAME).unwrap();
            let [outcome] = &next(&events)[..] else { panic!("each batch has one record") };
            assert_eq!(outcome.seq, seen.len() as u64);
            seen.push(outcome.result.clone());
        }
        // What comes on the heels of a batch that failed shares its answer.
        seen.dedup();
        assert!(matches!(seen[..], [Err(Refusal::Broken(_)), Err(Refusal::Wait(..)), Ok(())]), "{seen:?}");
        assert!(worker.probe(Duration::from_secs(10)).is_err(), "a panic is an answer");
    }
}
