//! Events on objects: a NetworkPolicy has no status, and `kubectl describe` is where its author looks.
//!
//! All nodes find the same fault in the same policy. An Event's name therefore follows from what it says and when, so
//! that the server takes one of all nodes'; creating is all that we may do.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1 as events;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::{Client, Error};
use tokio::sync::mpsc;

use super::super::convert::DEFAULT_NAMESPACE;
use super::connect::causes;
use super::live::Reference;
use super::stats::WatchStats;

const CONTROLLER: &str = "sluice.dev/policy-agent";
/// The same is told again after this.
const AGAIN: Duration = Duration::from_secs(600);
/// As many at once, and then one in each such time.
const BURST: u32 = 25;
const REFILL: Duration = Duration::from_secs(6);
const MOST_WAITING: usize = 256;
/// The API's limits: bytes of a note and of a name.
const LONGEST_NOTE: usize = 1024;
const LONGEST_NAME: usize = 253;

/// What is wrong with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Concern {
    /// A policy or pod has fields that are invalid, or that we do not know.
    Invalid,
    /// A table has no room for what the object asks for.
    TableFull,
    /// A pod's interface is not enforced.
    EndpointFailed,
}

impl Concern {
    const fn reason(self) -> &'static str {
        match self {
            Self::Invalid => "InvalidFields",
            Self::TableFull => "TableFull",
            Self::EndpointFailed => "EndpointFailed",
        }
    }

    const fn action(self) -> &'static str {
        match self {
            Self::Invalid => "Read",
            Self::TableFull => "Enforce",
            Self::EndpointFailed => "Attach",
        }
    }
}

/// Writes Events on objects, a few at a time. What is too much is counted and lost.
#[derive(Clone, Debug)]
pub struct Reporter {
    waiting: mpsc::Sender<Report>,
    stats: Arc<WatchStats>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Report {
    about: Reference,
    concern: Concern,
    note: String,
}

impl Reporter {
    /// Never waits.
    pub fn report(&self, about: Reference, concern: Concern, note: impl Into<String>) {
        let report = Report { about, concern, note: shortened(note.into()) };
        if self.waiting.try_send(report).is_err() {
            self.stats.reports_lost.fetch_add(1, Relaxed);
        }
    }
}

pub(super) fn start(client: Client, node: String, stats: Arc<WatchStats>) -> Reporter {
    let (waiting, reports) = mpsc::channel(MOST_WAITING);
    tokio::spawn(send_all(client, node, Arc::clone(&stats), reports));
    Reporter { waiting, stats }
}

async fn send_all(client: Client, node: String, stats: Arc<WatchStats>, mut reports: mpsc::Receiver<Report>) {
    let mut recent: HashMap<Report, Instant> = HashMap::new();
    let mut bucket = Bucket::new(Instant::now());
    let mut refused = false;
    while let Some(report) = reports.recv().await {
        let now = Instant::now();
        recent.retain(|_, at| now.duration_since(*at) < AGAIN);
        if recent.contains_key(&report) {
            continue;
        }
        tokio::time::sleep(bucket.take(now)).await;
        let event = event(&report, &node, SystemTime::now());
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let api: Api<events::Event> = Api::namespaced(client.clone(), &namespace);
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => {
                stats.reports_sent.fetch_add(1, Relaxed);
                recent.insert(report, now);
            }
            // Another node was quicker.
            Err(Error::Api(status)) if status.code == 409 => {
                recent.insert(report, now);
            }
            Err(error) => {
                stats.reports_lost.fetch_add(1, Relaxed);
                let forbidden = matches!(&error, Error::Api(status) if status.code == 403);
                let error = causes(&error);
                if forbidden && !refused {
                    refused = true;
                    tracing::warn!(
                        error,
                        "may not create events: a ClusterRole of ours must have the rule {{apiGroups: [\"events.k8s.io\"], \
                         resources: [events], verbs: [create]}}; faults are still in the log and in `status`"
                    );
                } else {
                    tracing::debug!(error, object = %report.about.key, "an event was not taken");
                }
            }
        }
    }
}

fn event(report: &Report, node: &str, now: SystemTime) -> events::Event {
    let Report { about: Reference { key, uid }, concern, note } = report;
    let namespaced = !key.id.namespace.is_empty();
    // Events on what is in no namespace are in the default one.
    let namespace = if namespaced { key.id.namespace.clone() } else { DEFAULT_NAMESPACE.to_owned() };
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut hasher = DefaultHasher::new();
    (report, since.as_secs() / AGAIN.as_secs()).hash(&mut hasher);
    let suffix = format!(".{:016x}", hasher.finish());
    let name: String = key.id.name.chars().take(LONGEST_NAME - suffix.len()).collect();
    let name = name.trim_end_matches(['.', '-']);
    events::Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}{suffix}")),
            namespace: Some(namespace),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(Timestamp::try_from(now).unwrap_or_default())),
        type_: Some("Warning".to_owned()),
        reason: Some(concern.reason().to_owned()),
        action: Some(concern.action().to_owned()),
        note: Some(note.clone()),
        regarding: Some(ObjectReference {
            api_version: Some(key.kind.api_version().to_owned()),
            kind: Some(key.kind.name().to_owned()),
            namespace: namespaced.then(|| key.id.namespace.clone()),
            name: Some(key.id.name.clone()),
            uid: Some(uid.clone()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(node.to_owned()),
        ..events::Event::default()
    }
}

fn shortened(mut note: String) -> String {
    if note.len() > LONGEST_NOTE {
        let fits = |at: &usize| at + '…'.len_utf8() <= LONGEST_NOTE;
        let end = note.char_indices().map(|(at, _)| at).take_while(fits).last().unwrap_or(0);
        note.truncate(end);
        note.push('…');
    }
    note
}

/// Tokens that come back with time.
#[derive(Debug)]
struct Bucket {
    /// When it is full again.
    full_at: Instant,
}

impl Bucket {
    const fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Takes a token; how long it must be waited for.
    fn take(&mut self, now: Instant) -> Duration {
        self.full_at = self.full_at.max(now) + REFILL;
        self.full_at.saturating_duration_since(now + REFILL * BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::object::{Kind, ObjectKey};
    use super::*;
    use crate::model::ObjectName;

    fn report(kind: Kind, namespace: &str, name: &str, note: &str) -> Report {
        let key = ObjectKey { kind, id: ObjectName::new(namespace, name) };
        Report {
            about: Reference { key, uid: "u".to_owned() },
            concern: Concern::Invalid,
            note: shortened(note.to_owned()),
        }
    }

    #[test]
    fn all_nodes_give_the_same_event_the_same_name_for_ten_minutes() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let name = |report: &Report, node, seconds| event(report, node, at(seconds)).metadata.name;
        let this = report(Kind::NetworkPolicy, "dev", "x", "bad");
        assert_eq!(name(&this, "a", 600), name(&this, "b", 1199));
        assert_ne!(name(&this, "a", 600), name(&this, "a", 1200));
        let others = [
            report(Kind::NetworkPolicy, "dev", "x", "worse"),
            report(Kind::NetworkPolicy, "dev", "y", "bad"),
            report(Kind::Pod, "dev", "x", "bad"),
        ];
        for other in others {
            assert_ne!(name(&this, "a", 600), name(&other, "a", 600), "{other:?}");
        }
    }

    #[test]
    fn what_the_api_takes() {
        let long =
            report(Kind::Node, "", &format!("{}.{}", "n".repeat(235), "m".repeat(17)), &"ä".repeat(5000));
        let event = event(&long, "n1", SystemTime::now());
        let name = event.metadata.name.expect("a name");
        assert!(super::super::super::convert::is_dns_subdomain(&name), "{name}");
        assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
        assert_eq!(event.regarding.expect("about something").namespace, None);
        let note = event.note.expect("a note");
        assert!(note.len() <= 1024 && note.ends_with('…'), "{}", note.len());
        assert!(event.event_time.is_some());
        assert_eq!(event.reporting_controller.as_deref(), Some("sluice.dev/policy-agent"));
    }

    #[test]
    fn a_burst_and_then_one_every_six_seconds() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        for _ in 0..BURST {
            assert_eq!(bucket.take(start), Duration::ZERO);
        }
        assert_eq!(bucket.take(start), REFILL);
        assert_eq!(bucket.take(start), REFILL * 2);
        let later = start + REFILL * (BURST + 2);
        assert_eq!(bucket.take(later), Duration::ZERO);
    }
}
