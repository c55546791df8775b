//! The control plane of Steno.
use std::process::ExitCode;

use clap::Parser as _;
use steno_operator::args::{Args, Command};

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Run(args) => steno_operator::run::run(&args),
        Command::Crd => {
            print!("{}", steno_crds::audit_policy_crd_yaml());
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("steno-operator: {error:#}");
            ExitCode::from(1)
        }
    }
}
