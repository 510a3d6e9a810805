//! Policies that change a hundred times (`--long`: a thousand) under traffic that never stops. What all of them allow loses
//! nothing, what all of them deny gets nothing through, counted packet by packet: datagrams by their numbers, TCP by the
//! segments that the kernel had to send again, denied packets by all that the receiver's kernel has seen.

mod changes;
mod counters;
mod datagrams;
mod streams;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use sluice_netns::{NodeSpec, PodSpec, World};
use sluice_tests::agent_world::Lab;

use changes::Changes;
use counters::Counters;
use datagrams::Arrivals;
use streams::Count;

const SHOP: [&str; 2] = ["shop/near", "shop/far"];
const VAULT: [&str; 2] = ["vault/near", "vault/far"];
/// Everybody with an allowed connection, and nobody else's packets.
const ALLOWED: [&str; 3] = ["guest/client", "shop/near", "shop/far"];
const TCP: u16 = 80;
const UDP: u16 = 5300;
const DENIED: u16 = 9999;
const PATIENCE: Duration = Duration::from_secs(60);
/// Open to all, closed to the prisoner at his own end.
const OPEN: u16 = 7777;

fn changes_to_make() -> u32 {
    let set = |name| std::env::var_os(name).is_some();
    match (set("SLUICE_TEST_LONG"), set("SLUICE_TEST_QUICK")) {
        (true, _) => 1000,
        (false, true) => 30,
        (false, false) => 100,
    }
}

fn lab() -> Result<Lab> {
    let shop = |name, node| {
        PodSpec::new("shop", name, node).port(Some("web"), TCP, "TCP").serve_tcp(TCP).label("app", "shop")
    };
    let guest = |name: &str| PodSpec::new("guest", name, "node1").label("app", name);
    Lab::start(
        World::builder("slflip")
            .node(NodeSpec::new("node1"))
            .node(NodeSpec::new("node2"))
            .namespace("other", &[("team", "a")])
            .pod(guest("client"))
            .pod(guest("intruder"))
            .pod(guest("prisoner"))
            .pod(shop("near", "node1"))
            .pod(shop("far", "node2"))
            .pod(PodSpec::new("vault", "near", "node1").serve_tcp(TCP))
            .pod(PodSpec::new("vault", "far", "node2").serve_tcp(TCP))
            .pod(PodSpec::new("other", "one", "node1").label("app", "a"))
            .pod(PodSpec::new("other", "two", "node2").label("app", "b")),
    )
}

fn sockets(lab: &Lab, pods: &[&str], port: u16) -> Result<Vec<SocketAddr>> {
    let both = pods.iter().map(|pod| lab.sockets(pod, port)).collect::<Result<Vec<_>>>()?;
    Ok(both.into_iter().flatten().collect())
}

fn counters(lab: &Lab, pods: &[&str]) -> Result<Vec<Counters>> {
    pods.iter().map(|pod| Counters::of(&lab.ns(pod)?)).collect()
}

fn join<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a panic")))
}

/// What went over the allowed flows, and what was tried on the denied ones.
#[derive(Debug, Default)]
struct Traffic {
    /// Datagrams sent, at the shop, and back, of each flow.
    datagrams: Vec<(u64, u64, u64)>,
    conversations: Vec<Count>,
    calls: Vec<Count>,
    denied_datagrams: u64,
    knocks: u64,
    arrived: u64,
}

/// Runs `work` under traffic.
fn under_traffic(lab: &mut Lab, work: impl FnOnce(&mut Lab) -> Result<()>) -> Result<Traffic> {
    let [client, intruder, prisoner] =
        ["guest/client", "guest/intruder", "guest/prisoner"].map(|pod| lab.ns(pod));
    let (client, intruder, prisoner) = (client?, intruder?, prisoner?);
    let (mut answering, mut listening, mut listeners) = (Vec::new(), Vec::new(), Vec::new());
    for pod in SHOP {
        let ns = lab.ns(pod)?;
        answering.push(datagrams::receiver(&ns, UDP)?);
        listening.extend([datagrams::receiver(&ns, DENIED)?, datagrams::receiver(&ns, OPEN)?]);
        listeners.push(streams::listener(&ns, DENIED)?);
    }
    let (talk, tell) = (sockets(lab, &SHOP, TCP)?, sockets(lab, &SHOP, UDP)?);
    let mut forbidden = sockets(lab, &VAULT, TCP)?;
    forbidden.extend(sockets(lab, &SHOP, DENIED)?);
    let closed = sockets(lab, &SHOP, OPEN)?;
    let streams =
        talk.iter().chain(&talk).map(|to| streams::open(&client, *to)).collect::<Result<Vec<_>>>()?;

    // The senders stop before the receivers: what was sent can still arrive.
    let (stop, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let (answered, arrived) = (Arrivals::default(), AtomicU64::new(0));
    thread::scope(|scope| {
        let (stop, over, answered, arrived) = (&stop, &over, &answered, &arrived);
        let (client, intruder, prisoner) = (&client, &intruder, &prisoner);
        let (forbidden, closed) = (&forbidden, &closed);
        let answerers: Vec<_> = answering
            .iter()
            .map(|socket| scope.spawn(move || datagrams::answer(socket, answered, over)))
            .collect();
        let mut counting: Vec<_> = listening
            .iter()
            .map(|socket| scope.spawn(move || datagrams::listen(socket, arrived, over)))
            .collect();
        counting.extend(
            listeners.iter().map(|listener| scope.spawn(move || streams::listen(listener, arrived, over))),
        );
        let told: Vec<_> = (0..)
            .zip(&tell)
            .map(|(flow, to)| scope.spawn(move || datagrams::converse(client, *to, flow, stop)))
            .collect();
        let talks: Vec<_> =
            streams.into_iter().map(|stream| scope.spawn(move || streams::converse(stream, stop))).collect();
        let calls: Vec<_> =
            talk.iter().map(|to| scope.spawn(move || streams::call(client, *to, stop))).collect();
        let showers = [
            scope.spawn(move || datagrams::shower(intruder, forbidden, stop)),
            scope.spawn(move || datagrams::shower(prisoner, closed, stop)),
        ];
        let knocks = scope.spawn(move || streams::knock(intruder, forbidden, stop));

        let worked = work(lab);
        stop.store(true, Ordering::Relaxed);
        let mut traffic = Traffic::default();
        let outcome = (|| -> Result<()> {
            for (flow, thread) in (0..).zip(told) {
                let (sent, back) = join(thread)?;
                traffic.datagrams.push((sent, answered.of(flow), back));
            }
            traffic.conversations = talks.into_iter().map(join).collect::<Result<_>>()?;
            traffic.calls = calls.into_iter().map(join).collect::<Result<_>>()?;
            for shower in showers {
                traffic.denied_datagrams += join(shower)?;
            }
            traffic.knocks = join(knocks)?;
            Ok(())
        })();
        over.store(true, Ordering::Relaxed);
        worked?;
        outcome?;
        answerers.into_iter().try_for_each(join)?;
        for thread in counting {
            thread.join().map_err(|_| anyhow::anyhow!("a panic"))?;
        }
        traffic.arrived = arrived.load(Ordering::Relaxed);
        Ok(traffic)
    })
}

/// Waits until the agents enforce what the folder says. Each change waits for an RCU grace period in the kernel, which on a
/// machine that is busy with much else has taken more than the ten seconds that one `sync` waits.
fn enforced(lab: &Lab) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match lab.sync() {
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => {}
            Ok(()) => return Ok(()),
        }
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
    let mut lab = lab()?;
    let intruder = lab.ns("guest/intruder")?;
    // From before anybody forbade it.
    let revoked = sockets(&lab, &VAULT, TCP)?
        .into_iter()
        .map(|to| streams::open(&intruder, to))
        .collect::<Result<Vec<_>>>()?;
    let mut changes = Changes::new(&lab)?;
    changes.begin(&lab)?;
    lab.sync()?;

    let (allowed, vault) = (counters(&lab, &ALLOWED)?, counters(&lab, &VAULT)?);
    let mut times = Vec::new();
    let stop = AtomicBool::new(false);
    let traffic = thread::scope(|scope| {
        for stream in revoked {
            scope.spawn(|| streams::push(stream, &stop));
        }
        let traffic = under_traffic(&mut lab, |lab| {
            for n in 0..changes_to_make() {
                let began = Instant::now();
                changes.next(lab).with_context(|| format!("change {n}"))?;
                enforced(lab).with_context(|| format!("change {n}"))?;
                times.push(began.elapsed());
            }
            Ok(())
        });
        stop.store(true, Ordering::Relaxed);
        traffic
    })?;
    println!("{}\n{traffic:#?}", summary(times));

    for (pod, before) in ALLOWED.iter().zip(&allowed) {
        let now = Counters::of(&lab.ns(pod)?)?;
        let (sent, lost, no_room) =
            (now.segments_sent(before)?, now.lost_segments(before)?, now.no_room(before)?);
        println!("{pod}: {sent} TCP segments sent, {lost} lost; {no_room} datagrams without room");
        ensure!(lost == 0, "{pod}: {lost} of {sent} TCP segments were lost");
    }
    for (pod, before) in VAULT.iter().zip(&vault) {
        let received = Counters::of(&lab.ns(pod)?)?.received(before)?;
        ensure!(received == 0, "{received} packets came to {pod}");
    }
    ensure!(traffic.arrived == 0, "{} packets came to a denied port", traffic.arrived);
    for (flow, (sent, there, back)) in traffic.datagrams.iter().enumerate() {
        ensure!(sent == there && sent == back, "flow {flow}: {sent} sent, {there} arrived, {back} came back");
    }
    let enough = traffic.datagrams.iter().all(|(sent, ..)| *sent > 100)
        && traffic.conversations.iter().chain(&traffic.calls).all(|count| count.number > 10)
        && traffic.denied_datagrams > 100
        && traffic.knocks > 10;
    ensure!(enough, "too little was sent to tell anything: {traffic:?}");
    Ok(())
}
