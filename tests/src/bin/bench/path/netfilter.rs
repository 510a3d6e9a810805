//! The same job for nftables and iptables: what belongs to a connection passes, the CIDRs may open connections to the server's
//! port, and nobody else anything.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use ipnet::Ipv4Net;
use sluice_netns::Netns;

use super::stage::PORT;
use super::variant::Shape;

pub(crate) fn nft(node: &Netns, server: Ipv4Addr, sources: &[Ipv4Net], shape: Shape) -> anyhow::Result<()> {
    let mut rules = String::from("table ip bench {\n");
    match shape {
        Shape::OneRule => {
            let elements: Vec<String> = sources.iter().map(Ipv4Net::to_string).collect();
            writeln!(
                rules,
                "set allowed {{ type ipv4_addr; flags interval; elements = {{ {} }}; }}",
                elements.join(", ")
            )?;
            rules.push_str("chain allowed { ip saddr @allowed accept; }\n");
        }
        Shape::RuleEach => {
            rules.push_str("chain allowed {\n");
            for source in sources {
                writeln!(rules, "ip saddr {source} accept")?;
            }
            rules.push_str("}\n");
        }
    }
    write!(
        rules,
        "chain forward {{
type filter hook forward priority filter; policy accept;
ct state established,related accept
ip daddr {server} tcp dport {PORT} jump allowed
ip daddr {server} udp dport {PORT} jump allowed
ip daddr {server} drop
}}
}}
"
    )?;
    feed(node, "nft", &["-f", "-"], &rules)
}

pub(crate) fn iptables(
    node: &Netns,
    server: Ipv4Addr,
    sources: &[Ipv4Net],
    shape: Shape,
) -> anyhow::Result<()> {
    let mut rules = String::from("*filter\n:FORWARD ACCEPT [0:0]\n:ALLOWED - [0:0]\n");
    match shape {
        Shape::OneRule => {
            let size = sources.len();
            let mut set =
                format!("create allowed hash:net hashsize {size} maxelem {}\n", size.max(65_536) * 2);
            for source in sources {
                writeln!(set, "add allowed {source}")?;
            }
            feed(node, "ipset", &["restore"], &set)?;
            rules.push_str("-A ALLOWED -m set --match-set allowed src -j ACCEPT\n");
        }
        Shape::RuleEach => {
            for source in sources {
                writeln!(rules, "-A ALLOWED -s {source} -j ACCEPT")?;
            }
        }
    }
    write!(
        rules,
        "-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A FORWARD -d {server}/32 -p tcp -m tcp --dport {PORT} -j ALLOWED
-A FORWARD -d {server}/32 -p udp -m udp --dport {PORT} -j ALLOWED
-A FORWARD -d {server}/32 -j DROP
COMMIT
"
    )?;
    feed(node, "iptables-restore", &["--wait"], &rules)
}

/// The versions of what is compared, as they name themselves; the second word of iptables' is its backend.
pub(crate) fn versions() -> anyhow::Result<Vec<String>> {
    let mut versions = Vec::new();
    for (program, argument) in [("nft", "--version"), ("iptables", "--version"), ("ipset", "--version")] {
        let output = Command::new(program).arg(argument).output();
        let output =
            output.with_context(|| format!("cannot run {program}: `cargo xtask setup` installs it"))?;
        ensure!(output.status.success(), "{program} {argument}: {}", output.status);
        let text = String::from_utf8_lossy(&output.stdout);
        versions.push(text.lines().next().unwrap_or_default().trim().to_owned());
    }
    Ok(versions)
}

/// Gives a program its standard input.
fn feed(ns: &Netns, program: &str, arguments: &[&str], input: &str) -> anyhow::Result<()> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = ns.spawn(&mut command)?;
    let written = child.stdin.take().context("no standard input")?.write_all(input.as_bytes());
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{program}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    written.with_context(|| format!("writing to {program}"))
}
