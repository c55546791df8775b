//! The status port: `/healthz`, `/readyz`, `/metrics`, `/v1/stats`, and `POST /v1/dead/requeue` for those in the pod. No event data.
use std::sync::Arc;

use hyper::{Method, Request, body::Incoming, header};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use steno_deliver::Which;

use super::{Answer, guard, json as json_answer, listen::FromPod, problem};
use crate::{
    problem::{Problem, Reason},
    stats::Stats,
    telemetry::render,
};

/// What this port answers, for the description of all calls: path and operation, each with the port's own server.
pub(super) fn describe() -> Vec<(&'static str, Value)> {
    let problem = |what: &str| json!({"description": what, "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}});
    let well = |what: &str, media: &str, schema: Value| json!({"description": what, "content": {media: {"schema": schema}}});
    let status = || json!({"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}});
    let servers = json!([{"url": "http://127.0.0.1:9601"}]);
    let get = |id: &str, summary: &str, what: &str, answer: Value, more: Value| {
        let mut responses = json!({"200": answer, "400": problem("bad_request"), "403": problem("forbidden"), "405": problem("method_not_allowed")});
        if let (Some(responses), Value::Object(more)) = (responses.as_object_mut(), more) {
            responses.extend(more);
        }
        json!({"servers": servers, "get": {"tags": ["status"], "summary": summary, "description": what, "operationId": id, "responses": responses}})
    };
    let page = json!({"type": "string"});
    let requeued = json!({"type": "object", "required": ["status", "letters"], "properties": {"status": {"const": "requeued"}, "letters": {"type": "integer"}}});
    let query =
        |name: &str, schema: Value, what: &str| json!({"name": name, "in": "query", "schema": schema, "description": what});
    vec![
        (
            "/healthz",
            get(
                "healthz",
                "Whether the process answers",
                "For a liveness probe: 200 as long as the process answers.",
                well("it does", "application/json", status()),
                json!({}),
            ),
        ),
        (
            "/readyz",
            get(
                "readyz",
                "Whether events are taken",
                "For a readiness or startup probe.",
                well("they are", "application/json", status()),
                json!({"503": problem("dependency_failure: why not")}),
            ),
        ),
        (
            "/metrics",
            get(
                "metrics",
                "Metrics",
                "Metrics for Prometheus: docs/reference/metrics.md.",
                well("OpenMetrics", "application/openmetrics-text", page),
                json!({}),
            ),
        ),
        (
            "/v1/stats",
            get(
                "stats",
                "How things stand",
                "Health and its reasons, figures and recommendations.",
                well("figures", "application/json", json!({"type": "object", "required": ["health", "metrics"]})),
                json!({}),
            ),
        ),
        (
            REQUEUE,
            json!({"servers": servers, "post": {
                "tags": ["status"], "summary": "Have dead letters delivered again", "operationId": "requeue",
                "description": "From inside the pod only. Either all=true, or seq once or several times.",
                "parameters": [
                    query("all", json!({"const": "true"}), "All letters."),
                    query("seq", json!({"type": "array", "items": {"type": "integer", "minimum": 0}}), "Letters by sequence number."),
                    query("sink", json!({"type": "string"}), "Only those of this sink."),
                ],
                "responses": {
                    "202": well("they are on their way", "application/json", requeued), "400": problem("bad_request"),
                    "403": problem("forbidden"), "404": problem("not_found"), "405": problem("method_not_allowed"), "503": problem("dependency_failure"),
                },
            }}),
        ),
    ]
}

/// What is asked with GET.
const GETS: [&str; 4] = ["/healthz", "/readyz", "/metrics", "/v1/stats"];
/// Has dead letters delivered again.
const REQUEUE: &str = "/v1/dead/requeue";

/// Handles requests of the status listener.
#[derive(Clone)]
pub struct StatusPort {
    registry: Arc<Registry>,
    stats: Arc<Stats>,
}

impl StatusPort {
    /// A handler.
    pub fn new(registry: Arc<Registry>, stats: Arc<Stats>) -> Self {
        Self { registry, stats }
    }

    /// Answers a request.
    pub fn handle(&self, request: &Request<Incoming>) -> Answer {
        let path = request.uri().path();
        if let Err(refused) = guard::check_status(request) {
            return problem(&refused, "-", None);
        }
        if path == REQUEUE {
            return self.requeue(request).unwrap_or_else(|refused| problem(&refused, "-", None));
        }
        if !GETS.contains(&path) {
            return problem(&Problem::new(Reason::NotFound, format!("Here are {}.", GETS.join(", "))), "-", None);
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let refused =
                Problem { allow: Some("GET, HEAD".into()), ..Problem::new(Reason::Method, format!("{path} takes GET.")) };
            return problem(&refused, "-", None);
        }
        match path {
            // Answering at all is the point: the listeners are bound.
            "/healthz" => json_answer(200, b"{\"status\":\"ok\"}".to_vec()),
            "/readyz" => match self.stats.not_ready() {
                None => json_answer(200, b"{\"status\":\"ready\"}".to_vec()),
                Some(reason) => problem(&Problem::new(Reason::Dependency, reason), "-", None),
            },
            "/metrics" => {
                self.stats.refresh();
                let mut answer = json_answer(200, render(&self.registry).into_bytes());
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
                answer
            }
            _ => json_answer(200, serde_json::to_vec_pretty(&self.stats.json()).unwrap_or_default()),
        }
    }

    /// Has dead letters delivered again: `?all=true`, or `?seq=N` once or several times; with `&sink=NAME` those of one sink.
    fn requeue<B>(&self, request: &Request<B>) -> Result<Answer, Problem> {
        if *request.method() != Method::POST {
            return Err(Problem { allow: Some("POST".into()), ..Problem::new(Reason::Method, format!("{REQUEUE} takes POST.")) });
        }
        if request.extensions().get::<FromPod>().is_none() {
            let detail = "Dead letters are requeued from inside the pod only: use kubectl exec or kubectl port-forward.";
            return Err(Problem::new(Reason::Forbidden, detail));
        }
        let (which, sink) = asked(request.uri().query().unwrap_or_default()).map_err(|detail| {
            Problem::new(Reason::BadRequest, format!("{detail}; write ?all=true, or ?seq=N once or several times."))
        })?;
        let sinks = self.stats.sinks();
        if let Some(unknown) = sink.as_ref().filter(|asked| !sinks.contains(asked)) {
            let detail = format!("There is no sink {unknown:?}; there are {}.", sinks.join(", "));
            return Err(Problem::new(Reason::NotFound, detail));
        }
        let count = self.stats.requeue(&which, sink.as_deref()).map_err(|error| {
            Problem::later(Reason::Dependency, format!("dead/ cannot be written: {error}."), std::time::Duration::from_secs(5))
        })?;
        if let (0, Which::Seqs(seqs)) = (count, &which) {
            let seqs: Vec<String> = seqs.iter().map(ToString::to_string).collect();
            let detail = format!("There is no dead letter {}; `steno-sidecar dead list` shows them.", seqs.join(", "));
            return Err(Problem::new(Reason::NotFound, detail));
        }
        Ok(json_answer(202, json!({"status": "requeued", "letters": count}).to_string().into_bytes()))
    }
}

/// The letters that a query asks for.
fn asked(query: &str) -> Result<(Which, Option<String>), String> {
    let (mut all, mut seqs, mut sink) = (false, Vec::new(), None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("all", "true")) => all = true,
            Some(("seq", number)) => seqs.push(number.parse().map_err(|_| format!("seq={number} is not a sequence number"))?),
            Some(("sink", name)) => sink = Some(name.to_owned()),
            _ => return Err(format!("{pair} is not known")),
        }
    }
    match (all, seqs.is_empty()) {
        (true, true) => Ok((Which::All, sink)),
        (false, false) => Ok((Which::Seqs(seqs), sink)),
        _ => Err("name all letters or some".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_described_is_what_is_answered() {
        let described: Vec<&str> = describe().into_iter().map(|(path, _)| path).collect();
        assert_eq!(described, [&GETS[..], &[REQUEUE]].concat());
    }

    #[test]
    fn a_query_names_all_letters_or_some() {
        assert_eq!(asked("all=true"), Ok((Which::All, None)));
        assert_eq!(asked("seq=7&seq=9&sink=archive"), Ok((Which::Seqs(vec![7, 9]), Some("archive".into()))));
        for wrong in ["", "sink=archive", "seq=x", "all=true&seq=1", "every=1", "all=false"] {
            assert!(asked(wrong).is_err(), "{wrong}");
        }
    }
}
