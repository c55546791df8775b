//! What the types cannot say: bounds, formats, and fields that need each other.
use std::collections::HashSet;

use crate::{
    AuditPolicySpec, ByteSize, ClusterAuditPolicySpec, FanOut, Fault, Kafka, LimitsCeiling, MemberPath, Redaction, RedactionRule,
    SaslMechanism, SecretRef, Span,
    bounds::{self, Bound},
    settings,
};

/// Largest compiled size of a user's regex, in bytes.
pub const REGEX_SIZE_LIMIT: usize = 256 << 10;
const MAX_RULES: usize = 256;

struct Faults(Vec<Fault>);

/// All faults of a specification, in field order.
pub(crate) fn validate(spec: &AuditPolicySpec) -> Vec<Fault> {
    let mut faults = Faults(Vec::new());
    faults.kafka(&spec.kafka);
    for (name, message) in settings::check_together(&spec.kafka.config, spec.limits.max_event_bytes.bytes()) {
        faults.add(format!("kafka.config[{name}]"), message);
    }
    faults.members(spec);
    faults.redaction(&spec.redaction);
    faults.bounds(spec);
    faults.together(spec);
    faults.0
}

/// All faults of what a platform asks, in field order.
pub(crate) fn validate_cluster(spec: &ClusterAuditPolicySpec) -> Vec<Fault> {
    let mut faults = Faults(Vec::new());
    // What a namespace names itself may be left out.
    let mut kafka = spec.kafka.clone();
    if kafka.brokers.is_empty() {
        kafka.brokers.push("namespaces.name.theirs:9092".into());
    }
    if kafka.topic.is_empty() {
        kafka.topic.push('t');
    }
    faults.kafka(&kafka);
    faults.require(&spec.require);
    faults.redaction(&spec.redaction);
    faults.limits(&spec.limits);
    faults.within(&bounds::SPOOL_BYTES, spec.spool.max_bytes);
    faults.0
}

// === impl Faults ===

impl Faults {
    fn add(&mut self, path: impl AsRef<str>, message: impl Into<String>) {
        self.0.push(Fault::new(format!("spec.{}", path.as_ref()), message));
    }

    fn within<T: PartialOrd + Copy + ToString>(&mut self, bound: &Bound<T>, value: impl Into<Option<T>>) {
        self.within_at(bound.path, bound, value);
    }

    fn within_at<T: PartialOrd + Copy + ToString>(&mut self, path: &str, bound: &Bound<T>, value: impl Into<Option<T>>) {
        if let Some(value) = value.into()
            && (value < bound.min || value > bound.max)
        {
            let (min, max) = (bound.min.to_string(), bound.max.to_string());
            self.add(path, format!("{} is out of bounds; write from {min} to {max}", value.to_string()));
        }
    }

    fn kafka(&mut self, kafka: &Kafka) {
        if kafka.brokers.is_empty() {
            self.add("kafka.brokers", "names no broker; write at least one host:port, or have a ClusterAuditPolicy name them");
        }
        for (index, broker) in kafka.brokers.iter().enumerate() {
            if !is_address(broker) {
                self.add(format!("kafka.brokers[{index}]"), format!("{broker:?} is not host:port, such as kafka.kafka.svc:9092"));
            }
        }
        self.topic("kafka.topic", &kafka.topic);
        if let Some(create) = &kafka.create {
            self.within(&bounds::CREATE_PARTITIONS, create.partitions);
            self.within(&bounds::CREATE_REPLICATION, create.replication_factor);
        }
        if kafka.batch.is_empty() || kafka.batch.len() > 8 {
            self.add("kafka.batch", "has no rows or more than 8; leave it out for the default");
        }
        for (index, step) in kafka.batch.iter().enumerate() {
            self.within_at(&format!("kafka.batch[{index}].backlog"), &bounds::BATCH_BACKLOG, step.backlog);
            self.within_at(&format!("kafka.batch[{index}].size"), &bounds::BATCH_SIZE, step.size);
        }
        if let Some(tls) = &kafka.tls {
            if let Err(message) = tls.check() {
                self.add("kafka.tls", message);
            }
            for (name, reference) in [("ca", &tls.ca_secret_ref), ("cert", &tls.cert_secret_ref), ("key", &tls.key_secret_ref)] {
                self.secret(&format!("kafka.tls.{name}SecretRef"), reference.as_ref());
            }
        }
        if let Some(sasl) = &kafka.sasl {
            let by_token = sasl.mechanism == SaslMechanism::OauthBearer;
            if sasl.username.is_empty() != by_token {
                self.add(
                    "kafka.sasl.username",
                    if by_token { "is set; with OAUTHBEARER the token names the user" } else { "is empty" },
                );
            }
            for (name, reference, wanted) in
                [("password", &sasl.password_secret_ref, !by_token), ("token", &sasl.token_secret_ref, by_token)]
            {
                let path = format!("kafka.sasl.{name}SecretRef");
                match (reference, wanted) {
                    (None, true) => self.add(path, "is not set; the mechanism needs it"),
                    (Some(_), false) => self.add(path, "is set, and the mechanism takes none"),
                    _ => self.secret(&path, reference.as_ref()),
                }
            }
        }
        for (name, value) in &kafka.config {
            if let Err(message) = settings::check(name, value) {
                self.add(format!("kafka.config[{name}]"), message);
            }
        }
    }

    fn topic(&mut self, path: &str, topic: &str) {
        if topic.is_empty() {
            return self.add(path, "names no topic; write one, or have a ClusterAuditPolicy name it");
        }
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if topic.is_empty() || topic.len() > 249 || matches!(topic, "." | "..") || !topic.chars().all(legal) {
            self.add(path, format!("{topic:?} is not a topic name; write 1 to 249 of a-z A-Z 0-9 . _ -"));
        }
    }

    fn secret(&mut self, path: &str, reference: Option<&SecretRef>) {
        let plain = |name: &str| {
            !name.is_empty()
                && !name.starts_with("..")
                && name != "."
                && name.len() <= 253
                && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
        };
        if let Some(reference) = reference
            && !(plain(&reference.name) && plain(&reference.key))
        {
            self.add(path, "needs a name and a key of a Secret, each of a-z A-Z 0-9 . _ -");
        }
    }

    fn require(&mut self, require: &[String]) {
        for (index, path) in require.iter().enumerate() {
            let plain = path.parse::<MemberPath>().is_ok() && !path.contains('*');
            if !plain {
                self.add(format!("require[{index}]"), format!("{path:?} is not a member such as resource.id"));
            }
        }
    }

    fn members(&mut self, spec: &AuditPolicySpec) {
        self.require(&spec.require);
        let defaults = &spec.defaults;
        let tenant = defaults.tenant_id.as_ref().map(|tenant| &tenant.value);
        for (name, value) in [
            ("tenantId.value", tenant),
            ("service", defaults.service.as_ref()),
            ("category", defaults.category.as_ref()),
            ("outcome", defaults.outcome.as_ref()),
        ] {
            if value.is_some_and(|value| value.is_empty() || value.len() > 256) {
                self.add(format!("defaults.{name}"), "is empty or longer than 256 bytes");
            }
        }
    }

    fn redaction(&mut self, redaction: &Redaction) {
        if redaction.rules.len() > MAX_RULES {
            self.add("redaction.rules", format!("has {} rules; at most {MAX_RULES}", redaction.rules.len()));
        }
        self.secret("redaction.keySecretRef", redaction.key_secret_ref.as_ref());
        for (index, rule) in redaction.rules.iter().enumerate() {
            self.rule(&format!("redaction.rules[{index}]"), rule);
        }
    }

    fn rule(&mut self, path: &str, rule: &RedactionRule) {
        let set = usize::from(rule.path.is_some()) + usize::from(rule.detector.is_some()) + usize::from(rule.regex.is_some());
        if set != 1 {
            self.add(path, "sets none or several of path, detector and regex; set exactly one");
        }
        if let Some(Err(message)) = rule.path.as_ref().map(|path| path.parse::<MemberPath>()) {
            self.add(format!("{path}.path"), message);
        }
        if let Some(regex) = &rule.regex {
            match regex::RegexBuilder::new(regex).size_limit(REGEX_SIZE_LIMIT).build() {
                Err(error) => self.add(format!("{path}.regex"), format!("does not compile: {}", last_line(&error.to_string()))),
                Ok(regex) if regex.is_match("") => {
                    self.add(format!("{path}.regex"), "matches the empty text; use + instead of *");
                }
                Ok(_) => {}
            }
        }
        for (index, except) in rule.except.iter().enumerate() {
            if let Err(message) = except.parse::<MemberPath>() {
                self.add(format!("{path}.except[{index}]"), message);
            }
        }
    }

    fn limits(&mut self, limits: &LimitsCeiling) {
        let rate = &limits.rate;
        self.within(&bounds::MAX_EVENT_BYTES, limits.max_event_bytes);
        self.within(&bounds::MAX_BODY_BYTES, limits.max_body_bytes);
        self.within(&bounds::MAX_BATCH_ITEMS, limits.max_batch_items);
        self.within(&bounds::MAX_CONNECTIONS, limits.max_connections);
        self.within(&bounds::RATE_TOTAL, rate.total);
        self.within(&bounds::RATE_TENANT, rate.per_tenant);
        self.within(&bounds::RATE_BURST, rate.burst);
        self.within(&bounds::RATE_CRITICAL, rate.critical);
    }

    fn bounds(&mut self, spec: &AuditPolicySpec) {
        self.limits(&LimitsCeiling::from(&spec.limits));
        self.within(&bounds::RATE_TENANTS, spec.limits.rate.max_tenants);
        self.within(&bounds::DEDUPE_WINDOW, spec.dedupe.window);
        self.within(&bounds::DEDUPE_ENTRIES, spec.dedupe.max_entries);
        self.within(&bounds::CRITICAL_TIMEOUT, spec.critical.timeout);
        self.within(&bounds::BREAKER_THRESHOLD, spec.breaker.failure_threshold);
        self.within(&bounds::BREAKER_COOLDOWN, spec.breaker.cooldown);
        self.within(&bounds::BREAKER_NO_BROKER, spec.breaker.no_broker_for);
        self.within::<ByteSize>(&bounds::SPOOL_BYTES, spec.spool.max_bytes);
        self.within::<Span>(&bounds::RETAIN_AGE, spec.spool.retain.age);
        self.within(&bounds::RETAIN_BYTES, spec.spool.retain.bytes);
        self.within(&bounds::MAX_CHAINS, spec.integrity.max_chains);
        self.within(&bounds::INTENT_EXPIRE, spec.intents.expire_after);
        self.within(&bounds::INTENT_BYTES, spec.intents.max_bytes);
        self.within(&bounds::INTENT_PAYLOAD, spec.intents.max_payload_bytes);
        self.within(&bounds::INTENT_OPEN, spec.intents.max_open);
        self.within(&bounds::DRAIN_TIMEOUT, spec.sidecar.drain_timeout);
        self.within(&bounds::REQUEST_TIMEOUT, spec.sidecar.request_timeout);
        self.within(&bounds::MAX_CPU_MILLIS, spec.sidecar.resources.max_cpu_millis);
        self.within(&bounds::MAX_MEMORY, spec.sidecar.resources.max_memory);
        self.requests(&spec.sidecar.resources);
        self.within(&bounds::REQUEST_LOG_RATE, spec.sidecar.request_log_rate);
    }

    fn requests(&mut self, of: &crate::ResourceBounds) {
        self.within(&bounds::CPU_REQUEST_MILLIS, of.cpu_request_millis);
        self.within(&bounds::CPU_LIMIT_MILLIS, of.cpu_limit_millis);
        self.within(&bounds::MEMORY_REQUEST, of.memory_request);
        self.within(&bounds::MEMORY_LIMIT, of.memory_limit);
        let above = |one: Option<u64>, other: Option<u64>| one.zip(other).is_some_and(|(one, other)| one > other);
        if above(of.cpu_request_millis, of.cpu_limit_millis) {
            self.add("sidecar.resources.cpuRequestMillis", "is above cpuLimitMillis; raise that or lower this");
        }
        if above(of.memory_request.map(ByteSize::bytes), of.memory_limit.map(ByteSize::bytes)) {
            self.add("sidecar.resources.memoryRequest", "is above memoryLimit; raise that or lower this");
        }
    }

    fn together(&mut self, spec: &AuditPolicySpec) {
        if spec.limits.max_event_bytes > spec.limits.max_body_bytes {
            self.add("limits.maxEventBytes", "is larger than limits.maxBodyBytes, so that such an event could never arrive");
        }
        if spec.limits.max_event_bytes.0 > spec.spool.max_bytes.0 / 32 {
            self.add("spool.maxBytes", "is smaller than 32 events of limits.maxEventBytes; raise it or lower that");
        }
        for (path, message) in spec.spool.volume.faults(spec.spool.max_bytes) {
            self.add(format!("spool.volume.{path}"), message);
        }
        if let Some(keys) = &spec.spool.encryption {
            self.secret("spool.encryption.keySecretRef", keys.key_secret_ref.as_ref());
            for (index, reference) in keys.old_key_secret_refs.iter().enumerate() {
                self.secret(&format!("spool.encryption.oldKeySecretRefs[{index}]"), Some(reference));
            }
            if keys.old_key_secret_refs.len() > 8 {
                self.add("spool.encryption.oldKeySecretRefs", "has more than 8 keys; take out those that no segment needs");
            }
            if keys.key_secret_ref.is_none() && keys.old_key_secret_refs.is_empty() {
                self.add("spool.encryption", "names no key; set keySecretRef, or leave encryption out");
            }
        }
        self.sinks(spec);
        self.listeners(spec);
        self.secret("query.tokenSecretRef", spec.query.token_secret_ref.as_ref());
        self.secret("intents.tokenSecretRef", spec.intents.token_secret_ref.as_ref());
        if spec.intents.enabled || !spec.intents.topic.is_empty() {
            self.topic("intents.topic", &spec.intents.topic);
        }
        for (path, message) in spec.intents.faults(spec) {
            self.add(format!("intents.{path}"), message);
        }
        if let Some(topic) = &spec.dead_letter.topic {
            self.topic("deadLetter.topic", topic);
            if *topic == spec.kafka.topic {
                self.add("deadLetter.topic", "is the audit topic itself; name another");
            }
        }
        let mut seen = HashSet::new();
        if !spec.critical.severities.iter().all(|severity| seen.insert(severity.word())) {
            self.add("critical.severities", "names a severity twice");
        }
    }

    fn listeners(&mut self, spec: &AuditPolicySpec) {
        if spec.listeners.len() > 8 {
            self.add("listeners", format!("has {} listeners; at most 8", spec.listeners.len()));
        }
        let mut addresses = HashSet::new();
        for (index, listener) in spec.listeners.iter().enumerate() {
            for (path, message) in listener.faults() {
                self.add(format!("listeners[{index}].{path}"), message);
            }
            if !addresses.insert(&listener.address) {
                self.add(format!("listeners[{index}].address"), "is that of another listener");
            }
            for reference in listener.secrets() {
                self.secret(&format!("listeners[{index}]"), Some(reference));
            }
        }
    }

    fn sinks(&mut self, spec: &AuditPolicySpec) {
        if spec.sinks.len() > 8 {
            self.add("sinks", format!("has {} sinks; at most 8", spec.sinks.len()));
        }
        let mut names = HashSet::new();
        for (index, sink) in spec.sinks.iter().enumerate() {
            let at = format!("sinks[{index}]");
            for (path, message) in sink.faults(spec.spool.max_bytes) {
                self.add(format!("{at}.{path}"), message);
            }
            if !names.insert(&sink.name) {
                self.add(format!("{at}.name"), "is that of another sink; each needs its own");
            }
            if spec.fan_out == FanOut::AllOrNothing && !sink.required {
                self.add(
                    format!("{at}.required"),
                    "is false, and fanOut is AllOrNothing, which waits for every sink; make it required",
                );
            }
            if sink.redaction.rules.len() > MAX_RULES {
                self.add(
                    format!("{at}.redaction.rules"),
                    format!("has {} rules; at most {MAX_RULES}", sink.redaction.rules.len()),
                );
            }
            for (rule_index, rule) in sink.redaction.rules.iter().enumerate() {
                self.rule(&format!("{at}.redaction.rules[{rule_index}]"), rule);
            }
            for reference in sink.secrets() {
                self.secret(&at, Some(reference));
            }
            let path = |name: &str| format!("{at}.{name}");
            self.within_at(&path("maxLag.bytes"), &bounds::SINK_LAG_BYTES, sink.max_lag.bytes);
            self.within_at(&path("maxLag.age"), &bounds::SINK_LAG_AGE, sink.max_lag.age);
            self.within_at(&path("breaker.failureThreshold"), &bounds::SINK_THRESHOLD, sink.breaker.failure_threshold);
            self.within_at(&path("breaker.cooldown"), &bounds::SINK_COOLDOWN, sink.breaker.cooldown);
            if let Some(file) = &sink.file {
                self.within_at(&path("file.rotateBytes"), &bounds::FILE_BYTES, file.rotate_bytes);
                self.within_at(&path("file.rotateAge"), &bounds::FILE_AGE, file.rotate_age);
                self.within_at(&path("file.backups"), &bounds::FILE_BACKUPS, file.backups);
            }
            if let Some(http) = &sink.http {
                self.within_at(&path("http.batch"), &bounds::HTTP_BATCH, http.batch);
                self.within_at(&path("http.timeout"), &bounds::HTTP_TIMEOUT, http.timeout);
            }
            if let Some(db) = &sink.postgres {
                self.within_at(&path("postgres.batch"), &bounds::POSTGRES_BATCH, db.batch);
            }
        }
    }
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        !host.is_empty() && !host.contains([' ', ',', '/']) && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or(text)
}
