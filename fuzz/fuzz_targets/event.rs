//! Any text as an event: it is refused with a field, or becomes a record that is JSON, canonical, and has what every record has.
#![no_main]
use libfuzzer_sys::fuzz_target;
use steno_event::{
    Draft, Fill, IdKey, Received, encode, fingerprint,
    json::{canonical, parse},
};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(json) = parse(text) else { return };
    let fill = Fill {
        tenant: "t".into(),
        tenant_enforced: false,
        service: "s".into(),
        category: "c".into(),
        outcome: "unknown".into(),
        severity: "info",
        require: Vec::new(),
        writer: "{}".into(),
    };
    let mut draft = match Draft::from_json(json) {
        Ok(draft) => draft,
        Err(invalid) => {
            assert!(!invalid.problem.is_empty());
            return;
        }
    };
    let mut scratch = Vec::new();
    let print = fingerprint(&IdKey([7; 32]), &draft.members, &mut scratch);
    draft.supply_id("id");
    draft.complete(&fill, &Received::at(1_767_225_600_000));
    assert_ne!(print, [0; 16]);
    let halves = encode(&draft.members);
    let record = std::str::from_utf8(&halves.bytes).expect("a record is UTF-8");
    let read = parse(record).expect("a record is JSON");
    assert_eq!(record, canonical(&read), "a record is canonical");
    for name in ["action", "eventId", "tenantId", "receivedAt", "kind", "severity"] {
        assert!(read.as_object().is_some_and(|record| record.contains(name)), "{name} is missing: {record}");
    }
    assert!(halves.split > 0 && halves.split < halves.bytes.len());
});
