//! The command line.
use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use steno_crds::Span;

/// Audit events, durable before the answer, delivered to Kafka.
#[derive(Debug, Parser)]
#[command(name = "steno-sidecar", version, after_help = "Exit codes: 0 done; 1 a fault, told on standard error; 2 wrong usage.")]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve, as in a pod
    Run(RunArgs),
    /// Serve on this machine from an AuditPolicy, with an embedded Kafka and sample events
    Dev(DevArgs),
    /// Check an AuditPolicy or a rendered configuration, and explain it
    Check(CheckArgs),
    /// Ask a running sidecar of this machine whether it is up: exit 0 or 1, for a probe
    Health(HealthArgs),
    /// Post an event to the sidecar of this pod and read it back from Kafka: exit 0 only if it arrives, redacted
    Roundtrip(RoundtripArgs),
    /// Look at records that Kafka refused for good
    Dead(DeadArgs),
    /// The tables of the Postgres sink
    Postgres(PostgresArgs),
    /// Look into a journal, export its records, or mend it; of a sidecar that does not run
    Journal(JournalArgs),
}

/// Settings of `run`.
#[derive(Debug, Clone, ClapArgs)]
pub struct RunArgs {
    /// The configuration: a rendered `SidecarConfig` or an AuditPolicy; watched for changes
    #[arg(long, env = "STENO_CONFIG", default_value = "/etc/steno/config.yaml")]
    pub config: PathBuf,
    /// Public key (Ed25519, base64) of the operator: a configuration counts only if `<CONFIG>.sig` has its signature, and it is of the pod's namespace
    #[arg(long, env = "STENO_CONFIG_KEY")]
    pub config_key: Option<String>,
    /// The journal's directory
    #[arg(long, env = "STENO_DIR", default_value = "/var/lib/steno")]
    pub dir: PathBuf,
    /// Several sidecars share the directory: each takes a folder `slot-N` in it, and one that starts takes up what an earlier one left
    #[arg(long, env = "STENO_SHARED")]
    pub shared: bool,
    /// Deliver what other sidecars of the policy left in folders beside `--dir`; with `--shared` that is always done
    #[arg(long, env = "STENO_ADOPT")]
    pub adopt: bool,
    /// How long a folder must have been without a sidecar before another one delivers what is in it
    #[arg(long, env = "STENO_ADOPT_AFTER", default_value = "1m")]
    pub adopt_after: Span,
    /// Remove the journal's directory when it stops with nothing left to deliver, and nothing to retain: nobody uses it again
    #[arg(long, env = "STENO_REMOVE_DRAINED")]
    pub remove_drained: bool,
    /// The journal's directory where the other one cannot be used, with `--startup open`
    #[arg(long, env = "STENO_FALLBACK_DIR")]
    pub fallback_dir: Option<PathBuf>,
    /// Where Secrets are mounted: <DIR>/<name>/<key>
    #[arg(long, env = "STENO_SECRETS", default_value = "/var/run/steno/secrets")]
    pub secrets: PathBuf,
    /// Address that takes events; off loopback it is refused. `none`: the Unix socket only
    #[arg(long, env = "STENO_LISTEN", default_value = "127.0.0.1:9600")]
    pub listen: String,
    /// Unix socket that takes events, too
    #[arg(long, env = "STENO_SOCKET")]
    pub socket: Option<PathBuf>,
    /// Mode of Unix sockets, in octal (0600 to 0777): who may write may connect
    #[arg(long, env = "STENO_SOCKET_MODE", default_value = "0660", value_parser = socket_mode)]
    pub socket_mode: u32,
    /// Address of health, metrics and stats; `unix:PATH`: a Unix socket
    #[arg(long, env = "STENO_STATUS", default_value = "[::]:9601")]
    pub status: String,
    /// A further address of health, metrics and stats. Where it is taken the sidecar serves without it, says so in the log and tries again
    #[arg(long, env = "STENO_ALSO_STATUS")]
    pub also_status: Option<String>,
    /// Least grave log lines: error, warn, info, debug; wins over the configuration
    #[arg(long, env = "STENO_LOG_LEVEL")]
    pub log_level: Option<String>,
    /// Without a configuration, and without a last good one: `closed` does not start, `open` takes events and spools them until it comes
    #[arg(long, env = "STENO_STARTUP", value_enum, default_value = "closed", ignore_case = true)]
    pub startup: Startup,
    /// Threads that serve requests (1 to 64)
    #[arg(long, env = "STENO_THREADS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub threads: u64,
}

fn socket_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| (0o600..=0o777).contains(mode));
    mode.ok_or_else(|| "write it in octal, from 0600 to 0777".into())
}

/// Settings of `health`.
#[derive(Debug, Clone, ClapArgs)]
pub struct HealthArgs {
    /// Port of health, metrics and stats
    #[arg(long, default_value_t = 9601)]
    pub port: u16,
    /// Unix socket of health, metrics and stats, instead of the port
    #[arg(long, conflicts_with = "port")]
    pub socket: Option<PathBuf>,
    /// What is asked
    #[arg(long, default_value = "/healthz")]
    pub path: String,
}

/// Settings of `roundtrip`.
#[derive(Debug, Clone, ClapArgs)]
pub struct RoundtripArgs {
    /// Where the sidecar takes events
    #[arg(long, env = "STENO_URL", default_value = "http://127.0.0.1:9600")]
    pub url: String,
    /// Kafka, without TLS
    #[arg(long, value_name = "HOST:PORT")]
    pub brokers: String,
    /// The topic
    #[arg(long)]
    pub topic: String,
    /// How long it may take, in seconds (1 to 3600)
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
}

/// What `run` does without a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Startup {
    /// It takes events and spools them.
    Open,
    /// It does not start.
    Closed,
}

/// Settings of `dev`.
#[derive(Debug, Clone, ClapArgs)]
pub struct DevArgs {
    /// The AuditPolicy
    pub policy: PathBuf,
    /// End after the samples; exit 0 only if the consumer read exactly what was acked
    #[arg(long)]
    pub once: bool,
    /// Use this Kafka (HOST:PORT) instead of the embedded one
    #[arg(long, value_name = "HOST:PORT")]
    pub brokers: Option<String>,
    /// The journal's directory; else a temporary one
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Serve only; post no samples
    #[arg(long)]
    pub no_samples: bool,
    /// Folder of sample events; default: `events` beside the policy
    #[arg(long)]
    pub samples: Option<PathBuf>,
    /// Address that takes events
    #[arg(long, default_value = "127.0.0.1:9600")]
    pub listen: String,
    /// Address of health, metrics and stats
    #[arg(long, default_value = "127.0.0.1:9601")]
    pub status: String,
    /// Where secrets are: <DIR>/<name>/<key>; default: `secrets` beside the policy
    #[arg(long)]
    pub secrets: Option<PathBuf>,
    /// Least grave log lines: error, warn, info, debug
    #[arg(long, env = "STENO_LOG_LEVEL", default_value = "warn")]
    pub log_level: String,
}

/// Settings of `check`.
#[derive(Debug, Clone, ClapArgs)]
pub struct CheckArgs {
    /// An AuditPolicy or a rendered `SidecarConfig`, YAML or JSON
    pub file: PathBuf,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// Also ask the brokers: topic, settings, authorisation
    #[arg(long)]
    pub preflight: bool,
    /// Where Secrets are mounted: <DIR>/<name>/<key>
    #[arg(long, env = "STENO_SECRETS", default_value = "/var/run/steno/secrets")]
    pub secrets: PathBuf,
}

/// Settings of `dead`.
#[derive(Debug, Clone, ClapArgs)]
pub struct DeadArgs {
    /// What to do
    #[command(subcommand)]
    pub action: DeadAction,
}

/// Settings of `postgres`.
#[derive(Debug, Clone, ClapArgs)]
pub struct PostgresArgs {
    /// What to do
    #[command(subcommand)]
    pub action: PostgresAction,
}

/// What `postgres` does.
#[derive(Debug, Clone, Subcommand)]
pub enum PostgresAction {
    /// Print the schema as a script for psql, for a database where sidecars may not make it themselves
    Schema {
        /// Name of the schema
        #[arg(long, default_value = "steno", value_parser = schema_name)]
        schema: String,
        /// Months to make partitions for, from this one on (0 to 120)
        #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u8).range(0..=120))]
        months: u8,
    },
}

fn schema_name(name: &str) -> Result<String, String> {
    steno_crds::PostgresSink::check_schema(name).map(|()| name.to_owned()).map_err(str::to_owned)
}

/// Settings of `journal`.
#[derive(Debug, Clone, ClapArgs)]
pub struct JournalArgs {
    /// What to do
    #[command(subcommand)]
    pub action: JournalAction,
}

/// What to do with a journal.
#[derive(Debug, Clone, Subcommand)]
pub enum JournalAction {
    /// Show its segments, positions and damage; changes nothing
    Inspect {
        /// The journal's directory
        dir: PathBuf,
        /// A file with a key of `spool.encryption`; may stand several times
        #[arg(short, long)]
        key: Vec<PathBuf>,
        /// How to print
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        output: Format,
    },
    /// Print its records as JSON Lines, in order; changes nothing. Exit 1 where records are missing, which are told on standard error
    Export {
        /// The journal's directory
        dir: PathBuf,
        /// A file with a key of `spool.encryption`; may stand several times
        #[arg(short, long)]
        key: Vec<PathBuf>,
        /// First sequence number
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Sequence number to stop before; all where it is not given
        #[arg(long)]
        to: Option<u64>,
    },
    /// Show what can be mended without losing a record: headers of which one copy is damaged, spare files
    Repair {
        /// The journal's directory
        dir: PathBuf,
        /// A file with a key of `spool.encryption`; may stand several times
        #[arg(short, long)]
        key: Vec<PathBuf>,
        /// Do it. Without this nothing is changed
        #[arg(long)]
        apply: bool,
    },
}

/// What to do with dead letters.
#[derive(Debug, Clone, Subcommand)]
pub enum DeadAction {
    /// List them
    List {
        /// The journal's directory
        dir: PathBuf,
        /// A file with a key of `spool.encryption`; may stand several times
        #[arg(short, long)]
        key: Vec<PathBuf>,
        /// How to print
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        output: Format,
    },
    /// Deliver dead letters again; a sidecar that runs on this journal does it within seconds, else the next one that starts
    Requeue {
        /// The journal's directory
        dir: PathBuf,
        /// All letters
        #[arg(long, conflicts_with = "id", required_unless_present = "id")]
        all: bool,
        /// A letter's sequence number, as `list` shows it, or its record's eventId; may stand several times
        #[arg(long)]
        id: Vec<String>,
        /// Letters of this sink only
        #[arg(long)]
        sink: Option<String>,
        /// A file with a key of `spool.encryption`, to find an eventId; may stand several times
        #[arg(short, long)]
        key: Vec<PathBuf>,
    },
    /// Show one whole
    Show {
        /// The journal's directory
        dir: PathBuf,
        /// A file with a key of `spool.encryption`; may stand several times
        #[arg(short, long)]
        key: Vec<PathBuf>,
        /// Its sequence number, as `list` shows it
        seq: u64,
        /// The sink that refused it, where several did
        #[arg(long)]
        sink: Option<String>,
    },
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// For programs
    Json,
    /// For programs and people
    Yaml,
}

/// The page of all `--help` texts, `docs/reference/help.md`.
pub fn reference() -> String {
    fn write(page: &mut String, command: &mut clap::Command, name: &str) {
        let help = command.render_long_help().to_string();
        let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
        page.push_str(&format!("\n## `{name}`\n\n```text\n{}\n```\n", lines.join("\n").trim_end()));
        for inner in command.get_subcommands_mut().filter(|inner| inner.get_name() != "help") {
            let name = format!("{name} {}", inner.get_name());
            write(page, inner, &name);
        }
    }
    let mut page =
        String::from("# Help texts\n\nMade from the program by `make generate`. What the commands are for: [cli.md](cli.md).\n");
    // No terminal's width, no colours, no values of this environment.
    let mut command = <Args as clap::CommandFactory>::command()
        .term_width(110)
        .mut_subcommands(|command| command.mut_args(|arg| arg.hide_env_values(true)));
    command.build();
    write(&mut page, &mut command, "steno-sidecar");
    page
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_help_page_is_what_the_program_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/help.md");
        let page = super::reference();
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap_or_default(), page, "run `make generate`");
    }
}
