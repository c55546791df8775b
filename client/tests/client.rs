//! The client against a real sidecar.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#[path = "../../sidecar/app/tests/rig/mod.rs"]
mod rig;

use std::{
    convert::Infallible,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use http::{Request, Response};
use rig::Rig;
use serde_json::Value;
use steno_client::{Client, Error, Event, Intent, ReplayKey, Search, Status, layer::AuditLayer, route::RecordLayer};
use tower_layer::Layer as _;
use tower_service::Service;
use tracing_subscriber::layer::SubscriberExt as _;

const ON: &str = "  query: {enabled: true}\n";

fn over_tcp(rig: &Rig) -> Client {
    Client::new(&format!("http://{}", rig.address)).unwrap()
}

fn block<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

async fn found(client: &Client, search: Search) -> Vec<Value> {
    let mut pages = client.search(search.oldest_first());
    let mut all = Vec::new();
    while let Some(page) = pages.next().await.unwrap() {
        all.extend(page);
    }
    all
}

#[test]
fn an_event_is_taken_once_whoever_sends_it_again_and_a_conflict_is_told() {
    let rig = Rig::new(ON);
    let client = over_tcp(&rig);
    block(async {
        let event = Event::new("order.delete").actor("user", "u-17").resource("order", "4711").outcome("success");
        let receipt = client.send(event.clone()).await.unwrap();
        assert!(receipt.status == Status::Created && receipt.event_id == event.event_id() && receipt.is_durable());
        assert_eq!(client.send(event.clone()).await.unwrap().status, Status::DuplicateAccepted);
        let Err(Error::Refused(problem)) = client.send(event.clone().outcome("failure")).await else { panic!() };
        assert_eq!((problem.status, problem.reason.as_str()), (409, "conflict"));
        let Err(Error::Refused(problem)) = client.send(Event::new("")).await else { panic!() };
        assert!(problem.status == 422 && problem.detail.contains("action"), "{problem}");
        let all = found(&client, Search::new().with("actor.id", "u-17")).await;
        assert_eq!((all.len(), &all[0]["resource"]["id"]), (1, &Value::from("4711")));
    });
}

#[test]
fn intents_are_given_back_until_they_are_resolved_by_tcp_and_by_the_socket() {
    let rig = Rig::new(
        "  query: {enabled: true}\n  spool: {encryption: {keySecretRef: {name: spool, key: one}}}\n  intents: {enabled: true, topic: intents, allowPodLoss: true, tokenSecretRef: {name: query, key: token}}\n",
    );
    let socket = Client::new(&format!("unix:{}", rig.socket.display())).unwrap().token("s3cret-token");
    let tcp = over_tcp(&rig).token("s3cret-token");
    block(async {
        let key = ReplayKey {
            env: "test".into(),
            slug: "shop".into(),
            version: "1".into(),
            dto_type: "Payment".into(),
            entity_id: "p-1".into(),
        };
        let intent = Intent::new("insert", key.clone(), &("euros", 17)).unwrap();
        assert_eq!(tcp.intend(&intent).await.unwrap().state, "open");
        assert_eq!(socket.intend(&intent).await.unwrap().intent_id, intent.id(), "a retry is no other one");
        let more: Vec<Intent> = (0..120).map(|n| Intent::new("insert", key.clone(), &("cents", n)).unwrap()).collect();
        for intent in &more {
            socket.intend(intent).await.unwrap();
        }
        let (mut pages, mut found) = (tcp.open_intents(), Vec::new());
        while let Some(page) = pages.next().await.unwrap() {
            found.extend(page);
        }
        assert_eq!((found.len(), &found[0].replay_key), (121, &key));
        assert_eq!(found[0].payload::<(String, u32)>().unwrap(), ("euros".into(), 17));
        assert!(found[1..].iter().map(|intent| intent.intent_id.as_str()).eq(more.iter().map(Intent::id)), "out of order");
        let resolve = || tcp.resolve(intent.id(), "success", Event::new("payment.insert").actor("service", "shop"));
        assert_eq!(resolve().await.unwrap().status, "resolved");
        assert_eq!(resolve().await.unwrap().status, "duplicate_accepted", "made anew, it is the same event");
        let Err(Error::Refused(problem)) = tcp.resolve(intent.id(), "failure", Event::new("x")).await else { panic!() };
        assert_eq!((problem.status, problem.reason.as_str()), (409, "intent_conflict"));
        let Err(Error::Refused(problem)) = over_tcp(&rig).intend(&intent).await else { panic!() };
        assert_eq!(problem.status, 401);
    });
}

#[test]
fn what_the_sidecar_limits_is_sent_again_when_it_says_so_singly_and_in_batches() {
    let rig = Rig::new(&format!("  limits: {{rate: {{total: 20, burst: 5}}}}\n{ON}"));
    let client = over_tcp(&rig);
    block(async {
        let begun = Instant::now();
        for _ in 0..10 {
            client.send(Event::new("a")).await.unwrap();
        }
        // Five at once, and five more at twenty a second.
        assert!(begun.elapsed() > Duration::from_millis(150), "{:?}", begun.elapsed());
        let mut events: Vec<Event> = (0..12).map(|number| Event::new("b").id(format!("b-{number}"))).collect();
        events[3] = events[3].clone().with("durationMs", "long");
        let results = client.send_all(events).await.unwrap();
        let refused: Vec<usize> =
            results.iter().enumerate().filter(|(_, result)| result.is_err()).map(|(index, _)| index).collect();
        assert_eq!(refused, [3]);
        assert_eq!(results[3].as_ref().unwrap_err().status, 422);
        assert_eq!(found(&client, Search::new().with("action", "b")).await.len(), 11);
    });
}

#[test]
fn a_sidecar_that_is_not_there_is_tried_until_the_time_is_up() {
    block(async {
        let client = Client::new("http://127.0.0.1:1").unwrap().give_up_after(Duration::from_millis(300));
        let Err(Error::GaveUp { tries, .. }) = client.send(Event::new("a")).await else { panic!() };
        assert!(tries > 1, "{tries}");
        assert!(client.send_all(vec![Event::new("a")]).await.is_err());
    });
    for bad in ["", "127.0.0.1:9600", "https://x:1", "http://x", "unix:"] {
        assert!(matches!(Client::new(bad), Err(Error::Address(_))), "{bad}");
    }
}

#[test]
fn pages_come_over_the_unix_socket_until_there_are_no_more() {
    let rig = Rig::new(ON);
    let client = Client::new(&format!("unix:{}", rig.socket.display())).unwrap();
    block(async {
        let events = (0..25).map(|number| Event::new("page.turned").metadata("number", number)).collect();
        assert!(client.send_all(events).await.unwrap().iter().all(Result::is_ok));
        let all = found(&client, Search::new().with("action", "page.turned").page_of(10)).await;
        let numbers: Vec<u64> = all.iter().map(|event| event["metadata"]["number"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (0..25).collect::<Vec<_>>());
        let Err(Error::Refused(problem)) = client.search(Search::new().with("colour", "red")).next().await else { panic!() };
        assert_eq!(problem.status, 400);
    });
}

#[test]
fn marked_tracing_events_become_audit_events_and_no_others() {
    let rig = Rig::new(ON);
    let client = over_tcp(&rig);
    block(async {
        let layer = AuditLayer::new(client.clone());
        let lost = layer.lost();
        let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
        tracing::warn!(target: "audit", action = "user.login", actor.id = "u-17", attempts = 3, "alice logged in");
        tracing::info!(action = "not marked", "of another target");
        tracing::info!(target: "audit", "without an action");
        let until = Instant::now() + Duration::from_secs(10);
        let all = loop {
            let all = found(&client, Search::new()).await;
            if !all.is_empty() || Instant::now() > until {
                break all;
            }
        };
        let [event] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!(
            (&event["action"], &event["actor"]["id"], &event["severity"]),
            (&"user.login".into(), &"u-17".into(), &"warning".into())
        );
        assert_eq!((&event["message"], &event["metadata"]["attempts"]), (&"alice logged in".into(), &3.into()));
        assert_eq!(lost.load(Ordering::Relaxed), 1);
    });
}

#[derive(Clone)]
struct Answers(u16);

impl Service<Request<()>> for Answers {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        std::future::ready(Ok(Response::builder().status(self.0).body("done".into()).unwrap()))
    }
}

#[test]
fn a_route_is_recorded_before_its_answer_goes_out_and_only_where_it_is_asked_for() {
    let rig = Rig::new(ON);
    let client = over_tcp(&rig);
    let describe = |request: &http::request::Parts| {
        let user = request.headers.get("x-user")?.to_str().ok()?;
        Some(Event::new(format!("{} {}", request.method, request.uri.path())).actor("user", user))
    };
    let request = |user: Option<&str>| {
        let request = Request::delete("http://shop/orders/7");
        user.map_or(Request::delete("http://shop/orders/7"), |user| request.header("x-user", user)).body(()).unwrap()
    };
    block(async {
        let layer = RecordLayer::new(client.clone(), describe);
        for (status, outcome) in [(204, "success"), (403, "denied"), (500, "failure")] {
            let answer = layer.layer(Answers(status)).call(request(Some(outcome))).await.unwrap();
            assert_eq!(answer.status(), status);
            let all = found(&client, Search::new().with("actor.id", outcome)).await;
            assert_eq!((all.len(), &all[0]["outcome"], &all[0]["action"]), (1, &outcome.into(), &"DELETE /orders/7".into()));
        }
        layer.layer(Answers(200)).call(request(None)).await.unwrap();
        assert_eq!(found(&client, Search::new()).await.len(), 3);
        let away = Client::new("http://127.0.0.1:1").unwrap().give_up_after(Duration::from_millis(100));
        let layer = RecordLayer::new(away, describe);
        assert_eq!(layer.layer(Answers(200)).call(request(Some("u"))).await.unwrap().status(), 200, "the route does not stop");
        assert_eq!(layer.unrecorded().load(Ordering::Relaxed), 1);
        assert_eq!(layer.required().layer(Answers(200)).call(request(Some("u"))).await.unwrap().status(), 503);
    });
}

#[test]
fn it_comes_back_when_the_sidecar_said_and_not_again_and_again_before() {
    let rig = Rig::new("  limits: {rate: {total: 1, burst: 1}}\n");
    let client = over_tcp(&rig);
    block(async {
        for _ in 0..3 {
            client.send(Event::new("a")).await.unwrap();
        }
    });
    let metrics = rig.get("/metrics").1;
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("steno_http_requests_total{code=\"429\"} "))
        .expect("refused at least once");
    // Two events had to wait a second each. Once or twice a wait is a little short of the bucket's own clock.
    assert!(line.parse::<u64>().unwrap() <= 4, "{line} tries");
}
