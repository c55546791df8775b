//! From an AuditPolicy to the sidecar's configuration.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use crate::{API_VERSION, AuditPolicy, AuditPolicySpec, Fault, validate::validate};

/// Version of the rendered form. A sidecar takes its own version and older ones.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// Longest name of a policy: `steno-<name>` names its ConfigMap, and the name is a label's value.
pub(crate) const MAX_NAME: usize = 57;

/// What a sidecar runs by: a policy with every default filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SidecarConfig {
    /// Always `audit.steno.dev/v1alpha1`.
    pub api_version: String,
    /// Always `SidecarConfig`.
    pub kind: String,
    /// Version of this form.
    pub format_version: u32,
    /// The policy that it was rendered from.
    pub policy: PolicyRef,
    /// First 16 hex digits of the SHA-256 over the specification; names this configuration in records and metrics.
    pub hash: String,
    /// The specification.
    pub spec: AuditPolicySpec,
}

/// Name and namespace of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyRef {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// A configuration that was read from text.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// What to run by.
    pub config: SidecarConfig,
    /// Fields that this version does not know, by path; they were left out.
    pub unknown: Vec<String>,
}

/// Renders a policy. Fails with every fault found, never with the first only.
pub fn render(policy: &AuditPolicy) -> Result<SidecarConfig, Vec<Fault>> {
    let mut faults = Vec::new();
    if policy.api_version != API_VERSION {
        faults.push(Fault::new("apiVersion", format!("is {:?}; write {API_VERSION}", policy.api_version)));
    }
    if policy.metadata.name.is_empty() {
        faults.push(Fault::new("metadata.name", "is empty; name the policy"));
    }
    if policy.metadata.name.len() > MAX_NAME {
        faults.push(Fault::new("metadata.name", format!("is longer than {MAX_NAME} characters; shorten it")));
    }
    faults.extend(validate(&policy.spec));
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(SidecarConfig {
        api_version: API_VERSION.into(),
        kind: "SidecarConfig".into(),
        format_version: FORMAT_VERSION,
        policy: PolicyRef { namespace: policy.metadata.namespace.clone(), name: policy.metadata.name.clone() },
        hash: hash(&policy.spec),
        spec: policy.spec.clone(),
    })
}

/// What a sidecar runs by until its configuration comes: every default, and nobody to deliver to. Events are made safe and kept.
pub fn spool_only(namespace: &str) -> SidecarConfig {
    // A name that never resolves (RFC 6761): the breaker opens and says why.
    let kafka = serde_json::json!({"brokers": ["no-configuration-yet.invalid:9092"], "topic": "no-configuration-yet"});
    let spec: AuditPolicySpec = match serde_json::from_value(serde_json::json!({ "kafka": kafka })) {
        Ok(spec) => spec,
        Err(_) => unreachable!("the defaults are a specification, as a test shows"),
    };
    SidecarConfig {
        api_version: API_VERSION.into(),
        kind: "SidecarConfig".into(),
        format_version: FORMAT_VERSION,
        policy: PolicyRef { namespace: namespace.into(), name: String::new() },
        hash: hash(&spec),
        spec,
    }
}

/// Reads an AuditPolicy from YAML or JSON, and names the fields that this version does not know. Its values are checked by [`render()`].
pub fn parse_policy(text: &str) -> Result<(AuditPolicy, Vec<String>), Vec<Fault>> {
    read(text)
}

/// Reads an AuditPolicy or a rendered configuration from YAML or JSON.
pub fn parse(text: &str) -> Result<Parsed, Vec<Fault>> {
    #[derive(Deserialize)]
    struct Kind {
        #[serde(default)]
        kind: String,
    }
    let kind: Kind =
        serde_yaml::from_str(text).map_err(|error| vec![Fault::new("(document)", format!("is not YAML or JSON: {error}"))])?;
    let (config, unknown) = match kind.kind.as_str() {
        "AuditPolicy" => {
            let (policy, unknown): (AuditPolicy, _) = read(text)?;
            (render(&policy)?, unknown)
        }
        "SidecarConfig" => {
            let (config, unknown): (SidecarConfig, _) = read(text)?;
            if config.format_version > FORMAT_VERSION {
                let message = format!("is {}; this sidecar takes up to {FORMAT_VERSION}: upgrade it", config.format_version);
                return Err(vec![Fault::new("formatVersion", message)]);
            }
            let faults = validate(&config.spec);
            if !faults.is_empty() {
                return Err(faults);
            }
            (SidecarConfig { hash: hash(&config.spec), ..config }, unknown)
        }
        other => {
            let message = format!("is {other:?}; write AuditPolicy (or give a rendered SidecarConfig)");
            return Err(vec![Fault::new("kind", message)]);
        }
    };
    Ok(Parsed { config, unknown })
}

fn read<T: DeserializeOwned>(text: &str) -> Result<(T, Vec<String>), Vec<Fault>> {
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(serde_yaml::Deserializer::from_str(text), &mut track);
    let value = serde_ignored::deserialize(deserializer, |path| unknown.push(path.to_string()));
    match value {
        Ok(value) => Ok((value, unknown.into_iter().filter(|path| !path.starts_with("metadata.") && path != "status").collect())),
        Err(error) => Err(vec![Fault::new(track.path().to_string(), error.to_string())]),
    }
}

fn hash(spec: &AuditPolicySpec) -> String {
    // A struct's members serialise in a fixed order and maps are sorted, so equal specifications have equal bytes.
    let bytes = serde_json::to_vec(spec).unwrap_or_default();
    Sha256::digest(bytes).iter().take(8).fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "
apiVersion: audit.steno.dev/v1alpha1
kind: AuditPolicy
metadata: {name: shop, namespace: prod, labels: {a: b}}
spec:
  kafka: {brokers: ['kafka:9092'], topic: audit}
";

    fn faults(text: &str) -> Vec<String> {
        parse(text).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn without_a_configuration_every_default_holds() {
        let config = spool_only("shop");
        assert!(validate(&config.spec).is_empty() && config.spec.redaction.builtin && config.policy.name.is_empty());
    }

    #[test]
    fn a_minimal_policy_gets_every_default() {
        let Parsed { config, unknown } = parse(POLICY).unwrap();
        assert!(unknown.is_empty(), "{unknown:?}");
        assert_eq!(config.spec.limits.max_event_bytes.to_string(), "64Ki");
        assert_eq!(config.spec.kafka.batch.len(), 3);
        assert!(config.spec.redaction.builtin);
    }

    #[test]
    fn what_was_rendered_reads_back_as_itself() {
        let config = parse(POLICY).unwrap().config;
        let again = parse(&serde_yaml::to_string(&config).unwrap()).unwrap().config;
        assert_eq!(config, again);
        let json = parse(&serde_json::to_string(&config).unwrap()).unwrap().config;
        assert_eq!(config, json);
    }

    #[test]
    fn a_fault_names_the_field_and_the_fix() {
        for (edit, path, fix) in [
            ("  limits: {maxEventBytes: 1Ki}", "spec.limits.maxEventBytes", "from 2Ki to 8Mi"),
            ("  limits: {maxEventBytes: big}", "spec.limits.maxEventBytes", "64Ki"),
            ("  require: ['a..b']", "spec.require[0]", "resource.id"),
            ("  ack: Maybe", "spec.ack", "Durable"),
            ("  redaction: {rules: [{action: Mask}]}", "spec.redaction.rules[0]", "exactly one"),
            ("  redaction: {rules: [{regex: '(', action: Mask}]}", "spec.redaction.rules[0].regex", "unclosed"),
            ("  redaction: {rules: [{regex: 'a*', action: Mask}]}", "spec.redaction.rules[0].regex", "empty"),
            ("  redaction: {rulez: []}", "spec.redaction", "rulez"),
            ("  deadLetter: {topic: audit}", "spec.deadLetter.topic", "another"),
            ("  listeners: [{address: '0.0.0.0:9443'}]", "spec.listeners[0].tls", "off loopback"),
            ("  listeners: [{address: ':9443'}]", "spec.listeners[0].address", "0.0.0.0:9443"),
            ("  sinks: [{name: kafka, type: File}]", "spec.sinks[0].name", "another"),
            ("  sinks: [{name: a, type: Http}]", "spec.sinks[0].http", "needs it"),
            ("  sinks: [{name: a, type: File}, {name: a, type: File}]", "spec.sinks[1].name", "its own"),
            ("  sinks: [{name: a, type: Http, http: {url: 'https://u:p@h/'}}]", "spec.sinks[0].http.url", "without a user"),
            ("  sinks: [{name: a, type: File, maxLag: {age: 1h}}]", "spec.sinks[0].maxLag", "required: false"),
            (
                "  fanOut: AllOrNothing\n  sinks: [{name: a, type: File, required: false}]",
                "spec.sinks[0].required",
                "AllOrNothing",
            ),
            (
                "  sinks: [{name: a, type: Postgres, postgres: {host: h, database: d, user: u, schema: 'a; drop'}}]",
                "spec.sinks[0].postgres.schema",
                "a-z",
            ),
            ("  intents: {enabled: true, topic: intents, allowPodLoss: true}", "spec.intents.enabled", "spool.encryption"),
            (
                "  intents: {enabled: true, topic: intents}\n  spool: {encryption: {keySecretRef: {name: a, key: b}}}",
                "spec.intents.allowPodLoss",
                "PersistentVolumeClaim",
            ),
            (
                "  intents: {enabled: true, topic: intents}\n  spool: {volume: {type: HostPath, hostPath: {path: /a}}}",
                "spec.intents.allowPodLoss",
                "PersistentVolumeClaim",
            ),
            ("  intents: {enabled: true, topic: audit}", "spec.intents.topic", "of their own"),
            ("  intents: {enabled: true}", "spec.intents.topic", "names no topic"),
            ("  intents: {enabled: true, topic: t, maxBytes: 600Mi}", "spec.intents.maxBytes", "half"),
            ("  sinks: [{name: intents, type: File}]", "spec.sinks[0].name", "another"),
            ("  spool: {maxBytes: 9Mi}\n  limits: {maxEventBytes: 1Mi}", "spec.spool.maxBytes", "32"),
        ] {
            let found = faults(&format!("{POLICY}{edit}\n"));
            assert!(found.iter().any(|fault| fault.starts_with(path) && fault.contains(fix)), "{edit}: {found:?}");
        }
        let bad = POLICY.replace("kafka:9092", "kafka").replace("topic: audit", "topic: a b, config: {acks: '1'}");
        let found = faults(&bad);
        for path in ["spec.kafka.brokers[0]", "spec.kafka.topic", "spec.kafka.config[acks]"] {
            assert!(found.iter().any(|fault| fault.starts_with(path)), "{path}: {found:?}");
        }
    }

    #[test]
    fn intents_are_for_a_claim_or_for_who_knows() {
        let keys = "encryption: {keySecretRef: {name: a, key: b}}";
        for edit in [
            format!("  intents: {{enabled: true, topic: intents, allowPodLoss: true}}\n  spool: {{{keys}}}"),
            format!(
                "  intents: {{enabled: true, topic: intents}}\n  spool: {{{keys}, volume: {{type: PersistentVolumeClaim, persistentVolumeClaim: {{claimName: c}}}}}}"
            ),
        ] {
            assert!(parse(&format!("{POLICY}{edit}\n")).is_ok(), "{edit}");
        }
    }

    #[test]
    fn unknown_fields_are_named_and_survived() {
        let parsed = parse(&format!("{POLICY}  someday: {{a: 1}}\n")).unwrap();
        assert_eq!(parsed.unknown, ["spec.someday"]);
    }

    #[test]
    fn the_hash_follows_the_specification_only() {
        let base = parse(POLICY).unwrap().config.hash;
        assert_eq!(base, parse(&POLICY.replace("name: shop", "name: other")).unwrap().config.hash);
        assert_ne!(base, parse(&POLICY.replace("topic: audit", "topic: other")).unwrap().config.hash);
    }
}
