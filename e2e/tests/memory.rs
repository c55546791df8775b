//! Clients that hold on to memory: the sidecar lives within its container's limit, and takes ordinary events meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use bytes::Bytes;
use steno_e2e::{
    client::{Client, event},
    sidecar::{Sidecar, policy},
    wait_for,
};

/// The default limit of the sidecar's container.
const LIMIT: u64 = 128 << 20;

/// HTTP/2 connections that are held open.
struct Held(tokio::runtime::Runtime);

impl Held {
    fn new() -> Self {
        Self(tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap())
    }

    /// A connection that grants the answers so many bytes, with as many streams as it may have. Each asks the same, with a body that never ends.
    fn streams(&self, address: &str, window: u32, method: &'static str, path: &'static str, body: usize) {
        let address = address.to_owned();
        self.0.spawn(async move {
            let stream = tokio::net::TcpStream::connect(&address).await.unwrap();
            let built = h2::client::Builder::new().initial_window_size(window).handshake::<_, Bytes>(stream).await;
            let Ok((mut send, connection)) = built else { return };
            tokio::spawn(async move { drop(connection.await) });
            let mut kept = Vec::new();
            for _ in 0..128 {
                let Ok(ready) = tokio::time::timeout(Duration::from_secs(5), send.clone().ready()).await else { break };
                let Ok(ready) = ready else { break };
                send = ready;
                let request = hyper::Request::builder()
                    .method(method)
                    .uri(format!("http://localhost{path}"))
                    .header("content-type", "application/json")
                    .body(())
                    .unwrap();
                let Ok((answer, mut stream)) = send.send_request(request, body == 0) else { break };
                if body > 0 {
                    let sending = async move {
                        for _ in 0..body >> 14 {
                            stream.reserve_capacity(1 << 14);
                            while stream.capacity() == 0 {
                                std::future::poll_fn(|context| stream.poll_capacity(context)).await.as_ref()?;
                            }
                            let chunk = vec![b'x'; stream.capacity().min(1 << 14)];
                            stream.send_data(chunk.into(), false).ok()?;
                        }
                        Some(stream)
                    };
                    kept.push(tokio::spawn(sending));
                }
                tokio::spawn(async move {
                    let answered = answer.await;
                    tokio::time::sleep(Duration::from_hours(1)).await;
                    drop(answered);
                });
            }
            tokio::time::sleep(Duration::from_hours(1)).await;
            drop(kept);
        });
    }
}

/// A body that is announced and does not come whole.
fn unfinished(address: &str, path: &str, sent: usize, announced: usize) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {announced}\r\n\r\n"
    );
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&vec![b' '; sent]));
    stream
}

#[test]
fn clients_that_hold_on_to_memory_end_neither_the_sidecar_nor_the_flow_of_events() {
    let more = "  query: {enabled: true}\n  spool: {maxBytes: 256Mi}\n  limits: {maxBodyBytes: 4Mi, rate: {total: 100000, burst: 100000}}\n";
    let mut sidecar = Sidecar::prepare(&policy("127.0.0.1:1", "audit", more)).within_memory(LIMIT);
    sidecar.up();
    let client = Client::new(&sidecar.ingest());
    // Something to find, with answers of megabytes.
    for round in 0..20 {
        let events = (0..100).map(|index| {
            let mut event = event(&format!("found-{round}-{index}"));
            event["metadata"]["long"] = "y".repeat(4000).into();
            event
        });
        assert_eq!(client.batch(&events.collect::<Vec<_>>()).unwrap().0, 200);
    }
    let before = sidecar.resident();
    let held = Held::new();
    let address = sidecar.ingest();
    held.streams(&address, 1 << 16, "POST", "/v1/events", 1 << 20);
    held.streams(&address, 1 << 16, "POST", "/v1/events/batch", 1 << 20);
    for _ in 0..20 {
        held.streams(&address, 0, "GET", "/openapi.yaml", 0);
    }
    for _ in 0..60 {
        held.streams(&address, 0, "GET", "/v1/events?limit=1000", 0);
    }
    let bodies: Vec<_> = (0..8).map(|_| unfinished(&address, "/k8s/audit", 15 << 20, (15 << 20) + 1)).collect();
    // Events flow meanwhile, one after the other, and health is told.
    let until = Instant::now() + Duration::from_secs(20);
    let (mut taken, mut most) = (0, 0);
    while Instant::now() < until {
        let (status, body) = client.event(&event(&format!("meanwhile-{taken}"))).expect("an answer");
        assert_eq!(status, 201, "{body}");
        taken += 1;
        // As many on a fast machine as on a slow one: their ids take memory that is not given back.
        std::thread::sleep(Duration::from_millis(2));
        if taken % 50 == 0 {
            most = most.max(sidecar.resident());
            assert!(sidecar.get("/healthz").is_some_and(|(status, _)| status == 200), "health is not told");
        }
    }
    assert!(taken > 500, "{taken} events were taken");
    println!("{taken} events meanwhile; resident {} MiB before, at most {} MiB meanwhile", before >> 20, most >> 20);
    drop((held, bodies));
    // What was held is given back.
    wait_for("memory to be given back", Duration::from_mins(1), || {
        assert_eq!(client.event(&event("after")).map(|(status, _)| status / 100), Some(2));
        // The events of the meantime take some: their ids, and where they stand.
        sidecar.resident() < before + (most - before) * 2 / 3
    });
    println!("resident {} MiB after", sidecar.resident() >> 20);
    // The same process all along.
    assert!(sidecar.get("/healthz").is_some());
    let mut probe = TcpStream::connect(&address).unwrap();
    probe.write_all(b"GET /openapi.yaml HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    probe.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200"));
}
