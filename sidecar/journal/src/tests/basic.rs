//! What is written is read, space is bounded and used again, and directories are not mixed up.
use super::*;
use crate::sim::{Effect, Fault};

#[test]
fn what_was_synced_is_read_in_order_over_segments_and_restarts() {
    let disk = SimDisk::new(1);
    let mut written = BTreeMap::new();
    for round in 0..4 {
        let mut opened = open(&disk);
        assert_eq!((opened.fresh, opened.damage.len()), (round == 0, 0));
        for index in 0..40 {
            let (first, bytes) = commit(&mut opened.journal, 1 + index % 3, 1000, round as u8).unwrap();
            written.insert(first, (1 + index % 3, bytes));
        }
        let (blocks, lost) = read(&opened.journal, 0);
        assert_eq!((blocks, lost), (written.clone(), Vec::new()));
    }
}

#[test]
fn readers_do_not_see_what_is_not_synced() {
    let disk = SimDisk::new(1);
    let mut journal = open(&disk).journal;
    commit(&mut journal, 1, 10, 0).unwrap();
    append(&mut journal, 1, 10, 0).unwrap();
    assert_eq!(read(&journal, 0).0.len(), 1);
    journal.sync().unwrap();
    assert_eq!(read(&journal, 0).0.len(), 2);
}

#[test]
fn the_bound_holds_and_delivered_space_is_used_again() {
    let disk = SimDisk::new(1);
    let mut journal = open(&disk).journal;
    let sink = sink_id("kafka");
    for round in 0u32..20 {
        let mut full = None;
        for _ in 0..2000 {
            if let Err(error) = commit(&mut journal, 1, 8000, 0) {
                full = Some(error);
                break;
            }
        }
        assert!(full.expect("the journal never got full").is_full());
        let size: usize = disk.files().iter().map(|(_, size)| size).sum();
        assert!(size as u64 <= options().max_bytes, "{size} bytes in round {round}");
        journal.save_positions(&[(sink, journal.next_seq())].into()).unwrap();
        while journal.free(0, u64::MAX, false).unwrap() > 0 {}
    }
    // What was delivered is not read again after a restart.
    let position = journal.next_seq();
    drop(journal);
    let opened = open(&disk);
    assert_eq!(opened.journal.positions().get(&sink), Some(&position));
}

#[test]
fn a_full_journal_still_takes_critical_and_control_blocks() {
    let disk = SimDisk::new(1);
    let mut journal = open(&disk).journal;
    while commit(&mut journal, 1, 30_000, 0).is_ok() {}
    assert!(!journal.has_room(Class::Normal, 30_000) && journal.has_room(Class::Critical, 30_000));
    let bytes = vec![7; 30_000];
    let take = |journal: &mut Journal, class| {
        let block = NewBlock { class, count: 1, ranges: Vec::new(), ends: false, wall_ms: 0, journal_ms: 0, payload: &[&bytes] };
        (0..).take_while(|_| journal.append(&block).and_then(|()| journal.sync()).is_ok()).count()
    };
    assert!(take(&mut journal, Class::Critical) >= 1);
    assert!(take(&mut journal, Class::Control) >= 1);
    assert!(commit(&mut journal, 1, 10, 0).is_err(), "an ordinary block got into the headroom");
}

#[test]
fn a_reader_keeps_its_segment_from_being_used_again() {
    let disk = SimDisk::new(1);
    let mut journal = open(&disk).journal;
    for _ in 0..30 {
        commit(&mut journal, 1, 8000, 3).unwrap();
    }
    let mut reader = Reader::new(journal.shared(), 0);
    assert!(matches!(reader.next().unwrap(), Next::Block(_)));
    journal.save_positions(&[(1, journal.next_seq())].into()).unwrap();
    assert_eq!(journal.free(0, u64::MAX, false).unwrap(), 0);
    reader.release();
    assert!(journal.free(0, u64::MAX, false).unwrap() > 0);
}

#[test]
fn retained_blocks_stay_until_they_are_old_or_space_is_short() {
    let disk = SimDisk::new(1);
    let mut journal = open(&disk).journal;
    journal.set_options(Options { retain_ms: 1000, ..options() });
    for _ in 0..30 {
        commit(&mut journal, 1, 8000, 3).unwrap();
    }
    journal.save_positions(&[(1, journal.next_seq())].into()).unwrap();
    assert_eq!(journal.free(1500, u64::MAX, false).unwrap(), 0, "young blocks were freed");
    assert_eq!(journal.free(1500, u64::MAX, true).unwrap(), 1, "space was short");
    assert!(journal.free(60_000, u64::MAX, false).unwrap() > 0, "old blocks were kept");
}

#[test]
fn retention_counts_from_when_a_segment_was_sealed_over_restarts_too() {
    let disk = SimDisk::new(1);
    let retained = Options { retain_ms: 1000, ..options() };
    let mut journal = open(&disk).journal;
    for _ in 0..30 {
        commit(&mut journal, 1, 8000, 3).unwrap();
    }
    journal.save_positions(&[(1, journal.next_seq())].into()).unwrap();
    drop(journal);
    let mut journal = Journal::open(Arc::new(disk.clone()), retained, Envelope::default()).unwrap().journal;
    // Records have times of 1000 and on, as many as there are numbers.
    assert_eq!(journal.free(1500, u64::MAX, false).unwrap(), 0, "young segments were freed after a restart");
    assert!(journal.free(60_000, u64::MAX, false).unwrap() > 0, "old segments were kept");
}

#[test]
fn the_journals_clock_does_not_go_back_in_a_segment_that_has_just_begun() {
    let disk = SimDisk::new(1);
    let mut journal = open(&disk).journal;
    for _ in 0..10 {
        commit(&mut journal, 1, 8000, 3).unwrap();
    }
    let last = journal.next_seq() - 1;
    journal.rotate(5000).unwrap();
    drop(journal);
    assert_eq!(open(&disk).journal_ms, last, "the test's clock is the sequence number");
}

#[test]
fn the_next_segment_has_the_size_that_counts_then_and_takes_blocks_of_that_size() {
    let disk = SimDisk::new(1);
    let mut journal = open(&disk).journal;
    commit(&mut journal, 1, 100, 0).unwrap();
    let large = 3 * SEGMENT as usize;
    assert!(matches!(commit(&mut journal, 1, large, 0), Err(Error::TooLarge { .. })));
    let raised = Options { max_bytes: 64 * SEGMENT, segment_bytes: 4 * SEGMENT, ..options() };
    journal.set_options(raised);
    assert!(journal.payload_room(0) > large as u64);
    commit(&mut journal, 1, large, 0).unwrap();
    drop(journal);
    let mut journal = Journal::open(Arc::new(disk.clone()), raised, Envelope::default()).unwrap().journal;
    commit(&mut journal, 1, large, 1).unwrap();
    assert_eq!(read(&journal, 0).0.len(), 3);
}

#[test]
fn chains_that_ended_are_not_in_the_next_segment_or_after_a_restart() {
    let disk = SimDisk::new(1);
    let mut journal = open(&disk).journal;
    commit(&mut journal, 2, 100, 1).unwrap();
    let range = ChainRange { id: "c".into(), epoch: 1, first: 2, last: 2, hash: [9; 32] };
    let block = NewBlock {
        class: Class::Control,
        count: 1,
        ranges: vec![range],
        ends: true,
        wall_ms: 0,
        journal_ms: 0,
        payload: &[b"end"],
    };
    journal.append(&block).and_then(|()| journal.sync()).unwrap();
    assert!(journal.heads().is_empty());
    drop(journal);
    let mut journal = open(&disk).journal;
    assert!(journal.heads().is_empty(), "it came back with a restart");
    journal.rotate(0).unwrap();
    drop(journal);
    assert!(open(&disk).journal.heads().is_empty(), "it came back with a segment");
}

#[test]
fn a_failed_sync_voids_its_block_only() {
    let disk = SimDisk::new(1);
    let mut journal = open(&disk).journal;
    let (kept, kept_bytes) = commit(&mut journal, 2, 600, 1).unwrap();
    disk.plan(Fault { after: 2, effect: Effect::Error });
    assert!(commit(&mut journal, 1, 600, 2).is_err());
    let (again, bytes) = commit(&mut journal, 1, 600, 3).unwrap();
    let (blocks, lost) = read(&journal, 0);
    assert_eq!(blocks, [(kept, (2, kept_bytes)), (again, (1, bytes))].into());
    assert!(lost.is_empty());
    drop(journal);
    assert_eq!(read(&open(&disk).journal, 0).0, blocks);
}

#[test]
fn a_newer_journal_is_refused_and_left_as_it_is() {
    let disk = SimDisk::new(1);
    drop(commit(&mut open(&disk).journal, 1, 10, 0).unwrap());
    let name = disk.files().iter().find(|(name, _)| name.starts_with("seg-")).unwrap().0.clone();
    let file = disk.open(&name, false).unwrap();
    let mut sector = [0; 512];
    file.read_at(&mut sector, 0).unwrap();
    sector[8..10].copy_from_slice(&9u16.to_le_bytes());
    let crc = crc32c::crc32c(&sector[..508]);
    sector[508..].copy_from_slice(&crc.to_le_bytes());
    file.write_at(&sector, 0).unwrap();
    file.sync().unwrap();
    let calls = disk.calls();
    let refused =
        Journal::open(Arc::new(disk.clone()), options(), Envelope::default()).err().expect("a newer journal was opened");
    assert!(matches!(refused, Error::Newer { found: 9, .. }), "{refused}");
    assert_eq!(disk.calls(), calls, "something was written");
}

#[test]
fn two_processes_do_not_share_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let first = RealDisk::open(dir.path()).unwrap();
    assert!(matches!(RealDisk::open(dir.path()), Err(Error::Locked(_))));
    drop(first);
    RealDisk::open(dir.path()).unwrap();
}

#[test]
fn a_real_directory_keeps_what_was_synced() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Journal::open(Arc::new(RealDisk::open(dir.path()).unwrap()), options(), Envelope::default()).unwrap();
    let mut journal = open().journal;
    let written: BTreeMap<_, _> =
        (0..50).map(|salt| commit(&mut journal, 1, 3000, salt).unwrap()).map(|(seq, bytes)| (seq, (1, bytes))).collect();
    drop(journal);
    assert_eq!(read(&open().journal, 0).0, written);
}

#[test]
fn what_lies_beside_the_segments_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let disk = crate::RealDisk::open(&dir.path().join("journal")).unwrap();
    assert_eq!(disk.aside(), 0);
    disk.quarantine("block", &[1; 300]).unwrap();
    std::fs::create_dir(dir.path().join("journal/dead")).unwrap();
    std::fs::write(dir.path().join("journal/dead/1.json"), [b'{'; 700]).unwrap();
    assert_eq!(disk.aside(), 1000);
}
