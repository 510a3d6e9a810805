//! `explain`.

use std::io::{BufRead as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use policy_agent::explain::{Explainer, Explanation, Outcome, PortSpec, Side, Source, parse_batch_line};
use policy_agent::source::{Store, read_folder};

use super::output::{Output, print_json};

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// Folder of manifests: Namespaces, Pods, Nodes, NetworkPolicies, Services, EndpointSlices.
    #[arg(long, env = "SLUICE_MANIFESTS", value_name = "DIR")]
    manifests: PathBuf,
    /// Who opens the connection: namespace/pod, node:NAME (a process of that node), or an address.
    #[arg(long, value_name = "POD|NODE|ADDRESS", required_unless_present = "batch")]
    from: Option<Source>,
    /// Who is called: namespace/pod, node:NAME, or an address.
    #[arg(long, value_name = "POD|NODE|ADDRESS", required_unless_present = "batch")]
    to: Option<Source>,
    /// 80/TCP, 53/UDP, 9003/SCTP, http/TCP (a name that the called pod declares), or ICMP.
    #[arg(long, value_name = "PORT/PROTOCOL", required_unless_present = "batch")]
    port: Option<PortSpec>,
    /// Read one {"from", "to", "port", "protocol"} a line from standard input; print one object a line.
    #[arg(long, conflicts_with_all = ["from", "to", "port"])]
    batch: bool,
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

pub(super) fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let mut store = Store::default();
    store.update(read_folder(&args.manifests));
    for problem in store.problems() {
        anstream::eprintln!("{problem}");
    }
    let explainer = Explainer::new(store.cluster().clone())?;
    if args.batch {
        return batch(&explainer);
    }
    let (Some(from), Some(to), Some(port)) = (&args.from, &args.to, &args.port) else {
        anyhow::bail!("--from, --to and --port are needed, or --batch");
    };
    let explanation = explainer.explain(from, to, port.clone())?;
    match args.output {
        Output::Json => print_json(&explanation)?,
        Output::Text => print_text(&explanation),
    }
    Ok(ExitCode::SUCCESS)
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
        let answer = parse_batch_line(&line).and_then(|(from, to, port)| explainer.explain(&from, &to, port));
        let text = match answer {
            Ok(explanation) => serde_json::to_string(&explanation)?,
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

fn print_text(explanation: &Explanation) {
    let word = |outcome| match outcome {
        Outcome::Allow => "allow",
        Outcome::Deny => "deny",
    };
    let side = |name: &str, side: &Side| {
        anstream::println!("  {name:<8} {:<6} {}", word(side.verdict), side.reason);
    };
    anstream::println!("{}", word(explanation.verdict));
    side("egress", &explanation.egress);
    side("ingress", &explanation.ingress);
}
