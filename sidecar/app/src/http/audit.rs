//! `POST /k8s/audit`: the audit webhook of a Kubernetes API server.
//!
//! The API server tries a batch five times, whatever the error, and then loses all of it. So one item never spoils the others: 200 once all that can be
//! kept is on disk, and an item that cannot be read leaves a `Rejected` record. No rate bounds it.
use hyper::{Request, body::Incoming};
use serde_json::json;
use steno_chain::{Kind, Note};
use steno_commit::Failure;
use steno_event::{
    formats::kubernetes::{self, Unreadable},
    hex, identity,
    json::Json,
};

use super::{
    body,
    ingest::{Done, Ingest},
    json as json_answer,
};
use crate::{
    intake::Sent,
    policy::Compiled,
    problem::{Problem, Reason},
};

/// Largest body, whatever `limits.maxBodyBytes` says: the API server's own bound for a batch is a little less.
const BODY: usize = 16 << 20;
/// Items that go to the loop at once: others get their turn in between.
const PIECE: usize = 500;

/// Items of a request that are rejected with a record each.
const NAMED: u64 = 100;

/// What became of a request's items.
#[derive(Default)]
struct Counts {
    taken: u64,
    rejected: u64,
}

/// The policy drops what comes while the spool is full; the API server can keep it a while.
fn dropped() -> Problem {
    Problem::later(Reason::SpoolFull, "The spool is full; it empties as events are delivered.", std::time::Duration::from_secs(1))
}

// === impl Ingest ===

impl Ingest {
    pub(super) async fn kubernetes_audit(&self, compiled: &Compiled, request: Request<Incoming>) -> Result<Done, Problem> {
        self.intake.check_open(compiled)?;
        match body::media_type(request.headers()).as_deref() {
            Some("application/json") => {}
            _ => return Err(Problem::new(Reason::MediaType, "An audit EventList is application/json.")),
        }
        // A client of the API server chose part of these bytes: what is no UTF-8 becomes U+FFFD and spoils nothing.
        let (text, _, _claim) = body::read_lossy(request, compiled.max_body.max(BODY), compiled.request_timeout).await?;
        let unreadable = |fault: &str| Unreadable { fault: fault.into(), audit_id: None, stage: None };
        let Some(items) = kubernetes::items(&text) else {
            self.intake.metrics.quarantined.inc();
            self.reject(&text, &unreadable("the body is no EventList")).await?;
            return Err(Problem::new(Reason::NotJson, "The body is no EventList of audit.k8s.io/v1."));
        };
        if items.len() > kubernetes::MOST_ITEMS {
            self.intake.metrics.quarantined.inc();
            self.reject(&text, &unreadable("the list has too many items")).await?;
            let detail = format!("The list has more than {} items; send less at a time.", kubernetes::MOST_ITEMS);
            return Err(Problem::new(Reason::BodyTooLarge, detail));
        }
        let mut counts = Counts::default();
        for piece in items.chunks(PIECE) {
            self.take_items(compiled, piece, &mut counts).await?;
        }
        if counts.rejected > NAMED {
            let more = format!("{} more items of the same request could not be read", counts.rejected - NAMED);
            self.reject("", &unreadable(&more)).await?;
        }
        let answer = json!({"status": "accepted", "taken": counts.taken, "rejected": counts.rejected});
        Ok(json_answer(200, answer.to_string().into_bytes()).into())
    }

    /// Leaves a record of an item, as long as they are few; of many, one record says how many more there were.
    async fn reject_item(&self, text: &str, unreadable: &Unreadable, counts: &mut Counts) -> Result<(), Problem> {
        if counts.rejected < NAMED {
            self.reject(text, unreadable).await?;
        }
        counts.rejected += 1;
        self.intake.metrics.quarantined.inc();
        Ok(())
    }

    async fn take_items(&self, compiled: &Compiled, items: &[&str], counts: &mut Counts) -> Result<(), Problem> {
        let mut texts = Vec::with_capacity(items.len());
        let mut sent = Vec::with_capacity(items.len());
        for text in items {
            match kubernetes::audit(text) {
                Ok(audit) => {
                    sent.push(Ok(Sent::Made { tree: audit.event, converted: Vec::new(), deaf: true, ends: false }));
                    texts.push((*text, audit.key));
                }
                Err(unreadable) => self.reject_item(text, &unreadable, counts).await?,
            }
        }
        let results = self.intake.take(compiled, sent, None, false).await;
        for ((text, key), result) in texts.into_iter().zip(results) {
            let result = match result {
                Err(problem) if problem.reason == Reason::Conflict => self.take_again(compiled, text, &key).await,
                // Nobody knows whether it is the same: it is kept as one of its own rather than not at all.
                Ok(taken) if taken.compared == Some(false) => self.take_again(compiled, text, &key).await,
                Ok(taken) if taken.status == 202 => Err(dropped()),
                other => other.map(|_| ()),
            };
            match result {
                Ok(()) => counts.taken += 1,
                // It passes: the API server sends the batch again, and what was taken is known by its key.
                Err(problem) if problem.reason.status() == 503 => return Err(problem),
                Err(problem) => {
                    let (audit_id, stage) = match key.split_once('/') {
                        Some((id, stage)) => (Some(id.to_owned()), Some(stage.to_owned())),
                        None => (None, None),
                    };
                    self.reject_item(text, &Unreadable { fault: problem.detail, audit_id, stage }, counts).await?;
                }
            }
        }
        Ok(())
    }

    /// A client chooses `Audit-ID`, so another payload under a known key is an event of its own.
    async fn take_again(&self, compiled: &Compiled, text: &str, key: &str) -> Result<(), Problem> {
        let Ok(audit) = kubernetes::audit(text) else { return Ok(()) };
        let hash = identity(&self.intake.key, "reuse", text);
        let Json::Object(mut event) = audit.event else { return Ok(()) };
        event.insert("eventId", Json::String(format!("{key}#{}", hex(&hash[..4])).into()));
        if let Some(Json::Object(metadata)) = event.get_mut("metadata") {
            metadata.insert("idReuse", Json::Bool(true));
        }
        let sent = Sent::Made { tree: Json::Object(event), converted: Vec::new(), deaf: true, ends: false };
        self.intake.take(compiled, vec![Ok(sent)], None, true).await.pop().map_or(Ok(()), |result| result.map(|_| ()))
    }

    /// Leaves a record of what was not kept: where it came from and what it was, never its bytes.
    async fn reject(&self, text: &str, unreadable: &Unreadable) -> Result<(), Problem> {
        let mut note = Note::new(Kind::Rejected, "An audit event of the API server could not be read; it was not kept.")
            .text("source", "kubernetes-audit")
            .number("bytes", text.len() as u64)
            .text("hash", hex(&identity(&self.intake.key, "rejected", text)))
            // It may name members, which the client chose.
            .text(
                "fault",
                self.intake.shown(&self.intake.compiled.load(), &unreadable.fault).chars().take(300).collect::<String>(),
            );
        if let Some(id) = &unreadable.audit_id {
            note =
                note.text("auditID", self.intake.shown(&self.intake.compiled.load(), &id.chars().take(256).collect::<String>()));
        }
        if let Some(stage) = &unreadable.stage {
            note = note.text("stage", stage.chars().take(64).collect::<String>());
        }
        tracing::warn!(bytes = text.len(), "an audit event of the API server could not be read; a Rejected record says so");
        self.tell_rejected(note).await
    }

    /// Writes a record of what was not kept.
    pub(super) async fn tell_rejected(&self, note: Note) -> Result<(), Problem> {
        match self.intake.commit.tell(note).await {
            Ok(_) => Ok(()),
            Err(Failure::Full) => Err(Problem::later(
                Reason::SpoolFull,
                "The spool is full; it empties as events are delivered.",
                std::time::Duration::from_secs(1),
            )),
            Err(failure) => Err(Problem::later(Reason::Dependency, format!("{failure}."), std::time::Duration::from_secs(1))),
        }
    }
}
