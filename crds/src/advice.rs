//! What a policy may do and had better not: network destinations that somebody can read along, or that belong to the node. Told by `check`, by the API server as
//! a warning, in the sidecar's log and status; refused where a ClusterAuditPolicy says so ([`crate::NetworkCeiling`]).
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::{AuditPolicySpec, HttpSink};

/// A kind of risk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Risk {
    /// Events or credentials go in plain text.
    PlainText,
    /// The destination is link-local, or the metadata service of a cloud, which gives credentials of the node to who asks.
    LinkLocal,
}

/// One piece of advice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// What may happen.
    pub risk: Risk,
    /// Path of the field, from the object's root.
    pub path: String,
    /// What is risky, and what to write instead, one sentence.
    pub message: String,
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// Names of metadata services: AWS, Google, Azure, Alibaba, Oracle.
const METADATA: &[&str] = &[
    "metadata",
    "metadata.google.internal",
    "metadata.goog",
    "instance-data",
    "instance-data.ec2.internal",
    "metadata.azure.internal",
];
/// Their addresses that are not link-local.
const METADATA_V4: &[Ipv4Addr] = &[Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192)];
const METADATA_V6: &[Ipv6Addr] =
    &[Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];

/// All that is to be said of a specification, in field order.
pub fn advice(spec: &AuditPolicySpec) -> Vec<Advice> {
    let mut found = Vec::new();
    let kafka = &spec.kafka;
    let brokers = kafka.brokers.iter().map(|broker| host(broker));
    if kafka.tls.is_none() && brokers.clone().any(|host| !is_loopback(host)) {
        let what = if kafka.sasl.is_some() { "the password and all events go" } else { "all events go" };
        found.push(plain_text("spec.kafka.tls".into(), what, "Kafka"));
    }
    found.extend(brokers.enumerate().filter_map(|(index, host)| link_local(format!("spec.kafka.brokers[{index}]"), host)));
    for (index, sink) in spec.sinks.iter().enumerate() {
        let path = |field: &str| format!("spec.sinks[{index}].{field}");
        if let Some(http) = &sink.http {
            found.extend(http_advice(http, &path));
        }
        if let Some(postgres) = &sink.postgres {
            let hosts = postgres.hosts().unwrap_or_default();
            if postgres.tls.is_none() && hosts.iter().any(|(host, _)| !is_loopback(host)) {
                let has_password = postgres.password_secret_ref.is_some();
                let what = if has_password { "events go, and the password as the server asks for it," } else { "all events go" };
                found.push(plain_text(path("postgres.tls"), what, "PostgreSQL"));
            }
            found.extend(hosts.iter().find_map(|(host, _)| link_local(path("postgres.host"), host)));
        }
    }
    found
}

fn http_advice(http: &HttpSink, path: &impl Fn(&str) -> String) -> Vec<Advice> {
    let mut found = Vec::new();
    let Some((scheme, host)) = of_url(&http.url) else { return found };
    if scheme == "http" && !is_loopback(host) {
        let message = match &http.token_secret_ref {
            Some(_) => "is http: the token goes in plain text, and who reads it can send in your name; write https",
            None => "is http: all events go in plain text; write https",
        };
        found.push(Advice { risk: Risk::PlainText, path: path("http.url"), message: message.into() });
    }
    found.extend(link_local(path("http.url"), host));
    if let Some((_, proxy)) = http.proxy.as_deref().and_then(of_url) {
        found.extend(link_local(path("http.proxy"), proxy));
    }
    found
}

fn plain_text(path: String, what: &str, to: &str) -> Advice {
    let message =
        format!("is not set: {what} to {to} in plain text; set tls, or tls: {{}} for the system's certificate authorities");
    Advice { risk: Risk::PlainText, path, message }
}

fn link_local(path: String, host: &str) -> Option<Advice> {
    let message = "is link-local or a cloud's metadata service, which belongs to the node; name a destination of yours";
    is_metadata(host).then(|| Advice { risk: Risk::LinkLocal, path, message: message.into() })
}

/// Scheme and host of a URL.
fn of_url(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    Some((scheme, host(rest.split(['/', '?', '#']).next().unwrap_or_default())))
}

/// The host of `host:port`, without brackets.
fn host(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    authority.rsplit_once(':').map_or(authority, |(host, _)| host)
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || address(host).is_some_and(|address| address.to_canonical().is_loopback())
}

fn is_metadata(host: &str) -> bool {
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    METADATA.contains(&&*name)
        || address(host).is_some_and(|address| match address.to_canonical() {
            IpAddr::V4(address) => address.is_link_local() || METADATA_V4.contains(&address),
            IpAddr::V6(address) => address.is_unicast_link_local() || METADATA_V6.contains(&address),
        })
}

/// An address in any of the ways in which resolvers take one: `169.254.169.254`, `0xa9fea9fe`, `2852039166`, `169.254.43518`, with a zone behind `%`.
fn address(host: &str) -> Option<IpAddr> {
    let host = host.split('%').next().unwrap_or_default();
    if let Ok(address) = host.parse() {
        return Some(address);
    }
    let part = |text: &str| match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None if text.len() > 1 && text.starts_with('0') => u32::from_str_radix(text, 8).ok(),
        None => text.parse::<u32>().ok(),
    };
    let parts: Vec<u32> = host.split('.').map(part).collect::<Option<_>>()?;
    let (last, first) = parts.split_last()?;
    if first.len() > 3 || first.iter().any(|byte| *byte > 255) || u64::from(*last) >= 1 << (8 * (4 - first.len())) {
        return None;
    }
    let front = first.iter().enumerate().fold(0, |sum, (place, byte)| sum | byte << (24 - 8 * place));
    Some(IpAddr::V4(Ipv4Addr::from(front | last)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn risks(spec: &str) -> Vec<(Risk, String)> {
        let spec: AuditPolicySpec = serde_yaml::from_str(spec).unwrap();
        advice(&spec).into_iter().map(|advice| (advice.risk, advice.path)).collect()
    }

    #[test]
    fn plain_text_is_told_unless_it_stays_in_the_pod() {
        assert_eq!(risks("kafka: {brokers: ['kafka:9092'], topic: a}"), [(Risk::PlainText, "spec.kafka.tls".into())]);
        assert_eq!(risks("kafka: {brokers: ['kafka:9093'], topic: a, tls: {}}"), []);
        assert_eq!(risks("kafka: {brokers: ['127.0.0.1:9092', 'localhost:9092', '[::1]:9092'], topic: a}"), []);
        let sink = |url: &str| {
            format!(
                "kafka: {{brokers: ['k:1'], topic: a, tls: {{}}}}\nsinks: [{{name: s, type: Http, http: {{url: '{url}', tokenSecretRef: {{name: t, key: k}}}}}}]"
            )
        };
        assert_eq!(risks(&sink("http://siem.example/x")), [(Risk::PlainText, "spec.sinks[0].http.url".into())]);
        assert_eq!(risks(&sink("https://siem.example/x")), []);
        assert_eq!(risks(&sink("http://127.0.0.1:8088/x")), []);
        let database = |more: &str| {
            format!(
                "kafka: {{brokers: ['k:1'], topic: a, tls: {{}}}}\nsinks: [{{name: s, type: Postgres, postgres: {{database: d, user: u, {more}}}}}]"
            )
        };
        assert_eq!(risks(&database("host: db.shop")), [(Risk::PlainText, "spec.sinks[0].postgres.tls".into())]);
        assert_eq!(risks(&database("host: db.shop, tls: {}")), []);
        assert_eq!(risks(&database("host: 'localhost,[::1]:5433'")), []);
    }

    #[test]
    fn every_destination_is_looked_at_for_the_nodes_own_services() {
        let spec = |brokers: &str, sink: &str| format!("kafka: {{brokers: [{brokers}], topic: a, tls: {{}}}}\nsinks: [{sink}]");
        let http = |more: &str| format!("{{name: s, type: Http, http: {{{more}}}}}");
        for (spec, path) in [
            (spec("'k:1', '169.254.1.1:9093'", ""), "spec.kafka.brokers[1]"),
            (spec("'k:1'", &http("url: 'https://169.254.169.254/x'")), "spec.sinks[0].http.url"),
            (
                spec("'k:1'", &http("url: 'https://siem.example/x', proxy: 'http://169.254.169.254:80'")),
                "spec.sinks[0].http.proxy",
            ),
            (
                spec("'k:1'", "{name: s, type: Postgres, postgres: {host: 'db,[fe80::1]:5432', database: d, user: u, tls: {}}}"),
                "spec.sinks[0].postgres.host",
            ),
        ] {
            assert_eq!(risks(&spec), [(Risk::LinkLocal, path.to_owned())], "{spec}");
        }
    }

    /// Forms that got past the filters of others (collections of SSRF bypasses).
    #[test]
    fn the_nodes_own_services_are_known_however_they_are_written() {
        for host in [
            "169.254.169.254",
            "169.254.169.254:80",
            "2852039166",
            "0xa9fea9fe",
            "0xA9.0xFE.0xA9.0xFE",
            "0251.0376.0251.0376",
            "169.254.43518",
            "[fe80::1]:80",
            "[::ffff:169.254.169.254]",
            "[fd00:ec2::254]",
            "metadata.google.internal",
            "METADATA.google.internal.:80",
            "100.100.100.200",
        ] {
            assert!(is_metadata(super::host(host)), "{host}");
        }
        for host in ["169.255.0.1", "10.0.0.1:80", "siem.example", "metadata.example.com", "1.2.3.4.5", "999.1.1.1", ""] {
            assert!(!is_metadata(super::host(host)), "{host}");
        }
    }
}
