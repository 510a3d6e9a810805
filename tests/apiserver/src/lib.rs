//! A stand-in for the Kubernetes API server, and the means to run the same tests against the real one.
//!
//! The double serves what Sluice uses: lists in pages, watches, streaming lists, bookmarks, discovery for `kubectl get`,
//! and writes. Every way in which a server fails can be switched on while it runs, and it remembers who used which verb.

mod access;
mod answer;
mod cluster;
mod faults;
mod path;
mod real;
mod resources;
mod serve;
mod store;
mod watch;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tokio::sync::oneshot;

pub use access::{Access, Role};
pub use cluster::Cluster;
pub use faults::{Faults, Gone, Refusal, Streaming};
pub use real::{ASSETS, RealServer};
use store::Store;

/// A running double. Its connections and its thread end with it.
#[derive(Debug)]
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    stop: oneshot::Sender<()>,
    thread: thread::JoinHandle<()>,
}

/// What requests and tests both see.
#[derive(Debug)]
struct Shared {
    store: Mutex<Store>,
    /// Wakes the watches.
    changed: tokio::sync::watch::Sender<()>,
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let result = change(&mut self.store());
        self.changed.send_replace(());
        result
    }
}

impl ApiServer {
    /// On a free port of loopback.
    pub fn start() -> Result<Self> {
        Self::on(TcpListener::bind("127.0.0.1:0").context("no port for the API server")?)
    }

    /// On a socket of the caller's, which may be of another network namespace.
    pub fn on(listener: TcpListener) -> Result<Self> {
        let address = listener.local_addr()?;
        let (changed, _) = tokio::sync::watch::channel(());
        let shared = Arc::new(Shared { store: Mutex::default(), changed });
        let mut server = Self { shared, address, running: None };
        server.serve(listener)?;
        Ok(server)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// For writes over HTTP, as a user makes them.
    pub fn cluster(&self) -> Result<Cluster> {
        Cluster::connect(&self.url(), None)
    }

    fn serve(&mut self, listener: TcpListener) -> Result<()> {
        listener.set_nonblocking(true)?;
        let shared = Arc::clone(&self.shared);
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new().name("api-double".to_owned()).spawn(move || {
            if let Err(error) = serve_until(listener, shared, stopped) {
                eprintln!("the API server's double ended: {error}");
            }
        })?;
        self.running = Some(Running { stop, thread });
        Ok(())
    }

    /// Closes the port and every connection. What is stored stays.
    pub fn go_away(&mut self) {
        if let Some(Running { stop, thread }) = self.running.take() {
            drop(stop);
            let _ = thread.join();
        }
    }

    /// On the port of before.
    pub fn come_back(&mut self) -> Result<()> {
        self.go_away();
        let listener = TcpListener::bind(self.address).context("the API server's port is taken")?;
        self.serve(listener)
    }

    /// Creates the object, or replaces it, exactly as it is given; what identifies it is filled in. Returns its version.
    pub fn put(&self, object: Value) -> Result<u64> {
        self.shared.change(|store| store.put(object))
    }

    pub fn delete(&self, resource: &str, namespace: &str, name: &str) -> Result<u64> {
        self.shared.change(|store| store.delete(resource, namespace, name))
    }

    /// Sends an event to every open watch of the resource, without anything having changed.
    pub fn inject(&self, resource: &str, event: &str, object: Value) -> Result<()> {
        self.shared.change(|store| store.inject(resource, event, object))
    }

    /// Forgets how things came to be as they are: older versions are gone, and pages of lists that were begun.
    pub fn compact(&self) {
        self.shared.change(Store::compact);
    }

    pub fn set_faults(&self, change: impl FnOnce(&mut Faults)) {
        self.shared.change(|store| change(&mut store.faults));
    }

    /// Ends all watches that are open at present.
    pub fn cut_watches(&self) {
        self.shared.change(|store| store.epoch += 1);
    }

    /// From now on, what the role does not grant is forbidden.
    pub fn enforce(&self, role: Role) {
        self.shared.store().role = Some(role);
    }

    /// From now on, only this bearer token is known.
    pub fn require_token(&self, token: &str) {
        self.shared.store().token = Some(token.to_owned());
    }

    /// Every use that was made of the API, and how often.
    pub fn used(&self) -> BTreeMap<Access, u64> {
        self.shared.store().used.clone()
    }

    pub fn objects(&self, resource: &str) -> Vec<Value> {
        self.shared.store().objects(resource).map(|object| Value::clone(object)).collect()
    }

    pub fn version(&self) -> u64 {
        self.shared.store().version
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.go_away();
    }
}

fn serve_until(listener: TcpListener, shared: Arc<Shared>, stopped: oneshot::Receiver<()>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        tokio::select! {
            served = axum::serve(listener, serve::router(shared)).into_future() => served,
            _ = stopped => Ok(()),
        }
    });
    // With the runtime end the connections.
    runtime.shutdown_background();
    result
}
