//! What the machine itself does: a bare hyper echo, the least that is durable, a raw fdatasync, a thread's wake-up.
use std::{
    fs::File,
    os::unix::fs::FileExt,
    sync::mpsc,
    time::{Duration, Instant},
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;

/// Quantiles of a raw fdatasync.
pub struct Sync {
    pub p50: Duration,
    pub p99: Duration,
}

/// Overwrites written extents with 700 bytes and syncs, as the journal's steady state does.
pub fn fdatasync() -> std::io::Result<Sync> {
    let dir = tempfile::tempdir()?;
    let file = File::create_new(dir.path().join("f"))?;
    file.write_all_at(&vec![0; 4 << 20], 0)?;
    file.sync_all()?;
    let block = [7; 700];
    let mut times: Vec<Duration> = (0..3000u64)
        .map(|index| {
            let begun = Instant::now();
            let done = file.write_all_at(&block, index * 704).and_then(|()| file.sync_data());
            done.map(|()| begun.elapsed())
        })
        .collect::<Result<_, _>>()?;
    times.sort();
    Ok(Sync { p50: times[times.len() / 2], p99: times[times.len() * 99 / 100] })
}

/// The median time for another, sleeping thread to be woken.
pub fn wake_up() -> Duration {
    let (ping, pings) = mpsc::sync_channel::<Instant>(1);
    let (pong, pongs) = mpsc::sync_channel::<Duration>(1);
    std::thread::spawn(move || {
        for sent in pings {
            if pong.send(sent.elapsed()).is_err() {
                return;
            }
        }
    });
    let mut times: Vec<Duration> = (0..2000)
        .filter_map(|_| {
            std::thread::sleep(Duration::from_micros(100));
            ping.send(Instant::now()).ok()?;
            pongs.recv().ok()
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

/// A process of its own: answers each POST with its body, on one thread, and prints its address.
pub fn echo() -> anyhow::Result<()> {
    answer(std::future::ready)
}

/// A process of its own, the least that a client may take for durable: the body is parsed, written and synced with all that wait, then answered.
pub fn durable() -> anyhow::Result<()> {
    let file = tempfile::tempfile()?;
    file.write_all_at(&vec![0; WRITTEN], 0)?;
    file.sync_all()?;
    let (sender, queue) = mpsc::channel::<(Vec<u8>, oneshot::Sender<()>)>();
    std::thread::spawn(move || {
        let mut at = 0;
        while let Ok(first) = queue.recv() {
            let all: Vec<_> = std::iter::once(first).chain(queue.try_iter()).collect();
            let block: Vec<u8> = all.iter().flat_map(|(record, _)| record).copied().collect();
            at = if at + block.len() > WRITTEN { 0 } else { at };
            if let Err(error) = file.write_all_at(&block, at as u64).and_then(|()| file.sync_data()) {
                eprintln!("the baseline's disk refuses: {error}");
                std::process::exit(1);
            }
            at += block.len();
            for (_, done) in all {
                let _ = done.send(());
            }
        }
    });
    answer(move |body: Bytes| {
        let (done, is_done) = oneshot::channel();
        let record = serde_json::from_slice::<serde_json::Value>(&body).and_then(|event| serde_json::to_vec(&event));
        sender.send((record.expect("an event of ours"), done)).expect("the disk's thread is there");
        async move { is_done.await.map_or_else(|_| Bytes::new(), |()| Bytes::from_static(b"{}")) }
    })
}

/// Bytes of the file that are written before, and then again and again.
const WRITTEN: usize = 16 << 20;

fn answer<A: Future<Output = Bytes> + Send>(
    to: impl Fn(Bytes) -> A + Clone + Send + std::marker::Sync + 'static,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let to = to.clone();
            tokio::spawn(async move {
                let service = service_fn(|request: Request<Incoming>| async {
                    let body = request.into_body().collect().await?.to_bytes();
                    Ok::<_, hyper::Error>(Response::new(Full::new(to(body).await)))
                });
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    })
}
