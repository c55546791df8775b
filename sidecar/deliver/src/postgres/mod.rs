//! Tables of a PostgreSQL database.
//!
//! A batch is one transaction: COPY to a temporary table, then `INSERT … ON CONFLICT DO NOTHING` into `event_ids`, whose primary key makes
//! (tenant, id) unique over all partitions; what is new there goes to `events`. So a record that comes again changes nothing, whoever sends it. One
//! whose id is there with another fingerprint goes to `event_conflicts`. The schema is [`MIGRATIONS`], applied in order under an
//! advisory lock, or printed by [`script`].
use std::{
    collections::BTreeSet,
    pin::pin,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jiff::{Timestamp, civil, tz::TimeZone};
use sha2::{Digest, Sha256};
use steno_crds::{PostgresSink, SecretRef};
use steno_event::{
    Filled,
    json::{Json, Object, canonical, parse},
    names::RESERVED,
};
use tokio::runtime::Runtime;
use tokio_postgres::{
    Client, Config, NoTls, Transaction,
    binary_copy::BinaryCopyInWriter,
    config::SslMode,
    error::SqlState,
    types::{ToSql, Type},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{Backend, Record, Refusal, kafka::Secrets, tls::Pem};

/// Steps of the schema; the n-th leads to version n.
pub const MIGRATIONS: &[&str] = &[include_str!("001.sql")];

/// Sidecars that bring a schema up to date do so one after the other: the lock's number is the ASCII of `STENO`.
const LOCK: i64 = 0x53_5445_4E4F;
/// Columns of the temporary table that are those of `events`.
const COLUMNS: &str = "tenant_id, event_id, received_at, occurred_at, kind, action, category, service, severity, outcome, actor_type, actor_id, \
                       entity_type, entity_id, request_id, trace_id, chain_id, chain_epoch, chain_seq, hash, body";

/// How long a batch may take, a new connection included. A server that hangs answers nothing, and closes nothing.
const LIMIT: Duration = Duration::from_mins(1);

/// The destination.
pub struct Postgres {
    runtime: Runtime,
    database: Database,
}

struct Database {
    config: Config,
    tls: Option<rustls::ClientConfig>,
    /// Its name, quoted: it may be a word of SQL.
    schema: String,
    create: bool,
    client: Option<Client>,
    /// Months whose partitions are known to be there, or cannot be made.
    months: BTreeSet<(i16, i8)>,
}

/// The whole schema as a script for `psql`, with partitions for some months from one on.
pub fn script(schema: &str, from: Timestamp, months: u8) -> String {
    let schema = quoted(schema);
    // It may be applied again: for a later version, and for more months.
    let mut text = format!(
        "BEGIN;\nSELECT pg_advisory_xact_lock({LOCK});\nCREATE SCHEMA IF NOT EXISTS {schema};\nSET LOCAL search_path TO {schema};\n\
         CREATE TABLE IF NOT EXISTS schema_version (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now());\n\n"
    );
    for (index, step) in MIGRATIONS.iter().enumerate() {
        let version = index + 1;
        text.push_str(&format!(
            "DO $steno$ BEGIN\nIF NOT EXISTS (SELECT FROM schema_version WHERE version = {version}) THEN\n{step}\n\
             INSERT INTO schema_version (version) VALUES ({version});\nEND IF;\nEND $steno$;\n\n"
        ));
    }
    let mut first = from.to_zoned(TimeZone::UTC).date().first_of_month();
    for _ in 0..months {
        text.push_str(&partition(&schema, first));
        text.push_str(";\n");
        first = next_month(first);
    }
    text.push_str("COMMIT;\n");
    text
}

/// A schema's name as an identifier; a policy allows letters, digits and `_` only.
fn quoted(schema: &str) -> String {
    format!("\"{schema}\"")
}

fn next_month(first: civil::Date) -> civil::Date {
    first.last_of_month().tomorrow().unwrap_or(first)
}

fn partition(schema: &str, first: civil::Date) -> String {
    let next = next_month(first);
    format!(
        "CREATE TABLE IF NOT EXISTS {schema}.events_{:04}_{:02} PARTITION OF {schema}.events FOR VALUES FROM ('{first} 00:00:00+00') TO ('{next} 00:00:00+00')",
        first.year(),
        first.month(),
    )
}

// === impl Postgres ===

impl Postgres {
    /// A destination of a policy. Connects with the first batch.
    pub fn new(spec: &PostgresSink, secrets: &Secrets) -> Result<Self, String> {
        let mut config = Config::new();
        config.host(&spec.host).port(spec.port).dbname(&spec.database).user(&spec.user).application_name("steno-sidecar");
        config.connect_timeout(Duration::from_secs(10)).options("-c statement_timeout=50000 -c TimeZone=UTC");
        config.keepalives_idle(Duration::from_secs(30)).tcp_user_timeout(Duration::from_secs(30));
        let password: Option<&SecretRef> = spec.password_secret_ref.as_ref();
        if let Some(password) = password {
            config.password(secrets.read(password)?);
        }
        let tls = spec.tls.as_ref().map(|tls| Pem::read(Some(tls), secrets)?.config()).transpose()?;
        config.ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable });
        let (schema, create) = (quoted(&spec.schema), spec.create_schema);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let database = Database { config, tls, schema, create, client: None, months: BTreeSet::new() };
        Ok(Self { runtime, database })
    }

    /// Does something with the database, for so long; a connection that hangs is given up.
    fn within(&mut self, act: impl AsyncFnOnce(&mut Database) -> Result<(), Refusal>) -> Result<(), Refusal> {
        let Self { runtime, database } = self;
        let done = runtime.block_on(async { tokio::time::timeout(LIMIT, act(database)).await });
        done.unwrap_or_else(|_| {
            database.client = None;
            Err(Refusal::Later(format!("the database does not answer in {} seconds", LIMIT.as_secs())))
        })
    }
}

// === impl Database ===

impl Database {
    async fn connected(&mut self) -> Result<&mut Client, Refusal> {
        if self.client.as_ref().is_none_or(Client::is_closed) {
            let fault = |error: tokio_postgres::Error| Refusal::Later(format!("the database cannot be used: {}", told(&error)));
            let mut client = if let Some(tls) = self.tls.clone() {
                let (client, connection) = self.config.connect(MakeRustlsConnect::new(tls)).await.map_err(fault)?;
                // Ends with the client; what ends it is told by what the client was doing.
                tokio::spawn(async move { drop(connection.await) });
                client
            } else {
                let (client, connection) = self.config.connect(NoTls).await.map_err(fault)?;
                tokio::spawn(async move { drop(connection.await) });
                client
            };
            self.months.clear();
            bring_up(&mut client, &self.schema, self.create).await?;
            self.client = Some(client);
        }
        self.client.as_mut().ok_or(Refusal::Busy)
    }

    /// Makes the partitions of a batch's months, where it may. Without one, records go to `events_other`.
    async fn partitions(&mut self, rows: &[Row]) {
        let Some(client) = self.client.as_ref().filter(|_| self.create) else { return };
        let mut months = BTreeSet::new();
        for row in rows {
            let at = Timestamp::try_from(row.received_at).unwrap_or_default().to_zoned(TimeZone::UTC).date();
            months.insert((at.year(), at.month()));
        }
        months.retain(|month| !self.months.contains(month));
        for month in months {
            let first = civil::Date::new(month.0, month.1, 1).unwrap_or_default();
            let Err(error) = client.batch_execute(&partition(&self.schema, first)).await else {
                self.months.insert(month);
                continue;
            };
            tracing::warn!(error = told(&error), %first, "a month's partition could not be made; its records go to events_other");
            // With rows of the month in events_other it never can be; a lost race or a lock passes.
            if error.code() == Some(&SqlState::CHECK_VIOLATION) {
                self.months.insert(month);
            }
        }
    }

    async fn deliver(&mut self, rows: &[Row]) -> Result<(), Refusal> {
        self.connected().await?;
        self.partitions(rows).await;
        self.store(rows).await.map_err(|error| {
            let refusal = classify(&error);
            if !matches!(refusal, Refusal::Refused { .. }) {
                // Whatever state the connection is in, the next one is in none.
                self.client = None;
            }
            refusal
        })
    }

    async fn store(&mut self, rows: &[Row]) -> Result<(), tokio_postgres::Error> {
        let Some(client) = &mut self.client else { return Ok(()) };
        let transaction = client.transaction().await?;
        copy(&transaction, &self.schema, rows).await?;
        insert(&transaction, &self.schema).await?;
        transaction.commit().await
    }

    async fn probe(&mut self) -> Result<(), Refusal> {
        let client = self.connected().await?;
        let asked = client.simple_query("SELECT 1").await.map(drop);
        asked.map_err(|error| {
            self.client = None;
            Refusal::Later(told(&error))
        })
    }
}

async fn version(transaction: &Transaction<'_>, schema: &str) -> Result<i32, tokio_postgres::Error> {
    let there = transaction.query_one("SELECT to_regclass($1) IS NOT NULL", &[&format!("{schema}.schema_version")]).await?;
    if !there.get::<_, bool>(0) {
        return Ok(0);
    }
    let asked = format!("SELECT coalesce(max(version), 0) FROM {schema}.schema_version");
    Ok(transaction.query_one(&asked, &[]).await?.get(0))
}

async fn bring_up(client: &mut Client, schema: &str, create: bool) -> Result<(), Refusal> {
    let fault =
        |error: tokio_postgres::Error| Refusal::Later(format!("the schema {schema} cannot be looked at: {}", told(&error)));
    let known = MIGRATIONS.len() as i32;
    let transaction = client.transaction().await.map_err(fault)?;
    let mut at = version(&transaction, schema).await.map_err(fault)?;
    if at < known && create {
        transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await.map_err(fault)?;
        at = version(&transaction, schema).await.map_err(fault)?;
        let mut text = format!(
            "CREATE SCHEMA IF NOT EXISTS {schema}; SET LOCAL search_path TO {schema}; \
             CREATE TABLE IF NOT EXISTS schema_version (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now());\n"
        );
        for (index, step) in MIGRATIONS.iter().enumerate().skip(at as usize) {
            text.push_str(&format!("{step}\nINSERT INTO schema_version (version) VALUES ({});\n", index + 1));
        }
        let made = transaction.batch_execute(&text).await;
        made.map_err(|error| Refusal::Later(format!("the schema {schema} cannot be made: {}", told(&error))))?;
        at = known;
    }
    transaction.commit().await.map_err(fault)?;
    if at < known {
        let what = if at == 0 { "is not there".into() } else { format!("is of version {at}, older than {known}") };
        let fix = "set createSchema: true, or have somebody apply what `steno-sidecar postgres schema` prints";
        return Err(Refusal::Later(format!("the schema {schema} {what}; {fix}")));
    }
    Ok(())
}

async fn copy(transaction: &Transaction<'_>, schema: &str, rows: &[Row]) -> Result<(), tokio_postgres::Error> {
    let table = format!(
        "CREATE TEMPORARY TABLE IF NOT EXISTS steno_incoming (position bigint, fingerprint bytea, LIKE {schema}.events) ON COMMIT DELETE ROWS; \
         TRUNCATE pg_temp.steno_incoming"
    );
    transaction.batch_execute(&table).await?;
    let types: Vec<Type> = [Type::INT8, Type::BYTEA, Type::TEXT, Type::TEXT, Type::TIMESTAMPTZ, Type::TIMESTAMPTZ]
        .into_iter()
        .chain(std::iter::repeat_n(Type::TEXT, 13))
        .chain([Type::INT8, Type::INT8, Type::BYTEA, Type::BYTEA])
        .collect();
    let asked = format!("COPY pg_temp.steno_incoming (position, fingerprint, {COLUMNS}) FROM STDIN BINARY");
    let writer = BinaryCopyInWriter::new(transaction.copy_in(&asked).await?, &types);
    let mut writer = pin!(writer);
    for (position, row) in rows.iter().enumerate() {
        writer.as_mut().write(&row.values(&(position as i64))).await?;
    }
    writer.finish().await.map(drop)
}

async fn insert(transaction: &Transaction<'_>, schema: &str) -> Result<(), tokio_postgres::Error> {
    // In the order of the key, so that two sidecars with the same ids wait for each other and do not lock each other out.
    let of_first = COLUMNS.split(", ").map(|column| format!("i.{column}")).collect::<Vec<_>>().join(", ");
    let statements = format!(
        "WITH fresh AS ( \
           INSERT INTO {schema}.event_ids (tenant_id, event_id, fingerprint, received_at) \
           SELECT DISTINCT ON (tenant_id, event_id) tenant_id, event_id, fingerprint, received_at FROM pg_temp.steno_incoming \
           ORDER BY tenant_id, event_id, position \
           ON CONFLICT DO NOTHING RETURNING tenant_id, event_id, fingerprint) \
         INSERT INTO {schema}.events ({COLUMNS}) \
         SELECT DISTINCT ON (i.tenant_id, i.event_id) {of_first} FROM pg_temp.steno_incoming i \
         JOIN fresh f ON f.tenant_id = i.tenant_id AND f.event_id = i.event_id AND f.fingerprint = i.fingerprint \
         ORDER BY i.tenant_id, i.event_id, i.position; \
         INSERT INTO {schema}.event_conflicts (tenant_id, event_id, fingerprint, received_at, body) \
         SELECT i.tenant_id, i.event_id, i.fingerprint, i.received_at, i.body FROM pg_temp.steno_incoming i \
         JOIN {schema}.event_ids k ON k.tenant_id = i.tenant_id AND k.event_id = i.event_id AND k.fingerprint <> i.fingerprint \
         ORDER BY i.tenant_id, i.event_id, i.fingerprint, i.position ON CONFLICT DO NOTHING"
    );
    transaction.batch_execute(&statements).await
}

/// What an error says, with what the server says of it; never a value.
fn told(error: &tokio_postgres::Error) -> String {
    // What the server says of bad data may quote it.
    if let Some(code) = error.code().filter(|state| state.code().starts_with("22")) {
        return format!("the data cannot be stored (SQLSTATE {})", code.code());
    }
    if let Some(db) = error.as_db_error() {
        return format!("{} ({})", db.message(), db.code().code());
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

/// What an error means for a batch.
fn classify(error: &tokio_postgres::Error) -> Refusal {
    let of_record = |state: &SqlState| {
        let code = state.code();
        // What a partition or a check says is about the tables; data, its size and its encoding are about the record.
        code.starts_with("22") || code.starts_with("54") || *state == SqlState::NOT_NULL_VIOLATION
    };
    match error.code() {
        Some(state) if of_record(state) => Refusal::Refused(format!("the database refuses it: {}", told(error))),
        _ => Refusal::Later(format!("the database cannot be used: {}", told(error))),
    }
}

impl Backend for Postgres {
    fn write(&mut self, batch: &[Record]) -> Result<(), Refusal> {
        let mut rows = Vec::with_capacity(batch.len());
        for record in batch {
            let row = Row::new(record).ok_or_else(|| Refusal::Refused("it is no record".into()));
            rows.push(row?);
        }
        self.within(async |database| database.deliver(&rows).await)
    }

    fn probe(&mut self) -> Result<(), String> {
        self.within(async |database| database.probe().await).map_err(|refusal| match refusal {
            Refusal::Later(reason) => reason,
            other => format!("{other:?}"),
        })
    }
}

/// A record as a row.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    fingerprint: Vec<u8>,
    received_at: SystemTime,
    occurred_at: Option<SystemTime>,
    kind: String,
    /// The columns of text: their values, in order.
    texts: [Option<String>; 15],
    epoch: Option<i64>,
    seq: Option<i64>,
    hash: Option<Vec<u8>>,
    body: Vec<u8>,
}

/// Where the columns of text come from: tenant and id, then those behind `kind`.
const TEXTS: [&[&str]; 15] = [
    &["tenantId"],
    &["eventId"],
    &["action"],
    &["category"],
    &["service"],
    &["severity"],
    &["outcome"],
    &["actor", "type"],
    &["actor", "id"],
    &["resource", "type"],
    &["resource", "id"],
    &["requestId"],
    &["traceId"],
    &["integrity", "chainId"],
    &["integrity", "hash"],
];

// === impl Row ===

impl Row {
    fn new(record: &Record) -> Option<Self> {
        let text = std::str::from_utf8(&record.json).ok()?;
        let Json::Object(members) = parse(text).ok()? else { return None };
        let at = |path: &[&str]| {
            let (first, rest) = path.split_first()?;
            rest.iter().try_fold(members.get(first)?, |value, name| value.as_object()?.get(name))
        };
        let string = |path: &[&str]| at(path).and_then(Json::as_str).map(str::to_owned);
        let number = |path: &[&str]| match at(path) {
            Some(Json::Number(number)) => Some(*number as i64),
            _ => None,
        };
        let time = |path: &[&str]| {
            let at: Timestamp = string(path)?.parse().ok()?;
            Some(SystemTime::from(at))
        };
        let texts = TEXTS.map(string);
        let hash = texts[14].as_deref().and_then(unhex);
        Some(Self {
            received_at: UNIX_EPOCH + Duration::from_millis(record.received_ms),
            occurred_at: time(&["occurredAt"]),
            kind: string(&["kind"])?,
            epoch: number(&["integrity", "epoch"]),
            seq: number(&["integrity", "seq"]),
            hash,
            body: record.json.clone(),
            fingerprint: fingerprint(&members, Filled(record.filled)),
            texts,
        })
    }

    fn values<'a>(&'a self, position: &'a i64) -> [&'a (dyn ToSql + Sync); 23] {
        let [
            tenant,
            id,
            action,
            category,
            service,
            severity,
            outcome,
            actor_type,
            actor_id,
            entity_type,
            entity_id,
            request,
            trace,
            chain,
            _,
        ] = &self.texts;
        [
            position,
            &self.fingerprint,
            tenant,
            id,
            &self.received_at,
            &self.occurred_at,
            &self.kind,
            action,
            category,
            service,
            severity,
            outcome,
            actor_type,
            actor_id,
            entity_type,
            entity_id,
            request,
            trace,
            chain,
            &self.epoch,
            &self.seq,
            &self.hash,
            &self.body,
        ]
    }
}

/// SHA-256 of what the client sent, as far as the record has it: equal for a retry that another sidecar took.
fn fingerprint(members: &Object<'_>, filled: Filled) -> Vec<u8> {
    let sent = members.iter().filter(|(name, _)| !RESERVED.contains(&&**name) && !filled.contains(name)).cloned();
    let sent = Object::from_members(sent.collect()).unwrap_or_default();
    Sha256::digest(canonical(&Json::Object(sent))).to_vec()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(json: &str) -> Record {
        Record { seq: 0, json: json.into(), event_id: "e".into(), kind: "k".into(), received_ms: 0, filled: 1, key: None }
    }

    #[test]
    fn a_retry_that_another_pod_took_has_the_same_fingerprint_and_another_payload_has_not() {
        let one = r#"{"action":"a","eventId":"e","integrity":{"chainId":"p/1","epoch":1,"hash":"00ff","prevHash":"","seq":7},"kind":"Event","occurredAt":"2026-01-01T00:00:00Z","receivedAt":"2026-01-01T00:00:00Z","tenantId":"t","writer":{"pod":"a"}}"#;
        let other = one.replace("p/1", "p/2").replace("2026-01-01", "2026-01-02").replace("\"pod\":\"a\"", "\"pod\":\"b\"");
        let row = Row::new(&record(one)).unwrap();
        assert_eq!(row.fingerprint, Row::new(&record(&other)).unwrap().fingerprint);
        assert_ne!(row.fingerprint, Row::new(&record(&one.replace("\"action\":\"a\"", "\"action\":\"b\""))).unwrap().fingerprint);
        assert_eq!((row.seq, row.epoch, row.hash.as_deref()), (Some(7), Some(1), Some(&[0, 255][..])));
        assert_eq!(row.texts[13].as_deref(), Some("p/1"));
    }

    #[test]
    fn months_follow_each_other_over_the_year() {
        let text = script("steno", "2026-11-30T23:00:00Z".parse().unwrap(), 3);
        for month in ["events_2026_11 ", "FROM ('2026-12-01 00:00:00+00') TO ('2027-01-01 00:00:00+00')", "events_2027_01 "] {
            assert!(text.contains(month), "{text}");
        }
    }
}
