//! The HTTP ports.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use sluice_netns::{Agent, AgentOptions, Netns};
use sluice_tests::agent_world::{Lab, shell};

use super::{alone, follows, recovers, usage, village};

const HEALTH: &str = "127.0.0.1:9879";
const METRICS: &str = "127.0.0.1:9878";

/// An agent with these addresses for health and metrics; what is not given is as by default.
fn lab(prefix: &str, metrics: Option<&str>) -> Result<Lab> {
    let mut lab = Lab::without_agents(village(prefix))?;
    let node = lab.world.node("node1")?;
    // Without it the address would be the tests' own default, which is off.
    let mut environment = vec![("SLUICE_HEALTH_ADDRESS".to_owned(), HEALTH.to_owned())];
    environment.extend(metrics.map(|address| ("SLUICE_METRICS_ADDRESS".to_owned(), address.to_owned())));
    let agent = Agent::spawn(node.ns(), AgentOptions { environment, ..lab.options(node) })?;
    lab.agents.push(agent);
    lab.sync()?;
    Ok(lab)
}

fn home(lab: &Lab) -> Result<Netns> {
    Ok(lab.world.node("node1")?.ns().clone())
}

/// TCP and UDP sockets of the agent that others can send to.
fn listens(lab: &Lab) -> Result<Vec<String>> {
    let text = shell(&home(lab)?, "ss --no-header --listening --tcp --udp --numeric --processes")?;
    let own = format!("pid={},", lab.agents[0].id());
    let lines = text.lines().filter(|line| line.contains(&own));
    Ok(lines.filter_map(|line| line.split_whitespace().nth(4)).map(str::to_owned).collect())
}

#[test]
fn it_listens_where_it_was_told_and_nowhere_else() -> Result<()> {
    let _alone = alone();
    let silent = lab("slhnone", None)?;
    assert_eq!(listens(&silent)?, [HEALTH], "health alone, and that on loopback, by default");
    let printed = silent.run(&["config", "print"])?;
    let printed = String::from_utf8(printed.stdout)?;
    let rows: Vec<Vec<&str>> = printed.lines().map(|line| line.split_whitespace().collect()).collect();
    for row in [["health-address", HEALTH, "default"], ["metrics-address", "off", "default"]] {
        assert!(rows.iter().any(|r| *r == row), "{printed}");
    }
    drop(silent);
    let told = lab("slhboth", Some(METRICS))?;
    let mut listens = listens(&told)?;
    listens.sort();
    assert_eq!(listens, [METRICS, HEALTH]);
    Ok(())
}

fn connect(ns: &Netns, to: &str) -> Result<TcpStream> {
    let to: SocketAddr = to.parse()?;
    let stream = ns.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)))??;
    stream.set_read_timeout(Some(Duration::from_secs(15)))?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    Ok(stream)
}

/// All that is answered, until the agent hangs up.
fn send(ns: &Netns, to: &str, request: &[u8]) -> Result<String> {
    let mut stream = connect(ns, to)?;
    // It may hang up before it has read everything.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn status(answer: &str) -> Option<u16> {
    answer.split(' ').nth(1)?.parse().ok()
}

fn live(ns: &Netns) -> Result<Duration> {
    let began = Instant::now();
    let answer = send(ns, HEALTH, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")?;
    ensure!(status(&answer) == Some(200), "{answer:?}");
    Ok(began.elapsed())
}

#[test]
fn nothing_but_what_is_there_is_answered_whatever_is_asked() -> Result<()> {
    let _alone = alone();
    let lab = lab("slhask", Some(METRICS))?;
    let ns = home(&lab)?;
    follows(&lab)?;
    live(&ns)?;
    let before = usage(&lab)?;
    let get =
        |to: &str, path: &str| send(&ns, to, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
    for (to, known) in [(HEALTH, &["/livez", "/readyz"][..]), (METRICS, &["/metrics"][..])] {
        for path in
            ["/", "/livez", "/readyz", "/metrics", "/debug/pprof/", "/debug", "/status", "/flows", "/config"]
        {
            let expected = if known.contains(&path) { 200 } else { 404 };
            assert_eq!(status(&get(to, path)?), Some(expected), "{to} {path}");
        }
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"] {
            let answer =
                send(&ns, to, format!("{method} {} HTTP/1.1\r\nHost: x\r\n\r\n", known[0]).as_bytes())?;
            assert!(matches!(status(&answer), Some(400..=405)), "{to} {method}: {answer}");
        }
        let old = send(&ns, to, format!("GET {} HTTP/1.0\r\n\r\n", known[0]).as_bytes())?;
        assert_eq!(status(&old), Some(200), "HTTP/1.0: {old}");
        // One request a connection: what was sent behind it is not read.
        let twice = format!("GET {0} HTTP/1.1\r\nHost: x\r\n\r\n", known[0]).repeat(50);
        let answer = send(&ns, to, twice.as_bytes())?;
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "pipelining: {answer}");
        let long = "x".repeat(1 << 20);
        let headers = "a: b\r\n".repeat(10_000);
        let body = format!("GET {} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n", known[0]);
        for wrong in [
            format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n"),
            format!("GET {} HTTP/1.1\r\nHost: x\r\nx: {long}\r\n\r\n", known[0]),
            format!("GET {} HTTP/1.1\r\nHost: x\r\n{headers}\r\n", known[0]),
            format!("GET {} HTTP/7.7\r\n\r\n", known[0]),
            "\u{16}\u{3}\u{1}\u{2}\0\u{1}".to_owned(),
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
            "{\"request\": \"shutdown\"}\n\n".to_owned(),
        ] {
            let answer = send(&ns, to, wrong.as_bytes())?;
            assert_ne!(status(&answer), Some(200), "{:.60}: {answer}", wrong);
        }
        // A body is not read: the answer comes at once, or an end.
        let began = Instant::now();
        send(&ns, to, body.as_bytes())?;
        assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    }
    live(&ns)?;
    follows(&lab)?;
    recovers(&lab, &before)
}

#[test]
fn a_thousand_slow_clients_keep_nobody_out() -> Result<()> {
    let _alone = alone();
    let lab = lab("slhslow", Some(METRICS))?;
    let ns = home(&lab)?;
    follows(&lab)?;
    live(&ns)?;
    let before = usage(&lab)?;
    let mut slow = Vec::new();
    for n in 0..1000 {
        for to in [HEALTH, METRICS] {
            let mut stream = connect(&ns, to)?;
            // Who lost his place to a later one can't write any more.
            let _ = stream.write_all(&b"GET /livez HTTP/1.1\r\nHo"[..n % 23]);
            slow.push(stream);
        }
    }
    let held = usage(&lab)?.descriptors.len() - before.descriptors.len();
    let mut longest = Duration::ZERO;
    for _ in 0..20 {
        longest = longest.max(live(&ns)?);
    }
    let scraped = send(&ns, METRICS, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")?;
    assert_eq!(status(&scraped), Some(200), "{scraped:.200}");
    let followed = follows(&lab)?;
    println!(
        "beside 2,000 slow clients: /livez {longest:?}, a change {followed:?}; descriptors held: {held}"
    );
    assert!(held <= 2 * 64 + 8, "{held} descriptors for clients");
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    drop(slow);
    recovers(&lab, &before).context("after the crowd")
}
