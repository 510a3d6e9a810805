//! Every option of `run`, once: flag, environment variable, key in the file, default, type and description all come from
//! here, and so do `--help`, `config print`, `config check` and docs/configuration.md. A key in the file is the flag's
//! name without its dashes.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::memory::read as read_memory;
use super::values::{
    Auto, Bytes, Fallback, KubeconfigFiles, Listen, Switch, auto, bytes, duration_within, entries,
    power_of_two,
};
use crate::datapath::bpf::AttachMode;
use crate::endpoints::ProcScan;
use crate::logging::{Format, check_filter};
use crate::plan::{Fixed, LARGEST, Limits};

/// What every subcommand logs, and how.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Logs")]
pub struct LogOptions {
    /// What to log to standard error: error, warn, info, debug, trace, or a filter such as `policy_agent=debug`.
    #[arg(long, global = true, env = "SLUICE_LOG", default_value = "info", value_parser = check_filter, value_name = "LEVEL")]
    pub log: String,
    /// How a line of the log looks.
    #[arg(
        long,
        global = true,
        env = "SLUICE_LOG_FORMAT",
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    pub log_format: Format,
}

/// The agent's control socket, which other subcommands use too.
#[derive(Clone, Debug, Args)]
pub struct SocketOption {
    /// The agent's control socket. Only root can use it.
    #[arg(long, env = "SLUICE_SOCKET", default_value = "/run/sluice/agent.sock", value_name = "PATH")]
    pub socket: PathBuf,
}

#[derive(Clone, Debug, Args)]
pub struct BpffsOption {
    /// Where programs, maps and links are pinned: a folder on a BPF file system, of this agent alone.
    #[arg(long, env = "SLUICE_BPFFS", default_value = "/sys/fs/bpf/sluice", value_name = "DIR")]
    pub bpffs: PathBuf,
}

/// What `run` does.
#[derive(Clone, Debug, Args)]
pub struct RunOptions {
    #[command(flatten)]
    pub source: SourceOptions,
    #[command(flatten)]
    pub enforcement: EnforcementOptions,
    #[command(flatten)]
    pub cni: CniOptions,
    #[command(flatten)]
    pub operation: OperationOptions,
    #[command(flatten)]
    pub tables: TableOptions,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Source")]
pub struct SourceOptions {
    /// File with options (YAML); flags and the environment go before it.
    #[arg(long, env = "SLUICE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder of manifests (.yaml, .yml, .json): Namespaces, Pods, Nodes, NetworkPolicies, Services, EndpointSlices. Without it: the cluster.
    #[arg(long, env = "SLUICE_MANIFESTS", value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// How to reach the cluster; several files with `:` between them are merged as kubectl does it.
    ///
    /// Where nothing names one, KUBECONFIG of the environment counts; without that, the pod's service account.
    #[arg(long, env = "SLUICE_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<KubeconfigFiles>,
    /// The kubeconfig's context. Without it, the current one.
    #[arg(long, env = "SLUICE_CONTEXT", value_parser = NonEmptyStringValueParser::new(), value_name = "NAME")]
    pub context: Option<String>,
    /// Enforce only on pods with this spec.nodeName; all pods are peers. An API server needs it; with a folder and without
    /// it, on all pods found here.
    #[arg(long, env = "SLUICE_NODE", value_parser = NonEmptyStringValueParser::new(), value_name = "NAME")]
    pub node: Option<String>,
    /// How long the cluster's API may be silent before the agent says that it is not ready (1s to 60m).
    ///
    /// What is enforced stays enforced, however long it lasts.
    #[arg(
        long, env = "SLUICE_STALENESS_LIMIT", default_value = "5m", value_name = "TIME",
        value_parser = duration_within(Duration::from_secs(1), Duration::from_secs(3600)),
    )]
    pub staleness_limit: Duration,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Enforcement")]
pub struct EnforcementOptions {
    #[command(flatten)]
    pub bpffs: BpffsOption,
    /// How to hang the programs on an interface.
    #[arg(long, env = "SLUICE_ATTACH", value_enum, default_value_t, value_name = "HOW")]
    pub attach: AttachMode,
    /// Where the container runtime names the pods' network namespaces.
    #[arg(long, env = "SLUICE_NETNS_DIR", default_value = "/var/run/netns", value_name = "DIR")]
    pub netns_dir: PathBuf,
    /// Whether to look for network namespaces in /proc too.
    #[arg(long, env = "SLUICE_PROC_SCAN", value_enum, default_value_t, value_name = "WHEN")]
    pub proc_scan: ProcScan,
    /// What happens on an interface with a pod's namespace behind it that no known pod explains.
    #[arg(
        long, env = "SLUICE_UNKNOWN_ENDPOINTS", value_enum, default_value_t = Fallback::Open, value_name = "VERDICT"
    )]
    pub unknown_endpoints: Fallback,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "First instant")]
pub struct CniOptions {
    /// How long a new pod waits for its policy before it starts (10ms to 5m).
    #[arg(
        long, env = "SLUICE_CNI_TIMEOUT", default_value = "5s", value_name = "TIME",
        value_parser = duration_within(Duration::from_millis(10), Duration::from_secs(300)),
    )]
    pub cni_timeout: Duration,
    /// What happens on the interface of a pod whose policy was not known in that time.
    #[arg(long, env = "SLUICE_CNI_UNREADY", value_enum, default_value_t = Fallback::Closed, value_name = "VERDICT")]
    pub cni_unready: Fallback,
    /// The folder of the CNI configurations.
    #[arg(long, env = "SLUICE_CNI_CONF_DIR", default_value = "/etc/cni/net.d", value_name = "DIR")]
    pub cni_conf_dir: PathBuf,
    /// Where the container runtime looks for plugins. While ours is there, its entry is put back whenever the network's
    /// owner writes the configuration anew.
    #[arg(long, env = "SLUICE_CNI_BIN_DIR", default_value = "/opt/cni/bin", value_name = "DIR")]
    pub cni_bin_dir: PathBuf,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Operation")]
pub struct OperationOptions {
    #[command(flatten)]
    pub socket: SocketOption,
    /// Where /livez and /readyz are: ADDRESS:PORT, :PORT for all addresses, or off.
    #[arg(
        long,
        env = "SLUICE_HEALTH_ADDRESS",
        default_value = "127.0.0.1:9879",
        value_name = "ADDRESS:PORT|off"
    )]
    pub health_address: Listen,
    /// Where /metrics is: ADDRESS:PORT, :PORT for all addresses, or off.
    #[arg(long, env = "SLUICE_METRICS_ADDRESS", default_value = "off", value_name = "ADDRESS:PORT|off")]
    pub metrics_address: Listen,
    /// Whether problems with objects are told as Kubernetes Events.
    #[arg(long, env = "SLUICE_EVENTS", value_enum, default_value_t = Switch::On, value_name = "on|off")]
    pub events: Switch,
}

/// How large tables are. Each is as large as the node's memory suggests, and grows, unless its size is set here.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Table sizes")]
pub struct TableOptions {
    /// What all tables together may take (32Mi to 1024Gi), which says how large each is and how far it may grow.
    ///
    /// `auto` is a tenth of the node's memory, or half of what the agent's container is limited to where that is less.
    #[arg(long, env = "SLUICE_TABLE_MEMORY", default_value_t = Auto::Auto, value_name = "SIZE|auto", value_parser = memory)]
    pub table_memory: Auto<Bytes>,
    /// Addresses of pods that rules tell from others, for each family (64 to 16777216).
    #[arg(
        long, env = "SLUICE_TABLE_PEERS", default_value_t = Auto::Auto, value_name = "ENTRIES|auto",
        value_parser = auto(entries(64, LARGEST.peers)),
    )]
    pub table_peers: Auto<u32>,
    /// Networks of rules, for each family (64 to 16777216).
    #[arg(
        long, env = "SLUICE_TABLE_CIDRS", default_value_t = Auto::Auto, value_name = "ENTRIES|auto",
        value_parser = auto(entries(64, LARGEST.cidrs)),
    )]
    pub table_cidrs: Auto<u32>,
    /// What each policy set says to each class of peers (1024 to 67108864).
    #[arg(
        long, env = "SLUICE_TABLE_ROWS", default_value_t = Auto::Auto, value_name = "ENTRIES|auto",
        value_parser = auto(entries(1024, LARGEST.rows)),
    )]
    pub table_rows: Auto<u32>,
    /// Words of 64 port classes each that these are made of (64 to 16777216).
    #[arg(
        long, env = "SLUICE_TABLE_WORDS", default_value_t = Auto::Auto, value_name = "ENTRIES|auto",
        value_parser = auto(entries(64, LARGEST.words)),
    )]
    pub table_words: Auto<u32>,
    /// Pods of this node (16 to 65536).
    #[arg(
        long, env = "SLUICE_TABLE_ENDPOINTS", default_value_t = Auto::Auto, value_name = "ENTRIES|auto",
        value_parser = auto(entries(16, LARGEST.endpoints)),
    )]
    pub table_endpoints: Auto<u32>,
    /// Networks that pods may send from beside their own addresses (64 to 1048576).
    #[arg(
        long, env = "SLUICE_TABLE_SOURCES", default_value_t = Auto::Auto, value_name = "ENTRIES|auto",
        value_parser = auto(entries(64, LARGEST.sources)),
    )]
    pub table_sources: Auto<u32>,
    /// Frontends of Services: an address with a port and a protocol each (64 to 4194304).
    #[arg(
        long, env = "SLUICE_TABLE_SERVICES", default_value_t = Auto::Auto, value_name = "ENTRIES|auto",
        value_parser = auto(entries(64, LARGEST.services)),
    )]
    pub table_services: Auto<u32>,
    /// Endpoints in their lists; Services with the same endpoints share a list (64 to 16777216).
    #[arg(
        long, env = "SLUICE_TABLE_BACKENDS", default_value_t = Auto::Auto, value_name = "ENTRIES|auto",
        value_parser = auto(entries(64, LARGEST.backends)),
    )]
    pub table_backends: Auto<u32>,
    /// Sets of eight connections each, a power of two (1024 to 1048576).
    ///
    /// A flow table that an agent before this one left keeps its size; `policy-agent uninstall` removes it.
    #[arg(
        long, env = "SLUICE_TABLE_FLOW_SETS", default_value_t = Auto::Auto, value_name = "ENTRIES|auto",
        value_parser = auto(power_of_two(1 << 10, LARGEST.flow_sets)),
    )]
    pub table_flow_sets: Auto<u32>,
}

fn memory(text: &str) -> Result<Auto<Bytes>, String> {
    auto(bytes(32 << 20, 1 << 40))(text)
}

impl TableOptions {
    /// How far the tables may grow, and how large they are to begin with.
    pub fn limits(&self) -> anyhow::Result<Limits> {
        let memory = match self.table_memory {
            Auto::Set(Bytes(bytes)) => bytes,
            Auto::Auto => read_memory()
                .context("how much memory there is for tables is not known: --table-memory can say it")?
                .for_tables(),
        };
        let fixed = Fixed {
            words: self.table_words.set(),
            rows: self.table_rows.set(),
            endpoints: self.table_endpoints.set(),
            peers: self.table_peers.set(),
            cidrs: self.table_cidrs.set(),
            sources: self.table_sources.set(),
            services: self.table_services.set(),
            backends: self.table_backends.set(),
            flow_sets: self.table_flow_sets.set(),
        };
        Ok(Limits::new(memory, fixed))
    }
}
