//! The status port: `/healthz`, `/readyz`, `/metrics`, `/v1/stats`. No event data.
use std::sync::Arc;

use hyper::{Method, Request, body::Incoming, header};
use prometheus_client::registry::Registry;

use super::{Answer, json, problem};
use crate::{
    problem::{Problem, Reason},
    stats::Stats,
    telemetry::render,
};

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
        let known = ["/healthz", "/readyz", "/metrics", "/v1/stats"];
        let path = request.uri().path();
        if !known.contains(&path) {
            return problem(&Problem::new(Reason::NotFound, format!("Here are {}.", known.join(", "))), "-", None);
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let refused =
                Problem { allow: Some("GET, HEAD".into()), ..Problem::new(Reason::Method, format!("{path} takes GET.")) };
            return problem(&refused, "-", None);
        }
        match path {
            // Answering at all is the point: the listeners are bound.
            "/healthz" => json(200, b"{\"status\":\"ok\"}".to_vec()),
            "/readyz" => match self.stats.not_ready() {
                None => json(200, b"{\"status\":\"ready\"}".to_vec()),
                Some(reason) => problem(&Problem::new(Reason::Dependency, reason), "-", None),
            },
            "/metrics" => {
                self.stats.refresh();
                let mut answer = json(200, render(&self.registry).into_bytes());
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
                answer
            }
            _ => json(200, serde_json::to_vec_pretty(&self.stats.json()).unwrap_or_default()),
        }
    }
}
