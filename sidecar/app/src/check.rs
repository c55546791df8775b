//! `steno-sidecar check`: is it valid, what does it mean, and is the destination fit?
use std::process::ExitCode;

use anyhow::Context as _;
use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use serde_json::{Value, json};
use steno_crds::{AuditPolicySpec, Parsed, parse};
use steno_deliver::kafka::{Secrets, preflight};

use crate::{
    args::{CheckArgs, Format},
    identity::Identity,
    policy::Compiled,
    printed::{printed, shown_json},
};

/// Checks a file.
pub fn check(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let text = std::fs::read_to_string(&args.file).with_context(|| format!("{} cannot be read", args.file.display()))?;
    let Parsed { config, unknown } = match parse(&text) {
        Ok(parsed) => parsed,
        Err(faults) => {
            let faults: Vec<Value> = faults.iter().map(|fault| json!({"path": fault.path, "message": fault.message})).collect();
            match args.output {
                Format::Table => {
                    for fault in &faults {
                        println!(
                            "{}: {}",
                            fault["path"].as_str().unwrap_or_default(),
                            fault["message"].as_str().unwrap_or_default()
                        );
                    }
                }
                format => print(&json!({"valid": false, "faults": faults}), format)?,
            }
            return Ok(ExitCode::from(1));
        }
    };
    let secrets = Secrets(args.secrets.clone());
    let identity = Identity::from_env(&config.policy.namespace);
    let compiled = Compiled::new(config, unknown, &identity, &secrets)?;
    let warnings = if args.preflight { Some(preflight(&compiled.destination(&identity, &secrets))) } else { None };
    let (findings, failed) = match &warnings {
        None => (Vec::new(), false),
        Some(Ok((_, warnings))) => (warnings.clone(), false),
        Some(Err(error)) => (vec![error.clone()], true),
    };
    let spec = &compiled.config.spec;
    match args.output {
        Format::Table => {
            let mut table = Table::new();
            table.load_preset(UTF8_HORIZONTAL_ONLY);
            let mut row = |name: &str, value: String| {
                table.add_row([name.to_owned(), value]);
            };
            row(
                "policy",
                format!("{}/{} ({})", compiled.config.policy.namespace, compiled.config.policy.name, compiled.config.hash),
            );
            row("events go to", format!("topic {} at {}", spec.kafka.topic, spec.kafka.brokers.join(", ")));
            row(
                "a 2xx means",
                match spec.ack {
                    steno_crds::Ack::Written => "written; a power cut may lose it".into(),
                    steno_crds::Ack::Durable => "on disk (fdatasync)".into(),
                    steno_crds::Ack::Delivered => format!("on disk, and waited {} for Kafka", spec.critical.timeout),
                },
            );
            row(
                "redaction",
                format!(
                    "{} builtin rules, {} of your own",
                    if spec.redaction.builtin { "with" } else { "WITHOUT" },
                    spec.redaction.rules.len()
                ),
            );
            row("largest event", format!("{} ({:?})", spec.limits.max_event_bytes, spec.limits.on_oversize));
            row("retries are known for", format!("{} of running time", spec.dedupe.window));
            row(
                "Kafka away",
                format!("{:?}; spool {} ({:?} when full)", spec.breaker.when_open, spec.spool.max_bytes, spec.spool.when_full),
            );
            for sink in &spec.sinks {
                let held = if sink.required { "required" } else { "may be left behind" };
                row(&format!("also to {}", sink.name), format!("{:?}, {held}", sink.r#type));
            }
            row("hash chain", format!("{:?}", spec.integrity.scope));
            println!("{table}");
            for field in &compiled.unknown {
                println!("warning: {}: not known to this version; left out", printed(field));
            }
            for warning in warnings_of(spec) {
                println!("warning: {warning}");
            }
            for secret in &compiled.missing_secrets {
                println!("warning: the Secret {secret} is not at {}", args.secrets.display());
            }
            for finding in &findings {
                println!("{}: {finding}", if failed { "preflight failed" } else { "preflight" });
            }
            if !failed {
                println!("valid");
            }
        }
        format => {
            let config = serde_json::to_value(&compiled.config)?;
            let answer = json!({
                "valid": true, "config": config, "unknownFields": compiled.unknown,
                "warnings": warnings_of(spec),
                "missingSecrets": compiled.missing_secrets, "preflight": findings,
            });
            print(&answer, format)?;
        }
    }
    Ok(if failed { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

/// What a valid policy had better not do.
fn warnings_of(spec: &AuditPolicySpec) -> Vec<String> {
    let advice = steno_crds::advice(spec);
    steno_redact::without_effect(&spec.redaction).into_iter().chain(advice.iter().map(ToString::to_string)).collect()
}

/// Prints a value for programs.
pub(crate) fn print(value: &Value, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Yaml => print!("{}", serde_yaml::to_string(value)?),
        _ => println!("{}", shown_json(&serde_json::to_string_pretty(value)?)),
    }
    Ok(())
}
