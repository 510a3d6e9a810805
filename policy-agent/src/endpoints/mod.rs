//! Endpoints: which host interface stands for which pod address (DESIGN section 4).
//!
//! [`scan`] looks into the network namespaces of the machine and follows each interface with an address to its other end. It
//! counts only where that end is in the agent's own namespace and names the pod's end in return: indexes and names repeat from
//! one namespace to the next. [`LinkWatch`] says when to scan again.
//!
//! The agent needs CAP_SYS_ADMIN to enter namespaces and must see the machine's /var/run/netns.

mod directory;
mod namespaces;
pub(crate) mod netlink;
mod scan;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

pub use scan::scan;
pub(crate) use watch::Announcements;
pub use watch::LinkWatch;

/// The host end of the interface that bears an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The address, as found on the pod's end.
    pub address: IpAddr,
    /// The host end's index.
    pub ifindex: u32,
    /// The host end's name.
    pub name: String,
    /// The file of the namespace that the address was found in.
    pub netns: String,
}

/// What one look into all namespaces found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// The host interface of each address. An address found behind two interfaces is missing.
    pub interfaces: BTreeMap<IpAddr, Interface>,
    /// The node's addresses: all those of the agent's own namespace, link-local ones included, except loopback and
    /// those that kube-proxy has put there for Services.
    pub own_addresses: BTreeSet<IpAddr>,
    /// What couldn't be looked into, and addresses found twice.
    pub problems: Vec<String>,
}

/// Why a scan found nothing at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScanError {
    /// No thread could be started.
    #[error("starting the thread that enters network namespaces: {0}")]
    Thread(#[source] io::Error),
    /// A bug.
    #[error("the thread that enters network namespaces panicked")]
    Panicked,
    /// /proc isn't mounted, or no file can be opened.
    #[error("opening the agent's own network namespace: {0}")]
    OwnNamespace(#[source] io::Error),
    /// rtnetlink failed here, not in a pod.
    #[error("asking for the node's addresses: {0}")]
    OwnLinks(#[source] io::Error),
    /// The directory of namespaces, or /proc, is there and can't be read.
    #[error("reading {}: {source}", path.display())]
    Directory {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Whether the namespaces of all processes are looked into as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ProcScan {
    /// Only named namespaces.
    Never,
    /// Where the directory of namespaces is missing or names none but the agent's own: a runtime that keeps them elsewhere.
    ///
    /// Where some are named and others not, `Always` has to be asked for.
    #[default]
    IfNoneNamed,
    /// Named ones and those of processes. The agent must see the machine's processes (`hostPID`).
    Always,
}

/// Where to look for namespaces.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory that names them.
    pub netns_dir: PathBuf,
    /// Whether to look at processes.
    pub proc_scan: ProcScan,
}

impl Default for Options {
    fn default() -> Self {
        Self { netns_dir: "/var/run/netns".into(), proc_scan: ProcScan::default() }
    }
}

/// What one scan leaves to the next.
///
/// No addresses: a pod can get one at any time without a trace in its namespace's file, and a held file or socket would keep
/// the namespace of a removed pod alive. Looking again costs less than a tenth of a millisecond a pod.
#[derive(Debug, Default)]
pub struct Cache {
    options: Options,
    suspects: namespaces::Suspects,
}

impl Cache {
    /// Looks where `options` say.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { options, suspects: namespaces::Suspects::default() }
    }
}

/// The name of an interface in the calling thread's namespace.
#[must_use]
pub fn interface_name(ifindex: u32) -> Option<String> {
    nix::net::if_::if_indextoname(ifindex).ok()?.into_string().ok()
}

/// The index of an interface in the calling thread's namespace.
#[must_use]
pub fn interface_index(name: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(name).ok()
}

/// Device and inode of the calling thread's network namespace.
pub fn netns_id() -> io::Result<(u64, u64)> {
    Ok(namespaces::open_own()?.1)
}
