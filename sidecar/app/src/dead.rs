//! `steno-sidecar dead`: records that Kafka refused for good and no topic took.
use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use steno_deliver::DeadFolder;
use steno_event::format_millis;
use steno_journal::{Key, Keys};

use crate::{
    args::{DeadAction, DeadArgs, Format},
    check::print,
};

/// Keys from their files.
pub(crate) fn keys(files: &[PathBuf]) -> anyhow::Result<Keys> {
    let read = |file: &PathBuf| {
        let bytes = std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
        Key::read(&bytes).with_context(|| file.display().to_string())
    };
    Ok(Keys::new(None, files.iter().map(read).collect::<anyhow::Result<_>>()?))
}

/// Lists or shows dead letters.
pub fn dead(args: &DeadArgs) -> anyhow::Result<ExitCode> {
    match &args.action {
        DeadAction::List { dir, key, output } => {
            let letters = DeadFolder::of(dir).list(&keys(key)?).with_context(|| format!("{} cannot be read", dir.display()))?;
            match output {
                Format::Table if letters.is_empty() => println!("no dead letters"),
                Format::Table => {
                    let mut table = Table::new();
                    table.load_preset(UTF8_HORIZONTAL_ONLY).set_header([
                        "seq",
                        "since",
                        "bytes",
                        "sink",
                        "destination",
                        "reason",
                    ]);
                    for letter in &letters {
                        let bytes = letter.record.len().to_string();
                        table.add_row([
                            &letter.seq.to_string(),
                            &format_millis(letter.at_ms),
                            &bytes,
                            &letter.sink,
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
        DeadAction::Show { dir, key, seq, sink } => {
            let letters = DeadFolder::of(dir).list(&keys(key)?).with_context(|| format!("{} cannot be read", dir.display()))?;
            let letter =
                letters.into_iter().find(|letter| letter.seq == *seq && sink.as_ref().is_none_or(|sink| *sink == letter.sink));
            let letter =
                letter.with_context(|| format!("there is no dead letter {seq}; `steno-sidecar dead list` shows them"))?;
            println!("{}", letter.record);
            Ok(ExitCode::SUCCESS)
        }
    }
}
