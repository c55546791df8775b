//! HTTP/1.1 or HTTP/2, by the first bytes, within a time.
//!
//! hyper-util's automatic builder runs no timeout while it sniffs (seen with 0.1.21), so that a connection which sends nothing stays
//! for ever. Here the bytes are read under a deadline and handed on.
use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    time::timeout,
};

/// RFC 9113, 3.4.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection of which some bytes were read already.
pub(crate) struct Sniffed<IO> {
    head: [u8; 24],
    filled: usize,
    taken: usize,
    io: IO,
}

/// Reads until it is clear which version a connection speaks. The second is whether it is HTTP/2.
pub(crate) async fn sniff<IO: AsyncRead + Unpin>(mut io: IO, within: Duration) -> io::Result<(Sniffed<IO>, bool)> {
    let mut head = [0; 24];
    let read = async {
        let mut filled = 0;
        while filled < PREFACE.len() && head[..filled] == PREFACE[..filled] {
            let count = io.read(&mut head[filled..]).await?;
            if count == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            filled += count;
        }
        Ok(filled)
    };
    let filled = timeout(within, read).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let is_h2 = head == *PREFACE;
    Ok((Sniffed { head, filled, taken: 0, io }, is_h2))
}

impl<IO: AsyncRead + Unpin> AsyncRead for Sniffed<IO> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.taken < self.filled {
            let count = (self.filled - self.taken).min(buffer.remaining());
            let from = self.taken;
            buffer.put_slice(&self.head[from..from + count]);
            self.taken += count;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Sniffed<IO> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
