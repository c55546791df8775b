//! What a search finds is what is there: over finished and unfinished pieces, pages, restarts, lost and damaged indexes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use steno_commit::{Answer, CommitConfig, Committer, Critical, Item, Metrics, Observer, Started, SystemClock, WhenFull, Work};
use steno_event::{Draft, Filled, IdKey, encode, identity, json};
use steno_journal::{Envelope, Options, RealDisk, sink_id};
use steno_query::{Catalog, Question};

struct Nobody;
impl Observer for Nobody {
    fn synced(&mut self, _: u64, _: Vec<Critical>) {}
}

/// What one event is: tenant, actor, action, severity, hour.
type Said = (u8, u8, u8, u8, u8);

struct Rig {
    dir: tempfile::TempDir,
    loop_: Committer,
    started: Started,
}

/// A configuration that keeps so many delivered bytes.
fn config(retained: u64) -> CommitConfig {
    CommitConfig {
        note: steno_chain::NoteContext { tenant: "t".into(), service: "s".into(), writer: "{}".into() },
        pod_uid: "pod-1".into(),
        chains: true,
        by_tenant: false,
        max_chains: 4,
        window_ms: 60_000,
        max_entries: 1024,
        when_full: WhenFull::Reject,
        answer_written: false,
        journal: Options {
            max_bytes: 64 << 20,
            segment_bytes: 256 << 10,
            control_segments: 1,
            retain_ms: if retained > 0 { u64::MAX } else { 0 },
            retain_bytes: retained,
            recycle: true,
        },
        envelope: Envelope::default(),
        sinks: vec!["kafka".into()],
        reserve: steno_commit::Reserve::default(),
    }
}

impl Rig {
    fn new() -> Self {
        Self::over(tempfile::tempdir().unwrap())
    }

    fn over(dir: tempfile::TempDir) -> Self {
        let until = Instant::now() + Duration::from_secs(10);
        // The journal before may still be letting go of it, in a thread that writes its ids.
        let disk = loop {
            match RealDisk::open(dir.path()) {
                Err(error) if Instant::now() > until => panic!("{error}"),
                Err(_) => std::thread::yield_now(),
                Ok(disk) => break Arc::new(disk),
            }
        };
        let (loop_, started) = Committer::open(
            disk,
            Arc::new(config(32 << 20)),
            Box::new(SystemClock::default()),
            Box::new(Nobody),
            Metrics::default(),
        )
        .unwrap();
        Self { dir, loop_, started }
    }

    fn again(self) -> Self {
        let Self { dir, loop_, started } = self;
        drop((loop_, started));
        Self::over(dir)
    }

    fn catalog(&self) -> Catalog {
        Catalog::open(self.started.shared.clone(), IdKey(self.started.id_key), self.started.uuid, self.dir.path(), 50).unwrap()
    }

    /// Commits events in blocks of `together`; ids are `e-<number>`.
    fn commit(&mut self, from: usize, all: &[Said], together: usize) {
        let key = IdKey(self.started.id_key);
        for (piece, chunk) in all.chunks(together).enumerate() {
            let item = |(index, said): (usize, &Said)| {
                let id = format!("e-{}", from + piece * together + index);
                let text = text(&id, *said);
                let mut draft = Draft::from_json(json::parse(&text).unwrap()).unwrap();
                draft.members.insert("kind", json::Json::text("Event"));
                Item {
                    identity: identity(&key, &format!("t{}", said.0), &id),
                    print: [0; 16],
                    rules: 1,
                    filled: Filled(0),
                    halves: encode(&draft.members),
                    tenant: None,
                    critical: false,
                    ends: false,
                    frees: false,
                    may_reuse: false,
                    received_ms: 0,
                }
            };
            let items: Vec<Item> = chunk.iter().enumerate().map(item).collect();
            let (work, mut answered) = Work::items(items);
            self.loop_.turn(&mut vec![work]);
            let answers = answered.try_recv().unwrap().answers;
            assert!(answers.iter().all(|answer| matches!(answer, Answer::Created(_))));
        }
    }
}

fn text(id: &str, (tenant, actor, action, severity, hour): Said) -> String {
    let severity = ["info", "warning", "critical"][usize::from(severity % 3)];
    format!(
        r#"{{"action":"a{action}","actor":{{"id":"u{actor}"}},"eventId":"{id}","occurredAt":"2026-03-01T{:02}:00:00Z","severity":"{severity}","tenantId":"t{tenant}"}}"#,
        hour % 24
    )
}

fn ids(catalog: &Catalog, parameters: &[(&str, String)]) -> Vec<String> {
    let mut found = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let all =
            parameters.iter().map(|(name, value)| (*name, value.as_str())).chain(cursor.iter().map(|at| ("cursor", at.as_str())));
        let page = catalog.search(&Question::new(all).unwrap()).unwrap();
        for record in &page.records {
            let json::Json::Object(record) = json::parse(&record.json).unwrap() else { panic!() };
            found.push(record.get("eventId").unwrap().as_str().unwrap().to_owned());
        }
        match page.next {
            Some(next) => cursor = Some(next),
            None => return found,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_search_finds_exactly_what_fits_in_order_whatever_the_pages(
        all in prop::collection::vec((0u8..2, 0u8..4, 0u8..3, 0u8..3, 0u8..24), 0..220),
        together in 1usize..30,
        asked in (prop::option::of(0u8..3), prop::option::of(0u8..5), prop::option::of((0u8..4, 0u8..4)), prop::option::of(0u8..3)),
        hours in prop::option::of((0u8..24, 0u8..24)),
        limit in 1usize..40,
        newest: bool,
        restart: bool,
    ) {
        let mut rig = Rig::new();
        let half = all.len() / 2;
        rig.commit(0, &all[..half], together);
        drop(rig.catalog().search(&Question::new([]).unwrap()).unwrap());
        if restart {
            rig = rig.again();
        }
        let catalog = rig.catalog();
        drop(catalog.search(&Question::new([]).unwrap()).unwrap());
        rig.commit(half, &all[half..], together);
        let (tenant, actor, actions, severity) = asked;
        let mut parameters = vec![("limit", limit.to_string()), ("order", if newest { "newest" } else { "oldest" }.to_owned())];
        parameters.extend(tenant.map(|tenant| ("tenantId", format!("t{tenant}"))));
        parameters.extend(actor.map(|actor| ("actor.id", format!("u{actor}"))));
        parameters.extend(actions.iter().flat_map(|(one, other)| [("action", format!("a{one}")), ("action", format!("a{other}"))]));
        parameters.extend(severity.map(|severity| ("severity", ["info", "warning", "critical"][usize::from(severity)].to_owned())));
        if let Some((from, to)) = hours {
            parameters.push(("from", format!("2026-03-01T{from:02}:00:00Z")));
            parameters.push(("to", format!("2026-03-01T{to:02}:00:00Z")));
        }
        let fits = |said: &Said| {
            tenant.is_none_or(|tenant| said.0 == tenant)
                && actor.is_none_or(|actor| said.1 == actor)
                && actions.is_none_or(|(one, other)| said.2 == one || said.2 == other)
                && severity.is_none_or(|severity| said.3 % 3 == severity)
                && hours.is_none_or(|(from, to)| (from..to).contains(&(said.4 % 24)))
        };
        let mut expected: Vec<String> =
            all.iter().enumerate().filter(|(_, said)| fits(said)).map(|(index, _)| format!("e-{index}")).collect();
        if newest {
            expected.reverse();
        }
        prop_assert_eq!(ids(&catalog, &parameters), expected);
    }
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir.join("query")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn an_index_that_is_lost_or_damaged_is_made_again() {
    let mut rig = Rig::new();
    let all: Vec<Said> = (0..500).map(|number| (0, (number % 4) as u8, 0, 0, 0)).collect();
    rig.commit(0, &all, 7);
    let question = [("actor.id", "u1".to_owned())];
    let expected = ids(&rig.catalog(), &question);
    assert_eq!(expected.len(), 125);
    let pieces = files(rig.dir.path());
    assert!(pieces.len() >= 8, "{pieces:?}");
    // One is gone, one is cut off, one is of something else.
    std::fs::remove_file(&pieces[2]).unwrap();
    std::fs::OpenOptions::new().write(true).open(&pieces[4]).unwrap().set_len(700).unwrap();
    std::fs::write(&pieces[6], b"not an index").unwrap();
    let rig = rig.again();
    assert_eq!(ids(&rig.catalog(), &question), expected);
    // A flipped bit in a column is not believed: the piece is made again.
    let piece = &files(rig.dir.path())[1];
    let mut bytes = std::fs::read(piece).unwrap();
    bytes[600 + 4 * 55] ^= 1;
    std::fs::write(piece, bytes).unwrap();
    let catalog = rig.catalog();
    assert_eq!(ids(&catalog, &question), expected);
}

#[test]
fn an_event_is_found_by_its_tenant_and_id_and_by_no_other() {
    let mut rig = Rig::new();
    rig.commit(0, &(0..200).map(|number| ((number % 2) as u8, 0, 0, 0, 0)).collect::<Vec<_>>(), 9);
    let catalog = rig.catalog();
    assert!(catalog.event("t1", "e-7").unwrap().unwrap().json.contains(r#""eventId":"e-7""#));
    assert!(catalog.event("t0", "e-7").unwrap().is_none() && catalog.event("t1", "e-9999").unwrap().is_none());
}

#[test]
fn a_cursor_is_good_for_its_own_question_only_and_is_not_moved_by_what_comes_later() {
    let mut rig = Rig::new();
    rig.commit(0, &[(0, 0, 0, 0, 0); 10], 3);
    let catalog = rig.catalog();
    let first = catalog.search(&Question::new([("limit", "4")]).unwrap()).unwrap();
    let cursor = first.next.unwrap();
    rig.commit(10, &[(0, 0, 0, 0, 0); 10], 3);
    let second = catalog.search(&Question::new([("limit", "4"), ("cursor", &cursor)]).unwrap()).unwrap();
    let seqs: Vec<u64> = first.records.iter().chain(&second.records).map(|record| record.seq).collect();
    assert!(seqs.windows(2).all(|pair| pair[0] == pair[1] + 1), "{seqs:?}");
    assert!(Question::new([("action", "a"), ("cursor", &cursor)]).is_err());
    for bad in [("limit", "0"), ("limit", "1001"), ("from", "yesterday"), ("order", "up"), ("colour", "red"), ("cursor", "x")] {
        assert_eq!(Question::new([bad]).unwrap_err().field, bad.0);
    }
}

#[test]
fn what_the_journal_lets_go_of_goes_from_the_index_too() {
    let mut rig = Rig::new();
    let all = [(0, 0, 0, 0, 0); 2000];
    rig.commit(0, &all, 20);
    let catalog = rig.catalog();
    catalog.catch_up().unwrap();
    let before = files(rig.dir.path()).len();
    let next = rig.started.shared.synced();
    let options = config(0);
    let note = steno_chain::Note::new(steno_chain::Kind::Config, "x");
    rig.loop_.turn(&mut vec![Work::Reload(Arc::new(options), note), Work::Positions([(sink_id("kafka"), next)].into())]);
    rig.commit(2000, &all, 20);
    rig.loop_.turn(&mut vec![Work::Positions([(sink_id("kafka"), next)].into())]);
    catalog.catch_up().unwrap();
    assert!(rig.started.shared.oldest() > 0, "the journal let go of something");
    let found = ids(&catalog, &[("limit", "1000".into())]);
    assert!(found.len() < 4000 && found.first().is_some_and(|id| id == "e-3999"), "{}", found.len());
    assert!(files(rig.dir.path()).len() < before * 2);
}
