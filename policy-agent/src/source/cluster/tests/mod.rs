//! The parts without a server: what they do over one is in `tests/apiserver`.

mod decode;
mod random;
mod services;
mod store;

use std::net::IpAddr;
use std::sync::Arc;

use super::*;
use crate::model::{ObjectName, Pod, Policy, Selector};
use crate::source::{Kind, Object, ObjectKey, Problem, StandIn};

fn key(kind: Kind, name: &str) -> ObjectKey {
    let namespace = if matches!(kind, Kind::Namespace | Kind::Node) { "" } else { "dev" };
    ObjectKey { kind, id: ObjectName::new(namespace, name) }
}

fn pod(name: &str, uid: &str, address: &str) -> Pod {
    Pod {
        id: ObjectName::new("dev", name),
        uid: uid.to_owned(),
        labels: Arc::default(),
        node: Some("n1".into()),
        addresses: vec![address.parse().expect("an address")],
        host_network: false,
        finished: false,
        terminating: false,
        created: 0,
        ports: [].into(),
        sources: Vec::new(),
    }
}

fn apply(key: ObjectKey, uid: &str, version: u64, content: Result<Object, StandIn>) -> Event {
    let problems = match content {
        Ok(_) => Vec::new(),
        Err(_) => {
            vec![Problem { object: key.to_string(), message: "broken".to_owned(), ..Problem::default() }]
        }
    };
    Event::Apply(Box::new(Sighting {
        key,
        uid: uid.to_owned(),
        version: Version::Number(version),
        content,
        problems,
    }))
}

fn apply_pod(name: &str, uid: &str, version: u64, address: &str) -> Event {
    apply(key(Kind::Pod, name), uid, version, Ok(Object::Pod(pod(name, uid, address))))
}

fn delete(kind: Kind, name: &str, uid: &str, version: u64) -> Event {
    Event::Delete(Departure { key: key(kind, name), uid: uid.to_owned(), version: Version::Number(version) })
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn closed(name: &str) -> Policy {
    Policy::closed(ObjectName::new("dev", name), Selector::everything(), true, true)
}
