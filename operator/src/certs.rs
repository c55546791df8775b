//! The webhook's certificates: an authority of our own in a Secret, which all replicas share, and a leaf from it.
//!
//! The Secret is made by whichever replica comes first; the others take what is there, so that no two authorities fight over the `caBundle`.
//! The leaf is made anew when a third of its time is left; the authority outlives it many times over. With certificates that
//! somebody else keeps (cert-manager) the files of a directory are read instead, at every connection that finds them changed.
use std::sync::Arc;

use anyhow::Context as _;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::json;
use tokio_rustls::rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

/// How long an authority is valid.
const CA_DAYS: i64 = 3650;
/// How long a leaf is valid.
const LEAF_DAYS: i64 = 90;

/// A leaf and the authority that it is checked against, PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Bundle {
    /// The authority's certificate.
    pub ca: String,
    /// The leaf's.
    pub cert: String,
    /// The leaf's key.
    pub key: String,
    /// Until when the leaf is valid, seconds since 1970.
    pub not_after: i64,
}

fn validity(params: &mut CertificateParams, days: i64) -> anyhow::Result<i64> {
    let now = Timestamp::now();
    let end = now.checked_add(SignedDuration::from_hours(24 * days))?;
    let begin = now.checked_sub(SignedDuration::from_hours(1))?;
    let date = |time: Timestamp| {
        let date = time.to_zoned(jiff::tz::TimeZone::UTC).date();
        rcgen::date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    (params.not_before, params.not_after) = (date(begin), date(end));
    Ok(end.as_second())
}

/// An authority: certificate and key, PEM.
fn authority() -> anyhow::Result<(String, String)> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "steno-webhook-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity(&mut params, CA_DAYS)?;
    let key = KeyPair::generate()?;
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

fn leaf(ca: &str, ca_key: &str, names: &[String]) -> anyhow::Result<Bundle> {
    let issuer = Issuer::from_ca_cert_pem(ca, KeyPair::from_pem(ca_key)?)?;
    let mut params = CertificateParams::new(names.to_vec())?;
    params.distinguished_name.push(DnType::CommonName, "steno-webhook");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let not_after = validity(&mut params, LEAF_DAYS)?;
    let key = KeyPair::generate()?;
    let cert = params.signed_by(&key, &issuer)?;
    Ok(Bundle { ca: ca.to_owned(), cert: cert.pem(), key: key.serialize_pem(), not_after })
}

/// The shared authority from its Secret, made where it is missing, and a leaf of our own from it.
pub async fn from_secret(client: &Client, namespace: &str, name: &str, names: &[String]) -> anyhow::Result<Bundle> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    for _ in 0..5 {
        if let Some(secret) = secrets.get_opt(name).await.context("the webhook's Secret cannot be read")? {
            let data = secret.data.unwrap_or_default();
            let text = |key: &str| {
                let bytes =
                    data.get(key).with_context(|| format!("the Secret {name} has no {key}; delete it, and it is made anew"))?;
                String::from_utf8(bytes.0.clone()).context("not PEM")
            };
            return leaf(&text("ca.crt")?, &text("ca.key")?, names);
        }
        let (ca, key) = authority()?;
        let data = [("ca.crt", ca), ("ca.key", key)].map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes())));
        let secret = Secret {
            metadata: kube::api::ObjectMeta { name: Some(name.into()), ..Default::default() },
            type_: Some("steno.dev/webhook-ca".into()),
            data: Some(data.into()),
            ..Secret::default()
        };
        match secrets.create(&PostParams::default(), &secret).await {
            // Another replica was faster: theirs counts.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error).context("the webhook's Secret cannot be made"),
            Ok(_) => {}
        }
    }
    anyhow::bail!("the Secret {name} can neither be read nor made")
}

/// Writes the authority into a webhook configuration, where it is not there yet.
pub async fn publish(client: &Client, configuration: &str, ca: &str) -> anyhow::Result<()> {
    use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
    let bundle = ByteString(ca.as_bytes().to_vec());
    let mutating: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    if let Some(found) = mutating.get_opt(configuration).await? {
        let hooks = found.webhooks.unwrap_or_default();
        let stale = hooks.iter().enumerate().filter(|(_, hook)| hook.client_config.ca_bundle.as_ref() != Some(&bundle));
        patch_bundles(&mutating, configuration, stale.map(|(index, _)| index).collect(), &bundle).await?;
    }
    let validating: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    if let Some(found) = validating.get_opt(configuration).await? {
        let hooks = found.webhooks.unwrap_or_default();
        let stale = hooks.iter().enumerate().filter(|(_, hook)| hook.client_config.ca_bundle.as_ref() != Some(&bundle));
        patch_bundles(&validating, configuration, stale.map(|(index, _)| index).collect(), &bundle).await?;
    }
    Ok(())
}

async fn patch_bundles<K>(api: &Api<K>, name: &str, stale: Vec<usize>, bundle: &ByteString) -> anyhow::Result<()>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    if stale.is_empty() {
        return Ok(());
    }
    let operations: Vec<serde_json::Value> = stale
        .into_iter()
        .map(|index| json!({"op": "add", "path": format!("/webhooks/{index}/clientConfig/caBundle"), "value": bundle}))
        .collect();
    let patch: json_patch::Patch = serde_json::from_value(json!(operations))?;
    api.patch(name, &PatchParams::default(), &Patch::Json::<()>(patch)).await.context("the caBundle cannot be written")?;
    Ok(())
}

/// What a TLS listener goes by.
pub fn server_config(bundle: &Bundle) -> anyhow::Result<Arc<ServerConfig>> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(bundle.cert.as_bytes()).collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(bundle.key.as_bytes())?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(Arc::new(config))
}

/// Whether a leaf should be made anew.
pub fn is_due(bundle: &Bundle) -> bool {
    bundle.not_after - Timestamp::now().as_second() < LEAF_DAYS * 86_400 / 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_of_the_authority_makes_a_server() {
        let (ca, key) = authority().unwrap();
        let bundle = leaf(&ca, &key, &["steno-webhook.steno.svc".into()]).unwrap();
        assert!(!is_due(&bundle) && server_config(&bundle).is_ok());
        assert!(is_due(&Bundle { not_after: Timestamp::now().as_second() + 86_400, ..bundle.clone() }));
        // A second replica's leaf comes from the same authority.
        assert_eq!(leaf(&ca, &key, &["x".into()]).unwrap().ca, bundle.ca);
    }
}
