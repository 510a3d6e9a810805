//! Pods and the cluster's addresses.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use sluice_kubeproxy::Mode;
use sluice_netns::{Outcome, tcp_connect, udp_exchange};

use crate::stage::{PATIENCE, Stage, web};

#[test]
fn connections_come_to_every_endpoint_and_datagrams_are_answered() -> Result<()> {
    for mode in Mode::ALL {
        let stage = Stage::new(mode)?;
        let (service, client) = (web()?, stage.client()?);
        stage.serve(&service, &["a", "b"])?;
        for address in &service.cluster_ips {
            let answers = stage.answers(&client, SocketAddr::new(*address, 80), 40)?;
            ensure!(answers.len() == 2, "{mode}, {address}: {answers:?}");
            let outcome = udp_exchange(&client, SocketAddr::new(*address, 53), PATIENCE);
            ensure!(outcome == Outcome::Open, "{mode}, {address}: {outcome}");
        }
        // An endpoint that goes gets no connections any more.
        stage.serve(&service, &["b"])?;
        for address in &service.cluster_ips {
            let answers = stage.answers(&client, SocketAddr::new(*address, 80), 10)?;
            ensure!(answers.keys().eq(["shop/b"]), "{mode}, {address}: {answers:?}");
        }
    }
    Ok(())
}

#[test]
fn a_pod_reaches_itself_through_its_service() -> Result<()> {
    for mode in Mode::ALL {
        let stage = Stage::new(mode)?;
        let service = web()?;
        stage.serve(&service, &["a"])?;
        let itself = stage.world.pod("shop/a")?.ns.clone();
        for address in &service.cluster_ips {
            let answers = stage.answers(&itself, SocketAddr::new(*address, 80), 3)?;
            ensure!(answers.keys().eq(["shop/a"]), "{mode}, {address}: {answers:?}");
        }
    }
    Ok(())
}

#[test]
fn a_service_without_endpoints_refuses() -> Result<()> {
    for mode in Mode::ALL {
        let stage = Stage::new(mode)?;
        let (service, client) = (web()?, stage.client()?);
        stage.serve(&service, &[])?;
        for address in &service.cluster_ips {
            let outcome = tcp_connect(&client, SocketAddr::new(*address, 80), PATIENCE);
            ensure!(outcome == Outcome::Refused, "{mode}, {address}: {outcome}");
        }
    }
    Ok(())
}

#[test]
fn a_client_with_affinity_keeps_its_endpoint_over_changes() -> Result<()> {
    for mode in Mode::ALL {
        let stage = Stage::new(mode)?;
        let (mut service, client) = (web()?, stage.client()?);
        service.affinity = Some(100);
        stage.serve(&service, &["a", "b"])?;
        for address in service.cluster_ips.clone() {
            let to = SocketAddr::new(address, 80);
            let before = stage.answers(&client, to, 10)?;
            ensure!(before.len() == 1, "{mode}, {address}: {before:?}");
            service.external_ips = vec!["203.0.113.7".parse()?];
            stage.serve(&service, &["a", "b"])?;
            let after = stage.answers(&client, to, 10)?;
            ensure!(before == after, "{mode}, {address}: {before:?}, then {after:?}");
        }
    }
    Ok(())
}
