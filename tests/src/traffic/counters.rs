//! What the kernel has counted in one network namespace: every packet, whoever sent it.

use std::collections::HashMap;
use std::fs;

use anyhow::{Context as _, Result};
use sluice_netns::Netns;

/// The counters of /proc/net/snmp, netstat and snmp6.
#[derive(Clone, Debug)]
pub struct Counters(HashMap<String, u64>);

impl Counters {
    pub fn of(ns: &Netns) -> Result<Self> {
        // /proc/net shows the namespace of the process; the thread's is elsewhere.
        let read = |name| fs::read_to_string(format!("/proc/thread-self/net/{name}"));
        let [snmp, netstat, snmp6] = ns.run(|| [read("snmp"), read("netstat"), read("snmp6")])?;
        let mut counters = HashMap::new();
        for text in [snmp?, netstat?] {
            // Two lines for each protocol: names, and numbers below them.
            let lines: Vec<&str> = text.lines().collect();
            for [names, numbers] in lines.as_chunks().0 {
                let (protocol, names) = names.split_once(": ").context("a line without its protocol")?;
                let (_, numbers) = numbers.split_once(": ").context("a line without its protocol")?;
                for (name, number) in names.split(' ').zip(numbers.split(' ')) {
                    // Only limits are negative.
                    counters.insert(format!("{protocol}{name}"), number.parse().unwrap_or_default());
                }
            }
        }
        for line in snmp6?.lines() {
            let mut words = line.split_whitespace();
            if let (Some(name), Some(number)) = (words.next(), words.next()) {
                counters.insert(name.to_owned(), number.parse()?);
            }
        }
        Ok(Self(counters))
    }

    fn get(&self, name: &str) -> Result<u64> {
        self.0.get(name).copied().with_context(|| format!("the kernel has no counter {name}"))
    }

    /// How much more than before.
    fn since(&self, before: &Self, name: &str) -> Result<u64> {
        Ok(self.get(name)?.saturating_sub(before.get(name)?))
    }

    /// TCP segments that had to be sent again because they were lost. Those that came twice were only late: the receiver says
    /// so (RFC 2883).
    pub fn lost_segments(&self, before: &Self) -> Result<u64> {
        let again = self.since(before, "TcpRetransSegs")?;
        let twice = self.since(before, "TcpExtTCPDSACKRecv")?;
        Ok(again.saturating_sub(twice))
    }

    pub fn segments_sent(&self, before: &Self) -> Result<u64> {
        self.since(before, "TcpOutSegs")
    }

    /// Datagrams that arrived and were thrown away for lack of room: none of Sluice's doing.
    pub fn no_room(&self, before: &Self) -> Result<u64> {
        Ok(self.since(before, "UdpRcvbufErrors")? + self.since(before, "Udp6RcvbufErrors")?)
    }

    /// Packets of any kind over IPv4, segments and datagrams over IPv6 (which has its neighbour discovery besides).
    pub fn received(&self, before: &Self) -> Result<u64> {
        let names =
            ["IpInReceives", "TcpInSegs", "Udp6InDatagrams", "Udp6NoPorts", "Udp6InErrors", "Icmp6InEchos"];
        names.iter().try_fold(0, |sum, name| Ok(sum + self.since(before, name)?))
    }
}
