//! What is done to packets: both ways, all sizes, to oneself, and errors about them.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use sluice_kubeproxy::Mode;
use sluice_netns::{ALLOW_TIMEOUT, Netns, Outcome, TcpConn, udp_exchange};

use crate::stage::{Stage, TARGET};

/// Everything through a Service of which one endpoint is not allowed: our own translation.
fn mixed() -> Result<Stage> {
    let stage = Stage::new(Mode::Nftables)?;
    stage.serve(&[("far", TARGET)])?;
    stage.allow(&["far"], &[TARGET])?;
    Ok(stage)
}

/// Sends datagrams of these sizes by one socket, and waits for each to come back as it was.
pub(crate) fn echo(ns: &Netns, to: std::net::SocketAddr, sizes: &[usize]) -> Result<()> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let echoed = ns.run(|| -> std::io::Result<()> {
        let socket = UdpSocket::bind(any)?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(Duration::from_secs(4)))?;
        for size in sizes {
            let sent: Vec<u8> = (0..*size).map(|n| u8::try_from((n + size) % 251).unwrap_or(0)).collect();
            socket.send(&sent)?;
            let mut received = vec![0; 65_536];
            let length = socket.recv(&mut received)?;
            if received.get(..length) != Some(&sent[..]) {
                return Err(std::io::Error::other(format!("{size} bytes came back as {length} others")));
            }
        }
        Ok(())
    })?;
    echoed.with_context(|| format!("{to}: {sizes:?}"))
}

#[test]
fn datagrams_of_all_sizes_come_back_in_fragments_too() -> Result<()> {
    let stage = mixed()?;
    for to in Stage::dns() {
        echo(&stage.client()?, to, &[1, 2, 3, 512, 1400, 1500, 4000, 9000, 20_000])?;
    }
    Ok(())
}

/// Bulk in both directions: segments larger than any packet are on the way.
#[test]
fn a_stream_of_megabytes_is_not_changed() -> Result<()> {
    let stage = mixed()?;
    for to in Stage::http() {
        let mut conn = TcpConn::open(&stage.client()?, to, ALLOW_TIMEOUT)?;
        let line = "x".repeat(8 << 20);
        conn.echo_line(&line, Duration::from_secs(30))?;
    }
    Ok(())
}

/// As a resolver asks: A and AAAA from one socket, each pair from another port.
#[test]
fn a_thousand_pairs_of_questions_lose_nothing() -> Result<()> {
    let stage = mixed()?;
    let client = stage.client()?;
    for to in Stage::dns() {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let lost = client.run(|| -> std::io::Result<usize> {
            let mut lost = 0;
            for pair in 0..1000_u32 {
                let socket = UdpSocket::bind(any)?;
                socket.set_read_timeout(Some(Duration::from_secs(2)))?;
                socket.connect(to)?;
                socket.send(&[&pair.to_be_bytes()[..], b"A"].concat())?;
                socket.send(&[&pair.to_be_bytes()[..], b"AAAA"].concat())?;
                let mut buffer = [0; 16];
                for _ in 0..2 {
                    match socket.recv(&mut buffer) {
                        Ok(length) if length >= 5 && buffer[..4] == pair.to_be_bytes() => {}
                        _ => lost += 1,
                    }
                }
            }
            Ok(lost)
        })??;
        ensure!(lost == 0, "{to}: {lost} answers are missing");
    }
    Ok(())
}

/// A pod always reaches itself, also by way of a Service.
#[test]
fn a_pod_reaches_itself_by_its_service() -> Result<()> {
    let stage = Stage::new(Mode::Nftables)?;
    stage.serve(&[("client", TARGET)])?;
    stage.allow(&[], &[])?;
    stage.lab.apply("shop/ingress", "podSelector: {matchLabels: {app: client}}, policyTypes: [Ingress]")?;
    for to in Stage::http() {
        ensure!(stage.answers(to, 3)? == [("shop/client".to_owned(), 3)].into(), "{to}");
        let mut conn = TcpConn::open(&stage.client()?, to, ALLOW_TIMEOUT)?;
        conn.echo_line(&"y".repeat(1 << 20), Duration::from_secs(20))?;
    }
    for to in Stage::dns() {
        echo(&stage.client()?, to, &[1, 1400, 4000])?;
    }
    Ok(())
}

/// Errors name the Service that the client knows, or nobody would hear them.
#[test]
fn errors_about_translated_packets_are_heard() -> Result<()> {
    let stage = Stage::new(Mode::Nftables)?;
    // Nobody listens there.
    stage.serve(&[("far", 9999)])?;
    stage.allow(&["far"], &[9999])?;
    for (http, dns) in Stage::http().into_iter().zip(Stage::dns()) {
        ensure!(stage.answers(http, 2)? == [("refused".to_owned(), 2)].into(), "{http}");
        let started = Instant::now();
        let outcome = udp_exchange(&stage.client()?, dns, ALLOW_TIMEOUT);
        ensure!(outcome == Outcome::Refused, "{dns}: {outcome} after {:?}", started.elapsed());
    }
    Ok(())
}
