//! The agent's own account of a verdict, from `policy-agent explain`.

use std::fmt;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// A question: may `from` open a connection to `to`?
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Flow {
    /// `namespace/pod` or an address.
    pub from: String,
    /// `namespace/pod` or an address.
    pub to: String,
    /// The port, for protocols that have them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// `TCP`, `UDP`, `SCTP` or `ICMP`.
    pub protocol: String,
}

impl Flow {
    /// What `--port` is given: `80/TCP`, or `ICMP`.
    #[must_use]
    pub fn port_argument(&self) -> String {
        match self.port {
            Some(port) => format!("{port}/{}", self.protocol),
            None => self.protocol.clone(),
        }
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {} {}", self.from, self.to, self.port_argument())
    }
}

/// The verdict on one direction.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Side {
    /// `allow` or `deny`.
    pub verdict: String,
    /// The policy that decided, as `namespace/name`.
    pub policy: Option<String>,
    /// The rule of that policy.
    pub rule: Option<String>,
    /// The reason in words.
    #[serde(default)]
    pub reason: Option<String>,
}

/// The verdict on a flow.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Explanation {
    /// `allow` or `deny`.
    pub verdict: String,
    /// At the pod that opens the flow.
    pub egress: Side,
    /// At the pod that it goes to.
    pub ingress: Side,
}

impl Explanation {
    /// Whether the flow is allowed.
    #[must_use]
    pub fn allows(&self) -> bool {
        self.verdict == "allow"
    }
}

/// Asks about one flow.
pub fn explain(agent: &Path, manifests: &Path, flow: &Flow) -> Result<Explanation> {
    let mut command = Command::new(agent);
    command.arg("explain").arg("--manifests").arg(manifests);
    command.args([
        "--from",
        &flow.from,
        "--to",
        &flow.to,
        "--port",
        &flow.port_argument(),
        "--output",
        "json",
    ]);
    let output = command.output().with_context(|| format!("cannot run {}", agent.display()))?;
    let answer = successful(&output).with_context(|| format!("policy-agent explain of {flow}"))?;
    serde_json::from_slice(answer)
        .with_context(|| format!("policy-agent explain of {flow}: not the expected JSON"))
}

/// Asks about many flows in one call.
pub fn explain_batch(agent: &Path, manifests: &Path, flows: &[Flow]) -> Result<Vec<Explanation>> {
    let mut questions = Vec::new();
    for flow in flows {
        serde_json::to_writer(&mut questions, flow)?;
        questions.push(b'\n');
    }
    let mut command = Command::new(agent);
    command.arg("explain").arg("--manifests").arg(manifests).arg("--batch");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run {}", agent.display()))?;
    let input = child.stdin.take();
    let output = thread::scope(|scope| {
        // Answers come while questions still go: written and read by one thread, full pipes would wait for each other.
        scope.spawn(move || input.map(|mut input| input.write_all(&questions)));
        child.wait_with_output()
    })?;
    let answers = successful(&output).with_context(|| {
        // Which questions it doesn't understand it says in their places.
        let text = String::from_utf8_lossy(&output.stdout);
        let errors: Vec<&str> = text.lines().filter(|line| line.contains("\"error\"")).collect();
        format!("policy-agent explain --batch: {}", errors.join(" "))
    })?;
    let answers = serde_json::Deserializer::from_slice(answers)
        .into_iter()
        .collect::<Result<Vec<Explanation>, _>>()
        .context("policy-agent explain --batch: not the expected JSON")?;
    ensure!(
        answers.len() == flows.len(),
        "policy-agent explain --batch: {} answers to {} questions",
        answers.len(),
        flows.len()
    );
    Ok(answers)
}

/// The standard output of a program that succeeded.
pub(crate) fn successful(output: &Output) -> Result<&[u8]> {
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}", output.status, words.trim());
    }
    Ok(&output.stdout)
}
