//! A receiver of CloudEvents by HTTPS that wants a client certificate and a token, and fails when it is told to.
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, AtomicU64, Ordering},
    },
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Bytes, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use serde_json::Value;
use tokio::{net::TcpListener, runtime::Runtime};
use tokio_rustls::TlsAcceptor;

/// An authority, and what it issued, as PEM.
pub struct Certs {
    /// The authority's certificate.
    pub ca: String,
    /// The server's certificate, for 127.0.0.1 and localhost, and its key.
    pub server: (String, String),
    /// A client's certificate and key.
    pub client: (String, String),
}

impl Certs {
    /// Fresh ones.
    pub fn make() -> Self {
        Self::of_server(&["127.0.0.1", "localhost"])
    }

    /// Fresh ones, for a server of these names.
    pub fn of_server(names: &[&str]) -> Self {
        use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
        let key = || KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = key();
        let ca = params.self_signed(&ca_key).expect("a certificate").pem();
        let issuer = Issuer::new(params, ca_key);
        let issue = |names: &[&str], usage| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let mut params = CertificateParams::new(names).expect("parameters");
            params.extended_key_usages = vec![usage];
            let own = key();
            (params.signed_by(&own, &issuer).expect("a certificate").pem(), own.serialize_pem())
        };
        let server = issue(names, ExtendedKeyUsagePurpose::ServerAuth);
        let client = issue(&["client"], ExtendedKeyUsagePurpose::ClientAuth);
        Self { ca, server, client }
    }

    /// A certificate that vouches for itself, and its key.
    pub fn self_signed(names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate =
            rcgen::CertificateParams::new(names).and_then(|params| params.self_signed(&key)).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }
}

/// The receiver.
pub struct Receiver {
    state: Arc<State>,
    address: SocketAddr,
    // Ends with the test.
    _runtime: Runtime,
}

struct State {
    /// Answers with this status; 200: takes events.
    answer: AtomicU16,
    /// Milliseconds before it answers.
    delay: AtomicU64,
    /// Requests that it has got, whatever it answered.
    asked: AtomicU64,
    token: Mutex<String>,
    events: Mutex<Vec<Value>>,
    /// Heads of the requests: names and values.
    heads: Mutex<Vec<Vec<(String, String)>>>,
    refused: Mutex<Vec<u16>>,
}

impl Receiver {
    /// Starts one on a free port of loopback.
    pub fn start(certs: &Certs, token: &str) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(certs.ca.as_bytes()).expect("PEM")).expect("an authority");
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().expect("a verifier");
        let chain = vec![CertificateDer::from_pem_slice(certs.server.0.as_bytes()).expect("PEM")];
        let key = PrivateKeyDer::from_pem_slice(certs.server.1.as_bytes()).expect("PEM");
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
        let config = config.with_client_cert_verifier(verifier).with_single_cert(chain, key).expect("a configuration");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let state = Arc::new(State {
            answer: AtomicU16::new(200),
            delay: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            token: Mutex::new(token.into()),
            events: Mutex::default(),
            heads: Mutex::default(),
            refused: Mutex::default(),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = state.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, state) = (acceptor.clone(), shared.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| answer(state.clone(), request));
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { state, address, _runtime: runtime }
    }

    /// Where events go.
    pub fn url(&self) -> String {
        format!("https://{}/events?key=in-the-url", self.address)
    }

    /// Answers with another status from now on.
    pub fn answer(&self, status: u16) {
        self.state.answer.store(status, Ordering::SeqCst);
    }

    /// Answers so late from now on.
    pub fn delay(&self, delay: Duration) {
        self.state.delay.store(delay.as_millis() as u64, Ordering::SeqCst);
    }

    /// Requests that it has got.
    pub fn asked(&self) -> u64 {
        self.state.asked.load(Ordering::SeqCst)
    }

    /// Wants another token from now on.
    pub fn token(&self, token: &str) {
        *self.state.token.lock().expect("a lock") = token.into();
    }

    /// All events that it took.
    pub fn events(&self) -> Vec<Value> {
        self.state.events.lock().expect("a lock").clone()
    }

    /// Heads of all requests so far.
    pub fn heads(&self) -> Vec<Vec<(String, String)>> {
        self.state.heads.lock().expect("a lock").clone()
    }

    /// Statuses of what it did not take.
    pub fn refused(&self) -> Vec<u16> {
        self.state.refused.lock().expect("a lock").clone()
    }
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let (token, media, codec) = (header("authorization"), header("content-type"), header("content-encoding"));
    let head = request.headers().iter();
    let head = head.map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned())).collect();
    state.heads.lock().expect("a lock").push(head);
    let body = request.into_body().collect().await?.to_bytes();
    let body = match codec.as_str() {
        "gzip" => {
            let mut plain = Vec::new();
            std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&body[..]), &mut plain)
                .map(|_| plain)
                .unwrap_or_default()
        }
        "zstd" => zstd::decode_all(&body[..]).unwrap_or_default(),
        _ => body.to_vec(),
    };
    state.asked.fetch_add(1, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(state.delay.load(Ordering::SeqCst))).await;
    let batch: Option<Vec<Value>> = serde_json::from_slice(&body).ok();
    let wanted = state.token.lock().expect("a lock").clone();
    let token = token.split_once(' ').map_or(token.as_str(), |(_, token)| token);
    let status = match (state.answer.load(Ordering::SeqCst), batch) {
        _ if token != wanted => 401,
        _ if media != "application/cloudevents-batch+json" => 415,
        (200, None) => 400,
        // What it will not have, whatever comes with it.
        (200, Some(batch)) if batch.iter().any(|event| event["data"]["action"] == "poison") => 422,
        (200, Some(batch)) => {
            state.events.lock().expect("a lock").extend(batch);
            200
        }
        (other, _) => other,
    };
    if status != 200 {
        state.refused.lock().expect("a lock").push(status);
    }
    let mut answer = Response::builder().status(status);
    if status == 503 {
        answer = answer.header("Retry-After", "1");
    }
    Ok(answer.body(Full::new(Bytes::from_static(b"{}"))).expect("an answer"))
}
