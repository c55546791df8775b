//! A configuration, compiled for use.
use std::{hash::Hasher, path::Path, sync::Arc, time::Duration};

use steno_chain::NoteContext;
use steno_commit::{CommitConfig, Reserve, WhenFull};
use steno_crds::{
    Ack, AuditPolicySpec, DefaultMode, Guarantee, Intents, Kafka, KafkaKey, OnOversize, Scope, SecretRef, Severity,
    SidecarConfig, SpoolCompression, WhenFull as WhenFullSpec,
};
use steno_deliver::{
    BreakerConfig, Lag, Settings,
    kafka::{Destination, Secrets},
};
use steno_event::{Fill, IdKey};
use steno_journal::{Envelope, Key, Keys, Options};
use steno_redact::{HashKey, Redactor};

use crate::{
    identity::Identity,
    intents,
    listeners::{self, Wanted},
    outlets::{self, Further, Route, Target},
};

/// All that a request needs of a configuration.
pub struct Compiled {
    /// What it was made from.
    pub config: SidecarConfig,
    /// Fields that this version does not know.
    pub unknown: Vec<String>,
    /// What it had better not do.
    pub advice: Vec<steno_crds::Advice>,
    /// Redaction.
    pub redactor: Redactor,
    /// The key of `Hash`, for the sinks' own redaction and for payloads of intents.
    pub sinks_key: Option<HashKey>,
    /// Generation of its rules.
    pub rules: u32,
    /// Defaults.
    pub fill: Fill,
    /// Largest record.
    pub max_event: usize,
    /// Largest body.
    pub max_body: usize,
    /// Whether too large an event is cut.
    pub truncate: bool,
    /// Severities that are critical.
    pub critical: Vec<&'static str>,
    /// How long an answer waits for delivery.
    pub critical_timeout: Duration,
    /// Whether every answer waits for delivery.
    pub wait_delivered: bool,
    /// Whether a tenant is needed for its chain.
    pub by_tenant: bool,
    /// How long a request may take.
    pub request_timeout: Duration,
    /// How the journal is kept.
    pub envelope: Envelope,
    /// Why nothing may be stored: the key is not there, or is none.
    pub no_key: Option<String>,
    /// Further listeners.
    pub listeners: Vec<Wanted>,
    /// Who may look back.
    pub query: QueryAccess,
    /// Who may write and read intents.
    pub intents: QueryAccess,
    /// Secrets that are missing, by `name/key`.
    pub missing_secrets: Vec<String>,
}

/// Who may make a call that gives back what was sent.
#[derive(Clone, PartialEq, Eq)]
pub enum QueryAccess {
    /// Nobody: the policy does not say so, or its token is not there.
    Nobody(&'static str),
    /// Who carries this token.
    Bearer(String),
    /// Every container of the pod.
    Anyone,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(pub String);

impl Compiled {
    /// Compiles a configuration.
    pub fn new(config: SidecarConfig, unknown: Vec<String>, identity: &Identity, secrets: &Secrets) -> Result<Self, Unusable> {
        let spec = &config.spec;
        let key = match &spec.redaction.key_secret_ref {
            Some(reference) => match secrets.read(reference) {
                Ok(key) if !key.is_empty() => Some(HashKey { id: key_id(key.as_bytes()), key: key.into_bytes() }),
                // Without a key Hash removes, which is safe; the missing Secret is told in stats.
                _ => None,
            },
            None => None,
        };
        let sinks_key = key.clone();
        let redactor = Redactor::compile(&spec.redaction, &spec.capture, key).map_err(|error| Unusable(error.to_string()))?;
        for finding in steno_redact::without_effect(&spec.redaction) {
            tracing::warn!(finding, "a rule of the policy redacts nothing");
        }
        let advice = steno_crds::advice(spec);
        for advice in &advice {
            tracing::warn!(field = advice.path, "{}", advice.message);
        }
        let tenant = spec.defaults.tenant_id.as_ref();
        let service =
            spec.defaults.service.clone().or_else(|| identity.service.clone()).unwrap_or_else(|| config.policy.name.clone());
        let fill = Fill {
            tenant: tenant.map_or_else(|| identity.namespace.clone(), |tenant| tenant.value.clone()),
            tenant_enforced: tenant.is_some_and(|tenant| tenant.mode == DefaultMode::Enforced),
            service,
            category: spec.defaults.category.clone().unwrap_or_else(|| "user-action".into()),
            outcome: spec.defaults.outcome.clone().unwrap_or_else(|| "unknown".into()),
            severity: spec.defaults.severity.unwrap_or(Severity::Info).word(),
            require: spec.require.iter().map(|path| path.split('.').map(str::to_owned).collect()).collect(),
            writer: identity.writer(&config.hash),
        };
        let (envelope, no_key) = envelope(spec, secrets);
        Ok(Self {
            envelope,
            advice,
            no_key,
            rules: redactor.generation(),
            redactor,
            sinks_key,
            fill,
            max_event: spec.limits.max_event_bytes.bytes() as usize,
            max_body: spec.limits.max_body_bytes.bytes() as usize,
            truncate: spec.limits.on_oversize == OnOversize::Truncate,
            critical: spec.critical.severities.iter().map(|severity| severity.word()).collect(),
            critical_timeout: spec.critical.timeout.duration(),
            wait_delivered: spec.ack == Ack::Delivered,
            by_tenant: spec.integrity.scope == Scope::Tenant,
            request_timeout: spec.sidecar.request_timeout.duration(),
            query: if spec.query.enabled {
                access(
                    spec.query.token_secret_ref.as_ref(),
                    secrets,
                    "the Secret of query.tokenSecretRef is missing, empty, or no token that a header carries",
                )
            } else {
                QueryAccess::Nobody("query.enabled is false in the policy")
            },
            intents: if spec.intents.enabled {
                access(
                    spec.intents.token_secret_ref.as_ref(),
                    secrets,
                    "the Secret of intents.tokenSecretRef is missing, empty, or no token that a header carries",
                )
            } else {
                QueryAccess::Nobody("intents.enabled is false in the policy")
            },
            missing_secrets: missing_secrets(&config, secrets),
            listeners: listeners::wanted(&config.spec.listeners, secrets),
            unknown,
            config,
        })
    }

    /// What the commit loop goes by.
    pub fn commit(&self, identity: &Identity) -> CommitConfig {
        let spec = &self.config.spec;
        let max_bytes = spec.spool.max_bytes.bytes();
        CommitConfig {
            note: NoteContext {
                tenant: self.fill.tenant.clone(),
                service: self.fill.service.clone(),
                writer: self.fill.writer.clone(),
            },
            pod_uid: identity.pod_uid.clone(),
            chains: spec.integrity.scope != Scope::None,
            by_tenant: self.by_tenant,
            max_chains: spec.integrity.max_chains as usize,
            window_ms: spec.dedupe.window.duration().as_millis() as u64,
            max_entries: spec.dedupe.max_entries as usize,
            when_full: match spec.spool.when_full {
                // Waiting is the request's business: the loop waits for nobody.
                WhenFullSpec::Reject | WhenFullSpec::Block => WhenFull::Reject,
                WhenFullSpec::DropNewest => WhenFull::DropNewest,
                WhenFullSpec::DropOldest => WhenFull::DropOldest,
            },
            answer_written: spec.ack == Ack::Written,
            journal: Options {
                // The intents' journal has its part for itself.
                max_bytes: if spec.intents.enabled {
                    max_bytes.saturating_sub(spec.intents.max_bytes.bytes())
                } else {
                    max_bytes
                },
                segment_bytes: (max_bytes / 16).clamp(256 << 10, 16 << 20),
                // What tells of a drop is a record for each chain and sink, before space becomes free.
                control_segments: if spec.spool.when_full == WhenFullSpec::DropOldest { 1 + spec.sinks.len() as u64 } else { 1 },
                retain_ms: spec.spool.retain.age.map_or(0, |age| age.duration().as_millis() as u64),
                retain_bytes: spec.spool.retain.bytes.map_or(0, steno_crds::ByteSize::bytes),
                recycle: true,
            },
            envelope: self.envelope.clone(),
            // What runs until a configuration comes says nothing about the sinks that there are.
            sinks: if self.config.policy.name.is_empty() { Vec::new() } else { self.sink_names() },
            reserve: Reserve::default(),
        }
    }

    /// What the loop of the intents' journal goes by.
    pub fn commit_intents(&self, identity: &Identity, spec: &Intents) -> CommitConfig {
        CommitConfig {
            chains: false,
            by_tenant: false,
            // As long as an intent may be there at all.
            window_ms: 2 * spec.expire_after.duration().as_millis() as u64,
            max_entries: INTENT_IDS,
            when_full: WhenFull::Reject,
            answer_written: false,
            journal: Options {
                max_bytes: spec.max_bytes.bytes(),
                segment_bytes: INTENT_SEGMENT,
                control_segments: 1,
                retain_ms: 0,
                retain_bytes: 0,
                // What has ended does not wait in a spare file.
                recycle: false,
            },
            sinks: vec![outlets::INTENTS.into(), intents::OPEN.into()],
            ..self.commit(identity)
        }
    }

    /// Where the metadata of intents goes.
    pub fn intents_route(&self, identity: &Identity, secrets: &Secrets, spec: &Intents) -> Route {
        let destination = self.destination(identity, secrets);
        let kafka = Kafka {
            topic: spec.topic.clone(),
            // Those of one entity stay in order.
            key: KafkaKey::Resource,
            guarantee: Guarantee::AtLeastOnce,
            ..destination.kafka
        };
        Route {
            name: outlets::INTENTS.into(),
            required: true,
            // The dead letters of events are no place for them: theirs are kept in their own folder.
            target: Target::Intents(Box::new(Destination { kafka, dead_letter: None, has_keys: true, ..destination })),
            settings: Settings {
                dead_bytes: spec.max_bytes.bytes() / 16,
                // Endings have the headroom of critical events, not their place.
                in_order: true,
                ..self.delivery()
            },
        }
    }

    /// What hashes of payloads are keyed with: the policy's key, else the journal's own.
    pub fn payload_key(&self, journal: &IdKey) -> HashKey {
        self.sinks_key.clone().unwrap_or_else(|| HashKey { id: "journal".into(), key: journal.0.to_vec() })
    }

    fn sink_names(&self) -> Vec<String> {
        let further = self.config.spec.sinks.iter().map(|sink| sink.name.clone());
        std::iter::once(outlets::KAFKA.to_owned()).chain(further).collect()
    }

    /// All sinks, Kafka first.
    pub fn routes(&self, identity: &Identity, secrets: &Secrets, dir: &Path) -> Vec<Route> {
        let kafka = Route {
            name: outlets::KAFKA.into(),
            required: true,
            target: match self.config.spec.kafka.guarantee {
                Guarantee::AtLeastOnce => Target::Kafka(Box::new(self.destination(identity, secrets))),
                Guarantee::ExactlyOnce => Target::ExactlyOnce(Box::new(self.destination(identity, secrets))),
            },
            settings: self.delivery(),
        };
        let further = self.config.spec.sinks.iter().map(|sink| {
            let further = Further {
                secrets: secrets.clone(),
                secrets_hash: secrets_hash(sink.secrets(), secrets),
                source: identity.source(),
                files: outlets::files_dir(&identity.files, &identity.own_dir(), dir, &sink.name),
                key: self.sinks_key.clone().filter(|_| !sink.redaction.rules.is_empty()),
                // What its forwarder goes by is no part of where it leads.
                spec: steno_crds::SinkSpec {
                    breaker: steno_crds::Breaker::default(),
                    max_lag: steno_crds::MaxLag::default(),
                    required: true,
                    ..sink.clone()
                },
            };
            let spool = self.config.spec.spool.max_bytes.bytes();
            let lag = Lag {
                bytes: sink.max_lag.bytes.map_or(spool / 4, steno_crds::ByteSize::bytes),
                age: sink.max_lag.age.map(steno_crds::Span::duration),
            };
            Route {
                name: sink.name.clone(),
                required: sink.required,
                settings: Settings {
                    breaker: breaker(&sink.breaker),
                    batch: vec![(1, further.batch())],
                    max_lag: (!sink.required).then_some(lag),
                    ..self.delivery()
                },
                target: Target::Further(Box::new(further)),
            }
        });
        std::iter::once(kafka).chain(further).collect()
    }

    /// What delivery to Kafka goes by.
    pub fn delivery(&self) -> Settings {
        let spec = &self.config.spec;
        Settings {
            breaker: breaker(&spec.breaker),
            batch: spec.kafka.batch.iter().map(|step| (step.backlog, step.size)).collect(),
            dead_bytes: spec.spool.max_bytes.bytes() / 16,
            keys: self.envelope.keys.clone(),
            max_lag: None,
            in_order: spec.kafka.guarantee == Guarantee::ExactlyOnce,
        }
    }

    /// Where records go.
    pub fn destination(&self, identity: &Identity, secrets: &Secrets) -> Destination {
        let spec = &self.config.spec;
        let token = spec.kafka.sasl.as_ref().and_then(|sasl| sasl.token_secret_ref.as_ref());
        Destination {
            kafka: spec.kafka.clone(),
            dead_letter: spec.dead_letter.topic.clone(),
            source: identity.source(),
            secrets: secrets.clone(),
            // A token is read again by itself.
            secrets_hash: secrets_hash(self.config.spec.kafka_secrets().filter(|reference| Some(*reference) != token), secrets),
            client_id: format!("steno-{}", identity.pod),
            max_record: spec.limits.max_event_bytes.bytes(),
            has_keys: match spec.kafka.key {
                KafkaKey::None => false,
                KafkaKey::Chain => spec.integrity.scope != Scope::None,
                KafkaKey::EventId | KafkaKey::Tenant | KafkaKey::Actor | KafkaKey::Resource => true,
            },
        }
    }
}

/// Ids of intents in memory.
const INTENT_IDS: usize = 4096;
/// Bytes of a segment of the intents' journal: small, so that what ended goes soon, and large enough for the largest payload.
pub const INTENT_SEGMENT: u64 = 2 << 20;

/// Who has access by a token; without one everybody.
pub fn access(token: Option<&SecretRef>, secrets: &Secrets, missing: &'static str) -> QueryAccess {
    let Some(reference) = token else { return QueryAccess::Anyone };
    match secrets.read(reference) {
        Ok(token) => bearer(&token).map_or(QueryAccess::Nobody(missing), QueryAccess::Bearer),
        _ => QueryAccess::Nobody(missing),
    }
}

/// A token as a header carries it: visible ASCII characters, without what stands around them in its file.
///
/// # Errors
/// Nobody could send it.
pub fn bearer(token: &str) -> Result<String, &'static str> {
    let token = token.trim();
    match token {
        "" => Err("its token is empty"),
        _ if !token.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Err("its token has blanks, line breaks or characters other than ASCII, which no Authorization header carries")
        }
        _ => Ok(token.to_owned()),
    }
}

fn breaker(breaker: &steno_crds::Breaker) -> BreakerConfig {
    BreakerConfig {
        threshold: breaker.failure_threshold as u32,
        cooldown: breaker.cooldown.duration(),
        no_broker_for: breaker.no_broker_for.duration(),
    }
}

/// How the journal is kept, and why nothing may be stored.
fn envelope(spec: &AuditPolicySpec, secrets: &Secrets) -> (Envelope, Option<String>) {
    let compress = spec.spool.compression == SpoolCompression::Zstd;
    let Some(encryption) = &spec.spool.encryption else { return (Envelope { compress, ..Envelope::default() }, None) };
    let read = |reference: &SecretRef| {
        let bytes = std::fs::read(secrets.path(reference))
            .map_err(|_| format!("the Secret {}/{} is missing", reference.name, reference.key))?;
        Key::read(&bytes).map_err(|bad| format!("the Secret {}/{}: {bad}", reference.name, reference.key))
    };
    let (current, no_key) = match encryption.key_secret_ref.as_ref().map(read).transpose() {
        Ok(current) => (current, None),
        Err(why) => (None, Some(format!("spool.encryption.keySecretRef: {why}"))),
    };
    // An old one that is missing shows where it is needed: the journal names it.
    let old = encryption.old_key_secret_refs.iter().filter_map(|reference| read(reference).ok()).collect();
    (Envelope { keys: Arc::new(Keys::new(current, old)), compress }, no_key)
}

fn missing_secrets(config: &SidecarConfig, secrets: &Secrets) -> Vec<String> {
    let missing = config.spec.secrets().filter(|reference| !Path::new(&secrets.path(reference)).is_file());
    missing.map(|reference| format!("{}/{}", reference.name, reference.key)).collect()
}

/// Tells whether a secret of the connection changed; not its contents.
fn secrets_hash<'a>(references: impl Iterator<Item = &'a SecretRef>, secrets: &Secrets) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    for reference in references {
        hasher.write(secrets.read(reference).unwrap_or_default().as_bytes());
        hasher.write_u8(0);
    }
    hasher.finish()
}

/// A short name of a key that tells nothing of it.
fn key_id(key: &[u8]) -> String {
    let identity = steno_event::identity(&steno_event::IdKey([0x53; 32]), "key id", &String::from_utf8_lossy(key));
    identity.iter().take(4).fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// A compiled configuration, shared.
pub type Current = Arc<arc_swap::ArcSwap<Compiled>>;
