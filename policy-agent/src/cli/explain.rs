//! `explain`.

use std::io::{BufRead as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use clap::error::ErrorKind;
use policy_agent::explain::{
    Answer, Called, Explainer, PortSpec, QueryError, Question, Source, parse_batch_line,
};
use policy_agent::source::{Store, read_folder};

use super::explanation::print_text;
use super::output::{Output, print_json};

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// Folder of manifests: Namespaces, Pods, Nodes, NetworkPolicies, Services, EndpointSlices.
    #[arg(long, env = "SLUICE_MANIFESTS", value_name = "DIR")]
    manifests: PathBuf,
    /// Who opens the connection: namespace/pod, node:NAME (a process of that node), or an address.
    #[arg(long, value_name = "POD|NODE|ADDRESS", required_unless_present = "batch")]
    from: Option<Source>,
    /// Who is called: namespace/pod, node:NAME, an address, or svc/NAMESPACE/NAME:PORT.
    ///
    /// PORT is a number or name of the Service's; /TCP, /UDP or /SCTP behind it tells ports of one number apart. The answer
    /// has a verdict for each endpoint that kube-proxy on the client's node picks from; so has the one about an address and
    /// port that lead to a Service from there: cluster IP, external IP, load balancer's IP, node port.
    #[arg(long, value_name = "POD|NODE|ADDRESS|SERVICE", required_unless_present = "batch")]
    to: Option<Called>,
    /// 80/TCP, 53/UDP, 9003/SCTP, http/TCP (a name that the called pod declares), or ICMP. Not with svc/...
    #[arg(long, value_name = "PORT/PROTOCOL")]
    port: Option<PortSpec>,
    /// Read one {"from", "to", "port", "protocol"} a line from standard input; print one object a line.
    ///
    /// For a Service, {"from", "to"}.
    #[arg(long, conflicts_with_all = ["from", "to", "port"])]
    batch: bool,
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

pub(super) fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let question = question(args);
    let mut store = Store::default();
    store.update(read_folder(&args.manifests));
    for problem in store.problems() {
        anstream::eprintln!("{problem}");
    }
    let explainer = Explainer::new(store.cluster().clone())?;
    let Some(question) = question else { return batch(&explainer) };
    let answer = explainer.answer(&question)?;
    match args.output {
        Output::Json => print_json(&answer)?,
        Output::Text => print_text(&answer),
    }
    Ok(ExitCode::SUCCESS)
}

/// None where questions come as a batch. That a port is missing, or one too many, is bad usage like any other, although
/// only the destination tells.
fn question(args: &ExplainArgs) -> Option<Question> {
    let (from, to) = (args.from.clone()?, args.to.clone()?);
    let kind = |error: &QueryError| match error {
        QueryError::PortMissing(_) => ErrorKind::MissingRequiredArgument,
        _ => ErrorKind::ArgumentConflict,
    };
    let checked = Question::new(from, to, args.port.clone());
    Some(checked.unwrap_or_else(|error| clap::Error::raw(kind(&error), format!("{error}\n")).exit()))
}

/// A line that is no question is answered by one that says so, and makes the whole fail at the end.
fn batch(explainer: &Explainer) -> anyhow::Result<ExitCode> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut code = ExitCode::SUCCESS;
    for line in std::io::stdin().lock().lines() {
        let line = line.context("reading standard input")?;
        if line.trim().is_empty() {
            continue;
        }
        let answer = parse_batch_line(&line).and_then(|question| explainer.answer(&question));
        let text = match answer {
            Ok(answer) => serde_json::to_string::<Answer>(&answer)?,
            Err(error) => {
                code = ExitCode::FAILURE;
                serde_json::json!({ "error": error.to_string() }).to_string()
            }
        };
        // A program that asks and waits for the answer must not wait for the next question.
        writeln!(out, "{text}").and_then(|()| out.flush()).context("writing the answer")?;
    }
    Ok(code)
}
