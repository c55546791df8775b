//! A sidecar on the network of its node: it takes events and tells of itself by Unix sockets, and has no port of anybody's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

const BINARY: &str = env!("CARGO_BIN_EXE_steno-sidecar");

struct Sidecar(Child);

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn begin(dir: &Path, more: &[&str]) -> Sidecar {
    let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let policy = "apiVersion: audit.steno.dev/v1alpha1\nkind: AuditPolicy\nmetadata: {name: shop, namespace: prod}\nspec:\n  kafka: {brokers: ['127.0.0.1:1'], topic: t}\n  sidecar: {drainTimeout: 1s}\n";
    fs::write(at("policy.yaml"), policy).unwrap();
    let mut command = Command::new(BINARY);
    command.args(["run", "--dir", &at("journal"), "--config", &at("policy.yaml"), "--log-level", "error"]);
    command.args(["--listen", "none", "--status", &format!("unix:{}", at("status.sock"))]).args(more);
    Sidecar(command.stderr(Stdio::null()).spawn().unwrap())
}

fn health(dir: &Path) -> Output {
    Command::new(BINARY).args(["health", "--socket", dir.join("status.sock").to_str().unwrap()]).output().unwrap()
}

fn ready(dir: &Path) {
    let until = Instant::now() + Duration::from_secs(30);
    while !health(dir).status.success() {
        assert!(Instant::now() < until, "it does not become ready");
        std::thread::yield_now();
    }
}

fn ask(socket: &Path, head: &str, body: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    let length = body.len();
    write!(stream, "{head} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// TCP ports on which a process listens.
fn ports(pid: u32) -> Vec<String> {
    let of = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let inodes: Vec<String> =
        of.filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())).collect();
    assert!(!inodes.is_empty(), "its Unix sockets at least");
    let tables = ["tcp", "tcp6"].map(|table| fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default());
    let lines = tables.iter().flat_map(|table| table.lines().skip(1)).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let listening = lines.filter(|line| line[3] == "0A" && inodes.iter().any(|inode| inode == line[9]));
    listening.map(|line| line[1].to_owned()).collect()
}

#[test]
fn it_serves_by_unix_sockets_alone_and_has_no_port() {
    let dir = tempfile::tempdir().unwrap();
    let events = dir.path().join("events.sock");
    let mut sidecar = begin(dir.path(), &["--socket", events.to_str().unwrap(), "--socket-mode", "0666"]);
    ready(dir.path());
    let answer = ask(&events, "POST /v1/events", r#"{"eventId":"one","action":"user.login"}"#);
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    assert_eq!(ports(sidecar.0.id()), Vec::<String>::new());
    for socket in ["events.sock", "status.sock"] {
        assert_eq!(fs::metadata(dir.path().join(socket)).unwrap().permissions().mode() & 0o777, 0o666, "{socket}");
    }
    let stats = ask(&dir.path().join("status.sock"), "GET /v1/stats", "");
    assert!(stats.starts_with("HTTP/1.1 200 "), "{stats}");
    // Killed, it leaves its sockets behind; the next one takes their place, and knows the event.
    sidecar.0.kill().unwrap();
    sidecar.0.wait().unwrap();
    assert!(events.exists() && !health(dir.path()).status.success());
    let sidecar = begin(dir.path(), &["--socket", events.to_str().unwrap()]);
    ready(dir.path());
    let answer = ask(&events, "POST /v1/events", r#"{"eventId":"one","action":"user.login"}"#);
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("duplicate_accepted"), "{answer}");
    assert_eq!(fs::metadata(&events).unwrap().permissions().mode() & 0o777, 0o660, "the default");
    drop(sidecar);
    // A further address that somebody has holds nothing up, and is taken once it can be had.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut sidecar = begin(dir.path(), &["--socket", events.to_str().unwrap(), "--also-status", &address]);
    ready(dir.path());
    drop(taken);
    let until = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(&address).is_err() {
        assert!(Instant::now() < until, "the further address is not taken");
        std::thread::yield_now();
    }
    Command::new("kill").arg(sidecar.0.id().to_string()).status().unwrap();
    sidecar.0.wait().unwrap();
    assert!(!events.exists() && !dir.path().join("status.sock").exists(), "it takes its sockets with it");
}

#[test]
fn what_cannot_serve_anybody_is_refused_with_the_fix() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |arguments: &[&str], word: &str| {
        let dir_at = dir.path().join("journal");
        let output = Command::new(BINARY)
            .args(["run", "--startup", "open", "--dir", dir_at.to_str().unwrap(), "--config", "/nowhere.yaml"])
            .args(arguments)
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains(word), "{told}");
    };
    refused(&["--listen", "none", "--status", "127.0.0.1:0"], "--socket");
    refused(&["--listen", "none", "--socket", "/nowhere/events.sock", "--status", "127.0.0.1:0"], "/nowhere/events.sock");
    let file = dir.path().join("file");
    fs::write(&file, "of somebody else").unwrap();
    refused(&["--listen", "none", "--socket", file.to_str().unwrap(), "--status", "127.0.0.1:0"], "is no socket");
    assert_eq!(fs::read_to_string(&file).unwrap(), "of somebody else");
    refused(&["--socket", "x", "--socket-mode", "0888"], "octal");
    refused(&["--socket", "x", "--socket-mode", "0077"], "from 0600 to 0777");
    refused(&["--listen", "0.0.0.0:0", "--status", "127.0.0.1:0"], "not a loopback address");
}
