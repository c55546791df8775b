//! The operator's signature: on configurations, and on the sidecars that the webhook adds.
//!
//! A container's name proves nothing, nor does a ConfigMap's. So whoever leads makes a key pair (Ed25519) in a Secret, once:
//!
//! - A rendered configuration is signed. The webhook puts the public key into the sidecar's environment, and such a sidecar takes no configuration
//!   without a signature by that key, whoever wrote the ConfigMap, nor one of another namespace.
//! - The webhook signs what it adds to a pod (the annotation `audit.steno.dev/mark`): namespace, policy, and of the container the image, the command, the
//!   arguments, the variables `STENO_…` and the mounts `steno-…`. A pod that is labelled as injected and has no valid mark counts as one without the
//!   sidecar. One that was made before the key, or within ten minutes of it, has no mark and is believed if its image has the name of ours, of
//!   whatever registry and version, and its own entry point.
//!
//! If the Secret is deleted a new pair is made. Pods from before then refuse changed configurations, and say so, until they are restarted.
use std::{collections::BTreeMap, sync::Arc};

use anyhow::Context as _;
use arc_swap::ArcSwapOption;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The Secret's name.
pub const SECRET: &str = "steno-seal";
/// The Secret's member with the key pair, PKCS#8.
const PAIR: &str = "pair.pkcs8";
/// The Secret's member with the time at which it was made, seconds since 1970.
const SINCE: &str = "since";
/// For so long after the key was made the webhooks may not have it yet, in seconds.
const LEARNING: i64 = 600;

/// The key pair.
pub struct Seal {
    pair: Ed25519KeyPair,
    since: i64,
}

/// The key pair, once it is known, and the image that the webhook adds.
#[derive(Clone, Default)]
pub struct Seals {
    known: Arc<ArcSwapOption<Seal>>,
    image: Arc<str>,
}

/// The name of an image, without registry, path, tag and digest.
fn image_name(image: &str) -> &str {
    let name = image.rsplit('/').next().unwrap_or_default();
    name.split([':', '@']).next().unwrap_or_default()
}

/// What a mark covers of the sidecar's container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Essence {
    image: String,
    command: Vec<String>,
    args: Vec<String>,
    restart_policy: String,
    env: Vec<Variable>,
    volume_mounts: Vec<Mount>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
struct Variable {
    name: String,
    value: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Mount {
    name: String,
    mount_path: String,
}

// === impl Essence ===

impl Essence {
    /// What a mark covers, as it is signed: in an order of its own, since other webhooks may add to the container.
    fn of(&self, namespace: &str, policy: &str) -> Vec<u8> {
        let mut own = self.clone();
        own.env.retain(|variable| variable.name.starts_with("STENO_"));
        own.env.sort();
        own.volume_mounts.retain(|mount| mount.name.starts_with("steno-"));
        own.volume_mounts.sort();
        serde_json::to_vec(&("steno sidecar", namespace, policy, own)).unwrap_or_default()
    }
}

// === impl Seal ===

impl Seal {
    fn generate() -> anyhow::Result<Vec<u8>> {
        let pair =
            Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| anyhow::anyhow!("no key pair could be made"))?;
        Ok(pair.as_ref().to_vec())
    }

    /// From what the Secret holds.
    pub fn read(pkcs8: &[u8], since: i64) -> anyhow::Result<Self> {
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|error| {
            anyhow::anyhow!("the Secret {SECRET} holds no key pair ({error}); delete it, and it is made anew")
        })?;
        Ok(Self { pair, since })
    }

    fn of(secret: &Secret) -> anyhow::Result<Self> {
        let member = |name: &str| secret.data.as_ref().and_then(|data| data.get(name)).map(|bytes| bytes.0.as_slice());
        let since = member(SINCE).and_then(|bytes| std::str::from_utf8(bytes).ok()?.parse().ok());
        Self::read(member(PAIR).unwrap_or_default(), since.unwrap_or_default())
    }

    /// The public key, in base64.
    pub fn public(&self) -> String {
        STANDARD.encode(self.pair.public_key())
    }

    /// The signature of a configuration, in base64.
    pub fn sign(&self, configuration: &str) -> String {
        STANDARD.encode(self.pair.sign(configuration.as_bytes()))
    }

    /// The mark of a sidecar's container.
    pub fn mark(&self, namespace: &str, policy: &str, container: &Value) -> String {
        let essence: Essence = Essence::deserialize(container).unwrap_or_default();
        STANDARD.encode(self.pair.sign(&essence.of(namespace, policy)))
    }

    /// Whether a container has a mark that holds.
    fn has_mark(&self, (namespace, policy): (&str, &str), container: &Essence, mark: &str) -> bool {
        let key = UnparsedPublicKey::new(&ring::signature::ED25519, self.pair.public_key());
        STANDARD.decode(mark).is_ok_and(|mark| key.verify(&container.of(namespace, policy), &mark).is_ok())
    }
}

// === impl Seals ===

impl std::fmt::Debug for Seals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.get().is_some() { "Seals(known)" } else { "Seals(unknown)" })
    }
}

impl Seals {
    /// A key pair of its own, in no Secret.
    ///
    /// # Errors
    /// There is no source of randomness.
    pub fn new() -> anyhow::Result<Self> {
        let seal = Seal::read(&Seal::generate()?, 0)?;
        Ok(Self { known: Arc::new(ArcSwapOption::from_pointee(seal)), ..Self::default() })
    }

    /// For an image; the key pair comes later.
    pub fn of(image: &str) -> Self {
        Self { known: Arc::default(), image: image.into() }
    }

    /// Whether a container is what the webhook added to a pod that was made then, in seconds since 1970. As long as no key pair is known all are.
    pub fn is_ours(&self, of: (&str, &str), container: &Essence, mark: Option<&str>, made: i64) -> bool {
        let Some(seal) = self.get() else { return true };
        let is_like_ours = || container.command.is_empty() && image_name(&container.image) == image_name(&self.image);
        mark.map_or_else(|| made < seal.since + LEARNING && is_like_ours(), |mark| seal.has_mark(of, container, mark))
    }

    /// The key pair, if it is known.
    pub fn get(&self) -> Option<Arc<Seal>> {
        self.known.load_full()
    }

    /// Reads the Secret; who may makes it where it is missing.
    pub async fn tend(&self, client: &Client, namespace: &str, may_make: bool) -> anyhow::Result<()> {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let known = secrets.get_opt(SECRET).await.context("the Secret of the operator's signature cannot be read")?;
        let secret = match known {
            Some(secret) => secret,
            None if may_make => {
                let since = Timestamp::now().as_second().to_string();
                let data = [(PAIR, Seal::generate()?), (SINCE, since.into_bytes())];
                let data: BTreeMap<_, _> = data.into_iter().map(|(name, bytes)| (name.to_owned(), ByteString(bytes))).collect();
                let metadata = ObjectMeta { name: Some(SECRET.into()), ..ObjectMeta::default() };
                let secret = Secret { metadata, data: Some(data), ..Secret::default() };
                let made = secrets.create(&PostParams::default(), &secret).await;
                let made = made.context("the Secret of the operator's signature cannot be made")?;
                tracing::info!(secret = SECRET, "the key pair of the operator's signature was made");
                made
            }
            None => return Ok(()),
        };
        let seal = Seal::of(&secret)?;
        if self.get().is_none_or(|known| known.public() != seal.public()) {
            self.known.store(Some(Arc::new(seal)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_mark_holds_for_what_was_added_and_for_nothing_else() {
        let seal = Arc::new(Seal::read(&Seal::generate().unwrap(), 1_000_000).unwrap());
        let known =
            |seal: &Arc<Seal>| Seals { known: Arc::new(Some(seal.clone()).into()), image: "mirror.example/steno:2".into() };
        let container = json!({
            "name": "steno-sidecar", "image": "steno:1", "args": ["run"], "restartPolicy": "Always",
            "env": [{"name": "STENO_DIR", "value": "/x"}, {"name": "STENO_POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "volumeMounts": [{"name": "steno-config", "mountPath": "/etc/steno", "readOnly": true}],
        });
        let mark = seal.mark("shop", "audit", &container);
        let is_ours = |container: &Value, of, mark: Option<&str>, made| {
            known(&seal).is_ours(of, &Essence::deserialize(container).unwrap(), mark, made)
        };
        let (of, late) = (("shop", "audit"), 2_000_000);
        assert!(is_ours(&container, of, Some(&mark), late));
        // What other webhooks add, and the API server's defaults, change nothing.
        let mut more = container.clone();
        more["env"].as_array_mut().unwrap().insert(0, json!({"name": "HTTP_PROXY", "value": "p"}));
        more["volumeMounts"].as_array_mut().unwrap().push(json!({"name": "kube-api-access", "mountPath": "/var/run/secrets"}));
        more["terminationMessagePath"] = json!("/dev/termination-log");
        assert!(is_ours(&more, of, Some(&mark), late));
        let changed = [("image", json!("busybox")), ("command", json!(["sleep"])), ("args", json!([])), ("env", json!([]))];
        for (member, value) in changed {
            let mut other = container.clone();
            other[member] = value;
            assert!(!is_ours(&other, of, Some(&mark), late), "{member}");
        }
        assert!(
            !is_ours(&container, ("other", "audit"), Some(&mark), late) && !is_ours(&container, ("shop", "x"), Some(&mark), late)
        );
        assert!(!is_ours(&container, of, Some("bm9uZQ=="), late) && !is_ours(&container, of, Some("?"), 0));
        // From before the key: the name of the image, and its own entry point.
        assert!(is_ours(&container, of, None, 1_000_100) && !is_ours(&container, of, None, late));
        for (member, value) in [("image", json!("busybox")), ("command", json!(["sleep"]))] {
            let mut other = container.clone();
            other[member] = value;
            assert!(!is_ours(&other, of, None, 0), "{member}");
        }
        let other = Arc::new(Seal::read(&Seal::generate().unwrap(), 0).unwrap());
        assert!(!known(&other).is_ours(of, &Essence::deserialize(&container).unwrap(), Some(&mark), late));
        assert!(Seals::default().is_ours(of, &Essence::default(), None, late), "nobody knows the key yet");
    }
}
