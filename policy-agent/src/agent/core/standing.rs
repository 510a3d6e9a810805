//! How the pods stand that the network plugin asks for.

use super::super::overlay::{self, Overlay};
use super::super::place::Found;
use super::Core;
use crate::cni::protocol::Attachment;
use crate::model::ObjectName;

/// How a pod that the network plugin asks for stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::agent) enum Standing {
    Enforced,
    /// Its object is not known yet.
    Unknown(String),
    Failed(String),
}

impl Core {
    /// Why nothing can be said of any pod, if so.
    pub(in crate::agent) fn unready(&self) -> Option<String> {
        if !self.input.has_begun() {
            return Some("the agent does not know the cluster's objects yet".to_owned());
        }
        let errors = [&self.errors.scan, &self.errors.tables];
        errors.into_iter().flatten().next().cloned()
    }

    pub(in crate::agent) fn standing(&self, attachment: &Attachment) -> Standing {
        let name = ObjectName::from(attachment.pod.clone());
        let pod = self.input.cluster().pods.get(&name).filter(|pod| overlay::is_same(pod, attachment));
        if pod.is_some_and(|pod| pod.host_network) {
            return Standing::Enforced;
        }
        let stands_for = match pod {
            Some(_) => name.clone(),
            None => Overlay::stand_in(&name, self.input.cluster()),
        };
        let is_open = pod.is_none() && self.overlay.is_open(&overlay::id(attachment));
        match self.in_force(&stands_for) {
            Err(reason) if !is_open => Standing::Failed(reason),
            Ok(()) if pod.is_some() => Standing::Enforced,
            _ => Standing::Unknown(format!("pod {name} is not known yet")),
        }
    }

    /// As [`standing`](Self::standing), and the kernel is asked whether the programs still hang there. Where they did not,
    /// they do now.
    pub(in crate::agent) fn verified(&mut self, attachment: &Attachment) -> Standing {
        let standing = self.standing(attachment);
        let name = ObjectName::from(attachment.pod.clone());
        let interface = self.found.get(&name).and_then(Found::interface).cloned();
        let (Standing::Enforced, Some(interface)) = (&standing, interface) else { return standing };
        match self.datapath.lost(interface.ifindex) {
            Ok(Some(lost)) if lost.is_empty() => standing,
            Ok(lost) => {
                self.repair(&lost.unwrap_or_default());
                Standing::Failed(format!("somebody took the programs off {}", interface.name))
            }
            Err(error) => Standing::Failed(error.to_string()),
        }
    }

    fn in_force(&self, name: &ObjectName) -> Result<(), String> {
        if !self.compiled().endpoints.contains_key(name) {
            return Err(format!("pod {name} is no endpoint of this node"));
        }
        let Some(Found::Interface(interface)) = self.found.get(name) else {
            return Err(format!("the interface of pod {name} is not found"));
        };
        let attached = self.datapath.attached().get(&interface.ifindex).is_some_and(|a| a.current);
        let located = self.locals.iter().any(|local| local.ifindex == interface.ifindex);
        match self.lacks_room_for(name) {
            Some(why) => Err(why.to_owned()),
            None if attached && located && self.errors.tables.is_empty() => Ok(()),
            None => Err(format!("policy is not in force on {}", interface.name)),
        }
    }
}
