//! Services: what a pod sends to one goes to an endpoint that is chosen here, so that policy judges the endpoint which
//! is really reached (SEMANTICS rows 23, 52-55), and kube-proxy behind us has nothing left to translate.
//!
//! The addresses in `Scratch::ip` become those that policy judges; `Wire` says what the packet shall bear when it has
//! passed. In the kernel each step runs in a function that the verifier checks once, by itself.

use crate::flows::{FlowKey, Opener, Tracked};
use crate::maps::{
    Addr6, BackendEntry, MAY_TRANSLATE, SERVICE_AFFINITY, SERVICE_CLOSED, SERVICE_MOST, ServiceKey,
    ServiceRef, Translation, Words,
};
use crate::parse::{Fragment, Ip, Scratch, Transport, protocol, tcp_flag};
use crate::tables::Tables;
use crate::track::{is_fresh_syn, is_icmp_error};
use crate::translation::{Found, age, find, flag, forget, fragment_key, is_live, key, kind};
use crate::wire::{RECEIVED, SENT, Wire, put};

/// What became of a packet to a Service.
pub mod outcome {
    /// It is to none, or not ours to translate.
    pub const NONE: i32 = 0;
    pub const TRANSLATED: i32 = 1;
    /// kube-proxy rejects it.
    pub const NO_ENDPOINT: i32 = 2;
    pub const CLOSED: i32 = 3;
}

/// Whether a Service can have to do with it. `ip` was parsed without an error.
#[inline(always)]
pub const fn concerns(ip: &Ip) -> bool {
    matches!(ip.transport, Transport::Ports)
        || matches!(ip.fragment, Fragment::Later)
        || (matches!(ip.transport, Transport::Icmp) && is_icmp_error(ip.family, ip.icmp_kind))
}

/// Seconds in which a SYN is taken for the same one, sent again.
const SAME_SYN_SECONDS: u32 = 60;
/// How often another backend is tried where the pod talks to one already under another name, by the same ports.
const TRIES: u32 = 4;

/// Seconds of silence after which a connection that the pod has ended leaves its ports to one by another frontend.
const CLOSED_SECONDS: u32 = 2;

/// What a pod sends. Fills `wire` and puts the endpoint's address in place of the Service's.
#[inline(always)]
pub fn outbound<T: Tables>(tables: &T, ifindex: u32, isolated: bool, scratch: &mut Scratch) -> i32 {
    let Scratch { ip, quoted, wire, .. } = scratch;
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
    if let Some(Found { entry, is_stale, .. }) = found
        && (!fresh
            || (entry.flags & (flag::CLOSING | flag::FOLLOWED) == 0 && age(&entry, now) <= SAME_SYN_SECONDS))
    {
        if (is_stale || ends) && entry.flags & (flag::HAIRPIN | flag::FOLLOWED) == 0 {
            // Its way back must live as long, and no longer.
            let closing = if ends { flag::CLOSING } else { 0 };
            remember_return(tables, ifindex, ip, &Translation { flags: entry.flags | closing, ..entry }, now);
        }
        if entry.flags & flag::FOLLOWED != 0 {
            followed(tables, &key, ip, &entry, now);
        }
        return send_to(ip, wire, &entry);
    }
    if !isolated {
        if fresh {
            // kube-proxy chooses for this one.
            forget(tables, &key, now);
        }
        return outcome::NONE;
    }
    let Some(service) = tables.service(&service_key(ip, &ip.dst, ip.dst_port)) else { return outcome::NONE };
    // What the other end has opened is answered, though its port be a Service's.
    if !fresh && was_called(tables, ifindex, ip, now) {
        return outcome::NONE;
    }
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
    // kube-proxy, which translates once, would translate it again.
    let address = backend.address.words();
    if tables.may_be_frontend(&address) && tables.service(&service_key(ip, &address, backend.port)).is_some()
    {
        return outcome::CLOSED;
    }
    wire.is_new = 1;
    let hairpin = if backend.address.words() == ip.src { flag::HAIRPIN } else { 0 };
    send_to(
        ip,
        wire,
        &Translation { address: backend.address, port: backend.port, flags: hairpin, seen: now },
    )
}

#[inline(always)]
fn service_key(ip: &Ip, address: &Words, port: u16) -> ServiceKey {
    ServiceKey { address: Addr6::from_words(address), port, protocol: ip.protocol, family: ip.family }
}

/// Whether the other end has opened the flow of what the pod sends.
#[inline(always)]
fn was_called<T: Tables>(tables: &T, ifindex: u32, ip: &Ip, now: u32) -> bool {
    let key = key(Tracked::Flow as u8, ifindex, ip, &ip.dst, ip.dst_port, ip.src_port);
    let opener = tables.with_flows(&key, |set| set.find(&key, now).map(|at| set.entry(at).opener)).flatten();
    matches!(opener, Some(Opener::Peer | Opener::Node))
}

/// The pod sends on a connection that the node translates. `ip` is as the pod sent it.
#[inline(always)]
fn followed<T: Tables>(tables: &T, key: &FlowKey, ip: &Ip, entry: &Translation, now: u32) {
    if ip.tcp_flags & tcp_flag::RST != 0 {
        forget(tables, key, now);
    }
    if matches!(ip.fragment, Fragment::First) {
        let key = fragment_key(kind::FRAGMENTS_SENT, key.ifindex, ip, &ip.dst);
        let value = Translation { address: entry.address, port: 0, flags: flag::FOLLOWED, seen: now };
        let _ = tables.put_translation(&key, &value);
    }
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
            && age(&kept, now) < seconds
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
            && is_live(entry, &key, now)
            && (entry.flags & flag::CLOSING == 0 || age(entry, now) < CLOSED_SECONDS)
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
        tables.set_translates(ifindex, MAY_TRANSLATE);
    }
    if matches!(ip.fragment, Fragment::First) {
        let value = Translation { address: Addr6::from_words(&ip.dst), port: 0, flags: hairpin, seen };
        let key = fragment_key(kind::FRAGMENTS_SENT, ifindex, ip, &wire.frontend);
        done &= tables.put_translation(&key, &value);
    }
    i32::from(!done)
}

/// Policy denies the endpoint: datagrams and clients that keep to theirs choose anew.
#[inline(always)]
pub fn abandon<T: Tables>(tables: &T, ifindex: u32, scratch: &mut Scratch) -> i32 {
    let Scratch { ip, wire, .. } = scratch;
    let now = tables.now();
    if wire.is_new == 0 {
        let sent = key(kind::SENT, ifindex, ip, &wire.frontend, wire.frontend_port, ip.src_port);
        forget(tables, &sent, now);
    } else if wire.affinity[0] != 0 {
        forget(tables, &affinity_key(ifindex, ip, wire), now);
    }
    0
}

/// What a pod receives: fills `wire` where it comes from an endpoint of a Service that the pod called.
#[inline(always)]
pub fn inbound<T: Tables>(tables: &T, ifindex: u32, scratch: &mut Scratch) -> i32 {
    let Scratch { ip, quoted, wire, .. } = scratch;
    let now = tables.now();
    wire.begin(ip);
    if matches!(ip.fragment, Fragment::Later) {
        let key = fragment_key(kind::FRAGMENTS_RECEIVED, ifindex, ip, &ip.src);
        let Some(found) = find(tables, &key, now, 0) else { return outcome::NONE };
        if found.entry.flags & flag::FOLLOWED != 0 {
            put(&mut ip.src, &found.entry.address.words());
            return outcome::NONE;
        }
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
    if let Some(Found { entry, is_stale, .. }) = find(tables, &received, now, flag::ANSWERED) {
        let sent = key(kind::SENT, ifindex, ip, &entry.address.words(), entry.port, ip.dst_port);
        // Datagrams choose anew where their endpoint is gone (`Op::Forsake`), whatever it still says.
        if (is_stale || entry.flags & flag::ANSWERED == 0)
            && find(tables, &sent, now, flag::ANSWERED).is_none()
            && ip.protocol != protocol::UDP
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
    {
        if entry.flags & flag::MASKED != 0 {
            // It was not masqueraded: the node's port has another owner by now.
            forget(tables, &sent, now);
            return outcome::NONE;
        }
        if matches!(ip.fragment, Fragment::First) {
            let key = fragment_key(kind::FRAGMENTS_RECEIVED, ifindex, ip, &ip.src);
            let value = Translation { address: entry.address, port: 0, flags: flag::FOLLOWED, seen: now };
            let _ = tables.put_translation(&key, &value);
        }
        put(&mut ip.src, &entry.address.words());
        ip.src_port = entry.port;
    }
    outcome::NONE
}
