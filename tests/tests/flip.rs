//! Policies that change a hundred times (`--long`: a thousand) under traffic that never stops. What all of them allow loses
//! nothing, what all of them deny gets nothing through, counted packet by packet, and what the last one says of what they
//! differ in is so as soon as the agents say that it is enforced.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use sluice_tests::agent_world::Lab;
use sluice_tests::traffic::changes::Changes;
use sluice_tests::traffic::{Old, enforced, under_traffic, world};

fn changes_to_make() -> u32 {
    let set = |name| std::env::var_os(name).is_some();
    match (set("SLUICE_TEST_LONG"), set("SLUICE_TEST_QUICK")) {
        (true, _) => 1000,
        (false, true) => 30,
        (false, false) => 100,
    }
}

fn summary(mut times: Vec<Duration>) -> String {
    times.sort();
    let at =
        |share: usize| times.get(times.len() * share / 100).or(times.last()).copied().unwrap_or_default();
    format!(
        "{} changes, each in {:?} (median), {:?} (95 %), {:?} (longest)",
        times.len(),
        at(50),
        at(95),
        at(100)
    )
}

#[test]
fn changes_of_policy_lose_nothing_that_all_allow_and_let_nothing_through_that_all_deny() -> Result<()> {
    let mut lab = Lab::start(world("slflip"))?;
    let old = Old::open(&lab)?;
    let mut changes = Changes::begin(&lab, 3)?;
    lab.sync()?;
    let mut times = Vec::new();
    under_traffic(&mut lab, old, |lab, switch| {
        for n in 0..changes_to_make() {
            let began = Instant::now();
            changes.next(lab).with_context(|| format!("change {n}"))?;
            enforced(lab).with_context(|| format!("change {n}"))?;
            times.push(began.elapsed());
            switch.ask(changes.is_on()).with_context(|| format!("change {n}"))?;
        }
        Ok(())
    })?;
    println!("{}", summary(times));
    Ok(())
}
