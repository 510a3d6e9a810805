use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

use sluice_netns::{Netns, NodeSpec, PodSpec, World};
use tokio::time::timeout;

use super::super::{Cache, LinkWatch, scan};
use super::ip;

const SOON: Duration = Duration::from_secs(3);
const QUIET: Duration = Duration::from_millis(300);
/// The kernel tells of a carrier up to a second late.
const SETTLED: Duration = Duration::from_secs(2);

fn one_node() -> World {
    let world = World::builder("slepw").node(NodeSpec::new("node1"));
    world.pod(PodSpec::new("default", "a", "node1")).build().unwrap()
}

/// Runs `work` with a watch made in `ns`.
fn watching(ns: &Netns, directory: &Path, work: impl AsyncFnOnce(&mut LinkWatch) + Send) {
    ns.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut watch = LinkWatch::new(directory).unwrap();
            assert_quiet(&mut watch, SETTLED).await;
            work(&mut watch).await;
        });
    })
    .unwrap();
}

async fn assert_quiet(watch: &mut LinkWatch, quiet: Duration) {
    for _ in 0..10 {
        if timeout(quiet, watch.changed()).await.is_err() {
            return;
        }
    }
    panic!("the watch tells of changes that nobody makes");
}

async fn assert_changed(watch: &mut LinkWatch, what: &str) {
    let start = Instant::now();
    timeout(SOON, watch.changed()).await.unwrap_or_else(|_| panic!("not told: {what}"));
    let elapsed = start.elapsed();
    assert!(elapsed < Duration::from_secs(1), "{what}: told after {elapsed:?}");
    assert_quiet(watch, QUIET).await;
}

#[test]
fn links_and_addresses_of_the_node() {
    let world = one_node();
    let node = world.node("node1").unwrap().ns();
    let empty = tempfile::tempdir().unwrap();
    watching(node, empty.path(), async |watch| {
        ip(node, "link add new0 type veth peer name new1");
        assert_changed(watch, "a new veth").await;
        ip(node, "link set new0 up");
        assert_changed(watch, "a link set up").await;
        assert_quiet(watch, SETTLED).await;
        ip(node, "addr add 10.77.0.1/32 dev new0");
        assert_changed(watch, "a new IPv4 address").await;
        ip(node, "addr add fd00:77::1/128 dev new0 nodad");
        assert_changed(watch, "a new IPv6 address").await;
        ip(node, "link set new0 name renamed");
        assert_changed(watch, "a renamed link").await;
        ip(node, "link del new1");
        assert_changed(watch, "a veth removed").await;
    });
}

#[test]
fn addresses_inside_pods_but_not_looking_at_them() {
    let world = one_node();
    let node = world.node("node1").unwrap().ns();
    let pod = &world.pod("default/a").unwrap().ns;
    let empty = tempfile::tempdir().unwrap();
    watching(node, empty.path(), async |watch| {
        ip(pod, "addr add 10.244.1.200/32 dev eth0");
        assert_changed(watch, "an IPv4 address added in a pod").await;
        ip(pod, "addr add fd00:10:244:1::200/128 dev eth0 nodad");
        assert_changed(watch, "an IPv6 address added in a pod").await;
        ip(pod, "addr del 10.244.1.200/32 dev eth0");
        assert_changed(watch, "an address removed in a pod").await;
        let scan = scan(&mut Cache::default()).unwrap();
        assert_eq!(scan.interfaces.len(), 3);
        assert_quiet(watch, QUIET).await;
    });
}

#[test]
fn namespaces_with_a_name() {
    let world = one_node();
    let node = world.node("node1").unwrap().ns();
    let name = format!("{}-extra", world.id());
    let netns = |verb: &str| {
        assert!(Command::new("ip").args(["netns", verb, &name]).status().unwrap().success());
    };
    // Other tests make namespaces meanwhile: the machine's directory is never quiet for long.
    node.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut watch = LinkWatch::new("/var/run/netns").unwrap();
            netns("add");
            timeout(SOON, watch.changed()).await.expect("a new namespace");
            netns("del");
            timeout(SOON, watch.changed()).await.expect("a namespace removed");
        });
    })
    .unwrap();
}

#[test]
fn a_directory_that_comes_later() {
    let world = one_node();
    let node = world.node("node1").unwrap().ns();
    let top = tempfile::tempdir().unwrap();
    let directory = top.path().join("run/netns");
    watching(node, &directory, async |watch| {
        fs::write(top.path().join("unrelated"), "").unwrap();
        assert!(timeout(QUIET, watch.changed()).await.is_err(), "beside the directory");
        for _ in 0..2 {
            fs::create_dir(top.path().join("run")).unwrap();
            assert!(timeout(QUIET, watch.changed()).await.is_err(), "above the directory");
            fs::create_dir(&directory).unwrap();
            assert_changed(watch, "the directory").await;
            fs::write(directory.join("x"), "").unwrap();
            assert_changed(watch, "a file").await;
            fs::read(directory.join("x")).unwrap();
            assert!(timeout(QUIET, watch.changed()).await.is_err(), "reading a file");
            fs::rename(directory.join("x"), directory.join("y")).unwrap();
            assert_changed(watch, "a file renamed").await;
            fs::remove_file(directory.join("y")).unwrap();
            assert_changed(watch, "a file removed").await;
            fs::remove_dir_all(top.path().join("run")).unwrap();
            assert_changed(watch, "the directory removed").await;
        }
        fs::create_dir_all(&directory).unwrap();
        assert_changed(watch, "the directory and the one above it at once").await;
        fs::rename(&directory, top.path().join("away")).unwrap();
        assert_changed(watch, "the directory moved away").await;
        fs::rename(top.path().join("away"), &directory).unwrap();
        assert_changed(watch, "the directory moved back").await;
    });
}

#[test]
fn changes_are_gathered_and_none_is_lost() {
    let world = one_node();
    let node = world.node("node1").unwrap().ns();
    let empty = tempfile::tempdir().unwrap();
    let file = |number: usize| -> PathBuf { empty.path().join(number.to_string()) };
    watching(node, empty.path(), async |watch| {
        for number in 0..50 {
            fs::write(file(number), "").unwrap();
        }
        assert_changed(watch, "fifty files").await;
        // Given up in the middle of gathering: told by the next call.
        let mut number = 1000;
        loop {
            fs::write(file(number), "").unwrap();
            if timeout(Duration::from_millis(1), watch.changed()).await.is_err() {
                break;
            }
            // The machine stood still for longer than it gathers.
            number += 1;
            assert!(number < 1100, "it gathers nothing");
        }
        assert_changed(watch, "a change seen by a call that was given up").await;
        // A steady stream doesn't hold it back, and it doesn't tell of each of its parts.
        let directory = empty.path().to_owned();
        let writer = thread::spawn(move || {
            for number in 51..251 {
                fs::write(directory.join(number.to_string()), "").unwrap();
                thread::sleep(Duration::from_millis(5));
            }
        });
        let mut told = 0;
        while !writer.is_finished() {
            watch.changed().await;
            told += 1;
        }
        writer.join().unwrap();
        assert!((5..=100).contains(&told), "told {told} times of 200 files");
    });
}

#[test]
fn lost_events_are_a_change() {
    let world = one_node();
    let node = world.node("node1").unwrap().ns();
    let empty = tempfile::tempdir().unwrap();
    watching(node, empty.path(), async |watch| {
        // More than the socket's buffer holds while nobody reads.
        let mut batch = String::new();
        for number in 0..2000 {
            let verb = if number % 2 == 0 { "up" } else { "down" };
            batch += &format!("link set lo {verb}\nlink set cni0 {verb}\n");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), batch).unwrap();
        ip(node, &format!("-batch {}", file.path().display()));
        assert_changed(watch, "an overrun").await;
        ip(node, "link add new0 type veth peer name new1");
        assert_changed(watch, "a link after an overrun").await;
    });
}

#[test]
fn waiting_costs_nothing() {
    let world = one_node();
    let node = world.node("node1").unwrap().ns();
    let empty = tempfile::tempdir().unwrap();
    watching(node, empty.path(), async |watch| {
        ip(node, "link set cni0 down");
        assert_changed(watch, "a link set down").await;
        let before = thread_time();
        let _ = timeout(Duration::from_secs(1), watch.changed()).await;
        let spent = thread_time() - before;
        assert!(spent < Duration::from_millis(50), "{spent:?} of processor time in a second of waiting");
    });
}

/// The processor time that this thread has used.
fn thread_time() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split_whitespace().next().unwrap().parse().unwrap())
}

#[test]
fn without_a_runtime_it_is_an_error() {
    assert!(LinkWatch::new("/var/run/netns").is_err());
}
