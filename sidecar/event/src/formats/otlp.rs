//! OpenTelemetry logs (OTLP 1.x, <https://opentelemetry.io/docs/specs/otlp/>), protobuf and JSON, and the answers of that protocol.
use std::{borrow::Cow, collections::HashMap};

use base64::Engine as _;
use prost::Message as _;

use super::Sheet;
use crate::{
    hex,
    json::{self, Json, Object, lax},
    names::{self, Place},
};

mod proto;

/// Where attributes of OpenTelemetry's semantic conventions belong. Members of the model (`outcome`, `actor.id`) are taken by their own names.
const ATTRIBUTES: &[(&str, Place)] = &[
    ("event.name", Place::Top("action")),
    ("event.id", Place::Top("eventId")),
    ("log.record.uid", Place::Top("eventId")),
    ("tenant.id", Place::Top("tenantId")),
    ("user.id", Place::In("actor", "id")),
    ("enduser.id", Place::In("actor", "id")),
    ("session.id", Place::In("actor", "sessionId")),
    ("client.address", Place::In("source", "ip")),
    ("user_agent.original", Place::In("source", "userAgent")),
    ("exception.type", Place::In("error", "code")),
    ("exception.message", Place::In("error", "message")),
    ("exception.stacktrace", Place::In("error", "stack")),
];

/// Most records of one request.
pub const MOST_RECORDS: usize = 10_000;
/// Most attributes of a record, of a resource and of a scope, and members of a map. SDKs keep 128 by default.
const MOST_ATTRIBUTES: usize = 1024;
/// Most bytes that records get from their resource and scope, all together: each has a copy.
const MOST_COMMON: usize = 16 << 20;

/// A log record, mapped.
#[derive(Debug)]
pub struct Log<'a> {
    /// The event; without `eventId` where the record has none.
    pub event: Json<'a>,
    /// The canonical form of all that the record is: to make an id of, for one that has none.
    pub content: String,
}

/// Attributes, a body and the rest: what both encodings come to.
struct Raw<'a> {
    /// Nanoseconds since 1970; 0: not known.
    time: u64,
    observed: u64,
    severity_number: i64,
    severity_text: Cow<'a, str>,
    body: Json<'a>,
    attributes: Vec<(Cow<'a, str>, Json<'a>)>,
    trace_id: Cow<'a, str>,
    span_id: Cow<'a, str>,
    event_name: Cow<'a, str>,
    converted: Vec<String>,
}

/// What records of one resource and scope share.
#[derive(Default)]
struct Common<'a> {
    resource: Vec<(Cow<'a, str>, Json<'a>)>,
    scope: Vec<(Cow<'a, str>, Json<'a>)>,
    /// Canonical form of both: the same for all records.
    text: String,
}

/// What a request has used of its bounds.
#[derive(Default)]
struct Budget {
    records: usize,
    common: usize,
}

impl Common<'_> {
    /// Whether so many records may have a copy of it.
    fn check(&mut self, records: usize, budget: &mut Budget) -> Result<(), String> {
        few(&self.resource)?;
        few(&self.scope)?;
        self.text = json::canonical(&Json::Array(vec![from_pairs(self.resource.clone()), from_pairs(self.scope.clone())]));
        budget.records += records;
        budget.common += records * self.text.len();
        if budget.records > MOST_RECORDS {
            return Err(format!("the request has more than {MOST_RECORDS} records; send less at a time"));
        }
        if budget.common > MOST_COMMON {
            return Err("attributes of resources and scopes are too large for so many records; send less at a time".into());
        }
        Ok(())
    }
}

fn few<T>(attributes: &[T]) -> Result<(), String> {
    if attributes.len() > MOST_ATTRIBUTES { Err(format!("more than {MOST_ATTRIBUTES} attributes in one place")) } else { Ok(()) }
}

/// Text that may be none: what is no UTF-8 becomes U+FFFD, and is marked.
fn lossy(bytes: Vec<u8>, converted: &mut Vec<String>, path: &str) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| {
        converted.push(path.to_owned());
        String::from_utf8_lossy(error.as_bytes()).into_owned()
    })
}

/// What stands for attributes that cannot be read.
fn unreadable(what: &'static str) -> Vec<(Cow<'static, str>, Json<'static>)> {
    vec![(Cow::Borrowed(what), Json::text("cannot be read"))]
}

/// The records of a protobuf request, each by itself: one that cannot be read is an error that says why.
///
/// # Errors
/// The request as a whole is no protobuf, or too much.
pub fn protobuf(body: &[u8]) -> Result<Vec<Result<Log<'static>, String>>, String> {
    let request = proto::ExportLogsServiceRequest::decode(body).map_err(|fault| format!("the body is no protobuf: {fault}"))?;
    let (mut logs, mut budget) = (Vec::new(), Budget::default());
    for resource in request.resource_logs {
        let attributes = match resource.resource.as_deref().map(proto::Resource::decode) {
            Some(Ok(known)) => Some(known.attributes),
            Some(Err(_)) => None,
            None => Some(Vec::new()),
        };
        for scope in resource.scope_logs {
            let resource = match attributes.clone() {
                Some(attributes) => pairs(attributes, &mut Vec::new(), ""),
                None => unreadable("resource"),
            };
            let mut common = Common { resource, ..Common::default() };
            match scope.scope.as_deref().map(proto::Scope::decode) {
                Some(Ok(known)) => {
                    let texts =
                        [("name", known.name), ("version", known.version)].into_iter().filter(|(_, text)| !text.is_empty());
                    let texts = texts.map(|(name, text)| (Cow::Borrowed(name), lossy(text, &mut Vec::new(), name)));
                    common.scope.extend(texts.map(|(name, text)| (name, Json::String(text.into()))));
                    common.scope.extend(pairs(known.attributes, &mut Vec::new(), ""));
                }
                Some(Err(_)) => common.scope = unreadable("scope"),
                None => {}
            }
            common.check(scope.log_records.len(), &mut budget)?;
            for record in scope.log_records {
                let read = proto::LogRecord::decode(&*record).map_err(|fault| format!("a record cannot be read: {fault}"));
                logs.push(read.and_then(|record| raw(record).map(&common)));
            }
        }
    }
    Ok(logs)
}

fn raw(record: proto::LogRecord) -> Raw<'static> {
    let mut converted = Vec::new();
    Raw {
        time: record.time_unix_nano,
        observed: record.observed_time_unix_nano,
        severity_number: record.severity_number.into(),
        severity_text: lossy(record.severity_text, &mut converted, "severityText").into(),
        body: record.body.map_or(Json::Null, |body| value(body, &mut converted, "body")),
        attributes: pairs(record.attributes, &mut converted, ""),
        trace_id: hex(&record.trace_id).into(),
        span_id: hex(&record.span_id).into(),
        event_name: lossy(record.event_name, &mut converted, "eventName").into(),
        converted,
    }
}

/// Takes a member by its name in protobuf's JSON (`resourceLogs`), or by that in the `.proto` file (`resource_logs`), which parsers of it take, too.
fn take<'a>(object: &mut Object<'a>, name: &str) -> Option<Json<'a>> {
    object.remove(name).or_else(|| object.remove(&snake(name)))
}

/// A member's name in the `.proto` file.
fn snake(name: &str) -> String {
    name.chars().fold(String::with_capacity(name.len() + 2), |mut snake, c| {
        if c.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
        snake
    })
}

/// The records of a JSON request, each by itself: one that cannot be read is an error that says why. Names are lowerCamelCase; unknown ones are passed
/// over, as the protocol asks.
///
/// # Errors
/// The request as a whole is not JSON, has other members only, or is too much.
pub fn json_request(body: &str) -> Result<Vec<Result<Log<'_>, String>>, String> {
    let mut request = Node::of(body);
    if !request.is_object() {
        return Err(request.read().map_or_else(|fault| fault, |_| "the body is no object".into()));
    }
    let (mut logs, mut budget) = (Vec::new(), Budget::default());
    let resources = request.member("resourceLogs");
    if resources.is_none() && !matches!(&request, Node::Read(Json::Object(left)) if left.is_empty()) {
        return Err("the request has no resourceLogs".into());
    }
    for mut resource in resources.map_or(Ok(Vec::new()), Node::items)? {
        let attributes = resource.member("resource").map_or(Ok(Vec::new()), |known| known.read().and_then(attributes_of));
        let scopes = resource.parts("scopeLogs");
        let scopes = scopes.unwrap_or_else(|fault| {
            logs.push(Err(fault));
            Vec::new()
        });
        for mut scope in scopes {
            let resource = attributes.clone().and_then(|known| json_pairs(known, &mut Vec::new(), ""));
            let mut common = Common { resource: resource.unwrap_or_else(|_| unreadable("resource")), ..Common::default() };
            if let Some(known) = scope.member("scope") {
                common.scope = known.read().and_then(json_scope).unwrap_or_else(|_| unreadable("scope"));
            }
            let records = match scope.parts("logRecords") {
                Ok(records) => records,
                Err(fault) => {
                    logs.push(Err(fault));
                    continue;
                }
            };
            common.check(records.len(), &mut budget)?;
            logs.extend(records.into_iter().map(|record| record.read().and_then(object).and_then(json_record)?.map(&common)));
        }
    }
    Ok(logs)
}

/// A part of a request: read, or, where it holds something that is no good JSON, its text. What can be told apart of that is read by itself.
enum Node<'a> {
    Read(Json<'a>),
    Torn(&'a str),
}

impl<'a> Node<'a> {
    fn of(text: &'a str) -> Self {
        json::parse_kept(text).map_or(Self::Torn(text), |(tree, _)| Self::Read(tree))
    }

    fn is_object(&self) -> bool {
        match self {
            Self::Read(tree) => matches!(tree, Json::Object(_)),
            Self::Torn(text) => lax::members(text).is_some(),
        }
    }

    fn member(&mut self, name: &str) -> Option<Self> {
        match self {
            Self::Read(Json::Object(object)) => take(object, name).map(Self::Read),
            Self::Read(_) => None,
            Self::Torn(text) => {
                let is_it = |known: &str| known == name || known == snake(name);
                lax::members(text)?.into_iter().find(|(known, _)| is_it(known)).map(|(_, value)| Self::of(value))
            }
        }
    }

    /// The items of a list that is a member.
    fn parts(&mut self, name: &str) -> Result<Vec<Self>, String> {
        if !self.is_object() {
            return Err(format!("what has {name} is no object"));
        }
        self.member(name).map_or(Ok(Vec::new()), Self::items)
    }

    fn items(self) -> Result<Vec<Self>, String> {
        match self {
            Self::Read(tree) => Ok(list(Some(tree))?.into_iter().map(Self::Read).collect()),
            Self::Torn(text) => {
                let items = lax::items(text, MOST_RECORDS + 1).ok_or("a list is wanted where something else stands")?;
                Ok(items.into_iter().map(Self::of).collect())
            }
        }
    }

    fn read(self) -> Result<Json<'a>, String> {
        match self {
            Self::Read(tree) => Ok(tree),
            Self::Torn(text) => json::parse(text).map_err(|fault| fault.to_string()),
        }
    }
}

fn attributes_of(tree: Json<'_>) -> Result<Vec<Json<'_>>, String> {
    list(object(tree)?.remove("attributes"))
}

fn json_scope(tree: Json<'_>) -> Result<Vec<(Cow<'_, str>, Json<'_>)>, String> {
    let mut known = object(tree)?;
    let mut scope = Vec::new();
    for name in ["name", "version"] {
        scope.extend(known.remove(name).map(|text| (Cow::Borrowed(name), text)));
    }
    scope.extend(json_pairs(list(known.remove("attributes"))?, &mut Vec::new(), "")?);
    Ok(scope)
}

fn json_record(mut record: Object<'_>) -> Result<Raw<'_>, String> {
    let mut converted = Vec::new();
    let mut text = |name: &str| match take(&mut record, name) {
        None | Some(Json::Null) => Ok(Cow::Borrowed("")),
        Some(Json::String(text)) => Ok(text),
        Some(other) => Err(format!("{name} is {}, not a string", other.kind())),
    };
    let (severity_text, event_name) = (text("severityText")?, text("eventName")?);
    let (trace_id, span_id) = (text("traceId")?, text("spanId")?);
    let mut attributes = json_pairs(list(record.remove("attributes"))?, &mut converted, "")?;
    // What is no time is kept as its text, and marked.
    let mut time = |name: &'static str, converted: &mut Vec<String>| {
        let Some(sent) = take(&mut record, name) else { return 0 };
        number(Some(sent.clone()), name).unwrap_or_else(|_| {
            converted.push(name.to_owned());
            attributes.push((Cow::Borrowed(name), sent));
            0
        })
    };
    let (time, observed) = (time("timeUnixNano", &mut converted), time("observedTimeUnixNano", &mut converted));
    Ok(Raw {
        time,
        observed,
        severity_number: severity_number(take(&mut record, "severityNumber"))?,
        severity_text,
        body: match record.remove("body") {
            Some(body) => json_value(body, &mut converted, "body")?,
            None => Json::Null,
        },
        attributes,
        trace_id,
        span_id,
        event_name,
        converted,
    })
}

/// A severity's number, or its name in the `.proto` file, which some senders write.
fn severity_number(value: Option<Json<'_>>) -> Result<i64, String> {
    const NAMES: [&str; 6] = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"];
    let name = value.as_ref().and_then(Json::as_str).and_then(|text| text.strip_prefix("SEVERITY_NUMBER_"));
    let Some(name) = name else { return number(value, "severityNumber") };
    let word = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let step: i64 = name[word.len()..].parse().unwrap_or(1);
    let first = NAMES.iter().position(|known| *known == word).map(|index| index as i64 * 4);
    Ok(first.map_or(0, |first| first + step.clamp(1, 4)))
}

/// A 64-bit integer of protobuf's JSON: a number, or text.
fn number<N: std::str::FromStr + Default>(value: Option<Json<'_>>, name: &str) -> Result<N, String> {
    let fault = || format!("{name} is not a whole number");
    match value {
        None | Some(Json::Null) => Ok(N::default()),
        Some(Json::String(text)) => text.parse().map_err(|_| fault()),
        Some(value @ Json::Number(_)) => json::canonical(&value).parse().map_err(|_| fault()),
        Some(_) => Err(fault()),
    }
}

fn object(value: Json<'_>) -> Result<Object<'_>, String> {
    match value {
        Json::Object(object) => Ok(object),
        other => Err(format!("an object is wanted where {} stands", other.kind())),
    }
}

fn list(value: Option<Json<'_>>) -> Result<Vec<Json<'_>>, String> {
    match value {
        None | Some(Json::Null) => Ok(Vec::new()),
        Some(Json::Array(items)) => Ok(items),
        Some(other) => Err(format!("a list is wanted where {} stands", other.kind())),
    }
}

/// A name of a list and, where there is one, its parent's.
fn within(path: &str, name: &str) -> String {
    // A path is for people; a client can make it as long as the body.
    let cut = |text: &str| text.chars().take(100).collect::<String>();
    if path.is_empty() { cut(name) } else { format!("{}.{}", cut(path), cut(name)) }
}

fn json_pairs<'a>(
    items: Vec<Json<'a>>,
    converted: &mut Vec<String>,
    path: &str,
) -> Result<Vec<(Cow<'a, str>, Json<'a>)>, String> {
    let mut pairs = Vec::with_capacity(items.len());
    for item in items {
        let mut item = object(item)?;
        let Some(Json::String(key)) = item.remove("key") else { return Err("an attribute has no key".into()) };
        let value = match item.remove("value") {
            Some(value) => json_value(value, converted, &within(path, &key))?,
            None => Json::Null,
        };
        pairs.push((key, value));
    }
    Ok(pairs)
}

/// An `AnyValue` in protobuf's JSON.
fn json_value<'a>(value: Json<'a>, converted: &mut Vec<String>, path: &str) -> Result<Json<'a>, String> {
    if value == Json::Null {
        return Ok(Json::Null);
    }
    let members = object(value)?.into_members();
    let is_value = |name: &str| name.ends_with("Value") || name.ends_with("_value");
    let Some((name, value)) = members.into_iter().find(|(name, _)| is_value(name)) else { return Ok(Json::Null) };
    match (&*name.replace("_value", "Value"), value) {
        ("stringValue", value @ Json::String(_)) | ("boolValue", value @ Json::Bool(_)) => Ok(value),
        ("bytesValue", Json::String(text)) => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(text.as_bytes()).unwrap_or_default();
            Ok(Json::String(
                super::readable(&bytes).filter(|_| !bytes.is_empty()).map_or(text, |plain| Cow::Owned(plain.to_owned())),
            ))
        }
        ("intValue", value) => Ok(integer(number(Some(value), path)?, converted, path)),
        ("doubleValue", value @ Json::Number(_)) => Ok(value),
        // "NaN", "Infinity"; and a number that was kept as text.
        ("doubleValue", value @ Json::String(_)) => {
            converted.push(path.to_owned());
            Ok(value)
        }
        ("arrayValue", value) => {
            let items = list(object(value)?.remove("values"))?.into_iter().enumerate();
            let items = items.map(|(index, item)| json_value(item, converted, &format!("{path}[{index}]")));
            items.collect::<Result<Vec<_>, _>>().map(Json::Array)
        }
        ("kvlistValue", value) => Ok(from_pairs(json_pairs(list(object(value)?.remove("values"))?, converted, path)?)),
        (name, value) => Err(format!("{name} is {}", value.kind())),
    }
}

fn pairs(items: Vec<proto::KeyValue>, converted: &mut Vec<String>, path: &str) -> Vec<(Cow<'static, str>, Json<'static>)> {
    let mut pairs = Vec::with_capacity(items.len());
    for item in items {
        let key = lossy(item.key, converted, path);
        let made = item.value.map_or(Json::Null, |found| value(found, converted, &within(path, &key)));
        pairs.push((Cow::Owned(key), made));
    }
    pairs
}

fn value(value: proto::AnyValue, converted: &mut Vec<String>, path: &str) -> Json<'static> {
    use proto::any_value::Value;
    match value.value {
        None => Json::Null,
        Some(Value::Text(text)) => Json::String(lossy(text, converted, path).into()),
        Some(Value::Bool(flag)) => Json::Bool(flag),
        Some(Value::Int(number)) => integer(number, converted, path),
        Some(Value::Double(number)) if number.is_finite() && number.abs() <= 9_007_199_254_740_992.0 => Json::Number(number),
        Some(Value::Double(number)) => {
            converted.push(path.to_owned());
            Json::String(number.to_string().into())
        }
        // Redaction does not look into base64.
        Some(Value::Bytes(bytes)) => Json::String(match super::readable(&bytes) {
            Some(text) => Cow::Owned(text.to_owned()),
            None => base64::engine::general_purpose::STANDARD.encode(bytes).into(),
        }),
        Some(Value::Array(list)) => {
            let items = list.values.into_iter().enumerate();
            Json::Array(items.map(|(index, item)| self::value(item, converted, &format!("{path}[{index}]"))).collect())
        }
        Some(Value::Kvlist(list)) => from_pairs(pairs(list.values, converted, path)),
    }
}

fn integer(number: i64, converted: &mut Vec<String>, path: &str) -> Json<'static> {
    if number.unsigned_abs() <= 1 << 53 {
        return Json::Number(number as f64);
    }
    converted.push(path.to_owned());
    Json::String(number.to_string().into())
}

/// An object of pairs; a name that stands twice gets `~2`.
fn from_pairs<'a>(pairs: Vec<(Cow<'a, str>, Json<'a>)>) -> Json<'a> {
    let mut seen: HashMap<String, usize> = HashMap::with_capacity(pairs.len());
    let mut members = Vec::with_capacity(pairs.len());
    for (name, value) in pairs {
        let mut free = name.clone();
        // Numbers go on where they were: a name that stands a thousand times is not counted through each time.
        let mut count = seen.get(&*name).copied().unwrap_or_default();
        while seen.contains_key(&*free) {
            count += 1;
            free = Cow::Owned(format!("{name}~{}", count + 1));
        }
        seen.insert(name.into_owned(), count);
        seen.entry(free.clone().into_owned()).or_default();
        members.push((free, value));
    }
    Json::Object(Object::from_members(members).unwrap_or_default())
}

// === impl Raw ===

impl<'a> Raw<'a> {
    fn map(self, common: &Common<'a>) -> Result<Log<'a>, String> {
        few(&self.attributes)?;
        if let Json::Object(members) = &self.body {
            few(&members.iter().collect::<Vec<_>>())?;
        }
        let content = self.content(common);
        let mut sheet = Sheet::default();
        let put = |sheet: &mut Sheet<'a>, place: Place, text: Cow<'a, str>| {
            if !text.is_empty() {
                sheet.put(place, Json::String(text));
            }
        };
        put(&mut sheet, Place::Top("action"), self.event_name);
        put(&mut sheet, Place::Top("traceId"), self.trace_id);
        put(&mut sheet, Place::Top("spanId"), self.span_id);
        if let Some(time) = [self.time, self.observed].into_iter().find(|time| *time > 0)
            && let Ok(time) = jiff::Timestamp::from_nanosecond(time.into())
        {
            put(&mut sheet, Place::Top("occurredAt"), time.to_string().into());
        }
        let severity = severity(self.severity_number).or_else(|| names::severity(&self.severity_text));
        let mut rest = Vec::new();
        for (name, value) in self.attributes {
            match ATTRIBUTES.iter().find(|(known, _)| *known == name) {
                Some((_, place)) => {
                    if let Some(left) = sheet.put(*place, value) {
                        sheet.meta(name, left);
                    }
                }
                None => rest.push((name, value)),
            }
        }
        for (name, value) in rest {
            sheet.attribute(name, value);
        }
        if let Some(severity) = severity {
            // Said by an attribute, it is meant; this is only how the library logged it.
            sheet.put(Place::Top("severity"), Json::text(severity));
        } else if !self.severity_text.is_empty() {
            sheet.meta("severityText", Json::String(self.severity_text));
        }
        match self.body {
            // A structured body says the event's members.
            Json::Object(members) => members.into_members().into_iter().for_each(|(name, value)| sheet.attribute(name, value)),
            text @ Json::String(_) => {
                if let Some(left) = sheet.put(Place::Top("message"), text) {
                    sheet.meta("body", left);
                }
            }
            Json::Null => {}
            other => sheet.meta("body", other),
        }
        let mut resource = Vec::new();
        for (name, value) in common.resource.iter().cloned() {
            let left = if name == "service.name" { sheet.put(Place::Top("service"), value) } else { Some(value) };
            resource.extend(left.map(|value| (name, value)));
        }
        for (name, pairs) in [("resource", resource), ("scope", common.scope.clone())] {
            if !pairs.is_empty() {
                sheet.meta(name, from_pairs(pairs));
            }
        }
        Ok(Log { event: sheet.finish(self.converted), content })
    }

    fn content(&self, common: &Common<'_>) -> String {
        let text = |text: &str| Json::String(Cow::Owned(text.to_owned()));
        let parts = vec![
            text(&common.text),
            text(&self.time.to_string()),
            text(&self.observed.to_string()),
            Json::Number(self.severity_number as f64),
            text(&self.severity_text),
            self.body.clone(),
            from_pairs(self.attributes.clone()),
            text(&self.trace_id),
            text(&self.span_id),
            text(&self.event_name),
        ];
        json::canonical(&Json::Array(parts))
    }
}

/// The severity that a number of OpenTelemetry means; `None`: it says nothing.
fn severity(number: i64) -> Option<&'static str> {
    match number {
        1..=8 => Some("debug"),
        9..=12 => Some("info"),
        13..=16 => Some("warning"),
        17..=20 => Some("error"),
        21..=24 => Some("critical"),
        _ => None,
    }
}

/// The answer to a request of which `rejected` records were not taken, and will not be; protobuf.
pub fn answer_protobuf(rejected: u64, message: &str) -> Vec<u8> {
    let partial = (rejected > 0)
        .then(|| proto::ExportLogsPartialSuccess { rejected_log_records: rejected as i64, error_message: message.into() });
    proto::ExportLogsServiceResponse { partial_success: partial }.encode_to_vec()
}

/// The same in JSON.
pub fn answer_json(rejected: u64, message: &str) -> Vec<u8> {
    let mut out = b"{".to_vec();
    if rejected > 0 {
        out.extend_from_slice(format!("\"partialSuccess\":{{\"rejectedLogRecords\":\"{rejected}\",\"errorMessage\":").as_bytes());
        crate::escape_into(&mut out, message);
        out.push(b'}');
    }
    out.push(b'}');
    out
}

/// A `google.rpc.Status`; protobuf.
pub fn status_protobuf(code: i32, message: &str) -> Vec<u8> {
    proto::Status { code, message: message.into() }.encode_to_vec()
}

/// The same in JSON.
pub fn status_json(code: i32, message: &str) -> Vec<u8> {
    let mut out = format!("{{\"code\":{code},\"message\":").into_bytes();
    crate::escape_into(&mut out, message);
    out.push(b'}');
    out
}

#[cfg(test)]
mod tests;
