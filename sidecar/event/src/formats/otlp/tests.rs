use super::*;
use crate::{Draft, json::canonical};

const REQUEST: &str = r#"{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"shop"}},{"key":"host.name","value":{"stringValue":"h"}}]},
  "scopeLogs":[{"scope":{"name":"audit","version":"1"},"logRecords":[{"timeUnixNano":"1772359200123456789","observedTimeUnixNano":"1772359200200000000","severityNumber":13,"severityText":"WARN",
  "eventName":"order.deleted","traceId":"0af7651916cd43dd8448eb211c80319c","spanId":"b7ad6b7169203331","body":{"stringValue":"gone"},"unknownField":7,
  "attributes":[{"key":"user.id","value":{"stringValue":"u1"}},{"key":"resource.id","value":{"intValue":"42"}},{"key":"outcome","value":{"stringValue":"success"}},
  {"key":"big","value":{"intValue":"9007199254740993"}},{"key":"tags","value":{"arrayValue":{"values":[{"boolValue":true},{"doubleValue":0.5},{}]}}},
  {"key":"more","value":{"kvlistValue":{"values":[{"key":"k","value":{"bytesValue":"AQ=="}}]}}}]}]}]}]}"#;

const EXPECTED: &str = r#"{"action":"order.deleted","actor":{"id":"u1"},"message":"gone","metadata":{"big":"9007199254740993","convertedToText":["big"],"more":{"k":"AQ=="},"resource":{"host.name":"h"},"scope":{"name":"audit","version":"1"},"tags":[true,0.5,null]},"occurredAt":"2026-03-01T10:00:00.123456789Z","outcome":"success","resource":{"id":"42"},"service":"shop","severity":"warning","spanId":"b7ad6b7169203331","traceId":"0af7651916cd43dd8448eb211c80319c"}"#;

fn event(log: Log<'_>) -> String {
    canonical(&Json::Object(Draft::from_json(log.event).unwrap().members))
}

fn key_value(key: &str, value: proto::any_value::Value) -> proto::KeyValue {
    proto::KeyValue { key: key.into(), value: Some(proto::AnyValue { value: Some(value) }) }
}

/// The same request as [`REQUEST`], in protobuf.
fn request() -> proto::ExportLogsServiceRequest {
    use proto::any_value::Value::{Array, Bool, Bytes, Double, Int, Kvlist, Text};
    let any = |value| proto::AnyValue { value: Some(value) };
    let record = proto::LogRecord {
        time_unix_nano: 1_772_359_200_123_456_789,
        observed_time_unix_nano: 1_772_359_200_200_000_000,
        severity_number: 13,
        severity_text: "WARN".into(),
        body: Some(any(Text("gone".into()))),
        attributes: vec![
            key_value("user.id", Text("u1".into())),
            key_value("resource.id", Int(42)),
            key_value("outcome", Text("success".into())),
            key_value("big", Int(9_007_199_254_740_993)),
            key_value(
                "tags",
                Array(proto::ArrayValue { values: vec![any(Bool(true)), any(Double(0.5)), proto::AnyValue { value: None }] }),
            ),
            key_value("more", Kvlist(proto::KeyValueList { values: vec![key_value("k", Bytes(vec![1]))] })),
        ],
        trace_id: (0..16)
            .map(|at| u8::from_str_radix(&"0af7651916cd43dd8448eb211c80319c"[at * 2..at * 2 + 2], 16).unwrap())
            .collect(),
        span_id: vec![0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31],
        event_name: "order.deleted".into(),
    };
    let scope = proto::Scope { name: "audit".into(), version: "1".into(), attributes: Vec::new() };
    let resource = proto::Resource {
        attributes: vec![key_value("service.name", Text("shop".into())), key_value("host.name", Text("h".into()))],
    };
    proto::ExportLogsServiceRequest {
        resource_logs: vec![proto::ResourceLogs {
            resource: Some(resource.encode_to_vec()),
            scope_logs: vec![proto::ScopeLogs { scope: Some(scope.encode_to_vec()), log_records: vec![record.encode_to_vec()] }],
        }],
    }
}

#[test]
fn both_encodings_of_a_record_come_to_the_same_event_and_the_same_content() {
    let from_json = json_request(REQUEST).unwrap().remove(0).unwrap();
    let from_protobuf = protobuf(&request().encode_to_vec()).unwrap().remove(0).unwrap();
    assert_eq!(from_json.content, from_protobuf.content);
    assert_eq!(event(from_json), EXPECTED);
    assert_eq!(event(from_protobuf), EXPECTED);
}

#[test]
fn records_that_differ_in_anything_differ_in_content() {
    let of = |text: &str| json_request(text).unwrap().remove(0).unwrap().content;
    for (from, to) in
        [("h\"}", "i\"}"), ("\"audit\"", "\"aud\""), ("456789\"", "456788\""), ("gone", "gon"), ("u1", "u2"), ("3331", "3332")]
    {
        assert_ne!(of(REQUEST), of(&REQUEST.replace(from, to)), "{from}");
    }
}

#[test]
fn a_structured_body_says_the_events_members() {
    let body = r#"{"kvlistValue":{"values":[{"key":"action","value":{"stringValue":"a.b"}},{"key":"actor","value":{"kvlistValue":{"values":[{"key":"id","value":{"stringValue":"u"}}]}}},{"key":"colour","value":{"stringValue":"red"}}]}}"#;
    let text = format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{"body":{body}}}]}}]}}]}}"#);
    assert_eq!(
        event(json_request(&text).unwrap().remove(0).unwrap()),
        r#"{"action":"a.b","actor":{"id":"u"},"metadata":{"colour":"red"}}"#
    );
}

#[test]
fn what_is_no_request_is_told_why() {
    assert!(protobuf(b"\xff\xff").is_err());
    for text in ["[]", "{", r#"{"resourceLogs":7}"#, r#"{"records":[]}"#] {
        assert!(json_request(text).is_err(), "{text}");
    }
    assert!(protobuf(b"").unwrap().is_empty() && json_request("{}").unwrap().is_empty());
}

#[test]
fn one_record_spoils_no_other() {
    use proto::any_value::Value::{Array, Text};
    let mut deep = Text(b"x".to_vec());
    for _ in 0..60 {
        deep = Array(proto::ArrayValue { values: vec![proto::AnyValue { value: Some(deep) }] });
    }
    let record =
        |attributes| proto::LogRecord { event_name: "a".into(), attributes, ..proto::LogRecord::default() }.encode_to_vec();
    let records = vec![
        record(Vec::new()),
        record(vec![key_value("a", Text(b"a\xffb".to_vec()))]),
        record(vec![key_value("deep", deep)]),
        b"\xff\xff".to_vec(),
    ];
    let scope_logs = vec![proto::ScopeLogs { scope: None, log_records: records }];
    let request = proto::ExportLogsServiceRequest {
        resource_logs: vec![proto::ResourceLogs { resource: Some(b"\xff".to_vec()), scope_logs }],
    };
    let logs = protobuf(&request.encode_to_vec()).unwrap();
    let taken: Vec<bool> = logs.iter().map(Result::is_ok).collect();
    assert_eq!(taken, [true, true, false, false]);
    let marked = event(logs.into_iter().nth(1).unwrap().unwrap());
    assert!(marked.contains("a\u{fffd}b") && marked.contains(r#""convertedToText":["a"]"#), "{marked}");
    let record =
        |text: &str| format!(r#"{{"resource_logs":[{{"scope_logs":[{{"log_records":[{{"event_name":"a"}},{text}]}}]}}]}}"#);
    for (text, is_taken) in [
        (r#"{"timeUnixNano":"99999999999999999999999"}"#, true),
        (r#"{"timeUnixNano":-5}"#, true),
        (r#"{"severityNumber":"SEVERITY_NUMBER_WARN2"}"#, true),
        (r#"{"severityNumber":{}}"#, false),
        ("7", false),
        (r#"{"body":{"string_value":"x"}}"#, true),
    ] {
        let text = record(text);
        let logs = json_request(&text).unwrap();
        assert_eq!((logs.len(), logs[0].is_ok(), logs[1].is_ok()), (2, true, is_taken), "{text}");
    }
    let text = record(r#"{"eventName":"b","timeUnixNano":-5,"severityNumber":"SEVERITY_NUMBER_WARN2"}"#);
    let kept = event(json_request(&text).unwrap().remove(1).unwrap());
    assert!(kept.contains(r#""convertedToText":["timeUnixNano"]"#) && kept.contains("-5") && kept.contains("warning"), "{kept}");
}

#[test]
fn answers_are_what_the_protocol_says() {
    assert_eq!(answer_json(0, ""), b"{}");
    assert_eq!(
        answer_json(2, "no \"action\""),
        br#"{"partialSuccess":{"rejectedLogRecords":"2","errorMessage":"no \"action\""}}"#
    );
    assert_eq!(answer_protobuf(0, ""), b"");
    // partial_success (1): rejected_log_records (1) = 2, error_message (2) = "no".
    assert_eq!(answer_protobuf(2, "no"), [0x0a, 6, 0x08, 2, 0x12, 2, b'n', b'o']);
    assert_eq!(status_json(8, "later"), br#"{"code":8,"message":"later"}"#);
    assert_eq!(status_protobuf(8, "later"), [0x08, 8, 0x12, 5, b'l', b'a', b't', b'e', b'r']);
}

#[test]
fn a_name_that_stands_again_and_again_is_kept_each_time() {
    let pair = |name: &'static str, number: f64| (Cow::Borrowed(name), Json::Number(number));
    let object = from_pairs(vec![pair("a", 1.0), pair("a~2", 2.0), pair("a", 3.0), pair("b", 4.0), pair("a", 5.0)]);
    assert_eq!(canonical(&object), r#"{"a":1,"a~2":2,"a~3":3,"a~4":5,"b":4}"#);
}

#[test]
fn a_small_request_cannot_become_a_large_one() {
    let attribute =
        |name: &str, length: usize| format!(r#"{{"key":"{name}","value":{{"stringValue":"{}"}}}}"#, "x".repeat(length));
    let request = |common: String, records: String| {
        format!(r#"{{"resourceLogs":[{{"resource":{{"attributes":[{common}]}},"scopeLogs":[{{"logRecords":[{records}]}}]}}]}}"#)
    };
    let empty = |count: usize| vec!["{}"; count].join(",");
    assert!(json_request(&request(attribute("a", 100_000), empty(1000))).unwrap_err().contains("too large"));
    assert!(json_request(&request(attribute("a", 1), empty(MOST_RECORDS + 1))).unwrap_err().contains("records"));
    let many = vec![attribute("a", 1); MOST_ATTRIBUTES + 1].join(",");
    assert!(json_request(&request(many.clone(), empty(1))).unwrap_err().contains("attributes"));
    assert!(
        json_request(&request(String::new(), format!(r#"{{"attributes":[{many}]}}"#))).unwrap()[0]
            .as_ref()
            .unwrap_err()
            .contains("attributes")
    );
    assert_eq!(json_request(&request(attribute("a", 1), empty(MOST_RECORDS))).unwrap().len(), MOST_RECORDS);
}

/// Found by an attacker: each of these cost the whole request.
#[test]
fn one_bad_part_of_a_json_request_spoils_nothing_else() {
    let good = r#"{"eventName":"ok"}"#;
    for bad in [
        "{bad}",
        r#"{"eventName":"z","x":NaN}"#,
        "{\"eventName\":\"a\tb\"}",
        r#"{"eventName":"j","eventName":"j2"}"#,
        r#"{"eventName":"d","attributes":[{"key":"a","key":"b","value":{"stringValue":"x"}}]}"#,
    ] {
        let body = format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{good},{bad},{good}]}}]}}]}}"#);
        let read: Vec<bool> = json_request(&body).unwrap().iter().map(Result::is_ok).collect();
        assert_eq!(read, [true, false, true], "{bad}");
    }
    let scoped = format!(r#"{{"scopeLogs":[{{"logRecords":[{good}]}}]}}"#);
    for (body, wanted) in [
        (format!(r#"{{"resourceLogs":[5,{scoped}]}}"#), vec![false, true]),
        (format!(r#"{{"resourceLogs":[{{"scopeLogs":[7,{{"logRecords":[{good}]}}]}}]}}"#), vec![false, true]),
        (format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"scope":5,"logRecords":[{good}]}}]}}]}}"#), vec![true]),
        (
            format!(
                r#"{{"resourceLogs":[{{"resource":{{"attributes":[{{"value":{{}}}}]}},"scopeLogs":[{{"logRecords":[{good}]}}]}}]}}"#
            ),
            vec![true],
        ),
    ] {
        let read: Vec<bool> = json_request(&body).unwrap().iter().map(Result::is_ok).collect();
        assert_eq!(read, wanted, "{body}");
    }
}
