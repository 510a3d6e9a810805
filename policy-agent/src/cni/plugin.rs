//! The operations of the CNI specification.

use std::ffi::OsString;
use std::time::Duration;

use super::client;
use super::config::{Input, Settings};
use super::environment::{Command, Environment, Interface, PodArgs, invalid};
use super::error::{CniError, Code};
use super::protocol::{Attachment, CniReply, CniRequest, Unready};
use super::version::Version;

/// What the plugin says when a person starts it.
pub const ABOUT: &str = concat!(
    "sluice ",
    env!("CARGO_PKG_VERSION"),
    ": a CNI plugin that lets pods start with their network policy in force.\n",
    "Container runtimes execute it, with CNI_COMMAND and its companions in the environment (CNI specification 1.1).\n",
    "`policy-agent cni install` puts it behind the network's plugins; see `policy-agent cni install --help`."
);

/// What an agent that answers at once is given: for questions that nobody should wait for.
const SHORT: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Answer {
    /// For standard output.
    pub(super) output: String,
    /// Lines for standard error.
    pub(super) notes: Vec<String>,
    pub(super) failed: bool,
}

impl From<CniError> for Answer {
    fn from(error: CniError) -> Self {
        Self::failure(&error, None)
    }
}

impl Answer {
    fn failure(error: &CniError, version: Option<Version>) -> Self {
        let notes = vec![format!("{} {}", error.message, error.details).trim().to_owned()];
        Self { output: error.to_json(version) + "\n", notes, failed: true }
    }
}

/// Answers a call of the runtime.
pub(super) fn answer(variable: impl Fn(&str) -> Option<OsString>, input: &[u8]) -> Answer {
    let environment = Environment(variable);
    let mut version = None;
    let mut notes = Vec::new();
    match operate(&environment, input, &mut version, &mut notes) {
        Ok(output) => Answer { output, notes, failed: false },
        Err(error) => {
            let mut answer = Answer::failure(&error, version);
            answer.notes.splice(0..0, notes);
            answer
        }
    }
}

fn operate<F: Fn(&str) -> Option<OsString>>(
    environment: &Environment<F>,
    input: &[u8],
    version: &mut Option<Version>,
    notes: &mut Vec<String>,
) -> Result<String, CniError> {
    let command = environment.command()?;
    let input = Input::parse(input)?;
    if command == Command::Version {
        return Ok(versions(&input));
    }
    let spoken = input.version()?;
    *version = Some(spoken);
    let since = match command {
        Command::Check => Version::V0_4_0,
        Command::Gc | Command::Status => Version::V1_1_0,
        Command::Add | Command::Del | Command::Version => Version::V0_3_1,
    };
    if spoken < since {
        let message = format!("{command:?} is not in version {} of CNI", spoken.name());
        return Err(CniError::new(Code::IncompatibleVersion, message));
    }
    let settings = input.settings()?;
    match command {
        Command::Add => add(&environment.interface()?, &input, settings, notes),
        Command::Check => check(&environment.interface()?, &input, &settings).map(|()| String::new()),
        Command::Del => {
            let id = environment.interface()?.id;
            tell(&settings, CniRequest::Delete(id), notes);
            Ok(String::new())
        }
        Command::Gc => {
            let valid = input.valid_attachments()?;
            tell(&settings, CniRequest::Gc { valid }, notes);
            Ok(String::new())
        }
        Command::Status => status(&settings, notes).map(|()| String::new()),
        Command::Version => Ok(versions(&input)),
    }
}

fn versions(input: &Input<'_>) -> String {
    let spoken = input.version().unwrap_or(Version::NEWEST).name();
    let answer = serde_json::json!({
        "cniVersion": spoken,
        "supportedVersions": Version::ALL.map(Version::name),
    });
    format!("{answer}\n")
}

/// Whoever runs next sees the result as if this plugin were not there.
fn add(
    interface: &Interface,
    input: &Input<'_>,
    settings: Settings,
    notes: &mut Vec<String>,
) -> Result<String, CniError> {
    let result = format!("{}\n", input.previous_result()?);
    let Some(pod) = &interface.pod else {
        notes.push("CNI_ARGS names no pod: nothing to enforce".to_owned());
        return Ok(result);
    };
    let attachment = attachment(interface, pod, input)?;
    let unready = settings.unready;
    let reply = client::ask(&settings.socket, settings.timeout, move |left| CniRequest::Add {
        attachment: attachment.clone(),
        timeout_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
        unready,
    });
    let name = format!("{}/{}", pod.name.namespace, pod.name.name);
    let problem = match reply {
        Ok(CniReply::Enforced { .. }) => return Ok(result),
        Ok(CniReply::Closed { reason }) => {
            notes.push(format!("pod {name} starts closed: {reason}"));
            return Ok(result);
        }
        Ok(CniReply::Open { reason }) => {
            notes.push(format!("pod {name} starts open: {reason}"));
            return Ok(result);
        }
        Ok(CniReply::Missing { reason } | CniReply::NotReady { reason }) => reason,
        Ok(CniReply::Done | CniReply::Ready) => "the agent answered another question".to_owned(),
        Err(why) => why,
    };
    match unready {
        Unready::Open => {
            notes.push(format!("pod {name} starts OPEN, as \"unready\": \"open\" says: {problem}"));
            Ok(result)
        }
        Unready::Closed => {
            let message = format!("the policy of pod {name} is not in force yet");
            Err(CniError::new(Code::TryAgain, message).details(problem))
        }
    }
}

fn check(interface: &Interface, input: &Input<'_>, settings: &Settings) -> Result<(), CniError> {
    input.previous_result()?;
    let Some(pod) = &interface.pod else { return Ok(()) };
    let attachment = attachment(interface, pod, input)?;
    let name = format!("{}/{}", pod.name.namespace, pod.name.name);
    match client::ask(&settings.socket, SHORT, move |_| CniRequest::Check(attachment.clone())) {
        Ok(CniReply::Enforced { .. } | CniReply::Closed { .. } | CniReply::Open { .. }) => Ok(()),
        Ok(CniReply::Missing { reason }) => {
            let message = format!("the policy of pod {name} is not in force");
            Err(CniError::new(Code::NotEnforced, message).details(reason))
        }
        Ok(CniReply::NotReady { reason }) | Err(reason) => {
            let message = format!("whether the policy of pod {name} is in force cannot be told now");
            Err(CniError::new(Code::TryAgain, message).details(reason))
        }
        Ok(CniReply::Done | CniReply::Ready) => {
            Err(CniError::new(Code::TryAgain, "the agent answered another question"))
        }
    }
}

/// DEL and GC succeed without an agent: what is enforced goes with the interface that it hangs on, and a pod that
/// can't be deleted is worse than an attachment that the agent forgets later by itself.
fn tell(settings: &Settings, request: CniRequest, notes: &mut Vec<String>) {
    match client::ask(&settings.socket, Duration::ZERO, move |_| request.clone()) {
        Ok(CniReply::Done) => {}
        Ok(other) => notes.push(format!("the agent answered another question: {other:?}")),
        Err(why) => notes.push(format!("not told: {why}")),
    }
}

fn status(settings: &Settings, notes: &mut Vec<String>) -> Result<(), CniError> {
    let reason = match client::ask(&settings.socket, SHORT.min(settings.timeout), |_| CniRequest::Ready) {
        Ok(CniReply::Ready) => return Ok(()),
        Ok(CniReply::NotReady { reason }) | Err(reason) => reason,
        Ok(_) => "the agent answered another question".to_owned(),
    };
    // Pods start without the agent there: the node is not to be called unready for it.
    if settings.unready == Unready::Open {
        notes.push(format!("pods start OPEN, as \"unready\": \"open\" says: {reason}"));
        return Ok(());
    }
    Err(CniError::new(Code::NotAvailable, "no pod can be given its policy now").details(reason))
}

fn attachment(interface: &Interface, pod: &PodArgs, input: &Input<'_>) -> Result<Attachment, CniError> {
    let netns = interface.netns.clone().ok_or_else(|| invalid("CNI_NETNS", "is not set"))?;
    Ok(Attachment {
        container_id: interface.id.container_id.clone(),
        netns,
        ifname: interface.id.ifname.clone(),
        pod: pod.name.clone(),
        uid: pod.uid.clone(),
        addresses: input.addresses()?,
    })
}
