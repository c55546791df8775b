//! Crashes, power cuts, failing calls, other options and damaged files, in any order. What was acknowledged or seen is there, in
//! order, once, or its loss is named by sequence number and by chain; no number is used twice; and once faults stop, the journal
//! takes blocks again.
use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::sim::{Effect, Fault, Tamper};

#[derive(Debug, Clone)]
enum Step {
    Commit {
        chain: u8,
        count: u32,
        size: usize,
    },
    /// A block is written and the process dies before it is synced. The page cache stays.
    WriteAndDie {
        chain: u8,
        count: u32,
        size: usize,
    },
    Deliver,
    Plan {
        after: u32,
        effect: Effect,
    },
    PowerCut,
    /// The process dies; the page cache stays.
    Crash,
    /// The process ends, a file is damaged, and a process with other options begins.
    Tamper {
        how: Tamper,
        file: usize,
        place: usize,
    },
    /// The same; a segment of another journal takes a file's place.
    Foreign {
        file: usize,
    },
    /// The process ends and begins with other options.
    Restart {
        segment: u64,
        key: u8,
    },
    /// Other options count while it runs.
    Reload {
        segment: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let effect = prop_oneof![Just(Effect::Error), Just(Effect::NoSpace), Just(Effect::Short), Just(Effect::PowerCut)];
    let how = prop::sample::select(&Tamper::ALL[..]);
    let segment = prop_oneof![Just(SEGMENT), Just(SEGMENT * 3 / 2), Just(2 * SEGMENT)];
    let block = || (0u8..4, 1u32..5, 1usize..6000);
    prop_oneof![
        16 => block().prop_map(|(chain, count, size)| Step::Commit { chain, count, size }),
        2 => block().prop_map(|(chain, count, size)| Step::WriteAndDie { chain, count, size }),
        1 => Just(Step::Deliver),
        3 => (1u32..14, effect).prop_map(|(after, effect)| Step::Plan { after, effect }),
        2 => Just(Step::PowerCut),
        1 => Just(Step::Crash),
        2 => (how, 0usize..1000, 0usize..100_000)
            .prop_map(|(how, file, place)| Step::Tamper { how, file, place }),
        1 => (0usize..1000).prop_map(|file| Step::Foreign { file }),
        1 => (segment.clone(), 0u8..3).prop_map(|(segment, key)| Step::Restart { segment, key }),
        1 => segment.prop_map(|segment| Step::Reload { segment }),
    ]
}

/// A block that somebody was told of or saw.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    count: u32,
    bytes: Vec<u8>,
    chain: String,
    chain_first: u64,
}

struct Model {
    disk: SimDisk,
    options: Options,
    /// Number of the key in use; 0: none.
    key: u8,
    acked: BTreeMap<u64, Known>,
    /// Blocks that were written; whether they are there shows after a crash.
    tried: Vec<(u64, Known)>,
    /// Numbers above which nothing was used: of the journal, and of each chain.
    told: u64,
    told_chain: BTreeMap<String, u64>,
    delivered: u64,
    /// A file was damaged, and no block was written since: a second fault may take the evidence of the first.
    fragile: bool,
    salt: u8,
}

fn keyed(key: u8) -> Envelope {
    let key_of = |number: u8| Key::read(&[number; 32]).unwrap();
    // Older keys stay known.
    let old = (1..3).filter(|other| *other != key).map(key_of).collect();
    Envelope { keys: Arc::new(Keys::new((key > 0).then(|| key_of(key)), old)), compress: key == 1 }
}

fn chain_name(chain: u8) -> String {
    format!("chain-{chain}")
}

impl Model {
    fn open(&self) -> Opened {
        Journal::open(Arc::new(self.disk.clone()), self.options, keyed(self.key)).unwrap()
    }

    /// Where a chain's next record goes, as the commit loop decides it.
    fn next_of(journal: &Journal, chain: &str) -> u64 {
        let head = journal.heads().into_iter().find(|head| head.id == chain);
        head.map_or_else(|| journal.chain_floor(), |head| head.last + 1)
    }

    fn write(&mut self, journal: &mut Journal, chain: u8, count: u32, size: usize) -> Result<(u64, Known)> {
        self.salt = self.salt.wrapping_add(1);
        let (chain, first) = (chain_name(chain), journal.next_seq());
        let chain_first = Self::next_of(journal, &chain);
        let told = self.told_chain.get(&chain).copied().unwrap_or(0);
        assert!(first >= self.told, "number {first} would be used twice");
        assert!(chain_first >= told, "number {chain_first} of {chain} would be used twice; {told} is next");
        let bytes = payload(first, count, size, self.salt);
        let hash = [self.salt.max(1); 32];
        let range =
            ChainRange { id: chain.clone(), epoch: 1, first: chain_first, last: chain_first + u64::from(count) - 1, hash };
        let block = NewBlock {
            class: Class::Normal,
            count,
            ranges: vec![range],
            ends: false,
            wall_ms: 1000 + first,
            journal_ms: first,
            payload: &[&bytes],
        };
        journal.append(&block)?;
        Ok((first, Known { count, bytes, chain, chain_first }))
    }

    fn ack(&mut self, first: u64, known: Known) {
        self.told = self.told.max(first + u64::from(known.count));
        let next = known.chain_first + u64::from(known.count);
        let told = self.told_chain.entry(known.chain.clone()).or_insert(0);
        *told = (*told).max(next);
        self.acked.insert(first, known);
        self.fragile = false;
    }

    fn check(&mut self, opened: &Opened, damaged: bool) {
        let journal = &opened.journal;
        assert!(journal.next_seq() >= self.told, "number {} would be used twice", journal.next_seq());
        let (blocks, mut losses) = read(journal, self.delivered);
        losses.extend(opened.damage.iter().cloned());
        let floor = journal.chain_floor();
        let known_chains: BTreeSet<String> = journal.heads().into_iter().map(|head| head.id).collect();
        let mut gone = Vec::new();
        for (first, known) in &self.acked {
            if let Some(found) = blocks.get(first) {
                assert_eq!(found, &(known.count, known.bytes.clone()), "block {first} is not what was written");
                continue;
            }
            assert!(damaged, "block {first} is gone, and nothing was damaged; {losses:?}");
            for (seq, chain_seq) in (*first..).zip(known.chain_first..).take(known.count as usize) {
                let by_number = losses.iter().any(|loss| (loss.first_seq..loss.next_seq).contains(&seq));
                assert!(by_number, "record {seq} is gone without a name: {losses:?}");
                let ranges = losses.iter().flat_map(|loss| &loss.ranges);
                let by_chain =
                    ranges.filter(|range| range.id == known.chain).any(|range| (range.first..=range.last).contains(&chain_seq));
                // A chain that nobody knows any more begins above, with a record that names all below.
                let by_floor = !known_chains.contains(&known.chain) && chain_seq < floor;
                assert!(by_chain || by_floor, "{} {chain_seq} is gone without a name: {losses:?}, floor {floor}", known.chain);
            }
            gone.push(*first);
        }
        for first in gone {
            self.acked.remove(&first);
            // Named once is enough, if it comes back for a while.
            self.tried.retain(|(at, _)| *at != first);
        }
        let mut next = 0;
        for (first, (count, _)) in &blocks {
            assert!(*first >= next, "blocks overlap");
            next = first + u64::from(*count);
        }
        if !damaged {
            // Crashes and failing calls lose nothing that was acknowledged, so no loss may claim it either.
            for loss in &losses {
                let hit = self.acked.range(loss.first_seq..loss.next_seq).next();
                assert!(hit.is_none(), "{loss:?} claims acknowledged {hit:?}");
            }
        }
        self.told = self.told.max(journal.next_seq());
        for head in journal.heads() {
            let told = self.told_chain.entry(head.id).or_insert(0);
            *told = (*told).max(head.last + 1);
        }
        // What is there now may be seen by readers.
        for (first, (count, bytes)) in blocks {
            let is_this = |(at, tried): &&(u64, Known)| *at == first && (tried.count, &tried.bytes) == (count, &bytes);
            if let Some((_, seen)) = self.tried.iter().find(is_this).cloned() {
                let fragile = self.fragile;
                self.ack(first, seen);
                self.fragile = fragile;
            }
        }
    }

    fn restart(&mut self, damaged: bool) -> Opened {
        let opened = self.open();
        self.check(&opened, damaged);
        opened
    }

    /// A file of the directory gives way to a segment of another journal.
    fn put_foreign(&self, file: usize) {
        let foreign = SimDisk::new(99);
        commit(&mut open(&foreign).journal, 3, 700, 9).unwrap();
        let segment = foreign.files().into_iter().find(|(name, _)| name.starts_with("seg-")).unwrap().0;
        let files: Vec<String> = self.disk.files().into_iter().map(|(name, _)| name).filter(|name| !name.contains('/')).collect();
        self.disk.put(&files[file % files.len()], foreign.contents(&segment).unwrap());
    }
}

fn run(seed: u64, steps: Vec<Step>) {
    let disk = SimDisk::new(seed);
    let mut model = Model {
        disk: disk.clone(),
        options: options(),
        key: 0,
        acked: BTreeMap::new(),
        tried: Vec::new(),
        told: 0,
        told_chain: BTreeMap::new(),
        delivered: 0,
        fragile: true,
        salt: 0,
    };
    let mut opened = model.restart(false);
    for step in steps {
        match step {
            Step::Commit { chain, count, size } => {
                let journal = &mut opened.journal;
                let written = model.write(journal, chain, count, size);
                if let Ok((first, known)) = written {
                    model.tried.push((first, known.clone()));
                    if journal.sync().is_ok() {
                        model.ack(first, known);
                    }
                }
            }
            Step::WriteAndDie { chain, count, size } => {
                if let Ok(tried) = model.write(&mut opened.journal, chain, count, size) {
                    model.tried.push(tried);
                }
                if !disk.is_off() {
                    drop(opened);
                    disk.free_space();
                    opened = model.restart(false);
                }
            }
            Step::Deliver => {
                let next = opened.journal.shared().synced();
                // The sink has them, whether that can be saved or not.
                model.delivered = next;
                model.acked.clear();
                if opened.journal.save_positions(&[(1, next)].into()).is_ok() {
                    let _ = opened.journal.free(0, u64::MAX, false);
                }
            }
            Step::Plan { after, effect } => disk.plan(Fault { after, effect }),
            Step::PowerCut => disk.cut(),
            Step::Crash | Step::Restart { .. } | Step::Tamper { .. } | Step::Foreign { .. } if disk.is_off() => {}
            Step::Crash => {
                drop(opened);
                disk.free_space();
                opened = model.restart(false);
            }
            Step::Restart { segment, key } => {
                drop(opened);
                disk.free_space();
                (model.options.segment_bytes, model.key) = (segment, key);
                opened = model.restart(false);
            }
            Step::Reload { segment } => {
                model.options.segment_bytes = segment;
                opened.journal.set_options(model.options);
            }
            Step::Tamper { .. } | Step::Foreign { .. } => {
                drop(opened);
                disk.free_space();
                // What a crash left in memory only would be a fault beside this one.
                let whole = model.restart(false);
                drop(whole);
                let damaged = !model.fragile;
                if damaged {
                    model.fragile = true;
                    match step {
                        Step::Tamper { how, file, place } => disk.tamper(how, file, place, place),
                        Step::Foreign { file } => model.put_foreign(file),
                        _ => {}
                    }
                }
                opened = model.restart(damaged);
            }
        }
        if disk.is_off() {
            drop(opened);
            disk.reboot();
            opened = model.restart(false);
        }
    }
    disk.free_space();
    // A failing call leaves a journal that works again as soon as the disk does and there is room.
    let next = opened.journal.shared().synced();
    opened.journal.save_positions(&[(1, next)].into()).expect("the disk works");
    model.delivered = next;
    model.acked.clear();
    while opened.journal.free(0, u64::MAX, false).unwrap() > 0 {}
    let (first, known) = model.write(&mut opened.journal, 0, 1, 100).expect("the disk works and has room");
    opened.journal.sync().expect("the disk works");
    model.ack(first, known);
    drop(opened);
    disk.cut();
    disk.reboot();
    model.restart(false);
}

/// `PROPTEST_CASES`, or as many as a few seconds allow.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(3000)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn what_was_acknowledged_survives_or_is_named(seed in any::<u64>(), steps in prop::collection::vec(step(), 1..60)) {
        run(seed, steps);
    }
}

#[test]
fn every_single_call_may_be_the_last_one() {
    // The same short life, with the power cut at each of its calls in turn.
    for after in 1..160 {
        for effect in [Effect::PowerCut, Effect::Error, Effect::Short, Effect::NoSpace] {
            let commits = |count| (0..count).map(|index| Step::Commit { chain: 0, count: 1 + index % 3, size: 4000 });
            let key = after as u8 % 3;
            let steps = [Step::Restart { segment: SEGMENT, key }, Step::Plan { after, effect }]
                .into_iter()
                .chain(commits(20))
                .chain([Step::Deliver])
                .chain(commits(20))
                .chain([Step::Deliver])
                .chain(commits(10));
            run(u64::from(after) + 1, steps.collect());
        }
    }
}

/// A process writes a block and dies, its successor tells of the block, and then the power goes.
#[test]
fn what_a_start_found_is_durable_before_anybody_hears_of_it() {
    for seed in 0..40 {
        run(
            seed,
            vec![
                Step::Commit { chain: 0, count: 2, size: 900 },
                Step::WriteAndDie { chain: 0, count: 3, size: 2000 },
                Step::PowerCut,
                Step::Commit { chain: 0, count: 1, size: 10 },
            ],
        );
    }
}

/// Lives that once failed, each found by the property above and made as short as it goes.
#[test]
fn lives_that_once_failed() {
    let commit = |chain, count, size| Step::Commit { chain, count, size };
    let plan = |after, effect| Step::Plan { after, effect };
    let tamper = |how, file, place| Step::Tamper { how, file, place };
    // The newest segment is lost, and the one before ends with a block whose sync failed.
    run(0, vec![commit(0, 1, 1), plan(2, Effect::Short), commit(0, 1, 1), commit(0, 1, 1), tamper(Tamper::Remove, 1, 0)]);
    // A segment without a record, begun because segments became smaller, is all that is left.
    let (large, small) = (Step::Restart { segment: 98_304, key: 1 }, Step::Restart { segment: SEGMENT, key: 0 });
    run(0, vec![commit(0, 1, 1), large, commit(0, 1, 1), small, Step::Deliver, tamper(Tamper::Zero, 895, 0)]);
    // A snapshot is damaged behind a segment that is gone.
    run(
        0,
        vec![
            commit(0, 1, 984),
            commit(0, 3, 5611),
            Step::Restart { segment: SEGMENT, key: 0 },
            commit(0, 4, 5662),
            commit(0, 1, 4400),
            commit(0, 2, 5836),
            plan(1, Effect::Error),
            commit(0, 1, 1),
            commit(1, 1, 1),
            tamper(Tamper::Remove, 576, 0),
            commit(1, 1, 1),
            tamper(Tamper::Flip, 641, 8192),
        ],
    );
    // A segment was never finished, and the one before it is cut.
    run(
        1_433_442_088_680_412_918,
        vec![
            commit(0, 1, 1),
            Step::Restart { segment: 98_304, key: 2 },
            commit(0, 2, 3964),
            Step::Deliver,
            Step::PowerCut,
            commit(0, 4, 5092),
            commit(0, 1, 1328),
            Step::WriteAndDie { chain: 0, count: 3, size: 4192 },
            commit(0, 4, 1740),
            commit(0, 3, 5222),
            plan(5, Effect::Error),
            plan(5, Effect::Error),
            commit(0, 2, 128),
            commit(0, 4, 5888),
            tamper(Tamper::Halve, 340, 0),
        ],
    );
}
