//! What hangs on an interface by tcx, asked of the kernel in one call (aya takes ten for each hook, and does not tell the
//! links), and pins of links that aya would close when they cannot be made.
#![expect(unsafe_code, reason = "these are system calls")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::attach::Hook;
use super::sys::bpf;

/// `BPF_OBJ_PIN` and `BPF_OBJ_GET` of include/uapi/linux/bpf.h.
const OBJ_PIN: libc::c_int = 6;
const OBJ_GET: libc::c_int = 7;
/// `BPF_PROG_QUERY`, `BPF_TCX_INGRESS` and `BPF_TCX_EGRESS` of include/uapi/linux/bpf.h.
const PROG_QUERY: libc::c_int = 16;
const TCX_INGRESS: u32 = 46;
const TCX_EGRESS: u32 = 47;
/// `BPF_MPROG_MAX`: as many as can hang on one hook.
const MOST: u32 = 64;

/// The part of `union bpf_attr` for `BPF_PROG_QUERY`.
#[repr(C)]
#[derive(Default)]
struct Query {
    ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    program_ids: u64,
    count: u32,
    padding: u32,
    program_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// A program on a hook, and its link; 0 where it hangs without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hanging {
    pub(super) program: u32,
    pub(super) link: u32,
}

/// In the order in which they run.
pub(super) fn hanging(ifindex: u32, hook: Hook) -> io::Result<Vec<Hanging>> {
    let (mut programs, mut links) = ([0_u32; MOST as usize], [0_u32; MOST as usize]);
    let mut query = Query {
        ifindex,
        attach_type: attach_type(hook),
        program_ids: programs.as_mut_ptr() as u64,
        link_ids: links.as_mut_ptr() as u64,
        count: MOST,
        ..Query::default()
    };
    match call(&mut query) {
        Ok(()) => {}
        // What kernels before 6.6.5 say of a hook on which nothing ever hung.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    }
    let pairs = programs.into_iter().zip(links).take(query.count as usize);
    Ok(pairs.map(|(program, link)| Hanging { program, link }).collect())
}

/// Whether the kernel has tcx: from Linux 6.6 on.
pub fn has_tcx() -> io::Result<bool> {
    // Of the loopback interface, which has index 1 in every network namespace.
    let mut query = Query { ifindex: 1, attach_type: TCX_INGRESS, ..Query::default() };
    match call(&mut query) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(true),
        answer => answer.map(|()| true),
    }
}

/// The part of `union bpf_attr` for `BPF_OBJ_PIN` and `BPF_OBJ_GET`.
#[repr(C)]
#[derive(Default)]
struct Object {
    path: u64,
    descriptor: u32,
    flags: u32,
}

/// Pins what is open already.
pub(super) fn pin(object: &OwnedFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let descriptor = u32::try_from(object.as_raw_fd()).map_err(io::Error::other)?;
    let mut attribute = Object { path: path.as_ptr() as u64, descriptor, flags: 0 };
    // SAFETY: the kernel reads the attribute and the path, which ends with a zero byte and lives until then.
    unsafe { bpf(OBJ_PIN, &mut attribute) }.map(drop)
}

/// Opens what is pinned: it stays alive although somebody removes the pin.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attribute = Object { path: path.as_ptr() as u64, ..Object::default() };
    // SAFETY: as in `pin`.
    let descriptor = unsafe { bpf(OBJ_GET, &mut attribute) }?;
    let descriptor = RawFd::try_from(descriptor).map_err(io::Error::other)?;
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

const fn attach_type(hook: Hook) -> u32 {
    match hook {
        Hook::FromPod => TCX_INGRESS,
        Hook::ToPod => TCX_EGRESS,
    }
}

fn call(query: &mut Query) -> io::Result<()> {
    // SAFETY: the kernel writes at most `count` numbers to each array that `query` points to: `hanging` keeps both alive
    // and says how long they are, and `has_tcx` says that there are none.
    unsafe { bpf(PROG_QUERY, query) }.map(drop)
}
