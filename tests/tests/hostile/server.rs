//! The same policies from an API server, which looks at an object's size and shape, not at what it costs here.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::json;
use sluice_tests::agent_world::{eventually, policy as manifest, policy_file};
use sluice_tests::cluster_world::ClusterLab;
use sluice_tests::usage::Usage;

use super::objects::{Case, chosen};
use super::{DENY, MOST_MEMORY, OPEN, alone, village, wrong_with};

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn absurd_policies_of_an_api_server_hold_nobody_up() -> Result<()> {
    let _alone = alone();
    let mut cluster = ClusterLab::start(village("slhapi"), &[])?;
    cluster.settle("prod/client prod/web tcp/80 opens v4")?;
    let pid = cluster.lab.agents[0].id();
    let mut report = String::new();
    for Case { name, objects, refused, web } in chosen(1, 4) {
        Usage::forget_peak(pid)?;
        let mut object = objects.into_iter().next().context("no object")?;
        object["metadata"]["uid"] = json!(name);
        cluster.server.put(object)?;
        let began = Instant::now();
        eventually(PATIENCE, || {
            let errors = wrong_with(&cluster.lab)?;
            let told = match refused {
                None => errors.is_empty(),
                Some(why) => errors.iter().any(|error| error.contains(why) && error.contains("dev/absurd")),
            };
            let wrong = cluster.lab.mismatches_of_probes(&format!("prod/client dev/web tcp/80 {web} v4"))?;
            Ok((!told || !wrong.is_empty()).then(|| format!("{wrong:?} {errors:.500?}")))
        })
        .with_context(|| name.to_owned())?;
        let taken = began.elapsed();
        let began = Instant::now();
        for (spec, outcome) in [(DENY, "hangs"), (OPEN, "opens")] {
            cluster.lab.manifests.write(&policy_file("prod/canary"), &manifest("prod/canary", spec))?;
            cluster.write()?;
            eventually(PATIENCE, || {
                let table = format!("prod/client prod/web tcp/80 {outcome} v4");
                let wrong = cluster.lab.mismatches_of_probes(&table)?;
                Ok((!wrong.is_empty()).then(|| format!("{wrong:?}")))
            })
            .with_context(|| format!("beside {name}"))?;
        }
        let peak = Usage::of(pid)?.peak;
        writeln!(
            report,
            "{name}: {taken:.2?}, then two changes {:.2?}, {} MiB",
            began.elapsed(),
            peak >> 20
        )?;
        assert!(peak < MOST_MEMORY, "{name}: {} MiB", peak >> 20);
        cluster.server.delete("networkpolicies", "dev", "absurd")?;
        eventually(PATIENCE, || {
            let errors = wrong_with(&cluster.lab)?;
            let wrong = cluster.lab.mismatches_of_probes("prod/client dev/web tcp/80 opens v4")?;
            Ok((!errors.is_empty() || !wrong.is_empty()).then(|| format!("{wrong:?} {errors:.500?}")))
        })
        .with_context(|| format!("after {name}"))?;
    }
    println!("{report}");
    Ok(())
}
