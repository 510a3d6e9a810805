//! SIGKILL at random moments: while changes are written, while the next agent starts, one agent or both.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sluice_netns::PodSpec;

use crate::rig::{Field, alone, field, seeded, times};
use sluice_tests::random::Random;

/// Longer than a change of this size takes.
const WRITING: Duration = Duration::from_millis(8);
/// Longer than an agent needs to see a change by itself, and than it takes to start.
const STARTING: Duration = Duration::from_millis(300);

fn within(random: &mut Random, longest: Duration) -> Duration {
    let micros = usize::try_from(longest.as_micros()).unwrap_or(usize::MAX);
    Duration::from_micros(random.below(micros) as u64)
}

/// A pod that no traffic is about comes or goes.
fn come_or_go(field: &mut Field<'_>) -> Result<()> {
    if let Ok(late) = field.lab.world.pod("other/late").cloned() {
        field.lab.manifests.remove_pod(&late)?;
        return field.lab.world.remove_pod("other/late");
    }
    let late = field.lab.world.add_pod(PodSpec::new("other", "late", "node1").label("app", "a"))?;
    field.lab.manifests.pod(late)
}

fn change(field: &mut Field<'_>, random: &mut Random) -> Result<()> {
    match random.below(6) {
        0 => come_or_go(field),
        1 | 2 => field.changes.all(field.lab),
        _ => field.changes.next(field.lab),
    }
}

#[test]
fn agents_that_are_killed_at_random_moments_lose_nothing_and_open_nothing() -> Result<()> {
    let _alone = alone();
    let (mut random, seed) = seeded("deaths")?;
    let wanted = times(40, 500);
    let (mut kills, mut starts) = (0, 0);
    field("sldead", seed, |field| {
        while kills < wanted {
            change(field, &mut random).with_context(|| format!("before kill {kills}"))?;
            let victims: &[usize] = [&[0][..], &[1], &[0, 1]][random.below(3)];
            // By itself an agent waits until a folder is quiet; asked, it reads and writes at once.
            let after = if random.one_in(3) {
                within(&mut random, STARTING)
            } else {
                for victim in victims {
                    // One that is still starting has no socket yet: it reads the folder by itself.
                    drop(field.lab.agents[*victim].prompt());
                }
                within(&mut random, WRITING)
            };
            thread::sleep(after);
            loop {
                for victim in victims {
                    field.replace(*victim)?;
                    kills += 1;
                }
                if !random.one_in(3) {
                    break;
                }
                starts += victims.len();
                thread::sleep(within(&mut random, STARTING));
            }
            if random.one_in(2) {
                field.settled().with_context(|| format!("after kill {kills}"))?;
            }
        }
        if field.lab.world.pod("other/late").is_ok() {
            come_or_go(field)?;
        }
        field.settled_without_leftovers()
    })?;
    println!("{kills} kills, {starts} of them of an agent that was starting");
    ensure!(kills >= wanted, "{kills} kills are too few");
    Ok(())
}
