//! The memory lock limit, to which Linux before 5.11 charges maps and programs. aya raises it where it may; where it may not, the
//! kernel's answer is "operation not permitted" and nothing more.

use std::fs;
use std::io;

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;
use aya::util::KernelVersion;

use super::BpfError;

/// Says what is behind a refusal that the limit explains; other errors stay as they are.
pub(super) fn explain(error: BpfError) -> BpfError {
    // From 5.11 on the memory is charged to the cgroup: there a refusal means something else.
    if !is_refusal(&error) || KernelVersion::current().is_ok_and(|own| own >= KernelVersion::new(5, 11, 0)) {
        return error;
    }
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    limit(&limits).map_or(error, |bytes| BpfError::MemoryLock { kib: bytes / 1024 })
}

fn is_refusal(error: &BpfError) -> bool {
    let cause: Option<&io::Error> = match error {
        BpfError::Load(EbpfError::MapError(MapError::CreateError { io_error, .. }))
        | BpfError::Program(ProgramError::LoadError { io_error, .. }) => Some(io_error),
        _ => None,
    };
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::PermissionDenied)
}

/// The soft limit in bytes; none where memory is not limited.
fn limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_read() {
        let limits = |value: &str| {
            format!("Max processes  1  2  processes\nMax locked memory  {value}  65536  bytes\n")
        };
        assert_eq!(limit(&limits("65536")), Some(65536));
        assert_eq!(limit(&limits("unlimited")), None);
        assert_eq!(limit(""), None);
    }

    #[test]
    fn only_a_refused_map_or_program_is_explained() {
        let create = |code| {
            let io_error = io::Error::from_raw_os_error(code);
            BpfError::Load(EbpfError::MapError(MapError::CreateError { name: "FLOWS".to_owned(), io_error }))
        };
        assert!(is_refusal(&create(libc::EPERM)));
        assert!(!is_refusal(&create(libc::ENOMEM)));
        assert!(!is_refusal(&BpfError::NoObject));
    }
}
