//! The connectivity table at the end: everybody to everybody on TCP 80, over both families.

use std::net::IpAddr;

use anyhow::Result;
use sluice_netns::{ALLOW_TIMEOUT, DENY_TIMEOUT, Flow, Outcome, Probe, Protocol, probe_all};

use super::Tally;
use super::cluster::{Cluster, Machine};
use super::screen::{self, Reach};
use super::story::open_at_the_end;

const PORT: u16 = 80;

/// Probes every pair, shows the table for IPv4 and says whether IPv6 and `explain` agree with it.
pub(crate) fn tell(cluster: &Cluster, tally: &mut Tally) -> Result<()> {
    screen::headline(
        "Who reaches whom now",
        "TCP 80 from everybody to everybody: `.` a connection opens, `X` it hangs. Columns of dev-linuxea are closed to all \
         but the pod itself, those without ingress policy are open.",
    );
    let machines = cluster.machines();
    let pairs: Vec<(&Machine, &Machine)> =
        machines.iter().flat_map(|from| machines.iter().map(move |to| (from, to))).collect();
    let families = [|machine: &Machine| IpAddr::from(machine.ipv4), |machine: &Machine| machine.ipv6.into()];

    let probes: Vec<Probe> = families
        .iter()
        .flat_map(|address| pairs.iter().map(move |(from, to)| probe(from, to, address(to))))
        .collect();
    let outcomes = probe_all(&probes);
    let cells: Vec<Reach> = outcomes
        .iter()
        .zip(pairs.iter().cycle())
        .map(|(outcome, (from, to))| {
            let wanted = if open_at_the_end(&from.key, &to.key) { Outcome::Open } else { Outcome::TimedOut };
            Reach { open: *outcome == Outcome::Open, right: *outcome == wanted }
        })
        .collect();
    let (ipv4, ipv6) = cells.split_at(pairs.len().min(cells.len()));

    let names: Vec<String> = machines.iter().map(|machine| machine.key.clone()).collect();
    let rows: Vec<(String, Vec<Reach>)> =
        names.iter().cloned().zip(ipv4.chunks(names.len().max(1)).map(<[Reach]>::to_vec)).collect();
    screen::connectivity(&names, &rows);

    let flows: Vec<Flow> = families
        .iter()
        .flat_map(|address| {
            pairs.iter().map(move |(from, to)| Flow {
                from: address(from).to_string(),
                to: address(to).to_string(),
                port: Some(PORT),
                protocol: "TCP".to_owned(),
            })
        })
        .collect();
    let explained = cluster.explain_all(&flows)?;
    let agrees = explained
        .iter()
        .zip(pairs.iter().cycle())
        .filter(|(explanation, (from, to))| explanation.allows() == open_at_the_end(&from.key, &to.key))
        .count();

    let right = |cells: &[Reach]| cells.iter().filter(|cell| cell.right).count();
    screen::note(&format!("IPv4: {} of {} as expected", right(ipv4), ipv4.len()));
    screen::note(&format!("IPv6, the same table: {} of {} as expected", right(ipv6), ipv6.len()));
    screen::note(&format!("`policy-agent explain --batch` agrees on {agrees} of {}", flows.len()));
    for cell in &cells {
        tally.count(cell.right);
    }
    tally.all += flows.len();
    tally.right += agrees;
    Ok(())
}

fn probe(from: &Machine, to: &Machine, address: IpAddr) -> Probe {
    let timeout = if open_at_the_end(&from.key, &to.key) { ALLOW_TIMEOUT } else { DENY_TIMEOUT };
    Probe { from: from.ns.clone(), protocol: Protocol::Tcp, to: address, port: PORT, timeout }
}
