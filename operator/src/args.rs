//! The command line.
use std::{net::SocketAddr, path::PathBuf};

use clap::{Args as ClapArgs, Parser, Subcommand};

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
    /// Print the CustomResourceDefinition
    Crd,
}

/// Settings of `run`.
#[derive(Debug, Clone, ClapArgs)]
pub struct RunArgs {
    /// Image of the sidecar
    #[arg(long, env = "STENO_SIDECAR_IMAGE")]
    pub sidecar_image: String,
    /// Its pull policy; empty: the cluster's default
    #[arg(long, env = "STENO_SIDECAR_PULL_POLICY", default_value = "")]
    pub sidecar_pull_policy: String,
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
    /// Certificates that somebody else keeps: a directory with ca.crt, tls.crt and tls.key
    #[arg(long, env = "STENO_CERT_DIR")]
    pub cert_dir: Option<PathBuf>,
    /// Least grave log lines: error, warn, info, debug
    #[arg(long, env = "STENO_LOG_LEVEL", default_value = "info")]
    pub log_level: String,
}
