//! A real PostgreSQL of a test's own.
use std::{
    net::TcpListener,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use crate::wait_for;

/// Password of the user `steno`.
pub const PASSWORD: &str = "pass word'\"\\";

/// A database server, TLS on, and a database `audit` that belongs to the user `steno`.
pub struct Postgres {
    root: TempDir,
    bin: PathBuf,
    port: u16,
    child: Option<Child>,
    /// Whom it runs as, where we are root: PostgreSQL refuses that.
    user: Option<(u32, u32)>,
}

impl Postgres {
    /// Makes one with a certificate, and starts it.
    #[track_caller]
    pub fn start(cert: &str, key: &str) -> Self {
        let fetch = concat!(env!("CARGO_MANIFEST_DIR"), "/postgres/fetch");
        let found = Command::new(fetch).output().expect("e2e/postgres/fetch runs");
        assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
        let bin = PathBuf::from(String::from_utf8_lossy(&found.stdout).trim());
        let root = tempfile::tempdir().expect("a directory");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port();
        let user = rustix::process::geteuid().is_root().then(|| {
            let passwd = std::fs::read_to_string("/etc/passwd").expect("users");
            let line = passwd.lines().find(|line| line.starts_with("postgres:")).expect("the user postgres, of the package");
            let number = |at: usize| line.split(':').nth(at).and_then(|id| id.parse().ok()).expect("an id");
            (number(2), number(3))
        });
        let mut server = Self { root, bin, port, child: None, user };
        let (data, password) = (server.data(), server.root.path().join("password"));
        std::fs::write(&password, PASSWORD).expect("the password is written");
        server.own(server.root.path());
        server.own(&password);
        let (data_at, password_at) = (data.display().to_string(), password.display().to_string());
        let made = server
            .command("initdb")
            .args(["-D", &data_at, "-U", "steno", "-E", "UTF8", "--locale=C", "-A", "scram-sha-256", "--pwfile", &password_at])
            .output();
        let made = made.expect("initdb runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        for (name, text) in [("server.crt", cert), ("server.key", key)] {
            let path = data.join(name);
            std::fs::write(&path, text).expect("a file is written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("its mode is set");
            server.own(&path);
        }
        server.up();
        server.sql_of("postgres", "CREATE DATABASE audit");
        server
    }

    /// Makes another database: its name, and further words of the statement.
    #[track_caller]
    pub fn database(&self, name: &str, more: &str) {
        self.sql_of("postgres", &format!("CREATE DATABASE {name} {more}"));
    }

    fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    fn own(&self, path: &Path) {
        if let Some((user, group)) = self.user {
            chown(path, Some(user), Some(group)).expect("the owner is set");
        }
    }

    fn command(&self, name: &str) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(self.bin.join(name));
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command.current_dir(self.root.path()).stdin(Stdio::null());
        command
    }

    /// Starts it, or starts it again.
    #[track_caller]
    pub fn up(&mut self) {
        // Where a killed one left its process id.
        let _ = std::fs::remove_file(self.data().join("postmaster.pid"));
        let log = std::fs::File::options().create(true).append(true).open(self.root.path().join("log")).expect("a log");
        let child = self
            .command("postgres")
            .args(["-D", &self.data().display().to_string(), "-p", &self.port.to_string()])
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "ssl=on"])
            .args(["-c", &format!("unix_socket_directories={}", self.root.path().display())])
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn();
        self.child = Some(child.expect("postgres starts"));
        wait_for("PostgreSQL to take connections", Duration::from_mins(1), || {
            let asked = self.command("pg_isready").args(["-h", "127.0.0.1", "-p", &self.port.to_string()]).output();
            asked.is_ok_and(|asked| asked.status.success())
        });
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What a statement gives, a line for each row.
    #[track_caller]
    pub fn sql(&self, text: &str) -> Vec<String> {
        self.sql_of("audit", text)
    }

    /// Reads in a transaction that stays open as long as this lives.
    pub fn reader(&self, text: &str) -> Reader {
        let mut child = self
            .command("psql")
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "steno", "-d", "audit", "-At", "-q"])
            .env("PGPASSWORD", PASSWORD)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("psql starts");
        let mut input = child.stdin.take().expect("its input");
        std::io::Write::write_all(&mut input, format!("BEGIN;\n{text};\n").as_bytes()).expect("it reads");
        let mut line = String::new();
        let output = child.stdout.take().expect("its output");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).expect("it answers");
        Reader { child, _input: input }
    }

    #[track_caller]
    fn sql_of(&self, database: &str, text: &str) -> Vec<String> {
        self.ask(PASSWORD, database, text)
    }

    /// The same with another password.
    #[track_caller]
    pub fn sql_as(&self, password: &str, text: &str) -> Vec<String> {
        self.ask(password, "audit", text)
    }

    #[track_caller]
    fn ask(&self, password: &str, database: &str, text: &str) -> Vec<String> {
        let asked = self
            .command("psql")
            .env("PGPASSWORD", password)
            .args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", &self.port.to_string()])
            .args(["-U", "steno", "-d", database, "-c", text])
            .output()
            .expect("psql runs");
        assert!(asked.status.success(), "{text}: {}", String::from_utf8_lossy(&asked.stderr));
        String::from_utf8_lossy(&asked.stdout).lines().map(str::to_owned).collect()
    }

    /// Has the server and all its processes stand still (`true`), or go on.
    pub fn hang(&self, hang: bool) {
        use rustix::process::{Pid, Signal, kill_process};
        let Some(id) = self.child.as_ref().map(Child::id) else { return };
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).expect("its children");
        let children = children.split_whitespace().filter_map(|id| id.parse().ok());
        for id in std::iter::once(id as i32).chain(children) {
            let pid = Pid::from_raw(id).expect("a process");
            kill_process(pid, if hang { Signal::STOP } else { Signal::CONT }).expect("the signal is sent");
        }
    }

    /// `kill -9` of the server; its other processes end with it.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.root.path().join("log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(20).collect();
            eprintln!("--- PostgreSQL's log, its end ---");
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// A client with an open transaction.
pub struct Reader {
    child: Child,
    _input: std::process::ChildStdin,
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
