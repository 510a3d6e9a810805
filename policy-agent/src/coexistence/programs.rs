//! Programs on pods' interfaces that are not Sluice's: tcx links, and filters of any qdisc.

use std::collections::BTreeSet;
use std::fmt;

use aya::programs::{SchedClassifier, TcAttachType};
use futures_util::TryStreamExt as _;
use rtnetlink::TrafficFilterHandle;
use rtnetlink::packet_route::tc::{TcAttribute, TcFilterBpfOption, TcMessage, TcOption};

/// A program on an interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Program {
    pub interface: String,
    /// `ingress` or `egress`, as tc has it.
    pub hook: &'static str,
    /// Empty where its loader gave none, or the kernel does not tell.
    pub name: String,
    pub id: u32,
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { interface, hook, name, id } = self;
        let name = if name.is_empty() { "without a name" } else { name };
        write!(f, "interface {interface} has program {name} (id {id}) at tc {hook}")
    }
}

const HOOKS: [(TcAttachType, &str); 2] =
    [(TcAttachType::Ingress, "ingress"), (TcAttachType::Egress, "egress")];

/// All programs on `interfaces` whose ids are not in `ours`. Interfaces that are gone have none. Asks the kernel four times
/// for each interface, on a thread of its own in the caller's network namespace; not to be called often.
pub fn programs(interfaces: &[String], ours: &BTreeSet<u32>) -> Result<Vec<Program>, String> {
    let mut found = Vec::new();
    for interface in interfaces {
        found.extend(links(interface));
    }
    let owned = interfaces.to_owned();
    let listing = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(filters(&owned))
    });
    match listing.join() {
        Ok(Ok(filters)) => found.extend(filters),
        Ok(Err(error)) => return Err(format!("listing tc filters: {error}")),
        Err(_) => return Err("listing tc filters: the thread died".to_owned()),
    }
    found.retain(|program| !ours.contains(&program.id));
    found.sort();
    found.dedup();
    Ok(found)
}

/// None where the kernel has no tcx, or the interface is gone.
fn links(interface: &str) -> Vec<Program> {
    let mut found = Vec::new();
    for (attach_type, hook) in HOOKS {
        let Ok((_, infos)) = SchedClassifier::query_tcx(interface, attach_type) else { continue };
        found.extend(infos.iter().map(|info| Program {
            interface: interface.to_owned(),
            hook,
            name: info.name_as_str().unwrap_or_default().to_owned(),
            id: info.id(),
        }));
    }
    found
}

async fn filters(interfaces: &[String]) -> Result<Vec<Program>, Box<dyn std::error::Error + Send + Sync>> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let driver = tokio::spawn(connection);
    let mut found = Vec::new();
    for interface in interfaces {
        let Ok(index) = nix::net::if_::if_nametoindex(interface.as_str()) else { continue };
        let mut filters: TrafficFilterHandle = handle.traffic_filter(i32::try_from(index)?);
        let ingress = filters.get().ingress().execute().try_collect::<Vec<_>>().await;
        let egress = filters.get().egress().execute().try_collect::<Vec<_>>().await;
        for (messages, (_, hook)) in [ingress, egress].into_iter().zip(HOOKS) {
            // An interface without such a qdisc, or one that has just gone.
            let Ok(messages) = messages else { continue };
            found.extend(messages.iter().filter_map(|message| program(message, interface, hook)));
        }
    }
    driver.abort();
    Ok(found)
}

/// The program of a BPF filter.
fn program(message: &TcMessage, interface: &str, hook: &'static str) -> Option<Program> {
    let options = message.attributes.iter().filter_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    });
    let (mut name, mut id) = (String::new(), None);
    for option in options.flatten() {
        match option {
            TcOption::Bpf(TcFilterBpfOption::ProgName(told)) => name.clone_from(told),
            TcOption::Bpf(TcFilterBpfOption::ProgId(told)) => id = Some(*told),
            _ => {}
        }
    }
    Some(Program { interface: interface.to_owned(), hook, name, id: id? })
}
