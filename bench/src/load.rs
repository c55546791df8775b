//! The load: prebuilt bodies over raw keep-alive connections, from one thread.
use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What was measured.
pub struct Measured {
    pub answers: u64,
    pub bytes: u64,
    pub took: Duration,
    /// Cores that the client itself used.
    pub client_cores: f64,
    times: Vec<u32>,
}

impl Measured {
    /// Answers a second.
    pub fn rate(&self) -> f64 {
        self.answers as f64 / self.took.as_secs_f64()
    }

    /// A quantile of the latency.
    pub fn p(&self, percent: usize) -> Duration {
        let at = (self.times.len() * percent / 100).min(self.times.len().saturating_sub(1));
        Duration::from_nanos(u64::from(self.times.get(at).copied().unwrap_or_default()))
    }
}

/// CPU time of this process.
fn cpu() -> Duration {
    crate::process::cpu_of("self")
}

/// An event of about 700 bytes, its id filled in later: nine digits at the place that is given back.
pub fn event() -> (String, usize) {
    let text = concat!(
        r#"{"eventId":"#,
        "\"000000000000\"",
        r#","tenantId":"shop","occurredAt":"2026-03-01T09:30:00Z","service":"checkout","category":"entity-mutation","#,
        r#""action":"order.update","actor":{"type":"user","id":"u-18273","sessionId":"s-99120"},"outcome":"success","severity":"info","#,
        r#""resource":{"type":"order","id":"order-4711"},"requestId":"5e3b7a10-29f4","traceId":"4bf92f3577b34da6a3ce929d0e0e4736","#,
        r#""source":{"ip":"10.1.2.3","userAgent":"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"},"message":"the order was changed by its owner","#,
        r#""before":{"state":"open","total":120.5,"items":3},"after":{"state":"paid","total":120.5,"items":3},"durationMs":12.5,"#,
        r#""metadata":{"region":"eu-central-1","channel":"web","note":"delivered to the neighbour on the ground floor","attempt":1}}"#
    );
    (text.to_owned(), 12)
}

fn number(into: &mut [u8], mut number: u64) {
    for digit in into.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// Posts single events over so many connections for a time.
pub fn run(address: &str, connections: usize, time: Duration) -> Measured {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (body, id_at) = event();
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let id_at = head.len() + id_at;
    let request = [head.as_bytes(), body.as_bytes()].concat();
    let base = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis() as u64
        % 100_000
        * 10_000_000;
    let (begun, cpu_before) = (Instant::now(), cpu());
    let times = runtime.block_on(async {
        let tasks: Vec<_> = (0..connections)
            .map(|index| {
                let (mut request, address) = (request.clone(), address.to_owned());
                tokio::spawn(async move {
                    let mut stream = tokio::net::TcpStream::connect(&address).await.expect("a connection");
                    stream.set_nodelay(true).expect("nodelay");
                    let (mut times, mut buffer, mut id) =
                        (Vec::with_capacity(100_000), vec![0; 8192], base + index as u64 * 300_000);
                    while begun.elapsed() < time {
                        id += 1;
                        number(&mut request[id_at..id_at + 12], id);
                        let sent = Instant::now();
                        stream.write_all(&request).await.expect("sent");
                        read(&mut stream, &mut buffer).await;
                        times.push(sent.elapsed().as_nanos() as u32);
                    }
                    times
                })
            })
            .collect();
        let mut all = Vec::new();
        for task in tasks {
            all.extend(task.await.expect("a client"));
        }
        all
    });
    finish(times, begun, cpu_before, request.len() as u64)
}

fn finish(mut times: Vec<u32>, begun: Instant, cpu_before: Duration, size: u64) -> Measured {
    let took = begun.elapsed();
    times.sort_unstable();
    let client_cores = cpu().saturating_sub(cpu_before).as_secs_f64() / took.as_secs_f64();
    Measured { answers: times.len() as u64, bytes: times.len() as u64 * size, took, client_cores, times }
}

/// Reads one answer whole; it must be a 2xx.
async fn read(stream: &mut tokio::net::TcpStream, buffer: &mut [u8]) {
    let mut filled = 0;
    loop {
        let count = stream.read(&mut buffer[filled..]).await.expect("an answer");
        assert!(count > 0, "the connection was closed");
        filled += count;
        if whole(&buffer[..filled]) {
            return;
        }
    }
}

/// Answers 503: a disk that stands still while others use it. `None` of them is expected but in a soak.
pub static PUT_OFF: AtomicU64 = AtomicU64::new(0);
/// Whether they are counted instead of ending the run.
pub static MAY_PUT_OFF: AtomicBool = AtomicBool::new(false);

fn whole(got: &[u8]) -> bool {
    let Some(end) = got.windows(4).position(|window| window == b"\r\n\r\n") else { return false };
    let head = &got[..end];
    let at = head.windows(16).position(|window| window.eq_ignore_ascii_case(b"content-length: ")).map(|at| at + 16);
    let length = at.map_or(0, |at| {
        head[at..].iter().take_while(|byte| byte.is_ascii_digit()).fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'))
    });
    if got.len() < end + 4 + length {
        return false;
    }
    // A disk that stands still, and nothing else: a full spool is none.
    let is_put_off = MAY_PUT_OFF.load(Ordering::Relaxed)
        && got.starts_with(b"HTTP/1.1 503")
        && memchr::memmem::find(got, b"dependency_failure").is_some();
    assert!(is_put_off || got.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(got));
    PUT_OFF.fetch_add(u64::from(is_put_off), Ordering::Relaxed);
    true
}

/// Ids of batches go on over all calls, so that no event is a retry.
static NEXT_BATCH: AtomicU64 = AtomicU64::new(500_000_000_000);

/// Posts batches of 100 events.
pub fn batches(address: &str, connections: u64, time: Duration) -> Measured {
    let (body, id_at) = event();
    let (begun, cpu_before) = (Instant::now(), cpu());
    let mut size = 0;
    let threads: Vec<_> = (0..connections)
        .map(|_| {
            let mut lines = Vec::new();
            for _ in 0..100 {
                lines.extend_from_slice(body.as_bytes());
                lines.push(b'\n');
            }
            let head = format!("POST /v1/events/batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nContent-Length: {}\r\n\r\n", lines.len());
            size = (head.len() + lines.len()) as u64;
            let (address, line) = (address.to_owned(), body.len() + 1);
            std::thread::spawn(move || {
                let mut stream = TcpStream::connect(&address).expect("a connection");
                let (mut times, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
                while begun.elapsed() < time {
                    let first = NEXT_BATCH.fetch_add(100, Ordering::Relaxed);
                    for item in 0..100 {
                        let at = item * line + id_at;
                        number(&mut lines[at..at + 12], first + item as u64);
                    }
                    let sent = Instant::now();
                    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&lines)).expect("sent");
                    let mut filled = 0;
                    while !whole(&buffer[..filled]) {
                        filled += stream.read(&mut buffer[filled..]).expect("an answer");
                    }
                    times.push(sent.elapsed().as_nanos() as u32);
                }
                times
            })
        })
        .collect();
    let times = threads.into_iter().flat_map(|thread| thread.join().expect("a client")).collect();
    finish(times, begun, cpu_before, size)
}
