//! What a runtime says in environment variables.

use std::ffi::OsString;
use std::path::PathBuf;

use super::error::{CniError, Code};
use super::protocol::{AttachmentId, PodName};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Add,
    Check,
    Del,
    Gc,
    Status,
    Version,
}

/// An interface of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) id: AttachmentId,
    /// Missing at DEL where the namespace is gone.
    pub(super) netns: Option<PathBuf>,
    pub(super) pod: Option<PodArgs>,
}

/// The pod that `CNI_ARGS` names. Not every container is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodArgs {
    pub(super) name: PodName,
    pub(super) uid: Option<String>,
}

/// Linux's IFNAMSIZ, without the end of the string.
const INTERFACE_NAME: usize = 15;
/// The longest name that the API server takes for a pod, in bytes.
const OBJECT_NAME: usize = 253;

pub(super) struct Environment<F>(pub(super) F);

impl<F: Fn(&str) -> Option<OsString>> Environment<F> {
    pub(super) fn command(&self) -> Result<Command, CniError> {
        match self.required("CNI_COMMAND")?.as_str() {
            "ADD" => Ok(Command::Add),
            "CHECK" => Ok(Command::Check),
            "DEL" => Ok(Command::Del),
            "GC" => Ok(Command::Gc),
            "STATUS" => Ok(Command::Status),
            "VERSION" => Ok(Command::Version),
            other => Err(invalid("CNI_COMMAND", &format!("unknown command {other:?}"))),
        }
    }

    pub(super) fn interface(&self) -> Result<Interface, CniError> {
        let container_id = self.required("CNI_CONTAINERID")?;
        let mut bytes = container_id.bytes();
        let first = bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if !first || !bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)) {
            return Err(invalid("CNI_CONTAINERID", &format!("{container_id:?} is no container's id")));
        }
        let ifname = self.required("CNI_IFNAME")?;
        let odd = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
        if ifname.len() > INTERFACE_NAME || ifname == "." || ifname == ".." || ifname.contains(odd) {
            return Err(invalid("CNI_IFNAME", &format!("{ifname:?} is no interface's name")));
        }
        let netns = self.optional("CNI_NETNS")?.map(PathBuf::from);
        if let Some(netns) = netns.as_ref().filter(|netns| !netns.is_absolute()) {
            return Err(invalid("CNI_NETNS", &format!("{netns:?} is no absolute path")));
        }
        Ok(Interface { id: AttachmentId { container_id, ifname }, netns, pod: self.pod()? })
    }

    /// Keys that mean nothing here are ignored, whether `IgnoreUnknown` says so or not: refusing a pod for another
    /// plugin's argument would help nobody.
    fn pod(&self) -> Result<Option<PodArgs>, CniError> {
        let arguments = self.optional("CNI_ARGS")?.unwrap_or_default();
        let (mut namespace, mut name, mut uid) = (None, None, None);
        for pair in arguments.split(';').filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(invalid("CNI_ARGS", &format!("{pair:?} is no KEY=VALUE")));
            };
            match key {
                "K8S_POD_NAMESPACE" => namespace = Some(value),
                "K8S_POD_NAME" => name = Some(value),
                "K8S_POD_UID" => uid = Some(value.to_owned()).filter(|uid| !uid.is_empty()),
                _ => {}
            }
        }
        match (namespace, name) {
            (None, None) => Ok(None),
            (Some(namespace), Some(name)) => {
                for (key, value) in [("K8S_POD_NAMESPACE", namespace), ("K8S_POD_NAME", name)] {
                    if value.is_empty() || value.len() > OBJECT_NAME || value.contains('/') {
                        return Err(invalid("CNI_ARGS", &format!("{key}: {value:?} is no object's name")));
                    }
                }
                let name = PodName { namespace: namespace.to_owned(), name: name.to_owned() };
                Ok(Some(PodArgs { name, uid }))
            }
            (None, Some(_)) => Err(invalid("CNI_ARGS", "K8S_POD_NAME without K8S_POD_NAMESPACE")),
            (Some(_), None) => Err(invalid("CNI_ARGS", "K8S_POD_NAMESPACE without K8S_POD_NAME")),
        }
    }

    fn required(&self, name: &'static str) -> Result<String, CniError> {
        self.optional(name)?.ok_or_else(|| invalid(name, "is not set"))
    }

    /// An empty variable says as much as none.
    fn optional(&self, name: &'static str) -> Result<Option<String>, CniError> {
        let Some(value) = (self.0)(name).filter(|value| !value.is_empty()) else { return Ok(None) };
        value.into_string().map(Some).map_err(|value| invalid(name, &format!("{value:?} is no UTF-8")))
    }
}

pub(super) fn invalid(name: &str, why: &str) -> CniError {
    CniError::new(Code::InvalidEnvironment, format!("{name}: {why}"))
}
