//! Reading whole arrays with a few system calls: aya reads element by element, and knows value sizes at compile time
//! alone. `BPF_MAP_LOOKUP_BATCH` is as old as Linux 5.6 (kernel commit c60f2d286115).
#![expect(unsafe_code, reason = "aya has no batch operations")]

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::path::Path;

use aya::maps::MapData;

use super::BpfError;
use super::pins::failed;
use super::sys::bpf;

/// include/uapi/linux/bpf.h.
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
/// Elements of one call; the kernel copies them one by one anyway.
const CHUNK: u32 = 16_384;

/// The `batch` member of `union bpf_attr`.
#[repr(C)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// The values of a pinned array, as [`read_array`] has them.
pub(super) fn read_pinned(path: &Path, flags: u64) -> Result<Vec<u8>, BpfError> {
    let map = MapData::from_pin(path)?;
    let info = map.info()?;
    read_array(map.fd().as_fd(), info.value_size() as usize, info.max_entries(), flags)
        .map_err(|e| failed("reading", path, &e))
}

/// The values of an array with `entries` of them, each of `value_size` bytes, one after the other. With
/// `BPF_F_LOCK` among the flags each value is read under its spin lock.
fn read_array(map: BorrowedFd<'_>, value_size: usize, entries: u32, flags: u64) -> io::Result<Vec<u8>> {
    let mut values = Vec::with_capacity(entries as usize * value_size);
    // Where the last call came to, in and out: an index, for an array.
    let (mut begin, mut end) = (0_u32, 0_u32);
    let mut read = 0;
    while read < entries {
        let wanted = CHUNK.min(entries - read);
        let mut keys = vec![0_u32; wanted as usize];
        let mut chunk = vec![0_u8; wanted as usize * value_size];
        let mut attributes = Attributes {
            in_batch: if read == 0 { 0 } else { (&raw const begin).addr() as u64 },
            out_batch: (&raw mut end).addr() as u64,
            keys: keys.as_mut_ptr().addr() as u64,
            values: chunk.as_mut_ptr().addr() as u64,
            count: wanted,
            map_fd: map.as_raw_fd().cast_unsigned(),
            elem_flags: flags,
            flags: 0,
        };
        // SAFETY: the kernel writes at most `count` keys of four bytes and values of `value_size` bytes, for which there is
        // room, and one key to `out_batch`; all of it outlives the call.
        let is_last = match unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attributes) } {
            Ok(_) => false,
            // That was the end of the map.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) => return Err(error),
        };
        chunk.truncate(attributes.count as usize * value_size);
        values.append(&mut chunk);
        read += attributes.count;
        begin = end;
        if attributes.count == 0 || is_last {
            break;
        }
    }
    if values.len() != entries as usize * value_size {
        return Err(io::Error::other(format!("{read} of {entries} elements could be read")));
    }
    Ok(values)
}
