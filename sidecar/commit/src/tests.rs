//! Promises of the loop: each id once, conflicts told, failures without a trace, and all of it over restarts and power cuts.
use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use proptest::prelude::*;
use steno_chain::Verifier;
use steno_event::{Draft, Filled, IdKey, encode, fingerprint, identity, json};
use steno_journal::{
    Disk, DiskFile, Envelope, Next, Options, Reader,
    sim::{Effect, Fault, SimDisk, Tamper},
    sink_id,
};
use tokio::sync::oneshot;

use crate::{committer::*, work::*, *};

const SEGMENT: u64 = 64 << 10;

#[derive(Clone, Default)]
struct TestClock(Arc<AtomicU64>);

impl Clock for TestClock {
    fn wall_ms(&self) -> u64 {
        1_772_359_200_000 + self.0.load(Ordering::Relaxed)
    }
    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

struct Nobody;
impl Observer for Nobody {
    fn synced(&mut self, _: u64, _: Vec<Critical>) {}
}

fn config() -> CommitConfig {
    CommitConfig {
        note: steno_chain::NoteContext { tenant: "t".into(), service: "s".into(), writer: r#"{"pod":"p"}"#.into() },
        pod_uid: "pod-1".into(),
        chains: true,
        by_tenant: false,
        max_chains: 4,
        window_ms: 60_000,
        max_entries: 1024,
        when_full: WhenFull::Reject,
        answer_written: false,
        journal: Options {
            max_bytes: 32 * SEGMENT,
            segment_bytes: SEGMENT,
            control_segments: 1,
            retain_ms: 0,
            retain_bytes: 0,
            recycle: true,
        },
        envelope: Envelope::default(),
        sinks: vec!["kafka".into()],
        reserve: Reserve::default(),
    }
}

struct Rig {
    disk: SimDisk,
    clock: TestClock,
    loop_: Committer,
    key: IdKey,
    started: Started,
}

impl Rig {
    fn open(disk: &SimDisk, config: &CommitConfig, clock: &TestClock) -> Result<Self, steno_journal::Error> {
        Self::over(Arc::new(disk.clone()), disk, config, clock)
    }

    fn over(on: Arc<dyn Disk>, disk: &SimDisk, config: &CommitConfig, clock: &TestClock) -> Result<Self, steno_journal::Error> {
        let config = Arc::new(config.clone());
        let (loop_, started) = Committer::open(on, config, Box::new(clock.clone()), Box::new(Nobody), Metrics::default())?;
        Ok(Self { disk: disk.clone(), clock: clock.clone(), loop_, key: IdKey(started.id_key), started })
    }

    fn new() -> Self {
        Self::open(&SimDisk::new(1), &config(), &TestClock::default()).unwrap()
    }

    fn restart(self, config: &CommitConfig) -> Self {
        let Self { disk, clock, loop_, .. } = self;
        drop(loop_);
        disk.cut();
        disk.reboot();
        Self::open(&disk, config, &clock).unwrap()
    }

    fn item(&self, id: &str, payload: &str) -> Item {
        self.item_of(id, payload, "t", false, 1)
    }

    fn item_of(&self, id: &str, payload: &str, tenant: &str, critical: bool, rules: u32) -> Item {
        let text = format!(r#"{{"action":"a","eventId":"{id}","message":"{payload}","tenantId":"{tenant}"}}"#);
        let mut draft = Draft::from_json(json::parse(&text).unwrap()).unwrap();
        let print = fingerprint(&self.key, &draft.members, &mut Vec::new());
        draft.members.insert("kind", json::Json::text("Event"));
        let identity = identity(&self.key, tenant, id);
        let halves = encode(&draft.members);
        Item {
            identity,
            print,
            rules,
            filled: Filled(0),
            halves,
            tenant: Some(tenant.into()),
            critical,
            ends: false,
            frees: false,
            may_reuse: false,
            received_ms: 0,
        }
    }

    fn turn(&mut self, batches: Vec<Vec<Item>>) -> Vec<Vec<Answer>> {
        let (mut work, mut answers) = (Vec::new(), Vec::new());
        for items in batches {
            let count = items.len();
            let (items, answer) = Work::items(items);
            work.push(items);
            answers.push((answer, count));
        }
        self.loop_.turn(&mut work);
        let answered = |(mut answer, count): (oneshot::Receiver<Batch>, usize)| {
            let batch = answer.try_recv().expect("an answer");
            assert_eq!((batch.items.len(), batch.answers.len()), (count, count), "events go back to who made them");
            batch.answers
        };
        answers.into_iter().map(answered).collect()
    }

    fn one(&mut self, item: Item) -> Answer {
        self.turn(vec![vec![item]]).remove(0).remove(0)
    }

    fn deliver_all(&mut self) {
        let next = self.started.shared.synced();
        self.loop_.turn(&mut vec![Work::Positions([(sink_id("kafka"), next)].into())]);
    }

    fn records(&self) -> Vec<String> {
        let mut reader = Reader::new(self.started.shared.clone(), 0);
        let mut records = Vec::new();
        loop {
            match reader.next().unwrap() {
                Next::Block(block) => {
                    records.extend(frames(&block.payload).map(|frame| String::from_utf8(frame.json.to_vec()).unwrap()));
                }
                Next::Lost(_) => {}
                Next::CaughtUp => return records,
            }
        }
    }

    /// As [`Self::verify`], where the first records were delivered and are gone.
    fn verify_rest(&self) {
        use steno_chain::Finding::{Gap, NoGenesis};
        let mut verifier = Verifier::default();
        self.records().iter().for_each(|record| verifier.add(record));
        let findings = verifier.finish().findings;
        let wrong: Vec<_> = findings
            .iter()
            .filter(|finding| !matches!(finding, NoGenesis { .. } | Gap { first: 0, .. } | Gap { explained: true, .. }))
            .collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    fn verify(&self) {
        let mut verifier = Verifier::default();
        self.records().iter().for_each(|record| verifier.add(record));
        let verdict = verifier.finish();
        assert!(verdict.is_clean() && verdict.records > 0, "{verdict:?}");
    }
}

const SAME: Answer = Answer::Duplicate { compared: true };

fn is_created(answer: &Answer) -> bool {
    matches!(answer, Answer::Created(_))
}

#[test]
fn a_retry_is_a_duplicate_and_a_tampered_one_a_conflict_in_one_block_too() {
    let mut rig = Rig::new();
    let batch = vec![rig.item("e", "x"), rig.item("e", "x"), rig.item("e", "y")];
    let answers = rig.turn(vec![batch, vec![rig.item("e", "x"), rig.item("e", "z")]]).concat();
    assert!(is_created(&answers[0]));
    assert_eq!(answers[1..], [SAME, Answer::Conflict, SAME, Answer::Conflict]);
    assert_eq!(rig.one(rig.item("e", "x")), SAME);
    assert_eq!(rig.one(rig.item("e", "y")), Answer::Conflict);
    assert!(is_created(&rig.one(rig.item_of("e", "x", "other", false, 1))), "another tenant's id is another event");
    let records = rig.records();
    assert_eq!(records.iter().filter(|record| record.contains(r#""kind":"Event""#)).count(), 2);
    assert!(records.iter().any(|record| record.contains(r#""kind":"Conflict""#)));
    assert!(!records.iter().any(|record| record.contains(r#""message":"y""#)), "a refused payload is nowhere");
    rig.verify();
}

#[test]
fn ids_are_remembered_over_restarts_memory_and_only_inside_the_window() {
    let mut rig = Rig::new();
    // Many more than the table holds, so that most are in files.
    for round in 0..60 {
        let batch = (0..100).map(|index| rig.item(&format!("{round}-{index}"), "x")).collect();
        assert!(rig.turn(vec![batch]).concat().iter().all(is_created));
        rig.deliver_all();
    }
    let check = |rig: &mut Rig| {
        for round in (0..60).step_by(7) {
            assert_eq!(rig.one(rig.item(&format!("{round}-3"), "x")), SAME, "round {round}");
            assert_eq!(rig.one(rig.item(&format!("{round}-4"), "other")), Answer::Conflict);
        }
    };
    check(&mut rig);
    let mut rig = rig.restart(&config());
    check(&mut rig);
    // Time that passes while the sidecar is down does not count; running time does.
    rig.clock.0.fetch_add(120_000, Ordering::Relaxed);
    assert!(is_created(&rig.one(rig.item("0-3", "changed"))));
}

#[test]
fn an_honest_retry_under_other_rules_is_no_conflict() {
    let mut rig = Rig::new();
    let first = rig.item_of("e", "x", "t", false, 1);
    assert!(is_created(&rig.one(first.clone())));
    // The rules changed, so the print may differ; the record is the same outside what was redacted.
    let retry = Item { print: [9; 16], rules: 2, ..first.clone() };
    assert_eq!(rig.one(retry.clone()), SAME);
    let tampered = Item { print: [8; 16], ..rig.item_of("e", "tampered", "t", false, 2) };
    assert_eq!(rig.one(tampered), Answer::Conflict);
    // Once the record is gone nobody can tell; the honest client is believed, and it is on record.
    for index in 0..1200 {
        rig.one(rig.item(&format!("filler{index}"), &"f".repeat(900)));
        rig.deliver_all();
    }
    rig.clock.0.fetch_add(2000, Ordering::Relaxed);
    rig.deliver_all();
    assert_eq!(rig.one(retry), Answer::Duplicate { compared: false });
    assert!(rig.records().iter().any(|record| record.contains(r#""comparable":false"#)));
}

#[test]
fn a_block_that_fails_leaves_no_trace_and_nobody_is_told_duplicate() {
    let mut rig = Rig::new();
    rig.disk.plan(Fault { after: 2, effect: Effect::Error });
    let batch = vec![rig.item("e", "x"), rig.item("e", "x"), rig.item("e", "y")];
    let answers = rig.turn(vec![batch]).concat();
    assert!(answers.iter().all(|answer| matches!(answer, Answer::Failed(Failure::Disk(_)))), "{answers:?}");
    assert!(is_created(&rig.one(rig.item("e", "y"))), "the failed try holds the id");
    rig.verify();
    let rig = rig.restart(&config());
    rig.verify();
}

#[test]
fn a_full_journal_refuses_and_takes_again_once_delivered() {
    let mut rig = Rig::new();
    let mut index = 0;
    let mut fill = |rig: &mut Rig| {
        loop {
            index += 1;
            let answer = rig.one(rig.item(&format!("e{index}"), &"x".repeat(8000)));
            if !is_created(&answer) {
                return answer;
            }
        }
    };
    assert_eq!(fill(&mut rig), Answer::Failed(Failure::Full));
    assert_eq!(rig.one(rig.item("e1", &"x".repeat(8000))), SAME, "a retry needs no room");
    let critical = rig.item_of("c", "x", "t", true, 1);
    assert!(is_created(&rig.one(critical)), "critical events have room of their own");
    rig.deliver_all();
    assert!(is_created(&rig.one(rig.item("again", "x"))));
    rig.verify_rest();
}

/// A disk on which files of ids wait until a gate is open.
struct Tardy(SimDisk, Arc<RwLock<()>>);

impl Disk for Tardy {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.0.list()
    }
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        if create && name.contains("idx-") {
            drop(self.1.read());
        }
        self.0.open(name, create)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.0.sync_dir()
    }
    fn quarantine(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.0.quarantine(name, bytes)
    }
    fn set_aside(&self, name: &str) -> io::Result<()> {
        self.0.set_aside(name)
    }
}

#[test]
fn nothing_is_refused_for_want_of_space_that_was_delivered() {
    let disk = SimDisk::new(1);
    let gate = Arc::new(RwLock::new(()));
    let mut rig = Rig::over(Arc::new(Tardy(disk.clone(), gate.clone())), &disk, &config(), &TestClock::default()).unwrap();
    // Critical events fill the room of their own, too, so that one segment is not enough for any other.
    for critical in [false, true] {
        let mut fills =
            |index: &u32| is_created(&rig.one(rig.item_of(&format!("{critical}{index}"), &"x".repeat(8000), "t", critical, 1)));
        assert!((0..1000).take_while(&mut fills).count() < 1000);
    }
    // While the ids of the first segment are on their way, everything is delivered.
    let closed = gate.write().unwrap();
    let first = rig.started.shared.segment_starts()[1].1;
    rig.loop_.turn(&mut vec![Work::Positions([(sink_id("kafka"), first)].into())]);
    rig.deliver_all();
    drop(closed);
    let answer = rig.one(rig.item("one more", &"x".repeat(8000)));
    assert!(is_created(&answer), "{answer:?}");
}

#[test]
fn dropping_is_told_by_name_and_forgets_the_ids() {
    let newest = CommitConfig { when_full: WhenFull::DropNewest, ..config() };
    let mut rig = Rig::open(&SimDisk::new(1), &newest, &TestClock::default()).unwrap();
    let mut dropped = 0;
    for index in 0..400 {
        dropped += u32::from(rig.one(rig.item(&format!("e{index}"), &"x".repeat(8000))) == Answer::Dropped);
    }
    assert!(dropped > 0);
    rig.deliver_all();
    rig.clock.0.fetch_add(5000, Ordering::Relaxed);
    // Each event waits for the ids that hold delivered space, so that in between there is room for the record of the drops.
    for index in 0..30 {
        assert!(is_created(&rig.one(rig.item(&format!("after{index}"), &"x".repeat(8000)))), "{index}");
        rig.clock.0.fetch_add(5000, Ordering::Relaxed);
    }
    assert!(
        rig.records()
            .iter()
            .any(|record| record.contains(r#""kind":"Drop""#) && record.contains(&format!(r#""records":{dropped}"#)))
    );

    let oldest = CommitConfig { when_full: WhenFull::DropOldest, ..config() };
    let mut rig = Rig::open(&SimDisk::new(1), &oldest, &TestClock::default()).unwrap();
    for index in 0..600 {
        assert!(is_created(&rig.one(rig.item(&format!("e{index}"), &"x".repeat(8000)))), "{index}");
    }
    // More than twice what the journal holds: records that told of the first drops were dropped themselves.
    rig.verify();
    assert!(is_created(&rig.one(rig.item("e1", &"x".repeat(8000)))), "a dropped event can be sent again");
}

#[test]
fn what_is_dropped_is_missing_where_it_was_not_delivered_and_nowhere_else() {
    let sinks = vec!["kafka".into(), "behind".into()];
    let two = CommitConfig { when_full: WhenFull::DropOldest, sinks, ..config() };
    let mut rig = Rig::open(&SimDisk::new(1), &two, &TestClock::default()).unwrap();
    let mut on_kafka: Vec<String> = Vec::new();
    for index in 0..400 {
        assert!(is_created(&rig.one(rig.item(&format!("e{index}"), &"x".repeat(8000)))), "{index}");
        let known = on_kafka.last().cloned();
        let new = rig.records();
        let from = known.and_then(|known| new.iter().position(|record| *record == known)).map_or(0, |at| at + 1);
        on_kafka.extend(new.into_iter().skip(from));
        rig.loop_.turn(&mut vec![Work::Positions([(sink_id("kafka"), rig.started.shared.synced())].into())]);
    }
    let verdict = |sink: &str, records: &[String]| {
        let mut verifier = Verifier::of(sink);
        for record in records {
            verifier.add(record);
        }
        verifier.finish()
    };
    assert!(on_kafka.len() > rig.records().len() && on_kafka.iter().any(|record| record.contains("\"Drop\"")));
    assert!(verdict("kafka", &on_kafka).findings.is_empty());
    assert!(verdict("behind", &rig.records()).is_clean());
    // What somebody took from the topic is not explained by what another sink was not given.
    on_kafka.remove(20);
    assert!(!verdict("kafka", &on_kafka).is_clean());
}

#[test]
fn the_oldest_can_be_dropped_also_where_they_are_of_many_chains_and_of_several_sinks() {
    const TENANTS: usize = 80;
    let sinks = vec!["kafka".into(), "behind".into()];
    let journal = Options { max_bytes: 8 << 20, segment_bytes: 1 << 20, ..config().journal };
    let many = CommitConfig { when_full: WhenFull::DropOldest, sinks, by_tenant: true, max_chains: TENANTS, journal, ..config() };
    let mut rig = Rig::open(&SimDisk::new(1), &many, &TestClock::default()).unwrap();
    for index in 0..6_000 {
        let item = rig.item_of(&format!("e{index}"), &"x".repeat(4000), &format!("t{}", index % TENANTS), false, 1);
        let answer = rig.one(item);
        assert!(is_created(&answer), "{index}: {answer:?}");
    }
    assert!(rig.started.shared.oldest() > 0, "nothing was dropped");
    rig.verify();
}

#[test]
fn tenants_have_chains_up_to_the_bound_and_share_beyond() {
    let by_tenant = CommitConfig { by_tenant: true, ..config() };
    let mut rig = Rig::open(&SimDisk::new(1), &by_tenant, &TestClock::default()).unwrap();
    for round in 0..3 {
        for tenant in ["a", "b\"quoted", "c", "d", "e", "f"] {
            rig.one(rig.item_of(&format!("{tenant}{round}").replace('"', ""), "x", &tenant.replace('"', ""), false, 1));
        }
    }
    let mut verifier = Verifier::default();
    rig.records().iter().for_each(|record| verifier.add(record));
    let verdict = verifier.finish();
    assert!(verdict.is_clean() && verdict.chains == 4, "{verdict:?}");
    let rig = rig.restart(&by_tenant);
    rig.verify();
}

#[test]
fn a_chain_goes_on_over_a_restart_and_a_clean_end_is_recorded() {
    let mut rig = Rig::new();
    rig.one(rig.item("a", "x"));
    let (done, _) = oneshot::channel();
    rig.loop_.turn(&mut vec![Work::Close(done)]);
    assert_eq!(rig.one(rig.item("late", "x")), Answer::Failed(Failure::Stopping));
    assert!(rig.records().iter().any(|record| record.contains(r#""kind":"Close""#)));
    let mut rig = rig.restart(&config());
    rig.one(rig.item("b", "x"));
    rig.verify();
    let genesis = rig.records().iter().filter(|record| record.contains(r#""kind":"Genesis""#)).count();
    assert_eq!(genesis, 1);
}

#[test]
fn damage_is_recorded_in_the_chain_and_verifies_as_explained() {
    let mut rig = Rig::new();
    for index in 0..20 {
        rig.one(rig.item(&format!("e{index}"), "x"));
    }
    let disk = rig.disk.clone();
    drop(rig);
    let (name, _) = disk.files().into_iter().rfind(|(name, _)| name.starts_with("seg-")).unwrap();
    disk.flip(&name, disk.end_of(&name) - 100, 1);
    let mut rig = Rig::open(&disk, &config(), &TestClock::default()).unwrap();
    rig.one(rig.item("after", "x"));
    assert!(rig.records().iter().any(|record| record.contains(r#""kind":"Recovered""#)));
    rig.verify();
}

#[derive(Debug, Clone)]
enum Step {
    /// Ids and payloads of a batch; small numbers, so that they meet again.
    Batch(Vec<(u8, u8)>),
    Deliver,
    Plan(u32, Effect),
    Reboot,
}

fn step() -> impl Strategy<Value = Step> {
    let effect = prop_oneof![Just(Effect::Error), Just(Effect::Short), Just(Effect::PowerCut), Just(Effect::NoSpace)];
    prop_oneof![
        8 => prop::collection::vec((0u8..40, 0u8..2), 1..12).prop_map(Step::Batch),
        1 => Just(Step::Deliver),
        2 => (1u32..10, effect).prop_map(|(after, effect)| Step::Plan(after, effect)),
        1 => Just(Step::Reboot),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn each_acknowledged_id_is_there_once_with_its_payload_whatever_fails(seed in any::<u64>(), steps in prop::collection::vec(step(), 1..40)) {
        let disk = SimDisk::new(seed);
        let clock = TestClock::default();
        let mut rig = Rig::open(&disk, &config(), &clock).unwrap();
        let mut acked: HashMap<u8, u8> = HashMap::new();
        for step in steps {
            match step {
                Step::Batch(batch) => {
                    let items = batch.iter().map(|(id, payload)| rig.item(&id.to_string(), &payload.to_string())).collect();
                    let answers = rig.turn(vec![items]).remove(0);
                    for ((id, payload), answer) in batch.into_iter().zip(answers) {
                        match answer {
                            Answer::Created(_) => {
                                prop_assert!(!acked.contains_key(&id), "{} was created twice", id);
                                acked.insert(id, payload);
                            }
                            // A block that failed may be on disk all the same; a retry then finds it.
                            Answer::Duplicate { .. } => {
                                let known = *acked.entry(id).or_insert(payload);
                                prop_assert_eq!(known, payload, "an unequal event was called a duplicate");
                            }
                            Answer::Conflict => {
                                let known = *acked.entry(id).or_insert(1 - payload);
                                prop_assert_eq!(known, 1 - payload, "an equal event was called a conflict");
                            }
                            Answer::Failed(_) => {}
                            Answer::Dropped => prop_assert!(false, "nothing may be dropped"),
                        }
                    }
                }
                Step::Deliver => {}
                Step::Plan(after, effect) => disk.plan(Fault { after, effect }),
                Step::Reboot => disk.cut(),
            }
            if disk.is_off() {
                drop(rig);
                disk.reboot();
                rig = Rig::open(&disk, &config(), &clock).unwrap();
            }
        }
        disk.free_space();
        if disk.is_off() {
            disk.reboot();
        }
        drop(rig);
        disk.cut();
        disk.reboot();
        let rig = Rig::open(&disk, &config(), &clock).unwrap();
        let records = rig.records();
        for (id, payload) in acked {
            let (id, message) = (format!(r#""eventId":"{id}""#), format!(r#""message":"{payload}""#));
            let found: Vec<_> = records.iter().filter(|record| record.contains(&id) && record.contains(r#""kind":"Event""#)).collect();
            prop_assert_eq!(found.len(), 1, "{}", id);
            prop_assert!(found[0].contains(&message));
        }
        rig.verify();
    }
}

// === what a client and a consumer see ===

#[derive(Debug, Clone)]
enum Act {
    /// Events of two tenants: id, payload, tenant.
    Batch(Vec<(u16, u8, u8)>),
    /// A consumer gets all that is synced, and that is saved.
    Deliver,
    Plan(u32, Effect),
    PowerCut,
    Crash,
    Tamper {
        how: Tamper,
        file: usize,
        place: usize,
    },
    /// Another pod takes the volume over, with other options.
    OtherPod {
        segments: u64,
    },
}

fn act() -> impl Strategy<Value = Act> {
    let effect = prop_oneof![Just(Effect::Error), Just(Effect::Short), Just(Effect::PowerCut), Just(Effect::NoSpace)];
    let how = prop::sample::select(&Tamper::ALL[..]);
    prop_oneof![
        12 => prop::collection::vec((0u16..600, 0u8..2, 0u8..3), 1..40).prop_map(Act::Batch),
        2 => Just(Act::Deliver),
        2 => (1u32..12, effect).prop_map(|(after, effect)| Act::Plan(after, effect)),
        1 => Just(Act::PowerCut),
        1 => Just(Act::Crash),
        1 => (how, 0usize..1000, 0usize..100_000).prop_map(|(how, file, place)| Act::Tamper { how, file, place }),
        1 => (1u64..3).prop_map(|segments| Act::OtherPod { segments }),
    ]
}

/// A client that knows what it was told, and a consumer that knows what it got.
struct World {
    disk: SimDisk,
    clock: TestClock,
    config: CommitConfig,
    /// Events with a 2xx, and their payloads.
    acked: HashMap<(u16, u8), u8>,
    topic: Vec<String>,
    position: u64,
    damaged: bool,
    pods: u32,
}

impl World {
    fn open(&self) -> Rig {
        Rig::open(&self.disk, &self.config, &self.clock).unwrap()
    }

    /// The process ends; the page cache stays, unless the power went meanwhile.
    fn end(&self, rig: Rig) {
        drop(rig);
        self.disk.free_space();
        if self.disk.is_off() {
            self.disk.reboot();
        }
    }

    fn deliver(&mut self, rig: &mut Rig) {
        let mut reader = Reader::new(rig.started.shared.clone(), self.position);
        loop {
            match reader.next().unwrap() {
                Next::Block(block) => {
                    for (seq, frame) in (block.header.first_seq..).zip(frames(&block.payload)) {
                        if seq >= self.position {
                            self.topic.push(String::from_utf8(frame.json.to_vec()).unwrap());
                        }
                    }
                    self.position = block.header.next_seq();
                }
                Next::Lost(lost) => {
                    // As the forwarder does: the loss is recorded, then passed.
                    let ranges = lost.ranges.iter().map(lost_range).collect();
                    let note = steno_chain::Note::new(steno_chain::Kind::Quarantine, "lost").lost(ranges);
                    let range = Some((lost.first_seq, lost.next_seq));
                    let (reply, mut told) = oneshot::channel();
                    rig.loop_.turn(&mut vec![Work::Note { note, lost: range, reply: Some(reply) }]);
                    if !matches!(told.try_recv(), Ok(Ok(_))) {
                        break;
                    }
                    self.position = self.position.max(lost.next_seq);
                }
                Next::CaughtUp => break,
            }
        }
        rig.loop_.turn(&mut vec![Work::Positions([(sink_id("kafka"), self.position)].into())]);
    }

    fn batch(&mut self, rig: &mut Rig, batch: &[(u16, u8, u8)]) {
        let of = |(id, payload, tenant): &(u16, u8, u8)| {
            rig.item_of(&format!("e{id}"), &format!("p{payload}{}", "x".repeat(300)), &format!("t{tenant}"), false, 1)
        };
        let answers = rig.turn(vec![batch.iter().map(of).collect()]).remove(0);
        for ((id, payload, tenant), answer) in batch.iter().zip(answers) {
            let key = (*id, *tenant);
            match answer {
                Answer::Created(_) => {
                    let before = self.acked.insert(key, *payload);
                    assert!(before.is_none() || self.damaged, "{key:?} was created twice");
                }
                Answer::Duplicate { .. } => {
                    let known = *self.acked.entry(key).or_insert(*payload);
                    assert!(known == *payload || self.damaged, "an unequal event was called a duplicate");
                }
                Answer::Conflict => drop(self.acked.entry(key).or_insert(1 - payload)),
                Answer::Failed(_) => {}
                Answer::Dropped => panic!("nothing may be dropped"),
            }
        }
    }

    /// Once faults have stopped: every acknowledged event is on the topic, or its retry is taken; the chains are whole or say why not; and
    /// a bounded number of steps empties the backlog.
    fn settle(&mut self, mut rig: Rig) {
        self.disk.free_space();
        for _ in 0..3 {
            self.deliver(&mut rig);
            rig.clock.0.fetch_add(1500, Ordering::Relaxed);
        }
        let mut acked: Vec<_> = std::mem::take(&mut self.acked).into_iter().collect();
        acked.sort_unstable();
        let on_topic = |topic: &[String], (id, tenant): (u16, u8), payload: u8| {
            let parts =
                [format!(r#""eventId":"e{id}""#), format!(r#""message":"p{payload}x"#), format!(r#""tenantId":"t{tenant}""#)];
            topic
                .iter()
                .filter(|record| record.contains(r#""kind":"Event""#) && parts.iter().all(|part| record.contains(part)))
                .count()
        };
        for ((id, tenant), payload) in acked {
            let retry =
                rig.item_of(&format!("e{id}"), &format!("p{payload}{}", "x".repeat(300)), &format!("t{tenant}"), false, 1);
            let before = on_topic(&self.topic, (id, tenant), payload);
            let answer = rig.one(retry);
            match answer {
                Answer::Created(_) => assert!(self.damaged, "e{id} of t{tenant} was forgotten"),
                Answer::Duplicate { .. } => {
                    assert!(before > 0, "e{id} of t{tenant} is nowhere, and its retry is called a duplicate");
                }
                Answer::Conflict => assert!(self.damaged, "e{id} of t{tenant} is there with another payload"),
                answer => panic!("a retry after all faults have stopped: {answer:?}"),
            }
            assert!(self.damaged || before == 1, "e{id} of t{tenant} is {before} times on the topic");
        }
        let answer = rig.one(rig.item("the last one", "x"));
        assert!(is_created(&answer), "{answer:?}");
        self.deliver(&mut rig);
        self.deliver(&mut rig);
        assert_eq!(self.position, rig.started.shared.synced(), "the backlog is not empty");
        let mut verifier = Verifier::default();
        self.topic.iter().for_each(|record| verifier.add(record));
        let verdict = verifier.finish();
        assert!(verdict.is_clean(), "{:?}", verdict.findings);
    }
}

fn live(seed: u64, acts: Vec<Act>) {
    let mut world = World {
        disk: SimDisk::new(seed),
        clock: TestClock::default(),
        config: CommitConfig { by_tenant: true, ..config() },
        acked: HashMap::new(),
        topic: Vec::new(),
        position: 0,
        damaged: false,
        pods: 1,
    };
    let disk = world.disk.clone();
    let mut rig = world.open();
    for act in acts {
        let is_off = disk.is_off();
        match act {
            Act::Batch(batch) => world.batch(&mut rig, &batch),
            Act::Deliver => world.deliver(&mut rig),
            Act::Plan(after, effect) => disk.plan(Fault { after, effect }),
            Act::PowerCut => disk.cut(),
            _ if is_off => {}
            Act::Crash => {
                world.end(rig);
                rig = world.open();
            }
            Act::Tamper { how, file, place } => {
                world.end(rig);
                world.end(world.open());
                // One fault at a time: the next one comes to a whole journal, with nothing of this one left.
                if !world.damaged {
                    world.damaged = true;
                    disk.tamper(how, file, place, place);
                }
                rig = world.open();
            }
            Act::OtherPod { segments } => {
                world.end(rig);
                world.pods += 1;
                world.config.pod_uid = format!("pod-{}", world.pods);
                world.config.journal.segment_bytes = segments * SEGMENT;
                rig = world.open();
            }
        }
        if disk.is_off() {
            drop(rig);
            disk.reboot();
            rig = world.open();
        }
    }
    world.settle(rig);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(200)))]

    #[test]
    fn what_clients_were_told_is_on_the_topic_or_named(seed in any::<u64>(), acts in prop::collection::vec(act(), 1..40)) {
        live(seed, acts);
    }
}

// === the sweep ===

/// Where an event's record stood: its id, and chain and number of its record.
type Stood = (String, String, u64);

fn member<'a>(object: &'a json::Object<'_>, name: &str) -> &'a str {
    object.get(name).and_then(json::Json::as_str).unwrap_or_default()
}

/// Events among records, and what records of the sidecar name as lost.
fn told(records: &[String]) -> (Vec<Stood>, Vec<steno_chain::Lost>) {
    let (mut events, mut lost) = (Vec::new(), Vec::new());
    for record in records {
        let json::Json::Object(record) = json::parse(record).unwrap() else { unreachable!() };
        if member(&record, "kind") != "Event" {
            lost.extend(steno_chain::losses_told(&record, None));
            continue;
        }
        let integrity = record.get("integrity").and_then(json::Json::as_object).unwrap();
        let Some(json::Json::Number(seq)) = integrity.get("seq") else { unreachable!() };
        events.push((member(&record, "eventId").to_owned(), member(integrity, "chainId").to_owned(), *seq as u64));
    }
    (events, lost)
}

/// A spool of acknowledged, undelivered events of three tenants in several segments, with files of ids.
fn spool(envelope: &Envelope) -> (World, Vec<Stood>) {
    let mut world = World {
        disk: SimDisk::new(11),
        clock: TestClock::default(),
        config: CommitConfig { by_tenant: true, envelope: envelope.clone(), ..config() },
        acked: HashMap::new(),
        topic: Vec::new(),
        position: 0,
        damaged: false,
        pods: 1,
    };
    let mut rig = world.open();
    for batch in 0..40u16 {
        let events: Vec<_> = (0..10).map(|index| (batch * 10 + index, 0, (index % 3) as u8)).collect();
        world.batch(&mut rig, &events);
    }
    let (stood, _) = told(&rig.records());
    assert_eq!(stood.len(), 400);
    world.end(rig);
    (world, stood)
}

/// Damages a spool in one way, starts, and asks: what is gone is named, retries are told the truth, and all goes on.
fn sweep(envelope: &Envelope, damage: impl Fn(&SimDisk)) {
    let (mut world, stood) = spool(envelope);
    damage(&world.disk);
    world.damaged = true;
    let mut rig = world.open();
    // Before anything is delivered: a retry is known if and only if its event is in the journal.
    let held: std::collections::HashSet<String> = told(&rig.records()).0.into_iter().map(|(id, ..)| id).collect();
    for number in (0..400u16).step_by(3) {
        let retry =
            rig.item_of(&format!("e{number}"), &format!("p0{}", "x".repeat(300)), &format!("t{}", number % 10 % 3), false, 1);
        let (id, answer) = (format!("e{number}"), rig.one(retry));
        let is_true = if held.contains(&id) { answer == SAME } else { is_created(&answer) };
        assert!(is_true, "{id}: {answer:?}; in the journal: {}", held.contains(&id));
    }
    world.settle(rig);
    let (events, lost) = told(&world.topic);
    let there: std::collections::HashSet<&Stood> = events.iter().collect();
    for gone in stood.iter().filter(|stood| !there.contains(stood)) {
        let (id, chain, seq) = gone;
        let is_named = lost.iter().any(|lost| lost.chain_id == *chain && (lost.first..=lost.last).contains(seq));
        assert!(is_named, "{id} is gone, and nothing names {chain} {seq}: {lost:?}");
    }
}

fn envelopes() -> [Envelope; 2] {
    let key = steno_journal::Key::read(&[7; 32]).unwrap();
    let keys = Arc::new(steno_journal::Keys::new(Some(key), Vec::new()));
    [Envelope::default(), Envelope { keys, compress: false }]
}

fn names(envelope: &Envelope) -> Vec<String> {
    let (world, _) = spool(envelope);
    let files: Vec<String> = world.disk.files().into_iter().map(|(name, _)| name).collect();
    assert!(
        files.iter().any(|name| name.starts_with("idx-")) && files.iter().filter(|name| name.starts_with("seg-")).count() > 2
    );
    files
}

#[test]
fn any_file_gone_emptied_halved_or_zeroed_loses_what_is_named() {
    for envelope in envelopes() {
        for name in names(&envelope) {
            sweep(&envelope, |disk| drop(disk.take(&name)));
            sweep(&envelope, |disk| disk.put(&name, Vec::new()));
            sweep(&envelope, |disk| {
                let mut bytes = disk.contents(&name).unwrap();
                bytes.truncate(bytes.len() / 2);
                disk.put(&name, bytes);
            });
            sweep(&envelope, |disk| disk.put(&name, vec![0; disk.contents(&name).unwrap().len()]));
        }
    }
}

#[test]
fn a_flipped_byte_or_an_unreadable_page_of_any_file_loses_what_is_named() {
    for envelope in envelopes() {
        for name in names(&envelope) {
            for place in 0..20 {
                sweep(&envelope, |disk| {
                    disk.flip(&name, disk.end_of(&name) * place / 20, 5);
                });
                sweep(&envelope, |disk| disk.spoil(&name, disk.contents(&name).unwrap().len() * place / 20));
            }
        }
    }
}

#[test]
fn any_two_files_swapped_or_one_over_another_lose_what_is_named() {
    for envelope in envelopes() {
        let names = names(&envelope);
        let foreign = {
            let (world, _) = spool(&Envelope::default());
            let name = world.disk.files().into_iter().rfind(|(name, _)| name.starts_with("seg-")).unwrap().0;
            world.disk.contents(&name).unwrap()
        };
        let foreign_state = {
            let (world, _) = spool(&Envelope::default());
            world.disk.contents("state").unwrap()
        };
        sweep(&envelope, |disk| disk.put("state", foreign_state.clone()));
        for name in &names {
            sweep(&envelope, |disk| disk.put(name, foreign.clone()));
            for other in names.iter().filter(|other| *other != name) {
                sweep(&envelope, |disk| {
                    let (one, two) = (disk.contents(name).unwrap(), disk.contents(other).unwrap());
                    disk.put(name, two);
                    disk.put(other, one);
                });
                // An old copy of the state is an old truth: nothing else knows better.
                if other != "state" {
                    sweep(&envelope, |disk| disk.put(name, disk.contents(other).unwrap()));
                }
            }
        }
    }
}

// === bounds ===

#[test]
fn one_block_never_has_more_events_than_are_remembered() {
    let roomy = CommitConfig { journal: Options { max_bytes: 64 << 20, segment_bytes: 4 << 20, ..config().journal }, ..config() };
    let mut rig = Rig::open(&SimDisk::new(1), &roomy, &TestClock::default()).unwrap();
    let batch = |rig: &Rig, round: usize| (0..2000).map(|index| rig.item(&format!("{round}-{index}"), "x")).collect::<Vec<_>>();
    for round in 0..6 {
        let items = batch(&rig, round);
        assert!(rig.turn(vec![items]).concat().iter().all(is_created));
    }
    let mut rig = rig.restart(&roomy);
    for round in 0..6 {
        let items = batch(&rig, round);
        assert!(rig.turn(vec![items]).concat().iter().all(|answer| *answer == SAME), "round {round}");
    }
}

#[test]
fn raising_the_bound_while_it_runs_or_at_a_start_refuses_no_event() {
    let raised =
        CommitConfig { journal: Options { max_bytes: 512 << 20, segment_bytes: 16 << 20, ..config().journal }, ..config() };
    for live in [true, false] {
        let mut rig = Rig::new();
        rig.one(rig.item("first", "x"));
        if live {
            let note = steno_chain::Note::new(steno_chain::Kind::Config, "raised");
            rig.loop_.turn(&mut vec![Work::Reload(Arc::new(raised.clone()), note)]);
        } else {
            rig = rig.restart(&raised);
        }
        // Small events of many clients in one turn are one large block, and so is a large event.
        let batches =
            (0..60).map(|client| (0..40).map(|index| rig.item(&format!("{client}-{index}"), &"x".repeat(900))).collect());
        let batches: Vec<_> = batches.collect();
        assert!(rig.turn(batches).concat().iter().all(is_created));
        assert!(is_created(&rig.one(rig.item("large", &"x".repeat(400_000)))));
        // Back again: what was made under the larger bound is read, and new blocks fit.
        let note = steno_chain::Note::new(steno_chain::Kind::Config, "lowered");
        rig.deliver_all();
        rig.loop_.turn(&mut vec![Work::Reload(Arc::new(config()), note)]);
        rig.clock.0.fetch_add(2000, Ordering::Relaxed);
        rig.deliver_all();
        let batch = (0..300).map(|index| rig.item(&format!("small-{index}"), &"x".repeat(900))).collect();
        assert!(rig.turn(vec![batch]).concat().iter().all(is_created));
    }
}

/// A journal of this size, with a chain a tenant.
fn many_chains(segment_bytes: u64, max_chains: usize) -> CommitConfig {
    let journal = Options { max_bytes: 16 * segment_bytes, segment_bytes, ..config().journal };
    CommitConfig { by_tenant: true, max_chains, journal, ..config() }
}

fn write_to_all(rig: &mut Rig, tenants: usize, round: &str) {
    for tenant in 0..tenants {
        let item = rig.item_of(&format!("{round}-{tenant}"), "x", &format!("tenant-{tenant:05}"), false, 1);
        let answer = rig.one(item);
        assert!(is_created(&answer), "{round}, tenant {tenant}: {answer:?}");
        if tenant % 64 == 0 {
            rig.deliver_all();
        }
    }
    rig.deliver_all();
}

#[test]
fn what_must_be_told_fits_whatever_the_chains_and_the_segments() {
    for segment_bytes in [64 << 10, 256 << 10, 512 << 10, 1 << 20] {
        for tenants in [1, 64, 300, 1024] {
            let many = many_chains(segment_bytes, 1024);
            let mut rig = Rig::open(&SimDisk::new(3), &many, &TestClock::default()).unwrap();
            write_to_all(&mut rig, tenants, "first");
            let disk = rig.disk.clone();
            drop(rig);
            // The newest segment is lost: every chain begins a new epoch, with a record that says so.
            let newest = disk.files().into_iter().rfind(|(name, _)| name.starts_with("seg-")).unwrap().0;
            disk.take(&newest);
            let mut rig = Rig::open(&disk, &many, &TestClock::default()).unwrap();
            write_to_all(&mut rig, tenants, "second");
            let (done, mut closed) = oneshot::channel();
            rig.loop_.turn(&mut vec![Work::Close(done)]);
            assert!(closed.try_recv().is_ok());
            let closes = rig.records().iter().filter(|record| record.contains(r#""kind":"Close""#)).count();
            assert!(closes > 0, "{segment_bytes} bytes, {tenants} tenants: no Close record");
        }
    }
}

#[test]
fn chains_of_former_pods_end_and_their_heads_go() {
    let many = many_chains(512 << 10, 1024);
    let (disk, clock) = (SimDisk::new(5), TestClock::default());
    let mut verifier = Verifier::default();
    let mut position = 0;
    for pod in 0..12 {
        let mine = CommitConfig { pod_uid: format!("pod-{pod}"), ..many.clone() };
        let mut rig = Rig::open(&disk, &mine, &clock).unwrap();
        for tenant in 0..1024 {
            let item = rig.item_of(&format!("{pod}-{tenant}"), "x", &format!("tenant-{tenant:05}"), false, 1);
            assert!(is_created(&rig.one(item)), "pod {pod}, tenant {tenant}");
            if tenant % 200 == 0 || tenant == 1023 {
                let mut reader = Reader::new(rig.started.shared.clone(), position);
                while let Next::Block(block) = reader.next().unwrap() {
                    let frames = (block.header.first_seq..).zip(frames(&block.payload)).filter(|(seq, _)| *seq >= position);
                    frames.for_each(|(_, frame)| verifier.add(std::str::from_utf8(frame.json).unwrap()));
                    position = block.header.next_seq();
                }
                rig.loop_.turn(&mut vec![Work::Positions([(sink_id("kafka"), position)].into())]);
            }
        }
        drop(rig);
    }
    let verdict = verifier.finish();
    assert!(verdict.is_clean(), "{:?}", &verdict.findings[..verdict.findings.len().min(5)]);
    let opened = steno_journal::Journal::open(Arc::new(disk), many.journal, Envelope::default()).unwrap();
    let former = opened.journal.heads().iter().filter(|head| !head.id.starts_with("pod-11/")).count();
    assert_eq!(former, 0, "heads of former pods are kept");
}

/// A folder of a shared volume goes from one pod to another and back: each time its chains are others, for those of before have ended.
#[test]
fn a_pod_that_comes_back_to_a_journal_begins_no_chain_a_second_time() {
    for scope in ["none", "tenant"] {
        let (disk, clock) = (SimDisk::new(7), TestClock::default());
        let (mut verifier, mut seen) = (Verifier::default(), std::collections::BTreeSet::new());
        let mut position = 0;
        for (turn, pod) in ["a", "b", "a", "a", "b", "a"].into_iter().enumerate() {
            let mine = CommitConfig { pod_uid: format!("pod-{pod}"), by_tenant: scope == "tenant", ..config() };
            let mut rig = Rig::open(&disk, &mine, &clock).unwrap();
            let item = rig.item_of(&format!("event-{turn}"), "x", "tenant", false, 1);
            assert!(is_created(&rig.one(item)));
            let mut reader = Reader::new(rig.started.shared.clone(), position);
            while let Next::Block(block) = reader.next().unwrap() {
                for (_, frame) in (block.header.first_seq..).zip(frames(&block.payload)).filter(|(seq, _)| *seq >= position) {
                    verifier.add(std::str::from_utf8(frame.json).unwrap());
                }
                for range in block.header.ranges.iter().filter(|_| block.header.first_seq >= position) {
                    let numbers = (range.first..=range.last).map(|number| (range.id.clone(), number));
                    numbers.for_each(|number| assert!(seen.insert(number.clone()), "{scope}, turn {turn}: {number:?} twice"));
                }
                position = block.header.next_seq();
            }
        }
        let verdict = verifier.finish();
        assert!(verdict.is_clean(), "{scope}: {:?}", verdict.findings);
    }
}

// === spools of the version before ===

/// Files of a directory, one after the other: u32 length of the name, the name, u64 length, the contents; little-endian, gzip.
fn unpack(packed: &[u8]) -> SimDisk {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(packed).read_to_end(&mut bytes).unwrap();
    let (disk, mut rest) = (SimDisk::new(1), &bytes[..]);
    while let Some((length, more)) = rest.split_first_chunk::<4>() {
        let (name, more) = more.split_at(u32::from_le_bytes(*length) as usize);
        let (length, more) = more.split_first_chunk::<8>().unwrap();
        let (contents, more) = more.split_at(u64::from_le_bytes(*length) as usize);
        disk.put(std::str::from_utf8(name).unwrap(), contents.to_vec());
        rest = more;
    }
    disk
}

/// Written by the program before segments of version 2: 400 events of three tenants, killed, with a spool of 8 MiB.
const SPOOL_1: &[u8] = include_bytes!("fixtures/spool-1.gz");

#[test]
fn a_spool_of_the_version_before_opens_with_all_that_is_in_it() {
    let journal = Options { max_bytes: 8 << 20, segment_bytes: 512 << 10, ..config().journal };
    let mine = CommitConfig { by_tenant: true, max_chains: 1024, journal, ..config() };
    let mut rig = Rig::open(&unpack(SPOOL_1), &mine, &TestClock::default()).unwrap();
    assert!(rig.started.damage.is_empty() && !rig.started.fresh, "{:?}", rig.started.damage);
    let events = told(&rig.records()).0;
    assert_eq!(events.len(), 400);
    assert!(is_created(&rig.one(rig.item("after the upgrade", "x"))));
    rig.verify();
    // Once more: the state is of this version by now, its oldest segments are not.
    let rig = rig.restart(&mine);
    assert_eq!(told(&rig.records()).0.len(), 401);
    rig.verify();
}

#[test]
fn a_loss_is_named_once_and_not_at_each_start() {
    for damage in ["remove", "flip"] {
        let (world, _) = spool(&Envelope::default());
        let middle = world.disk.files().into_iter().filter(|(name, _)| name.starts_with("seg-")).nth(1).unwrap().0;
        match damage {
            "remove" => drop(world.disk.take(&middle)),
            _ => assert!(world.disk.flip(&middle, 30_000, 2)),
        }
        let mut told = 0;
        for start in 0..5 {
            let mut rig = world.open();
            // A retry of each event has the damage met.
            for number in 0..400 {
                let retry = rig.item_of(
                    &format!("e{number}"),
                    &format!("p0{}", "x".repeat(300)),
                    &format!("t{}", number % 10 % 3),
                    false,
                    1,
                );
                rig.one(retry);
            }
            let records = rig.records();
            let names_it = |record: &&String| record.contains(r#""lost":["#);
            let now = records.iter().filter(names_it).count();
            assert!(now > 0 && (start == 0 || now == told), "{damage}, start {start}: {told} became {now}");
            told = now;
            world.end(rig);
        }
    }
}

#[test]
fn a_full_spool_is_known_at_a_start_before_anybody_is_refused() {
    let mut rig = Rig::new();
    while is_created(&rig.one(rig.item(&rig.started.shared.synced().to_string(), &"x".repeat(8000)))) {}
    let Rig { disk, clock, loop_, .. } = rig;
    drop(loop_);
    let metrics = Metrics::default();
    let full = metrics.full.clone();
    let opened = Committer::open(Arc::new(disk), Arc::new(config()), Box::new(clock), Box::new(Nobody), metrics).unwrap();
    assert!(full.load(Ordering::Relaxed));
    drop(opened);
}
