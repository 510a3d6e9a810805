//! What the pods of a node can address of Services, from one change to the next.

use std::collections::{BTreeMap, BTreeSet};

use super::Scope;
use crate::model::services::{Frontend, Target, Vantage};
use crate::model::{Changes, Cluster, ObjectName};

#[derive(Debug, Default)]
pub(super) struct Frontends {
    /// From where they were looked at; `None`: from no node in particular, where there are none.
    vantage: Option<Vantage>,
    /// Those that a Service has or claims.
    of_service: BTreeMap<ObjectName, BTreeSet<Frontend>>,
}

impl Frontends {
    pub(super) fn compile_all(
        &mut self,
        cluster: &Cluster,
        scope: &Scope,
        compiled: &mut BTreeMap<Frontend, Target>,
    ) {
        self.vantage = vantage(cluster, scope);
        self.of_service.clear();
        compiled.clear();
        let Some(vantage) = &self.vantage else { return };
        compiled.append(&mut cluster.services.all(vantage));
        for service in cluster.services.values() {
            self.of_service.insert(service.id.clone(), claimed(cluster, &service.id, vantage));
        }
    }

    /// Returns the frontends behind which there is something else now.
    pub(super) fn update(
        &mut self,
        cluster: &Cluster,
        scope: &Scope,
        changes: &Changes,
        compiled: &mut BTreeMap<Frontend, Target>,
    ) -> BTreeSet<Frontend> {
        let vantage = vantage(cluster, scope);
        if vantage != self.vantage {
            let before = std::mem::take(compiled);
            self.compile_all(cluster, scope, compiled);
            let all = before.keys().chain(compiled.keys());
            return all.filter(|frontend| before.get(frontend) != compiled.get(frontend)).copied().collect();
        }
        let Some(vantage) = vantage else { return BTreeSet::new() };
        let mut about = BTreeSet::new();
        for name in &changes.services {
            let now = claimed(cluster, name, &vantage);
            about.extend(&now);
            let before = match now.is_empty() {
                true => self.of_service.remove(name),
                false => self.of_service.insert(name.clone(), now),
            };
            about.extend(before.into_iter().flatten());
        }
        about.retain(|frontend| {
            let target = cluster.services.target(frontend, &vantage);
            if compiled.get(frontend) == target.as_ref() {
                return false;
            }
            match target {
                Some(target) => compiled.insert(*frontend, target),
                None => compiled.remove(frontend),
            };
            true
        });
        about
    }
}

fn claimed(cluster: &Cluster, name: &ObjectName, vantage: &Vantage) -> BTreeSet<Frontend> {
    cluster.services.frontends(name, vantage).into_iter().map(|(frontend, _)| frontend).collect()
}

/// The node's own addresses serve node ports, all of them.
fn vantage(cluster: &Cluster, scope: &Scope) -> Option<Vantage> {
    let Scope::Node { name, addresses } = scope else { return None };
    let known = match name {
        Some(name) => Vantage::of(cluster, name),
        None => Vantage::default(),
    };
    Some(Vantage { addresses: addresses.iter().copied().collect(), ..known })
}
