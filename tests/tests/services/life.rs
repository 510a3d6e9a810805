//! What becomes of connections when policies, endpoints and agents change.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use serde_json::json;
use sluice_kubeproxy::Mode;
use sluice_netns::{ALLOW_TIMEOUT, DENY_TIMEOUT, Outcome, TcpConn, UdpConn};
use sluice_tests::agent_world::shell;

use crate::stage::{Stage, TARGET, ask};

#[track_caller]
fn goes_on(conn: &mut TcpConn, what: &str) {
    assert_eq!(conn.echo(ALLOW_TIMEOUT), Outcome::Open, "{what}");
}

#[track_caller]
fn stands_still(conn: &mut TcpConn, what: &str) {
    assert_eq!(conn.echo(DENY_TIMEOUT), Outcome::TimedOut, "{what}");
}

fn open(stage: &Stage) -> Result<Vec<TcpConn>> {
    let mut conns = Vec::new();
    for to in Stage::http() {
        let mut conn = TcpConn::open(&stage.client()?, to, ALLOW_TIMEOUT)?;
        goes_on(&mut conn, "a new connection");
        conns.push(conn);
    }
    Ok(conns)
}

/// kube-proxy translates what was opened before: it is judged by the endpoint that it really reaches.
fn from_before_isolation(mode: Mode) -> Result<()> {
    let stage = Stage::new(mode)?;
    stage.serve(&[("far", TARGET)])?;
    let mut conns = open(&stage)?;
    stage.serve(&[("near", TARGET), ("far", TARGET)])?;
    stage.allow(&["far"], &[TARGET])?;
    conns.iter_mut().for_each(|conn| goes_on(conn, "its endpoint is allowed"));
    stage.allow(&["near"], &[TARGET])?;
    conns.iter_mut().for_each(|conn| stands_still(conn, "only the other one is"));
    stage.allow(&["far"], &[TARGET])?;
    conns.iter_mut().for_each(|conn| goes_on(conn, "allowed again"));
    Ok(())
}

#[test]
fn a_connection_from_before_isolation_is_judged_by_its_endpoint_behind_nftables() -> Result<()> {
    from_before_isolation(Mode::Nftables)
}

#[test]
fn a_connection_from_before_isolation_is_judged_by_its_endpoint_behind_iptables() -> Result<()> {
    from_before_isolation(Mode::Iptables)
}

#[test]
fn connections_outlive_endpoints_services_isolation_and_agents() -> Result<()> {
    let mut stage = Stage::new(Mode::Nftables)?;
    stage.serve(&[("far", TARGET)])?;
    stage.allow(&["far"], &[TARGET])?;
    let mut conns = open(&stage)?;
    stage.serve(&[("near", TARGET)])?;
    conns.iter_mut().for_each(|conn| goes_on(conn, "its endpoint is no endpoint any more"));
    stage.lab.agent().restart()?;
    stage.sync()?;
    conns.iter_mut().for_each(|conn| goes_on(conn, "another agent"));
    stage.lab.delete("shop/egress")?;
    conns.iter_mut().for_each(|conn| goes_on(conn, "nothing isolates the client"));
    stage.allow(&["far"], &[TARGET])?;
    stage.lab.manifests.remove("web.json")?;
    stage.sync()?;
    conns.iter_mut().for_each(|conn| goes_on(conn, "the Service is gone"));
    stage.allow(&[], &[])?;
    conns.iter_mut().for_each(|conn| stands_still(conn, "nothing is allowed"));
    Ok(())
}

/// Datagrams do not stay with an endpoint that is gone.
#[test]
fn a_socket_of_datagrams_goes_to_the_endpoint_that_is_left() -> Result<()> {
    let stage = Stage::new(Mode::Nftables)?;
    stage.serve(&[("far", TARGET)])?;
    stage.allow(&["far", "near"], &[TARGET])?;
    let mut sockets = Vec::new();
    for to in Stage::dns() {
        let mut socket = UdpConn::open(&stage.client()?, to)?;
        ensure!(socket.echo(ALLOW_TIMEOUT) == Outcome::Open);
        sockets.push(socket);
    }
    stage.serve(&[("near", TARGET)])?;
    // Who still went to the first one would stand still now.
    stage.allow(&["near"], &[TARGET])?;
    for socket in &mut sockets {
        ensure!(socket.echo(ALLOW_TIMEOUT) == Outcome::Open, "it stays with the endpoint that is gone");
    }
    Ok(())
}

/// Nor where it goes while no agent looks.
#[test]
fn an_endpoint_that_goes_between_two_agents_is_noticed() -> Result<()> {
    let mut stage = Stage::new(Mode::Nftables)?;
    stage.serve(&[("far", TARGET)])?;
    stage.allow(&["far", "near"], &[TARGET])?;
    let mut sockets = Vec::new();
    for to in Stage::dns() {
        let mut socket = UdpConn::open(&stage.client()?, to)?;
        ensure!(socket.echo(ALLOW_TIMEOUT) == Outcome::Open);
        sockets.push(socket);
    }
    let far = stage.lab.ns("shop/far")?;
    stage.lab.agent().kill()?;
    stage.write(&[("near", TARGET)], &json!({}))?;
    stage.lab.agent().restart()?;
    stage.sync()?;
    // Nobody answers there any more.
    shell(&far, "ip link set eth0 down")?;
    for socket in &mut sockets {
        ensure!(socket.echo(ALLOW_TIMEOUT) == Outcome::Open, "it stays with the endpoint that is gone");
    }
    Ok(())
}

#[test]
fn a_client_with_affinity_keeps_its_endpoint_until_that_goes() -> Result<()> {
    let stage = Stage::new(Mode::Nftables)?;
    let sticky = json!({
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 300}},
    });
    let both = [("near", TARGET), ("far", TARGET)];
    stage.serve_as(&both, &sticky)?;
    stage.allow(&["near", "far"], &[TARGET])?;
    for to in Stage::http() {
        let answers = stage.answers(to, 12)?;
        ensure!(answers.len() == 1, "{to}: {answers:?}");
        let kept = answers.keys().next().cloned().unwrap_or_default();
        let other = both.into_iter().find(|(name, _)| !kept.ends_with(name));
        stage.serve_as(other.as_slice(), &sticky)?;
        let answers = stage.answers(to, 4)?;
        ensure!(answers.len() == 1 && !answers.contains_key(&kept), "{to}: {answers:?} after {kept}");
        stage.serve_as(&both, &sticky)?;
    }
    Ok(())
}

/// New connections at all times while endpoints come and go: there is always one, so that none fails.
#[test]
fn changes_of_endpoints_leave_no_gap() -> Result<()> {
    let stage = Stage::new(Mode::Nftables)?;
    stage.serve(&[("near", TARGET)])?;
    stage.allow(&["near", "far"], &[TARGET])?;
    let (over, client) = (AtomicBool::new(false), stage.client()?);
    std::thread::scope(|scope| {
        let askers: Vec<_> = Stage::http()
            .into_iter()
            .map(|to| {
                let (over, client) = (&over, &client);
                scope.spawn(move || -> Result<BTreeMap<String, usize>> {
                    let mut answers = BTreeMap::new();
                    while !over.load(Ordering::Relaxed) {
                        *answers.entry(ask(client, to, ALLOW_TIMEOUT)?).or_default() += 1;
                    }
                    Ok(answers)
                })
            })
            .collect();
        let changed = (0..30).try_for_each(|n| match n % 3 {
            0 => stage.serve(&[("far", TARGET)]),
            1 => stage.serve(&[("near", TARGET), ("far", TARGET)]),
            _ => stage.serve(&[("near", TARGET)]),
        });
        over.store(true, Ordering::Relaxed);
        for asker in askers {
            let answers = asker.join().map_err(|_| anyhow::anyhow!("who asks panicked"))??;
            let names: Vec<&str> = answers.keys().map(String::as_str).collect();
            ensure!(names == ["shop/far", "shop/near"], "{answers:?}");
            ensure!(answers.values().sum::<usize>() > 30, "{answers:?}");
        }
        changed
    })
}
