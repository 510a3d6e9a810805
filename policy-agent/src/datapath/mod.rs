//! Where plans are applied: BPF maps in the kernel, or memory for `explain` and tests.

pub mod bpf;
pub mod memory;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use policy_common::flows::FlowKey;
use policy_common::maps::Translation;
use policy_common::parse::protocol;
use policy_common::translation::{flag, kind};

use crate::compile::{Compiled, Delta};
use crate::model::Protocol;
use crate::model::services::{Backend, Frontend, Target};
use crate::plan::{LocalEndpoint, Op, Planner, TableFull};

/// Tables that operations can be applied to, one after the other.
pub trait Datapath {
    fn apply(&mut self, op: &Op) -> Result<(), WriteError>;
}

/// The frontend that a key of the tables is about.
fn frontend_of(address: IpAddr, port: u16, number: u8) -> Option<Frontend> {
    let protocol = Protocol::ALL.into_iter().find(|protocol| protocol.number() == number)?;
    Some(Frontend { address, port, protocol })
}

/// Whether an entry of `TRANSLATIONS` or `DATAGRAMS` leads to a backend that is gone, and is no connection.
fn is_forsaken(gone: &BTreeSet<(Frontend, Backend)>, key: &FlowKey, value: &Translation) -> bool {
    let backend = Backend { address: value.address.ip(key.family), port: value.port };
    match key.tracked {
        kind::SENT if key.protocol == protocol::UDP => {
            let frontend = frontend_of(key.remote_address(), key.remote_port, key.protocol);
            frontend.is_some_and(|frontend| gone.contains(&(frontend, backend)))
        }
        // Of which Service it is does not matter: another one's client chooses anew.
        kind::AFFINITY => gone.iter().any(|(_, of)| *of == backend),
        _ => false,
    }
}

/// Whether an entry of `TRANSLATIONS` or `DATAGRAMS` is no connection, is our own choice, and leads to where its Service has no
/// endpoint. Of Services that nobody knows, nothing is said.
fn is_stale(frontends: &BTreeMap<Frontend, Target>, key: &FlowKey, value: &Translation) -> bool {
    let backend = Backend { address: value.address.ip(key.family), port: value.port };
    let has = |target: &Target| target.backends.contains(&backend);
    match key.tracked {
        kind::SENT if key.protocol == protocol::UDP && value.flags & flag::FOLLOWED == 0 => {
            let frontend = frontend_of(key.remote_address(), key.remote_port, key.protocol);
            let target = frontend.and_then(|frontend| frontends.get(&frontend));
            // The way back of a pod to itself leads to the pod.
            value.flags & flag::BACK == 0 && target.is_some_and(|target| !has(target))
        }
        kind::AFFINITY => !frontends.values().any(has),
        _ => false,
    }
}

#[derive(Debug, thiserror::Error)]
#[error("writing {op:?}: {cause}")]
pub struct WriteError {
    pub op: Op,
    pub cause: String,
}

#[derive(Debug, thiserror::Error)]
pub enum EnforceError {
    #[error(transparent)]
    Full(#[from] TableFull),
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Puts endpoints under watch, packets of which may have passed unjudged.
pub fn watch<D: Datapath>(
    planner: &mut Planner,
    datapath: &mut D,
    interfaces: &BTreeSet<u32>,
) -> Result<(), WriteError> {
    let ops = planner.watch(interfaces);
    carry_out_watch(planner, datapath, &ops)
}

/// Ends the watch over every endpoint but those of `keep`, which have connections that lost their permission.
pub fn unwatch<D: Datapath>(
    planner: &mut Planner,
    datapath: &mut D,
    keep: &BTreeSet<u32>,
) -> Result<(), WriteError> {
    let ops = planner.unwatch(keep);
    carry_out_watch(planner, datapath, &ops)
}

fn carry_out_watch<D: Datapath>(
    planner: &mut Planner,
    datapath: &mut D,
    ops: &[Op],
) -> Result<(), WriteError> {
    carry_out(planner, datapath, ops).1?;
    planner.unwatched();
    Ok(())
}

/// Brings the tables to what was compiled; returns how many operations that took. What fails half-way leaves old or
/// new verdicts in force, and the next call repairs the rest.
pub fn enforce<D: Datapath>(
    planner: &mut Planner,
    datapath: &mut D,
    compiled: &Compiled,
    endpoints: &[LocalEndpoint],
) -> Result<usize, EnforceError> {
    let ops = planner.plan(compiled, endpoints)?;
    carry_out(planner, datapath, &ops).1?;
    planner.applied();
    Ok(ops.len())
}

/// The same where the compilation is known to differ from the last one by `delta` alone.
pub fn enforce_changes<D: Datapath>(
    planner: &mut Planner,
    datapath: &mut D,
    compiled: &Compiled,
    delta: &Delta,
    endpoints: &[LocalEndpoint],
) -> Result<usize, EnforceError> {
    let ops = planner.plan_changes(compiled, delta, endpoints)?;
    carry_out(planner, datapath, &ops).1?;
    planner.applied();
    Ok(ops.len())
}

/// Applies a plan in order; returns how many operations were applied. The caller says `applied` where all were, and
/// nothing otherwise.
pub fn carry_out<D: Datapath>(
    planner: &mut Planner,
    datapath: &mut D,
    ops: &[Op],
) -> (usize, Result<(), WriteError>) {
    for (index, op) in ops.iter().enumerate() {
        if let Err(error) = datapath.apply(op) {
            planner.failed(index);
            return (index, Err(error));
        }
    }
    (ops.len(), Ok(()))
}

#[cfg(test)]
mod tests {
    use policy_common::maps::Addr6;

    use super::*;
    use crate::model::ObjectName;

    #[test]
    fn choices_are_stale_where_their_service_has_no_such_endpoint() {
        let backend = |last: u8| Backend { address: [10, 244, 1, last].into(), port: 8080 };
        let frontend = Frontend { address: [10, 96, 0, 10].into(), port: 53, protocol: Protocol::Udp };
        let target = Target {
            service: ObjectName::new("ns", "dns"),
            port_name: String::new(),
            backends: [backend(1)].into(),
            affinity: None,
            sources: [].into(),
        };
        let frontends = BTreeMap::from([(frontend, target)]);
        let found = |tracked, protocol, port, flags, last| {
            let key = FlowKey {
                remote: Addr6::of(frontend.address).0,
                ifindex: 7,
                remote_port: port,
                local_port: 40_000,
                protocol,
                family: 4,
                tracked,
                zero: 0,
            };
            let address = Addr6::of(backend(last).address).0;
            is_stale(&frontends, &key, &Translation { address, port: 8080, flags, seen: 1 })
        };
        assert!(found(kind::SENT, protocol::UDP, 53, 0, 2));
        assert!(!found(kind::SENT, protocol::UDP, 53, 0, 1));
        assert!(found(kind::AFFINITY, 0, 0, 0, 2));
        assert!(!found(kind::AFFINITY, 0, 0, 0, 1));
        // Another Service, a connection, what the node translates, and what comes back.
        assert!(!found(kind::SENT, protocol::UDP, 54, 0, 2));
        assert!(!found(kind::SENT, protocol::TCP, 53, 0, 2));
        assert!(!found(kind::SENT, protocol::UDP, 53, flag::FOLLOWED, 2));
        assert!(!found(kind::SENT, protocol::UDP, 53, flag::HAIRPIN | flag::BACK, 2));
        assert!(!found(kind::RECEIVED, protocol::UDP, 53, 0, 2));
    }
}
