//! Services: what a pod sends to one goes to an endpoint that is chosen here, so that policy judges the endpoint which
//! is really reached (SEMANTICS rows 23, 52-55), and kube-proxy behind us has nothing left to translate.
//!
//! The addresses in `Scratch::ip` become those that policy judges; `Wire` says what the packet shall bear when it has
//! passed. In the kernel each step runs in a function that the verifier checks once, by itself.

use crate::flows::FlowKey;
use crate::maps::{
    Addr6, BackendEntry, SERVICE_AFFINITY, SERVICE_CLOSED, SERVICE_MOST, ServiceKey, ServiceRef, Translation,
    Words,
};
use crate::parse::{Fragment, Ip, Scratch, Transport, protocol, tcp_flag};
use crate::tables::Tables;
use crate::track::{is_fresh_syn, is_icmp_error};

/// What an entry of `TRANSLATIONS` is: `FlowKey::tracked`, apart from what stands in the flow table.
pub mod kind {
    /// By frontend: the backend of what the pod sends.
    pub const SENT: u8 = 16;
    /// By backend: the frontend that the pod believes to hear.
    pub const RECEIVED: u8 = 17;
    /// By the identification of a datagram to a frontend.
    pub const FRAGMENTS_SENT: u8 = 18;
    pub const FRAGMENTS_RECEIVED: u8 = 19;
    /// By a Service's port: what its client keeps to.
    pub const AFFINITY: u8 = 20;
}

pub mod flag {
    /// The other side was heard.
    pub const ANSWERED: u16 = 1;
    /// The pod has ended it.
    pub const CLOSING: u16 = 2;
    /// To the pod itself: both addresses change, and the packet turns round.
    pub const HAIRPIN: u16 = 4;
    /// Its way back: the source port changes.
    pub const BACK: u16 = 8;
    /// kube-proxy translates it, from before its pod was isolated: it is judged here and left as it is.
    pub const FOLLOWED: u16 = 16;
}

/// What became of a packet to a Service.
pub mod outcome {
    /// It is to none, or not ours to translate.
    pub const NONE: i32 = 0;
    pub const TRANSLATED: i32 = 1;
    /// kube-proxy rejects it.
    pub const NO_ENDPOINT: i32 = 2;
    pub const CLOSED: i32 = 3;
}

/// What has to be written into a packet that passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Wire {
    pub src: Words,
    pub dst: Words,
    /// Of the packet that an ICMP error quotes: its address of the other end.
    pub quoted: Words,
    /// What the pod believes to talk to.
    pub frontend: Words,
    /// The seconds that a client keeps its backend, and what it is kept by.
    pub affinity: [u32; 3],
    pub src_port: u16,
    pub dst_port: u16,
    pub quoted_port: u16,
    pub frontend_port: u16,
    /// It shall bear other addresses than it came with: 1 where the pod sent it, 2 where the pod receives it.
    pub changes: u8,
    /// 1: the translation is remembered when policy lets it pass.
    pub is_new: u8,
    /// 1: it turns round to the pod that sent it.
    pub hairpin: u8,
    /// 1: `Scratch::quoted` is filled, with the addresses that policy judges.
    pub is_quoted: u8,
}

/// Values of `Wire::changes`.
pub const SENT: u8 = 1;
pub const RECEIVED: u8 = 2;

impl Wire {
    pub const EMPTY: Self = Self {
        src: [0; 4],
        dst: [0; 4],
        quoted: [0; 4],
        frontend: [0; 4],
        affinity: [0; 3],
        src_port: 0,
        dst_port: 0,
        quoted_port: 0,
        frontend_port: 0,
        changes: 0,
        is_new: 0,
        hairpin: 0,
        is_quoted: 0,
    };

    /// The rest means nothing then.
    #[inline(always)]
    pub const fn clear(&mut self) {
        self.changes = 0;
        self.is_new = 0;
        self.hairpin = 0;
        self.is_quoted = 0;
    }

    /// As the packet is.
    #[inline(always)]
    fn begin(&mut self, ip: &Ip) {
        put(&mut self.src, &ip.src);
        put(&mut self.dst, &ip.dst);
        self.src_port = ip.src_port;
        self.dst_port = ip.dst_port;
    }
}

/// Word by word: of the whole the compiler makes a call in BPF.
#[inline(always)]
fn put(to: &mut Words, from: &Words) {
    let mut at = 0;
    while at < 4 {
        to[at] = from[at];
        at += 1;
    }
}

/// Whether a Service can have to do with it. `ip` was parsed without an error.
#[inline(always)]
pub const fn concerns(ip: &Ip) -> bool {
    matches!(ip.transport, Transport::Ports)
        || matches!(ip.fragment, Fragment::Later)
        || (matches!(ip.transport, Transport::Icmp) && is_icmp_error(ip.family, ip.icmp_kind))
}

/// Seconds without a packet after which a translation is over: those of the connections themselves
/// (`conntrack::timeout_seconds`).
#[inline(always)]
const fn idle_seconds(protocol: u8, flags: u16) -> u32 {
    match protocol {
        protocol::UDP if flags & flag::ANSWERED == 0 => 30,
        protocol::UDP => 120,
        _ if flags & flag::CLOSING != 0 => 120,
        _ => 432_000,
    }
}

/// Seconds in which a SYN is taken for the same one, sent again.
const SAME_SYN_SECONDS: u32 = 60;
/// How often another backend is tried where the pod talks to one already under another name, by the same ports.
const TRIES: u32 = 4;

/// Seconds of silence after which a connection that the pod has ended leaves its ports to one by another frontend.
const CLOSED_SECONDS: u32 = 2;

#[inline(always)]
fn is_live(entry: &Translation, protocol: u8, now: u32) -> bool {
    now.wrapping_sub(entry.seen) <= idle_seconds(protocol, entry.flags)
}

struct Found {
    entry: Translation,
    /// It was last used in another second than this one.
    is_stale: bool,
}

/// Reads an entry and notes its use, at most once a second: cores would fight over the line.
#[inline(always)]
fn find<T: Tables>(tables: &T, key: &FlowKey, now: u32, flags: u16) -> Option<Found> {
    tables.with_translation(key, |entry| {
        let found = Found { entry: *entry, is_stale: entry.seen != now };
        if entry.flags & flags != flags && is_live(entry, key.protocol, now) {
            entry.flags |= flags;
        }
        if entry.seen != now && is_live(entry, key.protocol, now) {
            entry.seen = now;
        }
        found
    })
}

#[inline(always)]
fn key(kind: u8, ifindex: u32, ip: &Ip, remote: &Words, remote_port: u16, local_port: u16) -> FlowKey {
    FlowKey {
        remote: Addr6::from_words(remote),
        ifindex,
        remote_port,
        local_port,
        protocol: ip.protocol,
        family: ip.family,
        tracked: kind,
        zero: 0,
    }
}

#[inline(always)]
fn fragment_key(kind: u8, ifindex: u32, ip: &Ip, remote: &Words) -> FlowKey {
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of the identification")]
    let (high, low) = ((ip.fragment_id >> 16) as u16, ip.fragment_id as u16);
    // IPv6 identifies a datagram without its protocol (RFC 8200 section 4.5).
    let protocol = if ip.family == 4 { ip.protocol } else { 0 };
    FlowKey { protocol, ..key(kind, ifindex, ip, remote, high, low) }
}

/// What a pod sends. Fills `wire` and puts the endpoint's address in place of the Service's.
#[inline(always)]
pub fn outbound<T: Tables>(tables: &T, ifindex: u32, isolated: bool, scratch: &mut Scratch) -> i32 {
    let Scratch { ip, quoted, wire } = scratch;
    let now = tables.now();
    wire.begin(ip);
    put(&mut wire.frontend, &ip.dst);
    wire.frontend_port = ip.dst_port;
    if matches!(ip.fragment, Fragment::Later) {
        let key = fragment_key(kind::FRAGMENTS_SENT, ifindex, ip, &ip.dst);
        return match find(tables, &key, now, 0) {
            Some(found) => send_to(ip, wire, &found.entry),
            None => outcome::NONE,
        };
    }
    if matches!(ip.transport, Transport::Icmp) {
        let key = key(kind::SENT, ifindex, quoted, &quoted.src, quoted.src_port, quoted.dst_port);
        let Some(found) = find(tables, &key, now, 0) else { return outcome::NONE };
        if found.entry.flags & flag::HAIRPIN != 0 {
            return outcome::NONE;
        }
        if ip.dst == quoted.src {
            put(&mut ip.dst, &found.entry.address.words());
        }
        put(&mut quoted.src, &found.entry.address.words());
        quoted.src_port = found.entry.port;
        wire.is_quoted = 1;
        if found.entry.flags & flag::FOLLOWED == 0 {
            put(&mut wire.dst, &ip.dst);
            put(&mut wire.quoted, &quoted.src);
            wire.quoted_port = quoted.src_port;
            wire.changes = SENT;
        }
        return outcome::TRANSLATED;
    }
    known_or_new(tables, ifindex, isolated, ip, wire, now)
}

#[inline(always)]
fn known_or_new<T: Tables>(
    tables: &T,
    ifindex: u32,
    isolated: bool,
    ip: &mut Ip,
    wire: &mut Wire,
    now: u32,
) -> i32 {
    let fresh = is_fresh_syn(ip);
    let ends = ip.tcp_flags & (tcp_flag::FIN | tcp_flag::RST) != 0;
    let key = key(kind::SENT, ifindex, ip, &ip.dst, ip.dst_port, ip.src_port);
    let found = find(tables, &key, now, if ends { flag::CLOSING } else { 0 });
    if let Some(Found { entry, is_stale }) = found
        && is_live(&entry, ip.protocol, now)
        && (!fresh
            || (entry.flags & (flag::CLOSING | flag::FOLLOWED) == 0
                && now.wrapping_sub(entry.seen) <= SAME_SYN_SECONDS))
    {
        if (is_stale || ends) && entry.flags & (flag::HAIRPIN | flag::FOLLOWED) == 0 {
            // Its way back must live as long, and no longer.
            let closing = if ends { flag::CLOSING } else { 0 };
            remember_return(tables, ifindex, ip, &Translation { flags: entry.flags | closing, ..entry }, now);
        }
        return send_to(ip, wire, &entry);
    }
    if !isolated {
        return outcome::NONE;
    }
    let frontend = ServiceKey {
        address: Addr6::from_words(&ip.dst),
        port: ip.dst_port,
        protocol: ip.protocol,
        family: ip.family,
    };
    let Some(service) = tables.service(&frontend) else { return outcome::NONE };
    if service.count & SERVICE_CLOSED != 0 {
        return outcome::CLOSED;
    }
    // Where it goes that was opened before, nobody here knows.
    if !fresh && matches!(ip.protocol, protocol::TCP | protocol::SCTP) {
        return outcome::CLOSED;
    }
    if service.count & SERVICE_MOST == 0 {
        return outcome::NO_ENDPOINT;
    }
    let Some(backend) = choose(tables, ifindex, ip, wire, service, now) else { return outcome::CLOSED };
    wire.is_new = 1;
    let hairpin = if backend.address.words() == ip.src { flag::HAIRPIN } else { 0 };
    send_to(
        ip,
        wire,
        &Translation { address: backend.address, port: backend.port, flags: hairpin, seen: now },
    )
}

/// The address that policy judges, and those that the packet bears then.
#[inline(always)]
fn send_to(ip: &mut Ip, wire: &mut Wire, to: &Translation) -> i32 {
    let whole = !matches!(ip.fragment, Fragment::Later);
    let address = to.address.words();
    if to.flags & flag::FOLLOWED == 0 {
        wire.changes = SENT;
        if to.flags & flag::HAIRPIN != 0 {
            put(&mut wire.src, &ip.dst);
            wire.hairpin = 1;
        }
        put(&mut wire.dst, &address);
        if whole && to.flags & flag::BACK != 0 {
            wire.src_port = to.port;
        } else if whole {
            wire.dst_port = to.port;
        }
    }
    put(&mut ip.dst, &address);
    if whole && to.flags & flag::BACK == 0 {
        ip.dst_port = to.port;
    }
    outcome::TRANSLATED
}

/// The backend of a new connection: that of the client's last one where it keeps to it, else any.
#[inline(always)]
fn choose<T: Tables>(
    tables: &T,
    ifindex: u32,
    ip: &Ip,
    wire: &mut Wire,
    service: ServiceRef,
    now: u32,
) -> Option<BackendEntry> {
    wire.affinity[0] = 0;
    if service.count & SERVICE_AFFINITY != 0 {
        let [seconds, low, high, _] = tables.backend(service.first.wrapping_sub(1))?.address.words();
        wire.affinity[0] = seconds;
        wire.affinity[1] = low;
        wire.affinity[2] = high;
        let kept = tables.with_translation(&affinity_key(ifindex, ip, wire), |entry| *entry);
        if let Some(kept) = kept
            && now.wrapping_sub(kept.seen) < seconds
        {
            let backend = BackendEntry { address: kept.address, port: kept.port, zero: 0 };
            if is_free(tables, ifindex, ip, &backend, now) {
                return Some(backend);
            }
        }
    }
    let count = service.count & SERVICE_MOST;
    let mut at = 0;
    while at < TRIES {
        let place = ((u64::from(tables.random()) * u64::from(count)) >> 32) as u32;
        let backend = tables.backend(service.first.wrapping_add(place))?;
        if is_free(tables, ifindex, ip, &backend, now) {
            return Some(backend);
        }
        at += 1;
    }
    None
}

#[inline(always)]
fn affinity_key(ifindex: u32, ip: &Ip, wire: &Wire) -> FlowKey {
    let of = [wire.affinity[1], wire.affinity[2], 0, 0];
    FlowKey { protocol: 0, ..key(kind::AFFINITY, ifindex, ip, &of, 0, 0) }
}

/// Whether what comes from this backend by these ports can be told from what the pod gets of others.
#[inline(always)]
fn is_free<T: Tables>(tables: &T, ifindex: u32, ip: &Ip, backend: &BackendEntry, now: u32) -> bool {
    let key = key(kind::RECEIVED, ifindex, ip, &backend.address.words(), backend.port, ip.src_port);
    let taken = tables.with_translation(&key, |entry| {
        (entry.address.words() != ip.dst || entry.port != ip.dst_port)
            && is_live(entry, ip.protocol, now)
            && (entry.flags & flag::CLOSING == 0 || now.wrapping_sub(entry.seen) < CLOSED_SECONDS)
    });
    !taken.unwrap_or(false)
}

/// `ip` is as the pod sent it.
#[inline(always)]
fn remember_return<T: Tables>(tables: &T, ifindex: u32, ip: &Ip, to: &Translation, now: u32) {
    let key = key(kind::RECEIVED, ifindex, ip, &to.address.words(), to.port, ip.src_port);
    let frontend = Addr6::from_words(&ip.dst);
    let _ = tables.put_translation(
        &key,
        &Translation { address: frontend, port: ip.dst_port, flags: to.flags, seen: now },
    );
}

/// Remembers a translation that policy let through. Not 0 where there is no room.
#[inline(always)]
pub fn commit<T: Tables>(tables: &T, ifindex: u32, scratch: &mut Scratch) -> i32 {
    let Scratch { ip, wire, .. } = scratch;
    let seen = tables.now();
    let hairpin = if wire.hairpin != 0 { flag::HAIRPIN } else { 0 };
    let mut done = true;
    if wire.is_new != 0 {
        let address = Addr6::from_words(&ip.dst);
        let sent = key(kind::SENT, ifindex, ip, &wire.frontend, wire.frontend_port, ip.src_port);
        done &=
            tables.put_translation(&sent, &Translation { address, port: ip.dst_port, flags: hairpin, seen });
        if wire.hairpin != 0 {
            let back = key(kind::SENT, ifindex, ip, &wire.frontend, ip.src_port, ip.dst_port);
            let flags = flag::HAIRPIN | flag::BACK;
            done &= tables
                .put_translation(&back, &Translation { address, port: wire.frontend_port, flags, seen });
        } else {
            let received = key(kind::RECEIVED, ifindex, ip, &ip.dst, ip.dst_port, ip.src_port);
            let address = Addr6::from_words(&wire.frontend);
            let value = Translation { address, port: wire.frontend_port, flags: 0, seen };
            done &= tables.put_translation(&received, &value);
        }
        if wire.affinity[0] != 0 {
            let value = Translation { address, port: ip.dst_port, flags: 0, seen };
            done &= tables.put_translation(&affinity_key(ifindex, ip, wire), &value);
        }
        tables.set_translates(ifindex);
    }
    if matches!(ip.fragment, Fragment::First) {
        let value = Translation { address: Addr6::from_words(&ip.dst), port: 0, flags: hairpin, seen };
        let key = fragment_key(kind::FRAGMENTS_SENT, ifindex, ip, &wire.frontend);
        done &= tables.put_translation(&key, &value);
    }
    i32::from(!done)
}

/// What a pod receives: fills `wire` where it comes from an endpoint of a Service that the pod called.
#[inline(always)]
pub fn inbound<T: Tables>(tables: &T, ifindex: u32, scratch: &mut Scratch) -> i32 {
    let Scratch { ip, quoted, wire } = scratch;
    let now = tables.now();
    wire.begin(ip);
    if matches!(ip.fragment, Fragment::Later) {
        let key = fragment_key(kind::FRAGMENTS_RECEIVED, ifindex, ip, &ip.src);
        let Some(found) = find(tables, &key, now, 0) else { return outcome::NONE };
        put(&mut wire.src, &found.entry.address.words());
        wire.changes = RECEIVED;
        return outcome::TRANSLATED;
    }
    if matches!(ip.transport, Transport::Icmp) {
        let received = key(kind::RECEIVED, ifindex, quoted, &quoted.dst, quoted.dst_port, quoted.src_port);
        if let Some(found) = find(tables, &received, now, 0) {
            if ip.src == quoted.dst {
                put(&mut wire.src, &found.entry.address.words());
            }
            put(&mut wire.quoted, &found.entry.address.words());
            wire.quoted_port = found.entry.port;
            wire.changes = RECEIVED;
            wire.is_quoted = 1;
            return outcome::TRANSLATED;
        }
        let sent = key(kind::SENT, ifindex, quoted, &quoted.dst, quoted.dst_port, quoted.src_port);
        if let Some(Found { entry, .. }) = find(tables, &sent, now, 0)
            && entry.flags & flag::FOLLOWED != 0
        {
            if ip.src == quoted.dst {
                put(&mut ip.src, &entry.address.words());
            }
            put(&mut quoted.dst, &entry.address.words());
            quoted.dst_port = entry.port;
            wire.is_quoted = 1;
        }
        return outcome::NONE;
    }
    let received = key(kind::RECEIVED, ifindex, ip, &ip.src, ip.src_port, ip.dst_port);
    if let Some(Found { entry, is_stale }) = find(tables, &received, now, flag::ANSWERED) {
        if !is_live(&entry, ip.protocol, now) {
            return outcome::NONE;
        }
        let sent = key(kind::SENT, ifindex, ip, &entry.address.words(), entry.port, ip.dst_port);
        if (is_stale || entry.flags & flag::ANSWERED == 0)
            && find(tables, &sent, now, flag::ANSWERED).is_none()
        {
            let value = Translation {
                address: Addr6::from_words(&ip.src),
                port: ip.src_port,
                flags: flag::ANSWERED,
                seen: now,
            };
            let _ = tables.put_translation(&sent, &value);
        }
        put(&mut wire.src, &entry.address.words());
        wire.src_port = entry.port;
        wire.changes = RECEIVED;
        if matches!(ip.fragment, Fragment::First) {
            let key = fragment_key(kind::FRAGMENTS_RECEIVED, ifindex, ip, &ip.src);
            let value = Translation { address: entry.address, port: 0, flags: 0, seen: now };
            let _ = tables.put_translation(&key, &value);
        }
        return outcome::TRANSLATED;
    }
    let sent = key(kind::SENT, ifindex, ip, &ip.src, ip.src_port, ip.dst_port);
    if let Some(Found { entry, .. }) = find(tables, &sent, now, flag::ANSWERED)
        && entry.flags & flag::FOLLOWED != 0
        && is_live(&entry, ip.protocol, now)
    {
        put(&mut ip.src, &entry.address.words());
        ip.src_port = entry.port;
    }
    outcome::NONE
}
