//! The few questions to rtnetlink that a scan asks, as plain requests on a socket.
//!
//! A scan asks two or three short questions in each of hundreds of namespaces: a socket and a read are cheaper than an event
//! loop. Of an answer only the attributes that matter are read, so that a link with attributes unknown to us, which a
//! container may be able to make, can't hide the others.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd as _};

use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

/// `NETNSA_NSID` and `NETNSA_FD` of `linux/net_namespace.h`, which libc lacks.
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
/// `RTEXT_FILTER_SKIP_STATS`: most of what the kernel says of a link is counters.
const SKIP_STATS: u32 = 1 << 3;

const HEADER: usize = 16;
const IFINFOMSG: usize = 16;
const IFADDRMSG: usize = 8;
const RTGENMSG: usize = 4;

/// Twice what the kernel puts into one datagram of a dump.
const BUFFER: usize = 1 << 16;
/// How often a dump that something else changed midway is repeated before it is taken as it is.
const DUMPS: usize = 4;

/// A link, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// `IFLA_LINK`: of a veth or netkit, the other end's index.
    pub(super) peer: Option<u32>,
    /// `IFLA_LINK_NETNSID`: the peer's namespace, as this namespace numbers it. Absent where it is this one.
    pub(super) peer_namespace: Option<i32>,
}

/// An address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) index: u32,
    pub(super) address: IpAddr,
}

/// An rtnetlink socket: it stays in the namespace that it was opened in, wherever its thread moves to.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: Socket,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket in the calling thread's namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = Socket::new(NETLINK_ROUTE)?;
        // The kernel answers before `send` returns, and goes on with a dump before `recv` does: where nothing is there to be
        // read, nothing comes. An error is better than a thread that waits for ever.
        socket.set_non_blocking(true)?;
        Ok(Self { socket, buffer: Vec::with_capacity(BUFFER), sequence: 0 })
    }

    /// All links.
    pub(super) fn links(&mut self) -> io::Result<Vec<Link>> {
        let body = link_request(0);
        self.dump(libc::RTM_GETLINK, &body, |kind, payload| {
            if kind == libc::RTM_NEWLINK { parse_link(payload) } else { None }
        })
    }

    /// The link of that index, if there is one.
    pub(super) fn link(&mut self, index: u32) -> io::Result<Option<Link>> {
        let found = self.request(libc::RTM_GETLINK, NLM_F_REQUEST, &link_request(index), |kind, payload| {
            if kind == libc::RTM_NEWLINK { parse_link(payload) } else { None }
        });
        match found {
            Ok((links, _)) => Ok(links.into_iter().find(|link| link.index == index)),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All addresses of both families.
    pub(super) fn addresses(&mut self) -> io::Result<Vec<Address>> {
        self.dump(libc::RTM_GETADDR, &[0; IFADDRMSG], |kind, payload| {
            if kind == libc::RTM_NEWADDR { parse_address(payload) } else { None }
        })
    }

    /// The number by which the socket's namespace knows another one, if it knows it at all.
    pub(super) fn namespace_id(&mut self, namespace: impl AsFd) -> io::Result<Option<i32>> {
        let mut body = vec![0; RTGENMSG];
        let descriptor = u32::try_from(namespace.as_fd().as_raw_fd()).map_err(io::Error::other)?;
        push_attribute(&mut body, NETNSA_FD, descriptor);
        let (ids, _) = self.request(libc::RTM_GETNSID, NLM_F_REQUEST, &body, |kind, payload| {
            if kind != libc::RTM_NEWNSID {
                return None;
            }
            attributes(payload.get(RTGENMSG..)?)
                .find_map(|(kind, value)| if kind == NETNSA_NSID { number(value, 0) } else { None })
        })?;
        // -1 is "none assigned".
        Ok(ids.into_iter().map(u32::cast_signed).find(|id| *id >= 0))
    }

    fn dump<T>(
        &mut self,
        kind: u16,
        body: &[u8],
        mut parse: impl FnMut(u16, &[u8]) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        let mut attempt = 1;
        loop {
            let (found, interrupted) = self.request(kind, NLM_F_REQUEST | NLM_F_DUMP, body, &mut parse)?;
            if !interrupted || attempt == DUMPS {
                return Ok(found);
            }
            attempt += 1;
        }
    }

    /// Sends a request and reads the whole answer. Also says whether a dump was disturbed by a change.
    pub(crate) fn request<T>(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
        mut parse: impl FnMut(u16, &[u8]) -> Option<T>,
    ) -> io::Result<(Vec<T>, bool)> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?;
        let mut request = Vec::with_capacity(HEADER + body.len());
        request.extend_from_slice(&length.to_ne_bytes());
        request.extend_from_slice(&kind.to_ne_bytes());
        request.extend_from_slice(&flags.to_ne_bytes());
        request.extend_from_slice(&self.sequence.to_ne_bytes());
        request.extend_from_slice(&[0; 4]);
        request.extend_from_slice(body);
        self.socket.send_to(&request, &SocketAddr::new(0, 0), 0)?;

        let dump = flags & NLM_F_DUMP == NLM_F_DUMP;
        let mut found = Vec::new();
        let mut interrupted = false;
        loop {
            self.buffer.clear();
            let (length, sender) = self.socket.recv_from(&mut self.buffer, libc::MSG_TRUNC)?;
            if length > self.buffer.len() {
                return Err(io::Error::other("a netlink message is larger than the buffer"));
            }
            // Only the kernel has port 0.
            if sender.port_number() != 0 {
                continue;
            }
            for message in messages(&self.buffer) {
                if message.sequence != self.sequence {
                    continue;
                }
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_DONE | NLMSG_ERROR => {
                        return match number(message.payload, 0).map(u32::cast_signed) {
                            Some(code) if code < 0 => Err(io::Error::from_raw_os_error(-code)),
                            _ => Ok((found, interrupted)),
                        };
                    }
                    kind => found.extend(parse(kind, message.payload)),
                }
                if !dump {
                    return Ok((found, interrupted));
                }
            }
        }
    }
}

fn link_request(index: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend_from_slice(&index.to_ne_bytes());
    body.resize(IFINFOMSG, 0);
    push_attribute(&mut body, libc::IFLA_EXT_MASK, SKIP_STATS);
    body
}

fn push_attribute(body: &mut Vec<u8>, kind: u16, value: u32) {
    body.extend_from_slice(&8_u16.to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(&value.to_ne_bytes());
}

fn parse_link(payload: &[u8]) -> Option<Link> {
    let mut link = Link { index: number(payload, 4)?, ..Link::default() };
    for (kind, value) in attributes(payload.get(IFINFOMSG..)?) {
        match kind {
            libc::IFLA_IFNAME => {
                let name = value.split(|byte| *byte == 0).next().unwrap_or_default();
                link.name = String::from_utf8_lossy(name).into_owned();
            }
            libc::IFLA_LINK => link.peer = number(value, 0).filter(|peer| *peer != 0),
            libc::IFLA_LINK_NETNSID => link.peer_namespace = number(value, 0).map(u32::cast_signed),
            _ => {}
        }
    }
    Some(link)
}

fn parse_address(payload: &[u8]) -> Option<Address> {
    let index = number(payload, 4)?;
    let (mut local, mut address) = (None, None);
    for (kind, value) in attributes(payload.get(IFADDRMSG..)?) {
        match kind {
            libc::IFA_LOCAL => local = ip(value),
            libc::IFA_ADDRESS => address = ip(value),
            _ => {}
        }
    }
    // On a link to one other machine, IFA_ADDRESS is that machine's. IPv6 gives IFA_LOCAL only there.
    Some(Address { index, address: local.or(address)? })
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
        _ => None,
    }
}

struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(number(bytes, 0)?).ok()?;
        let message = Message {
            kind: short(bytes, 4)?,
            flags: short(bytes, 6)?,
            sequence: number(bytes, 8)?,
            payload: bytes.get(HEADER..length)?,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    /// Flags in an attribute's type.
    const FLAGS: u16 = 0xc000;
    std::iter::from_fn(move || {
        let length = usize::from(short(bytes, 0)?);
        let kind = short(bytes, 2)? & !FLAGS;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

pub(crate) fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
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
    fn a_link_is_read_among_attributes_that_mean_nothing_here() {
        let mut payload = link_request(7)[..IFINFOMSG].to_vec();
        payload.extend(attribute(999, b"odd"));
        payload.extend(attribute(libc::IFLA_IFNAME, b"veth1\0"));
        payload.extend(attribute(libc::IFLA_LINK, &5_u32.to_ne_bytes()));
        payload.extend(attribute(libc::IFLA_LINK_NETNSID, &0_i32.to_ne_bytes()));
        let link = Link { index: 7, name: "veth1".to_owned(), peer: Some(5), peer_namespace: Some(0) };
        assert_eq!(parse_link(&payload), Some(link));
    }

    #[test]
    fn the_own_end_of_a_point_to_point_address_counts() {
        let mut payload = vec![0; IFADDRMSG];
        payload[4..8].copy_from_slice(&3_u32.to_ne_bytes());
        payload.extend(attribute(libc::IFA_ADDRESS, &[10, 0, 0, 1]));
        assert_eq!(parse_address(&payload).unwrap().address, IpAddr::from([10, 0, 0, 1]));
        payload.extend(attribute(libc::IFA_LOCAL, &[10, 0, 0, 2]));
        assert_eq!(parse_address(&payload), Some(Address { index: 3, address: [10, 0, 0, 2].into() }));
    }

    #[test]
    fn what_is_cut_short_ends_the_reading() {
        let whole = attribute(1, &[1, 2, 3, 4, 5]);
        for length in 0..whole.len() {
            let found = attributes(&whole[..length]).count();
            assert_eq!(found, usize::from(length >= 9), "{length}");
            assert_eq!(messages(&whole[..length]).count(), 0);
            assert_eq!(parse_link(&whole[..length]), None);
            assert!(parse_address(&whole[..length]).is_none());
        }
        // A length of zero must not be read for ever.
        assert_eq!(attributes(&[0; 8]).count(), 0);
        assert_eq!(messages(&[0; 64]).count(), 0);
    }

    #[test]
    fn the_kernel_answers() {
        let mut netlink = Netlink::open().unwrap();
        let links = netlink.links().unwrap();
        let loopback = links.iter().find(|link| link.name == "lo").expect("every namespace has one");
        assert_eq!(netlink.link(loopback.index).unwrap().as_ref(), Some(loopback));
        assert_eq!(netlink.link(u32::MAX >> 1).unwrap(), None);
        netlink.addresses().unwrap();
        let own = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
        netlink.namespace_id(&own).unwrap();
        let file = std::fs::File::open("/proc/self/status").unwrap();
        assert!(netlink.namespace_id(&file).is_err());
    }
}
