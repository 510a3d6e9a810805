use super::*;

use std::collections::{BTreeSet, HashSet};

/// Everything has happened once.
fn eventful() -> Metrics {
    let metrics = Metrics::new();
    let moment = Duration::from_millis(3);
    metrics.implemented(moment);
    metrics.compiled(moment);
    metrics.planned(moment);
    let address = "10.0.0.1".parse().unwrap();
    let ops = [
        Op::Word { index: 0, value: 1 },
        Op::Barrier,
        Op::Peer { address, class: Some(1) },
        Op::Peer { address, class: None },
        Op::Watch { slot: 0, on: true },
        Op::Slot { ifindex: 7, slot: None },
    ];
    metrics.applied(&ops, 5, moment);
    let stats = WatchStats::default();
    stats.kind(Kind::NetworkPolicy).errors.store(1, Ordering::Relaxed);
    stats.kind(Kind::Pod).heard(EventType::Listed);
    stats.reports_sent.store(1, Ordering::Relaxed);
    metrics.watches(&stats);
    metrics.attach_failed();
    metrics.repaired();
    metrics.protected_after(moment);
    for outcome in Outcome::BOTH {
        metrics.cni_request("ADD", outcome, moment);
    }
    metrics.other_engines(["calico", "cilium"]);
    metrics.other_engines(["cilium"]);
    let packets = |packets| Packets { packets, bytes: packets * 100 };
    metrics.take(&Snapshot {
        drops: vec![(DropReason::Policy, Direction::Ingress, packets(7))],
        forwards: vec![(Direction::Egress, packets(9))],
        endpoints: vec![EndpointState::Enforcing, EndpointState::Enforcing, EndpointState::Failed],
        revision: 4,
        tables: vec![TableStatus {
            table: "peers".to_owned(),
            used: 32,
            capacity: 128,
            bytes: 4096,
            full: true,
        }],
        flows: Some((11, 3)),
        held_policies: 5,
        lost_events: Some(2),
    });
    metrics
}

#[test]
fn what_happened_is_told() {
    let text = eventful().encode(false);
    for line in [
        r#"sluice_drop_count_total{reason="policy",direction="ingress"} 7"#,
        r#"sluice_drop_bytes_total{reason="policy",direction="ingress"} 700"#,
        r#"sluice_forward_count_total{direction="egress"} 9"#,
        r#"sluice_forward_bytes_total{direction="egress"} 900"#,
        r#"sluice_endpoint_state{state="enforcing"} 2"#,
        r#"sluice_endpoint_state{state="waiting"} 0"#,
        r#"sluice_endpoint_state{state="failed"} 1"#,
        "sluice_policy_revision 4",
        r#"sluice_bpf_map_pressure{map_name="peers"} 0.25"#,
        r#"sluice_bpf_map_capacity{map_name="peers"} 128"#,
        r#"sluice_bpf_map_memory_bytes{map_name="peers"} 4096"#,
        r#"sluice_bpf_map_full{map_name="peers"} 1"#,
        "sluice_policies_held_back 5",
        "sluice_flow_table_fragments 3",
        r#"sluice_bpf_map_ops_total{map_name="bits",operation="update",outcome="success"} 1"#,
        r#"sluice_bpf_map_ops_total{map_name="peers",operation="delete",outcome="success"} 1"#,
        r#"sluice_bpf_map_ops_total{map_name="slots",operation="delete",outcome="failure"} 1"#,
        "sluice_plan_writes_sum 5.0",
        "sluice_policy_implementation_delay_seconds_count 1",
        r#"sluice_watch_events_total{kind="Pod",type="listed"} 1"#,
        "sluice_events_lost_total 2",
        r#"sluice_other_policy_engine{engine="cilium"} 1"#,
        "sluice_flow_table_flows 11",
        "sluice_scrape_stale 0",
        concat!("sluice_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
    ] {
        assert!(text.lines().any(|told| told == line), "no {line} in:\n{text}");
    }
    assert!(!text.contains("calico"), "an engine that is gone is not told any more");
}

#[test]
fn totals_of_the_datapath_become_series_for_every_reason() {
    let snapshot = Snapshot::default().with_totals(&Totals::default());
    assert_eq!(snapshot.drops.len(), DropReason::ALL.len() * 2);
    assert_eq!(snapshot.forwards.len(), 2);
}

#[test]
fn the_exposition_obeys_openmetrics() {
    strict(&eventful().encode(true));
    strict(&Metrics::new().encode(false));
}

#[test]
fn every_metric_of_the_exposition_is_in_the_reference_and_the_other_way_round() {
    let text = eventful().encode(false);
    let exposed: BTreeSet<(String, BTreeSet<String>)> =
        families(&text).iter().map(|family| (family.told(), family.labels())).collect();
    let described: BTreeSet<(String, BTreeSet<String>)> = Metrics::new()
        .described
        .iter()
        .map(|metric| (metric.name.clone(), metric.labels.iter().map(|l| (*l).to_owned()).collect()))
        .collect();
    assert_eq!(exposed, described);
}

#[test]
fn the_committed_page_is_this_one() {
    let committed = include_str!("../../../docs/metrics.md");
    assert!(
        committed == reference(),
        "docs/metrics.md is stale: cargo run -p policy-agent -- reference metrics > docs/metrics.md"
    );
}

type Labels = Vec<(String, String)>;

#[derive(Debug, Default)]
struct Family {
    name: String,
    kind: String,
    unit: Option<String>,
    help: Option<String>,
    /// Suffix, labels, value.
    samples: Vec<(String, Labels, f64)>,
}

impl Family {
    fn suffix(&self) -> &'static str {
        match self.kind.as_str() {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        }
    }

    fn told(&self) -> String {
        format!("{}{}", self.name, self.suffix())
    }

    fn labels(&self) -> BTreeSet<String> {
        let labels = self.samples.iter().flat_map(|(_, labels, _)| labels);
        labels.map(|(name, _)| name.clone()).filter(|name| name != "le").collect()
    }
}

/// Reads an exposition; panics at what is no line of OpenMetrics 1.0.
fn families(text: &str) -> Vec<Family> {
    let mut families: Vec<Family> = Vec::new();
    let body = text.strip_suffix("# EOF\n").expect("the end");
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let (word, rest) = rest.split_once(' ').expect("a word");
            let (name, value) = rest.split_once(' ').expect("a name");
            if families.last().is_none_or(|family| family.name != name) {
                families.push(Family { name: name.to_owned(), ..Family::default() });
            }
            let family = families.last_mut().expect("one");
            assert!(family.samples.is_empty(), "{line} after samples");
            match word {
                "HELP" => assert!(family.help.replace(value.to_owned()).is_none(), "{line}: twice"),
                "UNIT" => assert!(family.unit.replace(value.to_owned()).is_none(), "{line}: twice"),
                "TYPE" => {
                    assert!(family.kind.is_empty(), "{line}: twice");
                    family.kind = value.to_owned();
                }
                _ => panic!("{line}"),
            }
            continue;
        }
        let family = families.last_mut().expect("a description before samples");
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').expect("the labels' end")),
            None => (series, ""),
        };
        let labels = labels.split(',').filter(|label| !label.is_empty()).map(|label| {
            let (name, value) = label.split_once("=\"").expect("a label");
            (name.to_owned(), value.strip_suffix('"').expect("a quoted value").to_owned())
        });
        let suffix = name.strip_prefix(&family.name).unwrap_or_else(|| panic!("{line} in {}", family.name));
        let value = if value == "+Inf" { f64::INFINITY } else { value.parse().expect("a number") };
        family.samples.push((suffix.to_owned(), labels.collect(), value));
    }
    families
}

/// OpenMetrics 1.0: names, units, suffixes by type, no series twice, buckets that grow up to +Inf and agree with count.
fn strict(text: &str) {
    let (mut names, mut series) = (HashSet::new(), HashSet::new());
    let is_name = |name: &str| {
        let first = name.starts_with(|c: char| c.is_ascii_lowercase());
        first && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    for family in families(text) {
        let name = &family.name;
        assert!(is_name(name) && names.insert(name.clone()), "{name}: twice, or no name");
        let ours = name.starts_with("sluice_") || name.starts_with("process_");
        assert!(ours && !name.ends_with("_total") && !name.ends_with("_info"), "{name}");
        assert!(family.help.as_ref().is_some_and(|help| help.ends_with('.')), "{name}: no help");
        if let Some(unit) = &family.unit {
            assert!(["seconds", "bytes"].contains(&unit.as_str()), "{name}: unit {unit}");
            assert!(name.ends_with(&format!("_{unit}")), "{name}: its unit is {unit}");
        }
        for other in ["milliseconds", "ms", "kilobytes", "kb", "percent"] {
            assert!(!name.ends_with(&format!("_{other}")), "{name}: no base unit");
        }
        let mut buckets: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
        let mut counts = BTreeMap::new();
        for (suffix, labels, value) in &family.samples {
            assert!(series.insert(format!("{name}{suffix}{labels:?}")), "{name}{suffix} {labels:?}: twice");
            assert!(labels.iter().all(|(label, _)| is_name(label)), "{name}: {labels:?}");
            let at = |labels: &Labels| -> Labels {
                labels.iter().filter(|(label, _)| label != "le").cloned().collect()
            };
            match (family.kind.as_str(), suffix.as_str()) {
                ("counter", "_total") => assert!(*value >= 0.0, "{name}: {value}"),
                ("gauge", "") => assert!(value.is_finite(), "{name}: {value}"),
                ("info", "_info") => assert_eq!(*value, 1.0, "{name}"),
                ("histogram", "_sum") => assert!(*value >= 0.0, "{name}: {value}"),
                ("histogram", "_count") => {
                    counts.insert(at(labels), *value);
                }
                ("histogram", "_bucket") => {
                    let (_, bound) = labels.iter().find(|(label, _)| label == "le").expect("a bound");
                    let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().expect("a bound") };
                    buckets.entry(at(labels)).or_default().push((bound, *value));
                }
                other => panic!("{name}: {other:?}"),
            }
        }
        assert_eq!(buckets.len(), counts.len(), "{name}");
        for (labels, buckets) in buckets {
            assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{name}: {buckets:?}");
            assert_eq!(buckets.last(), Some(&(f64::INFINITY, counts[&labels])), "{name}");
        }
    }
    assert!(names.len() > 10, "{names:?}");
}
