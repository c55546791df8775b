//! Further listeners of a sidecar, beside loopback.
use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::SecretRef;

/// A further listener. Off loopback it needs TLS, and a client certificate or a token of everybody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListenerSpec {
    /// IP address and port, such as `0.0.0.0:9443` or `[::]:9443`.
    pub address: String,
    /// TLS. Certificates are read again when their Secrets change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
    /// A bearer token that every request must carry. With `tls.clientCaSecretRef` as well both are needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_secret_ref: Option<SecretRef>,
    /// What it takes; all of it where the list is empty. Searches and flushes are for the pod itself only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<InputFormat>,
}

/// TLS of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListenerTls {
    /// Certificate chain (PEM).
    pub cert_secret_ref: SecretRef,
    /// Its key (PEM).
    pub key_secret_ref: SecretRef,
    /// Authorities (PEM) that clients' certificates must be of. Not set: none is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ca_secret_ref: Option<SecretRef>,
}

/// Formats of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum InputFormat {
    /// Steno's own, on `/v1/events` and `/v1/events/batch`.
    Events,
    /// CloudEvents, on the same paths.
    CloudEvents,
    /// OpenTelemetry logs, on `/v1/logs`.
    Otlp,
    /// Audit events of a Kubernetes API server, on `/k8s/audit`.
    KubernetesAudit,
}

// === impl ListenerSpec ===

impl ListenerSpec {
    /// Secrets that it needs.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretRef> {
        let of_tls = self
            .tls
            .iter()
            .flat_map(|tls| [&tls.cert_secret_ref, &tls.key_secret_ref].into_iter().chain(&tls.client_ca_secret_ref));
        of_tls.chain(&self.token_secret_ref)
    }

    /// What is wrong with it alone, by path below it.
    pub(crate) fn faults(&self) -> Vec<(&'static str, &'static str)> {
        let Ok(address) = self.address.parse::<SocketAddr>() else {
            return vec![("address", "is not an IP address and a port, such as 0.0.0.0:9443")];
        };
        let mut faults = Vec::new();
        if address.port() == 0 {
            faults.push(("address", "has port 0; name one"));
        }
        let asks = self.token_secret_ref.is_some() || self.tls.as_ref().is_some_and(|tls| tls.client_ca_secret_ref.is_some());
        if !address.ip().is_loopback() && (self.tls.is_none() || !asks) {
            faults.push(("tls", "and one of tls.clientCaSecretRef and tokenSecretRef are needed off loopback; set them"));
        }
        faults
    }
}
