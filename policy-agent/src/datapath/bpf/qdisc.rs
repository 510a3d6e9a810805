//! Filters on clsact qdiscs, as plain requests on one rtnetlink socket: ours, which has a priority and a handle of its
//! own on each side of an interface, and whether anything else is on the qdisc.

use std::io;

use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};

use super::attach::Hook;
use crate::endpoints::netlink::{Netlink, attributes, number};

/// Ours on every clsact qdisc; low priorities are the ones that people pick by hand.
pub(super) const PRIORITY: u16 = 20_942;
pub(super) const HANDLE: u16 = 1;

/// `struct tcmsg` of `linux/rtnetlink.h`: family, padding, ifindex, handle, parent, info.
const TCMSG: usize = 20;
/// `TC_H_CLSACT`, and the sides of such a qdisc.
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_MAJOR: u32 = 0xffff_0000;
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;

/// `TCA_KIND` and `TCA_OPTIONS` of `linux/rtnetlink.h`, which libc has only for other systems.
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
/// `TCA_BPF_NAME` and `TCA_BPF_ID` of `linux/pkt_cls.h`.
const BPF_NAME: u16 = 7;
const BPF_ID: u16 = 11;

/// A filter in our place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Filter {
    /// `bpf`, `flower`...
    pub(super) kind: String,
    /// Of a BPF filter.
    pub(super) name: String,
    pub(super) program: Option<u32>,
}

#[derive(Debug)]
pub(super) struct Filters(Netlink);

impl Filters {
    /// For the calling thread's network namespace.
    pub(super) fn open() -> io::Result<Self> {
        Netlink::open().map(Self)
    }

    /// What has our place on one side of an interface. An interface that is gone has nothing there.
    pub(super) fn ours(&mut self, ifindex: u32, hook: Hook) -> io::Result<Option<Filter>> {
        let body = tcmsg(ifindex, HANDLE.into(), parent(hook), place());
        let found = self.0.request(libc::RTM_GETTFILTER, NLM_F_REQUEST, &body, filter);
        Ok(or_absent(found)?.and_then(|(found, _)| found.into_iter().next()))
    }

    /// Takes away what has our place.
    pub(super) fn delete_ours(&mut self, ifindex: u32, hook: Hook) -> io::Result<()> {
        self.delete(ifindex, hook, HANDLE.into(), place())
    }

    /// Takes everything away that has our priority, whatever its kind and protocol: two kinds cannot share one.
    pub(super) fn clear_priority(&mut self, ifindex: u32, hook: Hook) -> io::Result<()> {
        self.delete(ifindex, hook, 0, u32::from(PRIORITY) << 16)
    }

    fn delete(&mut self, ifindex: u32, hook: Hook, handle: u32, info: u32) -> io::Result<()> {
        let body = tcmsg(ifindex, handle, parent(hook), info);
        let done = self.0.request(libc::RTM_DELTFILTER, NLM_F_REQUEST | NLM_F_ACK, &body, nothing);
        or_absent(done).map(drop)
    }

    /// Takes the clsact qdisc away if no filter is on it; returns whether it did.
    pub(super) fn delete_empty_qdisc(&mut self, ifindex: u32) -> io::Result<bool> {
        for hook in Hook::BOTH {
            let body = tcmsg(ifindex, 0, parent(hook), 0);
            let any = self.0.request(libc::RTM_GETTFILTER, NLM_F_REQUEST | NLM_F_DUMP, &body, filter);
            if or_absent(any)?.is_some_and(|(filters, _)| !filters.is_empty()) {
                return Ok(false);
            }
        }
        let mut body = tcmsg(ifindex, CLSACT_MAJOR, CLSACT, 0);
        // Another kind can have this handle.
        body.extend_from_slice(&11_u16.to_ne_bytes());
        body.extend_from_slice(&KIND.to_ne_bytes());
        body.extend_from_slice(b"clsact\0\0");
        let done = self.0.request(libc::RTM_DELQDISC, NLM_F_REQUEST | NLM_F_ACK, &body, nothing);
        Ok(or_absent(done)?.is_some())
    }
}

const fn parent(hook: Hook) -> u32 {
    match hook {
        Hook::FromPod => INGRESS,
        Hook::ToPod => EGRESS,
    }
}

/// Priority and protocol (all), as `tcm_info` has them.
fn place() -> u32 {
    const ETH_P_ALL: u16 = 3;
    u32::from(PRIORITY) << 16 | u32::from(ETH_P_ALL.to_be())
}

fn tcmsg(ifindex: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    let mut body = Vec::with_capacity(TCMSG + 12);
    for word in [0, ifindex, handle, parent, info] {
        body.extend_from_slice(&word.to_ne_bytes());
    }
    body
}

const fn nothing(_kind: u16, _payload: &[u8]) -> Option<()> {
    None
}

fn filter(kind: u16, payload: &[u8]) -> Option<Filter> {
    // A dump tells of chains and priorities too: entries without a handle.
    if kind != libc::RTM_NEWTFILTER || number(payload, 8)? == 0 {
        return None;
    }
    let mut filter = Filter::default();
    for (kind, value) in attributes(payload.get(TCMSG..)?) {
        match kind {
            KIND => filter.kind = text(value),
            OPTIONS => {
                for (kind, value) in attributes(value) {
                    match kind {
                        BPF_NAME => filter.name = text(value),
                        BPF_ID => filter.program = number(value, 0),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(filter)
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// What the kernel answers where there is no such filter, priority, qdisc or interface.
fn or_absent<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(value.len() + 4).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_filter_is_read_with_its_program() {
        let options = [attribute(BPF_NAME, b"from_pod\0"), attribute(BPF_ID, &7_u32.to_ne_bytes())].concat();
        let payload =
            [tcmsg(3, 1, INGRESS, place()), attribute(KIND, b"bpf\0"), attribute(OPTIONS, &options)].concat();
        let expected = Filter { kind: "bpf".into(), name: "from_pod".into(), program: Some(7) };
        assert_eq!(filter(libc::RTM_NEWTFILTER, &payload), Some(expected));
        // A priority without filters, another message, and bytes that end too early.
        assert_eq!(filter(libc::RTM_NEWTFILTER, &tcmsg(3, 0, INGRESS, place())), None);
        assert_eq!(filter(libc::RTM_NEWQDISC, &payload), None);
        for length in 0..payload.len() {
            let _ = filter(libc::RTM_NEWTFILTER, &payload[..length]);
        }
    }
}
