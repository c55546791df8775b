//! A request's body: bounded in time and size, decompressed, and checked to be text.
use std::{io::Read, time::Duration};

use http_body_util::BodyExt;
use hyper::{
    Request,
    body::{Body, Incoming},
    header,
};

use steno_event::formats::BYTE_ORDER_MARK;

use super::budget::Claim;
use crate::problem::{Problem, Reason};

/// Reads a body as text of at most `most` bytes after decompression, and what it holds of the budget.
pub(crate) async fn read(request: Request<Incoming>, most: usize, within: Duration) -> Result<(String, Claim), Problem> {
    let (bytes, claim) = read_bytes(request, most, within).await?;
    let text = String::from_utf8(without_mark(bytes)).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Problem::new(Reason::NotJson, format!("The body is not UTF-8 at byte {at}; JSON is."))
    })?;
    Ok((text, claim))
}

/// The same; what is no UTF-8 becomes U+FFFD. The second says whether there was any.
pub(crate) async fn read_lossy(
    request: Request<Incoming>,
    most: usize,
    within: Duration,
) -> Result<(String, bool, Claim), Problem> {
    let (bytes, claim) = read_bytes(request, most, within).await?;
    let (text, is_repaired) = lossy(bytes);
    Ok((text, is_repaired, claim))
}

/// Bytes as text without a byte order mark; what is no UTF-8 becomes U+FFFD. The second says whether there was any.
pub(crate) fn lossy(bytes: Vec<u8>) -> (String, bool) {
    match String::from_utf8(without_mark(bytes)) {
        Ok(text) => (text, false),
        Err(error) => (String::from_utf8_lossy(error.as_bytes()).into_owned(), true),
    }
}

fn without_mark(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.starts_with(BYTE_ORDER_MARK) {
        bytes.drain(..BYTE_ORDER_MARK.len());
    }
    bytes
}

/// Reads a body of at most `most` bytes after decompression, and what it holds of the budget.
pub(crate) async fn read_bytes(request: Request<Incoming>, most: usize, within: Duration) -> Result<(Vec<u8>, Claim), Problem> {
    let too_large = || {
        Problem::new(
            Reason::BodyTooLarge,
            format!("The body has more than {most} bytes (limits.maxBodyBytes); send less at a time."),
        )
    };
    let codings = codings(request.headers());
    let announced = request.body().size_hint().lower() > most as u64;
    // What will be refused anyway is not waited for long.
    let within = if announced { within.min(LINGER) } else { within };
    let mut claim = Claim::default();
    let raw = match tokio::time::timeout(within, collect(request.into_body(), most, &mut claim)).await {
        _ if announced => return Err(too_large()),
        Err(_) => {
            let detail = format!("The body did not arrive within {} s.", within.as_secs_f32());
            return Err(Problem::new(Reason::Timeout, detail));
        }
        Ok(Err(problem)) => return Err(problem),
        Ok(Ok(None)) => return Err(too_large()),
        Ok(Ok(Some(raw))) => raw,
    };
    let [coding] = &codings[..] else {
        if codings.is_empty() {
            return Ok((raw, claim));
        }
        let detail = format!("Content-Encoding names {} codings; send one of gzip, deflate and zstd, or none.", codings.len());
        return Err(Problem::new(Reason::MediaType, detail));
    };
    match coding.as_str() {
        "gzip" | "x-gzip" => inflate(flate2::read::MultiGzDecoder::new(&raw[..]), most, claim)?.ok_or_else(too_large),
        // With zlib's head, as RFC 9110 says, or without, as some senders have it.
        "deflate" if raw.first().is_some_and(|byte| byte & 15 == 8) => {
            inflate(flate2::read::ZlibDecoder::new(&raw[..]), most, claim)?.ok_or_else(too_large)
        }
        "deflate" => inflate(flate2::read::DeflateDecoder::new(&raw[..]), most, claim)?.ok_or_else(too_large),
        "zstd" => {
            let decoder = zstd::stream::read::Decoder::with_buffer(&raw[..]).map_err(|_| broken())?;
            // A window of 8 MiB is what zstd's own tools take by default; more is an attack on memory.
            let mut decoder = decoder;
            decoder.window_log_max(23).map_err(|_| broken())?;
            inflate(decoder, most, claim)?.ok_or_else(too_large)
        }
        other => {
            let detail = format!("Content-Encoding {other:?} is not supported; send gzip, deflate, zstd or none.");
            Err(Problem::new(Reason::MediaType, detail))
        }
    }
}

/// The codings of a body in the order they were applied, lower case, from all its `Content-Encoding` fields (RFC 9110, 8.4); `identity` is none.
fn codings(headers: &hyper::HeaderMap) -> Vec<String> {
    let fields = headers.get_all(header::CONTENT_ENCODING).iter().map(|value| value.to_str().unwrap_or("?"));
    let names = fields.flat_map(|field| field.split(',')).map(|name| name.trim().to_ascii_lowercase());
    names.filter(|name| !matches!(name.as_str(), "" | "identity")).collect()
}

/// How much of a body that is refused is still read, so that the client gets to see the answer: a connection that is closed with bytes
/// unread is reset, and the answer with it.
const DRAIN: usize = 8 << 20;
/// The same where there is no room for it.
const LEAST_DRAIN: usize = 1 << 20;
/// And how long.
const LINGER: Duration = Duration::from_millis(500);

/// The body; `None`: it has more than `most` bytes.
async fn collect(mut body: Incoming, most: usize, claim: &mut Claim) -> Result<Option<Vec<u8>>, Problem> {
    let (mut bytes, mut seen, mut refused) = (Vec::new(), 0, None);
    loop {
        let next = if refused.is_none() {
            body.frame().await
        } else {
            // Who is refused is not waited for.
            tokio::time::timeout(LINGER, body.frame()).await.ok().flatten()
        };
        let Some(frame) = next else { break };
        let frame = frame.map_err(|_| Problem::new(Reason::BadRequest, "The body broke off."))?;
        let Ok(data) = frame.into_data() else { continue };
        seen += data.len();
        if seen <= most && refused.is_none() {
            match claim.grow(data.len()) {
                Ok(()) => bytes.extend_from_slice(&data),
                // What came so far is let go of at once; the rest is read and dropped, so that the client sees the answer.
                Err(problem) => {
                    refused = Some((problem, seen));
                    (bytes, *claim) = Default::default();
                }
            }
        }
        let drained = refused.as_ref().map_or(most + DRAIN, |(_, at)| at + LEAST_DRAIN);
        if seen > drained {
            break;
        }
    }
    match refused {
        Some((problem, _)) => Err(problem),
        None => Ok((seen <= most).then_some(bytes)),
    }
}

fn broken() -> Problem {
    Problem::new(Reason::BadRequest, "The body cannot be decompressed as its Content-Encoding says.")
}

/// `None`: more than `most` bytes came out.
fn inflate(mut decoder: impl Read, most: usize, mut claim: Claim) -> Result<Option<(Vec<u8>, Claim)>, Problem> {
    let mut out = Vec::new();
    loop {
        let before = out.len();
        (&mut decoder).take(PIECE).read_to_end(&mut out).map_err(|_| broken())?;
        if out.len() == before {
            return Ok(Some((out, claim)));
        }
        if out.len() > most {
            return Ok(None);
        }
        claim.grow(out.len() - before)?;
    }
}

/// Bytes that are decompressed before room for them is claimed.
const PIECE: u64 = 64 << 10;

/// The media type of a request, lower case, without parameters; `None`: a charset other than UTF-8 is named.
pub(crate) fn media_type(headers: &hyper::HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE).map_or("", |value| value.to_str().unwrap_or("?"));
    let mut parts = value.split(';').map(str::trim);
    let kind = parts.next().unwrap_or("").to_ascii_lowercase();
    let charset = parts.filter_map(|part| part.split_once('=')).find(|(name, _)| name.trim().eq_ignore_ascii_case("charset"));
    let utf8 = charset.is_none_or(|(_, charset)| {
        matches!(charset.trim().trim_matches('"').to_ascii_lowercase().as_str(), "utf-8" | "utf8" | "us-ascii")
    });
    utf8.then_some(kind)
}
