//! What the plugin and the agent say to each other on the control socket: one line of JSON each way.
//!
//! A request travels as the agent's request `cni`: `{"request": "cni", "operation": "add", ...}`.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::ObjectName;

/// The longest request, in bytes: GC lists every attachment of a node, at some 120 bytes each.
pub const REQUEST_BYTES: u64 = 1 << 20;

/// A pod's interface, as the runtime and the plugins before ours describe it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    pub container_id: String,
    /// The pod's network namespace, as a path that the agent can open.
    pub netns: PathBuf,
    /// The interface's name in there.
    pub ifname: String,
    pub pod: PodName,
    /// Not every runtime tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Those that the plugins before ours gave it. The API server learns them after ADD.
    pub addresses: Vec<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodName {
    pub namespace: String,
    pub name: String,
}

impl From<PodName> for ObjectName {
    fn from(PodName { namespace, name }: PodName) -> Self {
        Self { namespace, name }
    }
}

/// What becomes of a pod whose policy is not known in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unready {
    /// Nothing passes until it is known.
    #[default]
    Closed,
    /// Everything passes until it is known.
    Open,
}

/// What ties an attachment of ours to the runtime's: all that DEL and GC know of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttachmentId {
    pub container_id: String,
    pub ifname: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "operation")]
pub enum CniRequest {
    /// Enforce the pod's policy on this interface, and answer when that is done: [`CniReply::Enforced`]. After `timeout_ms`
    /// milliseconds without: [`CniReply::Closed`] or [`CniReply::Open`], as `unready` says.
    /// [`CniReply::Missing`] where the interface isn't to be found, [`CniReply::NotReady`] where the agent can do nothing yet.
    Add {
        attachment: Attachment,
        timeout_ms: u64,
        #[serde(default)]
        unready: Unready,
    },
    /// [`CniReply::Enforced`] where the programs hang on the interface with the pod's policy, [`CniReply::Closed`] or
    /// [`CniReply::Open`] where it still waits for that, else [`CniReply::Missing`].
    Check(Attachment),
    /// Forget the attachment: [`CniReply::Done`], also where it is not known.
    Delete(AttachmentId),
    /// Forget every attachment but these: [`CniReply::Done`].
    Gc { valid: Vec<AttachmentId> },
    /// Whether ADD can be served: [`CniReply::Ready`] or [`CniReply::NotReady`].
    Ready,
}

/// Reasons are for people: one sentence without a full stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "reply")]
pub enum CniReply {
    Enforced {
        generation: u64,
        /// Milliseconds between the request and this answer.
        waited_ms: u64,
    },
    Closed {
        reason: String,
    },
    Open {
        reason: String,
    },
    Missing {
        reason: String,
    },
    Done,
    Ready,
    NotReady {
        reason: String,
    },
}

impl CniRequest {
    /// The request's line, with its end.
    pub fn to_line(&self) -> serde_json::Result<String> {
        #[derive(Serialize)]
        struct Line<'a> {
            request: &'static str,
            #[serde(flatten)]
            body: &'a CniRequest,
        }
        let mut line = serde_json::to_string(&Line { request: "cni", body: self })?;
        line.push('\n');
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment() -> Attachment {
        Attachment {
            container_id: "c1".to_owned(),
            netns: PathBuf::from("/var/run/netns/p1"),
            ifname: "eth0".to_owned(),
            pod: PodName { namespace: "dev".to_owned(), name: "web".to_owned() },
            uid: Some("u1".to_owned()),
            addresses: vec!["10.244.1.2".parse().unwrap(), "fd00::2".parse().unwrap()],
        }
    }

    #[test]
    fn requests_survive_the_wire_and_carry_the_word_that_the_agent_looks_for() {
        let id = AttachmentId { container_id: "c1".to_owned(), ifname: "eth0".to_owned() };
        let requests = [
            CniRequest::Add { attachment: attachment(), timeout_ms: 5000, unready: Unready::Open },
            CniRequest::Check(attachment()),
            CniRequest::Delete(id.clone()),
            CniRequest::Gc { valid: vec![id] },
            CniRequest::Gc { valid: Vec::new() },
            CniRequest::Ready,
        ];
        for request in requests {
            let line = request.to_line().unwrap();
            assert_eq!(line.matches('\n').count(), 1, "{line:?}");
            let value: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(value["request"], "cni");
            assert_eq!(serde_json::from_value::<CniRequest>(value).unwrap(), request);
        }
    }

    #[test]
    fn replies_survive_the_wire() {
        let reason = || "because".to_owned();
        let replies = [
            CniReply::Enforced { generation: u64::MAX, waited_ms: 0 },
            CniReply::Closed { reason: reason() },
            CniReply::Open { reason: reason() },
            CniReply::Missing { reason: reason() },
            CniReply::Done,
            CniReply::Ready,
            CniReply::NotReady { reason: reason() },
        ];
        for reply in replies {
            let line = serde_json::to_string(&reply).unwrap();
            assert_eq!(serde_json::from_str::<CniReply>(&line).unwrap(), reply, "{line}");
        }
    }
}
