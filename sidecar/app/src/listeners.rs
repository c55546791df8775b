//! Further listeners, as the policy has them: they come, change and go while the sidecar runs.
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{ServerConfig, server::WebPkiClientVerifier};
use steno_crds::{InputFormat, ListenerSpec};
use steno_deliver::{kafka::Secrets, tls};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::{
    http::{Ingest, Listener, serve},
    intake::Intake,
    policy::bearer,
};

/// A listener that a policy asks for, its secrets read.
#[derive(Clone, PartialEq)]
pub struct Wanted {
    address: SocketAddr,
    /// What it goes by; or why it cannot be.
    parts: Result<Parts, String>,
}

#[derive(Clone, PartialEq)]
struct Parts {
    /// Certificate chain, key, and the clients' authorities.
    tls: Option<(String, String, Option<String>)>,
    token: Option<String>,
    allow: Vec<InputFormat>,
}

/// What a listener goes by just now.
pub struct Access {
    /// The token that requests carry.
    pub token: Option<String>,
    /// What it takes; empty: all.
    pub allow: Vec<InputFormat>,
    /// TLS.
    pub tls: Option<Arc<ServerConfig>>,
    /// Tells connections of these terms to end.
    pub over: watch::Receiver<bool>,
}

/// Those that run.
#[derive(Default)]
pub struct Listeners {
    running: BTreeMap<SocketAddr, Running>,
}

struct Running {
    parts: Parts,
    access: Arc<ArcSwap<Access>>,
    stop: watch::Sender<bool>,
    /// Ends the connections of the terms that count now.
    over: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// What a policy asks for.
pub fn wanted(specs: &[ListenerSpec], secrets: &Secrets) -> Vec<Wanted> {
    let one = |spec: &ListenerSpec| {
        let parts = || -> Result<Parts, String> {
            let tls = spec.tls.as_ref().map(|tls| -> Result<_, String> {
                let client = tls.client_ca_secret_ref.as_ref().map(|ca| secrets.read(ca)).transpose()?;
                Ok((secrets.read(&tls.cert_secret_ref)?, secrets.read(&tls.key_secret_ref)?, client))
            });
            let token = spec.token_secret_ref.as_ref().map(|token| secrets.read(token)).transpose()?;
            let token = token.map(|token| bearer(&token)).transpose()?;
            Ok(Parts { tls: tls.transpose()?, token, allow: spec.allow.clone() })
        };
        // It was checked with the rest of the policy.
        let address = spec.address.parse().ok()?;
        Some(Wanted { address, parts: parts() })
    };
    specs.iter().filter_map(one).collect()
}

// === impl Parts ===

impl Parts {
    fn access(&self, over: watch::Receiver<bool>) -> Result<Access, String> {
        let tls = self.tls.as_ref().map(|(cert, key, client)| server(cert, key, client.as_deref())).transpose()?;
        Ok(Access { token: self.token.clone(), allow: self.allow.clone(), tls, over })
    }
}

fn server(cert: &str, key: &str, client: Option<&str>) -> Result<Arc<ServerConfig>, String> {
    let (chain, key) = tls::identity(cert.as_bytes(), key.as_bytes(), "its")?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    let builder = if let Some(client) = client {
        let roots = tls::roots(client.as_bytes(), "the clients' CA")?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        builder.with_client_cert_verifier(verifier.map_err(|error| format!("the clients' CA: {error}"))?)
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| format!("its certificate: {error}"))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

// === impl Listeners ===

impl Listeners {
    /// Has those run that are wanted, and no others. What cannot be is told in the stats, and what ran before goes on as it was.
    pub async fn follow(&mut self, wanted: &[Wanted], intake: &Arc<Intake>) {
        let mut faults = Vec::new();
        let gone: Vec<SocketAddr> =
            self.running.keys().filter(|address| wanted.iter().all(|wanted| wanted.address != **address)).copied().collect();
        for running in gone.iter().filter_map(|address| self.running.remove(address)) {
            running.stop.send_replace(true);
            running.over.send_replace(true);
            // Its address may be wanted again.
            let _ = running.task.await;
        }
        for Wanted { address, parts } in wanted {
            if let Err(why) = self.follow_one(*address, parts, intake).await {
                tracing::error!(%address, why, "a listener is not as the policy asks for");
                faults.push(format!("the listener {address}: {why}"));
            }
        }
        *intake.listener_faults.lock() = faults;
    }

    async fn follow_one(
        &mut self,
        address: SocketAddr,
        parts: &Result<Parts, String>,
        intake: &Arc<Intake>,
    ) -> Result<(), String> {
        let parts = parts.as_ref().map_err(Clone::clone)?;
        if let Some(running) = self.running.get_mut(&address) {
            if running.parts != *parts {
                let (over, receiver) = watch::channel(false);
                running.access.store(Arc::new(parts.access(receiver)?));
                running.parts = parts.clone();
                // A connection has shown what the terms asked for when it was made; under others it makes a new one.
                std::mem::replace(&mut running.over, over).send_replace(true);
            }
            return Ok(());
        }
        let (over, receiver) = watch::channel(false);
        let access = Arc::new(ArcSwap::from_pointee(parts.access(receiver)?));
        let listener = TcpListener::bind(address).await.map_err(|error| format!("it cannot be bound: {error}"))?;
        let ingest = Ingest::new(intake.clone(), address.ip().is_loopback()).with_access(access.clone());
        let handle = move |request| ingest.clone().handle(request);
        let most = intake.compiled.load().config.spec.limits.max_connections as usize;
        let (stop, stopped) = watch::channel(false);
        let gauge = intake.metrics.connections.clone();
        let task = tokio::spawn(serve(Listener::Guarded(listener, access.clone()), most, handle, gauge, stopped));
        tracing::info!(%address, "a further listener takes events");
        self.running.insert(address, Running { parts: parts.clone(), access, stop, over, task });
        Ok(())
    }

    /// Ends all of them, when what they answer is answered.
    pub async fn stop(&mut self) {
        for running in self.running.values() {
            running.stop.send_replace(true);
            running.over.send_replace(true);
        }
        for (_, running) in std::mem::take(&mut self.running) {
            let _ = running.task.await;
        }
    }
}
