//! A fleet that exists in the API only (feature `cluster`): the operator's memory, and how long a changed policy takes to be told to all.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use steno_e2e::{
    cluster::NODE,
    scaled, wait_for,
    world::{SOON, policy, process_of, world},
};

/// `kubectl proxy`, so that pods are made faster than kubectl makes them.
struct Proxy {
    process: Child,
    url: String,
}

impl Proxy {
    fn start() -> Self {
        let mut process = Command::new("kubectl")
            .args(["proxy", "--port=0"])
            .env("KUBECONFIG", std::env::var_os("E2E_KUBECONFIG").unwrap())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = format!("http://{}", line.trim().rsplit(' ').next().unwrap());
        Self { process, url }
    }

    /// Makes pods that nobody schedules: they are there for the API only. `annotations` of each, by its number; `status`, which they get then.
    fn pods(
        &self,
        namespace: &str,
        numbers: std::ops::Range<usize>,
        annotations: impl Fn(usize) -> serde_json::Value + Sync,
        status: Option<&serde_json::Value>,
    ) {
        let next = AtomicUsize::new(numbers.start);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let agent = ureq::Agent::new_with_defaults();
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= numbers.end {
                            return;
                        }
                        let pod = serde_json::json!({
                            "metadata": {"name": format!("pod-{number}"), "annotations": annotations(number)},
                            "spec": {"schedulerName": "nobody", "containers": [{"name": "app", "image": "e2e.local/app:1"}]},
                        });
                        let url = format!("{}/api/v1/namespaces/{namespace}/pods", self.url);
                        agent.post(&url).content_type("application/json").send(pod.to_string()).unwrap();
                        if let Some(status) = status {
                            let url = format!("{url}/pod-{number}/status");
                            agent.patch(&url).content_type("application/merge-patch+json").send(status.to_string()).unwrap();
                        }
                    }
                });
            }
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn asks(_: usize) -> serde_json::Value {
    serde_json::json!({"audit.steno.dev/inject": "true"})
}

/// Resident memory of a process, and the most that it ever was, in MiB.
fn memory(pid: u32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let of = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    };
    (of("VmRSS:"), of("VmHWM:"))
}

#[test]
fn memory_is_flat_in_the_number_of_pods_and_a_change_is_told_to_all() {
    let world = world();
    let cluster = &world.cluster;
    cluster.kubectl(&["create", "namespace", "fleet"]);
    cluster.apply(&policy("audit", "fleet", &world.kafka.for_pods(), ""));
    cluster.rendered("fleet", "audit");
    wait_for("the default service account", SOON, || cluster.try_kubectl(&["get", "-n", "fleet", "serviceaccount", "default"]).0);
    let leader = cluster.leader();
    let pid = process_of(&leader).expect("the leader's process is on this machine");
    println!("no pods: resident {} MiB", memory(pid).0);
    let proxy = Proxy::start();
    let told = |pods: usize| {
        let rule = format!("  redaction: {{rules: [{{path: metadata.after{pods}, action: Replace}}]}}\n");
        let begun = Instant::now();
        cluster.apply(&policy("audit", "fleet", &world.kafka.for_pods(), &rule));
        let mut hash = String::new();
        wait_for("the configuration to change", SOON, || {
            let map = cluster.get("fleet", "configmap/steno-audit");
            hash = map["metadata"]["annotations"]["audit.steno.dev/config-hash"].as_str().unwrap_or_default().to_owned();
            map["data"]["config.yaml"].as_str().unwrap_or_default().contains(&format!("after{pods}"))
        });
        let annotation = r"jsonpath={range .items[*]}{.metadata.annotations.audit\.steno\.dev/config-hash}{'\n'}{end}";
        wait_for("all pods to be told", Duration::from_mins(5), || {
            let hashes = cluster.kubectl(&["get", "-n", "fleet", "pods", "-o", annotation]);
            hashes.lines().count() == pods && hashes.lines().all(|told| told == hash)
        });
        let (resident, peak) = memory(pid);
        println!("{pods} pods: told of a change after {:?}; resident {resident} MiB, at most {peak} MiB", begun.elapsed());
    };
    let mut made = 0;
    for pods in [10, 100, 500] {
        proxy.pods("fleet", made..pods, asks, None);
        made = pods;
        told(pods);
    }
    let all = scaled(500, 5_000);
    let begun = Instant::now();
    proxy.pods("fleet", made..all, asks, None);
    println!("{} pods more were made, each through the webhook, in {:?}", all - made, begun.elapsed());
    wait_for("the policy to count them", Duration::from_mins(2), || {
        cluster.get("fleet", "auditpolicy/audit")["status"]["pods"]["injected"] == all
    });
    // Another one that begins with all of them there.
    cluster.kubectl(&["delete", "-n", "steno-system", "pod", &leader, "--wait=false"]);
    wait_for("another one to lead", SOON, || ![leader.as_str(), ""].contains(&cluster.leader().as_str()));
    let next = process_of(&cluster.leader()).unwrap();
    wait_for("it to have counted them", SOON, || {
        let metrics = cluster.leader_metrics();
        metrics.contains(&format!("steno_operator_pods_injected{{namespace=\"fleet\",policy=\"audit\"}} {all}"))
    });
    let (resident, peak) = memory(next);
    println!("{all} pods, begun with them there: resident {resident} MiB, at most {peak} MiB");
    assert!(resident < 64, "{resident} MiB");
    cluster.kubectl(&["delete", "namespace", "fleet", "--wait=false"]);
    cluster.kubectl(&["delete", "-n", "fleet", "pods", "--all", "--grace-period=0", "--force", "--wait=false"]);
}

/// Policies, and pods of each.
const POLICIES: usize = 200;
const PODS: usize = 5;

/// A stand-in for the sidecars of pods that are there for the API only: of ten connections seven are answered, and three never are.
fn stand_in(listener: &TcpListener) {
    let mut held = Vec::new();
    for (number, stream) in listener.incoming().enumerate() {
        let Ok(mut stream) = stream else { return };
        if number % 10 < 3 {
            held.push(stream);
            continue;
        }
        std::thread::spawn(move || {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
            let _ = stream.read(&mut [0; 1024]);
            let body = r#"{"podUid":"","config":{"hash":"-"},"sinks":[]}"#;
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        });
    }
}

#[test]
fn pods_that_never_answer_keep_no_policy_from_being_rendered() {
    let world = world();
    let cluster = &world.cluster;
    cluster.kubectl(&["create", "namespace", "silent"]);
    wait_for("the default service account", SOON, || {
        cluster.try_kubectl(&["get", "-n", "silent", "serviceaccount", "default"]).0
    });
    let listener = TcpListener::bind((NODE, 9601)).unwrap();
    let held = std::thread::spawn(move || stand_in(&listener));
    let brokers = world.kafka.for_pods();
    let one = |number: usize, note: &str| {
        let rule = format!("  redaction: {{rules: [{{path: metadata.{note}, action: Replace}}]}}\n");
        policy(&format!("p-{number}"), "silent", &brokers, &rule)
    };
    let policies = |note: &str| -> String { (0..POLICIES).map(|number| one(number, note) + "---\n").collect() };
    let has = |name: &str, note: &str| {
        let shown = r"jsonpath={range .items[*]}{.data.config\.yaml}{end}";
        let of = if name.is_empty() { vec![] } else { vec![format!("--field-selector=metadata.name={name}")] };
        let arguments: Vec<&str> =
            ["get", "-n", "silent", "configmaps", "-o", shown].into_iter().chain(of.iter().map(String::as_str)).collect();
        cluster.kubectl(&arguments).matches(&format!("metadata.{note}")).count()
    };
    cluster.apply(&policies("first"));
    wait_for("every policy to be rendered", Duration::from_mins(2), || has("", "first") == POLICIES);
    let proxy = Proxy::start();
    let status = serde_json::json!({"status": {"phase": "Running", "podIP": NODE, "podIPs": [{"ip": NODE}]}});
    let of = |number: usize| serde_json::json!({"audit.steno.dev/policy": format!("p-{}", number % POLICIES)});
    proxy.pods("silent", 0..POLICIES * PODS, of, Some(&status));
    wait_for("pods to be found silent", Duration::from_mins(3), || {
        let unknown =
            cluster.kubectl(&["get", "-n", "silent", "auditpolicies", "-o", "jsonpath={.items[*].status.pods.unknown}"]);
        let unknown: usize = unknown.split_whitespace().filter_map(|unknown| unknown.parse::<usize>().ok()).sum();
        unknown >= POLICIES * PODS / 5
    });
    // Each policy by itself, as people change them.
    let mut took: Vec<Duration> = (0..20)
        .map(|number| {
            cluster.apply(&one(number * 7, "second"));
            let begun = Instant::now();
            wait_for("the changed policy to be rendered", SOON, || has(&format!("steno-p-{}", number * 7), "second") == 1);
            begun.elapsed()
        })
        .collect();
    took.sort();
    let begun = Instant::now();
    cluster.apply(&policies("third"));
    wait_for("every policy to be rendered", Duration::from_mins(2), || has("", "third") == POLICIES);
    println!(
        "{} pods of {POLICIES} policies, three of ten silent: a changed policy was rendered after {:?} (median), {:?} (slowest of {}), with kubectl's own time; all of them {:?} after they began to be applied",
        POLICIES * PODS,
        took[took.len() / 2],
        took[took.len() - 1],
        took.len(),
        begun.elapsed()
    );
    cluster.kubectl(&["delete", "namespace", "silent", "--wait=false"]);
    cluster.kubectl(&["delete", "-n", "silent", "pods", "--all", "--grace-period=0", "--force", "--wait=false"]);
    drop(held);
}
