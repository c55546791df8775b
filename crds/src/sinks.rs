//! Further places that records go to, beside Kafka.
use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Breaker, ByteSize, RedactionRule, SecretRef, Span, Tls, Volume, bounds, policy::is_default};

/// A further place that records go to: `type`, and the member of that name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SinkSpec {
    /// Its name in stats and metrics, 1 to 32 of `a-z 0-9 -`; not `kafka`. A sink that is renamed begins anew, with the oldest record that the spool holds.
    pub name: String,
    /// What it is.
    pub r#type: SinkType,
    /// `true`: what it has not confirmed stays in the spool. `false`: past `maxLag` records are left out for this sink, each range with a `Drop` record that names it. Default true.
    #[serde(default = "yes")]
    pub required: bool,
    /// How far a sink that is not required may stay behind.
    #[serde(default, skip_serializing_if = "is_default")]
    pub max_lag: MaxLag,
    /// Further redaction for this sink. It is applied to what intake redaction left, so that it can only tighten. A record that it changes has `integrity.derived: true` and
    /// keeps the hash of the original.
    #[serde(default, skip_serializing_if = "is_default")]
    pub redaction: SinkRedaction,
    /// Its own breaker. `whenOpen` and `noBrokerFor` have no effect here: the spool grows.
    #[serde(default, skip_serializing_if = "is_default")]
    pub breaker: Breaker,
    /// For `File`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileSink>,
    /// For `Http`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpSink>,
    /// For `Postgres`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<PostgresSink>,
}

/// Kinds of further sinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SinkType {
    /// Files of JSON Lines.
    File,
    /// CloudEvents by HTTP POST, several at a time.
    Http,
    /// Tables of a PostgreSQL database.
    Postgres,
}

/// How far a sink may stay behind before records are left out for it. With both, whichever comes first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MaxLag {
    /// Bytes of the spool, at most half of `spool.maxBytes`. Not set: a quarter of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<ByteSize>,
    /// Age of the oldest record that waits. Not set: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age: Option<Span>,
}

/// Redaction of one sink. Unknown fields here are refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SinkRedaction {
    /// Rules, as those of `redaction`; `Hash` uses the same key. Up to 256.
    pub rules: Vec<RedactionRule>,
}

/// Files of JSON Lines: `<directory>/audit.jsonl`, and the older ones with the time of their end in their names. Synced before a record counts as delivered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FileSink {
    /// The volume, with a directory for each pod. Not set, or where the pod may not have it: `files/<name>` beside the journal, on its volume. A claim of the pod's own has room for
    /// `rotateBytes` times two more than `backups`, where it has no `size`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<Volume>,
    /// A file of so many bytes is ended.
    pub rotate_bytes: ByteSize,
    /// A file that is so old is ended.
    pub rotate_age: Span,
    /// Ended files that are kept; older ones are removed.
    pub backups: u64,
}

/// CloudEvents by HTTP POST (`application/cloudevents-batch+json`), the record as `data`. Answers: 2xx is delivered; 400, 413, 415 and 422 refuse (the record at fault
/// becomes a dead letter alone); all others, 401 and 403 too, are tried again, after `Retry-After` where it says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpSink {
    /// Where to: `https://…`, or `http://…` where the network is trusted. Redirects are not followed.
    pub url: String,
    /// A token, sent as `authHeader: authScheme TOKEN`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_secret_ref: Option<SecretRef>,
    /// Header that carries the token. Default `Authorization`.
    #[serde(default = "authorization", skip_serializing_if = "is_authorization")]
    pub auth_header: String,
    /// Word before the token: `Bearer`, `Splunk`, `ApiKey`; empty: the token alone. Default `Bearer`.
    #[serde(default = "bearer", skip_serializing_if = "is_bearer")]
    pub auth_scheme: String,
    /// Headers of every request, up to 16. No secrets: these stand in the policy.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Codec of the bodies. Default `None`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub compression: HttpCompression,
    /// Proxy for these requests, `http://host:port`. If unset: none; environment variables are not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// Whom to trust, and who we are. Not set: the system's certificate authorities, and nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Records of one request at most.
    #[serde(default = "http_batch")]
    pub batch: u64,
    /// How long a request may take.
    #[serde(default = "http_timeout")]
    pub timeout: Span,
}

/// Codec of an HTTP sink's bodies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum HttpCompression {
    #[default]
    None,
    Gzip,
    Zstd,
}

/// Which server of several a session may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TargetSession {
    /// One that takes writes: not a standby.
    #[default]
    ReadWrite,
    /// Any that answers.
    Any,
}

/// Tables of a PostgreSQL database: `events`, partitioned by month of `receivedAt`, `event_ids`, which keeps them unique, and `event_conflicts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PostgresSink {
    /// Host of the database, or up to 8 with commas between them, each `host` or `host:port`. They are tried in order.
    pub host: String,
    /// Its port. Default 5432.
    #[serde(default = "postgres_port")]
    pub port: u16,
    /// Which of the hosts a session may use. Default `ReadWrite`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub target_session: TargetSession,
    /// The database.
    pub database: String,
    /// The user. It may INSERT into the tables and SELECT from them, and with `createSchema` CREATE in the database.
    pub user: String,
    /// The user's password. Not set: none is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret_ref: Option<SecretRef>,
    /// TLS with the host's name checked. Not set: plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Schema of the tables, 1 to 63 of `a-z 0-9 _`. Default `steno`.
    #[serde(default = "postgres_schema")]
    pub schema: String,
    /// Whether the schema, its tables and each month's partition are made and brought up to date. `false`: as `steno-sidecar postgres schema` prints them, by
    /// somebody else. Default false.
    #[serde(default)]
    pub create_schema: bool,
    /// Records of one transaction at most.
    #[serde(default = "postgres_batch")]
    pub batch: u64,
}

/// How sinks go together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FanOut {
    /// Each at its own pace. `ack: Delivered` and critical events wait for Kafka.
    #[default]
    BestEffort,
    /// One position for all: none runs ahead of the others by more than what is on its way, and a record is delivered when every sink has confirmed it.
    AllOrNothing,
}

/// Headers that a policy may add to requests.
const MAX_HEADERS: usize = 16;
/// Hosts of a database.
const MAX_HOSTS: usize = 8;
/// Headers that belong to the body or the connection.
const RESERVED: [&str; 8] =
    ["content-type", "content-length", "content-encoding", "transfer-encoding", "host", "connection", "user-agent", "expect"];

fn is_header(name: &str) -> bool {
    !name.is_empty() && name.len() <= 64 && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
}

fn yes() -> bool {
    true
}

fn authorization() -> String {
    "Authorization".into()
}

fn is_authorization(header: &str) -> bool {
    header == "Authorization"
}

fn bearer() -> String {
    "Bearer".into()
}

fn is_bearer(scheme: &str) -> bool {
    scheme == "Bearer"
}

fn http_batch() -> u64 {
    bounds::HTTP_BATCH.value()
}

fn http_timeout() -> Span {
    bounds::HTTP_TIMEOUT.value()
}

fn postgres_batch() -> u64 {
    bounds::POSTGRES_BATCH.value()
}

fn postgres_port() -> u16 {
    5432
}

fn postgres_schema() -> String {
    "steno".into()
}

impl Default for FileSink {
    fn default() -> Self {
        Self {
            volume: None,
            rotate_bytes: bounds::FILE_BYTES.value(),
            rotate_age: bounds::FILE_AGE.value(),
            backups: bounds::FILE_BACKUPS.value(),
        }
    }
}

// === impl SinkSpec ===

impl SinkSpec {
    /// Secrets that it needs.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretRef> {
        let http = self.http.iter().flat_map(|http| http.token_secret_ref.iter().chain(http.tls.iter().flat_map(Tls::secrets)));
        let postgres = self.postgres.iter();
        let postgres = postgres.flat_map(|db| db.password_secret_ref.iter().chain(db.tls.iter().flat_map(Tls::secrets)));
        http.chain(postgres)
    }

    /// Bytes that its files take beside the journal.
    pub fn bytes_beside(&self) -> u64 {
        let beside = self.file.iter().filter(|file| file.volume.is_none());
        beside.map(|file| file.rotate_bytes.bytes().saturating_mul(file.backups + 1)).sum()
    }

    /// What is wrong with it alone, by path below it.
    pub(crate) fn faults(&self, spool: ByteSize) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        let mut add = |path: &str, message: &str| faults.push((path.to_owned(), message.to_owned()));
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if self.name.is_empty()
            || self.name.len() > 32
            || !self.name.chars().all(legal)
            || self.name.starts_with('-')
            || self.name.ends_with('-')
        {
            add("name", "is not a name; write 1 to 32 of a-z 0-9 -, neither beginning nor ending with -");
        }
        if matches!(self.name.as_str(), "kafka" | "intents") {
            add("name", "is that of spec.kafka or of intents; name another");
        }
        let members = [
            (SinkType::File, "file", self.file.is_some()),
            (SinkType::Http, "http", self.http.is_some()),
            (SinkType::Postgres, "postgres", self.postgres.is_some()),
        ];
        for (kind, name, is_set) in members {
            if is_set && kind != self.r#type {
                add(name, &format!("is set, and type is {:?}; write type: {kind:?}, or leave it out", self.r#type));
            }
            if !is_set && kind == self.r#type && kind != SinkType::File {
                add(name, &format!("is not set; type {kind:?} needs it"));
            }
        }
        if self.required && self.max_lag != MaxLag::default() {
            add("maxLag", "is for a sink with required: false; what a required one has not confirmed stays in the spool");
        }
        if self.max_lag.bytes.is_some_and(|bytes| bytes.0 > spool.0 / 2) {
            add("maxLag.bytes", "is more than half of spool.maxBytes; lower it, so that this sink alone cannot fill the spool");
        }
        if let Some(volume) = self.file.as_ref().and_then(|file| file.volume.as_ref()) {
            for (path, message) in volume.faults(ByteSize(0)) {
                add(&format!("file.volume.{path}"), &message);
            }
        }
        if let Some(http) = &self.http {
            http.check(&mut add);
        }
        if let Some(db) = &self.postgres {
            for (path, value) in [("host", &db.host), ("database", &db.database), ("user", &db.user)] {
                if value.is_empty() || value.len() > 253 || value.contains(char::is_whitespace) {
                    add(&format!("postgres.{path}"), "is empty, too long or has blanks in it");
                }
            }
            if let Err(message) = db.hosts() {
                add("postgres.host", &message);
            }
            if let Err(message) = PostgresSink::check_schema(&db.schema) {
                add("postgres.schema", message);
            }
            if db.port == 0 {
                add("postgres.port", "is 0; leave it out for 5432");
            }
        }
        for (name, tls) in [
            ("http", self.http.as_ref().and_then(|http| http.tls.as_ref())),
            ("postgres", self.postgres.as_ref().and_then(|db| db.tls.as_ref())),
        ] {
            if let Some(Err(message)) = tls.map(Tls::check) {
                add(&format!("{name}.tls"), message);
            }
        }
        faults
    }
}

// === impl HttpSink ===

impl HttpSink {
    /// What is wrong with it: the path, and how to fix it.
    fn check(&self, add: &mut impl FnMut(&str, &str)) {
        let rest = self.url.strip_prefix("https://").or_else(|| self.url.strip_prefix("http://"));
        let host = rest.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
        if host.is_none_or(|host| host.is_empty() || host.contains(['@', ' '])) || self.url.contains(['#', ' ']) {
            add("http.url", "is not a URL such as https://audit.example.com/events, without a user, a password or a fragment");
        } else if !self.url.bytes().all(|byte| byte.is_ascii_graphic()) {
            add("http.url", "has characters that are no printable ASCII; write the host as xn--… and others as %…");
        }
        if !is_header(&self.auth_header) || RESERVED.iter().any(|known| self.auth_header.eq_ignore_ascii_case(known)) {
            add("http.authHeader", "is not a header's name; write letters, digits and -, such as Authorization or X-Api-Key");
        }
        if !self.auth_scheme.bytes().all(|byte| byte.is_ascii_graphic()) {
            add("http.authScheme", "has blanks or control characters in it; write one word, or leave it empty");
        }
        if self.headers.len() > MAX_HEADERS {
            add("http.headers", "has more than 16 headers");
        }
        for (name, value) in &self.headers {
            if !is_header(name) || RESERVED.iter().any(|known| name.eq_ignore_ascii_case(known)) {
                add(
                    &format!("http.headers[{name}]"),
                    "is not a header that may be set here; Steno sets the body's own and the token's",
                );
            }
            if name.eq_ignore_ascii_case(&self.auth_header) && self.token_secret_ref.is_some() {
                add(&format!("http.headers[{name}]"), "is the header of http.tokenSecretRef");
            }
            if !value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
                add(&format!("http.headers[{name}]"), "has a value with characters other than printable ASCII");
            }
        }
        let is_proxy =
            |url: &str| url.strip_prefix("http://").is_some_and(|rest| !rest.is_empty() && !rest.contains(['@', ' ', '#', '?']));
        if self.proxy.as_deref().is_some_and(|proxy| !is_proxy(proxy)) {
            add("http.proxy", "is not a URL such as http://proxy.example.com:3128, without a user or a password");
        }
        if self.url.starts_with("http://") && self.tls.is_some() {
            add("http.tls", "is set, and the URL is http://; write https://");
        }
    }
}

// === impl PostgresSink ===

impl PostgresSink {
    /// Its hosts and their ports, in the order in which they are tried.
    ///
    /// # Errors
    /// One of them is no host, or there are too many.
    pub fn hosts(&self) -> Result<Vec<(String, u16)>, String> {
        let hosts: Vec<&str> = self.host.split(',').collect();
        if hosts.len() > MAX_HOSTS {
            return Err(format!("names {} hosts; at most {MAX_HOSTS}", hosts.len()));
        }
        let host = |text: &str| {
            let is_ipv6 = text.matches(':').count() > 1 && !text.starts_with('[');
            let split = if is_ipv6 {
                None
            } else {
                text.rsplit_once(':').filter(|(host, _)| !host.starts_with('[') || host.ends_with(']'))
            };
            let (host, port) = match split {
                Some((host, port)) => (host, port.parse().ok().filter(|port| *port > 0)),
                None => (text, Some(self.port)),
            };
            let host = host.trim_start_matches('[').trim_end_matches(']');
            port.filter(|_| !host.is_empty()).map(|port| (host.to_owned(), port))
        };
        hosts.into_iter().map(|text| host(text).ok_or_else(|| format!("{text:?} is not a host, or host:port"))).collect()
    }

    /// Whether this may be the name of a schema; the error says what may.
    pub fn check_schema(name: &str) -> Result<(), &'static str> {
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let is_name = !name.is_empty() && name.len() <= 63 && name.chars().all(legal);
        if is_name && !name.starts_with(|c: char| c.is_ascii_digit()) && !name.starts_with("pg_") {
            return Ok(());
        }
        Err("is not a name; write 1 to 63 of a-z 0-9 _, beginning with a letter or _, not with pg_")
    }
}

// === impl Tls ===

impl Tls {
    /// Whether certificate and key are both there, or neither.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if self.cert_secret_ref.is_some() == self.key_secret_ref.is_some() {
            return Ok(());
        }
        Err("sets one of certSecretRef and keySecretRef; a client certificate needs both")
    }

    /// Secrets that it needs.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretRef> {
        [&self.ca_secret_ref, &self.cert_secret_ref, &self.key_secret_ref].into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_and_addresses_with_ports_of_their_own() {
        let of = |host: &str| {
            let text = format!("{{host: '{host}', database: d, user: u}}");
            serde_yaml::from_str::<PostgresSink>(&text).unwrap().hosts()
        };
        let named = |hosts: &[(&str, u16)]| Ok(hosts.iter().map(|(host, port)| ((*host).to_owned(), *port)).collect());
        assert_eq!(of("db.shop.svc"), named(&[("db.shop.svc", 5432)]));
        assert_eq!(of("a,b:6432,[fd00::1]:7,fd00::2"), named(&[("a", 5432), ("b", 6432), ("fd00::1", 7), ("fd00::2", 5432)]));
        for wrong in ["", "a,,b", "a:x", "a:0", "a:99999", ":5432"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }
}
