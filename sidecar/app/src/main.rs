//! The data plane of Steno.
use std::process::ExitCode;

use clap::Parser;
use steno_app::{
    args::{Args, Command, PostgresAction},
    check, dead, dev, health, journal, roundtrip, run,
};

/// Files are for this user only, whoever makes them, and no other process of the same user reads this one's memory: it has keys.
fn keep_private() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit, umask};
    umask(rustix::fs::Mode::from_bits_truncate(0o077));
    // What is refused here a container's rules forbid anyway.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}

fn main() -> ExitCode {
    keep_private();
    let command = Args::parse().command;
    if !matches!(command, Command::Run(_) | Command::Dev(_)) {
        // `… | head` ends a command that prints, without a panic. A sidecar's own pipes and sockets report errors instead.
        sigpipe::reset();
    }
    let result = match command {
        Command::Run(args) => run::run(&args),
        Command::Dev(args) => dev::dev(&args),
        Command::Check(args) => check::check(&args),
        Command::Health(args) => health::health(&args),
        Command::Roundtrip(args) => roundtrip::roundtrip(&args),
        Command::Dead(args) => dead::dead(&args),
        Command::Postgres(args) => {
            let PostgresAction::Schema { schema, months } = &args.action;
            let now = jiff::Timestamp::now();
            print!("{}", steno_deliver::postgres::script(schema, now, *months));
            Ok(ExitCode::SUCCESS)
        }
        Command::Journal(args) => journal::journal(&args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("steno-sidecar: {error:#}");
            ExitCode::from(1)
        }
    }
}
