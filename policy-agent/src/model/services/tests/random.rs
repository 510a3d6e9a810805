//! Whatever changes: every Service is named whose frontends differ.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::model::{Changes, Tracked};

#[derive(Clone, Debug)]
enum Step {
    Service(Service),
    NoService(usize),
    Slice(EndpointSlice),
    NoSlice(usize),
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// The third is the node's.
const ADDRESSES: [&str; 4] = ["10.96.0.1", "10.96.0.2", "192.0.2.1", "fd00:96::1"];
const PORTS: [u16; 3] = [80, 81, 30_080];

fn name() -> impl Strategy<Value = usize> {
    0..NAMES.len()
}

fn addresses(most: usize) -> impl Strategy<Value = Vec<IpAddr>> {
    prop::collection::vec(prop::sample::select(&ADDRESSES[..]).prop_map(ip), 0..=most)
}

fn some_service() -> impl Strategy<Value = Service> {
    let ports =
        (prop::sample::select(&PORTS[..]), prop::option::of(prop::sample::select(&PORTS[..])), any::<bool>());
    let ports = prop::collection::vec(ports, 0..3);
    (name(), addresses(2), addresses(2), addresses(1), ports, any::<bool>()).prop_map(
        |(name, cluster_ips, external_ips, load_balancer_ips, ports, internal_local)| Service {
            cluster_ips,
            external_ips,
            load_balancer_ips,
            internal_local,
            ports: ports
                .into_iter()
                .map(|(number, node_port, udp)| {
                    port("", if udp { Protocol::Udp } else { Protocol::Tcp }, number, node_port)
                })
                .collect(),
            ..service(NAMES[name])
        },
    )
}

fn some_slice() -> impl Strategy<Value = EndpointSlice> {
    let endpoint =
        (1..4_u8, 0..3_u8, any::<bool>(), any::<bool>()).prop_map(|(address, readiness, ours, hinted)| {
            let readiness = match readiness {
                0 => Readiness::Ready,
                1 => Readiness::Draining,
                _ => Readiness::NotReady,
            };
            Endpoint {
                address: ip(&format!("10.0.0.{address}")),
                readiness,
                node: Some(if ours { OURS } else { "n2" }.into()),
                hints: hinted.then(|| Arc::new(Hints { zones: ["z1".into()].into(), nodes: [].into() })),
            }
        });
    let service = prop::option::of(name().prop_map(|name| NAMES[name].to_owned()));
    (name(), service, prop::collection::vec(endpoint, 0..3))
        .prop_map(|(name, service, endpoints)| EndpointSlice { service, ..slice(NAMES[name], &endpoints) })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => some_service().prop_map(Step::Service),
        1 => name().prop_map(Step::NoService),
        3 => some_slice().prop_map(Step::Slice),
        1 => name().prop_map(Step::NoSlice),
    ]
}

fn take(tracked: &mut Tracked, step: Step) {
    match step {
        Step::Service(service) => tracked.insert_service(service),
        Step::NoService(name) => tracked.remove_service(&id(NAMES[name])),
        Step::Slice(slice) => tracked.insert_slice(slice),
        Step::NoSlice(name) => tracked.remove_slice(&id(NAMES[name])),
    }
}

/// Goes on from what all frontends were, by the Services that are named alone.
fn follow(all: &mut BTreeMap<Frontend, Target>, services: &Services, changes: &Changes) {
    let had: Vec<Frontend> = all
        .iter()
        .filter(|(_, target)| changes.services.contains(&target.service))
        .map(|(f, _)| *f)
        .collect();
    let has = changes.services.iter().flat_map(|name| services.frontends(name, &vantage())).map(|(f, _)| f);
    for frontend in had.into_iter().chain(has.collect::<Vec<_>>()) {
        match services.target(&frontend, &vantage()) {
            Some(target) => all.insert(frontend, target),
            None => all.remove(&frontend),
        };
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn what_differs_is_named(steps in prop::collection::vec(step(), 1..40), batch in 1..4_usize) {
        let mut tracked = Tracked::default();
        let mut followed = BTreeMap::new();
        for steps in steps.chunks(batch) {
            let before = tracked.cluster().services.all(&vantage());
            for step in steps {
                take(&mut tracked, step.clone());
            }
            let changes = tracked.take_changes();
            let services = &tracked.cluster().services;
            let now = services.all(&vantage());
            for frontend in before.keys().chain(now.keys()) {
                let (old, new) = (before.get(frontend), now.get(frontend));
                if old != new {
                    for target in [old, new].into_iter().flatten() {
                        prop_assert!(changes.services.contains(&target.service), "{:?}: {:?}", frontend, changes);
                    }
                }
                prop_assert_eq!(services.target(frontend, &vantage()), new.cloned());
            }
            follow(&mut followed, services, &changes);
            prop_assert_eq!(&followed, &now);
            // From nothing, it is the same.
            let mut anew = Services::default();
            services.slices().for_each(|slice| drop(anew.insert_slice(Arc::clone(slice))));
            services.values().for_each(|service| drop(anew.insert(Arc::clone(service))));
            prop_assert_eq!(&anew.all(&vantage()), &now);
        }
    }
}
