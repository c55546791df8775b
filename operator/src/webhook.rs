//! The HTTPS listener of the webhooks, and the plain one of health and metrics.
use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use kube::Client;
use serde_json::{Value, json};
use steno_crds::{ClusterAuditPolicySpec, LabelSelector};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

use crate::{
    admission::{Outcome, is_dry_run, mutate, namespace_of, validate},
    inject::{Namespace, Settings},
    metrics::Metrics,
    tell::{Teller, controller_of},
    view::View,
};

/// Largest review, in bytes; an object of etcd is smaller.
const REVIEW: usize = 4 << 20;
/// How long a connection may take for its handshake and for each head.
const HEAD: Duration = Duration::from_secs(10);
/// How long a connection may idle: longer than an API server keeps one, so that it is never closed under a review.
const IDLE: Duration = Duration::from_secs(150);
/// Connections at a time.
const CONNECTIONS: usize = 512;

/// What requests share.
pub struct Webhook {
    /// The policies of the cluster.
    pub view: Arc<View>,
    /// What pods get.
    pub settings: Settings,
    /// What is counted.
    pub metrics: Metrics,
    /// Where Events are told.
    pub teller: Teller,
    /// The cluster, for the last configuration of a policy that is not accepted.
    pub client: Option<Client>,
}

fn reply(status: StatusCode, media: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(media));
    reply
}

impl Webhook {
    async fn handle(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let begun = std::time::Instant::now();
        let path = request.uri().path().to_owned();
        if request.method() != Method::POST || !["/mutate", "/mutate/namespace", "/validate"].contains(&path.as_str()) {
            return reply(StatusCode::NOT_FOUND, "text/plain", "reviews go to /mutate, /mutate/namespace and /validate\n");
        }
        let Ok(body) = Limited::new(request.into_body(), REVIEW).collect().await else {
            return reply(StatusCode::PAYLOAD_TOO_LARGE, "text/plain", "the review is larger than 4 MiB\n");
        };
        // What is no JSON is answered as what is no review.
        let review: Value = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
        let namespace = namespace_of(&review);
        let (answer, outcome) = if path == "/validate" {
            let (mut answer, outcome) = validate(&review, self.view.covering(namespace).as_deref());
            self.advise(&review, namespace, &mut answer);
            (answer, outcome)
        } else {
            if let Some(client) = &self.client {
                self.view.recall(client, namespace).await;
            }
            let policies = self.view.policies_in(namespace);
            let known = self.view.namespace(namespace);
            // Which of the two webhooks was called says it for certain, however old the view is. A pod that opts out is called by the other one.
            let opts_out =
                review.pointer("/request/object/metadata/annotations/audit.steno.dev~1inject") == Some(&"false".into());
            let inject_all = path.ends_with("namespace") || (known.inject_all && opts_out);
            let known = Namespace { inject_all, ..known };
            mutate(&review, &known, &policies, &self.settings)
        };
        self.told(&path, namespace, &review, &outcome);
        self.metrics.admission.observe(begun.elapsed().as_secs_f64());
        reply(StatusCode::OK, "application/json", answer.to_string())
    }

    /// Warns of what an object that is taken does to others.
    fn advise(&self, review: &Value, namespace: &str, answer: &mut Value) {
        let Some(object) =
            review.pointer("/request/object").filter(|_| answer.pointer("/response/allowed") == Some(&Value::Bool(true)))
        else {
            return;
        };
        let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let spec = object.get("spec").cloned().unwrap_or_default();
        let warning = if object.get("kind").and_then(Value::as_str) == Some("ClusterAuditPolicy") {
            let Ok(spec) = serde_json::from_value::<ClusterAuditPolicySpec>(spec) else { return };
            let unsatisfied = self.view.unsatisfied(name, &spec);
            (!unsatisfied.is_empty()).then(|| {
                format!(
                    "steno: {} AuditPolicies cannot be accepted under it ({}); their pods, new ones too, go on by the last configuration that was",
                    unsatisfied.len(),
                    some_of(&unsatisfied)
                )
            })
        } else {
            let Ok(selector) = serde_json::from_value::<Option<LabelSelector>>(spec.get("selector").cloned().unwrap_or_default())
            else {
                return;
            };
            let rivals = self.view.rivals(namespace, name, selector.as_ref());
            (!rivals.is_empty()).then(|| {
                format!(
                    "steno: spec.selector: may select pods that {} selects, too; a pod that several select gets no sidecar unless it names one by audit.steno.dev/policy",
                    some_of(&rivals)
                )
            })
        };
        let Some(warning) = warning else { return };
        if let Some(warnings) = answer.pointer_mut("/response/warnings").and_then(Value::as_array_mut) {
            warnings.push(warning.into());
        } else {
            answer["response"]["warnings"] = json!([warning]);
        }
    }

    fn told(&self, path: &str, namespace: &str, review: &Value, outcome: &Outcome) {
        let Outcome { result, reason, message } = outcome;
        self.metrics.admissions(result, reason).inc();
        if *result == "not-asked" || *result == "allowed" {
            return;
        }
        let name =
            review.pointer("/request/object/metadata/name").or_else(|| review.pointer("/request/object/metadata/generateName"));
        let name = name.and_then(Value::as_str).unwrap_or_default();
        tracing::info!(path, namespace, name, result, reason, message, "admission");
        // The pod is not there yet; its controller is.
        let about = review.pointer("/request/object").and_then(|pod| controller_of(pod, namespace));
        if let Some(about) = about.filter(|_| !is_dry_run(review)) {
            match *result {
                "injected" => self.teller.tell(about, false, "Injected", &format!("The sidecar was added to a pod, {message}")),
                "skipped" => self.teller.tell(about, true, "InjectionSkipped", &format!("{reason}: {message}")),
                _ => {}
            }
        }
    }
}

/// The first names of a list, for a sentence.
pub fn some_of(names: &[String]) -> String {
    const NAMED: usize = 5;
    let more = names.len().saturating_sub(NAMED);
    let named = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{named} and {more} more") } else { named }
}

/// Serves reviews over TLS, with whatever certificate counts at the time, until told to stop.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ArcSwap<ServerConfig>>,
    webhook: Arc<Webhook>,
    mut stop: watch::Receiver<bool>,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let (acceptor, webhook, mut stop) = (TlsAcceptor::from(tls.load_full()), webhook.clone(), stop.clone());
        tokio::spawn(async move {
            let _place = place;
            let Ok(Ok(stream)) = tokio::time::timeout(HEAD, acceptor.accept(stream)).await else { return };
            let service = service_fn(|request| {
                let webhook = webhook.clone();
                async move { Ok::<_, Infallible>(webhook.handle(request).await) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(IDLE)
                .serve_connection(TokioIo::new(stream), service);
            let mut served = std::pin::pin!(served);
            tokio::select! {
                _ = &mut served => return,
                _ = stop.wait_for(|stop| *stop) => served.as_mut().graceful_shutdown(),
            }
            let _ = served.await;
        });
    }
    let _ = tokio::time::timeout(Duration::from_secs(10), room.acquire_many(CONNECTIONS as u32)).await;
}

/// Binds an address; where the node has no IPv6, `[::]` is `0.0.0.0`.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(_) if address.is_ipv6() && address.ip().is_unspecified() => {
            TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    }
    .with_context(|| format!("cannot listen on {address}"))
}

/// How the process stands, for its probes.
pub struct Health {
    /// The listener serves TLS with a certificate that the API server trusts, and the policies are known.
    pub ready: watch::Receiver<bool>,
    /// When a reconcile ended last, or there was nothing to do.
    pub beat: Arc<crate::reconcile::Beat>,
    /// What is counted.
    pub metrics: Metrics,
}

/// Serves `/livez`, `/readyz` and `/metrics` in clear.
pub async fn health(address: SocketAddr, health: Arc<Health>) -> anyhow::Result<()> {
    let listener = bind(address).await?;
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let health = health.clone();
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let (status, media, text) = match request.uri().path() {
                    "/livez" if health.beat.is_stuck() => {
                        (StatusCode::INTERNAL_SERVER_ERROR, "text/plain", "a reconcile takes more than five minutes\n".into())
                    }
                    "/livez" => (StatusCode::OK, "text/plain", "ok\n".into()),
                    "/readyz" if *health.ready.borrow() => (StatusCode::OK, "text/plain", "ok\n".into()),
                    "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, "text/plain", "not serving yet\n".into()),
                    "/metrics" => (StatusCode::OK, crate::metrics::MEDIA, health.metrics.text()),
                    _ => (StatusCode::NOT_FOUND, "text/plain", "see /livez, /readyz and /metrics\n".into()),
                };
                let answer: Response<Full<Bytes>> = reply(status, media, text);
                async move { Ok::<_, Infallible>(answer) }
            });
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}
