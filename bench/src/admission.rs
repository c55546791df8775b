//! Admissions at a fixed rate, over TLS, against a bare hyper that answers as much.
//!
//! The rate is an open loop: a review is due every so often, whether the one before was answered or not, and its time counts from when it was
//! due. So a pause of the server is seen in every review that it delayed.
use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, client::conn::http1, server, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::json;
use steno_operator::{
    inject::{Resources, Settings},
    metrics::Metrics,
    seal::Seals,
    tell::Teller,
    view::View,
    webhook::{Webhook, serve},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, ServerName},
    },
};

/// Connections that reviews come on.
const CONNECTIONS: usize = 8;

/// Times of reviews.
pub struct Times {
    /// Half were faster.
    pub p50: Duration,
    /// 99 of 100 were.
    pub p99: Duration,
    /// How many there were.
    pub count: usize,
}

/// The webhook's times at a rate, and the bare server's.
pub fn run(a_second: u32, time: Duration) -> anyhow::Result<(Times, Times)> {
    // The server has a thread of its own, as in a pod.
    let servers = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let client = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (tls, trust) = certificates()?;
    let stop = watch::Sender::new(false);
    let (webhook, bare) = servers.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let webhook = listener.local_addr()?;
        tokio::spawn(serve(listener, Arc::new(ArcSwap::new(tls.clone())), the_webhook()?, stop.subscribe()));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let bare = listener.local_addr()?;
        tokio::spawn(echo(listener, tls));
        anyhow::Ok((webhook, bare))
    })?;
    let body = Bytes::from(review().to_string());
    let bare = client.block_on(load(bare, trust.clone(), body.clone(), a_second, time))?;
    let webhook = client.block_on(load(webhook, trust, body, a_second, time))?;
    servers.shutdown_background();
    Ok((webhook, bare))
}

fn certificates() -> anyhow::Result<(Arc<ServerConfig>, Arc<ClientConfig>)> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let provider = Arc::new(ring::default_provider());
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone())?;
    let client =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?.with_root_certificates(roots);
    Ok((Arc::new(server), Arc::new(client.with_no_client_auth())))
}

/// The webhook over ten policies, each with rules, of which one selects the pod.
fn the_webhook() -> anyhow::Result<Arc<Webhook>> {
    let policy = |number: usize| {
        let text = format!(
            "{{apiVersion: audit.steno.dev/v1alpha1, kind: AuditPolicy, metadata: {{name: p{number}, namespace: shop}}, spec: {{\
             selector: {{matchLabels: {{app: app-{number}}}}}, kafka: {{brokers: ['kafka:9092'], topic: audit}}, \
             redaction: {{rules: [{{path: metadata.plate, action: Replace}}, {{regex: '[A-Z]{{2}}[0-9]{{6}}', action: Mask}}]}}}}}}"
        );
        serde_yaml::from_str(&text).context("a policy")
    };
    let policies = (0..10).map(policy).collect::<anyhow::Result<Vec<_>>>()?;
    let settings = Settings {
        image: "steno/sidecar:0".into(),
        pull_policy: String::new(),
        version: "0".into(),
        resources: Resources::default(),
        pull_secrets: Vec::new(),
        meshes: Vec::new(),
        // It signs, as it does in a cluster.
        seals: Seals::new()?,
    };
    let namespace = serde_yaml::from_str("{metadata: {name: shop}}").context("a namespace")?;
    let view = View::fixed(policies, vec![namespace]);
    Ok(Arc::new(Webhook { view, settings, metrics: Metrics::default(), teller: Teller::to_nobody(), client: None }))
}

/// A review of a pod such as a Deployment makes, about 6 KB.
fn review() -> serde_json::Value {
    let variable =
        |number: usize| json!({"name": format!("SETTING_{number}"), "value": format!("a value of some length, number {number}")});
    let environment: Vec<_> = (0..40).map(variable).collect();
    let mount = json!([{"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true}]);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "generateName": "shop-7d9f-", "namespace": "shop", "labels": {"app": "app-3", "pod-template-hash": "7d9f"},
            "annotations": {"audit.steno.dev/inject": "true"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "shop-7d9f", "uid": "u", "controller": true}],
        },
        "spec": {
            "containers": [{"name": "app", "image": "shop:1", "env": environment, "volumeMounts": mount, "resources": {"limits": {"cpu": "1"}}}],
            "volumes": [{"name": "token", "projected": {"sources": [{"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}}]}}],
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
        },
    });
    let request = json!({"uid": "0f", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "namespace": "shop", "operation": "CREATE", "object": pod});
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request})
}

/// A server that reads a body and answers a constant of the size of an answer.
async fn echo(listener: TcpListener, tls: Arc<ServerConfig>) {
    let answer = Bytes::from(vec![b'x'; 4096]);
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, answer) = (TlsAcceptor::from(tls.clone()), answer.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(|request: Request<hyper::body::Incoming>| {
                let answer = answer.clone();
                async move {
                    let _ = request.into_body().collect().await;
                    Ok::<_, Infallible>(Response::new(Full::new(answer)))
                }
            });
            let _ = server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn load(
    address: std::net::SocketAddr,
    trust: Arc<ClientConfig>,
    body: Bytes,
    a_second: u32,
    time: Duration,
) -> anyhow::Result<Times> {
    let (told, mut times) = mpsc::unbounded_channel();
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let stream = TlsConnector::from(trust.clone()).connect(ServerName::try_from("localhost")?, stream).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let (due, mut dues) = mpsc::unbounded_channel::<Instant>();
        let (told, body) = (told.clone(), body.clone());
        tokio::spawn(async move {
            while let Some(due) = dues.recv().await {
                let request = Request::post("/mutate").header("host", "localhost").body(Full::new(body.clone()));
                let Ok(request) = request else { return };
                let Ok(answer) = sender.send_request(request).await else { return };
                let is_good = answer.status().is_success();
                if answer.into_body().collect().await.is_ok() && is_good {
                    let _ = told.send(due.elapsed());
                }
            }
        });
        connections.push(due);
    }
    drop(told);
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / a_second);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let wanted = (time.as_secs_f64() * f64::from(a_second)) as usize;
    for number in 0..wanted {
        let due = ticks.tick().await;
        connections[number % CONNECTIONS].send(due.into_std()).ok().context("a connection broke")?;
    }
    drop(connections);
    let mut all = Vec::new();
    while let Some(time) = times.recv().await {
        all.push(time);
    }
    anyhow::ensure!(all.len() == wanted, "{} of {wanted} reviews were answered", all.len());
    all.sort();
    let at = |percent: usize| all[(all.len() * percent / 100).min(all.len() - 1)];
    Ok(Times { p50: at(50), p99: at(99), count: all.len() })
}
