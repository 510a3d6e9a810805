//! A scrape: asks the agent's loop for what only it knows, and waits no longer than a scraper would.
//!
//! However many ask, the loop is asked once a second at the most, and one question waits at a time. When it does not
//! answer in time, the text has what was known before, and `sluice_scrape_stale` says so.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, mpsc, oneshot};

use super::{Metrics, Snapshot};

/// How long the loop may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long an answer serves.
const FRESH: Duration = Duration::from_secs(1);

/// A question to the loop.
#[derive(Debug)]
pub struct SnapshotRequest(oneshot::Sender<Snapshot>);

impl SnapshotRequest {
    pub fn answer(self, snapshot: Snapshot) {
        // Who asked may have gone away.
        let _ = self.0.send(snapshot);
    }
}

/// Makes the text of a scrape. The clones of one are one.
#[derive(Clone, Debug)]
pub struct Scraper {
    metrics: Metrics,
    questions: mpsc::Sender<SnapshotRequest>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// A question that the loop has not answered yet.
    asked: Option<oneshot::Receiver<Snapshot>>,
    text: Option<(Instant, Arc<str>)>,
}

/// A scraper, and where the loop finds its questions.
pub fn scraper(metrics: Metrics) -> (Scraper, mpsc::Receiver<SnapshotRequest>) {
    let (questions, asked) = mpsc::channel(1);
    (Scraper { metrics, questions, state: Arc::default() }, asked)
}

impl Scraper {
    /// OpenMetrics.
    pub async fn text(&self) -> Arc<str> {
        // Others wait here and take what the first one found.
        let mut state = self.state.lock().await;
        if let Some((made, text)) = &state.text
            && made.elapsed() < FRESH
        {
            return Arc::clone(text);
        }
        let stale = match self.ask(&mut state).await {
            Some(snapshot) => {
                self.metrics.take(&snapshot);
                false
            }
            None => true,
        };
        let text: Arc<str> = self.metrics.encode(stale).into();
        state.text = Some((Instant::now(), Arc::clone(&text)));
        text
    }

    async fn ask(&self, state: &mut State) -> Option<Snapshot> {
        let mut answer = match state.asked.take() {
            Some(asked) => asked,
            None => {
                let (sender, receiver) = oneshot::channel();
                self.questions.try_send(SnapshotRequest(sender)).ok()?;
                receiver
            }
        };
        match tokio::time::timeout(PATIENCE, &mut answer).await {
            Ok(answer) => answer.ok(),
            Err(_) => {
                state.asked = Some(answer);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    fn value(text: &str, name: &str) -> String {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in:\n{text}")).to_owned()
    }

    #[test]
    fn many_scrapers_cost_the_loop_one_question() {
        block_on(async {
            let (scraper, mut questions) = scraper(Metrics::new());
            let answering = tokio::spawn(async move {
                let mut count = 0_u64;
                while let Ok(Some(question)) =
                    tokio::time::timeout(Duration::from_millis(500), questions.recv()).await
                {
                    count += 1;
                    question.answer(Snapshot { revision: 6 + count, ..Snapshot::default() });
                }
                count
            });
            let scrapes: Vec<_> = (0..50)
                .map(|_| {
                    let scraper = scraper.clone();
                    tokio::spawn(async move { scraper.text().await })
                })
                .collect();
            for scrape in scrapes {
                let text = scrape.await.unwrap();
                assert_eq!(value(&text, "sluice_policy_revision"), "7");
                assert_eq!(value(&text, "sluice_scrape_stale"), "0");
            }
            assert_eq!(answering.await.unwrap(), 1);
        });
    }

    #[test]
    fn a_loop_that_is_busy_is_waited_for_a_second_and_asked_once() {
        block_on(async {
            let (scraper, mut questions) = scraper(Metrics::new());
            let began = Instant::now();
            for _ in 0..2 {
                assert_eq!(value(&scraper.text().await, "sluice_scrape_stale"), "1");
                tokio::time::sleep(FRESH).await;
            }
            assert!(began.elapsed() >= 2 * PATIENCE && began.elapsed() < 4 * PATIENCE + PATIENCE);
            let question = questions.recv().await.unwrap();
            assert!(questions.try_recv().is_err(), "one question waits at a time");
            question.answer(Snapshot { revision: 3, ..Snapshot::default() });
            let text = scraper.text().await;
            assert_eq!(value(&text, "sluice_scrape_stale"), "0");
            assert_eq!(value(&text, "sluice_policy_revision"), "3");
            // The loop ends.
            drop(questions);
            tokio::time::sleep(FRESH).await;
            let text = scraper.text().await;
            assert_eq!(value(&text, "sluice_scrape_stale"), "1");
            assert_eq!(value(&text, "sluice_policy_revision"), "3", "what was known stays");
        });
    }
}
