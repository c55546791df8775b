//! CloudEvents by HTTP POST, in batches.
//!
//! Source: CloudEvents 1.0.2, HTTP protocol binding, batched content mode (`application/cloudevents-batch+json`). The record stands in `data` byte for
//! byte as it was chained.
use std::{
    io::Write as _,
    sync::Arc,
    time::{Duration, SystemTime},
};

use steno_crds::{HttpCompression, HttpSink};
use steno_event::{escape_into, format_millis};
use ureq::{
    Agent, Proxy,
    tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, TlsProvider, parse_pem},
};

use crate::{Backend, Record, Refusal, kafka::Secrets, tls::Pem};

/// A longer `Retry-After` is not waited for in one go.
const MOST_WAIT: Duration = Duration::from_mins(5);

/// The destination.
pub struct Http {
    agent: Agent,
    url: String,
    /// Without its query, which may hold what is nobody's business.
    shown: String,
    /// Name and value of the header with the token.
    auth: Option<(String, String)>,
    headers: Vec<(String, String)>,
    compression: HttpCompression,
    source: String,
}

// === impl Http ===

impl Http {
    /// A destination of a policy. Connects with the first batch.
    pub fn new(spec: &HttpSink, secrets: &Secrets, source: &str) -> Result<Self, String> {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(spec.proxy.as_deref().map(Proxy::new).transpose().map_err(|error| format!("http.proxy: {error}"))?)
            .user_agent(concat!("steno-sidecar/", env!("CARGO_PKG_VERSION")))
            .timeout_global(Some(spec.timeout.duration()));
        if spec.url.starts_with("https://") {
            config = config.https_only(true).tls_config(tls(spec, secrets)?);
        }
        let token = spec.token_secret_ref.as_ref().map(|reference| secrets.read(reference)).transpose()?;
        let token = token.map(|token| token.trim().to_owned());
        if token.as_ref().is_some_and(|token| token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err("the token of http.tokenSecretRef is empty, or has blanks or control characters in it".into());
        }
        let auth = token.map(|token| {
            let value = if spec.auth_scheme.is_empty() { token } else { format!("{} {token}", spec.auth_scheme) };
            (spec.auth_header.clone(), value)
        });
        let headers = spec.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let (agent, shown) = (config.build().into(), shown(&spec.url));
        let (url, source, compression) = (spec.url.clone(), source.into(), spec.compression);
        Ok(Self { agent, url, shown, auth, headers, compression, source })
    }

    fn post(&self, body: &[u8]) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        let mut request = self.agent.post(&self.url).header("Content-Type", "application/cloudevents-batch+json");
        for (name, value) in self.headers.iter().chain(&self.auth) {
            request = request.header(name, value);
        }
        match self.compression {
            HttpCompression::None => request.send(body),
            HttpCompression::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(body).map_err(ureq::Error::Io)?;
                request.header("Content-Encoding", "gzip").send(&encoder.finish().map_err(ureq::Error::Io)?)
            }
            HttpCompression::Zstd => {
                let small = zstd::bulk::compress(body, 3).map_err(ureq::Error::Io)?;
                request.header("Content-Encoding", "zstd").send(&small)
            }
        }
    }
}

/// A URL for people.
pub fn shown(url: &str) -> String {
    url.split('?').next().unwrap_or_default().to_owned()
}

fn tls(spec: &HttpSink, secrets: &Secrets) -> Result<TlsConfig, String> {
    let pem = Pem::read(spec.tls.as_ref(), secrets)?;
    // What rustls would not take is told now, with what is wrong.
    pem.config()?;
    let certificates = |text: &[u8]| -> Vec<Certificate<'static>> {
        parse_pem(text)
            .filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            })
            .collect()
    };
    let own = match &pem.own {
        Some((cert, key)) => {
            let key = PrivateKey::from_pem(key).map_err(|error| format!("the client's key: {error}"))?;
            Some(ClientCert::new_with_certs(&certificates(cert), key))
        }
        None => None,
    };
    let roots = RootCerts::new_with_certs(&certificates(&pem.roots));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = TlsConfig::builder().unversioned_rustls_crypto_provider(provider);
    Ok(builder.provider(TlsProvider::Rustls).root_certs(roots).client_cert(own).build())
}

/// Appends a batch in the JSON format.
fn batch_json(out: &mut Vec<u8>, batch: &[Record], source: &str) {
    let members = |out: &mut Vec<u8>, name: &str, value: &str| {
        out.extend_from_slice(name.as_bytes());
        escape_into(out, value);
    };
    out.push(b'[');
    for (index, record) in batch.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        members(out, "{\"specversion\":\"1.0\",\"id\":", &record.event_id);
        members(out, ",\"source\":", source);
        members(out, ",\"type\":", &record.kind);
        members(out, ",\"time\":", &format_millis(record.received_ms));
        out.extend_from_slice(b",\"datacontenttype\":\"application/json\",\"data\":");
        out.extend_from_slice(&record.json);
        out.push(b'}');
    }
    out.push(b']');
}

/// How long an answer asks to wait: seconds, or a date.
fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds).min(MOST_WAIT));
    }
    let at: SystemTime = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(value).ok()?.into();
    Some(at.duration_since(now).unwrap_or_default().min(MOST_WAIT))
}

impl Backend for Http {
    fn write(&mut self, batch: &[Record]) -> Result<(), Refusal> {
        let mut body = Vec::with_capacity(batch.iter().map(|record| record.json.len() + 256).sum());
        batch_json(&mut body, batch, &self.source);
        let mut answer = self.post(&body).map_err(|error| Refusal::Later(format!("{} does not answer: {error}", self.shown)))?;
        let status = answer.status().as_u16();
        let wait = answer.headers().get("Retry-After").and_then(|value| retry_after(value.to_str().ok()?, SystemTime::now()));
        // Read to its end, so that the connection is used again.
        let _ = answer.body_mut().with_config().limit(64 << 10).read_to_vec();
        if (200..300).contains(&status) {
            return Ok(());
        }
        // Not what its body says: that may be what was sent.
        let said = format!("{} answers {status}", self.shown);
        Err(match (status, wait) {
            (400 | 413 | 415 | 422, _) => Refusal::Refused(said),
            (401 | 403, _) => Refusal::Later(format!("{said}; check http.tokenSecretRef and http.tls")),
            (_, Some(wait)) => Refusal::Wait(wait, said),
            _ => Refusal::Later(said),
        })
    }

    fn probe(&mut self) -> Result<(), String> {
        // An empty batch is none: whoever answers at all is there, and the next record shows whether it takes it.
        let asked = self.post(b"[]");
        match asked {
            Ok(answer) if answer.status().as_u16() < 500 => Ok(()),
            Ok(answer) => Err(format!("{} answers {}", self.shown, answer.status().as_u16())),
            Err(error) => Err(format!("{} does not answer: {error}", self.shown)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_json_and_has_the_record_byte_for_byte() {
        let json = br#"{"action":"a","amount":1e+21,"eventId":"e\u0001\""}"#.to_vec();
        let record = Record {
            seq: 1,
            json: json.clone(),
            event_id: "e\u{1}\"".into(),
            kind: "steno.event.a".into(),
            received_ms: 1_700_000_000_123,
            filled: 0,
            key: None,
        };
        let mut out = Vec::new();
        batch_json(&mut out, &[record.clone(), record], "/steno/ns/\"pod\"");
        let read: Vec<serde_json::Value> = serde_json::from_slice(&out).unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!((&read[1]["id"], &read[1]["source"]), (&"e\u{1}\"".into(), &"/steno/ns/\"pod\"".into()));
        assert_eq!(read[0]["time"], "2023-11-14T22:13:20.123Z");
        assert!(out.windows(json.len()).any(|window| window == json));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_never_for_ever() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770);
        assert_eq!(retry_after("7", now), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT", now), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Tue, 06 Nov 1990 08:49:37 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("99999999", now), Some(MOST_WAIT));
        assert_eq!(retry_after("soon", now), None);
    }
}
