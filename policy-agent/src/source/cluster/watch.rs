//! One kind's list and watch, for ever: a list, then what changes from its version on, and a list again only where the
//! server no longer has that version.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use kube::Client;
use kube::runtime::utils::Backoff as _;
use kube::runtime::watcher::DefaultBackoff;
use tokio::sync::mpsc;

use super::super::fault::Problem;
use super::super::object::Kind;
use super::decode;
use super::event::{Event, Version};
use super::stats::{EventType, KindStats, Relist, WatchStats};
use super::wire::{Bookmark, Failure, Line, Lines, Page, resource};

/// A stream that lived this long was no attempt that failed.
const STABLE: Duration = Duration::from_secs(10);
/// A server that forgets again within this time is short of memory.
const FORGETFUL: Duration = Duration::from_secs(60);
/// As many streams that ended at once are trouble.
const STORM: u32 = 3;
/// What a server may be late with the end of a watch.
const LATE: Duration = Duration::from_secs(15);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// A watch is opened anew after this long, or up to a quarter more; a connection that died silently is found then.
    pub watch: Duration,
    /// How long an answer may take.
    pub answer: Duration,
    /// How long a streaming list may pause before it counts as one that the server does not know.
    pub streaming: Duration,
    /// Objects on one page of a list.
    pub page: u32,
}

impl Default for Timing {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { watch: seconds(240), answer: seconds(60), streaming: seconds(10), page: 500 }
    }
}

pub(super) struct Watch {
    pub(super) client: Client,
    pub(super) kind: Kind,
    pub(super) timing: Timing,
    pub(super) stats: Arc<WatchStats>,
    /// Full while the agent is slower than the server; then we don't read, and the server waits.
    pub(super) events: mpsc::Sender<(Instant, Event)>,
    /// The server does not stream lists.
    pub(super) pages_only: Arc<AtomicBool>,
}

/// Why nothing more comes.
enum Stop {
    /// Nobody listens any more.
    Closed,
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// From where the watch goes on, and its stream where that is open already.
struct Position {
    version: Version,
    lines: Option<Lines>,
}

/// What one line says.
enum Step {
    Object(Event, Version),
    Bookmark(Version, bool),
    End,
}

/// What is to be known between attempts.
struct Attempts {
    backoff: DefaultBackoff,
    told: Option<Problem>,
    short_streams: u32,
    last_gone: Option<Instant>,
}

impl Watch {
    pub(super) async fn run(self) {
        let mut attempts =
            Attempts { backoff: DefaultBackoff::default(), told: None, short_streams: 0, last_gone: None };
        let mut because = Relist::Start;
        loop {
            let stop = match self.list(because, &mut attempts).await {
                Ok(position) => match self.follow(position, &mut attempts).await {
                    Ok(failure) => {
                        tracing::info!(kind = self.kind.name(), %failure, "everything must be listed again");
                        because = Relist::Gone;
                        self.stats().errors.fetch_add(1, Relaxed);
                        // A server that forgets at once what it has just listed gets time too. What was waited for
                        // before it could be reached again says nothing about that.
                        let before = attempts.last_gone.replace(Instant::now());
                        if before.is_none_or(|before| before.elapsed() > FORGETFUL) {
                            attempts.backoff.reset();
                        }
                        wait(attempts.backoff.next(), &failure).await;
                        continue;
                    }
                    Err(stop) => stop,
                },
                Err(stop) => stop,
            };
            match stop {
                Stop::Closed => return,
                Stop::Failed(failure) => {
                    because = Relist::Broken;
                    if self.failed("list", failure, &mut attempts).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn stats(&self) -> &KindStats {
        self.stats.kind(self.kind)
    }

    async fn send(&self, event: Event) -> Result<(), Stop> {
        self.events.send((Instant::now(), event)).await.map_err(|_| Stop::Closed)
    }

    async fn list(&self, because: Relist, attempts: &mut Attempts) -> Result<Position, Stop> {
        let began = Instant::now();
        self.stats().listing(because);
        let mut refusal = None;
        let mut streamed = None;
        if !self.pages_only.load(Relaxed) {
            match self.streaming_list().await {
                Ok(position) => streamed = Some(position),
                Err(Stop::Failed(failure)) if failure.is_invalid() => refusal = Some(failure),
                Err(stop) => return Err(stop),
            }
        }
        let how = if streamed.is_some() { "streamed" } else { "paged" };
        let (position, count) = match streamed {
            Some(streamed) => streamed,
            None => {
                if refusal.is_some() {
                    self.stats().listing(Relist::NoStreaming);
                }
                self.paged_list().await?
            }
        };
        if let Some(failure) = refusal
            && !self.pages_only.swap(true, Relaxed)
        {
            tracing::info!(%failure, "the API server does not stream lists: they are read in pages");
        }
        self.stats().listed();
        self.well(attempts).await?;
        self.send(Event::InitDone(self.kind)).await?;
        let seconds = began.elapsed().as_secs_f64();
        let kind = self.kind.name();
        tracing::info!(kind, count, how, because = because.name(), seconds, "listed");
        Ok(position)
    }

    /// One stream for the list and for what follows: the server needs no copy of everything for it.
    async fn streaming_list(&self) -> Result<(Position, usize), Stop> {
        let mut lines = self.open(None).await?;
        self.send(Event::Init(self.kind)).await?;
        let mut count = 0;
        loop {
            match self.step(&mut lines, self.timing.streaming, true).await? {
                Step::Object(event, _) => {
                    count += 1;
                    self.send(event).await?;
                }
                Step::Bookmark(version, true) => {
                    return Ok((Position { version, lines: Some(lines) }, count));
                }
                Step::Bookmark(_, false) => {}
                Step::End => return Err(Failure::new("the streaming list broke off").into()),
            }
        }
    }

    async fn paged_list(&self) -> Result<(Position, usize), Stop> {
        self.send(Event::Init(self.kind)).await?;
        let Timing { page: size, answer, .. } = self.timing;
        let mut count = 0;
        let mut next: Option<String> = None;
        loop {
            let page = Page::get(&self.client, self.kind, size, next.as_deref(), answer).await?;
            let content = page.content()?;
            for item in content.items.iter().flatten() {
                let sighting = decode::sighting(self.kind, item.get()).map_err(Failure::new)?;
                self.stats().heard(EventType::Listed);
                count += 1;
                self.send(Event::Apply(Box::new(sighting))).await?;
            }
            let metadata = content.metadata;
            match metadata.next.filter(|token| !token.is_empty()) {
                Some(token) => next = Some(token),
                None => {
                    let version = Version::parse(metadata.resource_version.as_deref().unwrap_or_default());
                    if version.is_missing() {
                        return Err(Failure::new("a list without a resourceVersion").into());
                    }
                    return Ok((Position { version, lines: None }, count));
                }
            }
        }
    }

    /// Returns when the server has forgotten where we are, with its words for that.
    async fn follow(&self, position: Position, attempts: &mut Attempts) -> Result<Failure, Stop> {
        let Position { mut version, mut lines } = position;
        loop {
            let opened = match lines.take() {
                Some(lines) => Ok(lines),
                None => self.open(Some(&version)).await,
            };
            let (failure, told) = match opened {
                Ok(lines) => {
                    let since = Instant::now();
                    let end = self.read(lines, &mut version, attempts).await;
                    let stable = since.elapsed() >= STABLE;
                    if stable {
                        attempts.backoff.reset();
                        attempts.short_streams = 0;
                    } else {
                        attempts.short_streams = attempts.short_streams.saturating_add(1);
                    }
                    let failure = match end {
                        Ok(()) if stable => continue,
                        Ok(()) => Failure::new("the watch ended at once"),
                        Err(Stop::Failed(failure)) => failure,
                        Err(Stop::Closed) => return Err(Stop::Closed),
                    };
                    (failure, attempts.short_streams >= STORM)
                }
                Err(failure) => {
                    attempts.short_streams = 0;
                    (failure, true)
                }
            };
            if failure.is_gone() {
                return Ok(failure);
            }
            if told {
                self.failed("watch", failure, attempts).await?;
            } else {
                tracing::debug!(kind = self.kind.name(), %failure, "the watch is opened again");
                self.stats().errors.fetch_add(1, Relaxed);
                wait(attempts.backoff.next(), &failure).await;
            }
        }
    }

    async fn read(
        &self,
        mut lines: Lines,
        version: &mut Version,
        attempts: &mut Attempts,
    ) -> Result<(), Stop> {
        let patience = self.timing.watch + self.timing.watch / 4 + LATE;
        // After a storm, only a stream that lasts shows that it is over.
        let calm_at = match attempts.short_streams >= STORM {
            true => tokio::time::Instant::now() + STABLE,
            false => tokio::time::Instant::now(),
        };
        let mut calm = false;
        loop {
            let next = self.step(&mut lines, patience, false);
            let step = if calm {
                next.await?
            } else {
                match tokio::time::timeout_at(calm_at, next).await {
                    Ok(step) => step?,
                    Err(_) => {
                        calm = true;
                        attempts.short_streams = 0;
                        self.well(attempts).await?;
                        continue;
                    }
                }
            };
            match step {
                Step::Object(event, newer) => {
                    self.send(event).await?;
                    advance(version, newer);
                }
                Step::Bookmark(newer, _) => advance(version, newer),
                Step::End => return Ok(()),
            }
        }
    }

    async fn open(&self, version: Option<&Version>) -> Result<Lines, Failure> {
        let version = version.map(ToString::to_string);
        let seconds = self.timing.watch.as_secs().max(1);
        // Not all nodes at once.
        let more = RandomState::new().hash_one(self.kind) % (seconds / 4 + 1);
        let seconds = u32::try_from(seconds + more).unwrap_or(u32::MAX);
        Lines::open(&self.client, self.kind, version.as_deref(), seconds, self.timing.answer).await
    }

    async fn step(&self, lines: &mut Lines, patience: Duration, listing: bool) -> Result<Step, Stop> {
        loop {
            let line = match tokio::time::timeout(patience, lines.next()).await {
                Ok(line) => line?,
                // A server that does not know streaming lists takes the request for an ordinary watch.
                Err(_) if listing => {
                    let seconds = patience.as_secs();
                    let message = format!("the end of the streaming list did not come within {seconds} s");
                    return Err(Failure { code: 422, ..Failure::new(message) }.into());
                }
                Err(_) => return Err(Failure::new("nothing came any more: the connection is dead").into()),
            };
            let Some(text) = line else { return Ok(Step::End) };
            if text.trim().is_empty() {
                continue;
            }
            let line = Line::parse(text)?;
            let json = line.object.get();
            let of = match &*line.kind {
                "ADDED" if listing => EventType::Listed,
                "ADDED" => EventType::Added,
                "MODIFIED" => EventType::Modified,
                "DELETED" => EventType::Deleted,
                "BOOKMARK" => EventType::Bookmark,
                "ERROR" => EventType::Error,
                other => {
                    tracing::debug!(kind = self.kind.name(), other, "a watch event of an unknown type");
                    continue;
                }
            };
            self.stats().heard(of);
            return Ok(match of {
                EventType::Error => return Err(line.status().into()),
                EventType::Bookmark => {
                    let bookmark = Bookmark::parse(json)?;
                    let version = Version::parse(&bookmark.metadata.resource_version);
                    Step::Bookmark(version, bookmark.ends_the_list())
                }
                EventType::Deleted => {
                    let gone = decode::about(self.kind, json).map_err(Failure::new)?;
                    let version = gone.version.clone();
                    Step::Object(Event::Delete(gone), version)
                }
                EventType::Listed | EventType::Added | EventType::Modified => {
                    let sighting = decode::sighting(self.kind, json).map_err(Failure::new)?;
                    let version = sighting.version.clone();
                    Step::Object(Event::Apply(Box::new(sighting)), version)
                }
            });
        }
    }

    /// Tells what is wrong, once, and waits.
    async fn failed(&self, verb: &str, failure: Failure, attempts: &mut Attempts) -> Result<(), Stop> {
        self.stats().errors.fetch_add(1, Relaxed);
        self.stats().set_open(false);
        let problem = self.problem(verb, &failure);
        if attempts.told.as_ref() == Some(&problem) {
            tracing::debug!(kind = self.kind.name(), %failure, "still failing");
        } else {
            attempts.told = Some(problem.clone());
            self.send(Event::Trouble(self.kind, Some(problem))).await?;
        }
        wait(attempts.backoff.next(), &failure).await;
        Ok(())
    }

    async fn well(&self, attempts: &mut Attempts) -> Result<(), Stop> {
        self.stats().set_open(true);
        if attempts.told.take().is_some() {
            tracing::info!(kind = self.kind.name(), "the API server answers again");
            self.send(Event::Trouble(self.kind, None)).await?;
        }
        Ok(())
    }

    fn problem(&self, verb: &str, failure: &Failure) -> Problem {
        let (group, resource) = resource(self.kind);
        let message = match failure.code {
            401 => format!(
                "can't {verb} {resource}: the API server does not know us by our credentials ({failure})"
            ),
            403 => format!(
                "may not {verb} {resource}: a ClusterRole of ours must have the rule \
                 {{apiGroups: [\"{group}\"], resources: [{resource}], verbs: [list, watch]}} ({failure})"
            ),
            _ => format!("can't {verb} {resource}: {failure}"),
        };
        Problem { source: "API server".to_owned(), message, ..Problem::default() }
    }
}

/// An event that came late does not lead the watch back.
fn advance(version: &mut Version, newer: Version) {
    if !newer.is_missing() && !newer.is_older_than(version) {
        *version = newer;
    }
}

/// Not before the server wants to be asked again.
async fn wait(backoff: Option<Duration>, failure: &Failure) {
    let pause = backoff.unwrap_or(Duration::from_secs(30));
    tokio::time::sleep(pause.max(failure.retry_after.unwrap_or_default())).await;
}
