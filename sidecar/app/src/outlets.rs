//! Kafka and the further sinks of a policy: each with a forwarder and a thread of its own, started, changed and stopped together.
use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use steno_commit::{Critical, Frame, Handle, Observer};
use steno_crds::{FanOut, SinkSpec, SinkType};
use steno_deliver::{
    Control, DeadFolder, Deliveries, Families, Fate, Forwarder, Gate, Inbox, JournalSource, Manner, Metrics, Parts, Settings,
    Shape, SinkFactory, Snapshot, Status, Which, Worker, as_it_is,
    file::{Files, Rotation},
    http::{self, Http},
    intents::{self, Intents},
    kafka::{Destination, KafkaSink, Secrets, Transactions, exactly_once, verify_client},
    postgres::Postgres,
};
use steno_event::json::{Form, Json, Object, parse, write_json};
use steno_journal::{Damage, Shared, sink_id};
use steno_redact::{HashKey, Redactor};

/// Name of the sink that a policy always has.
pub const KAFKA: &str = "kafka";
/// Name of the sink of the intents' journal.
pub const INTENTS: &str = "intents";
/// Bytes of a batch of a further sink, its first record aside.
const BATCH_BYTES: usize = 1 << 20;
/// Records of a batch that is written to a file.
const FILE_BATCH: u64 = 500;
/// Members that a sink's own redaction leaves alone: what makes the record one.
const KEPT: &[&str] = &["eventId", "integrity", "kind", "receivedAt", "schemaVersion", "tenantId", "lost"];

/// Where a sink leads. Equal ones need no new connection.
#[derive(Clone, PartialEq)]
pub enum Target {
    /// Kafka.
    Kafka(Box<Destination>),
    /// Kafka, in transactions.
    ExactlyOnce(Box<Destination>),
    /// Kafka, the metadata of intents.
    Intents(Box<Destination>),
    /// A further one.
    Further(Box<Further>),
}

/// A further sink, with all that it is made from.
#[derive(Clone, PartialEq)]
pub struct Further {
    /// As the policy has it.
    pub spec: SinkSpec,
    /// Where its secrets are.
    pub secrets: Secrets,
    /// Hash of their contents, so that a rotated one makes another sink.
    pub secrets_hash: u64,
    /// `source` of its CloudEvents.
    pub source: String,
    /// The directory of its files.
    pub files: PathBuf,
    /// The key of `Hash`.
    pub key: Option<HashKey>,
}

/// A sink, and how it is delivered to.
#[derive(Clone)]
pub struct Route {
    /// Its name.
    pub name: String,
    /// Whether what it has not confirmed holds the journal.
    pub required: bool,
    /// Where it leads.
    pub target: Target,
    /// What its forwarder goes by.
    pub settings: Settings,
}

/// What all sinks of a journal share.
pub struct Common {
    /// The journal.
    pub shared: Arc<Shared>,
    /// The commit loop.
    pub commit: Handle,
    /// The journal's directory.
    pub dir: PathBuf,
    /// Damage that a record tells of already.
    pub damage: Arc<Mutex<Vec<Damage>>>,
    /// What is counted.
    pub metrics: Families,
    /// Who is told of what is synced.
    pub fan: Fan,
    /// For a sink that delivers in transactions.
    pub transactions: Transactions,
    /// Where dead letters go that no topic takes.
    pub dead: DeadFolder,
}

/// All sinks.
pub struct Outlets {
    common: Common,
    all: Mutex<Vec<Outlet>>,
    /// Whom an answer that waits for delivery waits for.
    answers: ArcSwap<Deliveries>,
    gate: Mutex<Option<Arc<Gate>>>,
    /// Positions of sinks that no policy has named since the start: until one comes they are kept.
    kept: Mutex<BTreeMap<u64, u64>>,
    /// How Kafka stands; always there.
    pub kafka: Arc<Status>,
}

struct Outlet {
    route: Route,
    inbox: Inbox,
    deliveries: Arc<Deliveries>,
    status: Arc<Status>,
    metrics: Metrics,
    thread: Option<JoinHandle<()>>,
}

/// Tells all forwarders what is synced.
#[derive(Clone, Default)]
pub struct Fan(Arc<Mutex<Vec<Inbox>>>);

/// How a sink stands, for people.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Its name.
    pub name: String,
    /// Whether the journal waits for it.
    pub required: bool,
    /// What it is.
    pub kind: &'static str,
    /// The rest.
    pub snapshot: Snapshot,
}

impl Observer for Fan {
    fn synced(&mut self, next_seq: u64, critical: Vec<Critical>) {
        let mut inboxes = self.0.lock();
        // Kafka is the first; to the others critical events go in their place.
        let mut critical = Some(critical);
        for inbox in inboxes.iter_mut() {
            inbox.synced(next_seq, critical.take().unwrap_or_default());
        }
    }
}

// === impl Target ===

impl Target {
    fn kind(&self) -> &'static str {
        match self {
            Self::Kafka(_) | Self::ExactlyOnce(_) | Self::Intents(_) => "Kafka",
            Self::Further(further) => match further.spec.r#type {
                SinkType::File => "File",
                SinkType::Http => "Http",
                SinkType::Postgres => "Postgres",
            },
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Kafka(destination) | Self::ExactlyOnce(destination) | Self::Intents(destination) => destination.describe(),
            Self::Further(further) => further.describe(),
        }
    }

    /// What may be kept of a record that it refuses.
    fn shown(&self) -> fn(&Frame<'_>) -> String {
        if matches!(self, Self::Intents(_)) { intents::shown } else { as_it_is }
    }

    /// Makes its client once, to learn whether that can be done.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn verify(&self) -> Result<(), String> {
        match self {
            Self::Kafka(destination) | Self::Intents(destination) => verify_client(destination, false),
            Self::ExactlyOnce(destination) => verify_client(destination, true),
            Self::Further(further) if further.spec.r#type == SinkType::File => Ok(()),
            Self::Further(further) => further.backend().map(drop),
        }
    }

    /// What makes its sink, each time that one is needed.
    pub fn factory(&self, transactions: &Transactions) -> SinkFactory {
        let transactions = transactions.clone();
        match self.clone() {
            Self::ExactlyOnce(destination) => {
                Box::new(move |sender| exactly_once((*destination).clone(), transactions.clone(), sender))
            }
            Self::Kafka(destination) => Box::new(move |sender| Ok(Box::new(KafkaSink::new((*destination).clone(), sender)?))),
            Self::Intents(destination) => Box::new(move |sender| Ok(Box::new(Intents::new((*destination).clone(), sender)?))),
            Self::Further(further) => Box::new(move |sender| {
                let (backend, records): (Box<dyn steno_deliver::Backend>, u64) = further.backend()?;
                let manner = Manner {
                    records: records as usize,
                    bytes: BATCH_BYTES,
                    alone: further.spec.r#type == SinkType::File,
                    in_order: false,
                    shape: further.shape()?,
                    key: None,
                    absence: None,
                    trouble: None,
                    limit: None,
                    describe: further.describe(),
                };
                Ok(Box::new(Worker::new(backend, manner, sender)?))
            }),
        }
    }
}

// === impl Further ===

impl Further {
    /// Records of a batch.
    pub fn batch(&self) -> u64 {
        let of_http = self.spec.http.as_ref().map(|http| http.batch);
        of_http.or_else(|| self.spec.postgres.as_ref().map(|db| db.batch)).unwrap_or(FILE_BATCH)
    }

    fn backend(&self) -> Result<(Box<dyn steno_deliver::Backend>, u64), String> {
        let backend: Box<dyn steno_deliver::Backend> = match (&self.spec.http, &self.spec.postgres) {
            (Some(http), _) => Box::new(Http::new(http, &self.secrets, &self.source)?),
            (_, Some(db)) => Box::new(Postgres::new(db, &self.secrets)?),
            _ => {
                let file = self.spec.file.clone().unwrap_or_default();
                let rotation = Rotation {
                    bytes: file.rotate_bytes.bytes(),
                    age: file.rotate_age.duration(),
                    backups: file.backups as usize,
                };
                Box::new(Files::open(&self.files, rotation)?)
            }
        };
        Ok((backend, self.batch()))
    }

    fn describe(&self) -> String {
        match (&self.spec.http, &self.spec.postgres) {
            (Some(spec), _) => http::shown(&spec.url),
            (_, Some(db)) => {
                let hosts = db.hosts().unwrap_or_default();
                let hosts: Vec<String> = hosts.iter().map(|(host, port)| format!("{host}:{port}")).collect();
                format!("database {} at {}, schema {}", db.database, hosts.join(","), db.schema)
            }
            _ => self.files.display().to_string(),
        }
    }

    /// Its own redaction; `None`: it has none.
    fn shape(&self) -> Result<Option<Shape>, String> {
        if self.spec.redaction.rules.is_empty() {
            return Ok(None);
        }
        let rules = steno_crds::Redaction { builtin: false, rules: self.spec.redaction.rules.clone(), key_secret_ref: None };
        let redactor =
            Redactor::compile(&rules, &steno_crds::Capture::default(), self.key.clone()).map_err(|error| error.to_string())?;
        Ok(Some(Arc::new(move |record: &[u8]| derive(&redactor, record).map_err(str::to_owned))))
    }
}

/// A record under further redaction; `None`: nothing of it changes. The sidecar's own records stay as they are: they tell of losses.
fn derive(redactor: &Redactor, record: &[u8]) -> Result<Option<Vec<u8>>, &'static str> {
    let text = std::str::from_utf8(record).map_err(|_| "it is no text")?;
    let Ok(Json::Object(members)) = parse(text) else { return Err("it is no record") };
    if members.get("kind").and_then(Json::as_str) != Some("Event") {
        return Ok(None);
    }
    let (kept, may): (Vec<_>, Vec<_>) = members.into_members().into_iter().partition(|(name, _)| KEPT.contains(&&**name));
    let mut may = Object::from_members(may).map_err(|_| "a member stands twice in it")?;
    let before = may.remove("redactions");
    let report = redactor.apply(&mut may, None);
    if report.failed {
        return Err("a rule could not be applied");
    }
    let Some(done) = report.redactions else { return Ok(None) };
    // What intake did stands first.
    let mut all = match before {
        Some(Json::Array(entries)) => entries,
        _ => Vec::new(),
    };
    if let Json::Array(more) = done {
        all.extend(more);
    }
    may.insert("redactions", Json::Array(all));
    for (name, mut value) in kept {
        if let ("integrity", Json::Object(integrity)) = (&*name, &mut value) {
            integrity.insert("derived", Json::Bool(true));
        }
        may.insert(name, value);
    }
    let mut out = Vec::with_capacity(record.len());
    write_json(&mut out, &Json::Object(may), Form::Shown);
    Ok(Some(out))
}

// === impl Outlets ===

impl Outlets {
    /// Starts a forwarder for each.
    pub fn start(
        common: Common,
        routes: Vec<Route>,
        fan_out: FanOut,
        positions: &BTreeMap<u64, u64>,
    ) -> anyhow::Result<Arc<Self>> {
        let kafka = Arc::new(Status::default());
        let nobody = Arc::new(Deliveries::new(0));
        let outlets = Self {
            common,
            all: Mutex::default(),
            answers: ArcSwap::from(nobody),
            gate: Mutex::new(None),
            kafka,
            kept: Mutex::new(positions.clone()),
        };
        {
            let mut all = outlets.all.lock();
            for route in routes {
                let position = outlets.kept.lock().remove(&sink_id(&route.name)).unwrap_or_default();
                all.push(outlets.begin(route, position)?);
            }
            outlets.go_together(&all, fan_out);
        }
        Ok(Arc::new(outlets))
    }

    fn begin(&self, route: Route, position: u64) -> anyhow::Result<Outlet> {
        let common = &self.common;
        let (inbox, events) = Inbox::channel();
        let deliveries = Arc::new(Deliveries::new(position));
        let status = if route.name == KAFKA { self.kafka.clone() } else { Arc::default() };
        status.update(|status| {
            status.breaker = "closed";
            status.destination = route.target.describe();
            (status.position, status.backlog) = (position, common.shared.synced().saturating_sub(position));
        });
        let metrics = common.metrics.of(&route.name);
        let parts = Parts {
            name: route.name.clone(),
            gate: None,
            settings: route.settings.clone(),
            factory: route.target.factory(&common.transactions),
            source: Box::new(JournalSource::new(common.shared.clone(), position)),
            position,
            known_damage: common.damage.clone(),
            trail: Box::new(common.commit.clone()),
            dead: common.dead.clone(),
            deliveries: deliveries.clone(),
            status: status.clone(),
            metrics: metrics.clone(),
            shown: route.target.shown(),
            seed: RandomState::new().hash_one(&route.name),
        };
        let forwarder = Forwarder::new(inbox.clone(), events, parts);
        common.fan.0.lock().push(inbox.clone());
        let thread = std::thread::Builder::new().name("steno-forward".into()).spawn(move || forwarder.run());
        Ok(Outlet { route, inbox, deliveries, status, metrics, thread: Some(thread.context("no thread for a forwarder")?) })
    }

    /// Has them go as the policy says.
    fn go_together(&self, all: &[Outlet], fan_out: FanOut) {
        let gated = fan_out == FanOut::AllOrNothing && all.len() > 1;
        let mut kept = self.gate.lock();
        // The same sinks keep their gate, and who waits at it.
        let gate = kept.take().filter(|gate| gated && gate.is_of(all.iter().map(|outlet| &*outlet.route.name))).or_else(|| {
            gated.then(|| {
                let members = all.iter();
                Arc::new(Gate::new(
                    members.map(|outlet| (outlet.route.name.clone(), outlet.deliveries.position(), outlet.inbox.sender())),
                ))
            })
        });
        kept.clone_from(&gate);
        for outlet in all {
            outlet.inbox.ask(Control::Gate(gate.clone()));
        }
        let answers = gate.map(|gate| gate.all().clone()).or_else(|| all.first().map(|outlet| outlet.deliveries.clone()));
        if let Some(answers) = answers {
            self.answers.store(answers);
        }
    }

    /// Whether these are the sinks that there are, and each leads where it does now.
    pub fn lead_as(&self, routes: &[Route]) -> bool {
        let all = self.all.lock();
        let same = |(outlet, new): (&Outlet, &Route)| outlet.route.name == new.name && outlet.route.target == new.target;
        all.len() == routes.len() && all.iter().zip(routes).all(same)
    }

    /// Makes the clients of the routes that lead elsewhere than now, to learn whether that can be done.
    ///
    /// # Errors
    /// The first sink whose client cannot be made, and why.
    pub fn verify(&self, routes: &[Route]) -> Result<(), String> {
        let is_known = |route: &&Route| {
            self.all.lock().iter().any(|outlet| outlet.route.name == route.name && outlet.route.target == route.target)
        };
        routes
            .iter()
            .filter(|route| !is_known(route))
            .try_for_each(|route| route.target.verify().map_err(|error| format!("sink {}: {error}", route.name)))
    }

    /// Has sinks come, change and go. The commit loop knows of them already.
    pub fn reload(&self, routes: Vec<Route>, fan_out: FanOut) {
        let mut all = self.all.lock();
        let mut old: BTreeMap<String, Outlet> = all.drain(..).map(|outlet| (outlet.route.name.clone(), outlet)).collect();
        self.common.fan.0.lock().clear();
        for route in routes {
            if let Some(mut outlet) = old.remove(&route.name) {
                let changed = outlet.route.target != route.target;
                let factory = changed.then(|| route.target.factory(&self.common.transactions));
                outlet.inbox.ask(Control::Reload(route.settings.clone(), factory));
                outlet.status.update(|status| status.destination = route.target.describe());
                outlet.route = route;
                self.common.fan.0.lock().push(outlet.inbox.clone());
                all.push(outlet);
                continue;
            }
            let name = route.name.clone();
            let kept = self.kept.lock().remove(&sink_id(&route.name));
            match self.begin(route, kept.unwrap_or_else(|| self.common.shared.oldest())) {
                Ok(outlet) => all.push(outlet),
                Err(error) => tracing::error!(sink = name, error = format!("{error:#}"), "a sink could not be started"),
            }
        }
        for (name, gone) in old {
            // What it has not confirmed is nobody's any more; it ends when what is on its way has come back, or at once.
            let (reply, _) = crossbeam_channel::bounded(1);
            gone.inbox.ask(Control::Stop(Duration::ZERO, reply));
            self.common.metrics.forget(&name);
            tracing::info!(sink = name, "the sink is no longer in the policy");
        }
        // The commit loop has let go of those that this policy does not name.
        self.kept.lock().clear();
        // Those that were not told of what was synced meanwhile look now.
        let synced = self.common.shared.synced();
        self.common.fan.0.lock().iter_mut().for_each(|inbox| inbox.synced(synced, Vec::new()));
        self.go_together(&all, fan_out);
    }

    /// Waits until a record is delivered as far as an answer waits for it. How it ended; `None`: it is still under way.
    pub async fn wait(&self, seq: u64, until: tokio::time::Instant) -> Option<Fate> {
        let answers = self.answers.load_full();
        answers.wait(seq, until).await
    }

    /// The names of all sinks.
    pub fn names(&self) -> Vec<String> {
        self.all.lock().iter().map(|outlet| outlet.route.name.clone()).collect()
    }

    /// Has dead letters delivered again. How many are asked for now.
    ///
    /// # Errors
    /// `dead/` cannot be written.
    pub fn requeue(&self, which: &Which, sink: Option<&str>) -> std::io::Result<usize> {
        let count = self.common.dead.requeue(which, sink)?;
        self.all.lock().iter().for_each(|outlet| outlet.inbox.ask(Control::Requeue));
        Ok(count)
    }

    /// Waits until every sink that is required is done with everything below a position. How many of these records became dead letters meanwhile, and how
    /// many were lost. The error: how many are left, and why.
    pub async fn wait_below(&self, target: u64, most: Duration) -> Result<(u64, u64), (u64, String)> {
        let until = Instant::now() + most;
        let wanted: Vec<(String, Arc<Deliveries>, Arc<Status>)> = {
            let all = self.all.lock();
            let required = all.iter().filter(|outlet| outlet.route.required);
            required.map(|outlet| (outlet.route.name.clone(), outlet.deliveries.clone(), outlet.status.clone())).collect()
        };
        let mut exceptions = (0, 0);
        for (name, deliveries, status) in wanted {
            let from = deliveries.position();
            let position = deliveries.wait_below(target, until.saturating_duration_since(Instant::now())).await;
            if position < target {
                let found = status.get();
                let reason = if found.reason.is_empty() { found.stalled_by } else { found.reason };
                return Err((target - position, if name == KAFKA { reason } else { format!("{name}: {reason}") }));
            }
            let (dead, lost) = deliveries.exceptions(from, target);
            exceptions = (exceptions.0 + dead, exceptions.1 + lost);
        }
        Ok(exceptions)
    }

    /// The sink whose breaker new events meet: Kafka's, or with `AllOrNothing` the first that is not closed.
    pub fn met(&self) -> Snapshot {
        if self.gate.lock().is_some() {
            let all = self.all.lock();
            if let Some(open) = all.iter().map(|outlet| outlet.status.get()).find(|snapshot| snapshot.breaker != "closed") {
                return open;
            }
        }
        self.kafka.get()
    }

    /// Whether an answer that waits for delivery has something to wait for.
    pub fn is_closed(&self) -> bool {
        if self.gate.lock().is_some() { self.met().breaker == "closed" } else { self.kafka.is_closed() }
    }

    /// Records that the slowest of the required sinks does not have.
    pub fn undelivered(&self) -> u64 {
        let synced = self.common.shared.synced();
        let all = self.all.lock();
        let required = all.iter().filter(|outlet| outlet.route.required);
        required.map(|outlet| synced.saturating_sub(outlet.deliveries.position())).max().unwrap_or_default()
    }

    /// How all of them stand, Kafka first.
    pub fn standings(&self) -> Vec<Standing> {
        let synced = self.common.shared.synced();
        let all = self.all.lock();
        let of = |outlet: &Outlet| Standing {
            name: outlet.route.name.clone(),
            required: outlet.route.required,
            kind: outlet.route.target.kind(),
            // A forwarder that waits for a client or a destination publishes nothing meanwhile.
            snapshot: Snapshot {
                backlog: synced.saturating_sub(outlet.deliveries.position()),
                position: outlet.deliveries.position(),
                ..outlet.status.get()
            },
        };
        all.iter().map(of).collect()
    }

    /// Brings the gauges of age up to date, which nobody else does while a sink is idle.
    pub fn refresh(&self, wall_ms: u64) {
        for outlet in &*self.all.lock() {
            outlet.metrics.oldest.set(outlet.status.get().age_ms(wall_ms) as i64 / 1000);
        }
    }

    /// What stands in the way of a required one.
    pub fn issue(&self) -> Option<String> {
        self.standings()
            .iter()
            .filter(|standing| standing.required)
            .find_map(|standing| standing.snapshot.issue(crate::intake::now_ms()))
    }

    /// Has all of them deliver for a while and end. Blocks. Gives back what the slowest required one is left with.
    pub fn stop(&self, most: Duration) -> u64 {
        let ask = |outlet: &Outlet| {
            let (reply, left) = crossbeam_channel::bounded(1);
            // Nobody waits for a sink that may be left behind and is away.
            let is_away = !outlet.route.required && !outlet.status.is_closed();
            outlet.inbox.ask(Control::Stop(if is_away { Duration::ZERO } else { most }, reply));
            (outlet.route.required, left)
        };
        let asked: Vec<_> = self.all.lock().iter().map(ask).collect();
        let until = Instant::now() + most + Duration::from_secs(15);
        let mut undelivered = 0;
        let mut is_known = true;
        for (required, left) in asked {
            let left = left.recv_deadline(until);
            if required {
                is_known &= left.is_ok();
                undelivered = undelivered.max(left.unwrap_or_default());
            }
        }
        let threads: Vec<_> = self.all.lock().iter_mut().filter_map(|outlet| outlet.thread.take()).collect();
        // A destination that hangs holds its thread; what it confirms later is sent again by whoever comes next.
        let until = Instant::now() + Duration::from_secs(5);
        for thread in threads {
            while !thread.is_finished() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
            if thread.is_finished() {
                // One that panicked told so itself.
                let _ = thread.join();
            }
        }
        // Those that ended first did not know how far the others would come.
        let gate = self.gate.lock().clone();
        let position = |outlet: &Outlet| {
            let own = outlet.deliveries.position();
            (sink_id(&outlet.route.name), gate.as_ref().map_or(own, |gate| gate.position().min(own)))
        };
        self.common.commit.positions(self.all.lock().iter().map(position).collect());
        if is_known { undelivered } else { self.undelivered() }
    }
}

/// The directory of a sink's files: of its own volume where the pod has it, else beside the journal.
pub fn files_dir(mounts: &Path, own: &str, journal: &Path, name: &str) -> PathBuf {
    let mount = mounts.join(name);
    if mount.is_dir() { mount.join(own) } else { journal.join("files").join(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sinks_own_redaction_tightens_marks_the_record_and_keeps_its_hash() {
        let rules = serde_json::from_str(
            r#"[{"path":"actor.id","action":"Mask"},{"path":"message","action":"Remove"},{"path":"integrity.hash","action":"Remove"}]"#,
        );
        let redaction = steno_crds::Redaction { builtin: false, rules: rules.unwrap(), key_secret_ref: None };
        let redactor = Redactor::compile(&redaction, &steno_crds::Capture::default(), None).unwrap();
        let record = r#"{"action":"a","actor":{"id":"alice"},"eventId":"e","integrity":{"hash":"00ff","seq":1},"kind":"Event","message":"secret","receivedAt":"r","redactions":[{"action":"Mask","path":"metadata.pan","rule":"detector:pan"}],"schemaVersion":"1","tenantId":"t"}"#;
        let derived = String::from_utf8(derive(&redactor, record.as_bytes()).unwrap().unwrap()).unwrap();
        let read: serde_json::Value = serde_json::from_str(&derived).unwrap();
        assert!(!derived.contains("secret") && !derived.contains("alice"), "{derived}");
        assert_eq!(read["integrity"], serde_json::json!({"hash": "00ff", "seq": 1, "derived": true}));
        assert_eq!((&read["eventId"], &read["kind"]), (&"e".into(), &"Event".into()));
        assert_eq!(read["redactions"][0]["path"], "metadata.pan", "what intake did is still told: {derived}");
        let redaction = steno_crds::Redaction {
            builtin: false,
            rules: serde_json::from_str(r#"[{"path":"actor.sessionId","action":"Mask"}]"#).unwrap(),
            key_secret_ref: None,
        };
        let redactor = Redactor::compile(&redaction, &steno_crds::Capture::default(), None).unwrap();
        assert_eq!(derive(&redactor, record.as_bytes()), Ok(None), "what is not changed stays byte for byte");
        let note = record.replace(r#""kind":"Event""#, r#""kind":"Drop""#).replace("alice", "steno-sidecar");
        assert_eq!(derive(&redactor, note.as_bytes()), Ok(None), "a record of the sidecar stays as it is");
        assert!(derive(&redactor, b"{").is_err(), "what cannot be redacted does not go");
    }
}
