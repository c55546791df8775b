//! A real Kubernetes cluster, that of `E2E_KUBECONFIG`, with Steno installed by Helm. `e2e/cluster/run` starts one of its own and ends it.
use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::wait_for;

/// The node's address, as pods see it.
pub const NODE: &str = "10.85.0.1";

/// A cluster of one node, and the commands to speak with it.
pub struct Cluster {
    kubeconfig: PathBuf,
    helm: PathBuf,
}

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/steno")
}

#[track_caller]
fn done(what: &str, output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{what} failed\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

impl Cluster {
    /// Takes the cluster and has Steno installed there.
    #[track_caller]
    pub fn start() -> Self {
        let kubeconfig = std::env::var_os("E2E_KUBECONFIG").expect("E2E_KUBECONFIG; or run e2e/cluster/run");
        let helm = std::env::var_os("E2E_HELM").map_or_else(|| PathBuf::from("helm"), PathBuf::from);
        let cluster = Self { kubeconfig: kubeconfig.into(), helm };
        cluster.install(&[]);
        cluster
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("KUBECONFIG", &self.kubeconfig).stdin(Stdio::null());
        command
    }

    /// `helm install` or `upgrade`, with further settings.
    #[track_caller]
    pub fn install(&self, settings: &[&str]) {
        let mut helm = self.command(&self.helm.to_string_lossy());
        helm.args(["upgrade", "--install", "steno"]).arg(chart());
        helm.args(["-n", "steno-system", "--create-namespace", "--wait", "--timeout", "240s"]);
        for setting in ["image.registry=e2e.local", "image.tag=e2e", "image.pullPolicy=Never"].iter().chain(settings) {
            helm.args(["--set", setting]);
        }
        done("helm upgrade --install", &helm.output().expect("helm starts"));
    }

    /// `helm test`; what its pod printed.
    #[track_caller]
    pub fn helm_test(&self) -> String {
        let mut helm = self.command(&self.helm.to_string_lossy());
        let output = helm.args(["test", "steno", "-n", "steno-system", "--timeout", "120s"]).output().expect("helm starts");
        let logs = ["logs", "-n", "steno-test", "-l", "job-name=steno-test", "-c", "app", "--tail=20"];
        let printed = self.try_kubectl(&logs).1;
        assert!(output.status.success(), "helm test failed: {}\n{printed}", String::from_utf8_lossy(&output.stderr));
        printed
    }

    /// Runs a command as a person would, in a shell with the cluster's kubeconfig; `$HELM` is Helm. What was printed, faults too.
    #[track_caller]
    pub fn shell(&self, command: &str, dir: &Path) -> String {
        let mut shell = self.command("bash");
        shell.args(["-c", command]).env("HELM", &self.helm).current_dir(dir);
        let output = shell.output().expect("bash starts");
        let printed = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        assert!(output.status.success(), "{command}: {}", printed.concat());
        let [said, _] = printed;
        said
    }

    /// `helm template` of the chart.
    #[track_caller]
    pub fn template(&self, arguments: &[&str]) -> String {
        let (went_well, printed) = self.try_template(arguments);
        assert!(went_well, "helm template {}: {printed}", arguments.join(" "));
        printed
    }

    /// The same, whatever comes of it: whether it went well, and all that was printed.
    pub fn try_template(&self, arguments: &[&str]) -> (bool, String) {
        let mut helm = self.command(&self.helm.to_string_lossy());
        helm.args(["template", "steno"]).arg(chart()).args(["-n", "steno-system", "--kube-version", "1.34.0"]).args(arguments);
        let output = helm.output().expect("helm starts");
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    }

    /// `helm uninstall`.
    #[track_caller]
    pub fn uninstall(&self) {
        let mut helm = self.command(&self.helm.to_string_lossy());
        done("helm uninstall", &helm.args(["uninstall", "steno", "-n", "steno-system", "--wait"]).output().expect("helm starts"));
    }

    /// `kubectl` with these arguments; its output, where it went well.
    #[track_caller]
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        let output = self.command("kubectl").args(arguments).output().expect("kubectl starts");
        done(&format!("kubectl {}", arguments.join(" ")), &output)
    }

    /// The same, whatever comes of it: whether it went well, and all that was printed.
    pub fn try_kubectl(&self, arguments: &[&str]) -> (bool, String) {
        let output = self.command("kubectl").args(arguments).output().expect("kubectl starts");
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    }

    /// `kubectl apply` of a text: whether it went well, and all that was printed.
    pub fn try_apply(&self, text: &str) -> (bool, String) {
        self.try_with_input(&["apply", "-f", "-"], text)
    }

    /// `kubectl` with a text as its input: whether it went well, and all that was printed.
    pub fn try_with_input(&self, arguments: &[&str], text: &str) -> (bool, String) {
        let mut command = self.command("kubectl");
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("kubectl starts");
        child.stdin.take().expect("its input").write_all(text.as_bytes()).expect("the text is taken");
        let output = child.wait_with_output().expect("kubectl ends");
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    }

    /// `kubectl apply` of a text.
    #[track_caller]
    pub fn apply(&self, text: &str) {
        let (went_well, printed) = self.try_apply(text);
        assert!(went_well, "{printed}\n{text}");
    }

    /// An object.
    #[track_caller]
    pub fn get(&self, namespace: &str, what: &str) -> Value {
        serde_json::from_str(&self.kubectl(&["get", "-n", namespace, what, "-o", "json"])).expect("JSON")
    }

    /// A namespace of a test's own, with Pod Security "restricted".
    #[track_caller]
    pub fn namespace(&self, name: &str) {
        self.apply(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{pod-security.kubernetes.io/enforce: restricted}}}}\n"
        ));
        // Pods need the namespace's default account, which a controller makes.
        wait_for("the default service account", Duration::from_mins(1), || {
            self.try_kubectl(&["get", "-n", name, "serviceaccount", "default"]).0
        });
    }

    /// Waits until a policy is rendered.
    #[track_caller]
    pub fn rendered(&self, namespace: &str, policy: &str) {
        let map = format!("steno-{policy}");
        wait_for("the policy to be rendered", Duration::from_mins(1), || {
            self.try_kubectl(&["get", "-n", namespace, "configmap", &map]).0
        });
    }

    /// Waits until all containers of a pod are ready.
    #[track_caller]
    pub fn ready(&self, namespace: &str, pod: &str) {
        let wait = ["wait", "-n", namespace, "--for=condition=Ready", pod, "--timeout=120s"];
        let (went_well, printed) = self.try_kubectl(&wait);
        assert!(went_well, "{printed}\n{}", self.try_kubectl(&["describe", "-n", namespace, pod]).1);
    }

    /// Posts an event from inside a pod's application; what was answered.
    #[track_caller]
    pub fn post(&self, namespace: &str, pod: &str, event: &str) -> String {
        let json = "Content-Type: application/json";
        let url = "http://127.0.0.1:9600/v1/events";
        self.kubectl(&["exec", "-n", namespace, pod, "-c", "app", "--", "curl", "-s", "-m", "10", "-H", json, "-d", event, url])
    }
}

impl Cluster {
    /// A condition of an object.
    #[track_caller]
    pub fn condition(&self, namespace: &str, what: &str, kind: &str) -> Value {
        let conditions = self.get(namespace, what)["status"]["conditions"].clone();
        let found = conditions.as_array().into_iter().flatten().find(|condition| condition["type"] == kind);
        found.cloned().unwrap_or_default()
    }

    /// Has no webhook answer.
    #[track_caller]
    pub fn webhooks_away(&self) {
        self.kubectl(&["scale", "-n", "steno-system", "deploy/steno-webhook", "--replicas=0"]);
        wait_for("the webhooks to be gone", Duration::from_mins(1), || {
            self.kubectl(&["get", "-n", "steno-system", "pods", "-l", "app.kubernetes.io/name=steno-webhook", "-o", "name"])
                .is_empty()
        });
    }

    /// Has the webhooks answer again.
    #[track_caller]
    pub fn webhooks_back(&self) {
        self.kubectl(&["scale", "-n", "steno-system", "deploy/steno-webhook", "--replicas=2"]);
        self.kubectl(&["rollout", "status", "-n", "steno-system", "deploy/steno-webhook", "--timeout=120s"]);
    }

    /// The pod that reconciles.
    #[track_caller]
    pub fn leader(&self) -> String {
        self.get("steno-system", "lease/steno-operator")["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
    }

    /// The metrics of the pod that reconciles. One may lead before its kubelet has told anyone its address; so this asks until it is answered.
    #[track_caller]
    pub fn leader_metrics(&self) -> String {
        let mut metrics = String::new();
        wait_for("the leader to give its metrics", Duration::from_mins(1), || {
            let path = format!("/api/v1/namespaces/steno-system/pods/{}:8081/proxy/metrics", self.leader());
            let answered;
            (answered, metrics) = self.try_kubectl(&["get", "--raw", &path]);
            answered
        });
        metrics
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let selector = "app.kubernetes.io/part-of=steno";
            let logs = self.try_kubectl(&["logs", "-n", "steno-system", "-l", selector, "--tail=15", "--prefix"]).1;
            eprintln!("the control plane's log:\n{logs}");
            let pods = self.try_kubectl(&["get", "pods", "-A", "-o", "wide"]).1;
            let described = self.try_kubectl(&["describe", "pods", "-n", "steno-system"]).1;
            let events = self.try_kubectl(&["get", "events", "-n", "steno-system", "--sort-by=.lastTimestamp"]).1;
            eprintln!("{pods}\n{described}\n{events}");
            if let Some(dir) = std::env::var_os("E2E_CLUSTER_DIR") {
                for name in ["kubelet", "proxy", "containerd"] {
                    let log = std::fs::read_to_string(Path::new(&dir).join(format!("logs/{name}.log"))).unwrap_or_default();
                    let last: Vec<&str> = log.lines().rev().take(25).collect();
                    eprintln!("--- {name}\n{}", last.into_iter().rev().collect::<Vec<_>>().join("\n"));
                }
            }
        }
    }
}
