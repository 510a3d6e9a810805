//! One case on a stage: its steps over both families, and the three answers to each of its probes.

use anyhow::{Context as _, Result};
use sluice_netns::{ALLOW_TIMEOUT, DENY_TIMEOUT, Flow as Question};
use sluice_oracle::cases::{Action, Case, CasesFile, Expectation, Family, OutOfScope, Place, State, Want};
use sluice_oracle::{Cluster, Flow, Origin, Protocol, judge};

use super::capability::Capability;
use super::cell::{Cell, Skipped, Verdict};
use super::report::Run;
use super::stage::Stage;
use super::twin::{Blocks, translate};
use super::wire::WireProbe;

/// A way to run a case: the policies as they are written, over both families; or with IPv6 blocks in the place of IPv4
/// ones, over IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    AsWritten,
    Twin,
}

/// The cells of one family in one reading.
#[derive(Clone, Copy, Debug)]
struct Row {
    family: Family,
    label: &'static str,
    /// What the file wants of a connection of the other family holds here too.
    carries_over: bool,
}

/// What running a case brought.
#[derive(Debug, Default)]
pub(super) struct Ran {
    pub(super) runs: Vec<Run>,
    pub(super) skipped: Vec<Skipped>,
}

/// A probe, ready to be asked about.
struct Ask<'a> {
    expectation: &'a Expectation,
    flow: Flow,
    want: Option<Verdict>,
    probe: WireProbe,
    row: usize,
}

/// Why nothing of a case can be run, if so.
pub(super) fn missing_for(case: &Case) -> Option<Capability> {
    let actions = case.steps.iter().flat_map(|step| &step.actions);
    actions.filter_map(Capability::of_action).find(|capability| capability.missing().is_some())
}

/// Runs the whole of a case. What was found before a failure is in `ran` as well.
pub(super) fn run(stage: &mut Stage, file: &CasesFile, case: &Case, ran: &mut Ran) -> Result<()> {
    let blocks = Blocks::of(case);
    let carries_over = !blocks.ipv4 && !blocks.ipv6;
    let label6 = if carries_over { "ipv6" } else { "ipv6, blocks as written" };
    let rows = [
        Row { family: Family::Ipv4, label: "ipv4", carries_over },
        Row { family: Family::Ipv6, label: label6, carries_over },
    ];
    perform(stage, file, case, Reading::AsWritten, &rows, ran)?;
    if blocks.ipv4 && !blocks.ipv6 {
        let rows = [Row { family: Family::Ipv6, label: "ipv6", carries_over: true }];
        perform(stage, file, case, Reading::Twin, &rows, ran)?;
    }
    Ok(())
}

fn perform(
    stage: &mut Stage,
    file: &CasesFile,
    case: &Case,
    reading: Reading,
    rows: &[Row],
    ran: &mut Ran,
) -> Result<()> {
    let mut state = file.start(case)?;
    let first = ran.runs.len();
    ran.runs.extend(rows.iter().map(|row| Run { over: row.label.to_owned(), cells: Vec::new() }));
    stage.settle(&mut state.cluster)?;
    // The cluster as the world is, without policies: nothing of the case before is left.
    let mut shown = state.cluster.clone();
    stage.show(&shown, None)?;
    stage.sync().context("before the first step")?;
    for (number, step) in (1..).zip(&case.steps) {
        let place = || format!("step {number}");
        for action in &step.actions {
            if matches!(action, Action::Words { verb, .. } if verb == "restart_agent") {
                stage.restart_agents().with_context(place)?;
                continue;
            }
            state.act(action).with_context(place)?;
            stage.settle(&mut state.cluster).with_context(place)?;
            let cluster = match reading {
                Reading::AsWritten => state.cluster.clone(),
                Reading::Twin => match translate(&state.cluster) {
                    Ok(twin) => twin,
                    Err(error) => {
                        let what = format!("{} over ipv6 from step {number}", case.id);
                        ran.skipped.push(Skipped { what, reason: format!("{error:#}") });
                        return Ok(());
                    }
                },
            };
            stage.show(&cluster, Some(&shown)).with_context(place)?;
            shown = cluster;
        }
        stage.sync().with_context(place)?;
        let expectations = state.expectations(step).with_context(place)?;
        let asks = asks(stage, &state, &expectations, number, reading, rows, &mut ran.skipped);
        for (row, cell) in answer(stage, &shown, number, asks).with_context(place)? {
            if let Some(run) = ran.runs.get_mut(first + row) {
                run.cells.push(cell);
            }
        }
    }
    Ok(())
}

/// The probes of a step, and what of it cannot be probed.
fn asks<'a>(
    stage: &Stage,
    state: &State,
    expectations: &'a [Expectation],
    number: usize,
    reading: Reading,
    rows: &[Row],
    skipped: &mut Vec<Skipped>,
) -> Vec<Ask<'a>> {
    let mut asks = Vec::new();
    for expectation in expectations {
        let what = || {
            let Expectation { whence, from, to, .. } = expectation;
            format!("step {number} {whence}: {from} -> {to} {}", expectation.pp())
        };
        let mut skip = |reason: String| {
            // Once, whichever reading and family comes first.
            let skip = Skipped { what: what(), reason };
            if !skipped.contains(&skip) {
                skipped.push(skip);
            }
        };
        if let Some(capability) = Capability::of_expectation(expectation) {
            skip(capability.to_string());
            continue;
        }
        let own = match state.connection(expectation, expectation.via) {
            Ok(flow) => Family::of(flow.to),
            Err(reason) => {
                skip(reason.to_string());
                continue;
            }
        };
        for (index, row) in rows.iter().enumerate() {
            let stated = own == row.family;
            if expectation.via.is_some_and(|via| via != row.family) || (stated && reading == Reading::Twin) {
                continue;
            }
            let flow = match state.connection(expectation, Some(row.family)) {
                Ok(flow) => flow,
                // It has the other family alone, and is run over that.
                Err(OutOfScope::NoAddress) => continue,
                Err(reason) => {
                    skip(reason.to_string());
                    continue;
                }
            };
            let want = match expectation.want {
                Want::Allow => Some(Verdict::Allow),
                Want::Deny => Some(Verdict::Deny),
                Want::Choice | Want::Mixed => None,
            };
            match wire_probe(stage, state, expectation, &flow) {
                Ok(probe) => {
                    let want = want.filter(|_| stated || row.carries_over);
                    asks.push(Ask { expectation, flow, want, probe, row: index });
                }
                Err(reason) => skip(reason),
            }
        }
    }
    asks
}

/// The probe of a flow, or why there can be none.
fn wire_probe(
    stage: &Stage,
    state: &State,
    expectation: &Expectation,
    flow: &Flow,
) -> Result<WireProbe, String> {
    let find = |place: &Place, address| {
        let found = stage.namespace(place, address, &state.cluster);
        found.ok_or_else(|| format!("nobody is there to probe: {place} ({address})"))
    };
    let target = find(&expectation.to, flow.to)?;
    let from = match expectation.src_ip {
        None => find(&expectation.from, flow.from)?,
        // The place by an address of its own, and that must be where the source address is.
        Some(source) => {
            let own = state.addresses(&expectation.from).unwrap_or_default();
            let own = own.into_iter().find(|ip| Family::of(*ip) == Family::of(source)).unwrap_or(source);
            let from = find(&expectation.from, own)?;
            if stage.namespace(&Place::Address(source), source, &state.cluster).as_ref() != Some(&from) {
                return Err(Capability::ForeignSource.to_string());
            }
            from
        }
    };
    Ok(WireProbe {
        from,
        source: flow.from,
        target,
        to: flow.to,
        protocol: flow.protocol,
        port: flow.port,
        called: None,
        timeout: DENY_TIMEOUT,
    })
}

/// Asks the three.
fn answer(
    stage: &mut Stage,
    cluster: &Cluster,
    step: usize,
    mut asks: Vec<Ask<'_>>,
) -> Result<Vec<(usize, Cell)>> {
    if asks.is_empty() {
        return Ok(Vec::new());
    }
    let questions: Vec<Question> = asks.iter().map(|ask| question(cluster, &ask.flow)).collect();
    let explanations = stage.explain(&questions)?;
    let oracle: Vec<Option<Verdict>> = asks
        .iter()
        .map(|ask| ask.expectation.oracle.then(|| Verdict::of(judge(cluster, &ask.flow).allowed())))
        .collect();
    for ((ask, oracle), explanation) in asks.iter_mut().zip(&oracle).zip(&explanations) {
        let expected = ask.want.or(*oracle).unwrap_or(Verdict::of(explanation.allows()));
        ask.probe.timeout = if expected == Verdict::Allow { ALLOW_TIMEOUT } else { DENY_TIMEOUT };
    }
    let probes: Vec<WireProbe> = asks.iter().map(|ask| ask.probe.clone()).collect();
    let outcomes = stage.probe(&probes)?;
    let answers = oracle.into_iter().zip(explanations).zip(outcomes);
    Ok(asks
        .iter()
        .zip(answers)
        .map(|(ask, ((oracle, explanation), outcome))| {
            let cell = Cell {
                step,
                whence: ask.expectation.whence,
                from: ask.expectation.from.to_string(),
                to: ask.expectation.to.to_string(),
                pp: ask.expectation.pp(),
                flow: ask.flow.to_string(),
                want: ask.want,
                oracle,
                explain: Verdict::of(explanation.allows()),
                sockets: Verdict::seen(&outcome),
                seen: outcome.to_string(),
                proof: stage.proof(ask.flow.protocol),
            };
            (ask.row, cell)
        })
        .collect())
}

/// The flow as `explain` is asked about it: by addresses, but a node's process by the node, where that is what decides.
fn question(cluster: &Cluster, flow: &Flow) -> Question {
    let home = cluster.pod_at(flow.to).and_then(|pod| pod.node.as_ref());
    let from = match &flow.origin {
        Origin::Node(node) if home == Some(node) => format!("node:{node}"),
        _ => flow.from.to_string(),
    };
    let port = (flow.protocol != Protocol::Icmp).then_some(flow.port);
    Question { from, to: flow.to.to_string(), port, protocol: flow.protocol.to_string() }
}
