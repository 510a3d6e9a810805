//! The public conformance cases on real pods, and proof that the runner can fail.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed, in its helpers too")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::Result;
use sluice_kubeproxy::Mode;
use sluice_netns::Network;
use sluice_tests::agent_world::agent_binary;
use sluice_tests::conformance::{
    CaseReport, CaseResult, Options, Report, failure, public_cases, render, run, write_junit,
};

fn run_file(path: &Path, filter: Option<&str>) -> Result<Report> {
    let filter = filter.map(str::to_owned);
    run(&Options { filter, ..Options::new(vec![path.to_owned()]) }, |_| {})
}

fn ids(report: &Report, result: CaseResult) -> BTreeSet<&str> {
    let cases = report.cases.iter().filter(|case| case.result == result);
    cases.map(|case| case.id.as_str()).collect()
}

#[test]
fn every_network_policy_case_of_the_public_file_passes() -> Result<()> {
    let report = run_file(&public_cases(), None)?;
    println!("{}", render(&report));
    assert_eq!(ids(&report, CaseResult::Failed), BTreeSet::new());
    let numbers = |prefix: &str, count: usize| -> BTreeSet<String> {
        (1..=count).map(|number| format!("{prefix}-{number:02}")).collect()
    };
    let owned = |ids: BTreeSet<&str>| -> BTreeSet<String> { ids.into_iter().map(str::to_owned).collect() };
    assert_eq!(owned(ids(&report, CaseResult::Passed)), numbers("e2e", 48));
    assert_eq!(owned(ids(&report, CaseResult::NotRun)), numbers("cnp", 24));
    for case in report.cases.iter().filter(|case| case.result == CaseResult::Passed) {
        assert_eq!(case.not_run, [], "{}", case.id);
        // Over both families, with the file's expectation for every probe.
        for over in ["ipv4", "ipv6"] {
            let stated = case.runs.iter().find(|run| run.over == over).unwrap();
            assert!(stated.cells.iter().all(|cell| cell.want.is_some()), "{} over {over}", case.id);
        }
    }
    Ok(())
}

/// Cases over another network than VXLAN, which all of them run over: ten of them, and all in the long form.
fn over(network: Network, cni_plugins: bool) -> Result<()> {
    let long = std::env::var_os("SLUICE_TEST_LONG").is_some();
    let filter = if long { "e2e-" } else { "e2e-3" };
    let mut options = Options { filter: Some(filter.to_owned()), ..Options::new(vec![public_cases()]) };
    options.base = options.base.network(network);
    if cni_plugins {
        options.base = options.base.cni_plugins();
    }
    let report = run(&options, |_| {})?;
    println!("{}", render(&report));
    assert_eq!(ids(&report, CaseResult::Failed), BTreeSet::new());
    assert_eq!(ids(&report, CaseResult::Passed).len(), if long { 48 } else { 10 });
    Ok(())
}

#[test]
fn cases_over_vxlan_with_direct_routing() -> Result<()> {
    over(Network::VxlanDirectRouting, false)
}

#[test]
fn cases_over_host_gw_by_the_bridge_plugin() -> Result<()> {
    over(Network::HostGw, true)
}

#[test]
fn cases_over_ipip() -> Result<()> {
    over(Network::Ipip, false)
}

#[test]
fn cases_over_routed_veths() -> Result<()> {
    over(Network::Routed, false)
}

#[test]
fn cases_over_routes_by_the_ptp_plugin() -> Result<()> {
    over(Network::Routed, true)
}

/// Every pod by its Service: another address and another port than its own, with kube-proxy behind the agent.
fn through(mode: Mode, prefix: &str, count: usize) -> Result<()> {
    let options = Options {
        filter: Some(prefix.to_owned()),
        services: Some(mode),
        ..Options::new(vec![public_cases()])
    };
    let report = run(&options, |_| {})?;
    println!("{}", render(&report));
    assert_eq!(ids(&report, CaseResult::Failed), BTreeSet::new());
    assert_eq!(ids(&report, CaseResult::Passed).len(), count);
    Ok(())
}

#[test]
fn every_network_policy_case_passes_through_services_behind_nftables() -> Result<()> {
    through(Mode::Nftables, "e2e-", 48)
}

/// Ten of them; all in the long form.
#[test]
fn cases_through_services_behind_iptables() -> Result<()> {
    let long = std::env::var_os("SLUICE_TEST_LONG").is_some();
    through(Mode::Iptables, if long { "e2e-" } else { "e2e-2" }, if long { 48 } else { 10 })
}

/// A copy of the public file with `right` of one case replaced.
fn mutated(folder: &Path, case: &str, right: &str, wrong: &str) -> std::path::PathBuf {
    let text = fs::read_to_string(public_cases()).unwrap();
    let start = text.find(&format!("- id: {case}\n")).unwrap();
    let end = text[start + 1..].find("\n- id: ").unwrap() + start + 1;
    let (head, body, tail) = (&text[..start], &text[start..end], &text[end..]);
    assert_eq!(body.matches(right).count(), 1, "{case} has one {right:?}");
    let path = folder.join("mutated.yaml");
    fs::write(&path, format!("{head}{}{tail}", body.replace(right, wrong))).unwrap();
    path
}

fn only(report: &Report) -> &CaseReport {
    assert_eq!(report.cases.len(), 1);
    report.cases.first().unwrap()
}

#[test]
fn a_wrong_expectation_is_reported_cell_by_cell() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = mutated(folder.path(), "e2e-33", "grid: -X/X-", "grid: -./X-");
    let report = run_file(&path, Some("e2e-33"))?;
    let case = only(&report);
    assert_eq!(case.result, CaseResult::Failed);
    for run in &case.runs {
        let wrong: Vec<_> = run.cells.iter().filter(|cell| !cell.agrees()).collect();
        assert_eq!((wrong.len(), run.cells.len()), (1, 4), "{}", run.over);
        let cell = wrong[0];
        assert_eq!((cell.step, cell.from.as_str(), cell.to.as_str()), (1, "x/a", "y/a"));
        assert!(!cell.oracle_agrees() && !cell.explain_agrees() && !cell.sockets_agree());
    }
    let text = failure(case);
    let row = text.lines().find(|line| line.contains("> ")).unwrap();
    assert_eq!(row.split_whitespace().collect::<Vec<_>>(), [">", "x/a", "-.", "-X", "-X", "-X"], "{text}");
    assert!(text.contains("the file says allow, oracle deny, explain deny, sockets: timed out"), "{text}");

    let (junit, json) = (folder.path().join("junit.xml"), folder.path().join("report.json"));
    write_junit(&report, &junit)?;
    report.write_json(&json)?;
    let junit = fs::read_to_string(junit)?;
    assert!(junit.contains(r#"tests="2""#) && junit.contains(r#"failures="2""#), "{junit}");
    let json: serde_json::Value = serde_json::from_str(&fs::read_to_string(json)?)?;
    assert_eq!(json["cases"][0]["result"], "failed");
    assert_eq!(json["cases"][0]["runs"][0]["cells"][0]["explain"], "deny");
    Ok(())
}

#[test]
fn a_policy_that_is_not_what_the_case_says_is_noticed_by_all_three() -> Result<()> {
    let folder = tempfile::tempdir()?;
    // SCTP, which goes another way: the rule names the wrong port.
    let path = mutated(folder.path(), "e2e-47", "port: 81", "port: 82");
    let report = run_file(&path, Some("e2e-47"))?;
    let case = only(&report);
    assert_eq!(case.result, CaseResult::Failed);
    for run in &case.runs {
        assert!(run.cells.iter().any(|cell| !cell.oracle_agrees() && !cell.explain_agrees()));
        assert!(run.cells.iter().any(|cell| !cell.sockets_agree() && cell.seen == "timed out"));
    }
    Ok(())
}

/// `explain` and the oracle read the manifests; only sockets tell what is enforced.
#[test]
fn an_agent_that_enforces_nothing_is_noticed_by_the_sockets() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (empty, script) = (folder.path().join("empty"), folder.path().join("agent"));
    fs::create_dir(&empty)?;
    let real = agent_binary()?;
    // `run --manifests FOLDER ...` sees another folder than `explain`.
    let text = format!(
        "#!/bin/sh\nif [ \"$1\" = run ]; then shift 3; exec {} run --manifests {} \"$@\"; fi\nexec {} \"$@\"\n",
        real.display(),
        empty.display(),
        real.display()
    );
    fs::write(&script, text)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let filter = Some("e2e-48".to_owned());
    let options = Options { filter, agent: Some(script), ..Options::new(vec![public_cases()]) };
    let report = run(&options, |_| {})?;
    let case = only(&report);
    assert_eq!((case.result, &case.error), (CaseResult::Failed, &None));
    for run in &case.runs {
        assert!(run.cells.iter().all(|cell| cell.oracle_agrees() && cell.explain_agrees()));
        let leaks: Vec<_> = run.cells.iter().filter(|cell| !cell.sockets_agree()).collect();
        assert_eq!(leaks.len(), 1, "{}", run.over);
        assert_eq!(
            (leaks[0].from.as_str(), leaks[0].to.as_str(), leaks[0].seen.as_str()),
            ("x/b", "x/a", "open")
        );
    }
    Ok(())
}

#[test]
fn what_the_public_file_does_not_use_is_run_or_named() -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/runner.yaml");
    let report = run_file(&path, None)?;
    println!("{}", render(&report));
    assert_eq!(ids(&report, CaseResult::Failed), BTreeSet::from(["run-unreadable"]));
    let case = |id: &str| report.cases.iter().find(|case| case.id == id).unwrap();
    assert!(case("run-unreadable").error.as_ref().unwrap().contains("unknown field `colour`"));
    let reasons: Vec<&str> = case("run-some").not_run.iter().map(|skip| skip.reason.as_str()).collect();
    assert_eq!(reasons.len(), 6, "{reasons:?}");
    for (reason, word) in reasons.iter().zip(["svc:", "nodeport:", "mixed", "packet", "flow", "src_ip"]) {
        assert!(reason.contains(word), "{reason} lacks {word}");
    }
    assert!(case("run-cnp").not_run[0].reason.contains("ClusterNetworkPolicy"));
    Ok(())
}
