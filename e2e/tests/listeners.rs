//! Further listeners: TLS with client certificates or a token, and what each may receive.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::{net::TcpListener, sync::Arc, time::Duration};

use serde_json::json;
use steno_e2e::{
    client::event,
    consumer::{events, read_all, verify},
    kafka::Kafka,
    receiver::Certs,
    sidecar::{Sidecar, policy},
    wait_for,
};
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig, TlsProvider};

const SOON: Duration = Duration::from_mins(1);

fn put_server(sidecar: &Sidecar, certs: &Certs) {
    sidecar.put_secret("server", "ca", &certs.ca);
    sidecar.put_secret("server", "key", &certs.server.1);
    sidecar.put_secret("server", "cert", &certs.server.0);
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A client that trusts these, and shows its certificate where it should.
fn agent(certs: &Certs, with_certificate: bool) -> ureq::Agent {
    let roots = RootCerts::new_with_certs(&[Certificate::from_pem(certs.ca.as_bytes()).unwrap()]);
    let own = with_certificate.then(|| {
        let chain = Certificate::from_pem(certs.client.0.as_bytes()).unwrap();
        ClientCert::new_with_certs(&[chain], PrivateKey::from_pem(certs.client.1.as_bytes()).unwrap())
    });
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = TlsConfig::builder().unversioned_rustls_crypto_provider(provider).provider(TlsProvider::Rustls);
    let tls = tls.root_certs(roots).client_cert(own).build();
    let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(10)));
    config.tls_config(tls).build().into()
}

/// The status of a POST; `None`: there was no connection.
fn post(agent: &ureq::Agent, url: &str, media: &str, token: Option<&str>, body: &str) -> Option<u16> {
    let mut request = agent.post(url).header("content-type", media);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    request.send(body).ok().map(|answer| answer.status().as_u16())
}

#[test]
fn each_listener_takes_what_it_may_from_whom_it_may_and_follows_the_policy() {
    let kafka = Kafka::start();
    kafka.topic("audit");
    let (certs, others) = (Certs::make(), Certs::make());
    let (by_cert, by_token) = (free_port(), free_port());
    let tls = "certSecretRef: {name: server, key: cert}, keySecretRef: {name: server, key: key}";
    let of_cert = format!(
        "  - {{address: '0.0.0.0:{by_cert}', tls: {{{tls}, clientCaSecretRef: {{name: server, key: ca}}}}, allow: [Events]}}\n"
    );
    let of_token = format!(
        "  - {{address: '0.0.0.0:{by_token}', tls: {{{tls}}}, tokenSecretRef: {{name: server, key: token}}, allow: [KubernetesAudit, Otlp]}}\n"
    );
    let with = |listeners: &str| policy(&kafka.plain(), "audit", &format!("  listeners:\n{listeners}"));
    let mut sidecar = Sidecar::prepare(&with(&format!("{of_cert}{of_token}")));
    put_server(&sidecar, &certs);
    sidecar.put_secret("server", "token", "t0ken");
    sidecar.up();
    let events_at = |port: u16| format!("https://127.0.0.1:{port}/v1/events");
    let json_media = "application/json";
    let body = event("by-cert").to_string();

    let mutual = agent(&certs, true);
    assert_eq!(post(&mutual, &events_at(by_cert), json_media, None, &body), Some(201));
    assert_eq!(post(&agent(&certs, false), &events_at(by_cert), json_media, None, &body), None, "no certificate, no connection");
    assert_eq!(post(&agent(&others, true), &events_at(by_cert), json_media, None, &body), None, "nor with somebody else's");
    let plain = ureq::Agent::new_with_defaults();
    assert_eq!(post(&plain, &events_at(by_cert).replace("https", "http"), json_media, None, &body), None, "nor without TLS");
    let cloud = json!({"specversion": "1.0", "id": "c", "source": "/s", "type": "t"}).to_string();
    assert_eq!(post(&mutual, &events_at(by_cert), "application/cloudevents+json", None, &cloud), Some(403));
    assert_eq!(mutual.get(events_at(by_cert)).call().unwrap().status().as_u16(), 403, "nobody looks back from outside");
    let flush = events_at(by_cert).replace("/v1/events", "/v1/flush");
    assert_eq!(post(&mutual, &flush, json_media, None, ""), Some(403));

    let anyone = agent(&certs, false);
    let audit_at = format!("https://127.0.0.1:{by_token}/k8s/audit");
    let list = json!({"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "items": [{"auditID": "a-1", "stage": "ResponseComplete",
        "verb": "get", "requestURI": "/version", "user": {"username": "u"}, "stageTimestamp": "2026-01-01T00:00:00Z"}]});
    let list = list.to_string();
    assert_eq!(post(&anyone, &audit_at, json_media, None, &list), Some(401));
    assert_eq!(post(&anyone, &audit_at, json_media, Some("t0ke"), &list), Some(401));
    assert_eq!(post(&anyone, &audit_at, json_media, Some("t0ken"), &list), Some(200));
    assert_eq!(post(&anyone, &events_at(by_token), json_media, Some("t0ken"), &body), Some(403));

    // Certificate, authority and token rotate while it runs; a connection that is open goes on.
    sidecar.put_secret("server", "token", "another");
    put_server(&sidecar, &others);
    let of_others = agent(&others, true);
    let renewed = event("renewed").to_string();
    wait_for("the other certificate", SOON, || {
        matches!(post(&of_others, &events_at(by_cert), json_media, None, &renewed), Some(200 | 201))
    });
    assert_eq!(
        post(&agent(&certs, true), &events_at(by_cert), json_media, None, &body),
        None,
        "the old authority counts no more"
    );
    let anyone = agent(&others, false);
    assert_eq!(post(&anyone, &audit_at, json_media, Some("t0ken"), &list), Some(401));
    assert_eq!(post(&anyone, &audit_at, json_media, Some("another"), &list), Some(200), "a repeat under the new token");

    // A Secret that is put out of order closes nothing, and is told.
    sidecar.put_secret("server", "key", "no key");
    wait_for("the fault to be told", SOON, || sidecar.stats()["health"]["issues"].to_string().contains("the listener"));
    assert_eq!(post(&agent(&others, true), &events_at(by_cert), json_media, None, &event("still").to_string()), Some(201));
    put_server(&sidecar, &others);

    // Listeners come and go with the policy.
    sidecar.write_policy(&with(&of_token));
    wait_for("the listener to be gone", SOON, || std::net::TcpStream::connect(("127.0.0.1", by_cert)).is_err());
    sidecar.write_policy(&with(&of_cert));
    wait_for("the listener to be back", SOON, || {
        matches!(post(&agent(&others, true), &events_at(by_cert), json_media, None, &event("back").to_string()), Some(200 | 201))
    });
    sidecar.drained(SOON);
    let records = read_all(&kafka.plain(), "audit");
    let found = events(&records);
    for id in ["by-cert", "renewed", "still", "back"] {
        assert!(found.contains_key(id), "{id}");
    }
    assert_eq!(found.len(), 5, "and the audit event once: {:?}", found.keys());
    assert!(verify(&records).is_clean());
}
