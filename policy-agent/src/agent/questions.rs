//! What clients of the control socket ask. Those that have asked by now share what costs time: reading the folder, dumping
//! the flow table.

use tokio::sync::mpsc;

use super::cni::Waiting;
use super::control::{Answer, Question, Reply, Request};
use super::core::{Core, Look};
use super::tell;

/// How often those that are asking are let finish their question.
const ROUNDS: u32 = 4;

/// Answers `first` and all that wait with it. Whether the agent is told to stop.
pub(super) async fn answer(
    first: Question,
    waiting: &mut mpsc::Receiver<Question>,
    core: &mut Core,
    plugin: &mut Waiting,
) -> bool {
    let mut questions = vec![first];
    for _ in 0..ROUNDS {
        while let Ok(next) = waiting.try_recv() {
            questions.push(next);
        }
        // Clients are heard on this thread.
        tokio::task::yield_now().await;
    }
    let (mut synced, mut flows) = (false, None);
    for Question { request, answer } in questions {
        let stop = matches!(request, Request::Shutdown);
        let reply = match request {
            Request::Cni(request) => {
                plugin.take(core, request, answer);
                continue;
            }
            Request::Flows => {
                let flows = flows.get_or_insert_with(|| core.flows()).clone();
                Reply { flows, ..Reply::of(core.status()) }
            }
            Request::Sync if !synced => {
                tell(&core.input.read());
                core.reconcile(Look::AtInterfaces(None), None);
                synced = true;
                Reply::of(core.status())
            }
            Request::Status => Reply::of(&core.whole_status()),
            // A change of level is answered where it was read; it never comes here.
            Request::Sync | Request::LogLevel { .. } | Request::Shutdown => Reply::of(core.status()),
        };
        // Who asked may have gone away: then nobody needs the answer.
        let _ = answer.send(Answer::Agent(reply));
        if stop {
            return true;
        }
    }
    false
}
