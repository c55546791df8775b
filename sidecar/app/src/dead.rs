//! `steno-sidecar dead`: records that a sink refused and no topic took.
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use steno_deliver::{DeadFolder, DeadLetter, Which};
use steno_event::format_millis;
use steno_journal::{Key, Keys};

use crate::{
    args::{DeadAction, DeadArgs, Format},
    check::print,
    printed::{printed, shown_json},
};

/// Keys from their files.
pub(crate) fn keys(files: &[PathBuf]) -> anyhow::Result<Keys> {
    let read = |file: &PathBuf| {
        let bytes = std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
        Key::read(&bytes).with_context(|| file.display().to_string())
    };
    Ok(Keys::new(None, files.iter().map(read).collect::<anyhow::Result<_>>()?))
}

/// The letters of a journal's directory, and whether each is to be delivered again.
fn letters(dir: &Path, key: &[PathBuf]) -> anyhow::Result<Vec<(DeadLetter, bool)>> {
    let read = || format!("{} cannot be read", dir.display());
    anyhow::ensure!(std::fs::metadata(dir).with_context(read)?.is_dir(), "{} is not a directory", dir.display());
    DeadFolder::of(dir).list(&keys(key)?).with_context(read)
}

/// Asks for letters to be delivered again.
fn requeue(dir: &Path, which: &Which, sink: Option<&str>) -> anyhow::Result<ExitCode> {
    let count = DeadFolder::of(dir).requeue(which, sink).with_context(|| format!("{} cannot be written", dir.display()))?;
    println!("{count} dead letters will be delivered again");
    Ok(ExitCode::SUCCESS)
}

/// The letters with these sequence numbers or event ids.
fn named(letters: &[(DeadLetter, bool)], ids: &[String]) -> anyhow::Result<Which> {
    let event_id = |letter: &DeadLetter| {
        let record: Option<serde_json::Value> = serde_json::from_str(&letter.record).ok();
        record.and_then(|record| record["eventId"].as_str().map(str::to_owned))
    };
    let mut seqs = Vec::new();
    for id in ids {
        let before = seqs.len();
        let found = letters.iter().filter(|(letter, _)| letter.seq.to_string() == *id || event_id(letter).as_ref() == Some(id));
        seqs.extend(found.map(|(letter, _)| letter.seq));
        anyhow::ensure!(seqs.len() > before, "there is no dead letter {id}; `steno-sidecar dead list` shows them");
    }
    Ok(Which::Seqs(seqs))
}

/// Lists, shows or requeues dead letters.
pub fn dead(args: &DeadArgs) -> anyhow::Result<ExitCode> {
    match &args.action {
        DeadAction::List { dir, key, output } => {
            let letters = letters(dir, key)?;
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
                    let again = "requeued".to_owned();
                    for (letter, is_requeued) in &letters {
                        let bytes = letter.record.len().to_string();
                        table.add_row([
                            letter.seq.to_string().as_str(),
                            &format_millis(letter.at_ms),
                            &bytes,
                            &printed(&letter.sink),
                            &printed(&letter.destination),
                            &printed(if *is_requeued { &again } else { &letter.reason }),
                        ]);
                    }
                    println!("{table}");
                }
                format => {
                    let shown = |(letter, is_requeued): &(DeadLetter, bool)| {
                        let mut shown = serde_json::to_value(letter)?;
                        shown["requeued"] = (*is_requeued).into();
                        Ok(shown)
                    };
                    let shown: Vec<serde_json::Value> = letters.iter().map(shown).collect::<serde_json::Result<_>>()?;
                    print(&shown.into(), *format)?;
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        DeadAction::Show { dir, key, seq, sink } => {
            let letters = letters(dir, key)?.into_iter().map(|(letter, _)| letter);
            let letter =
                letters.into_iter().find(|letter| letter.seq == *seq && sink.as_ref().is_none_or(|sink| *sink == letter.sink));
            let letter =
                letter.with_context(|| format!("there is no dead letter {seq}; `steno-sidecar dead list` shows them"))?;
            // Programs get it as it is.
            println!("{}", shown_json(&letter.record));
            Ok(ExitCode::SUCCESS)
        }
        DeadAction::Requeue { dir, all: true, sink, key, .. } => {
            letters(dir, key)?;
            requeue(dir, &Which::All, sink.as_deref())
        }
        DeadAction::Requeue { dir, id, sink, key, .. } => requeue(dir, &named(&letters(dir, key)?, id)?, sink.as_deref()),
    }
}
