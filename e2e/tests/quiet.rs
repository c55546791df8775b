//! A system with nothing to do does nothing: no log line, no reload, no counter that moves, next to no CPU.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::{collections::BTreeMap, fs, os::unix::fs::symlink, path::Path, time::Duration};

use steno_e2e::{
    cpu,
    kafka::Kafka,
    sidecar::{Sidecar, policy},
    wait_for,
};

/// How long nothing happens. It is the measurement, not a wait for something.
fn quiet() -> Duration {
    Duration::from_secs(steno_e2e::scaled(20, 60) as u64)
}

const SOON: Duration = Duration::from_mins(1);
/// Of one core, while nothing happens.
const MOST_CPU: f64 = 0.005;

/// Files of a volume as a kubelet lays them out: `KEY -> ..data/KEY`, `..data -> ..<time>/`.
fn put_as_kubelet(dir: &Path, time: &str, files: &[(&str, &[u8])]) {
    let fresh = format!("..{time}");
    fs::create_dir_all(dir.join(&fresh)).unwrap();
    for (name, bytes) in files {
        fs::write(dir.join(&fresh).join(name), bytes).unwrap();
        if fs::symlink_metadata(dir.join(name)).is_err() {
            symlink(format!("..data/{name}"), dir.join(name)).unwrap();
        }
    }
    let old = fs::read_link(dir.join("..data"));
    let _ = fs::remove_file(dir.join("..data_tmp"));
    symlink(&fresh, dir.join("..data_tmp")).unwrap();
    fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    if let Ok(old) = old {
        fs::remove_dir_all(dir.join(old)).unwrap();
    }
}

/// Counters of the metrics. The breaker looks every cooldown whether a broker is back: that is a delivery that failed, and all that may count.
fn counters(sidecar: &Sidecar) -> BTreeMap<String, String> {
    let (_, page) = sidecar.get("/metrics").unwrap();
    let lines = page.lines().filter(|line| line.split(['{', ' ']).next().unwrap().ends_with("_total"));
    let lines = lines.filter(|line| !line.starts_with("steno_delivery_failures_total"));
    lines.filter_map(|line| line.rsplit_once(' ')).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// A sidecar whose Secrets are laid out as a kubelet does it.
fn with_secrets(brokers: &str) -> Sidecar {
    let more = "  redaction: {keySecretRef: {name: hash, key: key}}\n  query: {enabled: true, tokenSecretRef: {name: look, key: token}}\n  breaker: {failureThreshold: 2, cooldown: 30s, noBrokerFor: 1s}\n";
    let mut sidecar = Sidecar::prepare(&policy(brokers, "audit", more));
    put_as_kubelet(&sidecar.secrets().join("hash"), "2026_11_28_1", &[("key", b"a key of the test")]);
    put_as_kubelet(&sidecar.secrets().join("look"), "2026_11_28_1", &[("token", b"a-token-of-the-test")]);
    sidecar.up();
    sidecar
}

#[track_caller]
fn stays_quiet(sidecar: &Sidecar) {
    let (log, counted, used) = (sidecar.log(), counters(sidecar), cpu(sidecar.pid()));
    std::thread::sleep(quiet());
    let share = (cpu(sidecar.pid()) - used) / quiet().as_secs_f64();
    let said = sidecar.log()[log.len()..].to_owned();
    assert!(said.is_empty(), "it had nothing to say:\n{said}");
    assert_eq!(counters(sidecar), counted);
    assert!(share < MOST_CPU, "{:.2} % of a core for nothing", share * 100.0);
}

#[test]
fn an_idle_sidecar_with_secrets_stays_idle_and_a_rotated_one_takes_effect_once() {
    let kafka = Kafka::start();
    kafka.topic("audit");
    let sidecar = with_secrets(&kafka.plain());
    wait_for("the topic to be known", SOON, || sidecar.log().contains("\"ready\"") || sidecar.breaker() == "closed");
    // What a start still has to say is said by then.
    std::thread::sleep(Duration::from_secs(5));
    stays_quiet(&sidecar);
    // Written again with what was there before: another file, and no change.
    let reloads = || sidecar.metric("steno_config_reloads_total{result=\"ok\"}");
    let before = reloads();
    put_as_kubelet(&sidecar.secrets().join("look"), "2026_11_28_2", &[("token", b"a-token-of-the-test")]);
    stays_quiet(&sidecar);
    put_as_kubelet(&sidecar.secrets().join("look"), "2026_11_28_3", &[("token", b"another-token-of-the-test")]);
    wait_for("the rotated token to count", SOON, || reloads() > before);
    stays_quiet(&sidecar);
    assert!((reloads() - before - 1.0).abs() < 0.1, "one change is one reload");
}

#[test]
fn a_sidecar_without_a_broker_and_without_events_waits_quietly() {
    let kafka = Kafka::start();
    kafka.topic("audit");
    kafka.down();
    let sidecar = with_secrets(&kafka.plain());
    wait_for("the breaker to open", SOON, || sidecar.breaker() == "open");
    wait_for("the preflight to give up", SOON, || sidecar.log().contains("\"preflight\""));
    std::thread::sleep(Duration::from_secs(5));
    stays_quiet(&sidecar);
}
