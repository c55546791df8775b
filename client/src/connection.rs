//! Connections to the sidecar: kept and used again, over TCP or a Unix socket.
use std::path::PathBuf;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::{TcpStream, UnixStream};

use crate::Error;

type Sender = http1::SendRequest<Full<Bytes>>;

/// Where the sidecar is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// Host and port.
    Tcp(String),
    /// A Unix socket.
    Unix(PathBuf),
}

/// Connections that wait to be used again.
#[derive(Debug)]
pub(crate) struct Pool {
    address: Address,
    idle: Mutex<Vec<Sender>>,
}

/// What is asked.
pub(crate) struct Call<'a> {
    pub(crate) method: &'static str,
    pub(crate) path: &'a str,
    pub(crate) media: &'static str,
    pub(crate) body: Bytes,
    pub(crate) token: Option<&'a str>,
}

/// Connections that are kept.
const IDLE: usize = 8;

// === impl Address ===

impl Address {
    /// `http://127.0.0.1:9600` or `unix:/path`.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let bad = || Error::Address(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(bad()) } else { Ok(Self::Unix(path.into())) };
        }
        let host = text.strip_prefix("http://").ok_or_else(bad)?.trim_end_matches('/');
        let has_port = host.rsplit_once(':').is_some_and(|(name, port)| !name.is_empty() && port.parse::<u16>().is_ok());
        if has_port { Ok(Self::Tcp(host.to_owned())) } else { Err(bad()) }
    }
}

// === impl Pool ===

impl Pool {
    pub(crate) const fn new(address: Address) -> Self {
        Self { address, idle: Mutex::new(Vec::new()) }
    }

    fn host(&self) -> &str {
        match &self.address {
            Address::Tcp(host) => host,
            Address::Unix(_) => "localhost",
        }
    }

    async fn connect(&self) -> Result<Sender, Error> {
        let unreachable = |error: &dyn std::fmt::Display| Error::Unreachable(error.to_string());
        macro_rules! over {
            ($stream:expr) => {{
                let (sender, connection) = http1::handshake(TokioIo::new($stream)).await.map_err(|error| unreachable(&error))?;
                tokio::spawn(connection);
                Ok(sender)
            }};
        }
        match &self.address {
            Address::Tcp(host) => {
                let stream = TcpStream::connect(host).await.map_err(|error| unreachable(&error))?;
                let _ = stream.set_nodelay(true);
                over!(stream)
            }
            Address::Unix(path) => over!(UnixStream::connect(path).await.map_err(|error| unreachable(&error))?),
        }
    }

    /// Asks once. A connection that the sidecar closed meanwhile costs a second try on a new one: asking twice does no harm.
    pub(crate) async fn ask(&self, call: &Call<'_>) -> Result<(u16, Bytes), Error> {
        let kept = self.idle.lock().pop().filter(|sender| !sender.is_closed());
        if let Some(sender) = kept
            && let Ok(answer) = self.ask_on(sender, call).await
        {
            return Ok(answer);
        }
        self.ask_on(self.connect().await?, call).await
    }

    async fn ask_on(&self, mut sender: Sender, call: &Call<'_>) -> Result<(u16, Bytes), Error> {
        let unreachable = |error: &dyn std::fmt::Display| Error::Unreachable(error.to_string());
        sender.ready().await.map_err(|error| unreachable(&error))?;
        let mut request = Request::builder().method(call.method).uri(call.path).header(header::HOST, self.host());
        if !call.body.is_empty() {
            request = request.header(header::CONTENT_TYPE, call.media);
        }
        if let Some(token) = call.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(call.body.clone())).map_err(|error| Error::Answer(error.to_string()))?;
        let answer = sender.send_request(request).await.map_err(|error| unreachable(&error))?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.map_err(|error| unreachable(&error))?.to_bytes();
        let mut idle = self.idle.lock();
        if !sender.is_closed() && idle.len() < IDLE {
            idle.push(sender);
        }
        Ok((status, body))
    }
}
