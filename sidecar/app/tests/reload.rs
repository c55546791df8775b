//! A changed configuration counts, whenever it was changed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod rig;

use std::time::{Duration, Instant};

use rig::Rig;
use serde_json::Value;

fn config(rig: &Rig) -> Value {
    serde_json::from_str::<Value>(&rig.get("/v1/stats").1).unwrap()["config"].take()
}

/// Follows the file, and waits until what it says counts.
fn follows(mut rig: Rig, is_told: impl Fn(&Value) -> bool) {
    rig.watch();
    // The look that comes once a minute is not what is tested here.
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let now = config(&rig);
        if is_told(&now) {
            return;
        }
        assert!(Instant::now() < until, "waited in vain: {now}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_change_between_the_start_and_the_watch_counts() {
    let rig = Rig::new("");
    let hash = config(&rig)["hash"].clone();
    rig.change("topic: audit", "topic: elsewhere");
    follows(rig, |now| now["error"].is_null() && now["hash"] != hash);
}

#[test]
fn a_fault_that_came_between_the_start_and_the_watch_is_told() {
    let rig = Rig::new("");
    rig.change("topic: audit", "topic: 'no topic'");
    follows(rig, |now| now["error"].as_str().is_some_and(|error| error.contains("spec.kafka.topic")));
}
