//! Looks, beside the loop, whether what the agent hung on the interfaces still hangs: somebody can take it off at any
//! time, and then the pod is open.
//!
//! The kernel announces filters and qdiscs that change, but nothing of tcx links: so all is looked at some times a second,
//! and after announcements at once.

use std::io;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::core::Core;
use crate::datapath::bpf::{Expected, Inspector, Lost};
use crate::endpoints::Announcements;

/// A loss is to be noticed and repaired within a second, also on a busy machine. A look at 110 endpoints takes less than
/// half a millisecond with tcx, and one and a half with filters.
const EVERY: Duration = Duration::from_millis(330);
/// What is lost is announced; what is not, a look finds.
const EVERY_BESIDES: Duration = Duration::from_millis(800);
/// Looks do not follow each other sooner: others change qdiscs all the time.
const BETWEEN: Duration = Duration::from_millis(50);

pub(super) struct Watch {
    /// Nobody has it but a look that is under way.
    inspector: Option<Inspector>,
    announcements: Option<Announcements>,
    looking: Option<JoinHandle<(Inspector, io::Result<Vec<Lost>>)>>,
    earliest: Instant,
    due: Instant,
    /// What went wrong with the last look, so that it is told once.
    problem: Option<String>,
}

impl Watch {
    pub(super) fn new(core: &Core) -> io::Result<Self> {
        let now = Instant::now();
        let announcements = match core.uses_filters() {
            true => Some(Announcements::of(&[libc::RTNLGRP_TC])?),
            false => None,
        };
        Ok(Self { inspector: None, announcements, looking: None, earliest: now, due: now, problem: None })
    }

    /// What the next look misses. Nothing is lost when it is dropped before it is done.
    pub(super) async fn next(&mut self, core: &Core) -> Vec<Lost> {
        loop {
            if let Some(looking) = &mut self.looking {
                let looked = looking.await;
                self.looking = None;
                let lost = match looked {
                    Ok((inspector, lost)) => {
                        self.inspector = Some(inspector);
                        lost
                    }
                    Err(error) => Err(io::Error::other(error)),
                };
                match lost {
                    Ok(lost) => {
                        self.problem = None;
                        if !lost.is_empty() {
                            return lost;
                        }
                    }
                    Err(error) => self.tell(&error),
                }
            }
            tokio::select! {
                () = sleep_until(self.due) => {}
                announced = next(self.announcements.as_ref()) => {
                    if let Err(error) = announced {
                        self.tell(&error);
                        // The socket is of no use any more; the clock is.
                        self.announcements = None;
                    }
                    self.due = self.due.min(self.earliest);
                    continue;
                }
            }
            let now = Instant::now();
            let pause = if self.announcements.is_some() { EVERY_BESIDES } else { EVERY };
            (self.due, self.earliest) = (now + pause, now + BETWEEN);
            let expected: Vec<Expected> = core.expected().collect();
            if !expected.is_empty() {
                let mut inspector = self.inspector.take().unwrap_or_else(|| core.inspector());
                self.looking = Some(tokio::task::spawn_blocking(move || {
                    let lost = inspector.look(&expected);
                    (inspector, lost)
                }));
            }
        }
    }

    fn tell(&mut self, error: &io::Error) {
        let problem = format!("looking whether the programs still hang on their interfaces: {error}");
        if self.problem.as_ref() != Some(&problem) {
            tracing::error!("{problem}");
        }
        self.problem = Some(problem);
    }
}

async fn next(announcements: Option<&Announcements>) -> io::Result<()> {
    match announcements {
        Some(announcements) => announcements.next().await,
        None => std::future::pending().await,
    }
}
