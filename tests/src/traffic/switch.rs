//! One permission that changes: asked after each change, it is what the last one says and nothing else.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use sluice_netns::Netns;

use super::datagrams::{self, Arrivals, any, bind, datagram, is_timeout, parse};
use super::{SHOP, UDP, sockets};
use crate::agent_world::Lab;

const PORT: u16 = 8888;
const EACH: u64 = 3;
/// Their flows are not those of the steady traffic.
const FIRST: u32 = 1_000_000;
/// Far longer than a datagram waits for its reader on a machine that is busy with much else.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Switch {
    client: Netns,
    receivers: Vec<UdpSocket>,
    arrivals: Arrivals,
    to: Vec<SocketAddr>,
    /// With whether it was allowed; the flow's number follows from the place.
    asked: Mutex<Vec<bool>>,
}

impl Switch {
    pub(super) fn open(lab: &Lab) -> Result<Self> {
        let receivers = SHOP.iter().map(|pod| datagrams::receiver(&lab.ns(pod)?, PORT));
        Ok(Self {
            client: lab.ns("guest/client")?,
            receivers: receivers.collect::<Result<_>>()?,
            arrivals: Arrivals::default(),
            to: sockets(lab, &SHOP, PORT)?,
            asked: Mutex::default(),
        })
    }

    /// Sends where the switch leads. Everything must be enforced, and stay so until this returns.
    pub fn ask(&self, on: bool) -> Result<()> {
        for to in &self.to {
            let flow = {
                let mut asked = self.asked.lock().map_err(|_| anyhow::anyhow!("a panic"))?;
                asked.push(on);
                FIRST + u32::try_from(asked.len())? - 1
            };
            let socket = bind(&self.client, any(*to))?;
            for number in 0..EACH {
                socket.send_to(&datagram(flow, number), to)?;
            }
            // What was sent before it has been judged when this one comes back.
            let fence = SocketAddr::new(to.ip(), UDP);
            socket.send_to(&datagram(flow, 0), fence)?;
            let deadline = Instant::now() + PATIENCE;
            let mut buffer = [0; 64];
            loop {
                match socket.recv(&mut buffer) {
                    Ok(length) if parse(&buffer[..length]) == Some((flow, 0)) => break,
                    Ok(_) => {}
                    Err(error) if is_timeout(&error) => {}
                    Err(error) => return Err(error).with_context(|| format!("the switch at {to}")),
                }
                ensure!(Instant::now() < deadline, "nothing came back from {fence}, which all may reach");
            }
            while on && self.arrivals.of(flow) < EACH {
                ensure!(
                    Instant::now() < deadline,
                    "{} of {EACH} datagrams came to {to}, which the last change allows",
                    self.arrivals.of(flow)
                );
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    pub(super) fn receive<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        over: &'scope AtomicBool,
    ) -> Vec<ScopedJoinHandle<'scope, Result<()>>> {
        self.receivers.iter().map(|socket| scope.spawn(move || self.listen(socket, over))).collect()
    }

    fn listen(&self, socket: &UdpSocket, over: &AtomicBool) -> Result<()> {
        let mut buffer = [0; 64];
        while !over.load(Ordering::Relaxed) {
            if let Ok(length) = socket.recv(&mut buffer) {
                let (flow, number) = parse(&buffer[..length]).context("a datagram of nobody")?;
                self.arrivals.note(flow, number)?;
            }
        }
        Ok(())
    }

    /// What came while it was off, at any time: nothing. Returns how often it was asked.
    pub(super) fn judge(&self) -> Result<usize> {
        let asked = self.asked.lock().map_err(|_| anyhow::anyhow!("a panic"))?;
        for (flow, on) in (FIRST..).zip(asked.iter()) {
            let came = self.arrivals.of(flow);
            ensure!(
                came == if *on { EACH } else { 0 },
                "question {}: {came} datagrams came, and the switch was {}",
                flow - FIRST,
                if *on { "on" } else { "off" }
            );
        }
        Ok(asked.len())
    }
}
