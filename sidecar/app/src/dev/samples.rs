//! Posts the sample events, and shows each answer on a line.
use std::{collections::BTreeMap, path::Path};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use steno_event::formats::{kubernetes, otlp};
use tokio::net::TcpStream;

use crate::printed::printed;

/// Ids of events that were acked as created.
pub(super) type Acked = Vec<String>;

/// How a sample file is sent.
struct Way {
    /// The end of the file's name.
    suffix: &'static str,
    path: &'static str,
    media: &'static str,
    /// Ids of its events, for an answer that names none.
    ids: fn(&str) -> Vec<String>,
}

const WAYS: &[Way] = &[
    Way { suffix: ".cloudevent.json", path: "/v1/events", media: "application/cloudevents+json", ids: |_| Vec::new() },
    Way { suffix: ".otlp.json", path: "/v1/logs", media: "application/json", ids: ids_of_logs },
    Way { suffix: ".k8s-audit.json", path: "/k8s/audit", media: "application/json", ids: ids_of_audit },
    Way { suffix: ".ndjson", path: "/v1/events/batch", media: "application/x-ndjson", ids: |_| Vec::new() },
    Way { suffix: ".json", path: "/v1/events", media: "application/json", ids: |_| Vec::new() },
];

fn ids_of_logs(text: &str) -> Vec<String> {
    let logs = otlp::json_request(text).unwrap_or_default();
    let id = |log: otlp::Log<'_>| Some(log.event.as_object()?.get("eventId")?.as_str()?.to_owned());
    logs.into_iter().flatten().filter_map(id).collect()
}

fn ids_of_audit(text: &str) -> Vec<String> {
    let items = kubernetes::items(text).unwrap_or_default();
    items.into_iter().filter_map(|item| Some(kubernetes::audit(item).ok()?.key)).collect()
}

/// Posts every `.json` and `.ndjson` file of a folder, in order of names.
pub(super) async fn post(address: &str, folder: &Path) -> anyhow::Result<Acked> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("the sample events in {} cannot be read", folder.display()))?;
    let mut files: Vec<_> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json" || extension == "ndjson"));
    files.sort();
    let mut acked = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).with_context(|| format!("{} cannot be read", file.display()))?;
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let Some(way) = WAYS.iter().find(|way| name.ends_with(way.suffix)) else { continue };
        let ids = (way.ids)(&text);
        let (status, body) = send(address, way.path, way.media, text).await?;
        let name = name.split('.').next().unwrap_or_default();
        println!("{:<26} {status}  {}", printed(name), printed(&summary(&body)));
        note_acked(&body, &mut acked);
        if status == 200 {
            acked.extend(ids);
        }
    }
    Ok(acked)
}

pub(crate) async fn send(address: &str, path: &str, media: &str, body: String) -> anyhow::Result<(u16, Value)> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::post(path).header("host", address).header("content-type", media).body(Full::new(Bytes::from(body)))?;
    let answer = sender.send_request(request).await?;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await?.to_bytes();
    Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
}

fn note_acked(body: &Value, acked: &mut Acked) {
    let items = body["results"].as_array().cloned().unwrap_or_else(|| vec![body.clone()]);
    let created = items.iter().filter(|item| item["status"] == "created").filter_map(|item| item["eventId"].as_str());
    acked.extend(created.map(str::to_owned));
}

fn summary(body: &Value) -> String {
    if let Some(items) = body["results"].as_array() {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for item in items {
            *counts.entry(format!("{} {}", item["code"], item["status"].as_str().unwrap_or_default())).or_default() += 1;
        }
        return counts.iter().map(|(what, count)| format!("{count} × {what}")).collect::<Vec<_>>().join(", ");
    }
    match (body["status"].as_str(), body["detail"].as_str()) {
        (Some("accepted"), _) => format!("accepted {}, rejected {}", body["taken"], body["rejected"]),
        (Some(status), _) => format!("{status} {}", body["eventId"].as_str().unwrap_or_default()),
        (None, Some(detail)) => format!("{}: {detail}", body["reason"].as_str().unwrap_or_default()),
        (None, None) => body["message"].as_str().unwrap_or("accepted").to_owned(),
    }
}
