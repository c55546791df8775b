//! A policy's Kafka part as librdkafka's properties.
use std::path::PathBuf;

use rdkafka::ClientConfig;
use steno_crds::{Compression, Kafka, SaslMechanism, SecretRef};

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
}

// === impl Destination ===

impl Destination {
    /// Largest request: librdkafka's default, or more where a record, its key and headers would not fit.
    pub(crate) fn max_message(&self) -> u64 {
        let set = self.kafka.config.get("message.max.bytes").and_then(|bytes| bytes.parse().ok());
        set.unwrap_or_else(|| 1_000_000.max(self.max_record + 16_384))
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
        ("queue.buffering.max.kbytes", "24576".into()),
        // Batches form while others are on their way; idle records do not wait.
        ("linger.ms", "1".into()),
        ("message.timeout.ms", "15000".into()),
        ("message.max.bytes", destination.max_message().to_string()),
        ("topic.metadata.propagation.max.ms", "5000".into()),
        ("topic.metadata.refresh.interval.ms", "30000".into()),
        ("reconnect.backoff.max.ms", "2000".into()),
        ("socket.keepalive.enable", "true".into()),
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
        };
        config.set("sasl.mechanism", mechanism);
        config.set("sasl.username", &sasl.username);
        config.set("sasl.password", secrets.read(&sasl.password_secret_ref)?);
    }
    Ok(config)
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
