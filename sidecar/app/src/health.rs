//! `steno-sidecar health`: what a probe runs in an image that has no shell.
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;

use crate::args::HealthArgs;

/// How long the answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Exit 0 where the answer is 200.
pub fn health(args: &HealthArgs) -> anyhow::Result<ExitCode> {
    let Some(socket) = &args.socket else {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
        let stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("nobody listens on {address}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        return ask(stream, args);
    };
    let stream = UnixStream::connect(socket).with_context(|| format!("nobody listens on {}", socket.display()))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    ask(stream, args)
}

fn ask(mut stream: impl Read + Write, args: &HealthArgs) -> anyhow::Result<ExitCode> {
    write!(stream, "GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", args.path)?;
    let mut answer = Vec::new();
    stream.take(64 << 10).read_to_end(&mut answer)?;
    if answer.starts_with(b"HTTP/1.1 200") {
        return Ok(ExitCode::SUCCESS);
    }
    let answer = String::from_utf8_lossy(&answer);
    anyhow::bail!("{} says: {}", args.path, answer.lines().next().unwrap_or("nothing"));
}
