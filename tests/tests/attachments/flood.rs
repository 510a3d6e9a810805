//! A datagram each millisecond to a port that policy denies, and when any of them arrived.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sluice_tests::agent_world::Lab;

const PORT: u16 = 5301;

#[derive(Debug)]
pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    heard: Arc<Mutex<Vec<Instant>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Flood {
    pub(crate) fn start(lab: &Lab) -> Result<Self> {
        let (from, to) = (lab.world.pod("prod/web")?, lab.world.pod("dev/web")?);
        let bind = |port| move || UdpSocket::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
        let (sender, receiver) = (from.ns.run(bind(0))??, to.ns.run(bind(PORT))??);
        receiver.set_read_timeout(Some(Duration::from_millis(50)))?;
        let (stop, heard) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let target = SocketAddr::from((to.ipv4, PORT));
        let sending = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                while !stop.load(Ordering::Relaxed) {
                    let _ = sender.send_to(b"denied", target);
                    thread::sleep(Duration::from_millis(1));
                }
            }
        });
        let receiving = thread::spawn({
            let (stop, heard) = (Arc::clone(&stop), Arc::clone(&heard));
            move || {
                let mut buffer = [0; 16];
                while !stop.load(Ordering::Relaxed) {
                    if receiver.recv(&mut buffer).is_ok() {
                        heard.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
                    }
                }
            }
        });
        Ok(Self { stop, heard, threads: vec![sending, receiving] })
    }

    /// Nothing has been heard lately.
    pub(crate) fn quiet(&self) -> Result<()> {
        let last = self.heard.lock().unwrap_or_else(PoisonError::into_inner).last().map(Instant::elapsed);
        ensure!(last.is_none_or(|ago| ago > Duration::from_millis(100)), "heard {last:?} ago");
        Ok(())
    }

    /// How many have arrived since `moment`, and how long after it the last one did.
    pub(crate) fn heard_since(&self, moment: Instant) -> (usize, Duration) {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let count = heard.iter().filter(|at| **at > moment).count();
        (count, heard.last().map_or(Duration::ZERO, |last| last.saturating_duration_since(moment)))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
