//! Which protocols and ports a rule names: rows 21-29 and 56.

use sluice_oracle::Protocol;

use crate::support::{OUTSIDE, no, pod_mut, port, world, yes};

const ALL: [&str; 4] = ["TCP/80", "UDP/80", "SCTP/80", "ICMP"];

/// Ingress to every pod of x on these ports.
fn ingress(ports: &str) -> String {
    format!("{{podSelector: {{}}, ingress: [{{ports: {ports}}}]}}")
}

/// Egress of every pod of x on these ports, to these peers.
fn egress(ports: &str, peers: &str) -> String {
    format!("{{podSelector: {{}}, policyTypes: [Egress], egress: [{{ports: {ports}, to: {peers}}}]}}")
}

#[track_caller]
fn only(ports: &str, allowed: &[&str]) {
    let c = world(&[("x", &ingress(ports))]);
    for pp in ALL {
        if allowed.contains(&pp) {
            yes(&c, "y/a", "x/a", pp);
        } else {
            no(&c, "y/a", "x/a", pp);
        }
    }
}

#[test]
fn rows_21_22_protocol_defaults_to_tcp_and_port_to_any() {
    only("[{}]", &["TCP/80"]);
    only("[{port: 80}]", &["TCP/80"]);
    only("[{port: 81}]", &[]);
    only("[{protocol: TCP}]", &["TCP/80"]);
    only("[{protocol: UDP}]", &["UDP/80"]);
    only("[{protocol: UDP}, {port: 80, protocol: null}]", &["TCP/80", "UDP/80"]);
}

#[test]
fn row_23_27_numbers_need_no_declaration() {
    let c = world(&[("x", &ingress("[{port: 7777}]"))]);
    yes(&c, "y/a", "x/a", "TCP/7777");
    no(&c, "y/a", "x/a", "TCP/80");
}

#[test]
fn row_24_named_port_on_ingress_is_each_subjects_own() {
    let c = world(&[("x", &ingress("[{port: web}]"))]);
    yes(&c, "y/a", "x/a", "TCP/80");
    no(&c, "y/a", "x/a", "TCP/8080");
    yes(&c, "y/a", "x/b", "TCP/8080");
    no(&c, "y/a", "x/b", "TCP/80");
    no(&c, "y/a", "x/a", "UDP/80");
    yes(&c, OUTSIDE, "x/a", "TCP/80");
    // Name AND protocol: x/a's dns is UDP, x/b's is TCP.
    let c = world(&[("x", &ingress("[{port: dns, protocol: UDP}]"))]);
    yes(&c, "y/a", "x/a", "UDP/53");
    no(&c, "y/a", "x/a", "TCP/53");
    no(&c, "y/a", "x/b", "TCP/5353");
    no(&c, "y/a", "x/b", "UDP/5353");
}

#[test]
fn row_25_named_port_on_egress_is_each_destinations_own() {
    let c = world(&[("x", &egress("[{port: web}]", "[{namespaceSelector: {}}]"))]);
    yes(&c, "x/a", "y/a", "TCP/81");
    no(&c, "x/a", "y/a", "TCP/80");
    yes(&c, "x/a", "x/b", "TCP/8080");
    // x/a's own web is 80: it says nothing of what it may reach.
    no(&c, "x/a", "z/c", "TCP/80");
    // Any peer: pods still, the outside never.
    let c = world(&[("x", &egress("[{port: web}]", "[]"))]);
    yes(&c, "x/a", "y/a", "TCP/81");
    for number in [80, 81, 8080] {
        no(&c, "x/a", OUTSIDE, &format!("TCP/{number}"));
    }
    // A hostNetwork pod is its node, and has no ports to name.
    no(&c, "x/b", "y/host", "TCP/80");
    // An address that is a pod's is a pod for names too, however the peer is written.
    let c = world(&[("x", &egress("[{port: web}]", "[{ipBlock: {cidr: 0.0.0.0/0}}]"))]);
    yes(&c, "x/a", "y/a", "TCP/81");
    no(&c, "x/a", OUTSIDE, "TCP/81");
}

#[test]
fn row_26_undeclared_name_matches_nothing() {
    let c = world(&[("x", &ingress("[{port: nothing}]"))]);
    no(&c, "y/a", "x/a", "TCP/80");
    // Digits in a string are a name, not a number.
    let c = world(&[("x", &ingress("[{port: '80'}]"))]);
    no(&c, "y/a", "x/a", "TCP/80");
}

#[test]
fn row_27_init_containers_declare_ports() {
    let mut c = world(&[("x", &ingress("[{port: metrics}]"))]);
    pod_mut(&mut c, "x/a").ports.push(port("metrics", Protocol::Tcp, 9090));
    pod_mut(&mut c, "x/a").ports[2].init = true;
    yes(&c, "y/a", "x/a", "TCP/9090");
}

#[test]
fn row_28_end_port_is_inclusive() {
    let c = world(&[("x", &ingress("[{port: 80, endPort: 90}, {port: 100, endPort: 100}]"))]);
    for (number, allowed) in
        [(79, false), (80, true), (85, true), (90, true), (91, false), (99, false), (100, true), (101, false)]
    {
        let pp = format!("TCP/{number}");
        if allowed { yes(&c, "y/a", "x/a", &pp) } else { no(&c, "y/a", "x/a", &pp) }
    }
    let c = world(&[("x", &ingress("[{port: 32768, endPort: 65535, protocol: UDP}]"))]);
    yes(&c, "y/a", "x/a", "UDP/65535");
    no(&c, "y/a", "x/a", "UDP/32767");
    no(&c, "y/a", "x/a", "TCP/65535");
    // What the API rejects matches nothing.
    only("[{endPort: 90}, {port: web, endPort: 90}, {port: 90, endPort: 70}, {port: 0, endPort: 90}]", &[]);
    only("[{protocol: tcp, port: 80}, {protocol: ICMP}]", &[]);
}

#[test]
fn row_29_sctp_isolates_and_is_never_tcp() {
    only("[{protocol: SCTP, port: 80}]", &["SCTP/80"]);
    only("[{protocol: SCTP}]", &["SCTP/80"]);
}

#[test]
fn row_56_ports_never_cover_protocols_without_them() {
    only("[{}, {protocol: UDP}, {protocol: SCTP}]", &["TCP/80", "UDP/80", "SCTP/80"]);
    only("[]", &ALL);
    let c = world(&[("x", &egress("[{port: 1, endPort: 65535}]", "[]"))]);
    no(&c, "x/a", OUTSIDE, "ICMP");
    let c = world(&[("x", &egress("null", "[{ipBlock: {cidr: 203.0.113.0/24}}]"))]);
    yes(&c, "x/a", OUTSIDE, "ICMP");
    no(&c, "x/a", "198.51.100.7", "ICMP");
}
