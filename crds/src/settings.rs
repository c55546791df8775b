//! The librdkafka properties that `kafka.config` may set, with their types and bounds.
//!
//! Source of names and ranges: librdkafka's `CONFIGURATION.md` (2.12). What Steno's promises rest on (acks, idempotence,
//! retries, security, identity) has fields of its own and is not here.

use std::collections::BTreeMap;

/// The default of `reconnect.backoff.max.ms`.
pub const RECONNECT_MAX_MS: u64 = 2000;
/// The default of `message.timeout.ms`.
pub const MESSAGE_TIMEOUT_MS: u64 = 15_000;
/// The default of `queue.buffering.max.kbytes`.
pub const QUEUE_KBYTES: u64 = 24_576;
/// What a message needs besides its record: key, headers and framing, in bytes.
pub const RECORD_OVERHEAD: u64 = 16_384;

/// What a property takes.
#[derive(Debug, Clone, Copy)]
pub enum Setting {
    /// An integer between the two, both included.
    Integer(i64, i64),
    /// `true` or `false`.
    Flag,
    /// One of these words.
    Word(&'static [&'static str]),
}

/// The allow list: property, what it takes, what it is for.
pub const KAFKA_ALLOWED: &[(&str, Setting, &str)] = &[
    ("batch.size", Setting::Integer(1024, 10_485_760), "largest batch in bytes"),
    ("client.rack", Setting::Word(&[]), "rack of this client, any text"),
    ("compression.level", Setting::Integer(-1, 12), "level of the codec, -1 its own default"),
    ("connections.max.idle.ms", Setting::Integer(0, 2_147_483_647), "close idle connections after, 0 never"),
    ("linger.ms", Setting::Integer(0, 5_000), "longest wait to fill a batch"),
    ("message.max.bytes", Setting::Integer(1_000, 100_000_000), "largest request; must fit the broker's"),
    ("message.timeout.ms", Setting::Integer(1_000, 300_000), "time for one delivery before it counts as failed"),
    ("metadata.max.age.ms", Setting::Integer(1_000, 86_400_000), "refresh metadata at least this often"),
    (
        "partitioner",
        Setting::Word(&["murmur2_random", "murmur2", "consistent_random", "consistent", "fnv1a_random", "fnv1a", "random"]),
        "which partition a key belongs to; default murmur2_random, as the Java clients",
    ),
    ("queue.buffering.max.kbytes", Setting::Integer(1_024, 1_048_576), "memory of the client's queue"),
    ("reconnect.backoff.max.ms", Setting::Integer(0, 3_600_000), "longest wait between connection tries"),
    ("reconnect.backoff.ms", Setting::Integer(0, 3_600_000), "first wait between connection tries"),
    ("request.timeout.ms", Setting::Integer(100, 900_000), "time for one produce request at the broker"),
    ("retry.backoff.ms", Setting::Integer(1, 300_000), "wait between tries of a request"),
    ("socket.connection.setup.timeout.ms", Setting::Integer(1_000, 300_000), "time to set a connection up"),
    ("socket.keepalive.enable", Setting::Flag, "TCP keep-alive"),
    ("socket.nagle.disable", Setting::Flag, "send small packets at once"),
    ("socket.timeout.ms", Setting::Integer(10, 300_000), "time for one network request"),
    ("topic.metadata.refresh.interval.ms", Setting::Integer(1_000, 3_600_000), "how often topics are looked up"),
];

/// What properties must hold together: librdkafka refuses to make a client otherwise, or that client takes no record. Each fault: the property, and what is
/// wrong. `record`: the largest record in bytes.
pub(crate) fn check_together(config: &BTreeMap<String, String>, record: u64) -> Vec<(&'static str, String)> {
    let number = |name: &str, default: u64| config.get(name).and_then(|value| value.parse().ok()).unwrap_or(default);
    let mut faults = Vec::new();
    let (first, longest) = (number("reconnect.backoff.ms", 100), number("reconnect.backoff.max.ms", RECONNECT_MAX_MS));
    if first > longest {
        faults.push(("reconnect.backoff.ms", format!("is more than reconnect.backoff.max.ms ({longest}); raise that, too")));
    }
    let (linger, timeout) = (number("linger.ms", 1), number("message.timeout.ms", MESSAGE_TIMEOUT_MS));
    if linger >= timeout {
        faults.push(("linger.ms", format!("is not less than message.timeout.ms ({timeout}); raise that, too")));
    }
    let wanted = record + RECORD_OVERHEAD;
    let message = number("message.max.bytes", u64::MAX);
    if message < wanted {
        let fix = format!("is less than a record of limits.maxEventBytes needs ({wanted}); raise it, or lower the limit");
        faults.push(("message.max.bytes", fix));
    }
    let queue = number("queue.buffering.max.kbytes", QUEUE_KBYTES) * 1024;
    if queue < wanted {
        let fix =
            format!("holds less than a record of limits.maxEventBytes needs ({wanted} bytes); raise it, or lower the limit");
        faults.push(("queue.buffering.max.kbytes", fix));
    }
    faults
}

/// Checks one property; the error says what it takes.
pub(crate) fn check(name: &str, value: &str) -> Result<(), String> {
    let Some((_, setting, _)) = KAFKA_ALLOWED.iter().find(|(known, _, _)| *known == name) else {
        let names: Vec<_> = KAFKA_ALLOWED.iter().map(|(known, _, _)| *known).collect();
        return Err(format!("is not a property that may be set here; these may: {}", names.join(", ")));
    };
    match setting {
        Setting::Integer(min, max) => match value.parse::<i64>() {
            Ok(number) if (*min..=*max).contains(&number) => Ok(()),
            _ => Err(format!("takes an integer from {min} to {max}, not {value:?}")),
        },
        Setting::Flag if matches!(value, "true" | "false") => Ok(()),
        Setting::Flag => Err(format!("takes true or false, not {value:?}")),
        Setting::Word([]) if !value.is_empty() => Ok(()),
        Setting::Word(words) if words.contains(&value) => Ok(()),
        Setting::Word(words) => Err(format!("takes one of {words:?}, not {value:?}")),
    }
}
