//! Reads the configuration, and sees that it comes from the operator.
//!
//! Where the webhook gave the sidecar the operator's public key (Ed25519, base64, `--config-key`), a file counts only if the file of that name with
//! `.sig` beside it holds the signature of its bytes, in base64, and if it is of the pod's own namespace. Who can write to the ConfigMap that is
//! mounted cannot change what is redacted.
use std::path::{Path, PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::signature::{ED25519, UnparsedPublicKey};
use steno_crds::{Parsed, parse};

use crate::reload::shown;

/// What a configuration is checked against.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// The public key, if configurations are signed.
    key: Option<Vec<u8>>,
    /// The pod's namespace.
    namespace: String,
}

/// The file of a configuration's signature.
pub fn signature_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".sig");
    name.into()
}

impl Source {
    /// By the public key in base64, and the pod's namespace.
    ///
    /// # Errors
    /// The key is no base64 of 32 bytes.
    pub fn new(key: Option<&str>, namespace: &str) -> anyhow::Result<Self> {
        let decoded = key.map(|key| STANDARD.decode(key).ok().filter(|key| key.len() == 32));
        let key = match decoded {
            Some(None) => anyhow::bail!("--config-key is no Ed25519 public key in base64"),
            Some(key) => key,
            None => None,
        };
        Ok(Self { key, namespace: namespace.to_owned() })
    }

    /// Reads a configuration. What is wrong with it, on one line.
    pub fn read(&self, file: &Path) -> Result<Parsed, String> {
        let text = std::fs::read_to_string(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
        self.check(file, &text)?;
        let parsed = parse(&text).map_err(|faults| format!("{} is invalid: {}", file.display(), shown(&faults)))?;
        self.own(file, parsed)
    }

    /// Reads the last good configuration, which was checked when it was kept: in another form, so that it has no signature any more.
    pub fn read_kept(&self, file: &Path) -> Result<Parsed, String> {
        self.own(file, Self::default().read(file)?)
    }

    fn own(&self, file: &Path, parsed: Parsed) -> Result<Parsed, String> {
        let namespace = &parsed.config.policy.namespace;
        if self.key.is_some() && *namespace != self.namespace {
            return Err(format!("{} is of the namespace {namespace:?}, and the pod is in {:?}", file.display(), self.namespace));
        }
        Ok(parsed)
    }

    fn check(&self, file: &Path, text: &str) -> Result<(), String> {
        let Some(key) = &self.key else { return Ok(()) };
        let signature = signature_of(file);
        let found = std::fs::read_to_string(&signature).ok().and_then(|found| STANDARD.decode(found.trim()).ok());
        let is_signed = found.is_some_and(|found| UnparsedPublicKey::new(&ED25519, key).verify(text.as_bytes(), &found).is_ok());
        if is_signed {
            return Ok(());
        }
        Err(format!(
            "{} is not signed by the operator that made this pod ({} does not match): somebody else wrote the ConfigMap, or the Secret steno-seal was made \
             anew; in that case restart the pod",
            file.display(),
            signature.display()
        ))
    }
}

#[cfg(test)]
mod tests {
    use ring::{
        rand::SystemRandom,
        signature::{Ed25519KeyPair, KeyPair as _},
    };

    use super::*;

    #[test]
    fn only_what_the_operator_signed_for_this_namespace_counts() {
        let pair = Ed25519KeyPair::from_pkcs8(Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap().as_ref()).unwrap();
        let key = STANDARD.encode(pair.public_key());
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yaml");
        let text = "apiVersion: audit.steno.dev/v1alpha1\nkind: AuditPolicy\nmetadata: {name: audit, namespace: shop}\nspec: {kafka: {brokers: ['k:9092'], topic: t}}\n";
        let put = |text: &str, signed: &str| {
            std::fs::write(&file, text).unwrap();
            std::fs::write(signature_of(&file), STANDARD.encode(pair.sign(signed.as_bytes()))).unwrap();
        };
        let shop = Source::new(Some(&key), "shop").unwrap();
        put(text, text);
        assert!(shop.read(&file).is_ok());
        let pay = Source::new(Some(&key), "pay").unwrap();
        assert!(pay.read(&file).unwrap_err().contains("\"shop\"") && pay.read_kept(&file).unwrap_err().contains("\"shop\""));
        put(&format!("{text} "), text);
        assert!(shop.read(&file).unwrap_err().contains("not signed"));
        std::fs::remove_file(signature_of(&file)).unwrap();
        assert!(shop.read(&file).unwrap_err().contains("not signed"));
        assert!(Source::default().read(&file).is_ok(), "where nobody gave a key there is none to check by");
        assert!(Source::new(Some("AAAA"), "shop").is_err());
    }
}
