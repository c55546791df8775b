use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::json;

use super::*;
use crate::{ByteSize, CaptureCeiling, Kafka, LimitsCeiling, NetworkCeiling, RateCeiling, SpoolCeiling, Volume, VolumeType};

fn spec(value: serde_json::Value) -> AuditPolicySpec {
    serde_json::from_value(value).unwrap()
}

fn asks(value: serde_json::Value) -> ClusterAuditPolicySpec {
    serde_json::from_value(value).unwrap()
}

fn covering(name: &str, value: serde_json::Value) -> Covering {
    Covering { name: name.into(), spec: asks(value) }
}

prop_compose! {
    fn rule()(
        what in 0..3_usize,
        detector in select(vec![Detector::Pan, Detector::SecretName, Detector::Email]),
        action in select(vec![RedactionAction::Mask, RedactionAction::Hash, RedactionAction::Replace, RedactionAction::Remove]),
        except in vec(select(vec!["metadata.a".to_owned(), "**.b".to_owned()]), 0..2),
    ) -> RedactionRule {
        RedactionRule {
            path: (what == 0).then(|| "metadata.plate".to_owned()),
            detector: (what == 1).then_some(detector),
            regex: (what == 2).then(|| "x+".to_owned()),
            action,
            except,
        }
    }
}

prop_compose! {
    fn redactions()(builtin: bool, rules in vec(rule(), 0..4)) -> Redaction {
        Redaction { builtin, rules, key_secret_ref: None }
    }
}

prop_compose! {
    fn policies()(
        (event, body, spool) in (2048..100_000_u64, 100_000..10_000_000_u64, 8_u64 << 20..1 << 34),
        (total, tenant) in (option::of(1..1000_u64), option::of(1..1000_u64)),
        redaction in redactions(),
        (request, response) in (any::<bool>(), any::<bool>()),
        require in vec(select(vec!["resource.id".to_owned(), "actor.id".to_owned()]), 0..2),
        ack in select(vec![Ack::Written, Ack::Durable, Ack::Delivered]),
        scope in select(vec![Scope::None, Scope::Service, Scope::Tenant]),
        full in select(vec![WhenFull::Reject, WhenFull::Block, WhenFull::DropNewest, WhenFull::DropOldest]),
    ) -> AuditPolicySpec {
        let mut made = spec(json!({"kafka": {"brokers": ["own:9092"], "topic": "own"}}));
        (made.limits.max_event_bytes, made.limits.max_body_bytes, made.spool.max_bytes) = (ByteSize(event), ByteSize(body), ByteSize(spool));
        (made.limits.rate.total, made.limits.rate.per_tenant) = (total, tenant);
        (made.capture.request_bodies, made.capture.response_bodies) = (request, response);
        (made.redaction, made.require, made.ack, made.integrity.scope, made.spool.when_full) = (redaction, require, ack, scope, full);
        made
    }
}

prop_compose! {
    fn ceilings()(
        (event, body, spool) in (option::of(2048..100_000_u64), option::of(100_000..10_000_000_u64), option::of(8_u64 << 20..1 << 34)),
        (total, tenant) in (option::of(1..1000_u64), option::of(1..1000_u64)),
        redaction in redactions(),
        (request_bodies, response_bodies, may_drop) in (any::<Option<bool>>(), any::<Option<bool>>(), any::<Option<bool>>()),
        require in vec(select(vec!["resource.id".to_owned(), "requestId".to_owned()]), 0..2),
        ack in option::of(select(vec![Ack::Written, Ack::Durable, Ack::Delivered])),
        integrity_scope in option::of(select(vec![Scope::None, Scope::Service, Scope::Tenant])),
    ) -> ClusterAuditPolicySpec {
        ClusterAuditPolicySpec {
            namespace_selector: None,
            kafka: Kafka::default(),
            redaction,
            require,
            capture: CaptureCeiling { request_bodies, response_bodies },
            limits: LimitsCeiling {
                max_event_bytes: event.map(ByteSize),
                max_body_bytes: body.map(ByteSize),
                rate: RateCeiling { total, per_tenant: tenant, ..RateCeiling::default() },
                ..LimitsCeiling::default()
            },
            ack,
            integrity_scope,
            spool: SpoolCeiling { max_bytes: spool.map(ByteSize), may_drop, volume_types: Vec::new() },
            network: NetworkCeiling::default(),
            injection: crate::cluster::InjectionCeiling::default(),
        }
    }
}

fn unlimited(rate: Option<u64>) -> u64 {
    rate.unwrap_or(u64::MAX)
}

/// Whether `a` is nowhere looser than `b`.
fn is_as_strict(a: &AuditPolicySpec, b: &AuditPolicySpec) -> bool {
    let loses = |full: WhenFull| matches!(full, WhenFull::DropNewest | WhenFull::DropOldest);
    a.limits.max_event_bytes <= b.limits.max_event_bytes
        && a.limits.max_body_bytes <= b.limits.max_body_bytes
        && a.spool.max_bytes <= b.spool.max_bytes
        && unlimited(a.limits.rate.total) <= unlimited(b.limits.rate.total)
        && unlimited(a.limits.rate.per_tenant) <= unlimited(b.limits.rate.per_tenant)
        && (a.redaction.builtin || !b.redaction.builtin)
        && b.redaction.rules.iter().all(|rule| a.redaction.rules.contains(rule))
        && b.require.iter().all(|member| a.require.contains(member))
        && (!a.capture.request_bodies || b.capture.request_bodies)
        && (!a.capture.response_bodies || b.capture.response_bodies)
        && strength(a.ack) >= strength(b.ack)
        && width(a.integrity.scope) >= width(b.integrity.scope)
        && (!loses(a.spool.when_full) || loses(b.spool.when_full))
}

/// Whether `a` keeps what was asked.
fn keeps(a: &AuditPolicySpec, asks: &ClusterAuditPolicySpec) -> bool {
    let most = |most: Option<ByteSize>| most.unwrap_or(ByteSize(u64::MAX));
    // Where builtin is asked for, some rule of each detector that has exceptions, if it is the namespace's, has the cluster's or none beside it.
    let is_covered = |detector: Detector| {
        let of_it = |rule: &&RedactionRule| rule.detector == Some(detector);
        a.redaction.rules.iter().filter(of_it).all(|rule| rule.except.is_empty())
            || a.redaction.rules.iter().filter(of_it).any(|rule| rule.except.is_empty() || asks.redaction.rules.contains(rule))
    };
    a.limits.max_event_bytes <= most(asks.limits.max_event_bytes)
        && a.limits.max_body_bytes <= most(asks.limits.max_body_bytes)
        && a.spool.max_bytes <= most(asks.spool.max_bytes)
        && unlimited(a.limits.rate.total) <= unlimited(asks.limits.rate.total)
        && unlimited(a.limits.rate.per_tenant) <= unlimited(asks.limits.rate.per_tenant)
        && (a.redaction.builtin || !asks.redaction.builtin)
        && asks.redaction.rules.iter().all(|rule| a.redaction.rules.contains(rule))
        && (!asks.redaction.builtin || [Detector::Pan, Detector::SecretName].into_iter().all(is_covered))
        && asks.require.iter().all(|member| a.require.contains(member))
        && (!a.capture.request_bodies || asks.capture.request_bodies != Some(false))
        && (!a.capture.response_bodies || asks.capture.response_bodies != Some(false))
        && asks.ack.is_none_or(|least| strength(a.ack) >= strength(least))
        && asks.integrity_scope.is_none_or(|least| width(a.integrity.scope) >= width(least))
        && (asks.spool.may_drop != Some(false) || !matches!(a.spool.when_full, WhenFull::DropNewest | WhenFull::DropOldest))
}

proptest! {
    #[test]
    fn nothing_loosens_the_namespace_or_the_platform(policy in policies(), first in ceilings(), second in ceilings()) {
        let both = [Covering { name: "a".into(), spec: first.clone() }, Covering { name: "b".into(), spec: second.clone() }];
        let merged = merge(&policy, &both);
        prop_assert!(is_as_strict(&merged.spec, &policy));
        prop_assert!(keeps(&merged.spec, &first), "the first: {:?}", merged.spec.redaction);
        prop_assert!(keeps(&merged.spec, &second), "the second: {:?}", merged.spec.redaction);
        // What is there already is not inherited again, and the order in which they are given does not matter.
        let again = merge(&merged.spec, &both);
        prop_assert_eq!(&again.spec, &merged.spec);
        prop_assert!(again.inherited.is_empty(), "{:?}", again.inherited);
        let [a, b] = both;
        prop_assert_eq!(merge(&policy, &[b, a]), merged);
    }

    #[test]
    fn without_a_platform_a_policy_is_itself(policy in policies()) {
        let merged = merge(&policy, &[]);
        prop_assert_eq!(merged, Merged { spec: policy, inherited: Vec::new(), faults: Vec::new() });
    }
}

#[test]
fn kafka_is_inherited_with_all_that_belongs_to_it_or_not_at_all() {
    let platform = covering(
        "platform",
        json!({"kafka": {
        "brokers": ["shared:9093"], "topic": "audit", "tls": {"caSecretRef": {"name": "kafka", "key": "ca.crt"}}, "config": {"linger.ms": "5"}}}),
    );
    let bare = merge(&spec(json!({})), std::slice::from_ref(&platform));
    assert_eq!((bare.spec.kafka.brokers[0].as_str(), bare.spec.kafka.topic.as_str()), ("shared:9093", "audit"));
    assert!(bare.spec.kafka.tls.is_some() && bare.spec.kafka.config["linger.ms"] == "5");
    assert_eq!(bare.inherited, ["kafka.brokers (ClusterAuditPolicy platform)", "kafka.topic (ClusterAuditPolicy platform)"]);
    let topic_only = merge(&spec(json!({"kafka": {"topic": "mine"}})), std::slice::from_ref(&platform));
    assert_eq!((topic_only.spec.kafka.brokers[0].as_str(), topic_only.spec.kafka.topic.as_str()), ("shared:9093", "mine"));
    // Brokers of one's own are never trusted by somebody else's authority.
    let own = merge(&spec(json!({"kafka": {"brokers": ["own:9092"], "topic": "mine"}})), &[platform]);
    assert!(own.spec.kafka.tls.is_none() && own.inherited.is_empty(), "{:?}", own.inherited);
}

#[test]
fn an_exception_does_not_open_what_the_platform_closes() {
    let with_exception =
        spec(json!({"redaction": {"rules": [{"detector": "pan", "action": "Mask", "except": ["metadata.order"]}]}}));
    let merged = merge(&with_exception, &[covering("platform", json!({}))]);
    let rules = &merged.spec.redaction.rules;
    assert!(rules.len() == 2 && rules[1].except.is_empty() && rules[1].detector == Some(Detector::Pan), "{rules:?}");
    let lenient = merge(&with_exception, &[covering("platform", json!({"redaction": {"builtin": false}}))]);
    assert_eq!(lenient.spec, with_exception);
}

#[test]
fn faults_tell_what_was_inherited_and_what_is_forbidden() {
    let policy = AuditPolicy {
        api_version: crate::API_VERSION.into(),
        kind: "AuditPolicy".into(),
        metadata: crate::Metadata { name: "p".into(), namespace: "n".into() },
        spec: spec(
            json!({"kafka": {"brokers": ["k:9092"], "topic": "t"}, "limits": {"maxEventBytes": "1Mi", "maxBodyBytes": "2Mi"}}),
        ),
    };
    assert!(render_under(&policy, &[]).is_ok());
    let small = covering("small", json!({"spool": {"maxBytes": "8Mi"}}));
    let faults = render_under(&policy, &[small]).unwrap_err();
    assert!(faults[0].path == "spec.spool.maxBytes" && faults[0].message.contains("ClusterAuditPolicy small"), "{faults:?}");
    let no_plain = covering("no-plain", json!({"network": {"plainText": false}}));
    let faults = render_under(&policy, std::slice::from_ref(&no_plain)).unwrap_err();
    assert!(faults[0].path == "spec.kafka.tls" && faults[0].message.contains("ClusterAuditPolicy no-plain"), "{faults:?}");
    let mut sealed = policy.clone();
    sealed.spec.kafka.tls = Some(crate::Tls::default());
    assert!(render_under(&sealed, &[no_plain]).is_ok());
    let to_node = json!([{"name": "m", "type": "Http", "http": {"url": "https://169.254.169.254/x"}}]);
    sealed.spec.sinks = serde_json::from_value(to_node).unwrap();
    assert!(render_under(&sealed, &[]).is_ok(), "a warning, unless the platform says more");
    let faults = render_under(&sealed, &[covering("no-node", json!({"network": {"linkLocal": false}}))]).unwrap_err();
    assert!(faults[0].path == "spec.sinks[0].http.url" && faults[0].message.contains("no-node"), "{faults:?}");
    let no_host = covering("no-host", json!({"spool": {"volumeTypes": ["EmptyDir"]}}));
    let mut on_host = policy;
    on_host.spec.spool.volume = Volume {
        r#type: VolumeType::HostPath,
        host_path: Some(crate::HostPathVolume { path: "/x".into() }),
        ..Volume::default()
    };
    let faults = render_under(&on_host, &[no_host]).unwrap_err();
    assert!(faults[0].path == "spec.spool.volume.type" && faults[0].message.contains("no-host"), "{faults:?}");
}

#[test]
fn what_a_platform_asks_is_checked_like_a_policy() {
    assert!(asks(json!({})).faults().is_empty());
    for (value, path) in [
        (json!({"limits": {"maxEventBytes": "1Ki"}}), "spec.limits.maxEventBytes"),
        (json!({"redaction": {"rules": [{"regex": "(", "action": "Mask"}]}}), "spec.redaction.rules[0].regex"),
        (json!({"kafka": {"brokers": ["nowhere"]}}), "spec.kafka.brokers[0]"),
        (json!({"require": ["a..b"]}), "spec.require[0]"),
    ] {
        let faults = asks(value).faults();
        assert!(faults.len() == 1 && faults[0].path == path, "{faults:?}");
    }
}
