//! The processes that are measured.
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rdkafka::{mocking::MockCluster, producer::DefaultProducerContext};

/// A baseline's server in a process of its own.
pub struct Bare {
    child: Child,
    pub address: String,
}

/// The sidecar.
pub struct Sidecar {
    child: Child,
    pub address: String,
    pub status: String,
    pub ready_in: Duration,
    _dir: Option<tempfile::TempDir>,
}

/// CPU time of a process, from its `stat`.
pub fn cpu_of(pid: &str) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or_default();
    // USER_HZ is 100 on Linux.
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

impl Bare {
    /// `echo` or `durable`.
    pub fn start(which: &str) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?).arg(which).stdout(Stdio::piped()).spawn()?;
        let mut address = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut address)?;
        Ok(Self { child, address: address.trim().to_owned() })
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Time to drain, as a pod has it by default, and some more for a slow machine.
const GRACE: Duration = Duration::from_mins(1);

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn is_ready(address: &str) -> bool {
    get(address, "/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// The answer to a GET.
fn get(address: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    let mut text = String::new();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())?;
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// An embedded Kafka with the topic that sidecars here deliver to.
pub fn kafka() -> anyhow::Result<MockCluster<'static, DefaultProducerContext>> {
    let cluster = MockCluster::new(1).map_err(|error| anyhow::anyhow!("{error}"))?;
    cluster.create_topic("bench", 4, 1).map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(cluster)
}

impl Sidecar {
    /// Starts one that delivers to `place` (brokers and directory), or to nobody.
    pub fn start(binary: &Path, place: Option<(&str, &Path, u64)>) -> anyhow::Result<Self> {
        Self::start_with(binary, place, "AtLeastOnce", "")
    }

    /// The same, with further lines of the policy's spec.
    pub fn start_with(binary: &Path, place: Option<(&str, &Path, u64)>, guarantee: &str, more: &str) -> anyhow::Result<Self> {
        let own = if place.is_none() { Some(tempfile::tempdir()?) } else { None };
        let root = place.map(|(_, dir, _)| dir).or(own.as_ref().map(tempfile::TempDir::path)).context("no directory")?.to_owned();
        let brokers = place.map_or("127.0.0.1:1", |(brokers, _, _)| brokers);
        let spool = place.map_or(8192, |(_, _, spool)| spool);
        let policy = format!(
            "apiVersion: audit.steno.dev/v1alpha1\nkind: AuditPolicy\nmetadata: {{name: bench, namespace: bench}}\nspec:\n  kafka: {{brokers: ['{brokers}'], topic: bench, guarantee: {guarantee}}}\n  spool: {{maxBytes: {spool}Mi}}\n  breaker: {{cooldown: 1s}}\n  sidecar: {{requestLogRate: 0, logLevel: error}}\n{more}"
        );
        std::fs::write(root.join("policy.yaml"), policy)?;
        let (ingest, status) = (format!("127.0.0.1:{}", free_port()?), format!("127.0.0.1:{}", free_port()?));
        let begun = Instant::now();
        let child = Command::new(binary)
            .args(["run", "--listen", &ingest, "--status", &status, "--log-level", "error", "--config"])
            .arg(root.join("policy.yaml"))
            .arg("--dir")
            .arg(root.join("journal"))
            .stderr(std::fs::File::create(root.join("sidecar.log"))?)
            .spawn()
            .context("the sidecar cannot be started")?;
        while !is_ready(&status) {
            anyhow::ensure!(begun.elapsed() < Duration::from_secs(30), "the sidecar is not ready");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Self { child, address: ingest, status, ready_in: begun.elapsed(), _dir: own })
    }

    /// Open file descriptors, but for the journal's segments and files of ids that are there: these are as many as the backlog needs, up to the bound of the spool.
    /// One of a file that is gone counts.
    pub fn descriptors(&self) -> usize {
        let links = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).into_iter().flatten().filter_map(Result::ok);
        let is_journal = |target: &Path| {
            let name = target.file_name().unwrap_or_default().to_string_lossy();
            ["seg-", "spare-", "idx-"].iter().any(|start| name.starts_with(start)) && !name.ends_with(" (deleted)")
        };
        links.filter(|link| !std::fs::read_link(link.path()).is_ok_and(|target| is_journal(&target))).count()
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap_or_default() * 1024
    }

    /// CPU time so far.
    pub fn cpu(&self) -> Duration {
        cpu_of(&self.child.id().to_string())
    }

    /// The status port's answer; empty where there is none.
    pub fn ask(&self, path: &str) -> String {
        get(&self.status, path).unwrap_or_default()
    }

    /// A number in `/v1/stats`, by JSON pointer.
    pub fn stat(&self, pointer: &str) -> u64 {
        let text = self.ask("/v1/stats");
        let body = text.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
        let stats: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
        stats.pointer(pointer).and_then(serde_json::Value::as_u64).unwrap_or_default()
    }

    /// Ends it as Kubernetes does: SIGTERM, then time to drain, then it is killed, which is an error.
    pub fn end(&mut self) -> anyhow::Result<()> {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), rustix::process::Signal::TERM)?;
        let begun = Instant::now();
        let ended = loop {
            match self.child.try_wait()? {
                Some(ended) => break ended,
                None if begun.elapsed() > GRACE => {
                    self.stop();
                    anyhow::bail!("the sidecar did not end within {} s", GRACE.as_secs());
                }
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        anyhow::ensure!(ended.success(), "the sidecar ended with {ended}");
        Ok(())
    }

    /// Kills it.
    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.stop();
    }
}
