//! Bits flip anywhere: the journal opens, the rest is there, and what is gone has a name.
use proptest::prelude::*;

use super::*;

/// A journal over several segments, and what was written.
fn written(disk: &SimDisk) -> BTreeMap<u64, (u32, Vec<u8>)> {
    written_with(disk, false)
}

fn written_with(disk: &SimDisk, sealed: bool) -> BTreeMap<u64, (u32, Vec<u8>)> {
    let mut journal = open_with(disk, &envelope(sealed)).journal;
    let blocks = (0..60).map(|index| (index % 4 + 1, commit(&mut journal, index % 4 + 1, 700, index as u8).unwrap()));
    blocks.map(|(count, (first, bytes))| (first, (count, bytes))).collect()
}

fn check(disk: &SimDisk, written: &BTreeMap<u64, (u32, Vec<u8>)>, sealed: bool) {
    let opened = open_with(disk, &envelope(sealed));
    let (blocks, lost) = read(&opened.journal, 0);
    let named = |seq: u64| {
        let within = |damage: &Damage| (damage.first_seq..damage.next_seq).contains(&seq);
        lost.iter().any(within) || opened.damage.iter().any(within)
    };
    for (first, (count, bytes)) in written {
        match blocks.get(first) {
            Some(found) => assert_eq!(found, &(*count, bytes.clone()), "block {first} is not what was written"),
            None => assert!(
                (*first..first + u64::from(*count)).all(named),
                "block {first} is gone without a name: {lost:?} {:?}",
                opened.damage
            ),
        }
    }
    let top = written.last_key_value().map_or(0, |(first, (count, _))| first + u64::from(*count));
    assert!(opened.journal.next_seq() >= top || opened.fresh, "a number would be used twice");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn one_flipped_bit_loses_at_most_what_is_named(pick in any::<prop::sample::Index>(), byte in any::<prop::sample::Index>(), bit in 0u8..8, sealed: bool) {
        let disk = SimDisk::new(7);
        let written = written_with(&disk, sealed);
        let files: Vec<_> = disk.files().into_iter().filter(|(name, size)| *size > 0 && (name.starts_with("seg-") || name == "state")).collect();
        let (name, _) = files[pick.index(files.len())].clone();
        disk.flip(&name, byte.index(disk.end_of(&name)), bit);
        check(&disk, &written, sealed);
    }

    #[test]
    fn flips_in_segment_headers_and_state_lose_at_most_what_is_named(pick in any::<prop::sample::Index>(), byte in 0usize..520, bit in 0u8..8, sealed: bool) {
        let disk = SimDisk::new(7);
        let written = written_with(&disk, sealed);
        let files: Vec<_> = disk.files().into_iter().filter(|(name, size)| *size > 0 && (name.starts_with("seg-") || name == "state")).collect();
        disk.flip(&files[pick.index(files.len())].0, byte, bit);
        check(&disk, &written, sealed);
    }

    #[test]
    fn flips_in_headers_lose_at_most_what_is_named(block in any::<prop::sample::Index>(), byte in 0usize..160, bit in 0u8..8, sealed: bool) {
        let disk = SimDisk::new(7);
        let written = written_with(&disk, sealed);
        // Header of a block in the newest segment, where recovery looks: find it by its magic.
        let (name, size) = disk.files().into_iter().rfind(|(name, _)| name.starts_with("seg-")).unwrap();
        let file = disk.open(&name, false).unwrap();
        let mut bytes = vec![0; size];
        file.read_at(&mut bytes, 0).unwrap();
        let blocks: Vec<usize> = (8192..size).step_by(8).filter(|at| bytes[*at..].starts_with(b"SBLK")).collect();
        disk.flip(&name, blocks[block.index(blocks.len())] + byte, bit);
        check(&disk, &written, sealed);
    }
}

#[test]
fn a_lost_block_is_named_in_its_chains_numbers() {
    let disk = SimDisk::new(7);
    let written = written(&disk);
    let name = crate::segment::segment_name(1);
    let target = *written.keys().nth(3).unwrap();
    // Somewhere in the payload of the fourth block of the first segment.
    let before: usize = written.iter().take(3).map(|(_, (_, bytes))| bytes.len() + 150).sum();
    disk.flip(&name, 8192 + 80 + before + 400, 3);
    let (_, lost) = read(&open(&disk).journal, 0);
    let [damage] = lost.as_slice() else { panic!("{lost:?}") };
    assert_eq!(damage.first_seq, target);
    assert_eq!((damage.ranges[0].first, damage.ranges[0].last), (damage.first_seq, damage.next_seq - 1));
}

#[test]
fn a_damaged_tail_is_named_and_its_numbers_are_not_used_again() {
    let disk = SimDisk::new(7);
    let written = written(&disk);
    let (name, _) = disk.files().into_iter().rfind(|(name, _)| name.starts_with("seg-")).unwrap();
    disk.flip(&name, disk.end_of(&name) - 20, 1);
    let mut opened = open(&disk);
    let [damage] = opened.damage.as_slice() else { panic!("{:?}", opened.damage) };
    let last = *written.last_key_value().unwrap().0;
    assert_eq!((damage.first_seq, damage.extent), (last, Extent::AtMost));
    let (first, _) = commit(&mut opened.journal, 1, 10, 9).unwrap();
    assert!(first >= damage.next_seq);
    let seen = read(&opened.journal, 0);
    assert!(seen.0.contains_key(&first) && seen.0.len() == written.len());
}

#[test]
fn a_lost_segment_is_one_loss_and_not_one_a_block() {
    for sealed in [false, true] {
        let disk = SimDisk::new(7);
        let mut journal = open_with(&disk, &envelope(sealed)).journal;
        for round in 0..3 {
            (0..10).for_each(|salt| drop(commit(&mut journal, 2, 700, salt).unwrap()));
            journal.rotate(round).unwrap();
        }
        drop(journal);
        let name = crate::segment::segment_name(2);
        let mut bytes = disk.contents(&name).unwrap();
        // Both headers, so that the salt of an encrypted segment is gone.
        bytes[..8192].fill(0);
        disk.put(&name, bytes);
        let (_, lost) = read(&open_with(&disk, &envelope(sealed)).journal, 0);
        assert_eq!(lost.len(), usize::from(sealed), "{lost:?}");
    }
}

#[test]
fn one_unreadable_page_costs_one_copy_of_a_header_and_no_record() {
    for page in [0, 4096] {
        let disk = SimDisk::new(7);
        let written = written_with(&disk, true);
        disk.spoil(&crate::segment::segment_name(1), page);
        disk.spoil("state", page);
        let opened = open_with(&disk, &envelope(true));
        assert_eq!(read(&opened.journal, 0), (written, Vec::new()));
    }
}

#[test]
fn an_unreadable_page_of_an_older_segment_does_not_stop_a_reader() {
    let disk = SimDisk::new(7);
    let written = written(&disk);
    disk.spoil(&crate::segment::segment_name(1), 20_000);
    let opened = open(&disk);
    let (blocks, lost) = read(&opened.journal, 0);
    assert_eq!(lost.len(), 1);
    assert!(blocks.len() < written.len() && blocks.contains_key(written.last_key_value().unwrap().0));
}

#[test]
fn a_lost_genesis_is_in_the_range_that_names_it() {
    let disk = SimDisk::new(7);
    written(&disk);
    // The first block behind the snapshot of the first segment.
    disk.flip(&crate::segment::segment_name(1), 8192 + 72 + 160, 1);
    let (_, lost) = read(&open(&disk).journal, 0);
    assert_eq!((lost[0].ranges[0].first, lost[0].ranges[0].last), (0, 0), "{lost:?}");
}
