//! Compressed and encrypted: nothing in clear, no other key, and rotation without a loss.
use super::*;

fn keys(current: u8, old: &[u8]) -> Envelope {
    let key = |byte: u8| Key::read(&[byte; 32]).unwrap();
    Envelope { keys: Arc::new(Keys::new(Some(key(current)), old.iter().map(|byte| key(*byte)).collect())), compress: false }
}

fn refused(disk: &SimDisk, envelope: Envelope) -> Error {
    Journal::open(Arc::new(disk.clone()), options(), envelope).err().expect("a journal was opened without its key")
}

fn on_disk(disk: &SimDisk) -> BTreeMap<String, Vec<u8>> {
    let contents = |(name, size): (String, usize)| {
        let mut bytes = vec![0; size];
        disk.open(&name, false).unwrap().read_at(&mut bytes, 0).unwrap();
        (name, bytes)
    };
    disk.files().into_iter().map(contents).collect()
}

#[test]
fn nothing_of_a_record_and_no_key_for_ids_is_on_disk_in_clear() {
    let disk = SimDisk::new(3);
    let mut journal = open_with(&disk, &keys(1, &[])).journal;
    let (_, bytes) = commit(&mut journal, 3, 400, 0x5a).unwrap();
    let id_key = journal.id_key();
    journal.save_positions(&[(1, 0)].into()).unwrap();
    for (name, contents) in on_disk(&disk) {
        assert!(!contents.windows(16).any(|window| window == &bytes[400..416]), "a record in {name}");
        assert!(!contents.windows(16).any(|window| window == &id_key[..16]), "the key for ids in {name}");
    }
    assert_eq!(open_with(&disk, &keys(1, &[])).journal.id_key(), id_key, "ids are known again");
}

#[test]
fn another_key_or_none_is_refused_and_touches_nothing() {
    let disk = SimDisk::new(3);
    commit(&mut open_with(&disk, &keys(1, &[])).journal, 3, 400, 0x5a).unwrap();
    let before = on_disk(&disk);
    for envelope in [keys(2, &[]), Envelope::default()] {
        let error = refused(&disk, envelope);
        assert!(matches!(error, Error::NoKey { .. }), "{error}");
        assert!(error.to_string().contains("spool.encryption"), "{error}");
    }
    assert!(on_disk(&disk) == before, "something was touched");
}

#[test]
fn keys_rotate_by_new_segments_while_it_runs_and_at_start_and_an_old_one_is_needed_until_its_segments_are_gone() {
    let disk = SimDisk::new(3);
    let mut opened = open_with(&disk, &Envelope::default());
    let id_key_in_clear = opened.journal.id_key();
    let mut written = Blocks::new();
    let mut write = |journal: &mut Journal, salt| {
        let (first, bytes) = commit(journal, 2, 300, salt).unwrap();
        written.insert(first, (2, bytes));
    };
    write(&mut opened.journal, 1);
    opened.journal.set_envelope(keys(1, &[]));
    write(&mut opened.journal, 2);
    drop(opened);
    let mut opened = open_with(&disk, &keys(2, &[1]));
    // The key for ids was on the disk in clear: it is another one from the first start under encryption on.
    let id_key = opened.journal.id_key();
    assert!(opened.id_key_changed && id_key != id_key_in_clear);
    let state = on_disk(&disk).remove("state").unwrap();
    assert!(!state.windows(32).any(|window| window == id_key_in_clear), "a slot has the old key");
    write(&mut opened.journal, 3);
    opened.journal.set_envelope(Envelope { compress: true, ..keys(3, &[1, 2]) });
    write(&mut opened.journal, 4);
    assert_eq!(read(&opened.journal, 0), (written.clone(), Vec::new()));
    drop(opened);
    let mut opened = open_with(&disk, &keys(3, &[2, 1]));
    assert_eq!(read(&opened.journal, 0), (written.clone(), Vec::new()));
    assert_eq!(opened.journal.id_key(), id_key);
    // All is delivered: the old segments go, and with them the need for their keys.
    let next = opened.journal.shared().synced();
    opened.journal.save_positions(&[(1, next)].into()).unwrap();
    let _ = opened.journal.free(0, u64::MAX, false);
    drop(opened);
    assert_eq!(open_with(&disk, &keys(3, &[])).journal.id_key(), id_key);
}

#[test]
fn a_segments_header_is_read_from_its_second_copy() {
    let disk = SimDisk::new(3);
    let mut journal = open_with(&disk, &keys(1, &[])).journal;
    let (first, bytes) = commit(&mut journal, 3, 400, 0x5a).unwrap();
    drop(journal);
    let (name, _) = disk.files().into_iter().find(|(name, _)| name.starts_with("seg-")).unwrap();
    disk.flip(&name, 100, 1);
    let opened = open_with(&disk, &keys(1, &[]));
    assert_eq!(read(&opened.journal, 0), ([(first, (3, bytes))].into(), Vec::new()));
}

#[test]
fn what_was_changed_on_disk_is_not_believed_even_where_the_checksum_was_mended() {
    let disk = SimDisk::new(3);
    let mut journal = open_with(&disk, &keys(1, &[])).journal;
    commit(&mut journal, 3, 400, 0x5a).unwrap();
    let (uuid, shared) = (journal.uuid(), journal.shared());
    let (name, size) = disk.files().into_iter().find(|(name, _)| name.starts_with("seg-")).unwrap();
    let file = disk.open(&name, false).unwrap();
    let mut bytes = vec![0; size];
    file.read_at(&mut bytes, 0).unwrap();
    // The second block holds the records. Another byte in its payload, and both checksums made right again.
    let at = (8192..size).step_by(8).filter(|at| bytes[*at..].starts_with(b"SBLK")).nth(1).unwrap();
    let seed = crate::format::seed(&uuid, 1);
    let mut header = BlockHeader::decode(seed, &bytes[at..]).unwrap();
    let start = at + header.header_len as usize;
    let end = start + header.payload_len as usize;
    bytes[start + 50] ^= 1;
    header.payload_crc = crc32c::crc32c_append(seed, &bytes[start..end]);
    let mut forged = Vec::new();
    header.encode_block(seed, &[&bytes[start..end]], &mut forged);
    file.write_at(&forged, at as u64).unwrap();
    drop(journal);
    let mut reader = Reader::new(shared, 0);
    assert!(matches!(reader.next().unwrap(), Next::Lost(_)));
}

#[test]
fn compression_makes_what_repeats_smaller_and_leaves_what_does_not_as_it_is() {
    let sizes = |compress: bool| {
        let disk = SimDisk::new(3);
        let mut journal = open_with(&disk, &Envelope { compress, ..Envelope::default() }).journal;
        let (_, bytes) = commit(&mut journal, 4, 4000, 1).unwrap();
        assert_eq!(read(&journal, 0).0.values().next().unwrap().1, bytes);
        let (name, _) = disk.files().into_iter().find(|(name, _)| name.starts_with("seg-")).unwrap();
        disk.end_of(&name)
    };
    assert!(sizes(true) + 12_000 < sizes(false));
}

#[test]
fn a_repair_is_planned_without_touching_anything_and_mends_what_it_said() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Journal::open(Arc::new(RealDisk::open(dir.path()).unwrap()), options(), keys(1, &[])).unwrap();
    let mut journal = open().journal;
    let (first, bytes) = commit(&mut journal, 3, 400, 0x5a).unwrap();
    let name = journal.segments()[0].name.clone();
    drop(journal);
    let path = dir.path().join(&name);
    let mut contents = std::fs::read(&path).unwrap();
    contents[100] ^= 1;
    std::fs::write(&path, &contents).unwrap();
    let plan = || {
        let mut plan = repair::plan(&ReadOnly::new(dir.path())).unwrap();
        // The reserve is no fault.
        plan.retain(|step| !matches!(step, repair::Step::RemoveSpare(..)));
        plan
    };
    let shown = plan();
    assert_eq!(shown, [repair::Step::FirstHeader(name)]);
    assert!(shown[0].apply(&ReadOnly::new(dir.path())).is_err(), "who only looks changes nothing");
    assert_eq!(std::fs::read(&path).unwrap(), contents);
    shown[0].apply(&RealDisk::open(dir.path()).unwrap()).unwrap();
    contents[100] ^= 1;
    assert_eq!(std::fs::read(&path).unwrap(), contents);
    assert!(plan().is_empty());
    assert_eq!(read(&open().journal, 0), ([(first, (3, bytes))].into(), Vec::new()));
}
