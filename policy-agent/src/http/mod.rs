//! `/livez`, `/readyz` and `/metrics` over HTTP/1.1, on a thread of their own: the agent's loop may compile for a second, and a
//! probe must not take that for death.
//!
//! Whoever asks is not trusted: one request a connection, few connections, little to read, and a moment to finish.

mod routes;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

pub use routes::{exposition, health};

use crate::config::{Listen, OperationOptions};
use crate::crowd::Crowd;
use crate::health::{Heartbeat, Readiness};
use crate::metrics::{Metrics, SnapshotRequest, scraper};

/// From the first byte to the last, in both directions.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
const HEADER_TIME: Duration = Duration::from_secs(3);
/// Names and values of all headers; hyper's least is 8 KiB.
const HEADER_BYTES: usize = 16 << 10;
const HEADERS: usize = 64;
/// A kubelet and a few scrapers need two or three. Who comes when all are taken is served, and the oldest one goes.
const CONNECTIONS: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("{option} {address}: {cause}")]
    Bind { option: &'static str, address: SocketAddr, cause: io::Error },
    #[error("starting the thread for HTTP: {0}")]
    Thread(#[from] io::Error),
}

/// What is served at one address.
#[derive(Debug)]
pub struct Service {
    /// The option that names the address, for errors.
    pub option: &'static str,
    pub listen: Listen,
    pub routes: Router,
}

/// Serves until it is dropped.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Binds every address that is not `off`, and begins to serve.
    pub fn start(services: Vec<Service>) -> Result<Self, HttpError> {
        let mut bound = Vec::new();
        for Service { option, listen, routes } in services {
            if let Some(listener) = bind(option, listen)? {
                bound.push((listener, routes));
            }
        }
        let addresses = bound.iter().map(|(l, _)| l.local_addr()).collect::<io::Result<Vec<_>>>()?;
        if bound.is_empty() {
            return Ok(Self { addresses, stop: None, thread: None });
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("http".to_owned()).spawn(move || {
            runtime.block_on(async {
                for (listener, routes) in bound {
                    tokio::spawn(accept(listener, routes));
                }
                // Dropped, or told: both mean the end.
                let _ = stopped.await;
            });
        })?;
        Ok(Self { addresses, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens, in the order of the services that are not off.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

/// What `run` serves, and where its loop finds the questions of scrapes.
pub fn start(
    options: &OperationOptions,
    metrics: Metrics,
    heartbeat: Heartbeat,
    readiness: Readiness,
) -> Result<(Server, mpsc::Receiver<SnapshotRequest>), HttpError> {
    let (scraper, questions) = scraper(metrics);
    let server = Server::start(vec![
        Service {
            option: "health-address",
            listen: options.health_address,
            routes: health(heartbeat, readiness),
        },
        Service { option: "metrics-address", listen: options.metrics_address, routes: exposition(scraper) },
    ])?;
    Ok((server, questions))
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn bind(option: &'static str, listen: Listen) -> Result<Option<std::net::TcpListener>, HttpError> {
    let mut failed = None;
    for address in listen.candidates() {
        let bound = std::net::TcpListener::bind(address)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
        match bound {
            Ok(listener) => return Ok(Some(listener)),
            Err(cause) => failed = Some(HttpError::Bind { option, address, cause }),
        }
    }
    failed.map_or(Ok(None), Err)
}

async fn accept(listener: std::net::TcpListener, routes: Router) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!("HTTP: {error}"),
    };
    let crowd = Crowd::new(CONNECTIONS);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (routes, mut place) = (routes.clone(), crowd.enter());
                tokio::spawn(async move {
                    let served = tokio::time::timeout(CONNECTION_TIME, serve(stream, routes));
                    tokio::select! {
                        biased;
                        served = served => match served {
                            Ok(Ok(())) => {}
                            Ok(Err(error)) => tracing::debug!("HTTP client: {error}"),
                            Err(_) => tracing::debug!("HTTP client: cut off after {CONNECTION_TIME:?}"),
                        },
                        () = place.lost() => tracing::debug!("HTTP client: cut off, others wait"),
                    }
                });
                // Who has just come and has asked already is answered before the next one can take its place.
                tokio::task::yield_now().await;
            }
            Err(error) => {
                tracing::warn!("accepting an HTTP client: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, routes: Router) -> hyper::Result<()> {
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(HEADER_BYTES)
        .max_headers(HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes))
        .await
}
