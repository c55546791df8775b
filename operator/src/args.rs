//! The command line.
use std::{net::SocketAddr, path::PathBuf};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use steno_crds::Span;

use crate::inject::Resources;

/// Turns AuditPolicy objects into sidecars in annotated pods.
#[derive(Debug, Parser)]
#[command(name = "steno-operator", version, after_help = "Exit codes: 0 done; 1 a fault, told on standard error; 2 wrong usage.")]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the webhooks and reconcile policies
    Run(Box<RunArgs>),
    /// Print the CustomResourceDefinitions
    Crd,
}

/// Settings of `run`.
#[derive(Debug, Clone, ClapArgs)]
pub struct RunArgs {
    /// What this process does: `webhook` serves admissions, `reconcile` does all else, in one process at a time
    #[arg(long, env = "STENO_ROLES", value_enum, value_delimiter = ',', default_values_t = [Role::Webhook, Role::Reconcile])]
    pub roles: Vec<Role>,
    /// Image of the sidecar
    #[arg(long, env = "STENO_SIDECAR_IMAGE")]
    pub sidecar_image: String,
    /// Its pull policy; empty: the cluster's default
    #[arg(long, env = "STENO_SIDECAR_PULL_POLICY", default_value = "")]
    pub sidecar_pull_policy: String,
    /// Secrets that injected pods pull its image with, besides their own; they must be in each namespace
    #[arg(long, env = "STENO_SIDECAR_PULL_SECRETS", value_name = "NAMES", value_delimiter = ',')]
    pub sidecar_pull_secrets: Vec<String>,
    /// Names of the containers of meshes' proxies, which outlive the sidecar
    #[arg(long, env = "STENO_MESH_PROXIES", value_name = "NAMES", value_delimiter = ',', default_values_t = ["istio-proxy".to_owned(), "linkerd-proxy".to_owned()])]
    pub mesh_proxies: Vec<String>,
    /// Requests and limits of the sidecar's CPU and memory, as JSON: what neither annotations nor the namespace's `LimitRange` say otherwise
    #[arg(long, env = "STENO_SIDECAR_RESOURCES", value_name = "JSON", default_value = "{}")]
    pub sidecar_resources: Resources,
    /// Address of the webhooks (TLS)
    #[arg(long, env = "STENO_WEBHOOK", default_value = "[::]:10250")]
    pub webhook: SocketAddr,
    /// Address of health and metrics (plain)
    #[arg(long, env = "STENO_HEALTH", default_value = "[::]:8081")]
    pub health: SocketAddr,
    /// Namespace of the operator, where its Secret is
    #[arg(long, env = "STENO_NAMESPACE", default_value = "steno-system")]
    pub namespace: String,
    /// Name of the Service in front of the webhooks
    #[arg(long, env = "STENO_SERVICE", default_value = "steno-webhook")]
    pub service: String,
    /// Name of the webhook configurations whose caBundle is kept up to date
    #[arg(long, env = "STENO_WEBHOOK_CONFIGURATION", default_value = "steno")]
    pub configuration: String,
    /// Further names or addresses in the webhook's certificate, for API servers that come another way
    #[arg(long, env = "STENO_CERT_NAMES", value_delimiter = ',')]
    pub cert_names: Vec<String>,
    /// Name of the Secret with the authority of the webhooks
    #[arg(long, env = "STENO_CA_SECRET", default_value = "steno-webhook-ca")]
    pub ca_secret: String,
    /// Time between the steps of a rotation of that authority; longer than API servers take to see a change (5s to 1d)
    #[arg(long, env = "STENO_CA_OVERLAP", default_value = "10m", value_parser = overlap)]
    pub ca_overlap: Span,
    /// Name of the Lease by which one process reconciles
    #[arg(long, env = "STENO_LEASE", default_value = "steno-operator")]
    pub lease: String,
    /// How long that Lease lasts without being renewed; a killed leader's work waits so long (3 to 300 seconds)
    #[arg(long, env = "STENO_LEASE_SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(3..=300))]
    pub lease_seconds: u64,
    /// This process's name among those that may lead
    #[arg(long, env = "STENO_IDENTITY", default_value = "")]
    pub identity: String,
    /// Namespaces to work in, each of which gives the rights by a RoleBinding of its own; none: all
    #[arg(long, env = "STENO_NAMESPACES", value_delimiter = ',')]
    pub namespaces: Vec<String>,
    /// Namespaces that the webhooks do not look at, so that their pods are not reported as missed
    #[arg(long, env = "STENO_EXCLUDE_NAMESPACES", value_delimiter = ',', default_value = "kube-system,kube-node-lease")]
    pub exclude_namespaces: Vec<String>,
    /// Pods a second that are told of a changed configuration (1 to 10000)
    #[arg(long, env = "STENO_NUDGES", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub nudges: u64,
    /// Certificates that somebody else keeps: a directory with ca.crt, tls.crt and tls.key
    #[arg(long, env = "STENO_CERT_DIR")]
    pub cert_dir: Option<PathBuf>,
    /// Least grave log lines: error, warn, info, debug
    #[arg(long, env = "STENO_LOG_LEVEL", default_value = "info")]
    pub log_level: String,
}

/// A part of the operator's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Admissions: injection and validation.
    Webhook,
    /// Policies, status, watchdog, certificates.
    Reconcile,
}

fn overlap(text: &str) -> Result<Span, String> {
    let span: Span = text.parse().map_err(|_| format!("{text:?} is not a duration such as 10m"))?;
    let range = Span(5_000)..=Span(86_400_000);
    if range.contains(&span) { Ok(span) } else { Err("write from 5s to 1d".into()) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_help_page_is_what_the_program_says() {
        let mut page = String::from("# Help of steno-operator\n\n<!-- Generated by `make generate`; do not edit. -->\n");
        let mut command = Args::command().term_width(110);
        command.build();
        for part in
            std::iter::once(command.clone()).chain(command.get_subcommands().filter(|part| part.get_name() != "help").cloned())
        {
            let mut part = part.term_width(110);
            let name = part.get_bin_name().unwrap_or("steno-operator").to_owned();
            page += &format!("\n## {name}\n\n```text\n{}\n```\n", part.render_help().to_string().trim_end());
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/operator-help.md");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        assert!(
            std::fs::read_to_string(path).unwrap_or_default() == page,
            "{path} is not what the program says: run `make generate`"
        );
    }
}
