//! Random clusters of the oracle, read the way the agent reads them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use policy_agent::explain::TransportProtocol;
use policy_agent::model::Protocol;
use policy_agent::model::{Cluster, ObjectName};
use policy_agent::plan::LocalEndpoint;
use policy_agent::source::{FolderRead, Store, read_folder, read_text};

/// Writes the cluster as manifests and reads them back through the agent's source.
pub fn read(cluster: &sluice_oracle::Cluster) -> anyhow::Result<Cluster> {
    let folder = tempfile::tempdir()?;
    for (name, text) in cluster.to_manifests() {
        std::fs::write(folder.path().join(name), text)?;
    }
    cluster_of(read_folder(folder.path()))
}

/// Reads manifests that are written in a test.
pub fn read_manifests(text: &str) -> anyhow::Result<Cluster> {
    let file = read_text("manifests.yaml", text.as_bytes().to_vec());
    cluster_of(FolderRead { files: vec![file], problem: None })
}

fn cluster_of(read: FolderRead) -> anyhow::Result<Cluster> {
    let mut store = Store::default();
    store.update(read);
    anyhow::ensure!(store.problems().is_empty(), "valid manifests were refused: {:?}", store.problems());
    Ok(store.cluster().clone())
}

/// Gives every endpoint one of the interfaces; the same pod name always gets the same one.
pub fn place(
    cluster: &Cluster,
    interfaces: &mut BTreeMap<ObjectName, u32>,
    pool: &[u32],
) -> Vec<LocalEndpoint> {
    let mut locals = Vec::new();
    for pod in cluster.pods.values().filter(|p| p.is_selectable() && !p.addresses.is_empty()) {
        let next = interfaces.len();
        let ifindex = match interfaces.get(&pod.id) {
            Some(ifindex) => *ifindex,
            None => match pool.get(next) {
                Some(ifindex) => {
                    interfaces.insert(pod.id.clone(), *ifindex);
                    *ifindex
                }
                None => continue,
            },
        };
        locals.push(LocalEndpoint {
            pod: pod.id.clone(),
            ifindex,
            addresses: pod.addresses.clone(),
            sources: pod.sources.clone(),
        });
    }
    locals
}

pub fn transport(flow: &sluice_oracle::Flow) -> TransportProtocol {
    match flow.protocol {
        sluice_oracle::Protocol::Tcp => TransportProtocol::Ports(Protocol::Tcp, flow.port),
        sluice_oracle::Protocol::Udp => TransportProtocol::Ports(Protocol::Udp, flow.port),
        sluice_oracle::Protocol::Sctp => TransportProtocol::Ports(Protocol::Sctp, flow.port),
        sluice_oracle::Protocol::Icmp => TransportProtocol::Icmp,
    }
}

/// Which endpoint bears an address.
pub fn owner(locals: &[LocalEndpoint], address: IpAddr) -> Option<u32> {
    locals.iter().find(|local| local.addresses.contains(&address)).map(|local| local.ifindex)
}
