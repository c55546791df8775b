//! `POST /v1/logs`: OTLP/HTTP.
//!
//! A record that will never be taken is told in `partialSuccess`. Where one could be taken later, the whole request is 429 or 503: the client sends it again, and
//! what was taken is known by its id.
use bytes::Bytes;
use hyper::{Request, Response, body::Incoming, header};
use steno_chain::{Kind, Note};
use steno_event::{
    formats::otlp::{self, Log},
    hex, identity,
    json::{Json, without_lone_surrogates},
};

use super::{
    Answer, Payload, body,
    ingest::{Done, Ingest},
    problem as problem_answer,
};
use crate::{
    intake::Sent,
    policy::Compiled,
    problem::{Problem, Reason},
    telemetry::ReasonLabel,
};

/// Records that go to the loop at once: others get their turn in between.
const PIECE: usize = 500;
/// Bytes of the message in `partialSuccess`.
const MESSAGE: usize = 1000;

/// The two encodings.
#[derive(Clone, Copy)]
enum Encoding {
    Protobuf,
    Json,
}

// === impl Ingest ===

impl Ingest {
    pub(super) async fn logs(&self, compiled: &Compiled, request: Request<Incoming>) -> Done {
        let encoding = match body::media_type(request.headers()).as_deref() {
            Some("application/x-protobuf") => Encoding::Protobuf,
            Some("application/json") => Encoding::Json,
            _ => {
                let problem = Problem::new(Reason::MediaType, "OTLP is application/x-protobuf or application/json.");
                return self.refused(Encoding::Json, &problem);
            }
        };
        match self.take_logs(compiled, request, encoding).await {
            Ok((rejected, message)) => encoding.answer(200, encoding.done(rejected, &message)).into(),
            Err(problem) => self.refused(encoding, &problem),
        }
    }

    fn refused(&self, encoding: Encoding, problem: &Problem) -> Done {
        self.intake.metrics.refused.get_or_create(&ReasonLabel { reason: problem.reason.word() }).inc();
        // Headers, such as Retry-After, are those of any problem.
        let (head, _) = problem_answer(problem, "-", None).into_parts();
        let mut answer = encoding.answer(problem.reason.status(), encoding.status(problem));
        for (name, value) in &head.headers {
            if name != header::CONTENT_TYPE {
                answer.headers_mut().insert(name, value.clone());
            }
        }
        Done { reason: Some(problem.reason.word()), ..answer.into() }
    }

    /// How many records were not taken and will not be, and why the first of them was not.
    async fn take_logs(
        &self,
        compiled: &Compiled,
        request: Request<Incoming>,
        encoding: Encoding,
    ) -> Result<(u64, String), Problem> {
        self.intake.check_open(compiled)?;
        let (bytes, _claim) = body::read_bytes(request, compiled.max_body, compiled.request_timeout).await?;
        let malformed = |fault: String| Problem::new(Reason::BadRequest, format!("{fault}."));
        let text;
        let logs = match encoding {
            Encoding::Protobuf => otlp::protobuf(&bytes).map_err(malformed)?,
            Encoding::Json => {
                let (lossy, _) = body::lossy(bytes);
                text = without_lone_surrogates(&lossy).unwrap_or(lossy);
                otlp::json_request(&text).map_err(malformed)?
            }
        };
        let (mut rejected, mut message) = (0, String::new());
        // What cannot be read is named, counted and recorded; the others are taken.
        let (logs, faults): (Vec<_>, Vec<_>) = logs.into_iter().partition(Result::is_ok);
        if let Some(fault) = faults.first().and_then(|fault| fault.as_ref().err()) {
            rejected = faults.len() as u64;
            message = self.intake.shown(compiled, fault).chars().take(MESSAGE).collect();
        }
        let mut logs = logs.into_iter().flatten().peekable();
        // Duplicates give their tokens back after each piece: with pieces no larger than a burst, every try of a request gets further.
        let rate = &compiled.config.spec.limits.rate;
        let bursts = [rate.total, rate.per_tenant].into_iter().flatten().map(|rate_of| rate.burst.unwrap_or(rate_of) as usize);
        let piece = bursts.fold(PIECE, usize::min).max(1);
        while logs.peek().is_some() {
            let piece = logs.by_ref().take(piece).map(|log| Ok(self.sent(log))).collect();
            for result in self.intake.take(compiled, piece, None, false).await {
                let problem = match result {
                    Ok(taken) if taken.status != 202 => continue,
                    Ok(_) => Problem::new(
                        Reason::SpoolFull,
                        "The spool is full, and the policy drops what comes meanwhile (whenFull: DropNewest).",
                    ),
                    Err(problem) if matches!(problem.reason.status(), 429 | 503) => return Err(problem),
                    Err(problem) => problem,
                };
                rejected += 1;
                if message.is_empty() {
                    message = self.intake.shown(compiled, &problem.detail).chars().take(MESSAGE).collect();
                }
            }
        }
        if rejected > 0 {
            self.intake.metrics.quarantined.inc_by(rejected);
            let note = Note::new(Kind::Rejected, "Records of an OTLP request are no events; they were not kept.")
                .text("source", "otlp")
                .number("records", rejected)
                .text("fault", &*message);
            self.tell_rejected(note).await?;
        }
        Ok((rejected, message))
    }

    /// The event of a record; without an id it gets one that the same record gets again.
    fn sent<'a>(&self, log: Log<'a>) -> Sent<'a> {
        let mut tree = log.event;
        if let Json::Object(event) = &mut tree
            && !event.contains("eventId")
        {
            let hash = identity(&self.intake.key, "otlp", &log.content);
            event.insert("eventId", Json::String(format!("otlp:{}", hex(&hash)).into()));
        }
        Sent::Made { tree, converted: Vec::new(), deaf: false, ends: false }
    }
}

// === impl Encoding ===

impl Encoding {
    fn answer(self, status: u16, body: Vec<u8>) -> Answer {
        let mut answer = Response::new(Payload::from(Bytes::from(body)));
        *answer.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
        let media = match self {
            Self::Protobuf => "application/x-protobuf",
            Self::Json => "application/json",
        };
        answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(media));
        answer
    }

    fn done(self, rejected: u64, message: &str) -> Vec<u8> {
        match self {
            Self::Protobuf => otlp::answer_protobuf(rejected, message),
            Self::Json => otlp::answer_json(rejected, message),
        }
    }

    fn status(self, problem: &Problem) -> Vec<u8> {
        // google.rpc.Code: INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNAVAILABLE.
        let code = match problem.reason.status() {
            429 => 8,
            503 => 14,
            _ => 3,
        };
        match self {
            Self::Protobuf => otlp::status_protobuf(code, &problem.detail),
            Self::Json => otlp::status_json(code, &problem.detail),
        }
    }
}
