//! The system calls that the standard library has no safe form of.
#![expect(
    unsafe_code,
    reason = "setns, kill, signal handlers and TUN devices are only reachable through libc"
)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Moves the calling thread, and only it, into the network namespace that `namespace` is open on.
pub(crate) fn enter_network(namespace: &File) -> io::Result<()> {
    // SAFETY: setns takes no pointers, and the descriptor is open as long as `namespace` lives.
    let result = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends `signal` to the one process `pid`.
pub(crate) fn send_signal(pid: u32, signal: i32) -> io::Result<()> {
    // 0 and negative numbers name whole process groups: neither may come out of a conversion.
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    if pid == 0 {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: kill takes no pointers.
    let result = unsafe { libc::kill(pid, signal) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes a TUN device in the calling thread's network namespace. It goes when the file is closed.
pub(crate) fn open_tun(name: &str) -> io::Result<File> {
    let tun = File::options().read(true).write(true).open("/dev/net/tun")?;
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 },
    };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    // Packets as they are, without a header of the device's own.
    let flags = libc::IFF_TUN | libc::IFF_NO_PI;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which `request` is, and the descriptor is open as long as `tun` lives.
    let result = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result == 0 { Ok(tun) } else { Err(io::Error::last_os_error()) }
}

/// Whether the process runs as root.
pub(crate) fn is_root() -> bool {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Makes Ctrl-C, SIGTERM and SIGHUP set the flag that [`interrupted`] reads, so that a program can leave by the ordinary
/// way and its guards clean up.
pub fn catch_interrupts() -> io::Result<()> {
    extern "C" fn note(_signal: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    let handler = note as extern "C" fn(libc::c_int) as *const () as libc::sighandler_t;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler has the signature that signal() wants and does nothing but an atomic store.
        let previous = unsafe { libc::signal(signal, handler) };
        if previous == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Whether a signal came in since [`catch_interrupts`].
#[must_use]
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}
