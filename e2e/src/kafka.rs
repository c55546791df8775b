//! One real Kafka for a test process.
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use tempfile::TempDir;

/// A broker and its data.
pub struct Kafka {
    dir: TempDir,
    base: u16,
    /// Address that pods reach it by.
    pods: Option<String>,
    /// Further lines of its settings.
    more: String,
    /// The first broker's folder, if this is a second one.
    join: Option<PathBuf>,
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kafka")
}

#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().expect("the script starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?} failed\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

impl Kafka {
    /// Starts one. Bases of ports are a process's own, so that test binaries can run side by side.
    #[track_caller]
    pub fn start() -> Self {
        Self::start_for(None)
    }

    /// Starts one that pods reach by an address of the node.
    #[track_caller]
    pub fn start_for(pods: Option<&str>) -> Self {
        Self::make(pods, "", None)
    }

    /// Starts one with further lines of its settings, which count more than those of these tests.
    #[track_caller]
    pub fn with_settings(more: &str) -> Self {
        Self::make(None, more, None)
    }

    /// Starts a second broker of this cluster, node 2.
    #[track_caller]
    pub fn second_broker(&self) -> Self {
        Self::make(None, "", Some(self.dir.path().to_owned()))
    }

    #[track_caller]
    fn make(pods: Option<&str>, more: &str, join: Option<PathBuf>) -> Self {
        static NEXT: OnceLock<std::sync::atomic::AtomicU16> = OnceLock::new();
        let next = NEXT.get_or_init(|| ((std::process::id() % 500) as u16 * 20 + 20_000).into());
        let base = next.fetch_add(6, std::sync::atomic::Ordering::Relaxed);
        let kafka =
            Self { dir: tempfile::tempdir().expect("a directory"), base, pods: pods.map(str::to_owned), more: more.into(), join };
        kafka.up();
        kafka
    }

    /// Starts it, or starts it again with the same data.
    #[track_caller]
    pub fn up(&self) {
        let mut up = Command::new(scripts().join("up"));
        up.arg(self.dir.path()).env("KAFKA_PORT_BASE", self.base.to_string());
        if let Some(pods) = &self.pods {
            up.env("KAFKA_POD_ADDRESS", pods);
        }
        if let Some(join) = &self.join {
            up.env("KAFKA_JOIN", join);
        }
        up.env("KAFKA_MORE", &self.more);
        run(&mut up);
    }

    /// Ends it in good order.
    #[track_caller]
    pub fn down(&self) {
        run(Command::new(scripts().join("down")).arg(self.dir.path()));
    }

    /// Ends it as a crash does.
    #[track_caller]
    pub fn kill(&self) {
        run(Command::new(scripts().join("down")).arg(self.dir.path()).arg("KILL"));
    }

    /// Has it stand still, connections open and all, or go on.
    #[track_caller]
    pub fn pause(&self, is_paused: bool) {
        use rustix::process::{Pid, Signal, kill_process};
        let text = std::fs::read_to_string(self.dir.path().join("kafka.pid")).expect("a broker runs");
        let pid = text.trim().parse().ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, if is_paused { Signal::STOP } else { Signal::CONT }).expect("the signal is sent");
    }

    /// An administrator's action; see `kafka/README.md`.
    #[track_caller]
    pub fn admin(&self, arguments: &[&str]) -> String {
        run(Command::new(scripts().join("admin")).arg(self.dir.path()).args(arguments))
    }

    /// Makes a topic with one partition.
    #[track_caller]
    pub fn topic(&self, name: &str) {
        self.admin(&["topic-create", name, "1"]);
    }

    /// Where the plain listener is.
    pub fn plain(&self) -> String {
        format!("127.0.0.1:{}", self.base)
    }

    /// Where pods find it.
    pub fn for_pods(&self) -> String {
        format!("{}:{}", self.pods.as_deref().unwrap_or("127.0.0.1"), self.base + 5)
    }

    /// Where the listener is that wants a client certificate.
    pub fn tls(&self) -> String {
        format!("127.0.0.1:{}", self.base + 1)
    }

    /// Where SASL over TLS is.
    pub fn sasl_tls(&self) -> String {
        format!("127.0.0.1:{}", self.base + 2)
    }

    /// Where SASL without TLS is.
    pub fn sasl(&self) -> String {
        format!("127.0.0.1:{}", self.base + 3)
    }

    /// Lays out secrets as a pod mounts them: `kafka/{ca.pem,client.pem,client.key,password}`.
    pub fn secrets(&self, dir: &Path) {
        let to = dir.join("kafka");
        std::fs::create_dir_all(&to).expect("a directory");
        for name in ["ca.pem", "client.pem", "client.key"] {
            std::fs::copy(self.dir.path().join("tls").join(name), to.join(name)).expect("a certificate");
        }
        std::fs::write(to.join("password"), "s3cr3t-e2e\n").expect("a password");
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        let _ = Command::new(scripts().join("down")).arg(self.dir.path()).arg("KILL").output();
    }
}
