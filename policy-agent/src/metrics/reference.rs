//! docs/metrics.md, from what is registered.

use std::fmt::Write as _;

use policy_common::DropReason;

use super::{Metrics, Outcome};
use crate::agent::EndpointState;
use crate::source::Kind;
use crate::source::cluster::{EventType, Relist};

const HEAD: &str = "\
# Metrics

<!-- Generated: `policy-agent reference metrics > docs/metrics.md`. A test compares. -->

`/metrics` of `--metrics-address` serves OpenMetrics to whoever accepts it, and Prometheus' older text format to all others.
What the datapath counts is kept from one agent to the next; all else begins at zero with the agent. A histogram has
`_bucket`, `_sum` and `_count`. A metric with labels is there once it has a value.

| Metric | Type | Labels | |
|---|---|---|---|
";

/// The page.
pub fn reference() -> String {
    let mut page = HEAD.to_owned();
    for metric in &*Metrics::new().described {
        let _ = writeln!(
            page,
            "| `{}` | {} | {} | {}. |",
            metric.name,
            metric.kind,
            quoted(metric.labels.iter().copied()),
            metric.help
        );
    }
    page.push_str("\n## Values of labels\n\n");
    for (label, values) in [
        ("direction", quoted(["ingress", "egress"])),
        ("outcome", quoted(Outcome::BOTH.map(Outcome::name))),
        ("reason", quoted(DropReason::ALL.map(DropReason::name))),
        ("state", quoted(EndpointState::ALL.map(EndpointState::name))),
        ("type", quoted(EventType::ALL.map(EventType::name))),
        ("kind", quoted(Kind::ALL.map(Kind::name))),
        ("cause", quoted(Relist::ALL.map(Relist::name))),
    ] {
        let _ = writeln!(page, "- `{label}`: {values}");
    }
    page
}

fn quoted<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    words.into_iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}
