//! The control plane of Steno.
use std::process::ExitCode;

use clap::Parser as _;
use steno_operator::args::{Args, Command};

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Run(args) => steno_operator::run::run(&args),
        Command::Crd => {
            for (_, crd) in steno_crds::crds() {
                print!("---\n{}", steno_crds::crd_yaml(&crd));
            }
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
