//! Where the API server is, and who we are to it.

use std::env;
use std::path::PathBuf;

use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use thiserror::Error;

/// Where the credentials are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Merged as kubectl does it. Without any: the environment's `KUBECONFIG`, else the service account of the pod that we
    /// are in, else `~/.kube/config`.
    pub kubeconfig: Vec<PathBuf>,
    /// Of the kubeconfig; its current one where this is `None`.
    pub context: Option<String>,
}

#[derive(Debug, Error)]
pub enum ConnectError {
    #[error("the kubeconfig {place} can't be used: {}", causes(.source))]
    Kubeconfig { place: String, source: KubeconfigError },
    #[error("the pod's service account can't be used: {}", causes(.0))]
    ServiceAccount(#[source] InClusterError),
    #[error("a context is chosen, but in a pod there is no kubeconfig: give one, or leave the context out")]
    ContextWithoutKubeconfig,
    #[error("no client can be made for {server}: {}", causes(.source))]
    Client { server: String, source: kube::Error },
    #[error("the thread of the watches can't be started: {0}")]
    Thread(#[source] std::io::Error),
}

/// A client, and the server's address for people.
pub(super) async fn connect(access: &Access) -> Result<(Client, String), ConnectError> {
    let mut config = configuration(access).await?;
    // The watches wait by themselves, and tell why.
    config.default_retry = false;
    let server = config.cluster_url.to_string();
    match Client::try_from(config) {
        Ok(client) => Ok((client, server)),
        Err(source) => Err(ConnectError::Client { server, source }),
    }
}

async fn configuration(access: &Access) -> Result<Config, ConnectError> {
    let options = KubeConfigOptions { context: access.context.clone(), ..KubeConfigOptions::default() };
    if let [first, more @ ..] = access.kubeconfig.as_slice() {
        let mut place = first.display().to_string();
        let failed = |place: &str, source| ConnectError::Kubeconfig { place: place.to_owned(), source };
        let mut kubeconfig = Kubeconfig::read_from(first).map_err(|error| failed(&place, error))?;
        for path in more {
            place = path.display().to_string();
            let next = Kubeconfig::read_from(path).map_err(|error| failed(&place, error))?;
            kubeconfig = kubeconfig.merge(next).map_err(|error| failed(&place, error))?;
        }
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
        return config.map_err(|error| failed(&place, error));
    }
    let named = env::var_os("KUBECONFIG").filter(|value| !value.is_empty());
    if named.is_none() && env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        if access.context.is_some() {
            return Err(ConnectError::ContextWithoutKubeconfig);
        }
        return Config::incluster().map_err(ConnectError::ServiceAccount);
    }
    let place = named.map_or_else(
        || "~/.kube/config (no other is named, and this is no pod)".to_owned(),
        |value| format!("that KUBECONFIG names ({})", value.display()),
    );
    Config::from_kubeconfig(&options).await.map_err(|source| ConnectError::Kubeconfig { place, source })
}

/// An error with its causes, on one line.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // Many errors tell their cause themselves.
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
