use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

use sluice_netns::{NodeSpec, PodSpec, World};

use super::super::{Cache, Options, ProcScan, interface_index, interface_name, netns_id, scan};
use super::{expected, found, ip, scan_on, two_nodes};

#[test]
fn each_node_finds_its_own_pods_only() {
    let world = two_nodes();
    let indexes = |node: &str| -> BTreeSet<u32> {
        let scan = scan_on(&world, node, &mut Cache::default());
        let own = world.pods().filter(|pod| pod.node == node);
        assert_eq!(found(&scan), expected(own), "{:?}", scan.problems);
        let addresses = world.node(node).unwrap();
        for address in addresses.addresses().into_iter().chain(addresses.gateways()) {
            assert!(scan.own_addresses.contains(&address), "{address} in {:?}", scan.own_addresses);
        }
        assert!(scan.own_addresses.iter().all(|address| !address.is_loopback()));
        assert!(scan.interfaces.keys().all(|address| !scan.own_addresses.contains(address)));
        addresses
            .ns()
            .run(|| {
                for interface in scan.interfaces.values() {
                    assert_eq!(interface_name(interface.ifindex).as_ref(), Some(&interface.name));
                    assert_eq!(interface_index(&interface.name), Some(interface.ifindex));
                }
            })
            .unwrap();
        scan.interfaces.values().map(|interface| interface.ifindex).collect()
    };
    assert_eq!(
        indexes("node1"),
        indexes("node2"),
        "the nodes don't have the same indexes: this proves little"
    );
}

/// As kube-proxy in its mode ipvs: a Service's address on the node is not the node's.
#[test]
fn addresses_that_services_have_on_the_node_are_not_its_own() {
    let world = two_nodes();
    let node = world.node("node1").unwrap().ns();
    ip(node, "link add kube-ipvs0 type veth peer name other0");
    ip(node, "addr add 10.96.0.10/32 dev kube-ipvs0");
    ip(node, "addr add 10.96.0.11/32 dev other0");
    let own = scan_on(&world, "node1", &mut Cache::default()).own_addresses;
    let has = |address: &str| own.contains(&address.parse::<IpAddr>().unwrap());
    assert!(!has("10.96.0.10") && has("10.96.0.11"), "{own:?}");
}

#[test]
fn the_machine_itself_finds_none_of_the_nodes_pods() {
    let world = two_nodes();
    let before = netns_id().unwrap();
    let scan = scan(&mut Cache::default()).unwrap();
    assert_eq!(netns_id().unwrap(), before, "the caller's thread has moved");
    assert!(world.pods().all(|pod| !scan.interfaces.contains_key(&pod.ipv4.into())));
}

#[test]
fn pods_come_and_go() {
    let mut world = two_nodes();
    let mut cache = Cache::default();
    let mut check = |world: &World| {
        let scan = scan_on(world, "node1", &mut cache);
        assert_eq!(found(&scan), expected(world.pods().filter(|pod| pod.node == "node1")));
    };
    check(&world);
    world.add_pod(PodSpec::new("default", "late", "node1")).unwrap();
    check(&world);
    world.remove_pod("default/a-node1").unwrap();
    check(&world);
    // The name, and maybe the inode, of the removed pod's namespace.
    world.add_pod(PodSpec::new("default", "a-node1", "node1")).unwrap();
    check(&world);
}

#[test]
fn an_address_may_come_after_its_namespace() {
    let world = two_nodes();
    let pod = world.pod("default/a-node1").unwrap();
    let mut cache = Cache::default();
    assert_eq!(scan_on(&world, "node1", &mut cache).interfaces.len(), 4);
    ip(&pod.ns, "addr add 10.244.1.200/32 dev eth0");
    // The address is the pod's end's, not the one that it points to.
    ip(&pod.ns, "addr add 10.244.1.201 peer 10.244.1.202/32 dev eth0");
    // Not a pod's address: link-local, and on an interface that leads nowhere.
    ip(&pod.ns, "addr add 169.254.7.7/32 dev eth0");
    ip(&pod.ns, "addr add 10.244.1.203/32 dev lo");
    let scan = scan_on(&world, "node1", &mut cache);
    assert_eq!(scan.interfaces.len(), 6, "{:?}", scan.interfaces);
    for address in ["10.244.1.200", "10.244.1.201"] {
        let interface = &scan.interfaces[&address.parse::<IpAddr>().unwrap()];
        assert_eq!(interface.name, pod.host_interface);
    }
    ip(&pod.ns, "addr del 10.244.1.200/32 dev eth0");
    assert_eq!(scan_on(&world, "node1", &mut cache).interfaces.len(), 5);
}

#[test]
fn an_address_in_two_namespaces_is_in_none() {
    let world = two_nodes();
    let mut cache = Cache::default();
    let first = world.pod("default/a-node1").unwrap();
    let second = world.pod("default/b-node1").unwrap();
    ip(&second.ns, &format!("addr add {}/32 dev eth0", first.ipv4));
    let scan = scan_on(&world, "node1", &mut cache);
    assert!(!scan.interfaces.contains_key(&first.ipv4.into()));
    assert_eq!(scan.interfaces.len(), 3);
    let problem = scan.problems.iter().find(|problem| problem.contains(&first.ipv4.to_string())).unwrap();
    assert!(problem.contains(&first.host_interface) && problem.contains(&second.host_interface), "{problem}");
    ip(&second.ns, &format!("addr del {}/32 dev eth0", first.ipv4));
    assert!(scan_on(&world, "node1", &mut cache).interfaces.contains_key(&first.ipv4.into()));
    // On another node it is another's.
    let far = world.pod("default/a-node2").unwrap();
    ip(&far.ns, &format!("addr add {}/32 dev eth0", first.ipv4));
    assert!(scan_on(&world, "node1", &mut cache).interfaces.contains_key(&first.ipv4.into()));
}

#[test]
fn only_interfaces_with_two_ends_count() {
    let world = two_nodes();
    let node = world.node("node1").unwrap().ns();
    let pod = world.pod("default/a-node1").unwrap();
    // A macvlan names its lower interface, in the node, as a veth names its peer.
    ip(node, "link add sub0 link cni0 type macvlan");
    ip(node, &format!("link set sub0 netns {}", pod.ns.name()));
    ip(&pod.ns, "addr add 10.99.0.1/32 dev sub0");
    // The same above a host end: it leads to the pod, but to another interface of it.
    ip(node, &format!("link add two0 type veth peer name two1 netns {}", pod.ns.name()));
    ip(node, "link add sub1 link two0 type macvlan");
    ip(node, &format!("link set sub1 netns {}", pod.ns.name()));
    ip(&pod.ns, "addr add 10.99.0.4/32 dev sub1");
    // A VXLAN device belongs to the node that it was made in, and names its own index as that of its other end.
    ip(node, "link add tunnel0 type vxlan id 99 dstport 4790 local 192.0.2.1 dev cni0");
    ip(node, &format!("link set tunnel0 netns {}", pod.ns.name()));
    ip(&pod.ns, "addr add 10.99.0.2/32 dev tunnel0");
    // Both ends in one namespace.
    ip(&pod.ns, "link add in0 type veth peer name in1");
    ip(&pod.ns, "addr add 10.99.0.3/32 dev in0");
    let scan = scan_on(&world, "node1", &mut Cache::default());
    assert_eq!(found(&scan), expected(world.pods().filter(|pod| pod.node == "node1")));
}

#[test]
fn a_pod_with_interfaces_on_two_nodes_is_known_by_each_on_its_own() {
    let world = two_nodes();
    let far = world.pod("default/a-node2").unwrap();
    let node = world.node("node1").unwrap().ns();
    ip(node, &format!("link add extra0 type veth peer name extra1 netns {}", far.ns.name()));
    ip(&far.ns, "addr add 10.99.0.1/32 dev extra1");
    let extra: IpAddr = [10, 99, 0, 1].into();
    let scan = scan_on(&world, "node1", &mut Cache::default());
    let mut wanted = expected(world.pods().filter(|pod| pod.node == "node1"));
    wanted.insert(extra, ("extra0".to_owned(), far.ns.path().display().to_string()));
    assert_eq!(found(&scan), wanted);
    let scan = scan_on(&world, "node2", &mut Cache::default());
    assert_eq!(found(&scan), expected(world.pods().filter(|pod| pod.node == "node2")));
}

#[test]
fn a_host_end_counts_where_it_is_now() {
    let world = two_nodes();
    let pod = world.pod("default/a-node1").unwrap();
    let node = world.node("node1").unwrap().ns();
    // To the other node: the pod's end stays where it is, with the same peer index, but not here.
    ip(node, &format!("link set {} netns {}", pod.host_interface, world.node("node2").unwrap().ns().name()));
    let mut cache = Cache::default();
    let here = scan_on(&world, "node1", &mut cache);
    assert_eq!(found(&here), expected([world.pod("default/b-node1").unwrap()]));
    let there = scan_on(&world, "node2", &mut cache);
    assert_eq!(there.interfaces[&pod.ipv4.into()].name, pod.host_interface);
}

#[test]
fn files_that_are_no_namespaces() {
    let world = two_nodes();
    let pod = world.pod("default/a-node1").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    symlink(pod.ns.path(), path("pod")).unwrap();
    symlink(pod.ns.path(), path("pod-again")).unwrap();
    symlink("/nowhere/at/all", path("vanished")).unwrap();
    symlink("/proc/self/ns/uts", path("other-kind")).unwrap();
    fs::write(path("plain"), "").unwrap();
    fs::create_dir(path("directory")).unwrap();
    // Opening it for reading blocks until someone writes.
    assert!(Command::new("mkfifo").arg(path("pipe")).status().unwrap().success());
    let options = Options { netns_dir: directory.path().to_owned(), proc_scan: ProcScan::Never };
    let mut cache = Cache::new(options);
    let first = scan_on(&world, "node1", &mut cache);
    assert_eq!(first.interfaces.len(), 2);
    let name = path("pod").display().to_string();
    assert!(first.interfaces.values().all(|interface| interface.netns == name), "{:?}", first.interfaces);
    assert_eq!(first.problems.len(), 1, "{:?}", first.problems);
    assert!(first.problems[0].contains("other-kind"), "{:?}", first.problems);
    thread::sleep(Duration::from_millis(1100));
    let second = scan_on(&world, "node1", &mut cache);
    assert_eq!(second.problems.len(), 4, "{:?}", second.problems);
    for name in ["plain", "directory", "pipe"] {
        let expected = format!("{} is no network namespace", path(name).display());
        assert!(second.problems.contains(&expected), "{:?}", second.problems);
    }
    fs::remove_file(path("plain")).unwrap();
    assert_eq!(scan_on(&world, "node1", &mut cache).problems.len(), 3);
}

#[test]
fn a_directory_that_is_missing_is_empty() {
    let options = Options { netns_dir: "/nowhere/at/all".into(), proc_scan: ProcScan::Never };
    let scan = scan(&mut Cache::new(options)).unwrap();
    assert!(scan.interfaces.is_empty() && scan.problems.is_empty());
}

#[test]
fn processes_tell_of_namespaces_without_a_name() {
    let world = two_nodes();
    let pod = world.pod("default/a-node1").unwrap();
    let mut child = pod.ns.spawn(Command::new("sleep").arg("60")).unwrap();
    let empty = tempfile::tempdir().unwrap();
    let options = |proc_scan| Options { netns_dir: empty.path().to_owned(), proc_scan };
    let path = format!("/proc/{}/ns/net", child.id());
    let by_process = |scan: &super::super::Scan| {
        assert_eq!(scan.interfaces.len(), 2, "{:?} {:?}", scan.interfaces, scan.problems);
        let interface = &scan.interfaces[&pod.ipv4.into()];
        assert_eq!((&interface.name, &interface.netns), (&pod.host_interface, &path));
    };
    let mut default = Cache::new(options(ProcScan::IfNoneNamed));
    by_process(&scan_on(&world, "node1", &mut default));
    by_process(&scan_on(&world, "node1", &mut Cache::new(options(ProcScan::Always))));
    assert!(scan_on(&world, "node1", &mut Cache::new(options(ProcScan::Never))).interfaces.is_empty());
    // A name other than the agent's own: processes are not looked at.
    symlink(world.node("node1").unwrap().ns().path(), empty.path().join("own")).unwrap();
    by_process(&scan_on(&world, "node1", &mut default));
    symlink(world.pod("default/b-node1").unwrap().ns.path(), empty.path().join("b")).unwrap();
    let named = scan_on(&world, "node1", &mut default);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(found(&named).len(), 2);
    assert!(!named.interfaces.contains_key(&pod.ipv4.into()));
}

#[test]
fn scans_survive_pods_that_come_and_go_meanwhile() {
    let mut world = two_nodes();
    let node = world.node("node1").unwrap().ns().clone();
    let steady = expected([world.pod("default/b-node1").unwrap()]);
    let stop = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        let scanner = scope.spawn(|| {
            let mut cache = Cache::default();
            let mut scans = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let scan = node.run(|| scan(&mut cache)).unwrap().unwrap();
                let found = found(&scan);
                assert!(steady.iter().all(|(address, value)| found.get(address) == Some(value)), "{scan:?}");
                assert!(scan.problems.is_empty(), "{:?}", scan.problems);
                scans += 1;
            }
            scans
        });
        for _ in 0..15 {
            world.add_pod(PodSpec::new("default", "brief", "node1")).unwrap();
            world.remove_pod("default/brief").unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(scanner.join().unwrap() > 10);
    });
}

#[test]
#[ignore = "a measurement: 110 pods take a while to build"]
fn measure_110_pods() {
    let mut world = World::builder("slepm").node(NodeSpec::new("node1")).node(NodeSpec::new("node2"));
    for number in 0..110 {
        world = world.pod(PodSpec::new("default", &format!("p{number}"), "node1"));
    }
    let mut world = world.build().unwrap();
    let mut cache = Cache::default();
    let mut median = |world: &World, node: &str| {
        let mut times = Vec::new();
        for _ in 0..51 {
            let scan = world.node(node).unwrap().ns().run(|| {
                let start = Instant::now();
                let scan = scan(&mut cache).unwrap();
                times.push(start.elapsed());
                scan
            });
            let scan = scan.unwrap();
            let pods = world.pods().filter(|pod| pod.node == node).count();
            assert_eq!(scan.interfaces.len(), 2 * pods, "{:?}", scan.problems);
        }
        times.sort();
        (times[times.len() / 2], times[times.len() - 1])
    };
    println!("110 pods, on their node: {:?} (median, longest)", median(&world, "node1"));
    println!("110 pods, on the other node: {:?}", median(&world, "node2"));
    for number in 1..110 {
        world.remove_pod(&format!("default/p{number}")).unwrap();
    }
    println!("1 pod, on its node: {:?}", median(&world, "node1"));
    let start = Instant::now();
    let options = Options { netns_dir: "/nowhere".into(), proc_scan: ProcScan::Always };
    let _ = scan_on(&world, "node1", &mut Cache::new(options));
    println!("/proc alone: {:?}", start.elapsed());
}
