//! The real sidecar, as a process.
use std::{
    fs::File,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::wait_for;

/// A control group that bounds memory: version 2, or the memory controller of version 1.
struct MemoryLimit(PathBuf);

impl MemoryLimit {
    fn new(bytes: u64) -> Self {
        let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let (base, file) =
            if unified { ("/sys/fs/cgroup", "memory.max") } else { ("/sys/fs/cgroup/memory", "memory.limit_in_bytes") };
        let dir = Path::new(base).join(format!("steno-e2e-{}", std::process::id()));
        if unified {
            let _ = std::fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
        }
        std::fs::create_dir_all(&dir).expect("a control group; this test needs root");
        std::fs::write(dir.join(file), bytes.to_string()).expect("the limit is set");
        Self(dir)
    }

    /// Joins the group, then becomes the program.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(self.0.join("cgroup.procs")).arg(program);
        command
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// A sidecar: its directory, its configuration, and its process while it runs.
pub struct Sidecar {
    root: TempDir,
    journal: PathBuf,
    ports: (u16, u16),
    child: Option<Child>,
    binary: PathBuf,
    env: Vec<(&'static str, PathBuf)>,
    memory: Option<MemoryLimit>,
    starts_open: bool,
}

fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("STENO_SIDECAR") {
        return path.into();
    }
    // Test binaries are in <target>/<profile>/deps.
    let own = std::env::current_exe().expect("a test has a path");
    let path = own.parent().and_then(Path::parent).expect("a target directory").join("steno-sidecar");
    assert!(path.exists(), "{} is missing: run `cargo build -p steno-app` first, or set STENO_SIDECAR", path.display());
    path
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// A policy for tests: the brokers, the topic, and further lines of its spec.
pub fn policy(brokers: &str, topic: &str, more: &str) -> String {
    format!(
        "apiVersion: audit.steno.dev/v1alpha1\nkind: AuditPolicy\nmetadata: {{name: e2e, namespace: e2e}}\nspec:\n  kafka:\n    brokers: ['{brokers}']\n    topic: {topic}\n{more}"
    )
}

impl Sidecar {
    /// Starts one with a policy.
    #[track_caller]
    pub fn start(policy: &str) -> Self {
        let mut sidecar = Self::prepare(policy);
        sidecar.up();
        sidecar
    }

    /// Lays one out without starting it.
    pub fn prepare(policy: &str) -> Self {
        let root = tempfile::tempdir().expect("a directory");
        let journal = root.path().join("journal");
        std::fs::create_dir_all(root.path().join("config")).expect("a directory");
        std::fs::create_dir_all(root.path().join("secrets")).expect("a directory");
        let sidecar = Self {
            root,
            journal,
            ports: (free_port(), free_port()),
            child: None,
            binary: binary(),
            env: Vec::new(),
            memory: None,
            starts_open: false,
        };
        sidecar.write_policy(policy);
        sidecar
    }

    /// Takes the policy away, as where a ConfigMap is not there yet; such a sidecar starts open.
    pub fn without_policy(self) -> Self {
        std::fs::remove_file(self.config()).expect("the policy goes");
        self
    }

    /// Has each sync of its disk take as long as [`Self::set_sync_delay`] says. Needs a C compiler.
    #[track_caller]
    pub fn with_slow_sync(mut self) -> Self {
        let library = self.root.path().join("slow_sync.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/slow_sync.c");
        let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl").status();
        assert!(built.is_ok_and(|status| status.success()), "slow_sync.c cannot be compiled; this test needs a C compiler");
        self.env = vec![("LD_PRELOAD", library), ("STENO_SYNC_DELAY_FILE", self.delay_file())];
        self
    }

    fn delay_file(&self) -> PathBuf {
        self.root.path().join("sync-delay")
    }

    /// From the next sync on each waits so long first.
    pub fn set_sync_delay(&self, delay: Duration) {
        std::fs::write(self.delay_file(), delay.as_millis().to_string()).expect("the delay is written");
    }

    /// Runs it with so much memory, as a container does. Needs root.
    #[track_caller]
    pub fn within_memory(mut self, bytes: u64) -> Self {
        self.memory = Some(MemoryLimit::new(bytes));
        self
    }

    /// Takes events on this port.
    pub fn on_port(mut self, port: u16) -> Self {
        self.ports.0 = port;
        self
    }

    /// Has it begin whatever it finds, as in a pod.
    pub fn that_starts_open(mut self) -> Self {
        self.starts_open = true;
        self
    }

    /// Sets a variable of its environment.
    pub fn with_env(mut self, name: &'static str, value: &str) -> Self {
        self.env.push((name, value.into()));
        self
    }

    /// Puts the journal elsewhere.
    pub fn with_journal(mut self, dir: &Path) -> Self {
        self.journal = dir.to_owned();
        self
    }

    /// Writes the policy as a ConfigMap's update does: another file, renamed.
    pub fn write_policy(&self, policy: &str) {
        let (part, path) = (self.root.path().join("config/part"), self.config());
        std::fs::write(&part, policy).expect("the policy is written");
        std::fs::rename(part, path).expect("the policy is renamed");
    }

    fn config(&self) -> PathBuf {
        self.root.path().join("config/policy.yaml")
    }

    /// Where secrets are.
    pub fn secrets(&self) -> PathBuf {
        self.root.path().join("secrets")
    }

    /// Puts a Secret's key there, or another value in its place, as the kubelet does: by one rename.
    pub fn put_secret(&self, secret: &str, key: &str, value: impl AsRef<[u8]>) {
        let dir = self.secrets().join(secret);
        std::fs::create_dir_all(&dir).expect("a directory");
        let part = dir.join("part");
        std::fs::write(&part, value).expect("the secret is written");
        std::fs::rename(part, dir.join(key)).expect("the secret is renamed");
    }

    /// Where the journal is.
    pub fn journal(&self) -> &Path {
        &self.journal
    }

    /// What it wrote to its log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.root.path().join("log")).unwrap_or_default()
    }

    /// Starts it, or starts it again, and waits until it is ready.
    #[track_caller]
    pub fn up(&mut self) {
        self.up_until("/readyz");
    }

    /// Starts it and waits for a path of the status port to say yes.
    #[track_caller]
    pub fn up_until(&mut self, path: &str) {
        let log = File::options().create(true).append(true).open(self.root.path().join("log")).expect("a log");
        let mut command = match &self.memory {
            Some(limit) => limit.command(&self.binary),
            None => Command::new(&self.binary),
        };
        let child = command
            .arg("run")
            .arg("--config")
            .arg(self.config())
            .arg("--dir")
            .arg(&self.journal)
            .arg("--secrets")
            .arg(self.secrets())
            .args(["--startup", if self.config().exists() && !self.starts_open { "closed" } else { "open" }])
            .args(["--listen", &self.ingest(), "--status", &format!("127.0.0.1:{}", self.ports.1)])
            .env("STENO_TERMINATION_LOG", self.root.path().join("termination"))
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("the sidecar starts");
        self.child = Some(child);
        wait_for("the sidecar to be ready", Duration::from_mins(1), || {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            assert!(ended.is_none(), "the sidecar ended: {ended:?}\n{}", self.log());
            self.get(path).is_some_and(|(status, _)| status == 200)
        });
    }

    /// Host and port that take events.
    pub fn ingest(&self) -> String {
        format!("127.0.0.1:{}", self.ports.0)
    }

    /// Reads from the status port.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        let config =
            ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(5))).build();
        let mut answer =
            ureq::Agent::new_with_config(config).get(format!("http://127.0.0.1:{}{path}", self.ports.1)).call().ok()?;
        Some((answer.status().as_u16(), answer.body_mut().read_to_string().ok()?))
    }

    /// `/v1/stats`.
    #[track_caller]
    pub fn stats(&self) -> Value {
        let (_, body) = self.get("/v1/stats").expect("the stats answer");
        serde_json::from_str(&body).expect("the stats are JSON")
    }

    /// State of the breaker.
    #[track_caller]
    pub fn breaker(&self) -> String {
        self.stats()["breaker"]["state"].as_str().unwrap_or_default().to_owned()
    }

    /// A metric's value, by its line's start.
    #[track_caller]
    pub fn metric(&self, line: &str) -> f64 {
        let (_, text) = self.get("/metrics").expect("the metrics answer");
        // A labelled line is there only once it has counted something.
        text.lines().find_map(|found| found.strip_prefix(line)).and_then(|rest| rest.trim().parse().ok()).unwrap_or(0.0)
    }

    /// Waits until everything is delivered.
    #[track_caller]
    pub fn drained(&self, most: Duration) {
        wait_for("the spool to be delivered", most, || {
            self.stats()["sinks"].as_array().is_some_and(|sinks| sinks.iter().all(|sink| sink["backlog"] == 0))
        });
    }

    /// Runs the binary as a tool; its exit code and what it said.
    pub fn tool(&self, arguments: &[&str]) -> (i32, String) {
        let done = Command::new(&self.binary).args(arguments).output().expect("the tool runs");
        let said = [done.stdout, done.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        (done.status.code().unwrap_or(-1), said.concat())
    }

    /// Bytes that are resident and of no file: what nobody can take from it.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or_default() << 10
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends SIGTERM; does not wait.
    pub fn term(&self) {
        let pid = rustix::process::Pid::from_raw(self.pid() as i32).expect("it runs");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("the signal is sent");
    }

    /// Waits for its end; its exit code.
    #[track_caller]
    pub fn ended(&mut self, most: Duration) -> Option<i32> {
        let mut code = None;
        wait_for("the sidecar to end", most, || {
            code = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            code.is_some()
        });
        self.child = None;
        code.and_then(|status| status.code())
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- the sidecar's log, its end ---");
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}
