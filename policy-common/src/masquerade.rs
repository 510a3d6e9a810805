//! What the node masquerades on its way to a pod (a node port, a pod's own Service) is judged by the address that it was
//! sent from: the node's connection tracking knows it, and hangs on the packet.
//!
//! The pod's answers bear the node's address and come to us before connection tracking. So what passes is remembered in
//! `TRANSLATIONS` as a flow that another translates (`flag::FOLLOWED`), by the address that the pod sees.

use crate::flows::{FlowKey, Opener, Tracked};
use crate::maps::{Addr6, MAY_TRANSLATE, Translation, Words, masked_bit};
use crate::parse::{Fragment, Ip, Scratch};
use crate::policy::is_own;
use crate::tables::Tables;
use crate::translation::{find, flag, key, kind};
use crate::wire::put;

/// One direction of a connection (`struct nf_conntrack_tuple`). Ports are big-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Tuple {
    pub src: Words,
    pub src_port: u16,
    /// `AF_INET` or `AF_INET6`; 0 in a reply.
    pub family: u16,
    pub dst: Words,
    pub dst_port: u16,
    pub protocol: u8,
    /// 0: as its opener sent it. 1: as its answers come, before their translation is undone.
    pub direction: u8,
}

/// What connection tracking knows of a packet's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Known {
    pub original: Tuple,
    pub reply: Tuple,
}

impl Tuple {
    pub const EMPTY: Self =
        Self { src: [0; 4], src_port: 0, family: 0, dst: [0; 4], dst_port: 0, protocol: 0, direction: 0 };
}

impl Known {
    pub const EMPTY: Self = Self { original: Tuple::EMPTY, reply: Tuple::EMPTY };

    /// Whether an answer to this packet would be one of the connection: what was read is what it seems to be.
    #[inline(always)]
    pub fn is_of(&self, ip: &Ip) -> bool {
        let reply = &self.reply;
        let ports = matches!(ip.fragment, Fragment::Later)
            || (u16::from_be(reply.src_port) == ip.dst_port
                && u16::from_be(reply.dst_port) == ip.src_port
                && reply.protocol == ip.protocol);
        self.original.direction == 0
            && reply.direction == 1
            && ports
            && reply.src == ip.dst
            && reply.dst == ip.src
    }
}

/// Puts the address that a masqueraded packet was sent from in the place of the node's. `Scratch::known` is filled.
#[inline(always)]
pub fn unmask<T: Tables>(tables: &T, ifindex: u32, scratch: &mut Scratch) -> i32 {
    let Scratch { ip, wire, known, .. } = scratch;
    let Some(endpoint) = tables.endpoint(ifindex) else { return 0 };
    let from = &known.original;
    let (now, port) = (tables.now(), u16::from_be(from.src_port));
    let mut is_known = false;
    if !matches!(ip.fragment, Fragment::Later) {
        let key = key(kind::SENT, ifindex, ip, &ip.src, ip.src_port, ip.dst_port);
        is_known = find(tables, &key, now, 0).is_some_and(|found| {
            found.entry.flags & flag::MASKED != 0
                && found.entry.address.words() == from.src
                && found.entry.port == port
        });
        let bit = masked_bit(&ip.src);
        is_known &= tables.translates(ifindex) & bit != 0;
        wire.is_new = u8::from(!is_known);
    }
    // The pod's own address proves nothing: somebody outside may have used it.
    if !is_known && is_own(endpoint, ip.family, &from.src) && !was_sent(tables, ifindex, known, ip) {
        wire.is_new = 0;
        return 0;
    }
    put(&mut wire.frontend, &ip.src);
    wire.frontend_port = ip.src_port;
    put(&mut ip.src, &from.src);
    if !matches!(ip.fragment, Fragment::Later) {
        ip.src_port = port;
    }
    wire.masked = 1;
    1
}

/// Whether the pod has opened the connection, as this hook saw it.
#[inline(always)]
fn was_sent<T: Tables>(tables: &T, ifindex: u32, known: &Known, ip: &Ip) -> bool {
    let sent = &known.original;
    let key = FlowKey {
        remote: Addr6::from_words(&sent.dst),
        ifindex,
        remote_port: u16::from_be(sent.dst_port),
        local_port: u16::from_be(sent.src_port),
        protocol: ip.protocol,
        family: ip.family,
        tracked: Tracked::Flow as u8,
        zero: 0,
    };
    let now = tables.now();
    let opener = tables.with_flows(&key, |set| set.find(&key, now).map(|at| set.entry(at).opener)).flatten();
    matches!(opener, Some(Opener::Pod))
}

/// Policy let a masqueraded packet through: remembers where its answers go.
#[inline(always)]
pub fn remember<T: Tables>(tables: &T, ifindex: u32, scratch: &Scratch) -> i32 {
    let Scratch { ip, wire, .. } = scratch;
    let key = key(kind::SENT, ifindex, ip, &wire.frontend, wire.frontend_port, ip.dst_port);
    let value = Translation {
        address: Addr6::from_words(&ip.src),
        port: ip.src_port,
        flags: flag::FOLLOWED | flag::MASKED,
        seen: tables.now(),
    };
    tables.set_translates(ifindex, MAY_TRANSLATE | masked_bit(&wire.frontend));
    i32::from(!tables.put_translation(&key, &value))
}
