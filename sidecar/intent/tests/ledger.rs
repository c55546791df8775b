//! Promises about intents: what was acknowledged as open is given back, in order and byte for byte, until it ends; what ended stays ended; and payloads go.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use serde_json::value::RawValue;
use steno_commit::{Answer, Clock, CommitConfig, Committer, Critical, Metrics, Observer, Started, WhenFull, Work};
use steno_event::IdKey;
use steno_intent::{Chores, Ending, Ledger, Private, ReplayKey, State, Step, Stored};
use steno_journal::{
    Disk, Envelope, Options, RealDisk,
    sim::{Effect, Fault, SimDisk},
    sink_id,
};

const SEGMENT: u64 = 64 << 10;

struct StandingClock;
impl Clock for StandingClock {
    fn wall_ms(&self) -> u64 {
        1_772_359_200_000
    }
    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }
}

struct Nobody;
impl Observer for Nobody {
    fn synced(&mut self, _: u64, _: Vec<Critical>) {}
}

fn config() -> Arc<CommitConfig> {
    Arc::new(CommitConfig {
        note: steno_chain::NoteContext { tenant: "t".into(), service: "s".into(), writer: r#"{"pod":"p"}"#.into() },
        pod_uid: "pod-1".into(),
        chains: false,
        by_tenant: false,
        max_chains: 1,
        window_ms: 60_000,
        max_entries: 1024,
        when_full: WhenFull::Reject,
        answer_written: false,
        journal: Options {
            max_bytes: 24 * SEGMENT,
            segment_bytes: SEGMENT,
            control_segments: 1,
            retain_ms: 0,
            retain_bytes: 0,
            recycle: false,
        },
        envelope: Envelope::default(),
        sinks: vec!["intents".into(), "open".into()],
        reserve: steno_commit::Reserve::default(),
    })
}

struct Rig {
    disk: Arc<dyn Disk>,
    loop_: Committer,
    started: Started,
    ledger: Ledger,
    clock_ms: u64,
    /// What the topic has.
    delivered: u64,
}

impl Rig {
    fn open(disk: Arc<dyn Disk>) -> Result<Self, steno_journal::Error> {
        let (loop_, started) =
            Committer::open(disk.clone(), config(), Box::new(StandingClock), Box::new(Nobody), Metrics::default())?;
        let mut ledger = Ledger::new(started.shared.clone());
        ledger.catch_up()?;
        let delivered = started.positions[&sink_id("intents")];
        Ok(Self { disk, loop_, started, ledger, clock_ms: 1, delivered })
    }

    fn commit(&mut self, stored: &Stored) -> Answer {
        self.clock_ms += 1;
        let item = stored.item(&IdKey(self.started.id_key), self.clock_ms);
        let (work, mut answered) = Work::items(vec![item]);
        self.loop_.turn(&mut vec![work]);
        answered.try_recv().unwrap().answers.pop().unwrap()
    }

    /// As the sidecar does it: once without waiting for anything to linger.
    fn tidy(&mut self) {
        if self.ledger.catch_up().is_err() {
            return;
        }
        let chores = self.ledger.chores(far(), self.delivered, 0);
        if chores.rotate {
            self.loop_.turn(&mut vec![Work::Rotate]);
        }
        let key = IdKey(self.started.id_key);
        let carried = |id: &String| {
            let entry = self.ledger.get(id).unwrap();
            let stored = Stored { step: Step::Carried, number: Some(entry.number), ..self.ledger.read(id).unwrap().unwrap() };
            stored.item(&key, entry.created_ms)
        };
        let items: Vec<_> = chores.carry.iter().map(carried).collect();
        let (work, _answered) = Work::items(items);
        self.loop_.turn(&mut vec![work]);
        if self.ledger.catch_up().is_ok() {
            let positions = [(sink_id("open"), self.ledger.pin()), (sink_id("intents"), self.delivered)];
            self.loop_.turn(&mut vec![Work::Positions(positions.into())]);
        }
    }

    /// The topic takes everything.
    fn deliver(&mut self) {
        self.delivered = self.started.shared.synced();
    }
}

/// Nothing lingers.
fn far() -> Instant {
    Instant::now() + Duration::from_hours(24)
}

fn public() -> Box<RawValue> {
    RawValue::from_string(r#"{"kind":"Intent"}"#.into()).unwrap()
}

fn opened(id: &str, payload: &str) -> Stored {
    let key = ReplayKey {
        env: "test".into(),
        slug: "s".into(),
        version: "1".into(),
        dto_type: "Payment".into(),
        entity_id: "same for all".into(),
    };
    let private = Private {
        operation: "insert".into(),
        dto_type: "Payment".into(),
        entity_id: id.into(),
        payload: RawValue::from_string(payload.into()).unwrap(),
        replay_key: key,
    };
    Stored {
        step: Step::Opened,
        intent_id: id.into(),
        number: None,
        private: Some(private),
        state: None,
        outcome: None,
        event_id: None,
        public: public(),
    }
}

fn closed(id: &str, ending: Ending, outcome: &str) -> Stored {
    Stored {
        step: Step::Closed,
        intent_id: id.into(),
        number: None,
        private: None,
        state: Some(ending),
        outcome: Some(outcome.into()),
        event_id: Some(format!("intent-{id}")),
        public: public(),
    }
}

/// Payloads whose bytes no parser would give back.
fn payload(n: usize) -> String {
    let filler = "x".repeat(n * 97 % 9000);
    format!(r#"{{ "b" : 1.0, "a":1e2,  "filler":"{filler}\u00e9", "number": {n}.10 }}"#)
}

fn order(ledger: &Ledger) -> Vec<String> {
    ledger.open_after(None).map(|(id, _)| id.to_owned()).collect()
}

#[test]
fn intents_come_back_in_order_byte_for_byte_and_end_once() {
    let mut rig = Rig::open(Arc::new(SimDisk::new(1))).unwrap();
    for n in 0..5 {
        assert!(matches!(rig.commit(&opened(&format!("i-{n}"), &payload(n))), Answer::Created(_)));
    }
    assert_eq!(rig.commit(&opened("i-2", &payload(2))), Answer::Duplicate { compared: true }, "a retry");
    assert_eq!(rig.commit(&opened("i-2", "{}")), Answer::Conflict, "the same id for something else");
    assert_eq!(rig.commit(&opened("i-2", &payload(2).replace("1.0", "1"))), Answer::Conflict, "other bytes are something else");
    assert!(matches!(rig.commit(&closed("i-1", Ending::Resolved, "success")), Answer::Created(_)));
    assert_eq!(rig.commit(&closed("i-1", Ending::Resolved, "success")), Answer::Duplicate { compared: true });
    assert_eq!(rig.commit(&closed("i-1", Ending::Resolved, "failure")), Answer::Conflict);
    assert_eq!(rig.commit(&closed("i-1", Ending::Expired, "")), Answer::Conflict, "what was resolved does not expire");
    rig.ledger.catch_up().unwrap();
    assert_eq!(order(&rig.ledger), ["i-0", "i-2", "i-3", "i-4"]);
    let read = rig.ledger.read("i-3").unwrap().unwrap().private.unwrap();
    assert_eq!(read.payload.get(), payload(3));
    assert!(matches!(rig.ledger.get("i-1").unwrap().state, State::Closed { ending: Ending::Resolved, .. }));
    let ended: Vec<_> = rig.ledger.ended_after(Ending::Resolved, None).map(|(id, _)| id.to_owned()).collect();
    assert_eq!(ended, ["i-1"]);
}

/// Segments wait for their ids, which another thread writes to a file.
fn until_gone(rig: &mut Rig, left: &dyn Fn() -> usize) {
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while left() > 0 {
        assert!(std::time::Instant::now() < until, "it does not go");
        rig.deliver();
        rig.tidy();
        std::thread::yield_now();
    }
}

#[test]
fn the_payload_of_one_that_ended_goes_with_its_file_and_open_ones_keep_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let holds = |text: &str| {
        let files = std::fs::read_dir(dir.path()).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap_or_default());
        files.filter(|bytes| memchr::memmem::find(bytes, text.as_bytes()).is_some()).count()
    };
    let mut rig = Rig::open(Arc::new(RealDisk::open(dir.path()).unwrap())).unwrap();
    for (id, payload) in [("first", r#""first needle""#), ("gone", r#""gone needle""#), ("last", r#""last needle""#)] {
        rig.commit(&opened(id, payload));
    }
    rig.ledger.catch_up().unwrap();
    rig.deliver();
    assert_eq!(rig.ledger.chores(far(), rig.delivered, 0), Chores::default(), "nothing ended");
    rig.tidy();
    assert_eq!(holds("gone needle"), 1);
    rig.commit(&closed("gone", Ending::Resolved, "success"));
    until_gone(&mut rig, &|| holds("gone needle"));
    assert_eq!(order(&rig.ledger), ["first", "last"]);
    let (numbers, created) = (rig.ledger.get("first").unwrap().number, rig.ledger.get("first").unwrap().created_ms);
    // Once more, and over a restart.
    rig.commit(&closed("last", Ending::Expired, ""));
    until_gone(&mut rig, &|| holds("last needle"));
    drop(rig);
    // The thread that writes files of ids lets go of the lock when it ends.
    let until = std::time::Instant::now() + Duration::from_secs(20);
    let disk = loop {
        match RealDisk::open(dir.path()) {
            Ok(disk) => break disk,
            Err(error) => assert!(std::time::Instant::now() < until, "{error}"),
        }
        std::thread::yield_now();
    };
    let rig = Rig::open(Arc::new(disk)).unwrap();
    assert_eq!(order(&rig.ledger), ["first"]);
    let entry = rig.ledger.get("first").unwrap();
    assert_eq!((entry.number, entry.created_ms), (numbers, created), "it keeps its place and its time");
    assert_eq!(rig.ledger.read("first").unwrap().unwrap().private.unwrap().payload.get(), r#""first needle""#);
}

#[test]
fn while_the_topic_is_away_nothing_is_spent_on_payloads_that_cannot_go() {
    let mut rig = Rig::open(Arc::new(SimDisk::new(3))).unwrap();
    for n in 0..200 {
        rig.commit(&opened(&format!("i-{n}"), "1"));
        rig.commit(&closed(&format!("i-{n}"), Ending::Resolved, "success"));
        rig.tidy();
    }
    assert_eq!(rig.started.shared.segment_starts().len(), 1 + 200 * 800 / SEGMENT as usize, "a segment was ended early");
}

#[test]
fn a_full_journal_takes_endings_and_has_room_again_whatever_stays_open() {
    let mut rig = Rig::open(Arc::new(SimDisk::new(5))).unwrap();
    let filler = format!("\"{}\"", "y".repeat(3000));
    let mut all = 0;
    while matches!(rig.commit(&opened(&format!("i-{all}"), &filler)), Answer::Created(_)) {
        all += 1;
    }
    assert!(all > 300, "{all}");
    // Every hundredth stays open: each segment has one or none.
    let mut order_of_ends: Vec<usize> = (0..all).filter(|n| n % 100 != 0).collect();
    order_of_ends.reverse();
    for (done, n) in order_of_ends.into_iter().enumerate() {
        let answer = rig.commit(&closed(&format!("i-{n}"), Ending::Resolved, "success"));
        assert!(matches!(answer, Answer::Created(_)), "ending {done} was refused: {answer:?}");
        rig.deliver();
        rig.tidy();
    }
    let until = Instant::now() + Duration::from_secs(20);
    let mut fresh = 0;
    while fresh < all / 2 {
        assert!(Instant::now() < until, "there is no room again after {fresh}");
        if matches!(rig.commit(&opened(&format!("n-{fresh}"), &filler)), Answer::Created(_)) {
            fresh += 1;
        }
        rig.deliver();
        rig.tidy();
    }
    let left: Vec<String> = (0..all).step_by(100).map(|n| format!("i-{n}")).collect();
    rig.ledger.catch_up().unwrap();
    assert_eq!(order(&rig.ledger)[..left.len()], left);
    for id in &left {
        assert_eq!(rig.ledger.read(id).unwrap().unwrap().private.unwrap().payload.get(), filler);
    }
}

#[test]
fn what_cannot_be_read_is_named_and_the_rest_goes_on() {
    let disk = SimDisk::new(7);
    let mut rig = Rig::open(Arc::new(disk.clone())).unwrap();
    let filler = format!("\"{}\"", "z".repeat(3000));
    for n in 0..60 {
        assert!(matches!(rig.commit(&opened(&format!("i-{n:02}"), &filler)), Answer::Created(_)));
    }
    rig.ledger.catch_up().unwrap();
    let name = rig.disk.list().unwrap().into_iter().map(|(name, _)| name).find(|name| name.starts_with("seg-")).unwrap();
    // Somewhere in the middle of a block of the first segment.
    assert!(disk.flip(&name, 20_000, 3));
    let unread: Vec<String> = order(&rig.ledger).into_iter().filter(|id| rig.ledger.read(id).unwrap().is_none()).collect();
    assert_eq!(unread.len(), 1, "{unread:?}");
    rig.ledger.lose(&unread[0]);
    assert_eq!(rig.ledger.take_lost().len(), 1);
    assert_eq!(rig.ledger.open(), 59);
    // A later start finds the same, and says so.
    drop(rig);
    let mut rig = Rig::open(Arc::new(disk)).unwrap();
    assert_eq!(rig.ledger.open(), 59);
    assert_eq!(rig.ledger.take_lost().iter().map(|(first, next)| next - first).sum::<u64>(), 1);
}

#[test]
fn an_intent_expires_by_both_clocks_and_what_is_from_before_has_grace() {
    let mut rig = Rig::open(Arc::new(SimDisk::new(9))).unwrap();
    rig.commit(&opened("one", "1"));
    rig.ledger.catch_up().unwrap();
    let (hour, year) = (Duration::from_hours(1), 365 * 86_400_000);
    assert!(rig.ledger.overdue(year, hour, Duration::ZERO).is_empty(), "the wall clock alone has jumped");
    assert!(rig.ledger.overdue(1, Duration::from_nanos(1_000_001), Duration::ZERO).is_empty(), "the wall clock does not agree");
    let rig = Rig::open(rig.disk.clone()).unwrap();
    assert!(rig.ledger.overdue(year, hour, Duration::from_mins(5)).is_empty(), "whoever left it has time to look at it");
    assert_eq!(rig.ledger.overdue(year, hour, Duration::ZERO), ["one"]);
}

/// What a test does.
#[derive(Debug, Clone)]
enum Act {
    Open(usize),
    End(usize, bool),
    Tidy,
    Deliver,
    /// Power goes at the n-th call from now on.
    Cut(u32),
    Restart,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..400usize).prop_map(Act::Open),
        3 => (0..400usize, any::<bool>()).prop_map(|(n, expires)| Act::End(n, expires)),
        2 => Just(Act::Tidy),
        1 => Just(Act::Deliver),
        1 => (1..30u32).prop_map(Act::Cut),
        1 => Just(Act::Restart),
    ]
}

/// What may be of an intent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum May {
    Open,
    Ended,
    /// Power went while it was opened, or while it was ended.
    BeOpen,
    HaveEnded,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_open_ones_stay_open_in_order_and_ended_ones_stay_ended(acts in prop::collection::vec(act(), 1..120), seed in any::<u64>()) {
        let disk = SimDisk::new(seed);
        let mut rig = Rig::open(Arc::new(disk.clone())).unwrap();
        // By number of the act that opened it, which is the order that is promised.
        let mut known: BTreeMap<usize, May> = BTreeMap::new();
        let id = |at: usize| format!("i-{at}");
        for (at, act) in acts.into_iter().enumerate() {
            let nth = |n: usize, known: &BTreeMap<usize, May>| known.keys().nth(n % known.len().max(1)).copied();
            match act {
                Act::Open(n) => {
                    let answer = rig.commit(&opened(&id(at), &payload(n)));
                    let may = match answer {
                        Answer::Created(_) => May::Open,
                        _ if disk.is_off() => May::BeOpen,
                        _ => continue,
                    };
                    known.insert(at, may);
                }
                Act::End(n, expires) => {
                    let Some(which) = nth(n, &known) else { continue };
                    let ending = if expires { Ending::Expired } else { Ending::Resolved };
                    match (rig.commit(&closed(&id(which), ending, "x")), known[&which]) {
                        // An ending of one that is not there: the sidecar asks the ledger first.
                        (_, May::BeOpen) => drop(known.insert(which, May::HaveEnded)),
                        (Answer::Created(_), May::Open | May::HaveEnded) => drop(known.insert(which, May::Ended)),
                        (Answer::Duplicate { .. } | Answer::Conflict, May::Ended | May::HaveEnded) => drop(known.insert(which, May::Ended)),
                        (_, May::Open) if disk.is_off() => drop(known.insert(which, May::HaveEnded)),
                        _ => {}
                    }
                }
                Act::Tidy => rig.tidy(),
                Act::Deliver => rig.deliver(),
                Act::Cut(after) => disk.plan(Fault { after, effect: Effect::PowerCut }),
                Act::Restart => disk.cut(),
            }
            if disk.is_off() {
                disk.reboot();
                rig = Rig::open(rig.disk.clone()).unwrap();
            }
            rig.ledger.catch_up().unwrap();
            let open = order(&rig.ledger);
            let places: Vec<usize> = open.iter().map(|id| id[2..].parse().unwrap()).collect();
            prop_assert!(places.is_sorted(), "out of order: {places:?}");
            for (at, may) in &known {
                match may {
                    May::Open => prop_assert!(places.contains(at), "{at} was acknowledged, and is not open: {places:?}"),
                    May::Ended => prop_assert!(!places.contains(at), "{at} ended, and is open again: {places:?}"),
                    May::BeOpen | May::HaveEnded => {}
                }
            }
            prop_assert!(places.iter().all(|at| known.contains_key(at)));
            for id in &open {
                prop_assert!(rig.ledger.read(id).unwrap().is_some(), "{id} cannot be given back");
            }
        }
    }
}
