//! The control plane's own promises on a real cluster (feature `cluster`): the platform's policies, leaders, certificates, rights, upgrades.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::{
    cell::Cell,
    collections::HashSet,
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::json;
use steno_e2e::{
    consumer::read_all,
    cpu,
    receiver::Certs,
    scaled, wait_for,
    world::{LATER, SOON, WAITS, World, event, pod, policy, process_of, process_with, record, served, world},
};

const OPERATOR: &str = "--as=system:serviceaccount:steno-system:steno-operator";

/// Waits until a new rule for `metadata.note` bites in the pod `shop`. Events have the numbers from 2 on.
#[track_caller]
fn note_is_hidden(world: &World, namespace: &str, within: Duration) {
    let mut number = 1;
    wait_for("the new rule to bite", within, || {
        number += 1;
        let id = format!("{namespace}-{number}");
        world.cluster.post(namespace, "shop", &event(&id, r#"{"note":"in clear"}"#));
        wait_for("the record", SOON, || record(&world.kafka, &id).is_some());
        !record(&world.kafka, &id).unwrap().text.contains("in clear")
    });
}

/// A pod that asks, made for a try only, again and again.
struct Dry {
    manifest: tempfile::NamedTempFile,
}

impl Dry {
    /// Once the webhooks know the namespace's policy.
    #[track_caller]
    fn of(world: &World, namespace: &str) -> Self {
        let dry = Self { manifest: tempfile::NamedTempFile::new().unwrap() };
        std::fs::write(dry.manifest.path(), pod("Pod", "dry", namespace, WAITS)).unwrap();
        wait_for("the webhooks to know the policy", SOON, || dry.create(world).1.contains("steno-sidecar"));
        dry
    }

    fn create(&self, world: &World) -> (bool, String) {
        let path = self.manifest.path().to_string_lossy();
        let shown = "jsonpath={.spec.initContainers[0].name}";
        world.cluster.try_kubectl(&["create", "--dry-run=server", "-o", shown, "-f", &path])
    }

    /// It is admitted, with the sidecar.
    #[track_caller]
    fn admitted(&self, world: &World, when: &str) {
        let (went_well, printed) = self.create(world);
        assert!(went_well && printed.contains("steno-sidecar"), "{when}: {printed}");
    }
}

#[test]
fn what_the_platform_asks_holds_in_every_namespace_that_it_covers() {
    let world = world();
    let cluster = &world.cluster;
    cluster.namespace("covered");
    cluster.kubectl(&["label", "namespace", "covered", "team=shop", "--overwrite"]);
    let bare = "apiVersion: audit.steno.dev/v1alpha1\nkind: AuditPolicy\nmetadata: {name: audit, namespace: covered}\nspec: {}\n";
    let (went_well, printed) = cluster.try_apply(bare);
    assert!(!went_well && printed.contains("ClusterAuditPolicy"), "no Kafka, and nobody who names one: {printed}");
    let platform = |more: &str| {
        format!(
            "apiVersion: audit.steno.dev/v1alpha1\nkind: ClusterAuditPolicy\nmetadata: {{name: platform}}\nspec:\n  namespaceSelector: {{matchLabels: {{team: shop}}}}\n  kafka: {{brokers: ['{}'], topic: audit}}\n  redaction: {{rules: [{{path: metadata.plate, action: Replace}}{more}]}}\n  limits: {{maxEventBytes: 4Ki}}\n",
            world.kafka.for_pods()
        )
    };
    let (went_well, printed) = cluster.try_apply(&platform(", {regex: '(', action: Mask}"));
    assert!(!went_well && printed.contains("spec.redaction.rules[1].regex"), "{printed}");
    cluster.apply(&platform(""));
    // A namespace that tries to loosen it.
    let loose = bare.replace(
        "spec: {}",
        "spec: {redaction: {builtin: false, rules: [{detector: pan, action: Mask, except: [metadata.order]}]}, limits: {maxEventBytes: 64Ki}}",
    );
    wait_for("the policy to be taken under the platform's", SOON, || cluster.try_apply(&loose).0);
    wait_for("what was inherited to be told", SOON, || {
        let inherited = cluster.get("covered", "auditpolicy/audit")["status"]["inherited"].to_string();
        ["kafka.brokers", "redaction.builtin", "redaction.rules", "limits.maxEventBytes"]
            .iter()
            .all(|path| inherited.contains(path))
    });
    cluster.apply(&pod("Pod", "shop", "covered", WAITS));
    cluster.ready("covered", "pod/shop");
    let metadata = r#"{"plate":"B-XY 123","order":"4111111111111111"}"#;
    cluster.post("covered", "shop", &event("covered-1", metadata));
    wait_for("the record", SOON, || record(&world.kafka, "covered-1").is_some());
    let text = record(&world.kafka, "covered-1").unwrap().text;
    assert!(!text.contains("B-XY 123") && !text.contains("4111111111111111"), "{text}");
    // A change of the platform's policy bites in the running pod.
    cluster.apply(&platform(", {path: metadata.note, action: Replace}"));
    note_is_hidden(&world, "covered", SOON);
    wait_for("the platform's policy to count whom it covers", LATER, || {
        let status = &cluster.get("default", "clusterauditpolicy/platform")["status"];
        status["policies"] == 1 && status["conditions"][0]["status"] == "True"
    });
    cluster.kubectl(&["delete", "clusterauditpolicy", "platform"]);
    cluster.kubectl(&["delete", "namespace", "covered", "--wait=false"]);
}

#[test]
fn another_replica_leads_when_the_leader_goes_or_dies() {
    let world = world();
    let cluster = &world.cluster;
    cluster.namespace("led");
    let rendered = |name: &str, begun: Instant| {
        cluster.apply(&policy(name, "led", "kafka:9092", ""));
        cluster.rendered("led", name);
        println!("leader {name}: the next policy was rendered after {:?}", begun.elapsed());
        cluster.kubectl(&["rollout", "status", "-n", "steno-system", "deploy/steno-operator", "--timeout=120s"]);
    };
    // One that stops in order hands over: nobody would wait for this lease to run out.
    cluster.install(&["operator.leaseSeconds=300"]);
    wait_for("a leader", SOON, || !cluster.leader().is_empty());
    let (before, begun) = (cluster.leader(), Instant::now());
    cluster.kubectl(&["delete", "-n", "steno-system", "pod", &before, "--wait=false"]);
    wait_for("another one to lead", SOON, || ![before.as_str(), ""].contains(&cluster.leader().as_str()));
    rendered("gone", begun);
    // One that is killed has no time to.
    cluster.install(&["operator.leaseSeconds=15"]);
    wait_for("a leader", SOON, || !cluster.leader().is_empty());
    let (leader, begun) = (cluster.leader(), Instant::now());
    let pid = process_of(&leader).expect("the leader's process is on this machine");
    assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
    rendered("killed", begun);
}

#[test]
fn the_authority_is_replaced_under_load_and_no_admission_fails() {
    let world = world();
    let cluster = &world.cluster;
    cluster.install(&["webhook.caOverlap=5s", "webhook.failurePolicy=Fail"]);
    cluster.kubectl(&["rollout", "status", "-n", "steno-system", "deploy/steno-webhook", "--timeout=120s"]);
    cluster.namespace("rotated");
    cluster.apply(&policy("audit", "rotated", &world.kafka.for_pods(), ""));
    let dry = Dry::of(&world, "rotated");
    let authority = || cluster.get("steno-system", "secret/steno-webhook-ca")["data"].clone();
    let first = authority();
    cluster.kubectl(&["annotate", "-n", "steno-system", "secret", "steno-webhook-ca", "audit.steno.dev/rotate=now"]);
    let (begun, mut admissions) = (Instant::now(), 0);
    let mut seen = Vec::new();
    loop {
        dry.admitted(&world, &format!("after {admissions} admissions"));
        admissions += 1;
        let now = authority();
        let stage = (now["next.crt"].is_string(), now["ca.crt"] != first["ca.crt"], now["old.crt"].is_string());
        if seen.last() != Some(&stage) {
            seen.push(stage);
        }
        if seen.len() > 1 && stage == (false, true, false) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_mins(3), "{seen:?}");
    }
    // Some time more, so that every replica has served with the new one only.
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        dry.admitted(&world, "after the rotation");
        admissions += 1;
    }
    println!(
        "{admissions} admissions, none failed, while the authority was announced, promoted and the old one retired: {seen:?}"
    );
    cluster.install(&[]);
}

#[test]
fn certificates_that_somebody_else_keeps_are_served_and_followed_and_no_admission_fails() {
    let world = world();
    let cluster = &world.cluster;
    cluster.namespace("kept");
    cluster.apply(&policy("audit", "kept", &world.kafka.for_pods(), ""));
    let keep = |ca: &str, (certificate, key): (&str, &str)| {
        let data = serde_json::json!({"ca.crt": ca, "tls.crt": certificate, "tls.key": key});
        let secret = serde_json::json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "kept-tls", "namespace": "steno-system"}, "stringData": data,
        });
        cluster.apply(&secret.to_string());
    };
    // As cert-manager's self-signed issuer makes it, and then one of an authority.
    let names = ["steno-webhook.steno-system.svc", "steno-webhook.steno-system.svc.cluster.local"];
    let ((first, first_key), second) = (Certs::self_signed(&names), Certs::of_server(&names));
    keep(&first, (&first, &first_key));
    let install = |more: &[&str]| {
        cluster.install(&[&["webhook.caOverlap=30s", "webhook.failurePolicy=Fail"], more].concat());
        for deployment in ["deploy/steno-operator", "deploy/steno-webhook"] {
            cluster.kubectl(&["rollout", "status", "-n", "steno-system", deployment, "--timeout=120s"]);
        }
    };
    install(&[]);
    let bundle = || {
        let webhooks = cluster.get("default", "mutatingwebhookconfiguration/steno-steno")["webhooks"].clone();
        let bundle = webhooks[0]["clientConfig"]["caBundle"].as_str().unwrap_or_default().to_owned();
        String::from_utf8(BASE64_STANDARD.decode(bundle).unwrap()).unwrap()
    };
    let dry = Dry::of(&world, "kept");
    let admissions = Cell::new(0);
    let admit = || {
        dry.admitted(&world, &format!("after {} admissions", admissions.get()));
        admissions.set(admissions.get() + 1);
    };
    let change = |more: &[&str]| {
        std::thread::scope(|scope| {
            let changing = scope.spawn(|| install(more));
            while !changing.is_finished() {
                admit();
            }
        });
    };
    // From the operator's own authority to that: while replicas of both kinds serve, both are trusted.
    change(&["webhook.tlsSecret=kept-tls"]);
    assert!(bundle().contains(first.trim()), "{}", bundle());
    let begun = Instant::now();
    keep(&second.ca, (&second.server.0, &second.server.1));
    // What changes a pod makes the kubelet look at its volumes now.
    cluster.kubectl(&["annotate", "-n", "steno-system", "pods", "--all", "test/now=1"]);
    while bundle().trim() != second.ca.trim() {
        admit();
        assert!(begun.elapsed() < Duration::from_mins(4), "{}", bundle());
    }
    // Only the second is trusted now, so it is the one that is served, by every replica.
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        admit();
    }
    // And back.
    change(&[]);
    println!(
        "{} admissions, none failed, while the way the certificates are kept changed, they themselves, and the way again",
        admissions.get()
    );
    cluster.install(&[]);
    cluster.kubectl(&["delete", "-n", "steno-system", "secret", "kept-tls"]);
    cluster.kubectl(&["delete", "namespace", "kept", "--wait=false"]);
}

#[test]
fn the_operator_may_change_one_annotation_of_injected_pods_and_nothing_else() {
    let world = world();
    let cluster = &world.cluster;
    served(&world, "narrow");
    let not_asking = pod("Pod", "stranger", "narrow", WAITS).replace("audit.steno.dev/inject: \"true\"", "a: b");
    cluster.apply(&not_asking);
    let patch = |pod: &str, patch: &str| cluster.try_kubectl(&["patch", OPERATOR, "-n", "narrow", "pod", pod, "-p", patch]);
    let hash = r#"{"metadata":{"annotations":{"audit.steno.dev/config-hash":"0000"}}}"#;
    assert!(patch("shop", hash).0);
    for (pod, what) in [
        ("shop", r#"{"metadata":{"annotations":{"other":"x"}}}"#),
        ("shop", r#"{"metadata":{"annotations":{"audit.steno.dev/sidecar-version":null}}}"#),
        ("shop", r#"{"metadata":{"labels":{"other":"x"}}}"#),
        ("shop", r#"{"spec":{"containers":[{"name":"app","image":"evil:1"}]}}"#),
        ("stranger", hash),
    ] {
        let (went_well, printed) = patch(pod, what);
        assert!(!went_well && printed.contains("the operator may"), "{pod} {what}: {printed}");
    }
    // What sidecars run by nobody else may write, not even an administrator by accident.
    for patch in [r#"{"data":{"config.yaml":"loose"}}"#, r#"{"metadata":{"labels":{"app.kubernetes.io/managed-by":null}}}"#] {
        let (went_well, printed) = cluster.try_kubectl(&["patch", "-n", "narrow", "configmap", "steno-audit", "-p", patch]);
        assert!(!went_well && printed.contains("written by Steno's operator"), "{patch}: {printed}");
    }
    // Who puts back what is there, such as a backup tool, changes nothing.
    let there = cluster.get("narrow", "configmap/steno-audit").to_string();
    let (went_well, printed) = cluster.try_with_input(&["replace", "-n", "narrow", "-f", "-"], &there);
    assert!(went_well, "{printed}");
    // What looks like a configuration nobody else makes, and the operator writes nothing else.
    let (went_well, printed) =
        cluster.try_kubectl(&["create", "-n", "narrow", "configmap", "steno-other", "--from-literal=config.yaml=builtin: false"]);
    assert!(!went_well && printed.contains("made by Steno's operator"), "{printed}");
    cluster.kubectl(&["create", "-n", "narrow", "configmap", "aws-auth", "--from-literal=mapRoles=none"]);
    let (went_well, printed) = cluster.try_kubectl(&[
        "patch",
        OPERATOR,
        "-n",
        "narrow",
        "configmap",
        "aws-auth",
        "-p",
        r#"{"data":{"mapRoles":"all"}}"#,
    ]);
    assert!(!went_well && printed.contains("the operator may write the configurations"), "{printed}");
    let secrets = cluster.try_kubectl(&["get", OPERATOR, "-n", "narrow", "secrets"]);
    assert!(!secrets.0 && secrets.1.contains("forbidden"), "{}", secrets.1);
}

#[test]
fn rights_given_in_some_namespaces_are_enough_there_and_reach_no_further() {
    let world = world();
    let cluster = &world.cluster;
    for namespace in ["given", "withheld", "gone"] {
        cluster.namespace(namespace);
    }
    cluster.install(&["namespaces={given,gone}"]);
    let webhook = OPERATOR.replace("steno-operator", "steno-webhook");
    let (policies, events) = ("auditpolicies.audit.steno.dev", "events.events.k8s.io");
    for (who, verb, what) in [
        (OPERATOR, "list", "pods"),
        (OPERATOR, "patch", "pods"),
        (OPERATOR, "list", "configmaps"),
        (OPERATOR, "list", policies),
        (OPERATOR, "create", events),
        (&webhook, "list", policies),
        (&webhook, "create", events),
    ] {
        let may = |namespace: &str| cluster.try_kubectl(&["auth", "can-i", verb, what, who, "-n", namespace]).0;
        assert!(may("given") && !may("withheld") && !may("default"), "{who} {verb} {what}");
    }
    // No webhook, and no policy that requires the sidecar, is asked about others: two for pods, one for policies, two that require.
    let rendered = cluster.template(&["--set", "namespaces={given,gone},webhook.requireSidecar=Deny"]);
    let selectors = rendered.matches(r#"{key: kubernetes.io/metadata.name, operator: In, values: ["given","gone"]}"#).count();
    assert_eq!(selectors, 5);
    for wrong in ["namespaces={}", "namespaces={given,given}", "namespaces={Given}", "namespaces={given,kube-system}"] {
        let (went_well, printed) = cluster.try_template(&["--set", wrong]);
        assert!(!went_well && printed.contains("namespaces"), "{wrong}: {printed}");
    }
    // A namespace that went away with its rights is in nobody's way, also not of replicas that begin after that.
    cluster.kubectl(&["delete", "namespace", "gone", "--timeout=120s"]);
    for deployment in ["deploy/steno-operator", "deploy/steno-webhook"] {
        cluster.kubectl(&["rollout", "restart", "-n", "steno-system", deployment]);
        cluster.kubectl(&["rollout", "status", "-n", "steno-system", deployment, "--timeout=180s"]);
    }
    // First the one that is none of ours, so that there was time for it.
    cluster.apply(&policy("audit", "withheld", &world.kafka.for_pods(), ""));
    cluster.apply(&pod("Pod", "shop", "withheld", WAITS));
    served(&world, "given");
    assert!(cluster.post("given", "shop", &event("given-1", "{}")).contains("\"created\""));
    wait_for("the record", SOON, || record(&world.kafka, "given-1").is_some());
    // A change reaches the running pod, and its status comes back.
    cluster.apply(&policy(
        "audit",
        "given",
        &world.kafka.for_pods(),
        "  redaction: {rules: [{path: metadata.note, action: Replace}]}\n",
    ));
    note_is_hidden(&world, "given", LATER);
    wait_for("the status to tell of the pod", LATER, || {
        cluster.get("given", "auditpolicy/audit")["status"]["pods"]["ready"] == 1
    });
    cluster.ready("withheld", "pod/shop");
    assert!(cluster.get("withheld", "pod/shop")["spec"]["initContainers"].is_null(), "a pod elsewhere was touched");
    assert!(cluster.get("withheld", "auditpolicy/audit")["status"].is_null(), "a policy elsewhere was looked at");
    // With rights on the whole cluster again it is, and the pod that it has no sidecar for is told of.
    cluster.install(&[]);
    wait_for("the other policy to be looked at, and its pod to be told of", LATER, || {
        let injected = cluster.condition("withheld", "auditpolicy/audit", "Injected");
        injected["status"] == "False" && injected["message"].as_str().is_some_and(|message| message.contains("shop"))
    });
    for namespace in ["given", "withheld"] {
        cluster.kubectl(&["delete", "namespace", namespace, "--wait=false"]);
    }
}

#[test]
fn a_deleted_policy_stops_no_pod_not_even_one_whose_sidecar_restarts() {
    let world = world();
    let cluster = &world.cluster;
    served(&world, "orphaned");
    cluster.kubectl(&["delete", "-n", "orphaned", "auditpolicy", "audit", "--timeout=60s"]);
    wait_for("its ConfigMap to be gone", SOON, || !cluster.try_kubectl(&["get", "-n", "orphaned", "configmap", "steno-audit"]).0);
    // What changes the pod makes the kubelet look at its volumes now.
    cluster.kubectl(&["annotate", "-n", "orphaned", "pod/shop", "test/now=1"]);
    let pod = || cluster.get("orphaned", "pod/shop");
    let uid = pod()["metadata"]["uid"].as_str().unwrap().to_owned();
    let pid = process_with(&format!("STENO_POD_UID={uid}")).expect("the sidecar's process is on this machine");
    assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
    wait_for("the sidecar to be back", LATER, || {
        let sidecar = &pod()["status"]["initContainerStatuses"][0];
        sidecar["restartCount"] == 1 && sidecar["ready"] == true
    });
    assert!(cluster.post("orphaned", "shop", &event("orphaned-1", "{}")).contains("\"created\""));
    wait_for("the record", SOON, || record(&world.kafka, "orphaned-1").is_some());
    // A namespace with a policy goes, too: nothing of ours holds it.
    cluster.apply(&policy("audit", "orphaned", &world.kafka.for_pods(), ""));
    cluster.kubectl(&["delete", "namespace", "orphaned", "--timeout=180s"]);
}

#[test]
fn an_upgrade_keeps_policies_pods_and_trust_and_the_charts_own_test_passes() {
    let world = world();
    let cluster = &world.cluster;
    served(&world, "upgraded");
    let before = cluster.get("upgraded", "auditpolicy/audit")["metadata"]["uid"].clone();
    let brokers = format!("test.brokers={}", world.kafka.for_pods());
    cluster.install(&[&brokers, "webhook.requireSidecar=Deny", "networkPolicy.enabled=true", "operator.logLevel=debug"]);
    assert_eq!(cluster.get("upgraded", "auditpolicy/audit")["metadata"]["uid"], before);
    let bundle = &cluster.get("default", "mutatingwebhookconfiguration/steno-steno")["webhooks"][0]["clientConfig"]["caBundle"];
    assert!(bundle.as_str().is_some_and(|bundle| bundle.len() > 100), "the upgrade took the trust away: {bundle}");
    // Who takes it away, as a tool that applies a manifest of its own does, has it put back at once.
    let hook = "mutatingwebhookconfiguration/steno-steno";
    let none = r#"[{"op":"remove","path":"/webhooks/0/clientConfig/caBundle"}]"#;
    cluster.kubectl(&["patch", hook, "--type=json", "-p", none]);
    wait_for("the trust to be back", Duration::from_secs(20), || {
        cluster.get("default", hook)["webhooks"][0]["clientConfig"]["caBundle"] == *bundle
    });
    assert!(cluster.post("upgraded", "shop", &event("upgraded-1", "{}")).contains("\"created\""));
    // What comes out of admission without the sidecar is refused, where that is asked for.
    let unserved = pod("Pod", "unserved", "upgraded", WAITS).replace("inject: \"true\"", "policy: Nobody_");
    let (went_well, printed) = cluster.try_apply(&unserved);
    assert!(!went_well && printed.contains("asks for the Steno sidecar and does not have it"), "{printed}");
    let (went_well, printed) = cluster.try_apply(&pretender("pretender", "upgraded"));
    assert!(!went_well && printed.contains("asks for the Steno sidecar and does not have it"), "a name is not enough: {printed}");
    println!("{}", cluster.helm_test());
    cluster.install(&["test.brokers=", "webhook.requireSidecar=", "networkPolicy.enabled=false", "operator.logLevel=info"]);
}

/// Commands of the documentation that begin so, with lines that a backslash joins.
fn documented(beginning: &[&str]) -> Vec<String> {
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs");
    let folders = ["how-to", "."].map(|folder| std::path::Path::new(docs).join(folder));
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
    let pages = files.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let text: String = pages.map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let text = text.replace("\\\n", " ");
    let commands = text.lines().map(|line| line.trim_start_matches("$ ").trim().to_owned());
    commands.filter(|line| beginning.iter().any(|beginning| line.starts_with(beginning))).collect()
}

/// Whoever follows the documentation has an installation with values of their own, and keeps them.
#[test]
fn commands_of_the_documentation_keep_the_values_of_an_installation() {
    let world = world();
    let cluster = &world.cluster;
    cluster.install(&["webhook.requireSidecar=Warn", "operator.logLevel=debug", "webhook.failurePolicy=Fail"]);
    served(&world, "shop");
    cluster.namespace("pay");
    let here = tempfile::tempdir().unwrap();
    let collector = include_str!("../../docs/how-to/collector.md");
    let values = collector.split("```yaml\n").find(|block| block.contains("collector:\n")).unwrap().split("```").next().unwrap();
    std::fs::write(here.path().join("collector.yaml"), values).unwrap();
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/steno");
    let upgrades = documented(&["helm upgrade"]);
    assert!(upgrades.len() >= 4, "{upgrades:?}");
    for command in upgrades {
        let shown = command.replace("helm upgrade", "\"$HELM\" upgrade").replace("charts/steno", chart);
        let run = format!("{} --dry-run=server --output json", shown.replace("--wait", ""));
        let output = cluster.shell(&run, here.path());
        let release: serde_json::Value = serde_json::from_str(&output).unwrap_or_else(|_| panic!("{command}: {output}"));
        let config = &release["config"];
        let kept = (&config["webhook"]["requireSidecar"], &config["operator"]["logLevel"], &config["image"]["registry"]);
        assert_eq!(kept, (&json!("Warn"), &json!("debug"), &json!("e2e.local")), "{command}: {config}");
        assert_eq!(config["webhook"]["failurePolicy"], "Fail", "{command}");
    }
    // What only looks runs as it stands.
    let looks = documented(&["kubectl get", "kubectl auth"]);
    assert!(looks.len() >= 5, "{looks:?}");
    for command in looks {
        let output = cluster.shell(&format!("{command} || test $? = 1"), here.path());
        assert!(!output.to_lowercase().contains("error"), "{command}: {output}");
    }
    cluster.kubectl(&["delete", "namespace", "shop", "pay", "--wait=false"]);
    cluster.install(&["webhook.requireSidecar=", "operator.logLevel=info", "webhook.failurePolicy=Ignore"]);
}

/// Tells threads to end when it goes.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// From one version to the next and back, while pods are made and events come all the time.
#[test]
fn an_upgrade_and_a_rollback_under_load_refuse_no_pod_and_lose_nothing() {
    let world = world();
    let cluster = &world.cluster;
    let strict = "webhook.failurePolicy=Fail";
    cluster.install(&["image.tag=before", strict]);
    served(&world, "rolling");
    let dry = Dry::of(&world, "rolling");
    let path = dry.manifest.path().to_string_lossy().into_owned();
    let (stop, admissions) = (AtomicBool::new(false), AtomicUsize::new(0));
    let acked = Mutex::new(Vec::new());
    let pods = Mutex::new(vec!["shop".to_owned()]);
    let image = |name: &str| cluster.get("rolling", &format!("pod/{name}"))["spec"]["initContainers"][0]["image"].clone();
    std::thread::scope(|scope| {
        // However this ends, the threads end, too.
        let _end = Ends(&stop);
        let admitting = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let shown = "jsonpath={.spec.initContainers[0].name}";
                let (went_well, printed) = cluster.try_kubectl(&["create", "--dry-run=server", "-o", shown, "-f", &path]);
                assert!(went_well && printed.contains("steno-sidecar"), "after {admissions:?} admissions: {printed}");
                admissions.fetch_add(1, Ordering::Relaxed);
            }
        });
        let posting = scope.spawn(|| {
            for number in 0.. {
                let names = pods.lock().unwrap().clone();
                for name in names {
                    let id = format!("rolling-{name}-{number}");
                    let answer = cluster.post("rolling", &name, &event(&id, "{}"));
                    assert!(answer.contains("\"created\""), "{name}: {answer}");
                    acked.lock().unwrap().push(id);
                }
                if stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        let add = |name: &str, tag: &str| {
            // A replica of the other version may serve for some seconds more.
            let shown = "jsonpath={.spec.initContainers[0].image}";
            let dry = || cluster.try_kubectl(&["create", "--dry-run=server", "-o", shown, "-f", &path]).1;
            wait_for("webhooks of that version only", SOON, || (0..5).all(|_| dry().contains(tag)));
            cluster.apply(&pod("Pod", name, "rolling", WAITS));
            cluster.ready("rolling", &format!("pod/{name}"));
            assert!(image(name).as_str().unwrap().ends_with(tag), "{}", image(name));
            pods.lock().unwrap().push(name.to_owned());
        };
        let changed = |rule: &str, running: u64| {
            let text = format!("  redaction: {{rules: [{{path: metadata.{rule}, action: Replace}}]}}\n");
            cluster.apply(&policy("audit", "rolling", &world.kafka.for_pods(), &text));
            let generation = cluster.get("rolling", "auditpolicy/audit")["metadata"]["generation"].clone();
            wait_for("all sidecars to run by the change", LATER, || {
                let status = cluster.get("rolling", "auditpolicy/audit")["status"].clone();
                status["observedGeneration"] == generation && status["pods"]["current"] == running
            });
        };
        cluster.install(&[strict]);
        changed("by-the-new-operator", 1);
        add("fresh", ":e2e");
        changed("for-both-sidecars", 2);
        cluster.install(&["image.tag=before", strict]);
        add("again", ":before");
        cluster.install(&[strict]);
        changed("for-all-three", 3);
        stop.store(true, Ordering::Relaxed);
        posting.join().unwrap();
        admitting.join().unwrap();
    });
    let acked = acked.into_inner().unwrap();
    wait_for("every event to arrive", LATER, || {
        let found: HashSet<String> = read_all(&world.kafka.plain(), "audit")
            .iter()
            .filter_map(|record| record.json["eventId"].as_str().map(str::to_owned))
            .collect();
        acked.iter().all(|id| found.contains(id))
    });
    println!("{} events and {admissions:?} admissions during two upgrades and a rollback", acked.len());
    cluster.kubectl(&["delete", "namespace", "rolling", "--wait=false"]);
    cluster.install(&[]);
}

/// A pod that brings a container with the sidecar's name, and its label.
fn pretender(name: &str, namespace: &str) -> String {
    let fake = "initContainers: [{name: steno-sidecar, restartPolicy: Always, image: 'e2e.local/app:1', imagePullPolicy: Never, command: [sleep, '100000'], securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}}], containers:";
    pod("Pod", name, namespace, WAITS)
        .replace("labels: {", "labels: {audit.steno.dev/injected: audit, ")
        .replace("containers:", fake)
}

#[test]
fn what_only_bears_the_sidecars_name_counts_as_a_pod_without_it_and_who_opts_out_is_told_of() {
    let world = world();
    let cluster = &world.cluster;
    served(&world, "posing");
    cluster.apply(&pretender("pretender", "posing"));
    wait_for("the policy to tell of it", LATER, || {
        let injected = cluster.condition("posing", "auditpolicy/audit", "Injected");
        injected["reason"] == "NotTheSidecar" && injected["message"].as_str().unwrap().contains("pretender")
    });
    let pods = cluster.get("posing", "auditpolicy/audit")["status"]["pods"].clone();
    assert_eq!(
        (&pods["injected"], &pods["matched"]),
        (&json!(1), &json!(2)),
        "the one that the webhook made counts, and only that"
    );
    // One that the webhook made, changed before it is made again elsewhere.
    let mut copied = cluster.get("posing", "pod/shop");
    copied["metadata"] = json!({
        "name": "copied", "namespace": "posing", "labels": copied["metadata"]["labels"], "annotations": copied["metadata"]["annotations"],
    });
    copied["spec"]["initContainers"][0]["args"] = json!(["health"]);
    copied["spec"].as_object_mut().unwrap().remove("nodeName");
    let (went_well, said) = cluster.try_apply(&copied.to_string());
    assert!(went_well && said.contains("is not what the webhook adds"), "{said}");
    cluster.kubectl(&["delete", "-n", "posing", "pod", "pretender", "copied", "--now"]);
    wait_for("the policy to be served again", LATER, || {
        cluster.condition("posing", "auditpolicy/audit", "Injected")["status"] == "True"
    });
    // The sidecar takes no configuration without the operator's signature, and has the key from the webhook.
    let env = cluster.get("posing", "pod/shop")["spec"]["initContainers"][0]["env"].to_string();
    assert!(env.contains("STENO_CONFIG_KEY"), "{env}");
    let rendered = cluster.get("posing", "configmap/steno-audit");
    assert!(rendered["data"]["config.yaml.sig"].as_str().is_some_and(|signature| signature.len() == 88), "{rendered}");
    // Who opts out in a namespace that is audited is told of, and where a ClusterAuditPolicy says so gets the sidecar all the same.
    cluster.kubectl(&["label", "namespace", "posing", "audit.steno.dev/inject=true"]);
    let out = |name: &str| pod("Pod", name, "posing", WAITS).replace("inject: \"true\"", "inject: \"false\"");
    cluster.apply(&out("out"));
    wait_for("the metric to tell of it", LATER, || {
        cluster.leader_metrics().contains("steno_operator_missed_pods{namespace=\"posing\",reason=\"OptedOut\"} 1")
    });
    assert_eq!(cluster.condition("posing", "auditpolicy/audit", "Injected")["status"], "True", "it was allowed to");
    cluster.apply("apiVersion: audit.steno.dev/v1alpha1\nkind: ClusterAuditPolicy\nmetadata: {name: nobody-opts-out}\nspec: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: posing}}, injection: {optOut: false}}\n");
    wait_for("one that opts out to get the sidecar", LATER, || {
        let (_, said) = cluster.try_with_input(&["apply", "--dry-run=server", "-f", "-"], &out("held"));
        said.contains("injection.optOut")
    });
    cluster.kubectl(&["delete", "clusterauditpolicy", "nobody-opts-out"]);
    cluster.kubectl(&["delete", "namespace", "posing", "--wait=false"]);
}

#[test]
fn the_charts_objects_are_what_the_api_server_knows() {
    let world = world();
    let all = "webhook.requireSidecar=Warn,networkPolicy.enabled=true,monitoring.dashboards=true,test.brokers=kafka:9092";
    let rendered = world.cluster.template(&["--set", all]);
    // Strictly: a field that the API server does not know is a fault.
    let (went_well, printed) =
        world.cluster.try_with_input(&["apply", "--dry-run=server", "--validate=strict", "-f", "-"], &rendered);
    // What lives in the namespace that the test of the chart makes cannot be tried before it is there.
    let is_fault = |line: &&str| {
        let line = line.to_lowercase();
        line.contains("error") && !line.contains("namespaces \"steno-test\" not found")
    };
    let faults: Vec<&str> = printed.lines().filter(is_fault).collect();
    assert!(faults.is_empty() && printed.lines().count() > 20, "went well: {went_well}\n{printed}");
}

#[test]
fn a_kubelet_that_restarts_loses_nothing() {
    let dir =
        std::env::var_os("E2E_CLUSTER_DIR").expect("E2E_CLUSTER_DIR: the directory of a cluster that e2e/cluster/up started");
    let world = world();
    served(&world, "kubelet");
    let restarts = || world.cluster.get("kubelet", "pod/shop")["status"]["initContainerStatuses"][0]["restartCount"].clone();
    world.cluster.post("kubelet", "shop", &event("kubelet-0", "{}"));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/cluster/restart-kubelet");
    assert!(Command::new(script).arg(dir).status().unwrap().success());
    wait_for("the node to be ready, and the pod's port to answer through the kubelet", LATER, || {
        world.cluster.try_kubectl(&["exec", "-n", "kubelet", "shop", "-c", "app", "--", "sleep", "0"]).0
    });
    let answer = world.cluster.post("kubelet", "shop", &event("kubelet-1", "{}"));
    assert!(answer.contains("\"created\""), "{answer}");
    wait_for("both events", SOON, || (0..2).all(|number| record(&world.kafka, &format!("kubelet-{number}")).is_some()));
    assert_eq!(restarts(), 0);
}

#[test]
fn a_control_plane_with_nothing_to_do_does_nothing() {
    let world = world();
    served(&world, "calm");
    let ready = || world.cluster.condition("calm", "auditpolicy/audit", "Ready")["status"] == "True";
    wait_for("the pod to be seen", LATER, ready);
    // What there was to say is said by then.
    std::thread::sleep(Duration::from_secs(40));
    let names =
        world.cluster.kubectl(&["get", "-n", "steno-system", "pods", "-l", "app.kubernetes.io/part-of=steno", "-o", "name"]);
    let pods: Vec<&str> = names.split_whitespace().collect();
    let processes: Vec<u32> = pods.iter().filter_map(|pod| process_of(pod.trim_start_matches("pod/"))).collect();
    assert_eq!((pods.len(), processes.len()), (4, 4), "two that reconcile and two that answer: {pods:?}");
    let log = |pod: &str| world.cluster.kubectl(&["logs", "-n", "steno-system", pod]);
    // Whole: where one was written, what is in it says why.
    let objects = || ["auditpolicy/audit", "configmap/steno-audit", "pod/shop"].map(|what| world.cluster.get("calm", what));
    let lasts = Duration::from_secs(scaled(60, 300) as u64);
    let logs = || pods.iter().map(|pod| log(pod)).collect::<Vec<_>>();
    let ((said, stood), used) = ((logs(), objects()), processes.iter().map(|pid| cpu(*pid)).collect::<Vec<_>>());
    // It is the measurement, not a wait for something.
    std::thread::sleep(lasts);
    let shares: Vec<f64> = processes.iter().zip(used).map(|(pid, used)| (cpu(*pid) - used) / lasts.as_secs_f64()).collect();
    assert_eq!(logs(), said, "there was nothing to say");
    for (now, before) in objects().iter().zip(&stood) {
        assert_eq!(now, before, "there was nothing to write");
    }
    println!("of a core, while nothing happens: {shares:.5?}");
    assert!(shares.iter().all(|share| *share < 0.005), "{shares:?}");
    world.cluster.kubectl(&["delete", "namespace", "calm", "--wait=false"]);
}

/// What a rollback leaves behind: an object with a value that this version does not know.
#[test]
fn an_object_that_nobody_can_read_is_told_of_and_stops_nothing() {
    let world = world();
    let cluster = &world.cluster;
    served(&world, "readable");
    cluster.namespace("newer");
    let member = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/ack/enum";
    let relax = |operation: &str| {
        let operations = format!("[{operation}]");
        cluster.kubectl(&["patch", "crd", "auditpolicies.audit.steno.dev", "--type=json", "-p", &operations]);
    };
    relax(&format!(r#"{{"op":"add","path":"{member}/-","value":"OfTheNextVersion"}}"#));
    cluster.webhooks_away();
    let newer = policy("audit", "newer", &world.kafka.for_pods(), "  ack: OfTheNextVersion\n");
    wait_for("the API server to take it", SOON, || cluster.try_apply(&newer).0);
    // Both begin with it there.
    cluster.webhooks_back();
    let leader = cluster.leader();
    cluster.kubectl(&["delete", "-n", "steno-system", "pod", &leader, "--wait=false"]);
    wait_for("another one to lead", SOON, || ![leader.as_str(), ""].contains(&cluster.leader().as_str()));
    wait_for("its status to say so", SOON, || {
        let accepted = cluster.condition("newer", "auditpolicy/audit", "Accepted");
        accepted["reason"] == "Unreadable" && accepted["message"].as_str().unwrap().contains("OfTheNextVersion")
    });
    // Others are served: their pods, their changes.
    cluster.apply(&pod("Pod", "next", "readable", WAITS));
    cluster.ready("readable", "pod/next");
    let rule = "  redaction: {rules: [{path: metadata.note, action: Replace}]}\n";
    cluster.apply(&policy("audit", "readable", &world.kafka.for_pods(), rule));
    wait_for("the change to be rendered", SOON, || {
        cluster.get("readable", "configmap/steno-audit")["data"]["config.yaml"].as_str().unwrap().contains("metadata.note")
    });
    cluster.kubectl(&["rollout", "status", "-n", "steno-system", "deploy/steno-operator", "--timeout=120s"]);
    cluster.kubectl(&["delete", "-n", "newer", "auditpolicy", "audit"]);
    let count = cluster.get("", "crd/auditpolicies.audit.steno.dev")["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        ["properties"]["spec"]["properties"]["ack"]["enum"]
        .as_array()
        .unwrap()
        .len();
    relax(&format!(r#"{{"op":"remove","path":"{member}/{}"}}"#, count - 1));
    cluster.kubectl(&["delete", "namespace", "newer", "readable", "--wait=false"]);
}

/// With nothing but the rights of `steno-edit`: a policy that is being deleted is changed to what nobody can read.
#[test]
fn an_editor_cannot_make_a_policy_that_nobody_can_read() {
    let world = world();
    let cluster = &world.cluster;
    cluster.namespace("edited");
    cluster.kubectl(&["create", "rolebinding", "-n", "edited", "editor", "--clusterrole=steno-edit", "--user=editor"]);
    let base = policy("audit", "edited", &world.kafka.for_pods(), "");
    cluster.apply(&base.replace("namespace: edited}", "namespace: edited, finalizers: [example.com/held]}"));
    let patch = |spec: &str| {
        let patch = format!(r#"{{"spec":{spec}}}"#);
        cluster.try_kubectl(&["patch", "--as=editor", "-n", "edited", "auditpolicy", "audit", "--type=merge", "-p", &patch])
    };
    for spec in [
        r#"{"spool":{"volume":{"type":"Ephemeral","ephemeral":{"size":"99999999999999999999Ti"}}}}"#,
        r#"{"dedupe":{"window":"99999999999999999999d"}}"#,
        r#"{"spool":{"maxBytes":"99999999999999999999999"}}"#,
    ] {
        let (went_well, said) = patch(spec);
        assert!(!went_well, "{spec}: {said}");
    }
    cluster.kubectl(&["delete", "--as=editor", "-n", "edited", "auditpolicy", "audit", "--wait=false"]);
    for spec in [r#"{"dedupe":{"window":"99999999999999999999d"}}"#, r#"{"dedupe":{"window":"2h"}}"#] {
        let (went_well, said) = patch(spec);
        assert!(!went_well, "of one that is being deleted only the finalizers may change; {spec}: {said}");
    }
    let free = r#"{"metadata":{"finalizers":null}}"#;
    cluster.kubectl(&["patch", "--as=editor", "-n", "edited", "auditpolicy", "audit", "--type=merge", "-p", free]);
    wait_for("it to be gone", SOON, || !cluster.try_kubectl(&["get", "-n", "edited", "auditpolicy", "audit"]).0);
    cluster.kubectl(&["delete", "namespace", "edited", "--wait=false"]);
}

/// Each of these pods passes without the annotation, and was refused with it.
#[test]
fn no_bound_of_a_namespace_or_a_pod_has_a_pod_refused() {
    let world = world();
    let cluster = &world.cluster;
    let bounds = [
        ("max", "{type: Container, max: {cpu: 500m, memory: 96Mi}, default: {cpu: 200m, memory: 64Mi}}"),
        ("min", "{type: Container, min: {cpu: 100m, memory: 160Mi}}"),
        (
            "ratio",
            "{type: Container, maxLimitRequestRatio: {cpu: '2', memory: '2'}, default: {cpu: 200m, memory: 128Mi}, defaultRequest: {cpu: 100m, memory: 64Mi}}",
        ),
        ("whole", "{type: Pod, max: {cpu: 500m, memory: 256Mi}}"),
        ("free", ""),
    ];
    for (name, bound) in bounds {
        cluster.namespace(name);
        cluster.apply(&policy("audit", name, &world.kafka.for_pods(), ""));
        if !bound.is_empty() {
            cluster.apply(&format!(
                "apiVersion: v1\nkind: LimitRange\nmetadata: {{name: bounds, namespace: {name}}}\nspec: {{limits: [{bound}]}}\n"
            ));
        }
    }
    let limited = |limits: &str| {
        pod("Pod", "shop", "NAMESPACE", WAITS)
            .replace("imagePullPolicy: Never,", &format!("imagePullPolicy: Never, resources: {limits},"))
    };
    let whole = pod("Pod", "shop", "NAMESPACE", WAITS)
        .replace(
            "spec: {restartPolicy",
            "spec: {resources: {requests: {cpu: 200m, memory: 100Mi}, limits: {cpu: 500m, memory: 200Mi}}, restartPolicy",
        )
        .replace("imagePullPolicy: Never,", "imagePullPolicy: Never, resources: {requests: {cpu: 195m, memory: 90Mi}},");
    for (namespace, name, manifest) in [
        ("max", "shop", pod("Pod", "shop", "NAMESPACE", WAITS)),
        ("min", "shop", limited("{requests: {cpu: 100m, memory: 160Mi}}")),
        ("ratio", "shop", pod("Pod", "shop", "NAMESPACE", WAITS)),
        ("whole", "shop", limited("{requests: {cpu: 10m, memory: 32Mi}, limits: {cpu: 450m, memory: 180Mi}}")),
        ("free", "guaranteed", limited("{requests: {cpu: 100m, memory: 64Mi}, limits: {cpu: 100m, memory: 64Mi}}")),
        ("free", "whole", whole),
    ] {
        let manifest = manifest.replace("NAMESPACE", namespace).replace("name: shop,", &format!("name: {name},"));
        cluster.rendered(namespace, "audit");
        // The webhooks have to have seen the LimitRange, which somebody makes long before pods.
        let mut said = String::new();
        wait_for(&format!("{name} in {namespace} to be taken"), SOON, || {
            let taken;
            (taken, said) = cluster.try_apply(&manifest);
            taken
        });
        cluster.ready(namespace, &format!("pod/{name}"));
        let made = cluster.get(namespace, &format!("pod/{name}"));
        assert_eq!(made["spec"]["initContainers"][0]["name"], "steno-sidecar", "{namespace}/{name} has no sidecar: {said}");
        if name == "guaranteed" {
            assert_eq!(made["status"]["qosClass"], "Guaranteed", "{made}");
        }
    }
    // What cannot fit starts without it, and says why.
    cluster.kubectl(&[
        "patch",
        "-n",
        "max",
        "limitrange",
        "bounds",
        "--type=merge",
        "-p",
        r#"{"spec":{"limits":[{"type":"Container","max":{"memory":"32Mi"},"default":{"memory":"16Mi"}}]}}"#,
    ]);
    let small = pod("Pod", "small", "max", WAITS);
    wait_for("the reason to be told", SOON, || {
        let (_, said) = cluster.try_with_input(&["create", "--dry-run=server", "-f", "-"], &small);
        said.contains("48Mi of memory")
    });
    let names: Vec<&str> = bounds.iter().map(|(name, _)| *name).collect();
    cluster.kubectl(&[&["delete", "namespace", "--wait=false"][..], &names].concat());
}

#[test]
fn neither_a_tightened_platform_nor_a_second_policy_takes_the_sidecar_unseen() {
    let world = world();
    let cluster = &world.cluster;
    served(&world, "tight");
    let strict = "apiVersion: audit.steno.dev/v1alpha1\nkind: ClusterAuditPolicy\nmetadata: {name: strict}\nspec: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: tight}}, spool: {volumeTypes: [PersistentVolumeClaim]}}\n";
    let (went_well, said) = cluster.try_apply(strict);
    assert!(went_well && said.contains("tight/audit"), "whoever tightens is told: {said}");
    wait_for("the status to name the policy", LATER, || {
        let satisfied = cluster.condition("", "clusterauditpolicy/strict", "Satisfied");
        satisfied["status"] == "False" && satisfied["message"].as_str().unwrap().contains("tight/audit")
    });
    let has_sidecar = |name: &str| {
        cluster.apply(&pod("Pod", name, "tight", WAITS));
        cluster.ready("tight", &format!("pod/{name}"));
        cluster.get("tight", &format!("pod/{name}"))["spec"]["initContainers"][0]["name"] == "steno-sidecar"
    };
    assert!(has_sidecar("later"), "a pod that is made after that");
    // Webhooks that have seen it accepted never.
    cluster.kubectl(&["rollout", "restart", "-n", "steno-system", "deploy/steno-webhook"]);
    cluster.kubectl(&["rollout", "status", "-n", "steno-system", "deploy/steno-webhook", "--timeout=120s"]);
    assert!(has_sidecar("after"), "and after webhooks have begun anew");
    cluster.kubectl(&["delete", "clusterauditpolicy", "strict"]);
    // A second policy that selects the same pods.
    let (went_well, said) = cluster.try_apply(&policy("second", "tight", &world.kafka.for_pods(), ""));
    assert!(went_well && said.contains("may select pods that audit selects"), "{said}");
    cluster.rendered("tight", "second");
    cluster.apply(&pod("Pod", "both", "tight", WAITS));
    for name in ["audit", "second"] {
        wait_for("both policies to tell of the pod", LATER, || {
            let injected = cluster.condition("tight", &format!("auditpolicy/{name}"), "Injected");
            injected["reason"] == "AmbiguousPolicies" && injected["message"].as_str().unwrap().contains("both")
        });
    }
    cluster.kubectl(&["delete", "namespace", "tight", "--wait=false"]);
}

/// A chart that brings an application and its policy: the API server gets the pods first.
#[test]
fn a_pod_may_come_before_its_policy_and_one_whose_policy_never_comes_is_told_of() {
    let world = world();
    let cluster = &world.cluster;
    cluster.namespace("early");
    let names = |name: &str, policy: &str| {
        pod("Pod", name, "early", WAITS).replace("audit.steno.dev/inject: \"true\"", &format!("audit.steno.dev/policy: {policy}"))
    };
    let (went_well, said) = cluster.try_apply(&names("first", "audit"));
    assert!(went_well && said.contains("there is no AuditPolicy"), "{said}");
    cluster.apply(&names("stray", "nevermade"));
    cluster.ready("early", "pod/first");
    let answer = cluster.post("early", "first", &event("early-1", "{}"));
    assert!(answer.contains("\"created\""), "{answer}");
    cluster.apply(&policy("audit", "early", &world.kafka.for_pods(), ""));
    wait_for("what was kept to be delivered", LATER, || record(&world.kafka, "early-1").is_some());
    wait_for("the pod to run by the policy", LATER, || {
        let pods = &cluster.get("early", "auditpolicy/audit")["status"]["pods"];
        pods["injected"] == 1 && pods["current"] == 1
    });
    wait_for("the other one to be told of", LATER, || {
        let events = cluster.kubectl(&["get", "-n", "early", "events", "--field-selector", "involvedObject.name=stray"]);
        events.contains("NoSuchPolicy") && events.contains("nevermade")
    });
    assert!(cluster.leader_metrics().contains(r#"steno_operator_missed_pods{namespace="early",reason="NoSuchPolicy"} 1"#));
    cluster.kubectl(&["delete", "namespace", "early", "--wait=false"]);
}
