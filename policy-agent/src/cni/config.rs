//! What a runtime says on standard input: our entry of its network configuration, with the result of the plugins before.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::error::{CniError, Code};
use super::protocol::{AttachmentId, Unready};
use super::version::Version;
use super::{DEFAULT_SOCKET, INPUT_BYTES};

/// How long ADD waits unless something else is configured.
pub(super) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// The agent waits no longer, and the kubelet gives up on its runtime after two minutes.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);

/// The whole input, its values still as they were written.
#[derive(Debug)]
pub(super) struct Input<'a>(BTreeMap<String, &'a RawValue>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) socket: PathBuf,
    pub(super) timeout: Duration,
    pub(super) unready: Unready,
}

impl<'a> Input<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, CniError> {
        let decode = |why: String| CniError::new(Code::Decode, format!("the network configuration: {why}"));
        if u64::try_from(bytes.len()).is_ok_and(|length| length > INPUT_BYTES) {
            return Err(decode(format!("more than {INPUT_BYTES} bytes")));
        }
        serde_json::from_slice(bytes).map(Self).map_err(|error| decode(error.to_string()))
    }

    /// Without one it is of a version before 0.2.0.
    pub(super) fn version(&self) -> Result<Version, CniError> {
        let text: Option<String> = self.key("cniVersion")?;
        text.as_deref().and_then(Version::parse).ok_or_else(|| {
            let found = text.map_or("there is none".to_owned(), |text| format!("{text:?}"));
            CniError::new(
                Code::IncompatibleVersion,
                format!("cniVersion: {found}; supported: {}", Version::names()),
            )
        })
    }

    pub(super) fn settings(&self) -> Result<Settings, CniError> {
        let socket = self.key("socket")?.unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET));
        if !socket.is_absolute() || SocketAddr::from_pathname(&socket).is_err() {
            return Err(invalid("socket", &format!("{} is no absolute path of a socket", socket.display())));
        }
        let timeout = match self.key::<String>("timeout")? {
            None => DEFAULT_TIMEOUT,
            Some(text) => parse_timeout(&text).map_err(|why| invalid("timeout", &why))?,
        };
        Ok(Settings { socket, timeout, unready: self.key("unready")?.unwrap_or_default() })
    }

    /// As it was written: the plugin passes it on unchanged.
    pub(super) fn previous_result(&self) -> Result<&'a str, CniError> {
        let raw = self.0.get("prevResult").map(|raw| raw.get()).filter(|text| *text != "null");
        raw.ok_or_else(|| {
            invalid("prevResult", "there is none: chain this plugin behind one that makes the interface")
        })
    }

    /// The container's addresses in the previous result.
    pub(super) fn addresses(&self) -> Result<Vec<IpAddr>, CniError> {
        #[derive(Deserialize)]
        struct Previous {
            ips: Option<Vec<Address>>,
            interfaces: Option<Vec<Interface>>,
        }
        #[derive(Deserialize)]
        struct Address {
            address: String,
            interface: Option<i64>,
        }
        #[derive(Deserialize)]
        struct Interface {
            sandbox: Option<String>,
        }
        let previous: Previous = self.key("prevResult")?.unwrap_or(Previous { ips: None, interfaces: None });
        let interfaces = previous.interfaces.unwrap_or_default();
        let mut addresses = Vec::new();
        for (n, ip) in previous.ips.unwrap_or_default().into_iter().enumerate() {
            let net: IpNet = ip.address.parse().map_err(|_| {
                invalid(
                    &format!("prevResult.ips[{n}].address"),
                    &format!("{:?} is no address/length", ip.address),
                )
            })?;
            let bearer = ip.interface.and_then(|index| interfaces.get(usize::try_from(index).ok()?));
            // What is in no sandbox is on the node: a bridge's own address, for one.
            let on_node =
                bearer.is_some_and(|bearer| bearer.sandbox.as_deref().unwrap_or_default().is_empty());
            if !on_node && !addresses.contains(&net.addr()) {
                addresses.push(net.addr());
            }
        }
        Ok(addresses)
    }

    /// What GC may leave. Without the list everything would have to go, so it is an error.
    pub(super) fn valid_attachments(&self) -> Result<Vec<AttachmentId>, CniError> {
        #[derive(Deserialize)]
        struct Valid {
            #[serde(rename = "containerID")]
            container_id: String,
            ifname: String,
        }
        const KEY: &str = "cni.dev/valid-attachments";
        let valid: Vec<Valid> = self.key(KEY)?.ok_or_else(|| invalid(KEY, "there is none"))?;
        let id = |Valid { container_id, ifname }| AttachmentId { container_id, ifname };
        Ok(valid.into_iter().map(id).collect())
    }

    fn key<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, CniError> {
        let Some(raw) = self.0.get(key) else { return Ok(None) };
        serde_json::from_str(raw.get()).map_err(|error| invalid(key, &error.to_string()))
    }
}

fn invalid(key: &str, why: &str) -> CniError {
    CniError::new(Code::InvalidConfig, format!("{key}: {why}"))
}

/// Whole milliseconds, seconds or minutes: `500ms`, `5s`, `1m`.
pub fn parse_timeout(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time such as 500ms or 5s");
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let milliseconds = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        _ => return Err(wrong()),
    };
    let timeout = milliseconds.map(Duration::from_millis).filter(|timeout| *timeout <= LONGEST_TIMEOUT);
    timeout.ok_or_else(|| format!("{text:?} is more than {LONGEST_TIMEOUT:?}"))
}

/// The inverse of [`parse_timeout`], to the millisecond.
pub(super) fn format_timeout(timeout: Duration) -> String {
    match timeout.as_millis() {
        ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
        ms => format!("{ms}ms"),
    }
}
