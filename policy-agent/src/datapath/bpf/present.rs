//! Whether the programs still hang where they were hung: somebody else may have taken them off.

use aya::programs::SchedClassifier;

use super::BpfError;
use super::attach::{HANDLE_NUMBER, Hook, PRIORITY};
use super::pins::{Pins, failed};
use super::qdisc::has_filter;
use crate::endpoints::interface_name;

/// What the kernel says, whatever the pins do.
pub(super) fn is_present(
    program: &SchedClassifier,
    pins: &Pins,
    hook: Hook,
    ifindex: u32,
    name: &str,
) -> Result<bool, BpfError> {
    if interface_name(ifindex).as_deref() != Some(name) {
        return Ok(false);
    }
    let pin = pins.link(hook, ifindex);
    if !pin.exists() {
        return Ok(has_filter(name, hook == Hook::FromPod, PRIORITY, HANDLE_NUMBER));
    }
    let asking = |error| failed("asking the kernel about", &pin, &error);
    let own = program.info().map_err(asking)?.id();
    let (_, hanging) = SchedClassifier::query_tcx(name, hook.attach_type()).map_err(asking)?;
    Ok(hanging.iter().any(|program| program.id() == own))
}
