//! Hanging the programs on an interface: tcx links where the kernel has them (Linux 6.6), else netlink filters on a
//! clsact qdisc with a priority and handle of our own, so that there is never a second one.
//!
//! Every attachment has a name among the pins: a tcx link is pinned there, a filter has an empty folder as a mark, and so
//! has a clsact qdisc that we made. Attachments outlive the agent; the next one finds them by their pins and moves them
//! to its programs in place. A mark is made before what it stands for, and goes after it: whatever moment an agent dies
//! in, the next one knows of all that may hang there.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, LinkOrder, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};

use super::BpfError;
use super::pins::{Pins, failed};
use super::qdisc::{Filters, HANDLE, PRIORITY};
use super::tcx;
use crate::endpoints::interface_name;

/// How the mark of a filter differs from the pin of a link.
const FILTER_MARK: &str = "-filter";
/// Of a qdisc that was not there before.
const QDISC_MARK: &str = "-clsact";
/// A link that is about to take the place of one that cannot be moved.
const NEXT: &str = "-next";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum AttachMode {
    /// tcx where the kernel has it, else clsact.
    #[default]
    Auto,
    Tcx,
    Clsact,
}

impl AttachMode {
    /// Decides for this kernel.
    pub(super) fn resolve(self) -> Result<Self, BpfError> {
        match (self, tcx::has_tcx()) {
            (Self::Clsact, _) | (Self::Auto, Ok(false)) => Ok(Self::Clsact),
            (Self::Tcx, Ok(false)) => Err(BpfError::NoTcx),
            // Where it cannot be asked, attaching will say why.
            (Self::Auto | Self::Tcx, _) => Ok(Self::Tcx),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

    const fn attach_type(self) -> TcAttachType {
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

/// What this agent hung on one hook.
#[derive(Debug)]
pub(super) struct Hold {
    /// The kernel's number of the program.
    pub(super) program: u32,
    pub(super) link: Option<Link>,
}

/// Open for as long as the agent runs: the link goes on although somebody removes its pin.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: u32,
    descriptor: OwnedFd,
}

/// A side of an interface.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) ifindex: u32,
    pub(super) name: &'a str,
    pub(super) hook: Hook,
}

impl Place<'_> {
    fn error(&self, cause: &dyn std::fmt::Display) -> BpfError {
        BpfError::Attach { name: self.name.to_owned(), ifindex: self.ifindex, cause: cause.to_string() }
    }

    fn check_index(&self) -> Result<(), BpfError> {
        match nix::net::if_::if_nametoindex(self.name) {
            Ok(index) if index == self.ifindex => Ok(()),
            Ok(index) => Err(self.error(&format!("it has index {index} by now"))),
            Err(errno) => Err(self.error(&errno)),
        }
    }
}

/// `mode` is one that `resolve` gave; `held` is what this agent hung there before.
pub(super) fn attach(
    program: &mut SchedClassifier,
    pins: &Pins,
    mode: AttachMode,
    place: Place<'_>,
    held: Option<&Hold>,
) -> Result<Hold, BpfError> {
    let Place { ifindex, hook, .. } = place;
    place.check_index()?;
    let own = program.info()?.id();
    let pin = pins.link(hook, ifindex);
    let link = if mode == AttachMode::Clsact {
        attach_filter(program, own, pins, place).map_err(|e| place.error(&e))?;
        // The agent before may have had a kernel, or a setting, that gave it links.
        remove_pin(&pin)?;
        None
    } else {
        let held = held.and_then(|held| held.link.as_ref());
        let link = attach_tcx(program, &pin, place, held).map_err(|e| place.error(&e))?;
        detach_filter(pins, place)?;
        Some(link)
    };
    place.check_index()?;
    Ok(Hold { program: own, link })
}

fn attach_tcx(
    program: &mut SchedClassifier,
    pin: &Path,
    place: Place<'_>,
    held: Option<&Link>,
) -> Result<Link, Box<dyn Error>> {
    if let Some(held) = held
        && !pin.exists()
    {
        create_folder_of(pin)?;
        tcx::pin(&held.descriptor, pin)?;
    }
    // Which does not go where the interface that the link was for is gone, or somebody detached it.
    let link = match pin.exists().then(|| move_link(program, pin)) {
        Some(Ok(link)) => link,
        _ => {
            // First of all: what is before us and ends the chain would pass what policy denies. Ours lets all others see
            // what it allows.
            let options = TcAttachOptions::TcxOrder(LinkOrder::first());
            let id = program.attach_with_options(place.name, place.hook.attach_type(), options)?;
            let link = FdLink::try_from(program.take_link(id)?)?;
            // In one step, or the link would go with an agent that dies between two.
            let next = suffixed(pin, NEXT);
            create_folder_of(pin)?;
            remove_pin(&next)?;
            let link = FdLink::from(link.pin(&next)?);
            std::fs::rename(&next, pin)?;
            link
        }
    };
    Ok(Link { id: link.info()?.id(), descriptor: tcx::open(pin)? })
}

/// Lets a pinned link run this program, where it is among the others.
fn move_link(program: &mut SchedClassifier, pin: &Path) -> Result<FdLink, Box<dyn Error>> {
    let link = FdLink::from(PinnedLink::from_pin(pin)?);
    let id = program.attach_to_link(SchedClassifierLink::try_from(link)?)?;
    Ok(FdLink::try_from(program.take_link(id)?)?)
}

fn attach_filter(
    program: &mut SchedClassifier,
    own: u32,
    pins: &Pins,
    place: Place<'_>,
) -> Result<(), Box<dyn Error>> {
    let Place { ifindex, name, hook } = place;
    let mut filters = Filters::open()?;
    make_mark(&pins.filter_mark(hook, ifindex))?;
    let made = pins.qdisc_mark(ifindex);
    match qdisc_add_clsact(name) {
        Ok(()) => make_mark(&made)?,
        Err(error) if is_already_there(&error) => {
            // Nothing of ours is on it: it may be another one than the one that we made.
            if filters.ours(ifindex, Hook::FromPod)?.is_none()
                && filters.ours(ifindex, Hook::ToPod)?.is_none()
            {
                remove_pin(&made)?;
            }
        }
        Err(error) => return Err(error.into()),
    }
    if put_filter(program, place).is_err() {
        // A filter of another kind has our priority: two kinds cannot share one.
        if filters.ours(ifindex, hook)?.is_none_or(|filter| filter.program != Some(own)) {
            filters.clear_priority(ifindex, hook)?;
        }
        put_filter(program, place)?;
    }
    match filters.ours(ifindex, hook)? {
        Some(filter) if filter.program == Some(own) => Ok(()),
        other => Err(format!("the kernel has {other:?} in the place of our filter").into()),
    }
}

/// Replaces the filter that has our place, or makes one.
fn put_filter(
    program: &mut SchedClassifier,
    Place { name, hook, .. }: Place<'_>,
) -> Result<(), ProgramError> {
    let handle = TcHandle::new(0, HANDLE);
    let present = SchedClassifierLink::attached(name, hook.attach_type(), PRIORITY, handle, None)
        .map_err(TcError::IoError)?;
    let id = match program.attach_to_link(present) {
        Ok(id) => id,
        // There is none to replace.
        Err(_) => {
            let options = NlOptions { priority: PRIORITY, handle, classid: None };
            program.attach_with_options(name, hook.attach_type(), TcAttachOptions::Netlink(options))?
        }
    };
    // Dropping it would detach it, and enforcement must outlive the agent.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

fn is_already_there(error: &TcError) -> bool {
    let TcError::NetlinkError(error) = error else { return false };
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
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
                // Its agent died before it could finish this step.
                if let Some(place) = pin.to_str().and_then(|text| text.strip_suffix(NEXT)) {
                    std::fs::rename(&pin, place).map_err(|e| failed("renaming", &pin, &e))?;
                }
            }
            None => remove_pin(&pin)?,
        }
    }
    Ok(found)
}

pub(super) fn detach(pins: &Pins, ifindex: u32, name: &str) -> Result<(), BpfError> {
    for hook in Hook::BOTH {
        remove_pin(&pins.link(hook, ifindex))?;
        detach_filter(pins, Place { ifindex, name, hook })?;
    }
    Ok(())
}

/// Takes our filter away where its mark says that there may be one, and after the last the qdisc, where we made it and
/// nothing else is on it.
fn detach_filter(pins: &Pins, place: Place<'_>) -> Result<(), BpfError> {
    let Place { ifindex, hook, .. } = place;
    let (mark, made) = (pins.filter_mark(hook, ifindex), pins.qdisc_mark(ifindex));
    if mark.exists() {
        let mut filters = Filters::open().map_err(|e| place.error(&e))?;
        let found = filters.ours(ifindex, hook).map_err(|e| place.error(&e))?;
        // Somebody may have put another one there.
        if found.is_some_and(|filter| filter.program.is_some() && filter.name == hook.program()) {
            filters.delete_ours(ifindex, hook).map_err(|e| place.error(&e))?;
        }
        remove_pin(&mark)?;
    }
    let others = Hook::BOTH.iter().any(|hook| pins.filter_mark(*hook, ifindex).exists());
    if made.exists() && !others {
        let mut filters = Filters::open().map_err(|e| place.error(&e))?;
        if !filters.delete_empty_qdisc(ifindex).map_err(|e| place.error(&e))? {
            tracing::debug!("the clsact qdisc of {} stays: something else is on it", place.name);
        }
        remove_pin(&made)?;
    }
    Ok(())
}

/// For `uninstall`: everything that the pins name.
pub(super) fn detach_all(pins: &Pins) -> Result<Vec<String>, BpfError> {
    let (all, mut done) = (pins.links()?, Vec::new());
    let interfaces: BTreeSet<u32> = all.iter().filter_map(|pin| ifindex_of(pin)).collect();
    for ifindex in interfaces {
        if let Some(name) = interface_name(ifindex) {
            detach(pins, ifindex, &name)?;
        }
    }
    for pin in all {
        let interface = ifindex_of(&pin).and_then(interface_name);
        let text = pin.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        remove_pin(&pin)?;
        done.push(format!("{text} ({})", interface.as_deref().unwrap_or("interface gone")));
    }
    Ok(done)
}

/// The name of a link's pin.
pub(super) fn link_pin(hook: Hook, ifindex: u32) -> String {
    format!("{ifindex}-{}", hook.program())
}

/// The name of a filter's mark.
pub(super) fn filter_mark(hook: Hook, ifindex: u32) -> String {
    link_pin(hook, ifindex) + FILTER_MARK
}

impl Pins {
    fn filter_mark(&self, hook: Hook, ifindex: u32) -> PathBuf {
        self.link(hook, ifindex).with_file_name(filter_mark(hook, ifindex))
    }

    fn qdisc_mark(&self, ifindex: u32) -> PathBuf {
        self.link(Hook::FromPod, ifindex).with_file_name(format!("{ifindex}{QDISC_MARK}"))
    }
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

fn ifindex_of(pin: &Path) -> Option<u32> {
    pin.file_name()?.to_str()?.split('-').next()?.parse().ok()
}

/// Somebody may have removed the whole folder.
fn create_folder_of(pin: &Path) -> io::Result<()> {
    pin.parent().map_or(Ok(()), std::fs::create_dir_all)
}

/// A folder: a pinned program would keep the tables of its agent alive.
fn make_mark(path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(path)
}

fn remove_pin(path: &Path) -> Result<(), BpfError> {
    let removed = match path.is_dir() {
        true => std::fs::remove_dir(path),
        false => std::fs::remove_file(path),
    };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("removing", path, &e)),
        _ => Ok(()),
    }
}
