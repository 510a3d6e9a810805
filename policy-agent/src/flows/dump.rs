//! A netlink dump, from the request to the last message.

use std::io;

use rtnetlink::packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use rtnetlink::sys::{Socket, SocketAddr};

/// Twice what the kernel puts into one datagram of a dump.
const BUFFER: usize = 1 << 16;

/// Messages that couldn't be read. One that a newer kernel words differently must not hide the others.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unread {
    pub(super) count: usize,
    /// What was wrong with the first of them.
    pub(super) first: String,
}

impl Unread {
    pub(super) fn add(&mut self, reason: impl ToString) {
        if self.count == 0 {
            self.first = reason.to_string();
        }
        self.count += 1;
    }
}

/// Asks for a dump over a socket of the given netlink protocol in the calling thread's namespace, and calls `each` with what
/// comes; it says why a message makes no sense.
pub(super) fn dump<M>(
    protocol: isize,
    request: M,
    mut each: impl FnMut(M) -> Result<(), String>,
) -> io::Result<Unread>
where
    M: NetlinkSerializable + NetlinkDeserializable,
    NetlinkPayload<M>: From<M>,
{
    let socket = Socket::new(protocol)?;
    // The kernel goes on with a dump before `recv` looks for a datagram: where none is there, none comes. An error is
    // better than a thread that waits for ever.
    socket.set_non_blocking(true)?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;

    let mut unread = Unread::default();
    let mut buffer = Vec::with_capacity(BUFFER);
    loop {
        buffer.clear();
        let (length, sender) = socket.recv_from(&mut buffer, libc::MSG_TRUNC)?;
        if length > buffer.len() {
            return Err(io::Error::other("a netlink message is larger than the buffer"));
        }
        // Only the kernel has port 0.
        if sender.port_number() == 0 && read_datagram(&buffer, &mut unread, &mut each)? {
            return Ok(unread);
        }
    }
}

/// Reads the messages of one datagram; says whether the dump ended with it.
fn read_datagram<M: NetlinkDeserializable>(
    mut bytes: &[u8],
    unread: &mut Unread,
    each: &mut impl FnMut(M) -> Result<(), String>,
) -> io::Result<bool> {
    while !bytes.is_empty() {
        let length = match NetlinkBuffer::new_checked(bytes) {
            Ok(framed) => usize::try_from(framed.length()).map_err(io::Error::other)?,
            Err(error) => return Err(io::Error::other(error)),
        };
        match NetlinkMessage::<M>::deserialize(bytes).map(|message| message.payload) {
            Ok(NetlinkPayload::InnerMessage(message)) => {
                if let Err(reason) = each(message) {
                    unread.add(reason);
                }
            }
            Ok(NetlinkPayload::Done(done)) if done.code < 0 => {
                return Err(io::Error::from_raw_os_error(-done.code));
            }
            Ok(NetlinkPayload::Done(_)) => return Ok(true),
            Ok(NetlinkPayload::Error(error)) => return Err(error.to_io()),
            Ok(NetlinkPayload::Overrun(_)) => return Err(io::Error::other("the kernel lost messages")),
            Ok(_) => {}
            Err(error) => unread.add(error),
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use netlink_packet_netfilter::{
        NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily, NetfilterSubsystem,
    };
    use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
    use netlink_packet_sock_diag::message::SockDiagMessage;
    use rtnetlink::sys::protocols::{NETLINK_NETFILTER, NETLINK_SOCK_DIAG};

    use super::*;

    fn read(bytes: &[u8]) -> io::Result<(bool, usize)> {
        let mut unread = Unread::default();
        let ended = read_datagram(bytes, &mut unread, &mut |_: NetfilterMessage| Ok(()))?;
        Ok((ended, unread.count))
    }

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(16 + payload.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn a_dump_ends_with_done_and_fails_with_an_error() {
        const ERROR: u16 = 2;
        const DONE: u16 = 3;
        assert_eq!(read(&message(DONE, &[0; 4])).unwrap(), (true, 0));
        assert_eq!(read(&message(DONE, &[])).unwrap(), (true, 0));
        for kind in [ERROR, DONE] {
            let mut payload = (-libc::EPERM).to_ne_bytes().to_vec();
            payload.extend([0; 16]);
            let error = read(&message(kind, &payload)).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        }
    }

    #[test]
    fn a_message_that_makes_no_sense_does_not_hide_the_next() {
        // An entry whose only attribute claims to be longer than the message.
        let mut bytes = message(0x100, &[2, 0, 0, 0, 0xff, 0xff, 1, 0]);
        bytes.extend(message(3, &[0; 4]));
        assert_eq!(read(&bytes).unwrap(), (true, 1));
    }

    #[test]
    fn broken_framing_is_an_error_and_no_endless_loop() {
        for bytes in [&[0; 16][..], &[0xff; 16], &[1, 2, 3]] {
            assert!(read(bytes).is_err(), "{bytes:?}");
        }
    }

    /// The codes by which callers know that a source isn't there.
    #[test]
    fn the_kernel_says_what_it_does_not_have() {
        let request = NetfilterMessage::new(
            NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0),
            NetfilterMessageInner::Other {
                subsys: NetfilterSubsystem::Other(200),
                message_type: 1,
                attributes: Vec::new(),
            },
        );
        let error = dump(NETLINK_NETFILTER, request, |_| Ok(())).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        let request = SockDiagMessage::InetRequest(InetRequest {
            family: 2,
            protocol: 200,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::all(),
            socket_id: SocketId::new_v4(),
        });
        let error = dump(NETLINK_SOCK_DIAG, request, |_| Ok(())).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }
}
