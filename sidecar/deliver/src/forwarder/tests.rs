//! The forwarder as a state machine, stepped over a destination that confirms, refuses, stalls, reorders and goes away.
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::Families;

/// Lanes of the destination.
const LANES: u64 = 3;

/// What really happened, and what the destination does next.
#[derive(Default)]
struct World {
    synced: u64,
    poison: BTreeSet<u64>,
    /// Sent and not answered, by lane, in order.
    pending: BTreeMap<u32, VecDeque<(u64, Reporter)>>,
    stalled: BTreeSet<u32>,
    is_down: bool,
    refuses_all: bool,
    /// In the order of arrival.
    delivered: Vec<u64>,
    /// Records that were refused at least once, alone or with others.
    refused: BTreeSet<u64>,
    /// Refused with nothing else in flight: the record, and how many were delivered until then, each time.
    refused_alone: BTreeMap<u64, Vec<usize>>,
    /// Dead letters: the record, and how many were delivered until then.
    dead: BTreeMap<u64, usize>,
    notes: Vec<Note>,
    trail_fails: bool,
    rounds: u64,
}

type Shared = Arc<Mutex<World>>;

/// Neighbours are in different lanes, and not in a fixed pattern.
fn lane_of(seq: u64) -> u32 {
    (seq.wrapping_mul(0x9E37_79B9) >> 7) as u32 % LANES as u32
}

fn json(seq: u64) -> Vec<u8> {
    format!("{{\"eventId\":\"e{seq}\"}}").into_bytes()
}

fn frame(json: &[u8]) -> Frame<'_> {
    Frame {
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
        json,
    }
}

struct FakeSource(Shared, Vec<u8>);

impl Source for FakeSource {
    fn synced(&self) -> u64 {
        self.0.lock().synced
    }
    fn oldest(&self) -> u64 {
        0
    }
    fn at(&mut self, seq: u64) -> Fetch<'_> {
        if seq >= self.0.lock().synced {
            return Fetch::End;
        }
        self.1 = json(seq);
        Fetch::Record(frame(&self.1))
    }
    fn release(&mut self) {}
    fn written_ms(&self, _: u64) -> Option<u64> {
        None
    }
    fn cut_to(&self, _: u64, _: u64) -> Option<u64> {
        None
    }
    fn first_since(&self, _: u64, _: u64) -> Option<u64> {
        None
    }
    fn losses(&self, _: u64, _: u64, _: &str) -> (Vec<Lost>, u64) {
        (Vec::new(), 0)
    }
}

struct FakeTrail(Shared);

impl Trail for FakeTrail {
    fn write(&self, note: Note) -> Result<(), String> {
        let mut world = self.0.lock();
        if world.trail_fails {
            return Err("the spool is full".into());
        }
        let seq = note.details.iter().find(|(name, _)| *name == "journalSeq").and_then(|(_, value)| match value {
            Json::Number(seq) => Some(*seq as u64),
            _ => None,
        });
        if let (Kind::DeadLetter, Some(seq)) = (note.kind, seq) {
            let delivered = world.delivered.len();
            assert!(world.dead.insert(seq, delivered).is_none(), "{seq} is a dead letter twice");
        }
        world.notes.push(note);
        // It is a record, too, and one that the destination takes.
        let seq = world.synced;
        world.poison.remove(&seq);
        world.synced += 1;
        Ok(())
    }
    fn write_loss(&self, note: Note, _: (u64, u64)) -> Result<(), String> {
        self.write(note)
    }
    fn save_position(&self, _: &str, _: u64) {}
}

struct FakeSink(Shared, Reporter);

impl Sink for FakeSink {
    fn lanes(&self) -> usize {
        LANES as usize
    }
    fn lane(&mut self, seq: u64, _: &Frame<'_>, _: &dyn Fn(u32) -> bool) -> u32 {
        lane_of(seq)
    }
    fn send(&mut self, seq: u64, frame: &Frame<'_>) -> Result<(), Refusal> {
        let lane = self.lane(seq, frame, &|_| true);
        let reporter = self.1.clone();
        self.0.lock().pending.entry(lane).or_default().push_back((seq, reporter));
        Ok(())
    }
    fn send_dead(&mut self, _: u64, _: &Frame<'_>, _: &str) -> Result<(), Refusal> {
        Err(Refusal::Unfit("no topic".into()))
    }
    fn send_again(&mut self, _: u64, _: &Frame<'_>) -> Result<(), Refusal> {
        Ok(())
    }
    fn probe(&mut self, _: Duration) -> Result<(), String> {
        if self.0.lock().is_down { Err("down".into()) } else { Ok(()) }
    }
    fn absent_for(&self) -> Option<Duration> {
        None
    }
    fn describe(&self) -> String {
        "the world".into()
    }
}

struct Rig {
    world: Shared,
    forwarder: Forwarder,
    status: Arc<Status>,
    deliveries: Arc<Deliveries>,
    now: Now,
    _dir: tempfile::TempDir,
}

fn settings() -> Settings {
    Settings {
        breaker: BreakerConfig { threshold: 5, cooldown: Duration::from_secs(10), no_broker_for: Duration::from_secs(10) },
        batch: vec![(1, 8)],
        dead_bytes: 1 << 30,
        keys: Arc::default(),
        in_order: false,
        max_lag: None,
    }
}

impl Rig {
    fn new(poison: BTreeSet<u64>) -> Self {
        let world = Shared::default();
        world.lock().poison = poison;
        let dir = tempfile::tempdir().unwrap();
        let (inbox, events) = Inbox::channel();
        let (status, deliveries) = (Arc::<Status>::default(), Arc::new(Deliveries::new(0)));
        let of_sink = world.clone();
        let parts = Parts {
            name: "kafka".into(),
            gate: None,
            settings: settings(),
            factory: Box::new(move |reporter| Ok(Box::new(FakeSink(of_sink.clone(), reporter)))),
            source: Box::new(FakeSource(world.clone(), Vec::new())),
            position: 0,
            known_damage: Arc::default(),
            trail: Box::new(FakeTrail(world.clone())),
            dead: DeadFolder::of(dir.path()),
            deliveries: deliveries.clone(),
            status: status.clone(),
            metrics: Families::default().of("kafka"),
            shown: as_it_is,
            seed: 1,
        };
        let forwarder = Forwarder::new(inbox, events, parts);
        Self { world, forwarder, status, deliveries, now: Now { since_start: Duration::ZERO, wall_ms: 1_000_000 }, _dir: dir }
    }

    fn turn(&mut self, after: Duration) {
        self.now.since_start += after;
        self.now.wall_ms += after.as_millis() as u64;
        self.forwarder.turn(self.now, None);
    }

    fn is_done(&self) -> bool {
        self.deliveries.position() == self.world.lock().synced
    }

    /// The destination answers the next records of a lane, as one batch; their outcomes come in any order.
    fn answer(&mut self, lane: u32, count: usize, backwards: bool) {
        let mut world = self.world.lock();
        world.rounds += 1;
        if world.stalled.contains(&lane) {
            return;
        }
        let all_pending: usize = world.pending.values().map(VecDeque::len).sum();
        let Some(pending) = world.pending.get_mut(&lane) else { return };
        let mut batch: Vec<(u64, Reporter)> = pending.drain(..count.min(pending.len())).collect();
        let is_alone = all_pending == 1;
        let result = if world.is_down {
            // What is behind in the lane fails, too: a lane keeps its order.
            batch.extend(std::mem::take(world.pending.entry(lane).or_default()));
            Err(Refusal::Later("down".into()))
        } else if world.refuses_all || batch.iter().any(|(seq, _)| world.poison.contains(seq)) {
            for (seq, _) in &batch {
                world.refused.insert(*seq);
                if is_alone {
                    let delivered = world.delivered.len();
                    world.refused_alone.entry(*seq).or_default().push(delivered);
                }
            }
            Err(Refusal::Refused("poison".into()))
        } else {
            world.delivered.extend(batch.iter().map(|(seq, _)| *seq));
            Ok(())
        };
        if backwards {
            batch.reverse();
        }
        for (seq, reporter) in batch {
            reporter.outcome(seq, result.clone());
        }
    }

    fn answer_all(&mut self, count: usize) {
        (0..LANES as u32).for_each(|lane| self.answer(lane, count, false));
    }

    /// Everything is well from now on.
    fn settle_down(&mut self, rounds: usize) {
        {
            let mut world = self.world.lock();
            (world.is_down, world.refuses_all, world.trail_fails) = (false, false, false);
            world.stalled.clear();
        }
        for _ in 0..rounds {
            if self.is_done() {
                return;
            }
            self.turn(Duration::from_millis(200));
            self.answer_all(100);
        }
        panic!("it never ends: {:?}", self.status.get());
    }

    fn check_health(&self) {
        let found = self.status.get();
        if found.backlog > 0 && found.stalled_ms >= 10_000 {
            assert!(found.issue(self.now.wall_ms).is_some(), "it stands still in silence: {found:?}");
        }
    }

    /// The oracle.
    fn check(&self, exact: bool) {
        let world = self.world.lock();
        let mut seen = BTreeSet::new();
        for seq in &world.delivered {
            assert!(seen.insert(*seq), "{seq} arrived twice");
        }
        for seq in world.dead.keys() {
            assert!(!seen.contains(seq), "{seq} arrived and is a dead letter");
            let refused = world.refused_alone.get(seq).unwrap_or_else(|| panic!("{seq} was never refused alone"));
            assert!(refused.first() < refused.last(), "{seq}: it was not refused before and after another one was taken");
        }
        let dead: BTreeSet<u64> = world.dead.keys().copied().collect();
        if exact {
            let poison: BTreeSet<u64> = world.poison.iter().copied().filter(|seq| *seq < world.synced).collect();
            assert_eq!(dead, poison);
        }
        assert_eq!(seen.len() + dead.len(), world.synced as usize, "some are neither delivered nor dead");
        // In order by lane, but for what was refused together with others.
        let mut last: BTreeMap<u32, u64> = BTreeMap::new();
        for seq in world.delivered.iter().filter(|seq| !world.refused.contains(seq)) {
            let lane = lane_of(*seq);
            assert!(last.insert(lane, *seq).is_none_or(|before| before < *seq), "lane {lane}: out of order at {seq}");
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Turn(u64),
    Answer(u32, usize, bool),
    Sync(u64),
    Stall(u32),
    GoOn(u32),
    Down(bool),
    RefuseAll(bool),
    TrailFails(bool),
    Reload,
}

fn step() -> impl Strategy<Value = Step> {
    let lane = 0..LANES as u32;
    prop_oneof![
        8 => (0u64..3000).prop_map(Step::Turn),
        12 => (lane.clone(), 1usize..20, any::<bool>()).prop_map(|(lane, count, backwards)| Step::Answer(lane, count, backwards)),
        4 => (1u64..40).prop_map(Step::Sync),
        1 => lane.clone().prop_map(Step::Stall),
        2 => lane.prop_map(Step::GoOn),
        1 => any::<bool>().prop_map(Step::Down),
        1 => any::<bool>().prop_map(Step::RefuseAll),
        1 => any::<bool>().prop_map(Step::TrailFails),
        1 => Just(Step::Reload),
    ]
}

fn run(steps: Vec<Step>, poison: BTreeSet<u64>) {
    let mut rig = Rig::new(poison);
    let mut exact = true;
    for step in steps {
        match step {
            Step::Turn(ms) => rig.turn(Duration::from_millis(ms)),
            Step::Answer(lane, count, backwards) => rig.answer(lane, count, backwards),
            Step::Sync(more) => rig.world.lock().synced += more,
            Step::Stall(lane) => drop(rig.world.lock().stalled.insert(lane)),
            Step::GoOn(lane) => drop(rig.world.lock().stalled.remove(&lane)),
            Step::Down(is_down) => rig.world.lock().is_down = is_down,
            Step::RefuseAll(refuses) => {
                rig.world.lock().refuses_all = refuses;
                exact &= !refuses;
            }
            Step::TrailFails(fails) => rig.world.lock().trail_fails = fails,
            // Other settings, the same destination.
            Step::Reload => rig.forwarder.reload(settings(), None),
        }
        rig.check_health();
    }
    rig.settle_down(5_000);
    // What is left in flight arrives, too.
    rig.answer_all(1000);
    rig.turn(Duration::from_millis(100));
    rig.check(exact);
}

proptest! {
    #[test]
    fn each_record_arrives_once_in_order_or_is_dead_for_a_true_reason(
        steps in prop::collection::vec(step(), 0..150),
        poison in prop::collection::btree_set(0u64..600, 0..60),
    ) {
        run(steps, poison);
    }
}

#[test]
fn hundreds_of_poison_records_among_thousands_bury_no_other() {
    let poison: BTreeSet<u64> = (0..2000).filter(|seq| seq % 9 == 4 || (500..560).contains(seq)).collect();
    let mut rig = Rig::new(poison);
    rig.world.lock().synced = 2000;
    for round in 0..20_000 {
        if rig.is_done() {
            break;
        }
        rig.turn(Duration::from_millis(1));
        rig.answer_all(1 + round % 13);
    }
    rig.settle_down(1000);
    rig.answer_all(1000);
    rig.turn(Duration::from_millis(100));
    rig.check(true);
}

#[test]
fn a_destination_that_refuses_everything_gets_no_dead_letters_and_the_breaker_says_why() {
    let mut rig = Rig::new(BTreeSet::new());
    {
        let mut world = rig.world.lock();
        (world.refuses_all, world.synced) = (true, 500);
    }
    for _ in 0..2000 {
        rig.turn(Duration::from_millis(50));
        rig.answer_all(100);
    }
    let found = rig.status.get();
    assert_ne!(found.breaker, "closed");
    assert!(found.reason.contains("takes nothing") && found.reason.contains("poison"), "{}", found.reason);
    let counts = |world: &World| (world.dead.len(), world.delivered.len());
    assert_eq!(counts(&rig.world.lock()), (0, 0));
    rig.settle_down(5000);
    rig.answer_all(1000);
    rig.turn(Duration::from_millis(100));
    let notes = rig.world.lock().notes.len();
    assert_eq!(counts(&rig.world.lock()), (0, 500 + notes), "the destination was fixed: all arrive");
}

#[test]
fn a_destination_that_refused_everything_for_a_moment_costs_no_innocent_record() {
    // Fewer than open the breaker by their number, and for less time than opens it.
    for (count, seconds) in [(20, 1), (20, 8), (3, 4), (1, 2)] {
        let mut rig = Rig::new(BTreeSet::new());
        {
            let mut world = rig.world.lock();
            (world.refuses_all, world.synced) = (true, count);
        }
        for _ in 0..seconds * 20 {
            rig.turn(Duration::from_millis(50));
            rig.answer_all(100);
        }
        rig.world.lock().synced += 1;
        rig.settle_down(5000);
        rig.answer_all(1000);
        rig.turn(Duration::from_millis(100));
        assert_eq!(rig.world.lock().dead.len(), 0, "{count} records, {seconds} s");
        rig.check(false);
    }
}

#[test]
fn one_stuck_lane_does_not_hold_up_the_others_and_is_reported() {
    let mut rig = Rig::new(BTreeSet::new());
    {
        let mut world = rig.world.lock();
        world.synced = 5000;
        world.stalled.insert(1);
    }
    for _ in 0..1100 {
        rig.turn(Duration::from_millis(10));
        rig.answer_all(100);
    }
    let of_lane = |lane: u32| (0..5000).filter(|seq| lane_of(*seq) == lane).count();
    assert_eq!(rig.world.lock().delivered.len(), 5000 - of_lane(1), "the others are through");
    let found = rig.status.get();
    assert_eq!(found.breaker, "closed");
    let issue = found.issue(rig.now.wall_ms).expect("it is not healthy");
    assert!(issue.contains("partition 1"), "{issue}");
    rig.settle_down(2000);
    rig.answer_all(1000);
    rig.turn(Duration::from_millis(100));
    rig.check(true);
}

#[test]
fn a_destination_that_hangs_opens_the_breaker_after_no_broker_for() {
    let mut rig = Rig::new(BTreeSet::new());
    {
        let mut world = rig.world.lock();
        world.synced = 100;
        world.stalled.extend(0..LANES as u32);
    }
    // The first one makes the sink.
    rig.turn(Duration::ZERO);
    rig.turn(Duration::ZERO);
    rig.turn(Duration::from_millis(9_900));
    assert_eq!(rig.status.get().breaker, "closed");
    rig.turn(Duration::from_millis(200));
    assert_eq!(rig.status.get().breaker, "open");
    assert!(rig.status.get().reason.contains("no answer"), "{}", rig.status.get().reason);
    rig.world.lock().stalled.clear();
    rig.answer_all(100);
    rig.turn(Duration::from_millis(10));
    assert_eq!((rig.status.get().breaker, &*rig.status.get().reason), ("closed", ""));
}

#[test]
fn one_refused_record_waits_and_says_so_while_no_other_can_be_written() {
    let mut rig = Rig::new(BTreeSet::from([0]));
    {
        let mut world = rig.world.lock();
        (world.synced, world.trail_fails) = (1, true);
    }
    for _ in 0..50 {
        rig.turn(Duration::from_millis(100));
        rig.answer_all(10);
    }
    assert!(rig.world.lock().dead.is_empty());
    let issue = rig.status.get().issue(rig.now.wall_ms).expect("it is not healthy");
    assert!(issue.contains("refused"), "{issue}");
    rig.settle_down(1000);
    rig.answer_all(10);
    rig.turn(Duration::from_millis(100));
    rig.check(true);
}

#[test]
fn a_new_destination_gets_what_the_old_one_did_not_confirm() {
    let mut rig = Rig::new(BTreeSet::new());
    {
        let mut world = rig.world.lock();
        world.synced = 50;
        world.stalled.extend(0..LANES as u32);
    }
    rig.turn(Duration::from_millis(1));
    let elsewhere = Shared::default();
    let of_sink = elsewhere.clone();
    rig.forwarder.reload(settings(), Some(Box::new(move |reporter| Ok(Box::new(FakeSink(of_sink.clone(), reporter))))));
    rig.turn(Duration::from_secs(4));
    assert!(elsewhere.lock().pending.is_empty(), "the old one has five seconds");
    rig.turn(Duration::from_secs(2));
    rig.turn(Duration::from_millis(1));
    assert_eq!(elsewhere.lock().pending.values().map(VecDeque::len).sum::<usize>(), 50);
}
