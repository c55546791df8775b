//! What a client may send, and what it is answered: by a real listener and raw bytes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod rig;

use std::{
    io::{Read as _, Write},
    net::TcpStream,
    time::Duration,
};

use rig::{Answered, GOOD, JSON, Rig, raw};
use serde_json::{Value, json};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn whatever_a_client_sends_gets_its_documented_status_and_problem() {
    let rig = Rig::new("");
    let deep = format!(r#"{{"action":"a","metadata":{}1{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    let bodies: Vec<(&str, Vec<u8>, u16, &str)> = vec![
        ("truncated", br#"{"action":"a""#.to_vec(), 400, "not_json"),
        ("empty", Vec::new(), 400, "not_json"),
        ("NaN", br#"{"action":"a","durationMs":NaN}"#.to_vec(), 400, "not_json"),
        ("two values", b"{} {}".to_vec(), 400, "not_json"),
        ("ten thousand levels", deep.into_bytes(), 422, "not_an_event"),
        ("duplicate names", br#"{"action":"a","action":"b"}"#.to_vec(), 422, "not_an_event"),
        ("an array", b"[]".to_vec(), 422, "not_an_event"),
        ("a string", b"\"x\"".to_vec(), 422, "not_an_event"),
        ("no action", b"{}".to_vec(), 422, "not_an_event"),
        ("a wrong type", br#"{"action":7}"#.to_vec(), 422, "not_an_event"),
        ("a reserved member", br#"{"action":"a","kind":"Drop"}"#.to_vec(), 422, "not_an_event"),
        ("too large", vec![b' '; (1 << 20) + 1], 413, "body_too_large"),
    ];
    for (what, body, status, reason) in bodies {
        let (got, head, problem) = rig.post("/v1/events", JSON, &body);
        assert_eq!((got, problem["reason"].as_str()), (status, Some(reason)), "{what}: {problem}");
        assert!(head.contains("application/problem+json"), "{what}: {head}");
        assert_eq!(problem["status"], status, "{what}");
        for member in ["type", "title", "detail", "requestId"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{what}: no {member} in {problem}");
        }
    }
    let good = GOOD.as_bytes();
    let impatient = Rig::with_request_timeout("700ms", "");
    let heads: Vec<(&str, Answered, u16, &str)> = vec![
        ("no content type", rig.post("/v1/events", "", good), 415, "unsupported_media_type"),
        ("another content type", rig.post("/v1/events", "Content-Type: text/plain\r\n", good), 415, "unsupported_media_type"),
        ("another charset", rig.post("/v1/events", "Content-Type: application/json; charset=utf-16\r\n", good), 415, "unsupported_media_type"),
        ("another encoding", rig.post("/v1/events", &format!("{JSON}Content-Encoding: br\r\n"), good), 415, "unsupported_media_type"),
        ("broken gzip", rig.post("/v1/events", &format!("{JSON}Content-Encoding: gzip\r\n"), good), 400, "bad_request"),
        ("a gzip bomb", rig.post("/v1/events", &format!("{JSON}Content-Encoding: gzip\r\n"), &gzip(&vec![b' '; 50 << 20])), 413, "body_too_large"),
        ("a page in a browser", rig.post("/v1/events", &format!("{JSON}Origin: https://evil.example\r\n"), good), 403, "forbidden"),
        ("an empty idempotency key", rig.post("/v1/events", &format!("{JSON}Idempotency-Key: \r\n"), good), 400, "bad_request"),
        ("another path", rig.post("/v2/events", JSON, good), 404, "not_found"),
        ("another method", rig.raw(b"PUT /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n"), 405, "method_not_allowed"),
        ("another host", rig.raw(b"POST /v1/events HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 0\r\n\r\n"), 403, "forbidden"),
        ("a long path", rig.post(&format!("/v1/events?{}", "x".repeat(4000)), JSON, good), 414, "uri_too_long"),
        ("a body of 100 MB by its head alone", rig.raw(b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100000000\r\n\r\n"), 413, "body_too_large"),
        ("a body that does not come", impatient.raw(b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"), 408, "request_timeout"),
        ("two lengths", rig.raw(b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400, "not_json"),
        ("a batch that is no array", rig.post("/v1/events/batch", JSON, b"{}"), 400, "not_json"),
    ];
    for (what, (got, head, problem), status, reason) in heads {
        assert_eq!((got, problem["reason"].as_str()), (status, Some(reason)), "{what}: {problem}");
        assert_eq!(status == 405, head.to_ascii_lowercase().contains("allow: post"), "{what}: {head}");
    }
    // Few bytes, so that the answer is not lost with what was not read.
    let many = "X-Y: z\r\n".repeat(80);
    let (status, ..) = rig.raw(format!("GET / HTTP/1.1\r\nHost: localhost\r\n{many}\r\n").as_bytes());
    assert_eq!(status, 431);
    let (status, _, body) = rig.event(GOOD);
    assert_eq!((status, &body["status"]), (201, &json!("created")), "after all of that an event is taken");
}

#[test]
fn what_is_odd_in_one_place_spoils_nothing_else() {
    let rig = Rig::new("");
    let mut odd: Vec<(&str, Vec<u8>)> = vec![
        ("bytes that are no UTF-8", b"{\"action\":\"a\",\"message\":\"x\xffy\"}".to_vec()),
        ("half of a character", br#"{"action":"a","message":"x\ud83d"}"#.to_vec()),
        ("a number too large", br#"{"action":"a","metadata":{"n":9007199254740993,"f":0.1234567890123456789}}"#.to_vec()),
    ];
    let deep = format!("{{\"action\":\"a\",\"metadata\":{{\"d\":{}1{}}}}}", "[".repeat(100), "]".repeat(100));
    odd.push(("nested deep", deep.into_bytes()));
    for (what, body) in &odd {
        let (status, _, answer) = rig.post("/v1/events", JSON, body);
        assert_eq!(status, 201, "{what}: {answer}");
        let lines = [body.as_slice(), br#"{"action":"good"}"#].join(&b'\n');
        let (status, _, answer) = rig.post("/v1/events/batch", "Content-Type: text/x-ndjson\r\n", &lines);
        assert_eq!(status, 200, "{what}: {answer}");
        let array = [b"[", body.as_slice(), br#",{"action":"good"}]"#].concat();
        let (status, _, answer) = rig.post("/v1/events/batch", JSON, &array);
        assert_eq!(status, 200, "{what}: {answer}");
    }
    // What no parser takes is answered for by itself.
    for item in [format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000)), r#"{"action":tru}"#.into()] {
        let (status, _, answer) = rig.post("/v1/events/batch", JSON, format!("[{item},{{\"action\":\"good\"}}]").as_bytes());
        let codes: Vec<_> =
            answer["results"].as_array().unwrap().iter().map(|item| item["code"].as_u64().unwrap() / 100).collect();
        assert_eq!((status, codes), (207, vec![4, 2]), "{answer}");
    }
    // As Fluent Bit writes them.
    let (status, _, answer) =
        rig.post("/v1/events/batch", "Content-Type: application/jsonl\r\n", br#"{"action":"a"}{"action":"b"}"#);
    assert_eq!((status, answer["results"].as_array().map(Vec::len)), (200, Some(2)));
    // An id from a header passes the same redaction as one from the body.
    let token = "ghp_9HFegx5obyMQlUVLNaPjP8sFNbJdj95bwgw3";
    let keyed = |key: &str| rig.post("/v1/events", &format!("{JSON}Idempotency-Key: {key}\r\n"), GOOD.as_bytes());
    let (status, _, answer) = keyed(token);
    let id = answer["eventId"].as_str().unwrap_or_default().to_owned();
    assert_eq!(status, 201);
    assert!(id.starts_with("hmac-sha256:journal:") && !id.contains(token), "{id}");
    assert_eq!(keyed(token).0, 200, "it is known again");
    assert_ne!(keyed(&token.replace("9HF", "8HF")).2["eventId"], id, "distinct stays distinct");
}

#[test]
fn a_tenant_adds_no_line_to_the_metrics() {
    let rig = Rig::with_request_timeout("1m, tenantMetrics: true", "");
    let (status, ..) = rig.event(r#"{"action":"a","tenantId":"x\"} 1\nsteno_forged{a=\"\\\u001b[2J"}"#);
    assert_eq!(status, 201);
    let (_, page) = rig.get("/metrics");
    let line = page.lines().find(|line| line.contains("steno_forged")).expect("the tenant counts");
    assert!(
        line.contains(r#"{tenant="x\"} 1\nsteno_forged{a=\"\\"#) && line.ends_with(" 1") && !line.contains('\u{1b}'),
        "{line}"
    );
}

#[test]
fn what_a_page_of_another_site_sends_and_a_question_that_means_nothing_are_refused() {
    let rig = Rig::new("  query: {enabled: true}\n");
    let (status, head, _) = rig.post("/v1/events", &format!("{JSON}Sec-Fetch-Site: cross-site\r\n"), GOOD.as_bytes());
    assert_eq!(status, 403);
    assert!(head.to_ascii_lowercase().contains("x-content-type-options: nosniff"), "{head}");
    let get = |path: &str| rig.ask(path, "").0;
    assert_eq!((get("/v1/events?severity=bogus"), get("/v1/events?severity=error")), (400, 200));
}

#[test]
fn a_line_that_is_no_event_is_named_by_its_place_in_the_body() {
    let rig = Rig::new("");
    let body = "{\"action\":\"a\"}\n\n{\"action\":\"b\"}{\"nothing\":1}\n\nbroken\n";
    let (status, _, answer) = rig.post("/v1/events/batch", "Content-Type: application/x-ndjson\r\n", body.as_bytes());
    assert_eq!(status, 207);
    let detail = |index: usize| answer["results"][index]["detail"].as_str().unwrap().to_owned();
    assert!(detail(2).starts_with("Line 3 of the body: "), "{}", detail(2));
    assert!(detail(3).starts_with("Line 5 of the body: "), "{}", detail(3));
}

#[test]
fn the_same_cloud_event_in_either_mode_is_the_same_event() {
    let rig = Rig::new("");
    let structured = r#"{"specversion":"1.0","id":"1","source":"/shop","type":"order.paid","subject":"o-1","time":"2026-11-28T08:00:00Z","sampledrate":5,"retried":true,"data":{"total":3}}"#;
    let (status, _, answer) = rig.post("/v1/events", "Content-Type: application/cloudevents+json\r\n", structured.as_bytes());
    assert_eq!(status, 201, "{answer}");
    for media in ["application/json", "Application/JSON; charset=\"UTF-8\""] {
        let headers = format!(
            "Content-Type: {media}\r\nce-specversion: 1.0\r\nce-id: 1\r\nce-source: /shop\r\nce-type: order.paid\r\nce-subject: o-1\r\nce-time: 2026-11-28T08:00:00Z\r\nce-sampledrate: 5\r\nce-retried: true\r\n"
        );
        let (status, _, answer) = rig.post("/v1/events", &headers, br#"{"total":3}"#);
        assert_eq!((status, &answer["status"]), (200, &"duplicate_accepted".into()), "{media}: {answer}");
    }
}

#[test]
fn a_cloud_event_keeps_what_json_of_others_holds_and_is_the_same_event_in_every_form() {
    let rig = Rig::new("");
    let deep = format!("{}1{}", "[".repeat(90), "]".repeat(90));
    // "{\"total\":3}", as serialisers of bytes send it.
    let base64 = r#""data_base64":"eyJ0b3RhbCI6M30=""#;
    for (id, data, again) in [
        ("1", r#""data":{"total":12345678901234567890}"#, r#"{"total":12345678901234567890}"#),
        ("2", r#""data":{"name":"half \ud83d"}"#, r#"{"name":"half \ud83d"}"#),
        ("3", &format!(r#""data":{{"deep":{deep}}}"#), ""),
        ("4", base64, r#"{"total":3}"#),
        ("5", &format!(r#"{base64},"data":null,"region":null"#), "\u{feff}{\"total\":3}"),
        ("6", r#""data":[0.1000000000000000055]"#, "[0.1000000000000000055]"),
    ] {
        let event = format!(r#"{{"specversion":"1.0","id":"{id}","source":"/shop","type":"order.paid",{data}}}"#);
        let (status, _, answer) = rig.post("/v1/events", "Content-Type: application/cloudevents+json\r\n", event.as_bytes());
        assert_eq!(status, 201, "{id}: {answer}");
        if again.is_empty() {
            continue;
        }
        let headers = format!("{JSON}ce-specversion: 1.0\r\nce-id: {id}\r\nce-source: /shop\r\nce-type: order.paid\r\n");
        let (status, _, answer) = rig.post("/v1/events", &headers, again.as_bytes());
        assert_eq!((status, &answer["status"]), (200, &"duplicate_accepted".into()), "{id}: {answer}");
    }
    let headers = format!("{JSON}ce-specversion: 1.0\r\nce-id: 7\r\nce-source: /shop\r\nce-type: order.paid\r\n");
    let (status, _, answer) = rig.post("/v1/events", &headers, b"{\"name\":\"\xff\"}");
    assert_eq!(status, 201, "bytes that are no UTF-8: {answer}");
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_body() {
    let rig = Rig::new("");
    let marked = |body: &str| format!("\u{feff}{body}").into_bytes();
    let line = GOOD.replace("e1", "line");
    let resource_logs = r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"eventName":"user.login"}]}]}]}"#;
    for (path, headers, body) in [
        ("/v1/events", JSON, GOOD),
        ("/v1/events/batch", "Content-Type: application/x-ndjson\r\n", line.as_str()),
        ("/v1/events/batch", JSON, "[]"),
        ("/v1/logs", JSON, resource_logs),
        ("/k8s/audit", JSON, r#"{"kind":"EventList","items":[]}"#),
    ] {
        let (status, _, answer) = rig.post(path, headers, &marked(body));
        assert!((200..207).contains(&status), "{path}: {status} {answer}");
    }
}

#[test]
fn every_content_encoding_counts_and_x_gzip_is_gzip() {
    use std::io::Write as _;
    let rig = Rig::new("");
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(GOOD.as_bytes()).unwrap();
    let packed = packed.finish().unwrap();
    for (coding, wanted) in [
        ("Content-Encoding: x-gzip", 201),
        ("Content-Encoding: identity\r\nContent-Encoding: gzip", 201),
        ("Content-Encoding: gzip, gzip", 415),
        ("Content-Encoding: gzip\r\nContent-Encoding: zstd", 415),
    ] {
        let (status, _, answer) = rig.post("/v1/events", &format!("{JSON}{coding}\r\n"), &packed);
        assert_eq!(status, wanted, "{coding}: {answer}");
    }
}

#[test]
fn a_client_that_has_closed_its_side_gets_its_answer() {
    let rig = Rig::new("");
    let mut stream = TcpStream::connect(&rig.address).unwrap();
    let head = format!("POST /v1/events HTTP/1.1\r\nHost: localhost\r\n{JSON}Content-Length: {}\r\n\r\n{GOOD}", GOOD.len());
    stream.write_all(head.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
}

#[test]
fn a_body_whose_coding_nobody_reads_is_refused() {
    let rig = Rig::new("");
    for coding in ["gzip, chunked", "identity, chunked", "chunked\r\nTransfer-Encoding: chunked"] {
        let request = format!(
            "POST /v1/events HTTP/1.1\r\nHost: localhost\r\n{JSON}Transfer-Encoding: {coding}\r\n\r\ne\r\n{GOOD}\r\n0\r\n\r\n"
        );
        let (status, head, _) = rig.raw(request.as_bytes());
        assert_eq!(status, 400, "{coding}: {head}");
    }
}

#[test]
fn a_client_of_grpc_is_told_what_to_use() {
    let rig = Rig::new("");
    let (status, head, _) = rig.post(
        "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        "Content-Type: application/grpc\r\n",
        b"\0\0\0\0\0",
    );
    assert!(status == 200 && head.contains("grpc-status: 12") && head.contains("/v1/logs"), "{head}");
}

#[test]
fn a_page_in_a_browser_learns_nothing_from_the_status_port() {
    let rig = Rig::new("");
    let ask = |headers: &str| {
        raw(TcpStream::connect(&rig.status).unwrap(), format!("GET /v1/stats HTTP/1.1\r\n{headers}\r\n").as_bytes()).0
    };
    assert_eq!(ask("Host: 10.1.2.3:9601\r\n"), 200);
    assert_eq!(ask("Host: shop.team.svc:9601\r\n"), 200);
    assert_eq!(ask("Host: evil.example\r\n"), 403);
    assert_eq!(ask("Host: localhost\r\nOrigin: http://evil.example\r\n"), 403);
    assert_eq!(ask("Host: localhost\r\nSec-Fetch-Site: cross-site\r\n"), 403);
    assert_eq!(ask("Host: localhost\r\nHost: evil.example\r\n"), 400);
}

#[test]
fn an_event_is_created_once_told_again_and_defended() {
    let rig = Rig::new("");
    let event = r#"{"eventId":"e1","action":"a","message":"m"}"#;
    let (status, _, body) = rig.event(event);
    assert_eq!((status, body), (201, json!({"status": "created", "code": 201, "eventId": "e1"})));
    let (status, _, body) = rig.event(event);
    assert_eq!((status, &body["status"]), (200, &json!("duplicate_accepted")));
    let (status, _, body) = rig.event(&event.replace("\"m\"", "\"n\""));
    assert_eq!((status, &body["reason"]), (409, &json!("conflict")));
    // The key of a retry can stand in a header.
    let keyed = |body: &str| rig.post("/v1/events", &format!("{JSON}Idempotency-Key: k1\r\n"), body.as_bytes());
    assert_eq!((keyed(GOOD).0, keyed(GOOD).0, keyed(r#"{"action":"b"}"#).0), (201, 200, 409));
    let (status, head, _) =
        rig.post("/v1/events", &format!("{JSON}Content-Encoding: gzip\r\n"), &gzip(br#"{"action":"zipped"}"#));
    assert_eq!(status, 201, "{head}");
    let zstd = zstd::encode_all(&br#"{"action":"zstd"}"#[..], 1).unwrap();
    assert_eq!(rig.post("/v1/events", &format!("{JSON}Content-Encoding: zstd\r\n"), &zstd).0, 201);
}

#[test]
fn items_of_a_batch_are_answered_each_in_order() {
    let rig = Rig::new("");
    let lines = "{\"eventId\":\"b1\",\"action\":\"a\"}\n\nnot json\n{\"eventId\":\"b1\",\"action\":\"a\"}\n{\"eventId\":\"b1\",\"action\":\"x\"}\n{}\n";
    let (status, _, body) = rig.post("/v1/events/batch", "Content-Type: application/x-ndjson\r\n", lines.as_bytes());
    let codes: Vec<_> = body["results"].as_array().unwrap().iter().map(|item| item["code"].as_u64().unwrap()).collect();
    assert_eq!((status, codes), (207, vec![201, 400, 200, 409, 422]), "{body}");
    let array = r#"[{"action":"a","action":"b"},{"action":"ok"}]"#;
    let (status, _, body) = rig.post("/v1/events/batch", JSON, array.as_bytes());
    assert_eq!((status, &body["results"][0]["code"], &body["results"][1]["code"]), (207, &json!(422), &json!(201)), "{body}");
    let (status, _, body) = rig.post("/v1/events/batch", JSON, br#"[{"action":"a"},{"action":"b"}]"#);
    assert_eq!((status, body["results"].as_array().map(Vec::len)), (200, Some(2)));
    assert_eq!(rig.post("/v1/events/batch", JSON, b"[]").0, 200);
}

#[test]
fn a_rate_that_is_passed_is_told_with_when_to_come_back() {
    let rig = Rig::new("  limits: {rate: {perTenant: 1, burst: 3, critical: 1000}}\n");
    let statuses: Vec<u16> = (0..5).map(|_| rig.event(GOOD).0).collect();
    assert_eq!(statuses, [201, 201, 201, 429, 429]);
    let (status, head, body) = rig.event(GOOD);
    let head = head.to_ascii_lowercase();
    assert_eq!((status, &body["type"]), (429, &json!("https://iana.org/assignments/http-problem-types#quota-exceeded")));
    assert!(head.contains("retry-after: 1") && head.contains("ratelimit: ") && head.contains("ratelimit-policy: "), "{head}");
    assert!(body["retryAfterMs"].as_u64().is_some_and(|ms| (1..=1000).contains(&ms)), "{body}");
    let (status, ..) = rig.event(r#"{"action":"a","tenantId":"another"}"#);
    assert_eq!(status, 201, "one tenant's rate is not another's");
    let (status, _, body) = rig.event(r#"{"action":"a","severity":"critical"}"#);
    assert_eq!((status, body["delivery"].as_str()), (201, Some("spooled")), "critical events have a bucket of their own");
}

#[test]
fn a_connection_that_says_nothing_or_half_a_preface_does_not_keep_others_out() {
    let rig = Rig::new("  limits: {maxConnections: 4}\n");
    let idle: Vec<TcpStream> = (0..3)
        .map(|index| {
            let mut stream = TcpStream::connect(&rig.address).unwrap();
            stream.write_all(&b"PRI * HT"[..index * 4]).unwrap();
            stream
        })
        .collect();
    assert_eq!(rig.event(GOOD).0, 201);
    drop(idle);
}

#[test]
fn http_2_and_the_unix_socket_take_events_too() {
    let rig = Rig::new("");
    let stream = std::os::unix::net::UnixStream::connect(&rig.socket).unwrap();
    let request = format!("POST /v1/events HTTP/1.1\r\nHost: steno\r\n{JSON}Content-Length: {}\r\n\r\n{GOOD}", GOOD.len());
    assert_eq!(raw(stream, request.as_bytes()).0, 201);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let status = runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(&rig.address).await.unwrap();
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let body = http_body_util::Full::new(bytes::Bytes::from_static(GOOD.as_bytes()));
        let uri = format!("http://{}/v1/events", rig.address);
        let request = hyper::Request::post(uri).header("content-type", "application/json").body(body).unwrap();
        tokio::time::timeout(Duration::from_secs(5), sender.send_request(request)).await.unwrap().unwrap().status()
    });
    assert_eq!(status, 201);
}

#[test]
fn the_status_port_tells_how_things_stand_and_no_event_data() {
    let rig = Rig::new("");
    rig.event(r#"{"eventId":"secret-id","action":"a","message":"password=hunter22"}"#);
    assert_eq!((rig.get("/healthz").0, rig.get("/readyz").0, rig.get("/nowhere").0), (200, 200, 404));
    let (_, metrics) = rig.get("/metrics");
    for line in ["steno_events_accepted_total 1", "steno_redactions_total{rule=\"detector:kv\"} 1", "# EOF"] {
        assert!(metrics.contains(line), "{line} is missing:\n{metrics}");
    }
    let (_, stats) = rig.get("/v1/stats");
    let stats_json: Value = serde_json::from_str(&stats).unwrap();
    for member in ["health", "metrics", "breaker", "sinks", "journal", "config", "secrets", "recommendations"] {
        assert!(!stats_json[member].is_null(), "{member}");
    }
    assert!(!metrics.contains("secret-id") && !stats.contains("secret-id") && !stats.contains("hunter22"));
}

#[test]
fn flush_says_when_all_is_delivered_and_how_much_is_left() {
    let rig = Rig::new("");
    rig.event(GOOD);
    let (status, _, body) = rig.post("/v1/flush?timeoutMs=50", "", b"");
    assert_eq!((status, body["reason"].as_str()), (504, Some("not_delivered")), "{body}");
    assert_eq!(rig.post("/v1/flush?timeoutMs=0", "", b"").0, 400);
}
