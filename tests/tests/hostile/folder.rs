//! The folder of manifests, with what is no manifest in it.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sluice_tests::agent_world::Lab;
use sluice_tests::usage::Usage;

use super::{MOST_MEMORY, alone, follows, recovers, usage, village};

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn what_is_no_manifest_is_named_and_holds_nobody_up() -> Result<()> {
    let _alone = alone();
    let lab = Lab::start(village("slhfold"))?;
    follows(&lab)?;
    let before = usage(&lab)?;
    Usage::forget_peak(lab.agents[0].id())?;
    let at = |name: &str| lab.manifests.path().join(name);
    nix::unistd::mkfifo(&at("pipe.yaml"), nix::sys::stat::Mode::S_IRWXU)?;
    symlink("/dev/zero", at("endless.yaml"))?;
    symlink("/dev/tty", at("terminal.json"))?;
    symlink("loop.yaml", at("loop.yaml"))?;
    File::create(at("giant.yaml"))?.set_len(1 << 30)?;
    fs::write(at("latin.yaml"), b"kind: Pod # \xe9\n")?;
    fs::write(at("deep.json"), "[".repeat(100_000))?;
    fs::write(at("deep.yaml"), "[".repeat(100_000))?;
    fs::write(at("indented.yaml"), (0..2000).map(|n| format!("{}a:\n", " ".repeat(n))).collect::<String>())?;
    let mut bomb = "a0: &a0 [x]\n".to_owned();
    for n in 1..=30 {
        let before = format!("*a{}, ", n - 1).repeat(9);
        bomb += &format!("a{n}: &a{n} [{}]\n", before.trim_end_matches(", "));
    }
    fs::write(at("bomb.yaml"), bomb)?;
    fs::write(
        at("twice.json"),
        r#"{"apiVersion":"v1","kind":"Pod","kind":"Namespace","metadata":{"name":"a"}}"#,
    )?;
    let began = Instant::now();
    lab.sync()?;
    let taken = began.elapsed();
    let errors = lab.errors()?;
    for (name, why) in [
        ("pipe.yaml", "it is no regular file"),
        ("endless.yaml", "it is no regular file"),
        ("terminal.json", "it is no regular file"),
        ("loop.yaml", "Too many levels of symbolic links"),
        ("giant.yaml", "it is larger than 64 MiB"),
        ("latin.yaml", "is not UTF-8 text (byte 12)"),
        ("deep.json", "recursion limit"),
        ("deep.yaml", "line 1"),
        ("indented.yaml", "line"),
        ("bomb.yaml", "line"),
        ("twice.json", "duplicate key \"kind\""),
    ] {
        let told = errors.iter().any(|error| error.starts_with(name) && error.contains(why));
        assert!(told, "{name}: {:#?}", errors.iter().take(40).collect::<Vec<_>>());
    }
    let followed = follows(&lab)?;
    let peak = usage(&lab)?.peak;
    println!("{taken:?}, then a change {followed:?}, {} MiB", peak >> 20);
    assert!(taken < PATIENCE && peak < MOST_MEMORY, "{taken:?}, {} MiB", peak >> 20);
    for name in ["pipe.yaml", "endless.yaml", "terminal.json", "loop.yaml", "giant.yaml", "latin.yaml"]
        .into_iter()
        .chain(["deep.json", "deep.yaml", "indented.yaml", "bomb.yaml", "twice.json"])
    {
        fs::remove_file(at(name))?;
    }
    lab.sync()?;
    assert_eq!(lab.errors()?, Vec::<String>::new());
    recovers(&lab, &before)
}

/// What is wrong is told, but not without end.
#[test]
fn a_hundred_thousand_problems() -> Result<()> {
    let _alone = alone();
    let lab = Lab::start(village("slhprob"))?;
    follows(&lab)?;
    lab.manifests.write("many.yaml", &"---\na: b\n".repeat(50_000))?;
    let began = Instant::now();
    lab.sync()?;
    let (taken, errors) = (began.elapsed(), lab.errors()?);
    let followed = follows(&lab)?;
    println!("{taken:?}, then a change {followed:?}; {} lines of log", lab.agents[0].log().lines().count());
    assert!(
        errors.len() == 1001 && errors[1000].contains("99000 more"),
        "{}: {:?}",
        errors.len(),
        errors.last()
    );
    assert!(lab.agents[0].log().lines().count() < 1100);
    assert!(taken < PATIENCE, "{taken:?}");
    Ok(())
}

/// A policy whose file turns into something else is not deleted.
#[test]
fn a_policy_does_not_end_because_its_file_is_a_pipe_now() -> Result<()> {
    let _alone = alone();
    let lab = Lab::start(village("slhpipe"))?;
    lab.apply("dev/deny", "podSelector: {}, policyTypes: [Ingress]")?;
    let path = lab.manifests.path().join("policy-dev-deny.yaml");
    // In one step: a policy that is gone for a moment ends.
    let pipe = path.with_extension("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU)?;
    fs::rename(&pipe, &path)?;
    lab.sync()?;
    lab.expect_probes("prod/client dev/web tcp/80 hangs v4");
    fs::remove_file(&path)?;
    lab.sync()?;
    lab.expect_probes("prod/client dev/web tcp/80 opens v4");
    Ok(())
}

#[test]
fn files_by_the_thousand_and_files_that_vanish() -> Result<()> {
    let _alone = alone();
    let lab = Lab::start(village("slhmass"))?;
    follows(&lab)?;
    Usage::forget_peak(lab.agents[0].id())?;
    let long = std::env::var_os("SLUICE_TEST_LONG").is_some();
    let count = if long { 100_000 } else { 5_000 };
    let folder = lab.manifests.path();
    for n in 0..count {
        fs::write(
            folder.join(format!("n{n}.yaml")),
            format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: n{n}}}\n"),
        )?;
    }
    let began = Instant::now();
    lab.sync()?;
    let taken = began.elapsed();
    let followed = follows(&lab);
    let peak = usage(&lab)?.peak;
    println!("{count} files: {taken:?}, then a change {followed:?}, {} MiB", peak >> 20);
    ensure!(long || followed.is_ok(), "{followed:?}");
    assert!(peak < MOST_MEMORY, "{} MiB", peak >> 20);
    for n in 0..count {
        fs::remove_file(folder.join(format!("n{n}.yaml")))?;
    }
    lab.sync()?;
    // Files that come and go under the reader's hands.
    let stop = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for n in 0..50 {
                    let _ = fs::write(folder.join(format!("v{n}.yaml")), "kind: [");
                }
                for n in 0..50 {
                    let _ = fs::remove_file(folder.join(format!("v{n}.yaml")));
                }
                thread::sleep(Duration::from_millis(5));
            }
        });
        let followed = follows(&lab);
        stop.store(true, Ordering::Relaxed);
        println!("beside files that vanish: {followed:?}");
        followed.map(drop)
    })?;
    lab.sync()?;
    assert_eq!(lab.errors()?, Vec::<String>::new());
    Ok(())
}
