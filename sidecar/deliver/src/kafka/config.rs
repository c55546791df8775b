//! A policy's Kafka part as librdkafka's properties.
use std::{
    error::Error,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use rdkafka::{
    ClientConfig, ClientContext, client::OAuthToken, consumer::ConsumerContext, message::DeliveryResult,
    producer::ProducerContext,
};
use steno_crds::{
    Compression, Kafka, MESSAGE_TIMEOUT_MS, QUEUE_KBYTES, RECONNECT_MAX_MS, RECORD_OVERHEAD, SaslMechanism, SecretRef,
};

/// Where secrets are mounted: `<dir>/<name>/<key>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secrets(pub PathBuf);

/// Where records go.
#[derive(Debug, Clone, PartialEq)]
pub struct Destination {
    /// The policy's Kafka part.
    pub kafka: Kafka,
    /// Topic of dead letters.
    pub dead_letter: Option<String>,
    /// `ce_source` of every record.
    pub source: String,
    /// Where secrets are.
    pub secrets: Secrets,
    /// Hash of the secrets' contents, so that a rotated one makes another destination.
    pub secrets_hash: u64,
    /// `client.id`.
    pub client_id: String,
    /// Largest record, in bytes.
    pub max_record: u64,
    /// Whether every record has a key.
    pub has_keys: bool,
}

// === impl Destination ===

impl Destination {
    /// Where it leads, for people: no secrets.
    pub fn describe(&self) -> String {
        format!("kafka {} topic {}", self.kafka.brokers.join(","), self.kafka.topic)
    }

    /// Largest request: librdkafka's default, or more where a record, its key and headers would not fit.
    pub(crate) fn max_message(&self) -> u64 {
        let set = self.kafka.config.get("message.max.bytes").and_then(|bytes| bytes.parse().ok());
        set.unwrap_or_else(|| 1_000_000.max(self.max_record + RECORD_OVERHEAD))
    }
}

// === impl Secrets ===

impl Secrets {
    /// The file of a reference.
    pub fn path(&self, reference: &SecretRef) -> PathBuf {
        self.0.join(&reference.name).join(&reference.key)
    }

    /// The contents of a reference, without a trailing line end.
    pub fn read(&self, reference: &SecretRef) -> Result<String, String> {
        let path = self.path(reference);
        let text = std::fs::read_to_string(&path).map_err(|error| {
            format!("Secret {}, key {}: {} cannot be read: {error}", reference.name, reference.key, path.display())
        })?;
        Ok(text.trim_end_matches(['\r', '\n']).to_owned())
    }
}

/// librdkafka's properties for a destination. The error names what is missing, never a secret.
pub fn client_config(destination: &Destination) -> Result<ClientConfig, String> {
    let Destination { kafka, secrets, client_id, .. } = destination;
    let mut config = ClientConfig::new();
    let most = kafka.batch.iter().map(|step| step.size).max().unwrap_or(1000);
    let fixed = [
        ("bootstrap.servers", kafka.brokers.join(",")),
        ("client.id", client_id.clone()),
        ("acks", "all".into()),
        ("enable.idempotence", "true".into()),
        ("compression.type", compression(kafka.compression).into()),
        ("batch.num.messages", most.to_string()),
        ("queue.buffering.max.messages", "100000".into()),
        ("queue.buffering.max.kbytes", QUEUE_KBYTES.to_string()),
        // Batches form while others are on their way; idle records do not wait.
        ("linger.ms", "1".into()),
        ("message.timeout.ms", MESSAGE_TIMEOUT_MS.to_string()),
        ("message.max.bytes", destination.max_message().to_string()),
        ("topic.metadata.propagation.max.ms", "5000".into()),
        ("topic.metadata.refresh.interval.ms", "30000".into()),
        ("reconnect.backoff.max.ms", RECONNECT_MAX_MS.to_string()),
        ("socket.keepalive.enable", "true".into()),
        // As the Java clients choose it.
        ("partitioner", "murmur2_random".into()),
        // Only the policy creates topics, as it says.
        ("allow.auto.create.topics", "false".into()),
        ("log.connection.close", "false".into()),
    ];
    for (name, value) in fixed {
        config.set(name, value);
    }
    for (name, value) in &kafka.config {
        config.set(name, value);
    }
    config.set(
        "security.protocol",
        match (kafka.tls.is_some(), kafka.sasl.is_some()) {
            (false, false) => "plaintext",
            (true, false) => "ssl",
            (false, true) => "sasl_plaintext",
            (true, true) => "sasl_ssl",
        },
    );
    if let Some(tls) = &kafka.tls {
        // The vendored OpenSSL knows no system store; Debian, Alpine and distroless keep it here.
        let ca = tls.ca_secret_ref.as_ref().map_or_else(|| "/etc/ssl/certs/ca-certificates.crt".into(), |ca| secrets.path(ca));
        config.set("ssl.ca.location", ca.display().to_string());
        if let (Some(cert), Some(key)) = (&tls.cert_secret_ref, &tls.key_secret_ref) {
            secrets.read(cert)?;
            secrets.read(key)?;
            config.set("ssl.certificate.location", secrets.path(cert).display().to_string());
            config.set("ssl.key.location", secrets.path(key).display().to_string());
        }
    }
    if let Some(sasl) = &kafka.sasl {
        let mechanism = match sasl.mechanism {
            SaslMechanism::Plain => "PLAIN",
            SaslMechanism::ScramSha256 => "SCRAM-SHA-256",
            SaslMechanism::ScramSha512 => "SCRAM-SHA-512",
            SaslMechanism::OauthBearer => "OAUTHBEARER",
        };
        config.set("sasl.mechanism", mechanism);
        if let Some(password) = &sasl.password_secret_ref {
            config.set("sasl.username", &sasl.username);
            config.set("sasl.password", secrets.read(password)?);
        }
        if let Some(token) = &sasl.token_secret_ref {
            // A token that is missing is told now, not as a broker that cannot be reached.
            secrets.read(token)?;
        }
    }
    Ok(config)
}

/// Where a client's tokens come from (OAUTHBEARER).
#[derive(Debug, Clone)]
pub struct Tokens {
    source: Option<(Secrets, SecretRef)>,
}

/// A token that says nothing of its end is read again after so long.
const OPAQUE: Duration = Duration::from_mins(5);

impl Tokens {
    /// Those of a destination.
    pub fn of(destination: &Destination) -> Self {
        let reference = destination.kafka.sasl.as_ref().and_then(|sasl| sasl.token_secret_ref.clone());
        Self { source: reference.map(|reference| (destination.secrets.clone(), reference)) }
    }

    /// Whether tokens are what a broker is shown.
    pub fn are_used(&self) -> bool {
        self.source.is_some()
    }

    fn read(&self) -> Result<OAuthToken, Box<dyn Error>> {
        let Some((secrets, reference)) = &self.source else { return Err("kafka.sasl names no token".into()) };
        let token = secrets.read(reference)?.trim().to_owned();
        let claims = token.split('.').nth(1).and_then(|part| BASE64_URL_SAFE_NO_PAD.decode(part).ok());
        let claims: Option<serde_json::Value> = claims.and_then(|claims| serde_json::from_slice(&claims).ok());
        let claim = |name: &str| claims.as_ref().and_then(|claims| claims.get(name));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ends_ms = claim("exp").and_then(serde_json::Value::as_f64).map(|exp| (exp * 1000.0) as i64);
        let principal_name = claim("sub").and_then(serde_json::Value::as_str).unwrap_or("steno").to_owned();
        Ok(OAuthToken { token, principal_name, lifetime_ms: ends_ms.unwrap_or((now + OPAQUE).as_millis() as i64) })
    }
}

impl ClientContext for Tokens {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.read()
    }
}

impl ConsumerContext for Tokens {}

impl ProducerContext for Tokens {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

fn compression(compression: Compression) -> &'static str {
    match compression {
        Compression::None => "none",
        Compression::Gzip => "gzip",
        Compression::Snappy => "snappy",
        Compression::Lz4 => "lz4",
        Compression::Zstd => "zstd",
    }
}
