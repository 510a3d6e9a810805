//! The network plugin's questions: a pod's network is ready, is its policy in force?
//!
//! ADD is answered when it is, or when time is up; until then the pod is closed (SEMANTICS row 42).

use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::control::Answer;
use super::core::standing::Standing;
use super::core::{Core, Look};
use super::overlay;
use crate::cni::protocol::{Attachment, AttachmentId, CniReply, CniRequest, Unready};
use crate::cni::{Entry, Installer};
use crate::config::{Fallback, RunOptions};
use crate::metrics::{Metrics, Outcome};
use crate::model::ObjectName;

/// The runtime gives up on a sandbox after minutes; a plugin that asks for longer waits for nothing.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Pending {
    attachment: Attachment,
    unready: Unready,
    since: Instant,
    deadline: Instant,
    answer: oneshot::Sender<Answer>,
}

/// ADDs that have not been answered.
#[derive(Debug)]
pub(super) struct Waiting {
    pending: Vec<Pending>,
    metrics: Metrics,
}

impl Waiting {
    pub(super) const fn new(metrics: Metrics) -> Self {
        Self { pending: Vec::new(), metrics }
    }

    pub(super) fn take(&mut self, core: &mut Core, request: CniRequest, answer: oneshot::Sender<Answer>) {
        let started = Instant::now();
        let command = command(&request);
        let reply = match request {
            CniRequest::Add { attachment, timeout_ms, unready } => {
                let since = started;
                let deadline = since + Duration::from_millis(timeout_ms).min(LONGEST_WAIT);
                core.overlay.announce(attachment.clone());
                core.reconcile(Look::AtInterfaces(None), None);
                self.pending.push(Pending { attachment, unready, since, deadline, answer });
                return;
            }
            CniRequest::Check(attachment) => match core.verified(&attachment) {
                Standing::Enforced => {
                    CniReply::Enforced { generation: core.status().generation, waited_ms: 0 }
                }
                Standing::Unknown(reason) if core.overlay.is_open(&overlay::id(&attachment)) => {
                    CniReply::Open { reason }
                }
                Standing::Unknown(reason) => CniReply::Closed { reason },
                Standing::Failed(reason) => {
                    // Puts back what was taken off.
                    core.reconcile(Look::AtInterfaces(None), None);
                    CniReply::Missing { reason }
                }
            },
            CniRequest::Delete(id) => {
                core.overlay.forget(&id);
                core.reconcile(Look::AtInterfaces(None), None);
                CniReply::Done
            }
            CniRequest::Gc { valid } => {
                core.overlay.retain(&valid.into_iter().collect());
                core.reconcile(Look::AtInterfaces(None), None);
                CniReply::Done
            }
            CniRequest::Ready => match core.unready() {
                None => CniReply::Ready,
                Some(reason) => CniReply::NotReady { reason },
            },
        };
        self.send(command, reply, started, answer);
    }

    fn send(&self, command: &'static str, reply: CniReply, since: Instant, answer: oneshot::Sender<Answer>) {
        let outcome = match reply {
            CniReply::Enforced { .. } | CniReply::Done | CniReply::Ready => Outcome::Success,
            CniReply::Closed { .. }
            | CniReply::Open { .. }
            | CniReply::Missing { .. }
            | CniReply::NotReady { .. } => Outcome::Failure,
        };
        self.metrics.cni_request(command, outcome, since.elapsed());
        // A plugin that has gone away was told so by its runtime: it will ask again.
        let _ = answer.send(Answer::Cni(reply));
    }

    /// Answers those whose policy is in force.
    pub(super) fn answer(&mut self, core: &Core) {
        let generation = core.status().generation;
        let is_done = |pending: &mut Pending| core.standing(&pending.attachment) == Standing::Enforced;
        let done: Vec<Pending> = self.pending.extract_if(.., is_done).collect();
        for done in done {
            let waited_ms = u64::try_from(done.since.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.send("ADD", CniReply::Enforced { generation, waited_ms }, done.since, done.answer);
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.pending.iter().map(|pending| pending.deadline).min()
    }

    /// Time is up for some.
    pub(super) fn expire(&mut self, core: &mut Core) {
        self.answer(core);
        let now = Instant::now();
        let late: Vec<Pending> = self.pending.extract_if(.., |pending| pending.deadline <= now).collect();
        for Pending { attachment, unready, since, answer, .. } in late {
            let reply = match (core.unready(), core.standing(&attachment)) {
                (Some(reason), _) => CniReply::NotReady { reason },
                (None, Standing::Unknown(reason)) => unknown(core, overlay::id(&attachment), unready, reason),
                (None, Standing::Failed(reason)) => CniReply::Missing { reason },
                (None, Standing::Enforced) => {
                    CniReply::Enforced { generation: core.status().generation, waited_ms: 0 }
                }
            };
            tracing::warn!(
                "pod {}: its policy was not in force in time: {}",
                ObjectName::from(attachment.pod),
                serde_json::to_string(&reply).unwrap_or_default()
            );
            self.send("ADD", reply, since, answer);
        }
    }
}

fn unknown(core: &mut Core, id: AttachmentId, unready: Unready, reason: String) -> CniReply {
    match unready {
        Unready::Closed => CniReply::Closed { reason },
        Unready::Open => {
            core.overlay.open(id);
            core.reconcile(Look::AtInterfaces(None), None);
            CniReply::Open { reason }
        }
    }
}

const fn command(request: &CniRequest) -> &'static str {
    match request {
        CniRequest::Add { .. } => "ADD",
        CniRequest::Check(_) => "CHECK",
        CniRequest::Delete(_) => "DEL",
        CniRequest::Gc { .. } => "GC",
        CniRequest::Ready => "STATUS",
    }
}

/// Puts the plugin's entry back whenever the network's owner writes its configuration anew.
pub(super) fn keep_installed(options: &RunOptions) -> JoinHandle<()> {
    let entry = Entry {
        socket: options.operation.socket.socket.clone(),
        timeout: options.cni.cni_timeout,
        unready: match options.cni.cni_unready {
            Fallback::Closed => Unready::Closed,
            Fallback::Open => Unready::Open,
        },
    };
    let (conf_dir, bin_dir) = (options.cni.cni_conf_dir.clone(), options.cni.cni_bin_dir.clone());
    tokio::spawn(crate::cni::keep_installed(Installer { conf_dir, bin_dir, entry }))
}
