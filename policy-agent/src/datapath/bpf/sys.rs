//! The bpf system call, for what aya has no words for.
#![expect(unsafe_code, reason = "this is the system call")]

use std::io;

/// # Safety
///
/// `attribute` is the part of `union bpf_attr` (include/uapi/linux/bpf.h) that `command` takes, and what it points to is as
/// the kernel expects it.
pub(super) unsafe fn bpf<T>(command: libc::c_int, attribute: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads and writes `size_of::<T>()` bytes of `attribute`, which is exclusively ours; the caller
    // answers for the rest.
    let answer =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attribute), size_of::<T>()) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}
