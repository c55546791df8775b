//! Every default and every bound, once. Types, validation, schema and reference page are made from this table.
use crate::{ByteSize, Span};

/// A bounded field.
#[derive(Debug, Clone, Copy)]
pub struct Bound<T: 'static> {
    /// Path below `spec`.
    pub path: &'static str,
    /// The value where the user sets none; `None`: the field is unset by default.
    pub default: Option<T>,
    /// Smallest value accepted.
    pub min: T,
    /// Largest value accepted.
    pub max: T,
}

impl<T: Copy> Bound<T> {
    /// The default, for a field that has one.
    pub const fn value(&self) -> T {
        match self.default {
            Some(value) => value,
            None => self.min,
        }
    }
}

/// One row of the table, whatever its type.
#[derive(Debug, Clone, Copy)]
pub enum Row {
    /// A size in bytes.
    Size(&'static Bound<ByteSize>),
    /// A span of time.
    Time(&'static Bound<Span>),
    /// A count.
    Count(&'static Bound<u64>),
}

impl Row {
    /// Path below `spec`.
    pub fn path(&self) -> &'static str {
        match self {
            Self::Size(bound) => bound.path,
            Self::Time(bound) => bound.path,
            Self::Count(bound) => bound.path,
        }
    }

    /// Default, smallest and largest value as a user writes them.
    pub fn shown(&self) -> (Option<String>, String, String) {
        fn three<T: ToString>(bound: &Bound<T>) -> (Option<String>, String, String) {
            (bound.default.as_ref().map(ToString::to_string), bound.min.to_string(), bound.max.to_string())
        }
        match self {
            Self::Size(bound) => three(bound),
            Self::Time(bound) => three(bound),
            Self::Count(bound) => three(bound),
        }
    }
}

const fn kib(n: u64) -> ByteSize {
    ByteSize(n << 10)
}
const fn mib(n: u64) -> ByteSize {
    ByteSize(n << 20)
}
const fn seconds(n: u64) -> Span {
    Span(n * 1000)
}

macro_rules! table {
    ($($name:ident: $kind:ident<$type:ty> = $path:literal, $default:expr, $min:expr, $max:expr;)*) => {
        $(
            #[doc = concat!("Bound of `spec.", $path, "`.")]
            pub const $name: Bound<$type> = Bound { path: $path, default: $default, min: $min, max: $max };
        )*
        /// All rows, in the order of the reference page.
        pub const TABLE: &[Row] = &[$(Row::$kind(&$name)),*];
    };
}

table! {
    CREATE_PARTITIONS: Count<u64> = "kafka.create.partitions", Some(6), 1, 10_000;
    CREATE_REPLICATION: Count<u64> = "kafka.create.replicationFactor", Some(3), 1, 15;
    BATCH_BACKLOG: Count<u64> = "kafka.batch[].backlog", None, 1, 100_000_000;
    BATCH_SIZE: Count<u64> = "kafka.batch[].size", None, 1, 10_000;
    MAX_EVENT_BYTES: Size<ByteSize> = "limits.maxEventBytes", Some(kib(64)), kib(2), mib(8);
    MAX_BODY_BYTES: Size<ByteSize> = "limits.maxBodyBytes", Some(mib(1)), kib(4), mib(64);
    MAX_BATCH_ITEMS: Count<u64> = "limits.maxBatchItems", Some(10_000), 1, 100_000;
    MAX_CONNECTIONS: Count<u64> = "limits.maxConnections", Some(1024), 1, 65_536;
    RATE_TOTAL: Count<u64> = "limits.rate.total", None, 1, 10_000_000;
    RATE_TENANT: Count<u64> = "limits.rate.perTenant", None, 1, 10_000_000;
    RATE_BURST: Count<u64> = "limits.rate.burst", None, 1, 10_000_000;
    RATE_CRITICAL: Count<u64> = "limits.rate.critical", None, 1, 10_000_000;
    RATE_TENANTS: Count<u64> = "limits.rate.maxTenants", Some(4096), 1, 1_000_000;
    DEDUPE_WINDOW: Time<Span> = "dedupe.window", Some(seconds(86_400)), seconds(1), seconds(30 * 86_400);
    DEDUPE_ENTRIES: Count<u64> = "dedupe.maxEntries", Some(131_072), 1024, 16_777_216;
    CRITICAL_TIMEOUT: Time<Span> = "critical.timeout", Some(seconds(2)), Span(10), seconds(60);
    BREAKER_THRESHOLD: Count<u64> = "breaker.failureThreshold", Some(5), 1, 1000;
    BREAKER_COOLDOWN: Time<Span> = "breaker.cooldown", Some(seconds(10)), Span(100), seconds(3600);
    BREAKER_NO_BROKER: Time<Span> = "breaker.noBrokerFor", Some(seconds(10)), Span(500), seconds(600);
    SPOOL_BYTES: Size<ByteSize> = "spool.maxBytes", Some(mib(1024)), mib(8), ByteSize(16 << 40);
    RETAIN_AGE: Time<Span> = "spool.retain.age", None, seconds(1), seconds(365 * 86_400);
    RETAIN_BYTES: Size<ByteSize> = "spool.retain.bytes", None, mib(1), ByteSize(16 << 40);
    MAX_CHAINS: Count<u64> = "integrity.maxChains", Some(1024), 1, 16_384;
    DRAIN_TIMEOUT: Time<Span> = "sidecar.drainTimeout", Some(seconds(20)), Span(0), seconds(600);
    REQUEST_TIMEOUT: Time<Span> = "sidecar.requestTimeout", Some(seconds(10)), Span(100), seconds(300);
    CPU_REQUEST_MILLIS: Count<u64> = "sidecar.resources.cpuRequestMillis", None, 1, 64_000;
    CPU_LIMIT_MILLIS: Count<u64> = "sidecar.resources.cpuLimitMillis", None, 10, 64_000;
    MEMORY_REQUEST: Size<ByteSize> = "sidecar.resources.memoryRequest", None, mib(8), mib(65_536);
    MEMORY_LIMIT: Size<ByteSize> = "sidecar.resources.memoryLimit", None, mib(32), mib(65_536);
    MAX_CPU_MILLIS: Count<u64> = "sidecar.resources.maxCpuMillis", None, 10, 64_000;
    MAX_MEMORY: Size<ByteSize> = "sidecar.resources.maxMemory", None, mib(32), mib(65_536);
    SINK_LAG_BYTES: Size<ByteSize> = "sinks[].maxLag.bytes", None, mib(1), ByteSize(16 << 40);
    SINK_LAG_AGE: Time<Span> = "sinks[].maxLag.age", None, seconds(1), seconds(30 * 86_400);
    SINK_THRESHOLD: Count<u64> = "sinks[].breaker.failureThreshold", Some(5), 1, 1000;
    SINK_COOLDOWN: Time<Span> = "sinks[].breaker.cooldown", Some(seconds(10)), Span(100), seconds(3600);
    FILE_BYTES: Size<ByteSize> = "sinks[].file.rotateBytes", Some(mib(64)), mib(1), ByteSize(1 << 40);
    FILE_AGE: Time<Span> = "sinks[].file.rotateAge", Some(seconds(86_400)), seconds(1), seconds(365 * 86_400);
    FILE_BACKUPS: Count<u64> = "sinks[].file.backups", Some(7), 0, 10_000;
    HTTP_BATCH: Count<u64> = "sinks[].http.batch", Some(100), 1, 10_000;
    HTTP_TIMEOUT: Time<Span> = "sinks[].http.timeout", Some(seconds(10)), Span(100), seconds(300);
    POSTGRES_BATCH: Count<u64> = "sinks[].postgres.batch", Some(500), 1, 10_000;
    INTENT_EXPIRE: Time<Span> = "intents.expireAfter", Some(seconds(86_400)), seconds(10), seconds(30 * 86_400);
    INTENT_BYTES: Size<ByteSize> = "intents.maxBytes", Some(mib(64)), mib(16), ByteSize(1 << 40);
    INTENT_PAYLOAD: Size<ByteSize> = "intents.maxPayloadBytes", Some(kib(256)), kib(1), kib(768);
    INTENT_OPEN: Count<u64> = "intents.maxOpen", Some(10_000), 1, 100_000;
    REQUEST_LOG_RATE: Count<u64> = "sidecar.requestLogRate", Some(10), 0, 1_000_000;
}
