//! The calls of the ingest listener: one table that requests are told apart by and that `docs/openapi.yaml` is made from.
use hyper::Method;
use serde_json::{Map, Value, json};
use steno_event::names::{CLIENT, Takes};
use steno_query::MEMBERS;

use super::cloud;
use crate::problem::{Problem, Reason};

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Single,
    Batch,
    Logs,
    Audit,
    List,
    Query,
    Event,
    Flush,
    Describe,
    IntentOpen,
    IntentResolve,
    IntentList,
    Intent,
}

/// A call.
pub(super) struct Route {
    pub(super) call: Call,
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    /// Media types of the body, and the schema of each.
    body: &'static [(&'static str, &'static str)],
    /// Statuses when it went well, and what each means.
    answers: &'static [(u16, &'static str)],
    /// Schema and media type of those answers.
    answer: (&'static str, &'static str),
    /// Why it may not go well.
    reasons: &'static [Reason],
}

use Reason::{
    BadRequest, BodyTooLarge, CircuitOpen, Conflict, Dependency, EventTooLarge, Forbidden, HeadersTooLarge, IntentConflict,
    IntentTooLarge, IntentsOff, Limited, MediaType, Method as NotAllowed, NotDelivered, NotEvent, NotFound, NotIntent, NotJson,
    Overloaded, QueryOff, ShuttingDown, SpoolFull, Timeout, TooManyIntents, TooManyItems, Unauthorized, UriTooLong,
};

/// Of any request.
const ANY: &[Reason] = &[Forbidden, NotAllowed, Unauthorized, UriTooLong, HeadersTooLarge];

/// Paths with a name in them come last: what is written out goes before.
const ROUTES: &[Route] = &[
    Route {
        call: Call::Single,
        method: "POST",
        path: "/v1/events",
        summary: "Take an event. It is on disk when the answer is 201.",
        body: &[
            ("application/json", "Event"),
            (cloud::STRUCTURED, "CloudEvent"),
            (cloud::BATCH, "CloudEvents"),
            ("*/*", "CloudEventData"),
        ],
        answers: &[
            (201, "created: on disk"),
            (200, "duplicate_accepted: it was there; or the results of a batch"),
            (202, "dropped: whenFull is DropNewest, and the spool is full"),
            (207, "results of a batch that differ"),
        ],
        answer: ("Taken", "application/json"),
        reasons: &[
            NotJson,
            BadRequest,
            Timeout,
            Conflict,
            BodyTooLarge,
            Overloaded,
            EventTooLarge,
            MediaType,
            NotEvent,
            TooManyItems,
            Limited,
            CircuitOpen,
            Dependency,
            SpoolFull,
            ShuttingDown,
        ],
    },
    Route {
        call: Call::Batch,
        method: "POST",
        path: "/v1/events/batch",
        summary: "Take events. Items are independent; there is a result for each, in order.",
        body: &[
            ("application/json", "Events"),
            ("application/x-ndjson", "Lines"),
            ("application/ndjson", "Lines"),
            ("application/jsonl", "Lines"),
            (cloud::BATCH, "CloudEvents"),
        ],
        answers: &[(200, "all were taken"), (207, "items differ")],
        answer: ("Results", "application/json"),
        reasons: &[
            NotJson,
            BadRequest,
            Timeout,
            BodyTooLarge,
            Overloaded,
            MediaType,
            TooManyItems,
            Limited,
            CircuitOpen,
            Dependency,
            SpoolFull,
            ShuttingDown,
        ],
    },
    Route {
        call: Call::Logs,
        method: "POST",
        path: "/v1/logs",
        summary: "Take OpenTelemetry log records (OTLP/HTTP). Errors are a google.rpc.Status.",
        body: &[("application/x-protobuf", "Otlp"), ("application/json", "Otlp")],
        answers: &[(200, "taken; partialSuccess tells how many never will be")],
        answer: ("Otlp", "application/json"),
        reasons: &[
            BadRequest,
            Timeout,
            BodyTooLarge,
            Overloaded,
            MediaType,
            Limited,
            CircuitOpen,
            Dependency,
            SpoolFull,
            ShuttingDown,
        ],
    },
    Route {
        call: Call::Audit,
        method: "POST",
        path: "/k8s/audit",
        summary: "Take audit events of a Kubernetes API server. 200 once all that can be kept is on disk.",
        body: &[("application/json", "EventList")],
        answers: &[(200, "taken; what could not be read left a Rejected record")],
        answer: ("Accepted", "application/json"),
        reasons: &[
            NotJson,
            BadRequest,
            Timeout,
            BodyTooLarge,
            Overloaded,
            MediaType,
            CircuitOpen,
            Dependency,
            SpoolFull,
            ShuttingDown,
        ],
    },
    Route {
        call: Call::List,
        method: "GET",
        path: "/v1/events",
        summary: "Search the local journal. A parameter may stand several times: any of its values.",
        body: &[],
        answers: &[(200, "a page")],
        answer: ("Page", "application/json"),
        reasons: &[BadRequest, Unauthorized, QueryOff, Overloaded, Dependency],
    },
    Route {
        call: Call::Query,
        method: "POST",
        path: "/v1/events/query",
        summary: "Search the local journal, the question in the body.",
        body: &[("application/json", "Question")],
        answers: &[(200, "a page")],
        answer: ("Page", "application/json"),
        reasons: &[NotJson, BadRequest, Unauthorized, QueryOff, Timeout, BodyTooLarge, Overloaded, MediaType, Dependency],
    },
    Route {
        call: Call::Flush,
        method: "POST",
        path: "/v1/flush",
        summary: "Wait until all that was on disk at the call is delivered.",
        body: &[],
        answers: &[(200, "delivered")],
        answer: ("Flushed", "application/json"),
        reasons: &[BadRequest, NotDelivered],
    },
    Route {
        call: Call::Describe,
        method: "GET",
        path: "/openapi.yaml",
        summary: "This description.",
        body: &[],
        answers: &[(200, "OpenAPI 3.1")],
        answer: ("Description", "application/yaml"),
        reasons: &[],
    },
    Route {
        call: Call::Event,
        method: "GET",
        path: "/v1/events/{id}",
        summary: "One event by its id, as it was sent, and its tenant.",
        body: &[],
        answers: &[(200, "the record")],
        answer: ("Record", "application/json"),
        reasons: &[BadRequest, Unauthorized, QueryOff, NotFound, Dependency],
    },
    Route {
        call: Call::IntentOpen,
        method: "POST",
        path: "/v1/intents",
        summary: "Write an intent: what is about to be written. It is on disk when the answer is 201. Again with the same intentId is safe.",
        body: &[("application/json", "Intent")],
        answers: &[
            (201, "created: on disk"),
            (200, "duplicate_accepted: it is open already; resolved or expired: the same intent has ended"),
        ],
        answer: ("IntentTaken", "application/json"),
        reasons: &[
            NotJson,
            BadRequest,
            IntentsOff,
            Timeout,
            IntentConflict,
            BodyTooLarge,
            Overloaded,
            IntentTooLarge,
            MediaType,
            NotIntent,
            TooManyIntents,
            Dependency,
            SpoolFull,
            ShuttingDown,
        ],
    },
    Route {
        call: Call::IntentList,
        method: "GET",
        path: "/v1/intents",
        summary: "Intents, those that are open by default, in the order in which they came: what to replay after a crash.",
        body: &[],
        answers: &[(200, "a page")],
        answer: ("Intents", "application/json"),
        reasons: &[BadRequest, IntentsOff, Dependency],
    },
    Route {
        call: Call::IntentResolve,
        method: "POST",
        path: "/v1/intents/{id}/resolve",
        summary: "End an intent: how its write went, and its audit event. Event and end are on disk when this is answered. Again is safe.",
        body: &[("application/json", "Resolution")],
        answers: &[(
            200,
            "resolved, or it was before; late: it had expired, and its event was taken all the same. An hour after it ended, and after a restart, it may be 404",
        )],
        answer: ("Resolved", "application/json"),
        reasons: &[
            NotJson,
            BadRequest,
            IntentsOff,
            NotFound,
            Timeout,
            IntentConflict,
            Conflict,
            BodyTooLarge,
            Overloaded,
            EventTooLarge,
            MediaType,
            NotIntent,
            NotEvent,
            Limited,
            CircuitOpen,
            Dependency,
            SpoolFull,
            ShuttingDown,
        ],
    },
    Route {
        call: Call::Intent,
        method: "GET",
        path: "/v1/intents/{id}",
        summary: "One intent; its payload while it is open.",
        body: &[],
        answers: &[(200, "the intent")],
        answer: ("IntentShown", "application/json"),
        reasons: &[BadRequest, IntentsOff, NotFound, NotIntent, Dependency],
    },
];

/// The path of the table that a path is one of. Of one that is written out and one with a name in it, the first counts.
pub(super) fn template(path: &str) -> Option<&'static str> {
    ROUTES.iter().find(|route| route.id(path).is_some()).map(|route| route.path)
}

/// The call that a request asks for, and the id in its path.
pub(super) fn find<'p>(method: &Method, path: &'p str) -> Result<(&'static Route, &'p str), Problem> {
    // HEAD is GET without its body, which the server leaves out by itself.
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    let Some(template) = template(path) else {
        return Err(Problem::new(
            NotFound,
            "Events go to POST /v1/events or /v1/events/batch, OTLP to /v1/logs, Kubernetes audit to /k8s/audit; health and stats are on the status port.",
        ));
    };
    let here = || ROUTES.iter().filter(|route| route.path == template);
    if let Some(route) = here().find(|route| route.method == method.as_str()) {
        return Ok((route, route.id(path).unwrap_or_default()));
    }
    let allow: Vec<&str> = here().map(|route| route.method).collect();
    let allow = allow.join(", ");
    let detail = format!("{template} takes {allow}.");
    Err(Problem { allow: Some(allow), ..Problem::new(NotAllowed, detail) })
}

/// An id as it stands in a path, decoded.
pub(super) fn decoded(id: &str) -> String {
    percent_encoding::percent_decode_str(id).decode_utf8_lossy().into_owned()
}

// === impl Route ===

impl Route {
    /// What stands in a path for the name in this route's; empty where it has none.
    fn id<'p>(&self, path: &'p str) -> Option<&'p str> {
        match self.path.split_once("{id}") {
            None => (path == self.path).then_some(""),
            Some((before, after)) => path.strip_prefix(before)?.strip_suffix(after).filter(|id| !id.is_empty()),
        }
    }

    /// Whether its description names this status.
    pub(super) fn documents(&self, status: u16) -> bool {
        let well = self.answers.iter().any(|(known, _)| *known == status);
        well || ANY.iter().chain(self.reasons).any(|reason| reason.status() == status)
    }

    fn describe(&self) -> Value {
        let mut responses = Map::new();
        let (schema, media) = self.answer;
        for (status, meaning) in self.answers {
            // Several events in one request of CloudEvents have several results.
            let results = self.call == Call::Single && matches!(status, 200 | 207);
            let schema = if results { json!({"oneOf": [reference(schema), reference("Results")]}) } else { reference(schema) };
            responses.insert(status.to_string(), json!({"description": meaning, "content": {media: {"schema": schema}}}));
        }
        for reason in ANY.iter().chain(self.reasons) {
            let status = reason.status();
            let all = ANY.iter().chain(self.reasons).filter(|other| other.status() == status);
            let words: Vec<&str> = all.map(|reason| reason.word()).collect();
            let (media, schema) = if self.call == Call::Logs && !ANY.contains(reason) {
                ("application/json", "Status")
            } else {
                ("application/problem+json", "Problem")
            };
            let content = if *reason == HeadersTooLarge { json!({}) } else { json!({media: {"schema": reference(schema)}}) };
            let mut response = json!({"description": words.join(", "), "content": content});
            if matches!(status, 429 | 503)
                && let Some(response) = response.as_object_mut()
            {
                let after = json!({"description": "Seconds until another try makes sense.", "schema": {"type": "integer"}});
                response.insert("headers".into(), json!({"Retry-After": after}));
            }
            responses.insert(status.to_string(), response);
        }
        let first = self.summary.split_once(". ").map_or(self.summary, |(first, _)| first).trim_end_matches('.');
        let mut described = json!({
            "tags": [self.tag()], "summary": first, "description": self.summary,
            "operationId": format!("{:?}", self.call).to_lowercase(), "responses": responses,
        });
        let Some(members) = described.as_object_mut() else { return described };
        let parameters = self.parameters();
        if !parameters.is_empty() {
            members.insert("parameters".into(), parameters.into());
        }
        if !self.body.is_empty() {
            let content: Map<String, Value> =
                self.body.iter().map(|(media, schema)| ((*media).to_owned(), content(schema))).collect();
            members.insert("requestBody".into(), json!({"required": true, "content": content}));
        }
        let of_intents = matches!(self.call, Call::IntentOpen | Call::IntentResolve | Call::IntentList | Call::Intent);
        if of_intents || matches!(self.call, Call::List | Call::Query | Call::Event) {
            members.insert("security".into(), json!([{"token": []}, {}]));
        }
        described
    }

    fn tag(&self) -> &'static str {
        match self.call {
            Call::Single | Call::Batch | Call::Flush => "events",
            Call::Logs | Call::Audit => "formats of others",
            Call::List | Call::Query | Call::Event => "search",
            Call::IntentOpen | Call::IntentResolve | Call::IntentList | Call::Intent => "write intents",
            Call::Describe => "status",
        }
    }

    fn parameters(&self) -> Vec<Value> {
        let text = || json!({"type": "string"});
        let query =
            |name: &str, schema: Value, what: &str| json!({"name": name, "in": "query", "schema": schema, "description": what});
        match self.call {
            Call::Single | Call::Batch => vec![json!({
                "name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "minLength": 1, "maxLength": 256},
                "description": "Stands for a missing eventId; in a batch with /<index> behind it.",
            })],
            Call::Flush => vec![query(
                "timeoutMs",
                json!({"type": "integer", "minimum": 1, "maximum": 300_000, "default": 10_000}),
                "How long to wait.",
            )],
            Call::Event => vec![
                json!({"name": "id", "in": "path", "required": true, "schema": text(), "description": "The event's id, percent-encoded."}),
                query("tenantId", text(), "Its tenant; the policy's where it is not said."),
            ],
            Call::List => question().into_iter().map(|(name, schema, what)| query(name, schema, what)).collect(),
            Call::IntentList => vec![
                query(
                    "state",
                    json!({"enum": ["open", "resolved", "expired"], "default": "open"}),
                    "Which; ended ones are known for a while only.",
                ),
                query(
                    "limit",
                    json!({"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}),
                    "Most intents of a page; a page also ends at 4 MiB.",
                ),
                query("cursor", text(), "next of the page before."),
            ],
            Call::IntentResolve | Call::Intent => {
                vec![json!({"name": "id", "in": "path", "required": true, "schema": text(), "description": "The intent's id."})]
            }
            Call::Logs | Call::Audit | Call::Query | Call::Describe | Call::IntentOpen => Vec::new(),
        }
    }
}

/// Parameters of a search.
fn question() -> Vec<(&'static str, Value, &'static str)> {
    let any = json!({"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]});
    let mut all: Vec<_> =
        MEMBERS.iter().map(|member| (*member, any.clone(), "The member is equal to this, or to one of these.")).collect();
    let time = json!({"type": "string", "format": "date-time"});
    all.push(("from", time.clone(), "occurredAt is at or after."));
    all.push(("to", time, "occurredAt is before."));
    all.push(("order", json!({"enum": ["newest", "oldest"], "default": "newest"}), "Which comes first."));
    let limit = json!({"type": "integer", "minimum": 1, "maximum": steno_query::MOST_RECORDS, "default": 100});
    all.push(("limit", limit, "Most records of a page; a page also ends at 4 MiB."));
    all.push(("cursor", json!({"type": "string"}), "next of the page before."));
    all
}

/// What the calls are about.
const TAGS: &[(&str, &str)] = &[
    ("events", "Events in Steno's own words, and CloudEvents."),
    ("formats of others", "OpenTelemetry log records, and the audit webhook of a Kubernetes API server."),
    ("search", "A look back into the local journal, where the policy allows it."),
    ("write intents", "What is about to be written, so that no write goes without its event."),
    ("status", "Health, metrics and figures, on the status port; no event data."),
];

/// A body of a schema, with an example where there is one that says something.
fn content(schema: &str) -> Value {
    let mut content = json!({"schema": reference(schema)});
    let event = json!({"eventId": "7c1e3c1a-1", "action": "order.refund", "actor": {"id": "u-17"}, "resource": {"type": "order", "id": "o-4711"}, "outcome": "success", "severity": "notice", "metadata": {"amount": 1250}});
    let cloud = json!({"specversion": "1.0", "id": "o-4711-refund", "source": "/shop", "type": "order.refund", "subject": "o-4711", "data": {"amount": 1250}});
    let example = match schema {
        "Event" => event,
        "Events" => json!([event]),
        "Lines" => json!("{\"action\":\"order.refund\",\"eventId\":\"1\"}\n{\"action\":\"order.close\",\"eventId\":\"2\"}\n"),
        "CloudEvent" => cloud,
        "CloudEvents" => json!([cloud]),
        "EventList" => {
            json!({"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "items": [{"auditID": "5f0e7a1c", "stage": "ResponseComplete", "verb": "get", "user": {"username": "alice"}}]})
        }
        "Question" => json!({"actor.id": "u-17", "from": "2026-01-01T00:00:00Z", "limit": 20}),
        "Intent" => {
            json!({"operation": "update", "dtoType": "Order", "entityId": "o-4711", "payload": {"state": "refunded"}, "replayKey": {"env": "prod", "slug": "shop", "version": "1", "dtoType": "Order", "entityId": "o-4711"}})
        }
        "Resolution" => json!({"outcome": "success", "event": {"actor": {"id": "u-17"}}}),
        _ => return content,
    };
    if let Some(members) = content.as_object_mut() {
        members.insert("example".into(), example);
    }
    content
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

/// What a member of an event takes.
fn member(takes: Takes) -> Value {
    match takes {
        Takes::Word(most) => json!({"type": "string", "minLength": 1, "maxLength": most}),
        Takes::Text => json!({"type": "string"}),
        Takes::Time => json!({"oneOf": [{"type": "string", "format": "date-time"}, {"type": "number"}]}),
        Takes::Severity => {
            json!({"anyOf": [{"enum": ["debug", "info", "notice", "warning", "error", "critical"]}, {"type": "string"}, {"type": "number"}], "description": "One of these, or a level of a logging library that means one."})
        }
        Takes::Millis => json!({"type": "number", "minimum": 0}),
        Takes::Object => json!({"type": "object"}),
        Takes::Members(known) => {
            let members: Map<String, Value> = known.iter().map(|(name, takes)| ((*name).to_owned(), member(*takes))).collect();
            json!({"type": "object", "properties": members})
        }
        Takes::Anything => json!({}),
    }
}

fn schemas() -> Value {
    let word = |most: u64| json!({"type": "string", "minLength": 1, "maxLength": most});
    let event: Map<String, Value> = CLIENT.iter().map(|(name, takes)| ((*name).to_owned(), member(*takes))).collect();
    let asked: Map<String, Value> = question().into_iter().map(|(name, schema, _)| (name.to_owned(), schema)).collect();
    let words: Vec<&str> = Reason::ALL.iter().map(|reason| reason.word()).collect();
    json!({
        "Event": {"type": "object", "required": ["action"], "properties": event, "description": "Other members go to metadata; other spellings are mapped (docs/reference/events.md)."},
        "Events": {"type": "array", "items": reference("Event")},
        "Lines": {"type": "string", "description": "One event a line."},
        "CloudEvent": {"type": "object", "required": ["specversion", "id", "source", "type"], "description": "CloudEvents 1.0, structured mode (docs/reference/formats.md)."},
        "CloudEvents": {"type": "array", "items": reference("CloudEvent")},
        "CloudEventData": {"description": "CloudEvents 1.0, binary mode: the attributes are ce- headers."},
        "Otlp": {"description": "ExportLogsServiceRequest and ExportLogsServiceResponse of OTLP 1.x."},
        "EventList": {"type": "object", "required": ["items"], "properties": {"items": {"type": "array", "items": {"type": "object", "description": "An Event. What is none leaves a Rejected record."}}}, "description": "An EventList of audit.k8s.io/v1."},
        "Question": {"type": "object", "properties": asked, "additionalProperties": false},
        "Taken": {"type": "object", "required": ["status", "code", "eventId"], "properties": {
            "status": {"enum": ["created", "duplicate_accepted", "dropped"]}, "code": {"type": "integer"}, "eventId": {"type": "string"},
            "delivery": {"enum": ["delivered", "spooled", "dead_lettered", "lost"], "description": "Where the answer waited for it."},
            "compared": {"const": false, "description": "The stored payload is gone, so that equality could not be checked."},
        }},
        "Results": {"type": "object", "required": ["results"], "properties": {"results": {"type": "array", "items": {"anyOf": [reference("Taken"), {"type": "object", "required": ["status", "code", "title", "detail"]}]}}}},
        "Accepted": {"type": "object", "required": ["status", "taken", "rejected"], "properties": {"status": {"const": "accepted"}, "taken": {"type": "integer"}, "rejected": {"type": "integer"}}},
        "Flushed": {"type": "object", "required": ["status", "position"], "properties": {"status": {"const": "flushed"}, "position": {"type": "integer"},
            "deadLettered": {"type": "integer", "description": "How many of these records became dead letters meanwhile."},
            "lost": {"type": "integer", "description": "How many of these records were left out or could not be read."}}},
        "Record": {"type": "object", "description": "A record as it is on the topic: docs/reference/record.schema.json."},
        "Page": {"type": "object", "required": ["events", "next"], "properties": {"events": {"type": "array", "items": reference("Record")}, "next": {"type": ["string", "null"]}}},
        "ReplayKey": {"type": "object", "required": ["env", "slug", "version", "dtoType", "entityId"], "additionalProperties": false,
            "description": "The application's own label of the write; several intents may share one.", "properties": {
            "env": word(128), "slug": word(128), "version": word(128), "dtoType": word(256), "entityId": word(1024),
        }},
        "Intent": {"type": "object", "required": ["operation", "dtoType", "entityId", "payload", "replayKey"], "additionalProperties": false, "properties": {
            "intentId": {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$", "description": "Made by the sidecar where it is missing; with one of your own a retry is recognised."},
            "operation": word(64), "dtoType": word(256), "entityId": word(1024),
            "payload": {"description": "Any JSON; given back byte for byte."}, "replayKey": reference("ReplayKey"),
        }},
        "IntentTaken": {"type": "object", "required": ["status", "code", "intentId", "state"], "properties": {
            "status": {"enum": ["created", "duplicate_accepted", "resolved", "expired"]}, "code": {"type": "integer"}, "intentId": {"type": "string"},
            "state": {"enum": ["open", "resolved", "expired", "closed"]},
        }},
        "IntentShown": {"type": "object", "required": ["intentId", "state", "createdAt"], "properties": {
            "intentId": {"type": "string"}, "state": {"enum": ["open", "resolved", "expired"]},
            "createdAt": {"type": "string", "format": "date-time"}, "closedAt": {"type": "string", "format": "date-time"},
            "outcome": {"type": "string"}, "eventId": {"type": "string"},
            "operation": {"type": "string"}, "dtoType": {"type": "string"}, "entityId": {"type": "string"}, "payload": {}, "replayKey": reference("ReplayKey"),
        }},
        "Intents": {"type": "object", "required": ["intents", "next"], "properties": {"intents": {"type": "array", "items": reference("IntentShown")}, "next": {"type": ["string", "null"]}}},
        "Resolution": {"type": "object", "required": ["outcome"], "additionalProperties": false, "properties": {
            "outcome": {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,64}$"},
            "event": {"type": "object", "description": "An Event. action, resource and outcome are the intent's where they are missing, and eventId is intent-<intentId>."},
        }},
        "Resolved": {"type": "object", "required": ["status", "code", "intentId", "state", "eventId", "event"], "properties": {
            "status": {"enum": ["resolved", "duplicate_accepted", "late"]}, "code": {"type": "integer"}, "intentId": {"type": "string"},
            "state": {"enum": ["resolved", "expired"]}, "eventId": {"type": "string"}, "event": {"enum": ["created", "duplicate_accepted", "conflict"], "description": "conflict: an earlier try had its event taken, with other words; it stays."},
        }},
        "Description": {"type": "string"},
        "Status": {"type": "object", "required": ["code", "message"], "properties": {"code": {"type": "integer"}, "message": {"type": "string"}}},
        "Problem": {"type": "object", "required": ["type", "title", "status", "reason", "detail", "requestId"], "description": "RFC 9457.", "properties": {
            "type": {"type": "string"}, "title": {"type": "string"}, "status": {"type": "integer"}, "reason": {"enum": words},
            "detail": {"type": "string"}, "requestId": {"type": "string"}, "retryAfterMs": {"type": "integer"},
        }},
    })
}

/// The description, OpenAPI 3.1.
pub(super) fn document() -> String {
    let mut paths: Map<String, Value> = Map::new();
    for route in ROUTES {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        if let Some(path) = path.as_object_mut() {
            path.insert(route.method.to_lowercase(), route.describe());
        }
    }
    for (path, described) in super::status::describe() {
        paths.insert(path.into(), described);
    }
    let tags: Vec<Value> = TAGS.iter().map(|(name, what)| json!({"name": name, "description": what})).collect();
    let described = json!({
        "openapi": "3.1.0",
        "info": {"title": "Steno sidecar", "version": "1", "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "contact": {"name": "Steno", "url": env!("CARGO_PKG_REPOSITORY")},
            "description": "Audit events, durable before the answer. HTTP/1.1 and HTTP/2 on 127.0.0.1:9600. It is always safe to send an event again with the same eventId."},
        "servers": [{"url": "http://127.0.0.1:9600"}],
        "tags": tags,
        "paths": paths,
        "components": {"schemas": schemas(), "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "Where query.tokenSecretRef or intents.tokenSecretRef is set."}}},
    });
    serde_yaml::to_string(&described).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_openapi_description_is_what_requests_are_told_apart_by() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.yaml");
        let document = format!("# Generated by `make generate`; do not edit.\n{}", super::document());
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, &document).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap_or_default(), document, "run `make generate`");
        let read: Value = serde_yaml::from_str(&document).unwrap();
        for (template, methods) in read["paths"].as_object().unwrap() {
            if !methods["servers"].is_null() {
                // The status port's own: its tests are in status.rs.
                continue;
            }
            let path = template.replace("{id}", "some-id");
            for (method, described) in methods.as_object().unwrap() {
                let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
                let (route, id) = find(&method, &path).unwrap();
                assert_eq!((route.path, id.is_empty()), (template.as_str(), !template.contains('{')));
                for status in described["responses"].as_object().unwrap().keys() {
                    assert!(route.documents(status.parse().unwrap()), "{template} {status}");
                }
            }
            let refused = find(&Method::PATCH, &path).err().unwrap();
            assert_eq!(refused.allow.unwrap().split(", ").count(), methods.as_object().unwrap().len());
        }
        // Every reference leads somewhere.
        for name in document.split("#/components/schemas/").skip(1).map(|rest| rest.split(['\'', '\n']).next().unwrap()) {
            assert!(!read["components"]["schemas"][name].is_null(), "{name}");
        }
    }
}
