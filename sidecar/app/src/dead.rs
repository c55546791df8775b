//! `steno-sidecar dead`: records that Kafka refused for good and no topic took.
use std::process::ExitCode;

use anyhow::Context as _;
use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use steno_deliver::DeadFolder;
use steno_event::format_millis;

use crate::{
    args::{DeadAction, DeadArgs, Format},
    check::print,
};

/// Lists or shows dead letters.
pub fn dead(args: &DeadArgs) -> anyhow::Result<ExitCode> {
    match &args.action {
        DeadAction::List { dir, output } => {
            let letters = DeadFolder::of(dir).list().with_context(|| format!("{} cannot be read", dir.display()))?;
            match output {
                Format::Table if letters.is_empty() => println!("no dead letters"),
                Format::Table => {
                    let mut table = Table::new();
                    table.load_preset(UTF8_HORIZONTAL_ONLY).set_header(["seq", "since", "bytes", "destination", "reason"]);
                    for letter in &letters {
                        let bytes = letter.record.len().to_string();
                        table.add_row([
                            &letter.seq.to_string(),
                            &format_millis(letter.at_ms),
                            &bytes,
                            &letter.destination,
                            &letter.reason,
                        ]);
                    }
                    println!("{table}");
                }
                format => print(&serde_json::to_value(&letters)?, *format)?,
            }
            Ok(ExitCode::SUCCESS)
        }
        DeadAction::Show { dir, seq } => {
            let letters = DeadFolder::of(dir).list().with_context(|| format!("{} cannot be read", dir.display()))?;
            let letter = letters.into_iter().find(|letter| letter.seq == *seq);
            let letter =
                letter.with_context(|| format!("there is no dead letter {seq}; `steno-sidecar dead list` shows them"))?;
            println!("{}", letter.record);
            Ok(ExitCode::SUCCESS)
        }
    }
}
