//! Hanging the programs on an interface: tcx links where the kernel has them (Linux 6.6), else netlink filters on a
//! clsact qdisc with a priority and handle of our own, so that there is never a second one.
//!
//! Every attachment has a pin: a tcx link is its own, a filter has a pin of its program as a mark. Attachments outlive
//! the agent; the next one finds them by their pins and moves them to its programs in place.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use aya::programs::links::{FdLink, LinkOrder, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
    qdisc_detach_program,
};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};

use super::BpfError;
use super::pins::{Pins, failed};
use crate::endpoints::interface_name;

/// Ours on every clsact qdisc; low priorities are the ones that people pick by hand.
pub(super) const PRIORITY: u16 = 20_942;
pub(super) const HANDLE_NUMBER: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0, HANDLE_NUMBER);
/// How the mark of a filter differs from the pin of a link.
const FILTER_MARK: &str = "-filter";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum AttachMode {
    /// tcx where the kernel has it, else clsact.
    #[default]
    Auto,
    Tcx,
    Clsact,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// What the pod sends: tc ingress on the host end.
    FromPod,
    /// What the pod receives: tc egress on the host end.
    ToPod,
}

impl Hook {
    pub const BOTH: [Self; 2] = [Self::FromPod, Self::ToPod];

    pub const fn program(self) -> &'static str {
        match self {
            Self::FromPod => "from_pod",
            Self::ToPod => "to_pod",
        }
    }

    pub(super) const fn attach_type(self) -> TcAttachType {
        match self {
            Self::FromPod => TcAttachType::Ingress,
            Self::ToPod => TcAttachType::Egress,
        }
    }
}

/// An interface that carries our programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    pub name: String,
    /// The programs are this agent's, not those of one before.
    pub current: bool,
}

pub(super) fn attach(
    program: &mut SchedClassifier,
    pins: &Pins,
    mode: AttachMode,
    hook: Hook,
    ifindex: u32,
    name: &str,
) -> Result<(), BpfError> {
    let error = |cause: String| BpfError::Attach { name: name.to_owned(), ifindex, cause };
    let check_index = || match nix::net::if_::if_nametoindex(name) {
        Ok(index) if index == ifindex => Ok(()),
        Ok(index) => Err(error(format!("it has index {index} by now"))),
        Err(errno) => Err(error(errno.to_string())),
    };
    check_index()?;
    let mark = pins.filter_mark(hook, ifindex);
    if mode != AttachMode::Clsact {
        match attach_tcx(program, &pins.link(hook, ifindex), hook, name) {
            Ok(()) => {
                // The agent before may have run on a kernel, or with a setting, that gave it filters.
                detach_filter(&mark, hook, name)?;
                return check_index();
            }
            Err(e) if mode == AttachMode::Auto && is_unsupported(e.as_ref()) => {}
            Err(e) => return Err(error(e.to_string())),
        }
    }
    attach_filter(program, hook, name).map_err(|e| error(e.to_string()))?;
    set_mark(program, &mark)?;
    remove_pin(&pins.link(hook, ifindex))?;
    check_index()
}

/// A mark holds the program that it is a pin of, and with it all tables: one of a former agent gives way. There is one at any
/// moment, or nobody would find the filter again.
fn set_mark(program: &mut SchedClassifier, mark: &Path) -> Result<(), BpfError> {
    let mut next = mark.as_os_str().to_owned();
    next.push("-next");
    let next = Path::new(&next);
    remove_pin(next)?;
    program.pin(next).map_err(|e| failed("pinning", next, &e))?;
    std::fs::rename(next, mark).map_err(|e| failed("renaming", next, &e))
}

fn attach_tcx(
    program: &mut SchedClassifier,
    pin: &Path,
    hook: Hook,
    name: &str,
) -> Result<(), Box<dyn std::error::Error>> {
    if pin.exists() {
        let link = FdLink::from(PinnedLink::from_pin(pin)?);
        if let Ok(id) = program.attach_to_link(SchedClassifierLink::try_from(link)?) {
            // The pin keeps it; aya would detach it with the program.
            drop(FdLink::try_from(program.take_link(id)?)?);
            return Ok(());
        }
        // The interface that it was for is gone.
        std::fs::remove_file(pin)?;
    }
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = program.attach_with_options(name, hook.attach_type(), options)?;
    let link = FdLink::try_from(program.take_link(id)?)?;
    drop(link.pin(pin)?);
    Ok(())
}

/// What a kernel without tcx answers to `BPF_LINK_CREATE`.
fn is_unsupported(error: &(dyn std::error::Error + 'static)) -> bool {
    let Some(ProgramError::SyscallError(syscall)) = error.downcast_ref::<ProgramError>() else {
        return false;
    };
    matches!(syscall.io_error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP))
}

fn attach_filter(program: &mut SchedClassifier, hook: Hook, name: &str) -> Result<(), ProgramError> {
    if let Err(error) = qdisc_add_clsact(name)
        && !is_already_there(&error)
    {
        return Err(error.into());
    }
    let present = SchedClassifierLink::attached(name, hook.attach_type(), PRIORITY, HANDLE, None)
        .map_err(TcError::IoError)?;
    let id = match program.attach_to_link(present) {
        Ok(id) => id,
        // There is none to replace.
        Err(_) => {
            let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
            program.attach_with_options(name, hook.attach_type(), TcAttachOptions::Netlink(options))?
        }
    };
    // Dropping it would detach it, and enforcement must outlive the agent.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

fn is_already_there(error: &TcError) -> bool {
    let TcError::NetlinkError(error) = error else { return false };
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(e) = cause {
        if e.downcast_ref::<io::Error>().is_some_and(|io| io.raw_os_error() == Some(libc::EEXIST)) {
            return true;
        }
        cause = e.source();
    }
    error.to_string().contains("File exists")
}

/// Interfaces of this network namespace with attachments of an agent before. Pins of interfaces that are gone go too.
pub(super) fn adopt(pins: &Pins) -> Result<BTreeMap<u32, Attached>, BpfError> {
    let mut found = BTreeMap::new();
    for pin in pins.links()? {
        let Some(ifindex) = ifindex_of(&pin) else { continue };
        match interface_name(ifindex) {
            Some(name) => {
                found.insert(ifindex, Attached { name, current: false });
            }
            None => remove_pin(&pin)?,
        }
    }
    Ok(found)
}

pub(super) fn detach(pins: &Pins, ifindex: u32, name: &str) -> Result<(), BpfError> {
    for hook in Hook::BOTH {
        remove_pin(&pins.link(hook, ifindex))?;
        detach_filter(&pins.filter_mark(hook, ifindex), hook, name)?;
    }
    Ok(())
}

/// Takes our filter away where its mark says that there is one, and the qdisc where nothing else is on it.
fn detach_filter(mark: &Path, hook: Hook, name: &str) -> Result<(), BpfError> {
    if !mark.exists() {
        return Ok(());
    }
    match qdisc_detach_program(name, hook.attach_type(), hook.program()) {
        Ok(()) => {}
        // Gone with its interface, or taken away by somebody.
        Err(TcError::IoError(_)) => {}
        Err(error) => {
            return Err(BpfError::Attach { name: name.to_owned(), ifindex: 0, cause: error.to_string() });
        }
    }
    remove_pin(mark)?;
    super::qdisc::remove_if_empty(name);
    Ok(())
}

/// For `uninstall`: the filters that the marks below `links` name.
pub(super) fn detach_all(pins: &Pins) -> Result<Vec<String>, BpfError> {
    let mut done = Vec::new();
    for pin in pins.links()? {
        let interface = ifindex_of(&pin).and_then(interface_name);
        let text = pin.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if let Some(name) = &interface {
            for hook in Hook::BOTH {
                if text.ends_with(&format!("{}{FILTER_MARK}", hook.program())) {
                    detach_filter(&pin, hook, name)?;
                }
            }
        }
        remove_pin(&pin)?;
        done.push(format!("{text} ({})", interface.as_deref().unwrap_or("interface gone")));
    }
    Ok(done)
}

impl Pins {
    fn filter_mark(&self, hook: Hook, ifindex: u32) -> std::path::PathBuf {
        let mut path = self.link(hook, ifindex).into_os_string();
        path.push(FILTER_MARK);
        path.into()
    }
}

fn ifindex_of(pin: &Path) -> Option<u32> {
    pin.file_name()?.to_str()?.split('-').next()?.parse().ok()
}

fn remove_pin(path: &Path) -> Result<(), BpfError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("removing", path, &e)),
        _ => Ok(()),
    }
}
