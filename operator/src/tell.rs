//! Events (`events.k8s.io/v1`) about pods and their owners. They are written behind the back of whoever tells: an admission never waits for one.
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client, Resource as _,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use serde_json::Value;
use steno_crds::AuditPolicyObject;
use tokio::sync::mpsc;

/// Events that wait to be written; beyond that they are dropped, and logged.
const WAITING: usize = 1024;
/// Longest note that the API takes, in bytes, with room for the dots.
const NOTE: usize = 1000;

/// Where Events are told.
#[derive(Clone)]
pub struct Teller {
    send: mpsc::Sender<(Event, ObjectReference)>,
}

impl Teller {
    /// Begins to write, as `instance`.
    pub fn start(client: Client, instance: String) -> Self {
        let (send, mut receive) = mpsc::channel::<(Event, ObjectReference)>(WAITING);
        let recorder = Recorder::new(client, Reporter { controller: "steno-operator".into(), instance: Some(instance) });
        tokio::spawn(async move {
            while let Some((event, about)) = receive.recv().await {
                if let Err(error) = recorder.publish(&event, &about).await {
                    tracing::warn!(%error, reason = event.reason, "an Event could not be written");
                }
            }
        });
        Self { send }
    }

    /// Tells nobody, for measurements.
    pub fn to_nobody() -> Self {
        let (send, mut receive) = mpsc::channel(WAITING);
        tokio::spawn(async move { while receive.recv().await.is_some() {} });
        Self { send }
    }

    /// Tells something about an object; what is grave is a warning.
    pub fn tell(&self, about: ObjectReference, is_grave: bool, reason: &str, note: &str) {
        let mut note = note.to_owned();
        if note.len() > NOTE {
            let end = (0..=NOTE).rev().find(|end| note.is_char_boundary(*end)).unwrap_or_default();
            note.truncate(end);
            note.push('…');
        }
        let event = Event {
            type_: if is_grave { EventType::Warning } else { EventType::Normal },
            reason: reason.into(),
            note: Some(note.clone()),
            // Events that differ in this are not folded into one: what a note begins with is its reason in one word.
            action: note.split(':').next().filter(|word| !word.contains(' ')).unwrap_or("Inject").into(),
            secondary: None,
        };
        if self.send.try_send((event, about)).is_err() {
            tracing::warn!(reason, "an Event was dropped: too many wait");
        }
    }
}

/// The controller of a pod that is being made: what an Event about the pod is told of, since the pod is not there yet.
pub fn controller_of(pod: &Value, namespace: &str) -> Option<ObjectReference> {
    let owners = pod.pointer("/metadata/ownerReferences")?.as_array()?;
    let owner = owners.iter().find(|owner| owner.get("controller") == Some(&Value::Bool(true)))?;
    let text = |name: &str| owner.get(name).and_then(Value::as_str).map(str::to_owned);
    Some(ObjectReference {
        api_version: text("apiVersion"),
        kind: text("kind"),
        name: text("name"),
        uid: text("uid"),
        namespace: Some(namespace.to_owned()),
        ..ObjectReference::default()
    })
}

/// A policy.
pub fn policy(object: &AuditPolicyObject) -> ObjectReference {
    object.object_ref(&())
}

/// A pod that is there.
pub fn pod(namespace: &str, name: &str, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: Some(name.into()),
        uid: Some(uid.into()),
        namespace: Some(namespace.into()),
        ..ObjectReference::default()
    }
}
