//! Associations of the kernel's own SCTP through the real agent. Not every kernel has SCTP: these run in the kernel matrix
//! (`cargo xtask test --kernel`), whose kernels all do; there a kernel without it fails them.

use anyhow::Result;
use sluice_netns::{ALLOW_TIMEOUT, NodeSpec, Outcome, PodSpec, Server, TcpConn, World};
use sluice_tests::agent_world::Lab;

/// Two pods that may be called, on both nodes, each with SCTP servers on two ports.
fn lab() -> Result<Lab> {
    let builder = World::builder("slsctp")
        .node(NodeSpec::new("node1"))
        .node(NodeSpec::new("node2"))
        .pod(PodSpec::new("app", "client", "node1"))
        .pod(PodSpec::new("app", "near", "node1").serve_tcp(9999))
        .pod(PodSpec::new("app", "far", "node2").serve_tcp(9999));
    let mut lab = Lab::start(builder)?;
    for pod in ["app/near", "app/far"] {
        let ns = lab.ns(pod)?;
        for port in [9999, 9998] {
            let server = Server::sctp(&ns, port, pod)?;
            lab.world.keep(pod, server);
        }
    }
    Ok(lab)
}

#[test]
#[ignore = "needs a kernel with SCTP: `cargo xtask test --kernel` runs it"]
fn associations_are_judged_as_policy_says() -> Result<()> {
    let lab = lab()?;
    lab.expect(
        "app/client app/near sctp/9999 opens
         app/client app/far  sctp/9999 opens
         app/client app/far  sctp/81   refused
         node1      app/near sctp/9999 opens",
    );
    lab.apply(
        "app/sctp",
        "podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{protocol: SCTP, port: 9999}]}]",
    )?;
    lab.expect(
        "app/client app/near sctp/9999 opens
         app/client app/far  sctp/9999 opens
         app/client app/near sctp/9998 hangs
         app/client app/far  sctp/9998 hangs
         # A port of one protocol is not that of another.
         app/client app/near tcp/9999  hangs
         app/client app/far  tcp/9999  hangs
         node1      app/near sctp/9998 opens",
    );
    lab.delete("app/sctp")?;
    lab.expect("app/client app/far sctp/9998 opens");
    Ok(())
}

/// Both ends are isolated, so that each packet of the answers needs the table of connections, and the table must have
/// understood the four-way handshake.
#[test]
#[ignore = "needs a kernel with SCTP: `cargo xtask test --kernel` runs it"]
fn an_association_carries_data_through_two_isolated_pods() -> Result<()> {
    let lab = lab()?;
    lab.apply(
        "app/closed",
        "podSelector: {}, policyTypes: [Ingress, Egress],
            ingress: [{ports: [{protocol: SCTP, port: 9999}]}], egress: [{ports: [{protocol: SCTP, port: 9999}]}]",
    )?;
    for server in ["app/near", "app/far"] {
        for to in lab.sockets(server, 9999)? {
            let mut association = TcpConn::open_sctp(&lab.ns("app/client")?, to, ALLOW_TIMEOUT)?;
            for _ in 0..3 {
                assert_eq!(association.echo(ALLOW_TIMEOUT), Outcome::Open, "{to}");
            }
        }
        lab.expect(&format!("app/client {server} sctp/9998 hangs"));
    }
    Ok(())
}
