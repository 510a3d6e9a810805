//! Node ports and external addresses, from outside of the cluster and from pods.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use sluice_kubeproxy::Mode;
use sluice_netns::{Outcome, tcp_connect};

use crate::stage::{PATIENCE, Stage, web};

/// How long silence is waited for.
const SILENCE: Duration = Duration::from_secs(1);

fn external() -> Result<[IpAddr; 2]> {
    Ok(["203.0.113.7".parse()?, "2001:db8:113::7".parse()?])
}

fn balancer() -> Result<[IpAddr; 2]> {
    Ok(["203.0.113.9".parse()?, "2001:db8:113::9".parse()?])
}

#[test]
fn node_ports_and_external_addresses_lead_to_the_pods() -> Result<()> {
    for mode in Mode::ALL {
        let stage = Stage::new(mode)?;
        let mut service = web()?;
        service.external_ips = external()?.to_vec();
        service.load_balancer_ips = balancer()?.to_vec();
        stage.serve(&service, &["a", "b"])?;
        let addresses = service.external_ips.iter().chain(&service.load_balancer_ips);
        let mut all: Vec<SocketAddr> = addresses.map(|address| SocketAddr::new(*address, 80)).collect();
        all.extend(stage.node()?.addresses().map(|address| SocketAddr::new(address, 30080)));
        for to in all {
            for from in [stage.visitor(), stage.client()?] {
                let answers = stage.answers(&from, to, 20)?;
                ensure!(answers.len() == 2, "{mode}, {} to {to}: {answers:?}", from.name());
            }
        }
        stage.serve(&service, &[])?;
        for address in external()?.into_iter().chain(balancer()?) {
            let outcome = tcp_connect(&stage.visitor(), SocketAddr::new(address, 80), PATIENCE);
            ensure!(outcome == Outcome::Refused, "{mode}, {address} without endpoints: {outcome}");
        }
    }
    Ok(())
}

#[test]
fn source_ranges_keep_others_out() -> Result<()> {
    for mode in Mode::ALL {
        let stage = Stage::new(mode)?;
        let mut service = web()?;
        service.load_balancer_ips = balancer()?.to_vec();
        for (sources, expected) in [
            (["172.30.0.200/32", "fd00:172:30::200/128"], true),
            (["192.0.2.0/24", "2001:db8:ffff::/64"], false),
        ] {
            service.source_ranges = sources.map(|net| net.parse()).into_iter().collect::<Result<_, _>>()?;
            stage.serve(&service, &["a"])?;
            for address in balancer()? {
                let to = SocketAddr::new(address, 80);
                let patience = if expected { PATIENCE } else { SILENCE };
                let outcome = tcp_connect(&stage.visitor(), to, patience);
                let right = if expected { outcome == Outcome::Open } else { outcome == Outcome::TimedOut };
                ensure!(right, "{mode}, {to} for {sources:?}: {outcome}");
            }
        }
    }
    Ok(())
}
