//! Looking into every namespace for addresses whose interface has its other end here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::thread;

use nix::sched::{CloneFlags, setns};

use super::namespaces::{Finder, open_own};
use super::netlink::Netlink;
use super::{Cache, Interface, Scan, ScanError, interface_index};

/// Looks into all network namespaces once.
///
/// Blocks, for well below a tenth of a millisecond a namespace. The work is done on a thread of its own, the only one that
/// leaves the caller's namespace: which namespace is "here" is decided by the calling thread.
pub fn scan(cache: &mut Cache) -> Result<Scan, ScanError> {
    thread::scope(|scope| {
        let worker = thread::Builder::new()
            .name("endpoints".to_owned())
            .spawn_scoped(scope, || scan_here(cache))
            .map_err(ScanError::Thread)?;
        worker.join().unwrap_or(Err(ScanError::Panicked))
    })
}

/// Where kube-proxy in its mode ipvs binds the Services' addresses to the node, which makes them none of the node's.
const IPVS: &str = "kube-ipvs0";

/// Leaves the calling thread in one of the namespaces that it looked into.
fn scan_here(cache: &mut Cache) -> Result<Scan, ScanError> {
    let (own, identity) = open_own().map_err(ScanError::OwnNamespace)?;
    let mut here = Netlink::open().map_err(ScanError::OwnLinks)?;
    let bound = interface_index(IPVS);
    let own_addresses = here
        .addresses()
        .map_err(ScanError::OwnLinks)?
        .into_iter()
        .filter(|entry| Some(entry.index) != bound)
        .map(|entry| entry.address)
        .filter(|address| !address.is_loopback())
        .collect();
    let mut found = Vec::new();
    let Cache { options, suspects } = cache;
    let mut finder = Finder::new(identity, suspects);
    finder.each(&options.netns_dir, options.proc_scan, |path, namespace| {
        look_into(path, namespace, &own, &mut here, &mut found)
    })?;
    let mut problems = finder.problems;
    let interfaces = settle(found, &mut problems);
    Ok(Scan { interfaces, own_addresses, problems })
}

/// Moves the thread into `namespace` and adds its addresses to `found`. `here` is open in the namespace `own`.
fn look_into(
    path: &Path,
    namespace: &File,
    own: &File,
    here: &mut Netlink,
    found: &mut Vec<Interface>,
) -> io::Result<()> {
    setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|error| during("entering it", error.into()))?;
    let mut inside = Netlink::open().map_err(|error| during("opening netlink", error))?;
    let links = inside.links().map_err(|error| during("listing its links", error))?;
    if links.iter().all(|link| link.peer_namespace.is_none()) {
        return Ok(());
    }
    // The kernel numbers a link's other namespace when it is listed: only then can it be asked for the number.
    let Some(own_id) = inside.namespace_id(own)? else { return Ok(()) };
    let mut peers = BTreeMap::new();
    for link in links.into_iter().filter(|link| link.peer_namespace == Some(own_id)) {
        let Some(peer) = link.peer else { continue };
        let Some(host) = here.link(peer).map_err(|error| during("looking at the peer", error))? else {
            continue;
        };
        // A macvlan or VLAN names its parent here as a veth names its peer; the parent doesn't name it back.
        if host.peer == Some(link.index)
            && host.peer_namespace.is_some()
            && host.peer_namespace == here.namespace_id(namespace)?
        {
            peers.insert(link.index, host);
        }
    }
    if peers.is_empty() {
        return Ok(());
    }
    for entry in inside.addresses().map_err(|error| during("listing its addresses", error))? {
        if let Some(host) = peers.get(&entry.index)
            && is_global(entry.address)
        {
            found.push(Interface {
                address: entry.address,
                ifindex: host.index,
                name: host.name.clone(),
                netns: path.display().to_string(),
            });
        }
    }
    Ok(())
}

fn during(what: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// Judged by the address alone: some network plugins give a pod's address the scope of its link.
fn is_global(address: IpAddr) -> bool {
    let local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(local || address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

/// One interface for each address; an address on two is a problem, and on none.
fn settle(found: Vec<Interface>, problems: &mut Vec<String>) -> BTreeMap<IpAddr, Interface> {
    let mut interfaces: BTreeMap<IpAddr, Interface> = BTreeMap::new();
    let mut disputed = BTreeSet::new();
    for interface in found {
        match interfaces.get(&interface.address) {
            // The same address with two prefix lengths.
            Some(first) if first.ifindex == interface.ifindex => {}
            Some(first) => {
                problems.push(format!(
                    "{} is in {} (behind {}) and in {} (behind {}): it is taken for neither",
                    first.address, first.netns, first.name, interface.netns, interface.name
                ));
                disputed.insert(interface.address);
            }
            None => {
                interfaces.insert(interface.address, interface);
            }
        }
    }
    interfaces.retain(|address, _| !disputed.contains(address));
    interfaces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(address: &str, ifindex: u32) -> Interface {
        Interface {
            address: address.parse().unwrap(),
            ifindex,
            name: format!("veth{ifindex}"),
            netns: format!("/var/run/netns/{ifindex}"),
        }
    }

    #[test]
    fn an_address_on_two_interfaces_is_on_none() {
        let found = vec![
            interface("10.0.0.1", 1),
            interface("10.0.0.2", 2),
            interface("10.0.0.1", 3),
            interface("10.0.0.2", 2),
        ];
        let mut problems = Vec::new();
        let settled = settle(found, &mut problems);
        assert_eq!(settled.into_values().collect::<Vec<_>>(), [interface("10.0.0.2", 2)]);
        assert_eq!(
            problems,
            ["10.0.0.1 is in /var/run/netns/1 (behind veth1) and in /var/run/netns/3 (behind veth3): \
              it is taken for neither"]
        );
    }

    #[test]
    fn only_addresses_that_a_pod_can_have_are_global() {
        for address in ["10.244.1.2", "192.0.2.1", "fd00::1", "2001:db8::1"] {
            assert!(is_global(address.parse().unwrap()), "{address}");
        }
        for address in ["127.0.0.1", "169.254.1.1", "0.0.0.0", "224.0.0.1", "::1", "fe80::1", "ff02::1", "::"]
        {
            assert!(!is_global(address.parse().unwrap()), "{address}");
        }
    }
}
