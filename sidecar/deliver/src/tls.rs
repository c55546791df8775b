//! Whom a sink trusts and who it is, from a policy and its Secrets.
use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use steno_crds::{SecretRef, Tls};

use crate::kafka::Secrets;

/// Where Debian, Alpine and distroless keep the system's certificate authorities.
pub(crate) const SYSTEM: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Authorities from PEM; `what` names them in the error.
pub fn roots(pem: &[u8], what: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for found in CertificateDer::pem_slice_iter(pem) {
        let found = found.map_err(|error| format!("{what} is no PEM: {error}"))?;
        roots.add(found).map_err(|error| format!("{what} is no certificate: {error}"))?;
    }
    if roots.is_empty() { Err(format!("{what} has no certificate in it")) } else { Ok(roots) }
}

/// A certificate chain and its key.
pub type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// A certificate chain and its key from PEM; `whose` begins the error.
pub fn identity(cert: &[u8], key: &[u8], whose: &str) -> Result<Identity, String> {
    let chain = CertificateDer::pem_slice_iter(cert).collect::<Result<_, _>>();
    let chain = chain.map_err(|error| format!("{whose} certificate is no PEM: {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("{whose} key is no PEM: {error}"))?;
    Ok((chain, key))
}

/// The certificates and the key of a policy, as PEM.
pub(crate) struct Pem {
    pub(crate) roots: Vec<u8>,
    pub(crate) own: Option<(Vec<u8>, Vec<u8>)>,
}

impl Pem {
    /// Reads them; the error names what is missing.
    pub(crate) fn read(tls: Option<&Tls>, secrets: &Secrets) -> Result<Self, String> {
        let read = |reference: &SecretRef| secrets.read(reference).map(String::into_bytes);
        let ca = tls.and_then(|tls| tls.ca_secret_ref.as_ref());
        let system = || std::fs::read(SYSTEM).map_err(|error| format!("{SYSTEM} cannot be read: {error}; set tls.caSecretRef"));
        let roots = ca.map_or_else(system, read)?;
        let own = match tls.map(|tls| (&tls.cert_secret_ref, &tls.key_secret_ref)) {
            Some((Some(cert), Some(key))) => Some((read(cert)?, read(key)?)),
            _ => None,
        };
        Ok(Self { roots, own })
    }

    /// For rustls.
    pub(crate) fn config(&self) -> Result<ClientConfig, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| error.to_string())?.with_root_certificates(roots(&self.roots, "the CA")?);
        let Some((cert, key)) = &self.own else { return Ok(builder.with_no_client_auth()) };
        let (chain, key) = identity(cert, key, "the client's")?;
        builder.with_client_auth_cert(chain, key).map_err(|error| format!("the client certificate: {error}"))
    }
}
