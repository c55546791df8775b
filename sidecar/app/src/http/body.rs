//! A request's body: bounded in time and size, decompressed, and checked to be text.
use std::{io::Read, time::Duration};

use http_body_util::BodyExt;
use hyper::{
    Request,
    body::{Body, Incoming},
    header,
};

use crate::problem::{Problem, Reason};

/// Reads a body as text of at most `most` bytes after decompression.
pub(crate) async fn read(request: Request<Incoming>, most: usize, within: Duration) -> Result<String, Problem> {
    String::from_utf8(read_bytes(request, most, within).await?).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Problem::new(Reason::NotJson, format!("The body is not UTF-8 at byte {at}; JSON is."))
    })
}

/// Reads a body of at most `most` bytes after decompression.
pub(crate) async fn read_bytes(request: Request<Incoming>, most: usize, within: Duration) -> Result<Vec<u8>, Problem> {
    let too_large = || {
        Problem::new(
            Reason::BodyTooLarge,
            format!("The body has more than {most} bytes (limits.maxBodyBytes); send less at a time."),
        )
    };
    let encoding =
        request.headers().get(header::CONTENT_ENCODING).map(|value| value.to_str().unwrap_or("?").trim().to_ascii_lowercase());
    let announced = request.body().size_hint().lower() > most as u64;
    // What will be refused anyway is not waited for long.
    let within = if announced { within.min(LINGER) } else { within };
    let raw = match tokio::time::timeout(within, collect(request.into_body(), most)).await {
        _ if announced => return Err(too_large()),
        Err(_) => {
            let detail = format!("The body did not arrive within {} s.", within.as_secs_f32());
            return Err(Problem::new(Reason::Timeout, detail));
        }
        Ok(Err(_)) => return Err(Problem::new(Reason::BadRequest, "The body broke off.")),
        Ok(Ok(None)) => return Err(too_large()),
        Ok(Ok(Some(raw))) => raw,
    };
    match encoding.as_deref() {
        None | Some("identity" | "") => Ok(raw),
        Some("gzip") => inflate(flate2::read::MultiGzDecoder::new(&raw[..]), most)?.ok_or_else(too_large),
        Some("zstd") => {
            let decoder = zstd::stream::read::Decoder::with_buffer(&raw[..]).map_err(|_| broken())?;
            // A window of 8 MiB is what zstd's own tools take by default; more is an attack on memory.
            let mut decoder = decoder;
            decoder.window_log_max(23).map_err(|_| broken())?;
            inflate(decoder, most)?.ok_or_else(too_large)
        }
        Some(other) => {
            let detail = format!("Content-Encoding {other:?} is not supported; send gzip, zstd or none.");
            Err(Problem::new(Reason::MediaType, detail))
        }
    }
}

/// How much of a body that is refused is still read, so that the client gets to see the answer: a connection that is closed with bytes
/// unread is reset, and the answer with it.
const DRAIN: usize = 8 << 20;
/// And how long.
const LINGER: Duration = Duration::from_millis(500);

/// The body; `None`: it has more than `most` bytes.
async fn collect(mut body: Incoming, most: usize) -> Result<Option<Vec<u8>>, hyper::Error> {
    let (mut bytes, mut seen) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        seen += data.len();
        if seen <= most {
            bytes.extend_from_slice(&data);
        } else if seen > most + DRAIN {
            break;
        }
    }
    Ok((seen <= most).then_some(bytes))
}

fn broken() -> Problem {
    Problem::new(Reason::BadRequest, "The body cannot be decompressed as its Content-Encoding says.")
}

/// `None`: more than `most` bytes came out.
fn inflate(decoder: impl Read, most: usize) -> Result<Option<Vec<u8>>, Problem> {
    let mut out = Vec::new();
    decoder.take(most as u64 + 1).read_to_end(&mut out).map_err(|_| broken())?;
    Ok((out.len() <= most).then_some(out))
}

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
