//! Tables of a PostgreSQL database.
//!
//! A batch is one transaction: `INSERT … ON CONFLICT DO NOTHING` into `event_ids`, whose primary key makes (tenant, id) unique over all partitions; the
//! records whose ids are new there go to `events`. So a record that comes again changes nothing, whoever sends it. One whose id is there with
//! another fingerprint goes to `event_conflicts`. Each record that is not in `events` leaves its place in its chain in `event_repeats`, so that
//! no chain has a hole. The schema is [`MIGRATIONS`], applied in order under an advisory lock, or printed by [`script`].
//!
//! # Partitions
//! Each month of `receivedAt` has one. It is made ahead, while nothing else is done, with a lock that is waited for a second: whoever reads
//! `events` holds it off, and it is tried again. A record without a partition goes to `events_other`, and moves when its partition is made.
//!
//! # Poolers
//! No startup options, no prepared statements with names, no temporary tables and no settings of a session: a pooler may give each transaction another
//! connection.
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jiff::{Timestamp, civil, tz::TimeZone};
use sha2::{Digest, Sha256};
use steno_crds::{PostgresSink, SecretRef, TargetSession};
use steno_event::{
    Filled,
    json::{Json, Object, canonical, parse},
    names::RESERVED,
};
use tokio::runtime::Runtime;
use tokio_postgres::{
    Client, Config, NoTls, Transaction,
    config::{SslMode, TargetSessionAttrs},
    error::SqlState,
    types::{ToSql, Type},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{Backend, Record, Refusal, kafka::Secrets, tls::Pem};

/// Steps of the schema; the n-th leads to version n.
pub const MIGRATIONS: &[&str] = &[include_str!("001.sql"), include_str!("002.sql")];

/// The oldest version that this sidecar can use: an upgrade does not stop deliveries if somebody else makes the schema.
const OLDEST_USABLE: i32 = 1;
/// The version that has `event_repeats`.
const WITH_REPEATS: i32 = 2;

/// Sidecars that bring a schema up to date do so one after the other: the lock's number is the ASCII of `STENO`.
const LOCK: i64 = 0x53_5445_4E4F;
/// Columns of the temporary table that are those of `events`.
const COLUMNS: &str = "tenant_id, event_id, received_at, occurred_at, kind, action, category, service, severity, outcome, actor_type, actor_id, \
                       entity_type, entity_id, request_id, trace_id, chain_id, chain_epoch, chain_seq, hash, body";

/// Columns of `event_repeats`.
const REPEATS: &str = "chain_id, chain_epoch, chain_seq, hash, received_at, same_as_tenant_id, same_as_event_id, is_conflict";

/// How long a batch may take, a new connection included. A server that hangs answers nothing, and closes nothing.
const LIMIT: Duration = Duration::from_mins(1);

/// The same for one statement.
const STATEMENT_MS: u32 = 50_000;
/// How long one host may take to connect and to say what it is.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the making of one partition may take, while sidecars wait for it.
const PARTITION_MS: u32 = 3000;
/// Rows that are moved out of `events_other` by a sidecar; more are moved by an administrator.
const MAX_MOVED: i64 = 20_000;
/// How long a lock on the tables is waited for, while others wait behind it.
const LOCK_MS: u32 = 1000;
/// Time between two looks at partitions, if all are there, and if one could not be made.
const PARTITIONS: Duration = Duration::from_hours(1);
const PARTITIONS_AGAIN: Duration = Duration::from_secs(30);
/// Months ahead that have a partition.
const MONTHS_AHEAD: u8 = 2;

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
    /// When partitions are looked at again.
    look_at: Instant,
    /// Version of the schema as of the connection.
    version: i32,
    /// Hosts and ports, and the one that is tried first.
    hosts: Vec<(String, u16)>,
    host: usize,
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
        let hosts = spec.hosts()?;
        config.dbname(&spec.database).user(&spec.user).application_name("steno-sidecar");
        config.connect_timeout(Duration::from_secs(10)).target_session_attrs(match spec.target_session {
            TargetSession::ReadWrite => TargetSessionAttrs::ReadWrite,
            TargetSession::Any => TargetSessionAttrs::Any,
        });
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
        let database =
            Database { config, tls, schema, create, client: None, look_at: Instant::now(), version: 0, hosts, host: 0 };
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
            let mut client = self.connect().await?;
            self.version = bring_up(&mut client, &self.schema, self.create).await?;
            self.look_at = Instant::now();
            self.client = Some(client);
        }
        self.client.as_mut().ok_or(Refusal::Busy)
    }

    /// Connects to the first host that answers as it should, beginning with the one that did the last time.
    async fn connect(&mut self) -> Result<Client, Refusal> {
        let limit = CONNECT.min(LIMIT * 3 / 4 / self.hosts.len().max(1) as u32);
        let mut faults = Vec::new();
        for _ in 0..self.hosts.len() {
            let (host, port) = &self.hosts[self.host];
            let mut config = self.config.clone();
            config.host(host).port(*port);
            let fault = match tokio::time::timeout(limit, open(&config, self.tls.clone())).await {
                Ok(Ok(client)) => return Ok(client),
                Ok(Err(error)) => told(&error),
                Err(_) => format!("no answer in {} s", limit.as_secs()),
            };
            faults.push(format!("{host}:{port}: {fault}"));
            self.host = (self.host + 1) % self.hosts.len();
        }
        Err(Refusal::Later(format!("the database cannot be used: {}", faults.join("; "))))
    }

    /// Makes the partitions of this month and the next ones that are missing, if it may and if it is time to look.
    async fn partitions(&mut self) {
        if !self.create || Instant::now() < self.look_at {
            return;
        }
        let Some(client) = &mut self.client else { return };
        self.look_at = Instant::now() + PARTITIONS;
        let mut first = Timestamp::now().to_zoned(TimeZone::UTC).date().first_of_month();
        for _ in 0..=MONTHS_AHEAD {
            match make_partition(client, &self.schema, first).await {
                Ok(Made::There) => {}
                Ok(Made::Elsewhere) => self.look_at = Instant::now() + PARTITIONS_AGAIN,
                Ok(Made::TooMany) => tracing::warn!(
                    %first,
                    rows = MAX_MOVED,
                    "more rows of a month are in events_other than a sidecar moves; move them as docs/how-to/postgres.md says"
                ),
                Err(error) => {
                    tracing::warn!(
                        error = told(&error),
                        %first,
                        "a month's partition could not be made yet; until then its records go to events_other"
                    );
                    if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) {
                        self.look_at = Instant::now() + PARTITIONS_AGAIN;
                    }
                }
            }
            first = next_month(first);
        }
    }

    async fn deliver(&mut self, rows: &[Row]) -> Result<(), Refusal> {
        self.connected().await?;
        let is_stored = self.store(rows).await.map_err(|error| {
            let refusal = classify(&error);
            if !matches!(refusal, Refusal::Refused { .. }) {
                // Whatever state the connection is in, the next one is in none.
                self.client = None;
            }
            refusal
        })?;
        if is_stored { Ok(()) } else { Err(Refusal::Later("somebody removes ids while records with them come again".into())) }
    }

    async fn store(&mut self, rows: &[Row]) -> Result<bool, tokio_postgres::Error> {
        let Some(client) = &mut self.client else { return Ok(false) };
        let transaction = begin(client).await?;
        let is_stored = insert(&transaction, &self.schema, self.version, rows).await?;
        if is_stored {
            transaction.commit().await?;
        }
        Ok(is_stored)
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

/// Connects to one host. The connection ends with the client; what ends it is told by what the client was doing.
async fn open(config: &Config, tls: Option<rustls::ClientConfig>) -> Result<Client, tokio_postgres::Error> {
    let Some(tls) = tls else {
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(async move { drop(connection.await) });
        return Ok(client);
    };
    let (client, connection) = config.connect(MakeRustlsConnect::new(tls)).await?;
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}

/// A transaction with its own time-out. A session's would be another client's behind a pooler.
async fn begin(client: &mut Client) -> Result<Transaction<'_>, tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    transaction.batch_execute(&format!("SET LOCAL statement_timeout = {STATEMENT_MS}; SET LOCAL TimeZone = 'UTC'")).await?;
    Ok(transaction)
}

/// A value of one row, by a statement without parameters.
async fn value<T>(transaction: &Transaction<'_>, statement: &str) -> Result<T, tokio_postgres::Error>
where
    T: for<'a> tokio_postgres::types::FromSql<'a>,
{
    transaction.query_typed_one(statement, &[]).await?.try_get(0)
}

async fn version(transaction: &Transaction<'_>, schema: &str) -> Result<i32, tokio_postgres::Error> {
    if !value::<bool>(transaction, &format!("SELECT to_regclass('{schema}.schema_version') IS NOT NULL")).await? {
        return Ok(0);
    }
    value(transaction, &format!("SELECT coalesce(max(version), 0) FROM {schema}.schema_version")).await
}

/// What came of a partition.
enum Made {
    /// It is there.
    There,
    /// Another sidecar is at it.
    Elsewhere,
    /// Too many of its rows are in `events_other`.
    TooMany,
}

/// Makes a month's partition, and moves to it what lies in `events_other`, if that is not much. Fails within a second if somebody reads the tables, and
/// holds deliveries up for a few seconds at most.
async fn make_partition(client: &mut Client, schema: &str, first: civil::Date) -> Result<Made, tokio_postgres::Error> {
    let name = format!("{schema}.events_{:04}_{:02}", first.year(), first.month());
    let transaction = begin(client).await?;
    if value(&transaction, &format!("SELECT to_regclass('{name}') IS NOT NULL")).await? {
        return Ok(Made::There);
    }
    if !value(&transaction, &format!("SELECT pg_try_advisory_xact_lock({LOCK})")).await? {
        return Ok(Made::Elsewhere);
    }
    let (from, to) = (format!("'{first} 00:00:00+00'"), format!("'{} 00:00:00+00'", next_month(first)));
    let of_month = format!("received_at >= {from} AND received_at < {to}");
    transaction
        .batch_execute(&format!("SET LOCAL statement_timeout = {PARTITION_MS}; SET LOCAL lock_timeout = {LOCK_MS}"))
        .await?;
    let rows = format!("SELECT count(*) FROM (SELECT FROM {schema}.events_other WHERE {of_month} LIMIT {MAX_MOVED} + 1) few");
    if value::<i64>(&transaction, &rows).await? > MAX_MOVED {
        return Ok(Made::TooMany);
    }
    // The default partition is locked first: a row must not come to it between the move and the attachment.
    let statements = format!(
        "LOCK TABLE {schema}.events_other IN ACCESS EXCLUSIVE MODE; \
         CREATE TABLE {name} (LIKE {schema}.events INCLUDING DEFAULTS INCLUDING CONSTRAINTS); \
         WITH moved AS (DELETE FROM {schema}.events_other WHERE {of_month} RETURNING *) \
         INSERT INTO {name} SELECT * FROM moved; \
         ALTER TABLE {schema}.events ATTACH PARTITION {name} FOR VALUES FROM ({from}) TO ({to})"
    );
    transaction.batch_execute(&statements).await?;
    transaction.commit().await.map(|()| Made::There)
}

/// Looks at the schema, and brings it up to date if it may. Its version, of which [`OLDEST_USABLE`] and later will do.
async fn bring_up(client: &mut Client, schema: &str, create: bool) -> Result<i32, Refusal> {
    let fault =
        |error: tokio_postgres::Error| Refusal::Later(format!("the schema {schema} cannot be looked at: {}", told(&error)));
    let known = MIGRATIONS.len() as i32;
    let transaction = begin(client).await.map_err(fault)?;
    let encoding: String = value(&transaction, "SELECT current_setting('server_encoding')").await.map_err(fault)?;
    if encoding != "UTF8" {
        let fix = "records are Unicode; create a database with ENCODING 'UTF8'";
        return Err(Refusal::Later(format!("the database's encoding is {encoding}: {fix}")));
    }
    let mut at = version(&transaction, schema).await.map_err(fault)?;
    if at < known && create {
        transaction.batch_execute(&format!("SELECT pg_advisory_xact_lock({LOCK})")).await.map_err(fault)?;
        at = version(&transaction, schema).await.map_err(fault)?;
        let mut text = format!(
            "CREATE SCHEMA IF NOT EXISTS {schema}; SET LOCAL search_path TO {schema}; \
             CREATE TABLE IF NOT EXISTS schema_version (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now());\n"
        );
        for (index, step) in MIGRATIONS.iter().enumerate().skip(at as usize) {
            text.push_str(&format!("{step}\nINSERT INTO schema_version (version) VALUES ({});\n", index + 1));
        }
        if at == 0 {
            // Nobody reads or writes it yet.
            let mut first = Timestamp::now().to_zoned(TimeZone::UTC).date().first_of_month();
            for _ in 0..=MONTHS_AHEAD {
                text.push_str(&format!("{};\n", partition(schema, first)));
                first = next_month(first);
            }
        }
        let made = transaction.batch_execute(&text).await;
        made.map_err(|error| Refusal::Later(format!("the schema {schema} cannot be made: {}", told(&error))))?;
        at = known;
    }
    if at >= OLDEST_USABLE {
        // What would refuse every record is no record's fault.
        let repeats =
            if at >= WITH_REPEATS { format!("; SELECT {REPEATS} FROM {schema}.event_repeats LIMIT 0") } else { String::new() };
        let columns = format!("SELECT {COLUMNS} FROM {schema}.events LIMIT 0{repeats}");
        transaction.batch_execute(&columns).await.map_err(fault)?;
    }
    transaction.commit().await.map_err(fault)?;
    if at < OLDEST_USABLE {
        let fix = "set createSchema: true, or have somebody apply what `steno-sidecar postgres schema` prints";
        return Err(Refusal::Later(format!("the schema {schema} is not there; {fix}")));
    }
    if at < known {
        tracing::warn!(
            version = at,
            newest = known,
            "the schema is older than this sidecar; apply what `steno-sidecar postgres schema` prints"
        );
    }
    Ok(at)
}

/// Stores a batch: what is new, and what is there for another reason. False: an id that was there is gone; the batch must come again.
async fn insert(transaction: &Transaction<'_>, schema: &str, version: i32, rows: &[Row]) -> Result<bool, tokio_postgres::Error> {
    let positions: Vec<i64> = (0..rows.len() as i64).collect();
    let fingerprints: Vec<&[u8]> = rows.iter().map(|row| &*row.fingerprint).collect();
    let received: Vec<SystemTime> = rows.iter().map(|row| row.received_at).collect();
    let occurred: Vec<Option<SystemTime>> = rows.iter().map(|row| row.occurred_at).collect();
    let kinds: Vec<&str> = rows.iter().map(|row| &*row.kind).collect();
    // All texts but the hash, which has a column of bytes.
    let texts: Vec<Vec<Option<&str>>> =
        (0..TEXTS.len() - 1).map(|index| rows.iter().map(|row| row.texts[index].as_deref()).collect()).collect();
    let epochs: Vec<Option<i64>> = rows.iter().map(|row| row.epoch).collect();
    let seqs: Vec<Option<i64>> = rows.iter().map(|row| row.seq).collect();
    let hashes: Vec<Option<&[u8]>> = rows.iter().map(|row| row.hash.as_deref()).collect();
    let bodies: Vec<&[u8]> = rows.iter().map(|row| &*row.body).collect();
    let mut parameters: Vec<(&(dyn ToSql + Sync), Type)> = vec![
        (&positions, Type::INT8_ARRAY),
        (&fingerprints, Type::BYTEA_ARRAY),
        (&texts[0], Type::TEXT_ARRAY),
        (&texts[1], Type::TEXT_ARRAY),
        (&received, Type::TIMESTAMPTZ_ARRAY),
        (&occurred, Type::TIMESTAMPTZ_ARRAY),
        (&kinds, Type::TEXT_ARRAY),
    ];
    parameters.extend(texts[2..].iter().map(|column| (column as &(dyn ToSql + Sync), Type::TEXT_ARRAY)));
    parameters.extend([
        (&epochs as &(dyn ToSql + Sync), Type::INT8_ARRAY),
        (&seqs, Type::INT8_ARRAY),
        (&hashes, Type::BYTEA_ARRAY),
        (&bodies, Type::BYTEA_ARRAY),
    ]);
    let numbers: Vec<String> = (1..=parameters.len()).map(|number| format!("${number}")).collect();
    let incoming = format!("incoming AS (SELECT * FROM unnest({}) AS i (position, fingerprint, {COLUMNS}))", numbers.join(", "));
    let of_first = COLUMNS.split(", ").map(|column| format!("i.{column}")).collect::<Vec<_>>().join(", ");
    // In the order of the key, so that two sidecars with the same ids wait for each other and do not lock each other out.
    let fresh = format!(
        "WITH {incoming}, fresh AS ( \
           INSERT INTO {schema}.event_ids (tenant_id, event_id, fingerprint, received_at) \
           SELECT DISTINCT ON (tenant_id, event_id) tenant_id, event_id, fingerprint, received_at FROM incoming \
           ORDER BY tenant_id, event_id, position \
           ON CONFLICT DO NOTHING RETURNING tenant_id, event_id, fingerprint), \
         stored AS ( \
           INSERT INTO {schema}.events ({COLUMNS}) \
           SELECT DISTINCT ON (i.tenant_id, i.event_id) {of_first} FROM incoming i \
           JOIN fresh f ON f.tenant_id = i.tenant_id AND f.event_id = i.event_id AND f.fingerprint = i.fingerprint \
           ORDER BY i.tenant_id, i.event_id, i.position RETURNING 1) \
         SELECT count(*) FROM stored"
    );
    let stored: i64 = transaction.query_typed_one(&fresh, &parameters).await?.try_get(0)?;
    if stored == rows.len() as i64 {
        return Ok(true);
    }
    let known = format!(
        "WITH {incoming}, known AS ( \
           SELECT i.*, k.fingerprint <> i.fingerprint AS conflicts FROM incoming i \
           JOIN {schema}.event_ids k ON k.tenant_id = i.tenant_id AND k.event_id = i.event_id)"
    );
    let conflicts = format!(
        "{known}, conflicting AS ( \
           INSERT INTO {schema}.event_conflicts (tenant_id, event_id, fingerprint, received_at, body) \
           SELECT tenant_id, event_id, fingerprint, received_at, body FROM known WHERE conflicts \
           ORDER BY tenant_id, event_id, fingerprint, position ON CONFLICT DO NOTHING RETURNING 1) \
         SELECT (SELECT count(*) FROM known), (SELECT count(*) FROM conflicting)"
    );
    let known_rows: i64 = transaction.query_typed_one(&conflicts, &parameters).await?.try_get(0)?;
    if known_rows < rows.len() as i64 {
        return Ok(false);
    }
    if version < WITH_REPEATS {
        return Ok(true);
    }
    let others = format!(
        "{known}, repeats AS ( \
           INSERT INTO {schema}.event_repeats ({REPEATS}) \
           SELECT chain_id, chain_epoch, chain_seq, hash, received_at, tenant_id, event_id, conflicts FROM known i \
           WHERE chain_id IS NOT NULL AND chain_epoch IS NOT NULL AND chain_seq IS NOT NULL AND NOT EXISTS ( \
             SELECT FROM {schema}.events e WHERE e.tenant_id = i.tenant_id AND e.event_id = i.event_id \
             AND e.chain_id = i.chain_id AND e.chain_epoch = i.chain_epoch AND e.chain_seq = i.chain_seq) \
           ORDER BY chain_id, chain_epoch, chain_seq, position ON CONFLICT DO NOTHING RETURNING 1) \
         SELECT count(*) FROM repeats"
    );
    transaction.query_typed(&others, &parameters).await.map(|_| true)
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

    fn idle(&mut self) {
        if self.database.client.is_some() && Instant::now() >= self.database.look_at {
            let done = self.within(async |database| {
                database.partitions().await;
                Ok(())
            });
            if let Err(refusal) = done {
                tracing::warn!(?refusal, "partitions could not be looked at");
            }
        }
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
