//! Accepting connections, within a bound, until told to stop.
use std::{future::Future, io, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use hyper::{
    Request,
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::GracefulConnection,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{Semaphore, watch},
};
use tokio_rustls::TlsAcceptor;

use super::{Answer, sniff::sniff};
use crate::listeners::Access;

/// Where connections come from.
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
    /// TCP, with TLS where the policy says so just now.
    Guarded(TcpListener, Arc<ArcSwap<Access>>),
}

/// Tells listeners and connections to end; `true` once they should.
pub type Stop = watch::Receiver<bool>;

/// How long a connection may take for its first bytes and for each head, and may idle between requests.
const HEAD: Duration = Duration::from_secs(15);
/// Most bytes of a head; more is 431.
const HEAD_BYTES: usize = 16 << 10;
/// Streams of an HTTP/2 connection, bytes that it may send ahead of what is read, and bytes of an answer that wait for it.
const STREAMS: u32 = 16;
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 128 << 10;
const SEND_BUFFER: usize = 64 << 10;
/// Most headers.
const HEADERS: usize = 64;

/// Serves connections with `handle` until told to stop; then waits for requests that are being answered.
pub async fn serve<H, F>(
    listener: Listener,
    most: usize,
    handle: H,
    gauge: prometheus_client::metrics::gauge::Gauge,
    mut stop: Stop,
) where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(most));
    let mut fails = 0u32;
    loop {
        // Beyond the bound connections wait in the kernel's queue.
        let place = tokio::select! {
            place = room.clone().acquire_owned() => place,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let Ok(place) = place else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok(io) => {
                fails = 0;
                let (handle, stop, gauge) = (handle.clone(), stop.clone(), gauge.clone());
                gauge.inc();
                tokio::spawn(async move {
                    match io {
                        Accepted::Tcp(io) => {
                            let is_local = io.peer_addr().is_ok_and(|peer| peer.ip().to_canonical().is_loopback());
                            connection(io, handle, stop, is_local).await;
                        }
                        Accepted::Unix(io) => connection(io, handle, stop, true).await,
                        Accepted::Guarded(io, stop) => connection(io, handle, stop, false).await,
                        Accepted::Tls(io, config, stop) => {
                            let shaking = tokio::time::timeout(HEAD, TlsAcceptor::from(config).accept(io));
                            // Who does not speak TLS, or has no certificate that counts, is not logged: anybody can.
                            if let Ok(Ok(io)) = shaking.await {
                                connection(io, handle, stop, false).await;
                            }
                        }
                    }
                    gauge.dec();
                    drop(place);
                });
            }
            Err(error) => {
                // Too many open files and the like pass; do not spin meanwhile.
                fails += 1;
                if fails.is_power_of_two() {
                    tracing::warn!(%error, "a connection could not be accepted");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    // All places free: all requests are answered.
    let _ = tokio::time::timeout(Duration::from_secs(10), room.acquire_many(most as u32)).await;
}

enum Accepted {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
    Guarded(tokio::net::TcpStream, Stop),
    Tls(tokio::net::TcpStream, Arc<rustls::ServerConfig>, Stop),
}

impl Listener {
    /// The same on the runtime that this is called on.
    ///
    /// # Errors
    /// The reactor does not take it.
    pub fn adopt(self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(listener) => Self::Tcp(TcpListener::from_std(listener.into_std()?)?),
            Self::Unix(listener) => Self::Unix(UnixListener::from_std(listener.into_std()?)?),
            Self::Guarded(listener, access) => Self::Guarded(TcpListener::from_std(listener.into_std()?)?, access),
        })
    }

    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                let _ = stream.set_nodelay(true);
                Ok(Accepted::Tcp(stream))
            }
            Self::Guarded(listener, access) => {
                let (stream, _) = listener.accept().await?;
                let _ = stream.set_nodelay(true);
                let access = access.load();
                let over = access.over.clone();
                Ok(match &access.tls {
                    Some(config) => Accepted::Tls(stream, config.clone(), over),
                    None => Accepted::Guarded(stream, over),
                })
            }
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Accepted::Unix(stream)),
        }
    }
}

/// Marks a request that comes from the pod itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct FromPod;

async fn connection<IO, H, F>(io: IO, handle: H, mut stop: Stop, is_local: bool)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let sniffed = tokio::select! {
        sniffed = sniff(io, HEAD) => sniffed,
        _ = stop.wait_for(|stop| *stop) => return,
    };
    let Ok((io, is_h2)) = sniffed else { return };
    let service = service_fn(move |mut request: Request<Incoming>| {
        if is_local {
            request.extensions_mut().insert(FromPod);
        }
        let answer = handle(request);
        async move { Ok::<_, std::convert::Infallible>(answer.await) }
    });
    if is_h2 {
        let served = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(HEAD)
            .keep_alive_timeout(HEAD)
            .max_concurrent_streams(STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_pending_accept_reset_streams(Some(STREAMS as usize))
            .max_header_list_size(HEAD_BYTES as u32)
            .serve_connection(TokioIo::new(io), service);
        until_stopped(served, stop).await;
    } else {
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(HEAD_BYTES)
            .max_headers(HEADERS)
            // Who has said all that it says waits for the answer.
            .half_close(true)
            .serve_connection(TokioIo::new(io), service);
        until_stopped(served, stop).await;
    }
}

/// Serves a connection to its end; told to stop, to the end of the request that is being answered.
async fn until_stopped(served: impl GracefulConnection, mut stop: Stop) {
    let mut served = std::pin::pin!(served);
    tokio::select! {
        _ = &mut served => return,
        _ = stop.wait_for(|stop| *stop) => served.as_mut().graceful_shutdown(),
    }
    let _ = served.await;
}
