//! Programs of somebody else, which do nothing; the kernel counts how often they run.

use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result};
use aya::programs::tc::{NlOptions, TcAttachOptions, TcHandle};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use aya::sys::{Stats, enable_stats};
use policy_agent::datapath::bpf::{AttachMode, BpfDatapath};
use policy_agent::plan::Capacity;
use sluice_netns::Netns;
use sluice_tests::kernel::Bpffs;

#[derive(Debug)]
pub(crate) struct Foreign {
    datapath: BpfDatapath,
    _pins: Bpffs,
}

impl Foreign {
    pub(crate) fn load(name: &str) -> Result<Self> {
        let pins = Bpffs::new(
            &format!("attachments-{name}-{:?}", std::thread::current().id()).replace(['(', ')'], ""),
        );
        let capacity = Capacity {
            words: 64,
            rows: 64,
            endpoints: 16,
            peers: 16,
            cidrs: 16,
            sources: 16,
            services: 64,
            backends: 256,
            flow_sets: 16,
            index_blocks: 16,
        };
        let datapath = BpfDatapath::load(pins.path(), &capacity, AttachMode::Auto)?;
        Ok(Self { datapath, _pins: pins })
    }

    pub(crate) fn program(&mut self) -> Result<&mut SchedClassifier> {
        Ok(self.datapath.program("no_op")?)
    }

    pub(crate) fn id(&mut self) -> Result<u32> {
        Ok(self.program()?.info()?.id())
    }

    /// How often it has run since [`counting`].
    pub(crate) fn runs(&mut self) -> Result<u64> {
        Ok(self.program()?.info()?.run_count())
    }

    /// By tcx; goes with this value.
    pub(crate) fn tcx(name: &str, node: &Netns, interface: &str, order: LinkOrder) -> Result<Self> {
        let mut foreign = Self::load(name)?;
        let program = foreign.program()?;
        node.run(|| {
            program.attach_with_options(interface, TcAttachType::Egress, TcAttachOptions::TcxOrder(order))
        })??;
        Ok(foreign)
    }

    /// As a filter on a clsact qdisc; goes with its interface.
    pub(crate) fn filter(name: &str, node: &Netns, interface: &str, priority: u16) -> Result<Self> {
        let mut foreign = Self::load(name)?;
        let program = foreign.program()?;
        let options = NlOptions { priority, handle: TcHandle::new(0, 1), classid: None };
        node.run(|| {
            let options = TcAttachOptions::Netlink(options);
            let link = program.attach_with_options(interface, TcAttachType::Egress, options)?;
            // Dropping it would look for it in another namespace.
            std::mem::forget(program.take_link(link)?);
            anyhow::Ok(())
        })??;
        Ok(foreign)
    }
}

/// The kernel counts for as long as this lives.
pub(crate) fn counting() -> Result<OwnedFd> {
    enable_stats(Stats::RunTime).context("BPF_ENABLE_STATS")
}
