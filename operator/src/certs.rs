//! The webhook's certificates: an authority of our own in a Secret, which all replicas share, and leaves from it.
//!
//! # Rules
//! - The Secret is made by whoever leads; every webhook makes its own leaf from what is there, so that no two authorities fight over the `caBundle`.
//! - A leaf is made anew when a third of its time is left, or when the authority changed.
//! - The authority is replaced when a third of its time is left, or when the Secret is annotated with `audit.steno.dev/rotate`. At every moment the
//!   API server trusts what is served:
//!   ```text
//!   announce   a new authority is made and trusted (caBundle: current and next); leaves still come from the current one
//!   promote    an overlap later: leaves come from the new one, and both are trusted
//!   retire     an overlap later: only the new one is trusted
//!   ```
//!   The overlap (`--ca-overlap`) is longer than it takes replicas to see the Secret and API servers to see the webhook configurations. No step is
//!   taken before the last one was published, and no leaf is put to use before the webhook configurations trust its authority.
//! - With certificates that somebody else keeps (cert-manager) the files of a directory are read instead, again and again. Authorities that were
//!   seen there before stay trusted for two overlaps.
//! - What the webhook configurations trusted when a process began to lead stays trusted for two overlaps, too: replicas that are not new yet may
//!   serve it, as when the way the certificates are kept is changed. A further change of leader within that time begins it anew.
use std::{collections::BTreeMap, sync::Arc};

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::{StreamExt as _, stream::BoxStream};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
        core::v1::Secret,
    },
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ApiResource, DynamicObject, ObjectMeta, Patch, PatchParams, PostParams},
    core::PartialObjectMeta,
    runtime::{WatchStreamExt as _, watcher},
};
use pem::{EncodeConfig, LineEnding, Pem};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_rustls::rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

/// How long an authority is valid.
const CA_DAYS: i64 = 365;
/// How long a leaf is valid.
const LEAF_DAYS: i64 = 30;
/// The annotation that asks for a new authority now.
const ROTATE: &str = "audit.steno.dev/rotate";

/// A leaf and the authority that it is checked against, PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Bundle {
    /// The certificate of the authority that it comes from.
    pub issuer: String,
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

/// An authority: certificate and key, PEM, and its end.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Authority {
    cert: String,
    key: String,
    not_after: i64,
}

fn authority() -> anyhow::Result<Authority> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "steno-webhook-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let not_after = validity(&mut params, CA_DAYS)?;
    let key = KeyPair::generate()?;
    Ok(Authority { cert: params.self_signed(&key)?.pem(), key: key.serialize_pem(), not_after })
}

/// What the Secret holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    current: Authority,
    /// Trusted already, and not used yet.
    next: Option<Authority>,
    /// Trusted still: the certificate of the one before.
    old: Option<String>,
    /// When the last step was, seconds since 1970.
    since: i64,
    /// Somebody asks for a new one.
    is_asked: bool,
}

/// A step of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Announce,
    Promote,
    Retire,
}

/// What is due, if anything.
fn due(kept: &Kept, now: i64, overlap: i64) -> Option<Step> {
    let is_time = now - kept.since >= overlap;
    match (&kept.next, &kept.old) {
        (Some(_), _) => is_time.then_some(Step::Promote),
        (None, Some(_)) => is_time.then_some(Step::Retire),
        (None, None) => {
            let is_old = kept.current.not_after - now < CA_DAYS * 86_400 / 3;
            (kept.is_asked || is_old).then_some(Step::Announce)
        }
    }
}

// === impl Kept ===

impl Kept {
    fn new() -> anyhow::Result<Self> {
        let since = Timestamp::now().as_second();
        Ok(Self { current: authority()?, next: None, old: None, since, is_asked: false })
    }

    /// All that the API server should trust.
    fn trusted(&self) -> String {
        let next = self.next.iter().map(|next| next.cert.as_str());
        self.old.as_deref().into_iter().chain([self.current.cert.as_str()]).chain(next).collect()
    }

    fn step(mut self, step: Step, now: i64) -> anyhow::Result<Self> {
        match step {
            Step::Announce => (self.next, self.is_asked) = (Some(authority()?), false),
            Step::Promote => {
                if let Some(next) = self.next.take() {
                    self.old = Some(std::mem::replace(&mut self.current, next).cert);
                }
            }
            Step::Retire => self.old = None,
        }
        self.since = now;
        Ok(self)
    }

    fn read(secret: &Secret) -> anyhow::Result<Self> {
        let text = |key: &str| {
            let bytes = secret.data.as_ref().and_then(|data| data.get(key));
            bytes.map(|bytes| String::from_utf8(bytes.0.clone()).context("the authority's Secret is not text")).transpose()
        };
        let must = |key: &str| {
            text(key)?.with_context(|| format!("the authority's Secret has no {key}; delete it, and it is made anew"))
        };
        let number = |key: &str| anyhow::Ok(must(key)?.trim().parse::<i64>()?);
        let next = match (text("next.crt")?, text("next.key")?) {
            (Some(cert), Some(key)) => Some(Authority { cert, key, not_after: number("next.end")? }),
            _ => None,
        };
        Ok(Self {
            current: Authority { cert: must("ca.crt")?, key: must("ca.key")?, not_after: number("ca.end")? },
            next,
            old: text("old.crt")?,
            since: number("since")?,
            is_asked: secret.annotations().contains_key(ROTATE),
        })
    }

    fn data(&self) -> BTreeMap<String, ByteString> {
        let mut data = BTreeMap::new();
        let mut put = |key: &str, text: String| drop(data.insert(key.to_owned(), ByteString(text.into_bytes())));
        put("ca.crt", self.current.cert.clone());
        put("ca.key", self.current.key.clone());
        put("ca.end", self.current.not_after.to_string());
        put("since", self.since.to_string());
        if let Some(next) = &self.next {
            put("next.crt", next.cert.clone());
            put("next.key", next.key.clone());
            put("next.end", next.not_after.to_string());
        }
        if let Some(old) = &self.old {
            put("old.crt", old.clone());
        }
        data
    }
}

/// The authority in its Secret.
pub struct Keeper {
    secrets: Api<Secret>,
    name: String,
    overlap: i64,
}

impl Keeper {
    /// In a namespace; `overlap` is the time between the steps of a rotation, in seconds.
    pub fn new(client: &Client, namespace: &str, name: &str, overlap: i64) -> Self {
        Self { secrets: Api::namespaced(client.clone(), namespace), name: name.into(), overlap }
    }

    /// A leaf from the current authority; `None`: there is no authority yet.
    pub async fn leaf(&self, names: &[String]) -> anyhow::Result<Option<Bundle>> {
        let Some(secret) = self.secrets.get_opt(&self.name).await.context("the webhook's Secret cannot be read")? else {
            return Ok(None);
        };
        leaf(&Kept::read(&secret)?, names).map(Some)
    }

    /// Makes the authority where there is none, and does what is due of a rotation. What should be trusted. `is_settled`: what was to be trusted so
    /// far has been published for a while; before that no step is taken.
    pub async fn tend(&self, is_settled: impl Fn(&str) -> bool) -> anyhow::Result<String> {
        let Some(mut secret) = self.secrets.get_opt(&self.name).await.context("the webhook's Secret cannot be read")? else {
            let kept = Kept::new()?;
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let secret = Secret { metadata, data: Some(kept.data()), ..Secret::default() };
            self.secrets.create(&PostParams::default(), &secret).await.context("the webhook's Secret cannot be made")?;
            tracing::info!(secret = self.name, "the authority of the webhooks was made");
            return Ok(kept.trusted());
        };
        let kept = Kept::read(&secret)?;
        let now = Timestamp::now().as_second();
        let Some(step) = due(&kept, now, self.overlap).filter(|_| is_settled(&kept.trusted())) else { return Ok(kept.trusted()) };
        let kept = kept.step(step, now)?;
        secret.data = Some(kept.data());
        if step == Step::Announce {
            secret.annotations_mut().remove(ROTATE);
        }
        // It carries the version that was read, so that a step is never taken twice.
        self.secrets
            .replace(&self.name, &PostParams::default(), &secret)
            .await
            .context("the webhook's Secret cannot be written")?;
        tracing::info!(secret = self.name, ?step, "the authority of the webhooks is being replaced");
        Ok(kept.trusted())
    }
}

fn leaf(kept: &Kept, names: &[String]) -> anyhow::Result<Bundle> {
    let issuer = Issuer::from_ca_cert_pem(&kept.current.cert, KeyPair::from_pem(&kept.current.key)?)?;
    let mut params = CertificateParams::new(names.to_vec())?;
    params.distinguished_name.push(DnType::CommonName, "steno-webhook");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let not_after = validity(&mut params, LEAF_DAYS)?;
    let key = KeyPair::generate()?;
    let cert = params.signed_by(&key, &issuer)?;
    Ok(Bundle { issuer: kept.current.cert.clone(), cert: cert.pem(), key: key.serialize_pem(), not_after })
}

/// Both webhook configurations of a name: where they are, and the caBundle of each of their webhooks. A fault where one is missing, as before Helm has
/// made it.
async fn webhooks(client: &Client, configuration: &str) -> anyhow::Result<[(Api<DynamicObject>, Vec<Option<Vec<u8>>>); 2]> {
    let read = async |resource: ApiResource| {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        let found = api.get_opt(configuration).await?;
        let found = found.with_context(|| format!("the {} {configuration} is not there", resource.kind))?;
        let hooks = found.data.get("webhooks").and_then(Value::as_array).cloned().unwrap_or_default();
        let bundle = |hook: &Value| STANDARD.decode(hook.pointer("/clientConfig/caBundle")?.as_str()?).ok();
        anyhow::Ok((api, hooks.iter().map(bundle).collect()))
    };
    Ok([
        read(ApiResource::erase::<MutatingWebhookConfiguration>(&())).await?,
        read(ApiResource::erase::<ValidatingWebhookConfiguration>(&())).await?,
    ])
}

/// Whether all webhooks trust an authority.
pub async fn is_trusted(client: &Client, configuration: &str, issuer: &str) -> anyhow::Result<bool> {
    let issuers = certificates(issuer.as_bytes());
    let has = |bundle: &Option<Vec<u8>>| {
        let known = bundle.as_ref().map(|bundle| certificates(bundle)).unwrap_or_default();
        !issuers.is_empty() && issuers.iter().all(|issuer| known.contains(issuer))
    };
    let all = webhooks(client, configuration).await?;
    // One without webhooks trusts nobody.
    Ok(all.iter().all(|(_, bundles)| !bundles.is_empty() && bundles.iter().all(has)))
}

/// The certificates that any of the webhooks trusts.
pub async fn published(client: &Client, configuration: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let all = webhooks(client, configuration).await?;
    let mut published = Vec::new();
    for bundle in all.into_iter().flat_map(|(_, bundles)| bundles).flatten() {
        for certificate in certificates(&bundle) {
            if !published.contains(&certificate) {
                published.push(certificate);
            }
        }
    }
    Ok(published)
}

/// The certificates of a file, whatever else stands in it and however it is written.
fn certificates(text: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(text).filter_map(Result::ok).collect()
}

/// Until when the first certificate of a file is valid, seconds since 1970.
pub fn end(text: &str) -> Option<i64> {
    let first = certificates(text.as_bytes()).into_iter().next()?;
    let (_, read) = x509_parser::parse_x509_certificate(&first).ok()?;
    Some(read.validity().not_after.timestamp())
}

/// What is to be trusted, and after it what was trusted before.
pub fn with_before(trusted: &str, before: &[CertificateDer<'_>]) -> String {
    let known = certificates(trusted.as_bytes());
    let mut all = trusted.to_owned();
    for certificate in before.iter().filter(|certificate| !known.contains(certificate)) {
        if !all.is_empty() && !all.ends_with('\n') {
            all.push('\n');
        }
        let certificate = Pem::new("CERTIFICATE", certificate.as_ref());
        all.push_str(&pem::encode_config(&certificate, EncodeConfig::new().set_line_ending(LineEnding::LF)));
    }
    all
}

/// Tells of each change of the webhook configurations. Never ends.
pub async fn follow(client: &Client, configuration: &str, changed: &Notify) {
    let only = watcher::Config::default().fields(&format!("metadata.name={configuration}"));
    let told = async |mut events: BoxStream<'_, bool>| {
        while let Some(is_change) = events.next().await {
            if is_change {
                changed.notify_one();
            }
        }
    };
    // A watch that breaks begins again, after ever longer pauses.
    let mutating: Api<PartialObjectMeta<MutatingWebhookConfiguration>> = Api::all(client.clone());
    let validating: Api<PartialObjectMeta<ValidatingWebhookConfiguration>> = Api::all(client.clone());
    let mutating = watcher(mutating, only.clone()).default_backoff();
    let validating = watcher(validating, only).default_backoff();
    let mutating = mutating.map(|event| matches!(event, Ok(watcher::Event::Apply(_)))).boxed();
    let validating = validating.map(|event| matches!(event, Ok(watcher::Event::Apply(_)))).boxed();
    tokio::join!(told(mutating), told(validating));
}

/// Writes what is trusted into all webhooks, where it is not there yet.
pub async fn publish(client: &Client, configuration: &str, trusted: &str) -> anyhow::Result<()> {
    let encoded = STANDARD.encode(trusted);
    for (api, bundles) in webhooks(client, configuration).await? {
        let stale = bundles.iter().enumerate().filter(|(_, bundle)| bundle.as_deref() != Some(trusted.as_bytes()));
        let operations: Vec<Value> = stale
            .map(|(index, _)| json!({"op": "add", "path": format!("/webhooks/{index}/clientConfig/caBundle"), "value": encoded}))
            .collect();
        if operations.is_empty() {
            continue;
        }
        let patch: json_patch::Patch = serde_json::from_value(json!(operations))?;
        let patched = api.patch(configuration, &PatchParams::default(), &Patch::Json::<()>(patch)).await;
        patched.context("the caBundle cannot be written")?;
    }
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
        let kept = Kept::new().unwrap();
        let bundle = leaf(&kept, &["steno-webhook.steno.svc".into()]).unwrap();
        assert!(!is_due(&bundle) && server_config(&bundle).is_ok());
        // Whole days are written into it.
        let read = end(&bundle.cert).unwrap();
        assert!((bundle.not_after - read).abs() <= 86_400 && end("no certificate").is_none(), "{read}, not {}", bundle.not_after);
        assert!(is_due(&Bundle { not_after: Timestamp::now().as_second() + 86_400, ..bundle.clone() }));
        // A second replica's leaf comes from the same authority.
        assert_eq!(leaf(&kept, &["x".into()]).unwrap().issuer, bundle.issuer);
    }

    #[test]
    fn what_was_trusted_before_stays_beside_what_is_to_be_trusted_and_nothing_stands_twice() {
        let (own, kept) = (Kept::new().unwrap().trusted(), Kept::new().unwrap().trusted());
        // As another tool may have written it.
        let other = format!("subject=CN = steno\r\n{}", own.replace('\n', "\r\n"));
        let before = certificates(other.as_bytes());
        assert_eq!(before, certificates(own.as_bytes()));
        let both = with_before(kept.trim_end(), &before);
        assert!(both.contains(kept.trim()) && both.contains(own.trim()), "{both}");
        assert_eq!(certificates(both.as_bytes()).len(), 2);
        assert_eq!(with_before(&both, &before), both);
        assert_eq!(with_before(&own, &[]), own);
    }

    #[test]
    fn at_every_step_of_a_rotation_what_any_replica_serves_is_trusted() {
        let mut kept = Kept::new().unwrap();
        let first = kept.current.clone();
        let (begun, overlap) = (kept.since, 600);
        assert_eq!(due(&kept, begun + 1, overlap), None);
        assert_eq!(due(&kept, first.not_after - 86_400, overlap), Some(Step::Announce), "its end comes near");
        kept.is_asked = true;
        // A replica that saw the Secret last one step ago serves a leaf of the authority that was current then.
        let (mut now, mut stale) = (begun + 1, kept.current.cert.clone());
        for expected in [Step::Announce, Step::Promote, Step::Retire] {
            assert_eq!(due(&kept, now, overlap), Some(expected));
            kept = kept.step(expected, now).unwrap();
            let secret = Secret { data: Some(kept.data()), ..Secret::default() };
            assert_eq!(Kept::read(&secret).unwrap(), kept, "what is written is read back");
            assert!(kept.trusted().contains(&kept.current.cert) && kept.trusted().contains(&stale), "{expected:?}");
            assert_eq!(due(&kept, now + overlap - 1, overlap), None, "the overlap holds after {expected:?}");
            (now, stale) = (now + overlap, kept.current.cert.clone());
        }
        assert!(kept.current != first && kept.trusted() == kept.current.cert);
        assert_eq!(due(&kept, now, overlap), None);
    }
}
