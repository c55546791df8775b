//! The control plane on a real cluster (feature `cluster`). `make e2e-cluster` builds and starts one, which needs root; with `E2E_KUBECONFIG` any
//! other serves whose pods reach this machine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::time::Instant;

use steno_e2e::{
    wait_for,
    world::{LATER, SOON, WAITS, event, pod, policy, record, served, world},
};

#[test]
fn an_event_posted_in_an_annotated_pod_arrives_redacted_and_with_the_pods_identity() {
    let world = world();
    served(&world, "first");
    let answer = world.cluster.post("first", "shop", &event("first-1", r#"{"password":"hunter2","card":"4111111111111111"}"#));
    assert!(answer.contains("\"created\""), "{answer}");
    wait_for("the record on the topic", SOON, || record(&world.kafka, "first-1").is_some());
    let record = record(&world.kafka, "first-1").unwrap();
    assert!(!record.text.contains("hunter2") && !record.text.contains("4111111111111111"), "{}", record.text);
    let (writer, uid) = (&record.json["writer"], world.cluster.get("first", "pod/shop")["metadata"]["uid"].clone());
    assert_eq!((&writer["namespace"], &writer["pod"], &writer["podUid"]), (&"first".into(), &"shop".into(), &uid));
    assert_eq!(record.json["service"], "checkout");
    // The status tells the same story.
    wait_for("the policy to be ready", LATER, || {
        let status = &world.cluster.get("first", "auditpolicy/audit")["status"];
        let ready = status["conditions"].as_array().into_iter().flatten().find(|condition| condition["type"] == "Ready");
        ready.is_some_and(|ready| ready["status"] == "True") && status["pods"]["current"] == 1
    });
}

#[test]
fn a_changed_policy_bites_in_the_running_pod_without_a_restart() {
    let world = world();
    served(&world, "live");
    let restarts = |world: &steno_e2e::world::World| {
        world.cluster.get("live", "pod/shop")["status"]["initContainerStatuses"][0]["restartCount"].clone()
    };
    world.cluster.post("live", "shop", &event("live-0", r#"{"plate":"B-XY 123"}"#));
    wait_for("the record", SOON, || record(&world.kafka, "live-0").is_some());
    assert!(record(&world.kafka, "live-0").unwrap().text.contains("B-XY 123"), "no rule hides it yet");
    let rule = "  redaction: {rules: [{path: metadata.plate, action: Replace}]}\n";
    world.cluster.apply(&policy("audit", "live", &world.kafka.for_pods(), rule));
    let begun = Instant::now();
    let mut number = 0;
    wait_for("the new rule to bite", SOON, || {
        number += 1;
        let id = format!("live-{number}");
        world.cluster.post("live", "shop", &event(&id, r#"{"plate":"B-XY 123"}"#));
        wait_for("the record", SOON, || record(&world.kafka, &id).is_some());
        !record(&world.kafka, &id).unwrap().text.contains("B-XY 123")
    });
    println!("the new rule was seen to bite after {:?}, with {number} events", begun.elapsed());
    assert_eq!(restarts(&world), 0);
}

#[test]
fn what_would_not_render_is_refused_at_apply_with_the_field() {
    let world = world();
    let cluster = &world.cluster;
    cluster.namespace("refused");
    let refused = [
        // By the schema and its rules.
        ("  limits: {maxEventBytes: 1Ki}\n", "spec.limits.maxEventBytes", "write from 2Ki to 8Mi"),
        ("  redaction: {rules: [{action: Mask}]}\n", "spec.redaction.rules[0]", "exactly one of path, detector and regex"),
        ("  deadLetter: {topic: audit}\n", "spec", "name another"),
        ("  dedupe: {window: 1ms}\n", "spec.dedupe.window", "write from"),
        ("  ack: Maybe\n", "spec.ack", "Durable"),
        ("  integrity: {maxChains: 0}\n", "spec.integrity.maxChains", "greater than or equal"),
        ("  redaction: {rulez: []}\n", "spec.redaction.rulez", "unknown field"),
        ("  limits: {maxEventBytes: 8Mi, maxBodyBytes: 4Mi}\n", "spec", "could never arrive"),
        ("  intents: {enabled: true, topic: intents, allowPodLoss: true}\n", "spec", "spool.encryption.keySecretRef"),
        (
            "  intents: {enabled: true, topic: intents}\n  spool: {encryption: {keySecretRef: {name: a, key: b}}}\n",
            "spec",
            "PersistentVolumeClaim",
        ),
        // By the operator's webhook, which compiles what CEL cannot.
        ("  redaction: {rules: [{regex: '(', action: Mask}]}\n", "spec.redaction.rules[0].regex", "unclosed group"),
        ("  redaction: {rules: [{regex: 'a*', action: Mask}]}\n", "spec.redaction.rules[0].regex", "empty text"),
        ("  require: ['a..b']\n", "spec.require[0]", "resource.id"),
    ];
    for (more, field, fix) in refused {
        let (went_well, printed) = cluster.try_apply(&policy("bad", "refused", "kafka:9092", more));
        assert!(!went_well && printed.contains(field) && printed.contains(fix), "{more}: {printed}");
    }
    assert!(cluster.try_apply(&policy("good", "refused", "kafka:9092", "")).0);
    let intents = "  intents: {enabled: true, topic: intents, allowPodLoss: true}\n  spool: {encryption: {keySecretRef: {name: a, key: b}}}\n";
    let (went_well, printed) = cluster.try_apply(&policy("intents", "refused", "kafka:9092", intents));
    assert!(went_well, "{printed}");
}

#[test]
fn pods_that_cannot_be_served_start_without_the_sidecar_and_are_told_why() {
    let world = world();
    let cluster = &world.cluster;
    cluster.namespace("unserved");
    let (went_well, printed) = cluster.try_apply(&pod("Pod", "early", "unserved", WAITS));
    assert!(went_well && printed.contains("no AuditPolicy of the namespace selects this pod"), "{printed}");
    cluster.ready("unserved", "pod/early");
    // Without a webhook pods that ask start all the same, and others never notice.
    cluster.apply(&policy("audit", "unserved", &world.kafka.for_pods(), ""));
    cluster.webhooks_away();
    cluster.apply(&pod("Pod", "alone", "unserved", WAITS));
    cluster.ready("unserved", "pod/alone");
    // Where the policy is Fail they are refused, and pods that do not ask still never notice.
    let fail = r#"[{"op":"replace","path":"/webhooks/0/failurePolicy","value":"Fail"}]"#;
    cluster.kubectl(&["patch", "mutatingwebhookconfiguration", "steno-steno", "--type=json", "-p", fail]);
    wait_for("the API server to refuse pods that ask", SOON, || {
        let (went_well, printed) = cluster.try_apply(&pod("Pod", "refused", "unserved", WAITS));
        let _ = cluster.try_kubectl(&["delete", "-n", "unserved", "pod", "refused", "--now", "--ignore-not-found"]);
        !went_well && printed.contains("pods.audit.steno.dev")
    });
    let not_asking = pod("Pod", "stranger", "unserved", WAITS).replace("audit.steno.dev/inject: \"true\"", "a: b");
    cluster.apply(&not_asking);
    cluster.ready("unserved", "pod/stranger");
    assert_eq!(cluster.get("unserved", "pod/alone")["spec"]["initContainers"], serde_json::Value::Null);
    cluster.webhooks_back();
    // What was missed is told: on the pod, on the policy, and as a metric.
    wait_for("the policy to name the missed pods", SOON, || {
        let condition = cluster.condition("unserved", "auditpolicy/audit", "Injected");
        let message = condition["message"].as_str().unwrap_or_default();
        condition["status"] == "False" && message.contains("alone") && message.contains("early") && message.contains("Restart")
    });
    assert_eq!(cluster.condition("unserved", "auditpolicy/audit", "Ready")["reason"], "PodsMissed");
    assert_eq!(cluster.get("unserved", "auditpolicy/audit")["status"]["pods"]["matched"], 2);
    wait_for("an Event on the pod", SOON, || {
        let events = cluster.kubectl(&["get", "-n", "unserved", "events", "--field-selector", "involvedObject.name=alone"]);
        events.contains("InjectionSkipped") && events.contains("Missed")
    });
    let metrics = cluster.leader_metrics();
    assert!(metrics.contains(r#"steno_operator_missed_pods{namespace="unserved",reason="Missed"} 2"#), "{metrics}");
    cluster.kubectl(&["delete", "-n", "unserved", "pod", "alone", "early", "--now"]);
    wait_for("nothing to be missed any more", SOON, || {
        cluster.condition("unserved", "auditpolicy/audit", "Injected")["status"] == "True"
    });
}

#[test]
fn pods_on_the_hosts_network_send_by_a_socket_and_are_in_nobodys_way() {
    let world = world();
    let cluster = &world.cluster;
    cluster.namespace("host-network");
    cluster.kubectl(&["label", "namespace", "host-network", "--overwrite", "pod-security.kubernetes.io/enforce=privileged"]);
    cluster.apply(&policy("audit", "host-network", &world.kafka.for_pods(), ""));
    cluster.rendered("host-network", "audit");
    let on_host = |name: &str, more: &str| {
        let pod = pod("Pod", name, "host-network", WAITS).replace("spec: {", "spec: {hostNetwork: true, ");
        pod.replace("audit.steno.dev/inject: \"true\"", &format!("audit.steno.dev/inject: \"true\"{more}"))
    };
    // Two on one node: neither takes a port that the other needs.
    for name in ["one", "two"] {
        cluster.apply(&on_host(name, ""));
        cluster.ready("host-network", &format!("pod/{name}"));
    }
    for name in ["one", "two"] {
        let event = event(&format!("host-{name}"), r#"{"password":"hunter2"}"#);
        let post =
            ["curl", "-s", "-m", "10", "--unix-socket", "/.steno/events.sock", "-H", "Content-Type: application/json", "-d"];
        let mut arguments = vec!["exec", "-n", "host-network", name, "-c", "app", "--"];
        arguments.extend(post.iter().copied().chain([event.as_str(), "http://localhost/v1/events"]));
        let answer = cluster.kubectl(&arguments);
        assert!(answer.contains("\"created\""), "{answer}");
        wait_for("the record on the topic", SOON, || record(&world.kafka, &format!("host-{name}")).is_some());
        assert!(!record(&world.kafka, &format!("host-{name}")).unwrap().text.contains("hunter2"));
    }
    // One container cannot take the sidecar's place for the others.
    let write = ["exec", "-n", "host-network", "one", "-c", "app", "--", "sh", "-c", ": > /.steno/other.sock"];
    let (went_well, printed) = cluster.try_kubectl(&write);
    assert!(!went_well && printed.contains("Read-only"), "{printed}");
    // Nobody can ask them: neither an alarm nor a promise.
    let status = || cluster.get("host-network", "auditpolicy/audit")["status"].clone();
    let ready = || cluster.condition("host-network", "auditpolicy/audit", "Ready");
    wait_for("the policy to say that nobody is asked", LATER, || {
        let ready = ready();
        ready["status"] == "Unknown" && ready["reason"] == "NotAsked" && status()["pods"]["notAsked"] == 2
    });
    // One with a port that a process of the node has: it runs all the same, and is asked as soon as the port is free.
    let node = cluster.get("host-network", "pod/one")["status"]["hostIP"].as_str().unwrap().to_owned();
    let is_here = std::net::TcpListener::bind((node.as_str(), 0)).is_ok();
    let taken = std::net::TcpListener::bind("[::]:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    cluster.apply(&on_host("three", &format!(", audit.steno.dev/status-port: \"{port}\"")));
    cluster.ready("host-network", "pod/three");
    if is_here {
        wait_for("it to be counted as one that does not answer", LATER, || status()["pods"]["unknown"] == 1);
    } else {
        println!("the node is another machine: a port that is taken was not tried");
    }
    drop(taken);
    wait_for("it to be asked", LATER, || {
        let ready = ready();
        let told = ready["message"].as_str().unwrap_or_default().contains("2 on the host's network");
        ready["status"] == "True" && told && status()["pods"]["current"] == 1 && status()["pods"]["unknown"] == 0
    });
    cluster.kubectl(&["delete", "-n", "host-network", "pod", "one", "two", "three", "--now"]);
}

#[test]
fn a_job_completes_and_its_last_event_is_delivered() {
    let world = world();
    world.cluster.namespace("jobs");
    world.cluster.apply(&policy("audit", "jobs", &world.kafka.for_pods(), ""));
    world.cluster.rendered("jobs", "audit");
    let post = "[curl, '-sS', '--fail', '-H', 'Content-Type: application/json', '-d', '{\"eventId\":\"job-1\",\"action\":\"import.end\"}', 'http://127.0.0.1:9600/v1/events']";
    world.cluster.apply(&pod("Job", "import", "jobs", post));
    let (went_well, printed) =
        world.cluster.try_kubectl(&["wait", "-n", "jobs", "--for=condition=Complete", "job/import", "--timeout=120s"]);
    assert!(went_well, "{printed}\n{}", world.cluster.try_kubectl(&["describe", "-n", "jobs", "pods"]).1);
    wait_for("the job's event", SOON, || record(&world.kafka, "job-1").is_some());
}

#[test]
fn a_pod_keeps_accepting_while_kafka_is_away_and_its_status_says_so() {
    let world = world();
    served(&world, "away");
    world.kafka.down();
    for number in 0..5 {
        let answer = world.cluster.post("away", "shop", &event(&format!("away-{number}"), "{}"));
        assert!(answer.contains("\"created\""), "{answer}");
    }
    wait_for("the status to tell of the open breaker", LATER, || {
        let status = &world.cluster.get("away", "auditpolicy/audit")["status"];
        status["pods"]["breakerOpen"] == 1 && status["pods"]["spooledEvents"].as_u64().is_some_and(|events| events >= 5)
    });
    world.kafka.up();
    wait_for("the spool to drain", LATER, || (0..5).all(|number| record(&world.kafka, &format!("away-{number}")).is_some()));
}

#[test]
fn a_secret_that_changes_reaches_the_running_sidecar() {
    let world = world();
    world.cluster.namespace("secrets");
    let secret = |password: &str| {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: kafka-user, namespace: secrets}}\nstringData: {{key: {password}}}\n"
        )
    };
    let hash = "  redaction: {keySecretRef: {name: kafka-user, key: key}, rules: [{path: metadata.plate, action: Hash}]}\n";
    world.cluster.apply(&policy("audit", "secrets", &world.kafka.for_pods(), hash));
    world.cluster.rendered("secrets", "audit");
    // The pod starts although the Secret is not there yet, and the status says which is missing.
    world.cluster.apply(&pod("Pod", "shop", "secrets", WAITS));
    world.cluster.ready("secrets", "pod/shop");
    wait_for("the missing Secret to be named", LATER, || {
        let status = world.cluster.get("secrets", "auditpolicy/audit")["status"].to_string();
        status.contains("Secrets that pods miss: kafka-user/key")
    });
    world.cluster.apply(&secret("first"));
    // A kubelet looks at optional Secrets once in a while; what changes the pod makes it look now.
    world.cluster.kubectl(&["annotate", "-n", "secrets", "pod/shop", "test/now=1"]);
    let mut number = 0;
    wait_for("the hash to be made with the Secret's key", LATER, || {
        number += 1;
        let id = format!("secrets-{number}");
        world.cluster.post("secrets", "shop", &event(&id, r#"{"plate":"B-XY 123"}"#));
        wait_for("the record", SOON, || record(&world.kafka, &id).is_some());
        record(&world.kafka, &id).unwrap().text.contains("hmac-sha256:")
    });
}

#[test]
fn uninstalling_leaves_policies_and_running_pods_and_no_webhook() {
    let world = world();
    served(&world, "zz-left");
    world.cluster.uninstall();
    for kind in ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"] {
        let left = world.cluster.kubectl(&["get", kind, "-o", "name"]);
        assert!(!left.contains("steno"), "{left}");
    }
    assert!(world.cluster.try_kubectl(&["get", "-n", "zz-left", "auditpolicy", "audit"]).0, "the policy is gone");
    let answer = world.cluster.post("zz-left", "shop", &event("left-1", "{}"));
    assert!(answer.contains("\"created\""), "{answer}");
    world.cluster.install(&[]);
}
