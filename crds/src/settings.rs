//! The librdkafka properties that `kafka.config` may set, with their types and bounds.
//!
//! Source of names and ranges: librdkafka's `CONFIGURATION.md` (2.12). What Steno's promises rest on (acks, idempotence,
//! retries, security, identity) has fields of its own and is not here.

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
