//! Power cuts and failing calls anywhere: what was acknowledged is there, in order, once; no number is used twice.
use proptest::prelude::*;

use super::*;
use crate::sim::{Effect, Fault};

#[derive(Debug, Clone)]
enum Step {
    Commit { count: u32, size: usize },
    Deliver,
    Plan { after: u32, effect: Effect },
    Reboot,
}

fn step() -> impl Strategy<Value = Step> {
    let effect = prop_oneof![Just(Effect::Error), Just(Effect::NoSpace), Just(Effect::Short), Just(Effect::PowerCut)];
    prop_oneof![
        8 => (1u32..5, 1usize..6000).prop_map(|(count, size)| Step::Commit { count, size }),
        1 => Just(Step::Deliver),
        2 => (1u32..12, effect).prop_map(|(after, effect)| Step::Plan { after, effect }),
        1 => Just(Step::Reboot),
    ]
}

#[derive(Default)]
struct Model {
    /// Blocks that were acknowledged and not yet delivered.
    acked: BTreeMap<u64, (u32, Vec<u8>)>,
    /// Highest number that anybody was told of.
    told: u64,
    delivered: u64,
}

impl Model {
    fn check(&mut self, opened: &Opened) {
        assert!(opened.journal.next_seq() >= self.told, "number {} would be used twice", opened.journal.next_seq());
        let (blocks, lost) = read(&opened.journal, self.delivered);
        for (first, block) in &self.acked {
            assert_eq!(blocks.get(first), Some(block), "acknowledged block {first}; lost {lost:?}, damage {:?}", opened.damage);
        }
        let mut next = 0;
        for (first, (count, _)) in &blocks {
            assert!(*first >= next, "blocks overlap");
            next = first + u64::from(*count);
        }
        // Power cuts and failing calls lose nothing that was acknowledged, so no damage may claim it either.
        for damage in lost.iter().chain(&opened.damage) {
            let hit = self.acked.range(damage.first_seq..damage.next_seq).next();
            assert!(hit.is_none(), "{damage:?} claims acknowledged {hit:?}");
        }
        // What is there now may be seen by readers.
        self.told = self.told.max(opened.journal.next_seq());
        for (first, block) in blocks {
            self.acked.insert(first, block);
        }
    }
}

fn run(seed: u64, steps: Vec<Step>, sealed: bool) {
    let envelope = envelope(sealed);
    let open = |disk: &SimDisk| open_with(disk, &envelope);
    let disk = SimDisk::new(seed);
    let mut model = Model::default();
    let mut opened = open(&disk);
    let mut salt = 0u8;
    for step in steps {
        salt = salt.wrapping_add(1);
        match step {
            Step::Commit { count, size } => {
                if let Ok((first, bytes)) = commit(&mut opened.journal, count, size, salt) {
                    assert!(first >= model.told, "number {first} was used before");
                    model.told = first + u64::from(count);
                    model.acked.insert(first, (count, bytes));
                }
            }
            Step::Deliver => {
                let next = opened.journal.shared().synced();
                if opened.journal.save_positions(&[(1, next)].into()).is_ok() {
                    model.delivered = next;
                    model.acked.clear();
                    let _ = opened.journal.free(0, u64::MAX, false);
                }
            }
            Step::Plan { after, effect } => disk.plan(Fault { after, effect }),
            Step::Reboot => disk.cut(),
        }
        if disk.is_off() {
            drop(opened);
            disk.reboot();
            opened = open(&disk);
            model.check(&opened);
        }
    }
    disk.free_space();
    // A failing call leaves a journal that works again as soon as the disk does.
    if !disk.is_off() {
        let (first, bytes) = commit(&mut opened.journal, 1, 100, 255).expect("the disk works and has room");
        model.acked.insert(first, (1, bytes));
        model.told = model.told.max(first + 1);
    }
    drop(opened);
    disk.cut();
    disk.reboot();
    model.check(&open(&disk));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn what_was_acknowledged_survives_power_cuts_and_failing_calls(seed in any::<u64>(), steps in prop::collection::vec(step(), 1..60), sealed: bool) {
        run(seed, steps, sealed);
    }
}

#[test]
fn every_single_call_may_be_the_last_one() {
    // The same short life, with the power cut at each of its calls in turn.
    for after in 1..140 {
        for effect in [Effect::PowerCut, Effect::Error, Effect::Short, Effect::NoSpace] {
            let commits = |count| (0..count).map(|index| Step::Commit { count: 1 + index % 3, size: 4000 });
            let steps = [Step::Plan { after, effect }]
                .into_iter()
                .chain(commits(20))
                .chain([Step::Deliver])
                .chain(commits(20))
                .chain([Step::Deliver])
                .chain(commits(10));
            run(u64::from(after) + 1, steps.collect(), after % 2 == 1);
        }
    }
}
