//! Requests to the API server and their answers: pages of a list, and the lines of a watch.
//!
//! Kube's own watcher hides bookmarks, opens a stream that ends at once again without a pause, and a list with one object
//! that it can't read is no list to it: we take its client, and read by ourselves.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use http_body_util::BodyExt as _;
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery, networking::v1 as networking};
use kube::api::{ListParams, WatchParams};
use kube::client::Body;
use kube::core::{Request, Status};
use kube::{Client, Resource as _};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::object::Kind;
use super::connect::causes;

/// No object is larger: etcd takes 1.5 MB.
const LONGEST_LINE: usize = 16 << 20;

/// The path of a kind's objects in all namespaces.
fn path(kind: Kind) -> String {
    match kind {
        Kind::Namespace => core::Namespace::url_path(&(), None),
        Kind::Node => core::Node::url_path(&(), None),
        Kind::Pod => core::Pod::url_path(&(), None),
        Kind::NetworkPolicy => networking::NetworkPolicy::url_path(&(), None),
        Kind::Service => core::Service::url_path(&(), None),
        Kind::EndpointSlice => discovery::EndpointSlice::url_path(&(), None),
    }
}

/// API group and resource, as a role names them.
pub(super) const fn resource(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Namespace => ("", "namespaces"),
        Kind::Node => ("", "nodes"),
        Kind::Pod => ("", "pods"),
        Kind::NetworkPolicy => ("networking.k8s.io", "networkpolicies"),
        Kind::Service => ("", "services"),
        Kind::EndpointSlice => ("discovery.k8s.io", "endpointslices"),
    }
}

/// An answer other than the wanted one, or none.
#[derive(Debug)]
pub(super) struct Failure {
    /// 0 where there was no answer.
    pub(super) code: u16,
    pub(super) message: String,
    pub(super) retry_after: Option<Duration>,
}

impl Failure {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { code: 0, message: message.into(), retry_after: None }
    }

    /// Versions this old are no longer there.
    pub(super) const fn is_gone(&self) -> bool {
        self.code == 410
    }

    /// The server knows streaming lists and does not do them.
    pub(super) const fn is_invalid(&self) -> bool {
        matches!(self.code, 400 | 422)
    }

    fn of_status(status: Status) -> Self {
        let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
        let message = match status.message.is_empty() {
            true => status.reason,
            false => status.message,
        };
        let retry_after = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
        Self { code: status.code, message, retry_after }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            0 => f.write_str(&self.message),
            code => write!(f, "{code}: {}", self.message),
        }
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::of_status(*status),
            other => Self::new(causes(&other)),
        }
    }
}

/// Sends a GET and takes an answer of success.
async fn get(
    client: &Client,
    request: Result<axum::http::Request<Vec<u8>>, kube::core::request::Error>,
    patience: Duration,
    compressed: bool,
) -> Result<Body, Failure> {
    let mut request = request.map_err(|error| Failure::new(error.to_string()))?;
    if !compressed {
        let identity = axum::http::HeaderValue::from_static("identity");
        request.headers_mut().insert(axum::http::header::ACCEPT_ENCODING, identity);
    }
    let sent = tokio::time::timeout(patience, client.send(request.map(Body::from))).await;
    let answer = sent.map_err(|_elapsed| no_answer(patience))??;
    if answer.status().is_success() {
        return Ok(answer.into_body());
    }
    let code = answer.status().as_u16();
    let header = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
    let bytes = collect(answer.into_body(), patience).await.unwrap_or_default();
    let mut failure = match serde_json::from_slice::<Status>(&bytes) {
        Ok(status) => Failure::of_status(status),
        Err(_) => Failure::new(String::from_utf8_lossy(&bytes).chars().take(200).collect::<String>()),
    };
    failure.code = code;
    failure.retry_after = header.map(Duration::from_secs).or(failure.retry_after);
    Err(failure)
}

fn no_answer(patience: Duration) -> Failure {
    Failure::new(format!("no answer within {} s", patience.as_secs()))
}

async fn collect(body: Body, patience: Duration) -> Result<Vec<u8>, Failure> {
    let collected = tokio::time::timeout(patience, body.collect()).await;
    let collected = collected.map_err(|_elapsed| no_answer(patience))?;
    Ok(collected.map_err(|error| Failure::from(error).during("the answer broke off"))?.to_bytes().into())
}

impl Failure {
    fn during(self, what: &str) -> Self {
        Self { message: format!("{what}: {}", self.message), ..self }
    }
}

/// Some of a kind's objects.
pub(super) struct Page(Vec<u8>);

#[derive(Deserialize)]
pub(super) struct PageContent<'a> {
    pub(super) metadata: PageMetadata,
    #[serde(borrow)]
    pub(super) items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PageMetadata {
    pub(super) resource_version: Option<String>,
    #[serde(rename = "continue")]
    pub(super) next: Option<String>,
}

impl Page {
    pub(super) async fn get(
        client: &Client,
        kind: Kind,
        size: u32,
        next: Option<&str>,
        patience: Duration,
    ) -> Result<Self, Failure> {
        let mut params = ListParams::default().limit(size);
        params.continue_token = next.map(str::to_owned);
        let body = get(client, Request::new(path(kind)).list(&params), patience, true).await?;
        Ok(Self(collect(body, patience).await?))
    }

    pub(super) fn content(&self) -> Result<PageContent<'_>, Failure> {
        serde_json::from_slice(&self.0).map_err(|error| Failure::new(format!("no list: {error}")))
    }
}

/// The lines of a watch.
pub(super) struct Lines {
    body: Body,
    /// What has come, and where in it the next line begins.
    buffer: Vec<u8>,
    start: usize,
}

#[derive(Deserialize)]
pub(super) struct Line<'a> {
    #[serde(rename = "type", borrow)]
    pub(super) kind: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) object: &'a RawValue,
}

impl Lines {
    /// From a version on, or, without one, from the list of all there is at present (a streaming list).
    pub(super) async fn open(
        client: &Client,
        kind: Kind,
        version: Option<&str>,
        seconds: u32,
        patience: Duration,
    ) -> Result<Self, Failure> {
        let mut params = WatchParams::default().timeout(seconds);
        params.send_initial_events = version.is_none();
        // An empty version is the newest: an older one may be from before what we know.
        let request = Request::new(path(kind)).watch(&params, version.unwrap_or_default());
        let body = get(client, request, patience, false).await?;
        Ok(Self { body, buffer: Vec::new(), start: 0 })
    }

    /// The next line; `None` at the end, where half a line counts for nothing. Cancellation loses nothing.
    pub(super) async fn next(&mut self) -> Result<Option<&str>, Failure> {
        let mut looked_at = self.start;
        let end = loop {
            let rest = self.buffer.get(looked_at..).unwrap_or_default();
            if let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
                break looked_at + at;
            }
            self.buffer.drain(..self.start);
            self.start = 0;
            looked_at = self.buffer.len();
            if looked_at > LONGEST_LINE {
                return Err(Failure::new("the watch sent a line without an end"));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => self.buffer.extend(frame.data_ref().into_iter().flatten()),
                Some(Err(error)) => return Err(Failure::from(error).during("the watch broke off")),
            }
        };
        let line = self.buffer.get(self.start..end).unwrap_or_default();
        self.start = end + 1;
        str::from_utf8(line).map(Some).map_err(|_| Failure::new("the watch sent what is no text"))
    }
}

impl<'a> Line<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, Failure> {
        serde_json::from_str(text).map_err(|error| Failure::new(format!("no watch event: {error}")))
    }

    /// The status that an ERROR carries.
    pub(super) fn status(&self) -> Failure {
        match serde_json::from_str::<Status>(self.object.get()) {
            Ok(status) => Failure::of_status(status),
            Err(error) => Failure::new(format!("an error that is no status: {error}")),
        }
    }
}

/// What a bookmark says.
#[derive(Deserialize)]
pub(super) struct Bookmark {
    pub(super) metadata: BookmarkMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BookmarkMetadata {
    pub(super) resource_version: String,
    annotations: Option<BookmarkAnnotations>,
}

#[derive(Deserialize)]
struct BookmarkAnnotations {
    #[serde(rename = "k8s.io/initial-events-end")]
    initial_events_end: Option<String>,
}

impl Bookmark {
    pub(super) fn parse(json: &str) -> Result<Self, Failure> {
        serde_json::from_str(json).map_err(|error| Failure::new(format!("no bookmark: {error}")))
    }

    /// All objects of a streaming list have come.
    pub(super) fn ends_the_list(&self) -> bool {
        let annotations = self.metadata.annotations.as_ref();
        annotations.is_some_and(|a| a.initial_events_end.as_deref() == Some("true"))
    }
}
