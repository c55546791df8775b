//! Work for a sidecar that is watched (`release/build`): the quick start's events again and again, each under ids of its own, alone, by lines and in the formats of
//! others; searches and faulty requests between them; to Kafka and to a file. Nothing of it is what `make bench` measures with.
use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use crate::{
    process::{self, Sidecar},
    soak,
};

/// Clients at the same time.
const CLIENTS: usize = 12;

/// A request's path and media type, its body, and what in it becomes an id of its own.
struct Shape {
    path: &'static str,
    media: &'static str,
    body: &'static str,
    id: &'static str,
}

macro_rules! event {
    ($name:literal) => {
        include_str!(concat!("../../examples/quickstart/events/", $name))
    };
}

/// Most of all.
const LOGIN: Shape = Shape { path: "/v1/events", media: "application/json", body: event!("01-login.json"), id: "login-1" };

const SHAPES: &[Shape] = &[
    LOGIN,
    Shape { path: "/v1/events", media: "application/json", body: event!("02-payment.json"), id: "payment-1" },
    LOGIN,
    Shape { path: "/v1/events", media: "application/json", body: event!("05-oversized.json"), id: "export-1" },
    LOGIN,
    Shape {
        path: "/v1/events",
        media: "application/cloudevents+json",
        body: event!("06-order.cloudevent.json"),
        id: "A234-1234-1234",
    },
    Shape { path: "/v1/logs", media: "application/json", body: event!("07-export.otlp.json"), id: "01958e2a-export" },
    Shape {
        path: "/k8s/audit",
        media: "application/json",
        body: event!("08-apiserver.k8s-audit.json"),
        id: "6f1a8c1e-5d0b-4a55-9e0f-1d2c3b4a5f60",
    },
    Shape { path: "/v1/events/batch", media: "application/x-ndjson", body: event!("09-burst.ndjson"), id: "burst-" },
];

/// Ids go on over all clients.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Works for so long, then ends the sidecar as Kubernetes does.
pub fn run(binary: &Path, time: Duration) -> anyhow::Result<()> {
    let cluster = process::kafka()?;
    let dir = tempfile::tempdir()?;
    let more = "  query: {enabled: true}\n  sinks:\n  - {name: archive, type: File, file: {rotateBytes: 4Mi, backups: 3}}\n";
    let mut sidecar = Sidecar::start_with(binary, Some((&cluster.bootstrap_servers(), dir.path(), 1024)), "AtLeastOnce", more)?;
    let (own, until) = (sidecar.address.clone(), Instant::now() + time);
    let address = own.as_str();
    let worked = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|client| scope.spawn(move || work(address, client, until))).collect();
        let answers: Vec<_> = clients
            .into_iter()
            .map(|client| client.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a client panicked"))))
            .collect();
        answers.into_iter().sum::<anyhow::Result<u64>>()
    });
    let ended = worked.and_then(|answers| {
        soak::bad(address)?;
        sidecar.end().map(|()| answers)
    });
    if ended.is_err() {
        let log = std::fs::read_to_string(dir.path().join("sidecar.log")).unwrap_or_default();
        log.lines().take(20).for_each(|line| eprintln!("sidecar: {line}"));
    }
    println!("{} requests", ended?);
    Ok(())
}

/// One client over one connection; how many answers it had.
fn work(address: &str, client: usize, until: Instant) -> anyhow::Result<u64> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.set_nodelay(true)?;
    let mut answers = 0;
    for shape in SHAPES.iter().cycle().skip(client) {
        if Instant::now() > until {
            break;
        }
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let body = shape.body.replace(shape.id, &format!("{}{id}-", shape.id));
        let Shape { path, media, .. } = shape;
        let length = body.len();
        let request =
            format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {media}\r\nContent-Length: {length}\r\n\r\n{body}");
        ask(&mut stream, &request).with_context(|| format!("a request to {path}"))?;
        if id.is_multiple_of(100) {
            ask(&mut stream, "GET /v1/events?limit=20 HTTP/1.1\r\nHost: localhost\r\n\r\n").context("a search")?;
        }
        answers += 1;
    }
    Ok(answers)
}

/// Sends a request and reads its answer whole, which must be a 2xx.
fn ask(stream: &mut TcpStream, request: &str) -> anyhow::Result<()> {
    stream.write_all(request.as_bytes())?;
    let (mut got, mut buffer) = (Vec::new(), [0; 16 << 10]);
    loop {
        let count = stream.read(&mut buffer)?;
        anyhow::ensure!(count > 0, "the connection was closed");
        got.extend_from_slice(&buffer[..count]);
        let Some(end) = memchr::memmem::find(&got, b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&got[..end]).to_ascii_lowercase();
        anyhow::ensure!(head.starts_with("http/1.1 2"), "{}", String::from_utf8_lossy(&got));
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")).unwrap_or("0").trim().parse::<usize>()?;
        if got.len() >= end + 4 + length {
            return Ok(());
        }
    }
}
