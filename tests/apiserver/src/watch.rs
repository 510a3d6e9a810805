//! The stream of a watch.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Response, header};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use crate::Shared;
use crate::answer;
use crate::faults::{Gone, Streaming};
use crate::resources::Resource;

pub(crate) struct Request {
    pub(crate) resource: &'static Resource,
    pub(crate) namespace: Option<String>,
    pub(crate) version: String,
    pub(crate) initial_events: bool,
    pub(crate) bookmarks: bool,
    pub(crate) timeout: Duration,
}

struct Stream {
    shared: Arc<Shared>,
    changed: tokio::sync::watch::Receiver<()>,
    resource: &'static Resource,
    namespace: Option<String>,
    lines: VecDeque<Vec<u8>>,
    /// In the log.
    position: usize,
    sent: usize,
    epoch: u64,
    ends: Instant,
    next_bookmark: Option<Instant>,
    over: bool,
}

pub(crate) fn answer(shared: Arc<Shared>, request: Request) -> Response<Body> {
    let changed = shared.changed.subscribe();
    let guard = shared.store();
    let faults = &guard.faults;
    let mut lines = VecDeque::new();
    let mut over = false;
    let mut position = guard.log.len();
    let all_at_first = request.initial_events || matches!(request.version.as_str(), "" | "0");
    if request.initial_events && faults.streaming == Streaming::Refused {
        let message = "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
        return answer::failure(422, message);
    }
    if all_at_first {
        let of_namespace = |object: &&Arc<Value>| {
            request.namespace.as_deref().is_none_or(|wanted| object["metadata"]["namespace"] == wanted)
        };
        lines.extend(
            guard.objects(request.resource.name).filter(of_namespace).map(|object| line("ADDED", object)),
        );
        if request.initial_events && faults.streaming == Streaming::Supported {
            lines.push_back(bookmark(request.resource, guard.version, true));
        }
    } else if let Ok(version) = request.version.parse::<u64>() {
        if version < guard.compacted {
            let message = format!("too old resource version: {version} ({})", guard.compacted);
            if faults.gone == Gone::Status {
                return answer::failure(410, &message);
            }
            lines.push_back(line("ERROR", &answer::status(410, "Expired", &message)));
            over = true;
        }
        position = guard.log.partition_point(|change| change.version <= version);
    } else {
        return answer::failure(400, "resourceVersion: Invalid value");
    }
    let now = Instant::now();
    let next_bookmark = faults.bookmarks.filter(|_| request.bookmarks).map(|every| now + every);
    let state = Stream {
        changed,
        resource: request.resource,
        namespace: request.namespace,
        lines,
        position,
        sent: 0,
        epoch: guard.epoch,
        ends: now + request.timeout,
        next_bookmark,
        over,
        shared: Arc::clone(&shared),
    };
    drop(guard);
    let body = Body::from_stream(stream::unfold(state, |mut state| async {
        let item = state.next().await?;
        Some((item, state))
    }));
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

impl Stream {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            self.changed.mark_unchanged();
            let (cut_after, in_line, bookmarks, epoch) = {
                let store = self.shared.store();
                for change in store.log.get(self.position..).unwrap_or_default() {
                    let of_namespace = |wanted: &str| change.object["metadata"]["namespace"] == wanted;
                    if change.resource == self.resource.name
                        && self.namespace.as_deref().is_none_or(of_namespace)
                    {
                        self.lines.push_back(line(&change.event, &change.object));
                    }
                }
                self.position = store.log.len();
                let faults = &store.faults;
                (faults.cut_watches_after, faults.cut_in_line, faults.bookmarks, store.epoch)
            };
            let cut = cut_after.is_some_and(|after| self.sent >= after) || epoch != self.epoch;
            if cut {
                // Half a line, and then the connection is gone; or a stream that ends in order.
                let half = self.lines.pop_front().filter(|_| in_line && !self.over);
                self.over = true;
                self.lines.clear();
                let mut half = half?;
                half.truncate(half.len() / 2);
                self.lines.push_back(Vec::new());
                return Some(Ok(half.into()));
            }
            match self.lines.pop_front() {
                Some(line) if line.is_empty() => return Some(Err(io::Error::other("cut"))),
                Some(line) => {
                    self.sent += 1;
                    return Some(Ok(line.into()));
                }
                None if self.over => return None,
                None => {}
            }
            let far = self.ends + Duration::from_secs(3600);
            tokio::select! {
                changed = self.changed.changed() => changed.ok()?,
                () = sleep_until(self.ends) => return None,
                () = sleep_until(self.next_bookmark.unwrap_or(far)) => {
                    self.next_bookmark = bookmarks.map(|every| Instant::now() + every);
                    let version = self.shared.store().version;
                    return Some(Ok(bookmark(self.resource, version, false).into()));
                }
            }
        }
    }
}

fn line(event: &str, object: &Value) -> Vec<u8> {
    // A real server writes the type first.
    let mut line = format!("{{\"type\":\"{event}\",\"object\":{object}}}").into_bytes();
    line.push(b'\n');
    line
}

fn bookmark(resource: &Resource, version: u64, ends_the_list: bool) -> Vec<u8> {
    let mut metadata = json!({"resourceVersion": version.to_string(), "creationTimestamp": null});
    if ends_the_list {
        metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    line(
        "BOOKMARK",
        &json!({"kind": resource.kind, "apiVersion": resource.api_version(), "metadata": metadata}),
    )
}
