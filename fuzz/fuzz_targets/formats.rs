//! Any bytes in the formats of others: taken apart or refused, within bounds, and never a panic.
#![no_main]
use libfuzzer_sys::fuzz_target;
use steno_event::{
    Draft,
    formats::{
        cloudevents::{self, Data},
        kubernetes, otlp,
    },
    json::parse_repaired,
    parse_time,
};

fuzz_target!(|data: &[u8]| {
    let Some((which, rest)) = data.split_first() else { return };
    let text = std::str::from_utf8(rest).unwrap_or_default();
    match which % 6 {
        0 => drop(otlp::protobuf(rest)),
        1 => drop(otlp::json_request(text)),
        2 => {
            if let Ok((tree, converted)) = parse_repaired(text)
                && let Ok((event, _)) = cloudevents::structured(tree, converted)
            {
                drop(Draft::from_json(event));
            }
        }
        3 => {
            // Headers, a line each, then the body.
            let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
            let headers = head.lines().filter_map(|line| line.split_once(':')).map(|(name, value)| (name, value.as_bytes()));
            let data = cloudevents::body_data("application/json", body.as_bytes()).unwrap_or(Data::None);
            if let Ok((event, _)) = cloudevents::binary(headers, data) {
                drop(Draft::from_json(event));
            }
        }
        4 => {
            // Each item is one, or is told of alone.
            for item in kubernetes::items(text).into_iter().flatten() {
                drop(kubernetes::audit(item));
            }
        }
        _ => drop(parse_time(text)),
    }
});
