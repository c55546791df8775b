//! Clients as applications are: they keep connections, and retry with the same id.
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// One client.
#[derive(Clone)]
pub struct Client {
    agent: ureq::Agent,
    base: String,
}

impl Client {
    /// A client of an ingest address.
    pub fn new(address: &str) -> Self {
        let config =
            ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(20))).build();
        Self { agent: ureq::Agent::new_with_config(config), base: format!("http://{address}") }
    }

    /// Posts a body; `None`: no answer came.
    pub fn send(&self, path: &str, media: &str, body: &str) -> Option<(u16, Value)> {
        let request = self.agent.post(format!("{}{path}", self.base)).header("content-type", media);
        let mut answer = request.send(body).ok()?;
        let status = answer.status().as_u16();
        let text = answer.body_mut().read_to_string().ok()?;
        Some((status, serde_json::from_str(&text).unwrap_or(Value::Null)))
    }

    /// Posts an event.
    pub fn event(&self, event: &Value) -> Option<(u16, Value)> {
        self.send("/v1/events", "application/json", &event.to_string())
    }

    /// Posts events as NDJSON.
    pub fn batch(&self, events: &[Value]) -> Option<(u16, Value)> {
        let lines: Vec<String> = events.iter().map(Value::to_string).collect();
        self.send("/v1/events/batch", "application/x-ndjson", &lines.join("\n"))
    }

    /// Posts an event until it is taken; its last status.
    #[track_caller]
    pub fn insist(&self, event: &Value, most: Duration) -> u16 {
        let until = Instant::now() + most;
        loop {
            match self.event(event) {
                Some((status @ (200 | 201 | 409), _)) => return status,
                other => assert!(Instant::now() < until, "not taken in {most:?}: {other:?}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// An event with an id, and a payload that tells which.
pub fn event(id: &str) -> Value {
    json!({"eventId": id, "action": "e2e.test", "actor": {"type": "user", "id": "u-1"}, "message": format!("payload of {id}"),
        "metadata": {"filler": "some text that makes the event about as long as real ones are, a few hundred bytes or so", "n": id.len()}})
}

/// Clients that post all the time, each event until it is acked; some are tampered retries, which must be refused.
pub struct Load {
    stop: Arc<AtomicBool>,
    /// Ids that were acked, with their payload.
    pub acked: Arc<Mutex<BTreeMap<String, String>>>,
    /// Tampered retries that were taken: there must be none.
    pub tampered: Arc<AtomicUsize>,
    /// Statuses seen.
    pub statuses: Arc<Mutex<BTreeMap<u16, usize>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts so many clients.
    pub fn start(address: &str, clients: usize, name: &str) -> Self {
        let load = Self {
            stop: Arc::new(AtomicBool::new(false)),
            acked: Arc::default(),
            tampered: Arc::default(),
            statuses: Arc::default(),
            threads: Vec::new(),
        };
        let threads = (0..clients).map(|index| {
            let (stop, acked, tampered, statuses) =
                (load.stop.clone(), load.acked.clone(), load.tampered.clone(), load.statuses.clone());
            let (client, name) = (Client::new(address), name.to_owned());
            std::thread::spawn(move || {
                for number in 0.. {
                    let id = format!("{name}-{index}-{number}");
                    let body = event(&id);
                    // Once begun, an event is retried until it is acked: that is the contract.
                    let until = Instant::now() + Duration::from_mins(1);
                    while Instant::now() < until {
                        if let Some((status, _)) = client.event(&body) {
                            *statuses.lock().expect("a lock").entry(status).or_default() += 1;
                            if matches!(status, 200 | 201) {
                                acked.lock().expect("a lock").insert(id.clone(), format!("payload of {id}"));
                                break;
                            }
                            assert_ne!(status, 409, "an honest retry of {id} was called a conflict");
                        }
                        std::thread::sleep(Duration::from_millis(10));
                    }
                    if number % 10 == 3 {
                        let mut other = body.clone();
                        other["message"] = json!("tampered");
                        if let Some((200..=299, _)) = client.event(&other) {
                            tampered.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
            })
        });
        let threads = threads.collect();
        Self { threads, ..load }
    }

    /// Events acked so far.
    pub fn count(&self) -> usize {
        self.acked.lock().expect("a lock").len()
    }

    /// Ends the clients; what was acked.
    #[track_caller]
    pub fn finish(self) -> BTreeMap<String, String> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a client failed");
        }
        assert_eq!(self.tampered.load(Ordering::Relaxed), 0, "tampered retries were taken");
        std::mem::take(&mut *self.acked.lock().expect("a lock"))
    }
}
