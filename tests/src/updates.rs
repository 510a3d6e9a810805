//! Make-before-break, checked: the tables in memory between any two writes of a plan.

use std::collections::BTreeSet;
use std::net::IpAddr;

use policy_agent::compile::Compiled;
use policy_agent::datapath::Datapath as _;
use policy_agent::datapath::memory::Memory;
use policy_agent::explain::{TransportProtocol, frame};
use policy_agent::plan::{Capacity, LocalEndpoint, Op, Planner, TableFull};
use policy_common::parse::{Ip, Scratch, parse};
use policy_common::{Arrival, Direction, Slice, Tables as _, decide};

/// Interface indices of either kind of table.
pub const POOL: [u32; 16] = [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 70_001, 70_002, 70_003, 70_004, 70_005];
pub const SMALL: Capacity = Capacity {
    words: 4096,
    rows: 65_536,
    endpoints: 32,
    peers: 256,
    cidrs: 256,
    sources: 64,
    services: 64,
    backends: 256,
    flow_sets: 64,
    index_blocks: 64,
};

/// The first packet of a connection, at one of its ends.
#[derive(Clone, Debug)]
pub struct Question {
    pub arrival: Arrival,
    pub bytes: Vec<u8>,
}

impl Question {
    /// Protocol and destination port.
    fn port(&self) -> (u8, u16) {
        let mut ip = Ip::EMPTY;
        let _ = parse(&Slice(&self.bytes), &mut ip);
        (ip.protocol, ip.dst_port)
    }
}

/// A connection at each of its ends that is an endpoint.
pub fn at_both_ends(
    from: IpAddr,
    to: IpAddr,
    transport: TransportProtocol,
    locals: &[LocalEndpoint],
) -> Vec<Question> {
    let bytes = frame(from, to, transport);
    [(Direction::Egress, from), (Direction::Ingress, to)]
        .into_iter()
        .filter_map(|(direction, own)| {
            let ifindex = crate::cluster::owner(locals, own)?;
            let arrival = Arrival { ifindex, direction, from_node: false };
            Some(Question { arrival, bytes: bytes.clone() })
        })
        .collect()
}

pub fn answers(tables: &Memory, questions: &[Question]) -> Vec<bool> {
    questions
        .iter()
        .map(|q| {
            tables.forget_flows();
            decide(&Slice(&q.bytes), tables, &q.arrival, &mut Scratch::EMPTY.clone()).is_pass()
        })
        .collect()
}

/// Tables that were filled from nothing.
pub fn filled_afresh(compiled: &Compiled, locals: &[LocalEndpoint]) -> anyhow::Result<Memory> {
    let mut tables = Memory::new(&SMALL);
    for op in Planner::new(SMALL).plan(compiled, locals)? {
        tables.apply(&op)?;
    }
    Ok(tables)
}

/// The next agent's planner, which knows nothing but what the tables hold.
pub fn adopt(tables: &Memory, compiled: &Compiled, locals: &[LocalEndpoint]) -> anyhow::Result<Planner> {
    Planner::adopt(SMALL, tables.present(), compiled, locals)
        .map_err(|why| anyhow::anyhow!("no planner leaves these tables: {why}"))
}

/// One planner and its tables, from update to update.
#[derive(Debug)]
pub struct Chain {
    pub planner: Planner,
    pub tables: Memory,
    pub counts: Counts,
}

#[derive(Debug, Default)]
pub struct Counts {
    pub checks: u64,
    pub changed: u64,
    pub barriers: u64,
    pub failures: u64,
    /// Plans that do nothing but move addresses.
    pub address_plans: u64,
}

impl Default for Chain {
    fn default() -> Self {
        Self { planner: Planner::new(SMALL), tables: Memory::new(&SMALL), counts: Counts::default() }
    }
}

impl Chain {
    /// Plans and applies until it is done; the first `failures` plans fail on the way. Between any two writes each
    /// question must be answered as before or as after; and whoever allows less than before must be under watch.
    pub fn update(
        &mut self,
        questions: &[Question],
        failures: usize,
        plan: impl FnMut(&mut Planner) -> Result<Vec<Op>, TableFull>,
    ) -> anyhow::Result<()> {
        let mut left = failures;
        let stop = |length: usize| {
            let at = (left > 0).then(|| (length * left).div_ceil(3));
            left = left.saturating_sub(1);
            at
        };
        self.run(questions, stop, plan, |planner, _, index| {
            planner.failed(index);
            Ok(())
        })
    }

    /// The same; where `stop` says so, the agent dies, and another one takes over what the tables hold.
    pub fn update_by_mortals(
        &mut self,
        questions: &[Question],
        stop: impl FnMut(usize) -> Option<usize>,
        compiled: &Compiled,
        locals: &[LocalEndpoint],
    ) -> anyhow::Result<()> {
        let take_over = |planner: &mut Planner, tables: &Memory, _| {
            *planner = adopt(tables, compiled, locals)?;
            Ok(())
        };
        self.run(questions, stop, |planner| planner.plan(compiled, locals), take_over)
    }

    /// `stop`: before which operation of a plan of this length something happens; what, says `stopped`.
    fn run(
        &mut self,
        questions: &[Question],
        mut stop: impl FnMut(usize) -> Option<usize>,
        mut plan: impl FnMut(&mut Planner) -> Result<Vec<Op>, TableFull>,
        mut stopped: impl FnMut(&mut Planner, &Memory, usize) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let before = answers(&self.tables, questions);
        let asked: BTreeSet<(u8, u16)> = questions.iter().map(Question::port).collect();
        let mut history: Vec<Vec<bool>> = Vec::new();
        loop {
            let ops = plan(&mut self.planner)?;
            let addresses_alone = |op: &Op| matches!(op, Op::Peer { .. } | Op::Watch { .. });
            self.counts.address_plans += u64::from(!ops.is_empty() && ops.iter().all(addresses_alone));
            let stop = stop(ops.len());
            let mut failed = None;
            for (index, op) in ops.iter().enumerate() {
                if stop == Some(index) {
                    failed = Some(index);
                    self.counts.failures += 1;
                    break;
                }
                self.counts.barriers += u64::from(*op == Op::Barrier);
                self.tables.apply(op)?;
                // Painting a protocol is 65,536 writes: what is asked about, and a sample of the others, is enough.
                let tells = match op {
                    Op::Port { protocol, port, .. } => {
                        asked.contains(&([6, 17, 132][protocol.index() as usize], *port))
                    }
                    _ => true,
                };
                if tells || index % 997 == 0 {
                    let now = answers(&self.tables, questions);
                    self.check_watch(questions, &before, &now)?;
                    history.push(now);
                }
            }
            match failed {
                Some(index) => stopped(&mut self.planner, &self.tables, index)?,
                None => break self.planner.applied(),
            }
        }
        let after = answers(&self.tables, questions);
        for (index, question) in questions.iter().enumerate() {
            self.counts.changed += u64::from(before[index] != after[index]);
            for (write, seen) in history.iter().enumerate() {
                self.counts.checks += 1;
                anyhow::ensure!(
                    seen[index] == before[index] || seen[index] == after[index],
                    "{:?} was {}, becomes {}, and is {} after write {write}",
                    question.arrival,
                    before[index],
                    after[index],
                    seen[index]
                );
            }
        }
        Ok(())
    }

    /// As the agent does when it has seen that no connection lacks its permission.
    pub fn unwatch(&mut self) -> anyhow::Result<()> {
        for op in self.planner.unwatch(&Default::default()) {
            self.tables.apply(&op)?;
        }
        self.planner.unwatched();
        Ok(())
    }

    fn check_watch(&self, questions: &[Question], before: &[bool], now: &[bool]) -> anyhow::Result<()> {
        for ((question, before), now) in questions.iter().zip(before).zip(now) {
            let watched = self.tables.endpoint(question.arrival.ifindex).is_some_and(|e| e.watch == 1);
            anyhow::ensure!(
                *now || !*before || watched,
                "{:?} is allowed no longer, and not watched",
                question.arrival
            );
        }
        Ok(())
    }
}
