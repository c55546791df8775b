//! Any text as a policy: faults that name a field, or a configuration that reads back as itself.
#![no_main]
use libfuzzer_sys::fuzz_target;
use steno_crds::parse;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match parse(text) {
        Err(faults) => assert!(!faults.is_empty() && faults.iter().all(|fault| !fault.path.is_empty())),
        Ok(parsed) => {
            let written = serde_json::to_string(&parsed.config).expect("a configuration can be written");
            let again = parse(&written).expect("what was rendered is valid");
            assert_eq!(parsed.config, again.config);
        }
    }
});
