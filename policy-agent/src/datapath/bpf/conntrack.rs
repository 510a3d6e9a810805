//! Where the programs find what the node's connection tracking knows of a packet.

use std::fs;

use super::btf::Btf;

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
/// The kernel's own lists, one of them in brackets.
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";

/// Offsets in structures of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// `_nfct` in `struct sk_buff`.
    pub(super) nfct: u32,
    /// `tuplehash` in `struct nf_conn`.
    pub(super) tuples: u32,
}

impl Layout {
    /// Where the kernel's BTF leaves out what is in modules: behind four numbers of four bytes, since Linux 4.9. What does not
    /// look like the packet's connection there, the program leaves alone.
    const TUPLES: u32 = 16;

    /// That of the running kernel, or why there is none.
    pub(super) fn find() -> Result<Self, String> {
        if fs::read_to_string(LOCKDOWN).is_ok_and(|modes| modes.contains("[confidentiality]")) {
            return Err("the kernel is locked down for confidentiality".to_owned());
        }
        let data = fs::read(VMLINUX).map_err(|error| format!("reading {VMLINUX}: {error}"))?;
        let btf = Btf::parse(&data).ok_or_else(|| format!("{VMLINUX} cannot be read: unknown BTF"))?;
        let nfct = btf
            .offset_of("sk_buff", "_nfct")
            .filter(|offset| *offset > 0)
            .ok_or("this kernel was built without connection tracking")?;
        Ok(Self { nfct, tuples: btf.offset_of("nf_conn", "tuplehash").unwrap_or(Self::TUPLES) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernel_tells_both() {
        let layout = Layout::find().unwrap();
        assert_eq!(layout.tuples, Layout::TUPLES);
        assert!(layout.nfct > 0 && layout.nfct.is_multiple_of(8) && layout.nfct < 512, "{layout:?}");
    }
}
