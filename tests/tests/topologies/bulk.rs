//! Some megabytes over one connection, there and back.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sluice_netns::{ALLOW_TIMEOUT, Netns};

const BYTES: usize = 4 << 20;
/// Between two pieces that arrive, not for the whole.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends to a server that echoes, and compares every byte that comes back.
pub(crate) fn echo(from: &Netns, to: SocketAddr) -> Result<()> {
    let mut receiver = from.run(|| TcpStream::connect_timeout(&to, ALLOW_TIMEOUT))??;
    receiver.set_read_timeout(Some(PATIENCE))?;
    receiver.set_write_timeout(Some(PATIENCE))?;
    let mut sender = receiver.try_clone()?;
    let sent = pattern();
    let mut received = vec![0; BYTES];
    thread::scope(|scope| {
        let sending = scope.spawn(|| sender.write_all(&sent));
        receiver.read_exact(&mut received).context("receiving")?;
        sending.join().map_err(|_| anyhow::anyhow!("the sender panicked"))?.context("sending")
    })
    .with_context(|| format!("{} -> {to}", from.name()))?;
    ensure!(sent == received, "{} -> {to}: not what was sent", from.name());
    Ok(())
}

/// No two parts of it are alike: a lost, repeated or moved piece shows. (Xorshift, George Marsaglia 2003.)
fn pattern() -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let mut bytes = Vec::with_capacity(BYTES);
    while bytes.len() < BYTES {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}
