//! A sidecar in this process, with nobody to deliver to, and clients of raw bytes.
#![allow(dead_code)]
use std::{
    io::{Read, Write},
    net::TcpStream,
};

use serde_json::Value;
use steno_app::{
    http::Listener,
    identity::Identity,
    place::Place,
    policy::Compiled,
    reload::{Reloader, content},
    service::{Service, bind_ingest, bind_socket},
    signed::Source,
};
use steno_crds::parse;
use steno_deliver::kafka::Secrets;

/// A sidecar in this process, with nobody to deliver to.
pub(crate) struct Rig {
    pub(crate) address: String,
    pub(crate) status: String,
    pub(crate) socket: std::path::PathBuf,
    dir: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    reloader: Option<Reloader>,
}

impl Rig {
    /// Requests may take a minute, so that a machine whose disk stalls for some seconds fails no test.
    pub(crate) fn new(more: &str) -> Self {
        Self::with_request_timeout("1m", more)
    }

    pub(crate) fn with_request_timeout(timeout: &str, more: &str) -> Self {
        let text = format!(
            "apiVersion: audit.steno.dev/v1alpha1\nkind: AuditPolicy\nmetadata: {{name: t, namespace: prod}}\nspec:\n  kafka: {{brokers: ['127.0.0.1:1'], topic: audit}}\n  sidecar: {{requestTimeout: {timeout}}}\n{more}"
        );
        let parsed = parse(&text).unwrap_or_else(|faults| panic!("{faults:?}"));
        let dir = tempfile::tempdir().unwrap();
        let (identity, secrets) = (Identity::from_env("prod"), Secrets(dir.path().join("secrets")));
        std::fs::create_dir_all(dir.path().join("secrets/query")).unwrap();
        std::fs::write(dir.path().join("secrets/query/token"), "s3cret-token\n").unwrap();
        std::fs::create_dir_all(dir.path().join("secrets/spool")).unwrap();
        std::fs::write(dir.path().join("secrets/spool/one"), [7; 32]).unwrap();
        std::fs::write(dir.path().join("policy.yaml"), text).unwrap();
        let seen = content(&dir.path().join("policy.yaml"), &secrets.0);
        let compiled = Compiled::new(parsed.config, parsed.unknown, &identity, &secrets).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let socket = dir.path().join("s.sock");
        let (address, status, reloader) = runtime.block_on(async {
            let mut service = Service::start(
                compiled,
                &identity,
                &secrets,
                Place::only(&dir.path().join("journal")).unwrap(),
                false,
                steno_commit::Bell::default(),
            )
            .unwrap();
            let listener = bind_ingest("127.0.0.1:0").await.unwrap();
            let status = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let reloader = service.reloader(&identity, &secrets, (Source::default(), seen), false);
            let found = (listener.local_addr().unwrap().to_string(), status.local_addr().unwrap().to_string(), reloader);
            service.ingest(Listener::Tcp(listener), true);
            service.ingest(Listener::Unix(bind_socket(&socket, 0o660).unwrap()), false);
            service.status(Listener::Tcp(status));
            service.intents().await;
            std::mem::forget(service);
            found
        });
        Self { address, status, socket, dir, runtime, reloader: Some(reloader) }
    }

    /// Changes the file of the configuration, which says what this sidecar was started with.
    pub(crate) fn change(&self, from: &str, to: &str) {
        let path = self.dir.path().join("policy.yaml");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(path, text.replace(from, to)).unwrap();
    }

    /// Begins to follow the file of the configuration.
    pub(crate) fn watch(&mut self) {
        self.runtime.spawn(self.reloader.take().unwrap().watch(self.dir.path().join("policy.yaml")));
    }

    pub(crate) fn raw(&self, bytes: &[u8]) -> Answered {
        raw(TcpStream::connect(&self.address).unwrap(), bytes)
    }

    pub(crate) fn post(&self, path: &str, headers: &str, body: &[u8]) -> Answered {
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
        self.raw(&[head.as_bytes(), body].concat())
    }

    pub(crate) fn ask(&self, path: &str, headers: &str) -> Answered {
        self.raw(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n").as_bytes())
    }

    /// The body of an answer, as it is.
    pub(crate) fn text(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    pub(crate) fn event(&self, body: &str) -> Answered {
        self.post("/v1/events", "Content-Type: application/json\r\n", body.as_bytes())
    }

    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.status).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }
}

/// Status, head and body of an answer.
pub(crate) type Answered = (u16, String, Value);

/// Sends bytes and reads one answer.
pub(crate) fn raw(mut stream: impl Read + Write, bytes: &[u8]) -> Answered {
    // The server may answer and close before all is sent.
    let _ = stream.write_all(bytes);
    let mut got = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&got).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                line.to_ascii_lowercase().strip_prefix("content-length: ").and_then(|n| n.parse::<usize>().ok())
            });
            if body.len() >= length.unwrap_or(0) {
                let status = head[9..12].parse().unwrap();
                return (status, head.to_owned(), serde_json::from_str(body).unwrap_or(Value::Null));
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => panic!("no answer to {:?}: {text:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(120)])),
            Ok(count) => got.extend_from_slice(&buffer[..count]),
        }
    }
}

pub(crate) const JSON: &str = "Content-Type: application/json\r\n";
pub(crate) const GOOD: &str = r#"{"action":"a"}"#;
