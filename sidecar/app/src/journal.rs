//! `steno-sidecar journal`: looking into the journal of a sidecar that does not run.
use std::{
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context as _;
use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use serde_json::{Value, json};
use steno_commit::frames;
use steno_event::format_millis;
use steno_journal::{Damage, Disk, Envelope, Extent, Journal, Next, Opened, ReadOnly, Reader, RealDisk, repair, sink_id};

use crate::{
    args::{Format, JournalAction, JournalArgs},
    check::print,
    dead::keys,
    printed::Lines,
};

/// What a segment holds.
#[derive(Default, Clone, Copy)]
struct Held {
    blocks: u64,
    records: u64,
    stored: u64,
    plain: u64,
    first_ms: u64,
    last_ms: u64,
}

/// Inspects, exports or mends.
pub fn journal(args: &JournalArgs) -> anyhow::Result<ExitCode> {
    match &args.action {
        JournalAction::Inspect { dir, key, output } => inspect(dir, key, *output),
        JournalAction::Export { dir, key, from, to } => export(dir, key, *from, to.unwrap_or(u64::MAX)),
        JournalAction::Repair { dir, key, apply } => mend(dir, key, *apply),
    }
}

fn open(dir: &Path, key: &[PathBuf]) -> anyhow::Result<Opened> {
    anyhow::ensure!(dir.is_dir(), "{} is no directory", dir.display());
    let envelope = Envelope { keys: Arc::new(keys(key)?), compress: false };
    let disk: Arc<dyn Disk> = Arc::new(ReadOnly::new(dir));
    let reached = |uuid: &[u8; 16]| steno_commit::index::reached(&disk, uuid);
    Journal::inspect(disk.clone(), envelope, &reached).with_context(|| format!("{} holds no journal", dir.display()))
}

fn shown(damage: &Damage) -> String {
    let chains: Vec<String> =
        damage.ranges.iter().map(|range| format!("{} {} to {}", range.id, range.first, range.last)).collect();
    let at = if damage.extent == Extent::AtMost { "lost at most, maybe never acknowledged" } else { "lost" };
    let of = if chains.is_empty() { String::new() } else { format!("; of chains: {}", chains.join(", ")) };
    format!("records {} to {} {at}{of}", damage.first_seq, damage.next_seq.saturating_sub(1))
}

fn inspect(dir: &Path, key: &[PathBuf], output: Format) -> anyhow::Result<ExitCode> {
    let opened = open(dir, key)?;
    let segments = opened.journal.segments();
    let mut held = vec![Held::default(); segments.len()];
    let mut damage = opened.damage;
    let mut reader = Reader::new(opened.journal.shared(), 0);
    loop {
        match reader.next()? {
            Next::CaughtUp => break,
            Next::Lost(lost) => damage.push(lost),
            Next::Block(block) => {
                let place = segments.iter().position(|segment| segment.generation == block.header.generation);
                let Some(held) = place.and_then(|place| held.get_mut(place)) else { continue };
                held.blocks += 1;
                held.records += u64::from(block.header.count);
                held.stored += u64::from(block.header.payload_len);
                held.plain += u64::from(block.header.plain_len);
                held.first_ms = if held.first_ms == 0 { block.header.wall_ms } else { held.first_ms };
                held.last_ms = block.header.wall_ms;
            }
        }
    }
    let next_seq = opened.journal.next_seq();
    let of_kafka = ["kafka", "intents"].iter().find_map(|sink| opened.journal.positions().get(&sink_id(sink)));
    let position = of_kafka.copied().unwrap_or_default();
    let time = |ms: u64| if ms == 0 { Value::Null } else { format_millis(ms).into() };
    let rows: Vec<Value> = segments
        .iter()
        .zip(&held)
        .map(|(segment, held)| {
            json!({
                "name": segment.name, "firstSeq": segment.first_seq, "records": held.records, "blocks": held.blocks,
                "fileBytes": segment.bytes, "storedBytes": held.stored, "plainBytes": held.plain,
                "encrypted": segment.encrypted, "from": time(held.first_ms), "to": time(held.last_ms),
            })
        })
        .collect();
    let mut lost: Vec<String> = damage.iter().map(shown).collect();
    lost.extend(opened.unusable.iter().map(|file| format!("file {file}")));
    if opened.state_lost {
        lost.push("the state cannot be read: sinks get what is there once more".into());
    }
    let uuid = uuid::Uuid::from_bytes(opened.journal.uuid()).to_string();
    let oldest = opened.journal.shared().oldest();
    let all = json!({
        "journal": uuid, "oldestSeq": oldest, "nextSeq": next_seq, "delivered": position,
        "undelivered": next_seq.saturating_sub(position), "segments": rows, "damage": lost,
    });
    if output != Format::Table {
        print(&all, output)?;
        return Ok(ExitCode::SUCCESS);
    }
    let undelivered = next_seq.saturating_sub(position);
    println!("journal {uuid}\nrecords {oldest} to {}, {undelivered} undelivered\n", next_seq.saturating_sub(1));
    let mut table = Table::new();
    table.load_preset(UTF8_HORIZONTAL_ONLY);
    table.set_header(["segment", "first", "records", "blocks", "stored", "of", "encrypted", "from", "to"]);
    for row in &rows {
        let text = |name: &str| row[name].as_str().map_or_else(|| row[name].to_string(), str::to_owned);
        let yes = if row["encrypted"] == true { "yes" } else { "no" };
        table.add_row([
            text("name"),
            text("firstSeq"),
            text("records"),
            text("blocks"),
            text("storedBytes"),
            text("plainBytes"),
            yes.to_owned(),
            text("from"),
            text("to"),
        ]);
    }
    println!("{table}");
    for line in &lost {
        println!("damage: {line}");
    }
    Ok(ExitCode::SUCCESS)
}

fn export(dir: &Path, key: &[PathBuf], from: u64, to: u64) -> anyhow::Result<ExitCode> {
    let opened = open(dir, key)?;
    let mut reader = Reader::new(opened.journal.shared(), from);
    let stdout = std::io::stdout().lock();
    let is_seen = stdout.is_terminal();
    let mut out: Box<dyn std::io::Write> = Box::new(std::io::BufWriter::new(stdout));
    if is_seen {
        out = Box::new(Lines(out));
    }
    let mut whole = true;
    let tell = |damage: &Damage| {
        let hit = damage.first_seq < to && damage.next_seq > from;
        if hit {
            eprintln!("missing: {}", shown(damage));
        }
        hit
    };
    for damage in &opened.damage {
        whole &= !tell(damage);
    }
    'all: loop {
        match reader.next()? {
            Next::CaughtUp => break,
            Next::Lost(damage) => whole &= !tell(&damage),
            Next::Block(block) => {
                for (seq, frame) in (block.header.first_seq..).zip(frames(&block.payload)) {
                    if seq >= to {
                        break 'all;
                    }
                    if seq >= from {
                        // Of a write intent only what the topic gets: what an application will write leaves the pod in no form.
                        let public = steno_intent::public_of(frame.json);
                        match &public {
                            Ok(None) => continue,
                            Ok(Some(public)) => out.write_all(public.as_bytes())?,
                            Err(_) => out.write_all(frame.json)?,
                        }
                        out.write_all(b"\n")?;
                    }
                }
            }
        }
    }
    out.flush()?;
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn mend(dir: &Path, key: &[PathBuf], apply: bool) -> anyhow::Result<ExitCode> {
    let opened = open(dir, key)?;
    for damage in &opened.damage {
        println!("the next start will record: {}", shown(damage));
    }
    for file in &opened.unusable {
        println!("the next start will move to the quarantine: {file}");
    }
    let looked = ReadOnly::new(dir);
    let steps = repair::plan(&looked).context("the directory cannot be read")?;
    if steps.is_empty() {
        println!("nothing to mend");
        return Ok(ExitCode::SUCCESS);
    }
    for step in &steps {
        println!("{} {step}", if apply { "done:" } else { "would" });
    }
    if !apply {
        println!("nothing was changed; --apply does it");
        return Ok(ExitCode::SUCCESS);
    }
    // Under its lock: not beside a sidecar that runs.
    let disk = RealDisk::open(dir)?;
    for step in &steps {
        step.apply(&disk as &dyn Disk).with_context(|| step.to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}
