//! Writing to a cluster as a user does: the double, or a real one.

use anyhow::{Context as _, Result, bail};
use axum::http::{Method, Request};
use kube::{Client, Config};
use serde_json::{Value, json};

use crate::resources::Resource;

#[derive(Clone)]
pub struct Cluster {
    client: Client,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cluster")
    }
}

impl Cluster {
    /// Must be called within a runtime.
    pub(crate) fn connect(url: &str, token: Option<&str>) -> Result<Self> {
        let mut config = Config::new(url.parse()?);
        // The real server of a test has made its certificate itself.
        config.accept_invalid_certs = true;
        config.auth_info.token = token.map(|token| token.to_owned().into());
        Ok(Self { client: Client::try_from(config)? })
    }

    /// Creates the object or replaces it, and its status after it.
    pub async fn put(&self, object: &Value) -> Result<()> {
        let (path, name) = path(object)?;
        let of_object = format!("{path}/{name}");
        let old = self.client.request::<Value>(request(Method::GET, &of_object, None)?).await.ok();
        let mut object = object.clone();
        match &old {
            Some(old) => {
                object["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
                self.send(Method::PUT, &of_object, Some(&object)).await?;
            }
            None => self.send(Method::POST, &path, Some(&object)).await?,
        }
        if object.get("status").is_some() {
            object["metadata"]["resourceVersion"] = Value::Null;
            let stripped =
                object["metadata"].as_object_mut().map(|metadata| metadata.remove("resourceVersion"));
            stripped.context("an object without metadata")?;
            self.send(Method::PUT, &format!("{of_object}/status"), Some(&object)).await?;
        }
        Ok(())
    }

    pub async fn delete(&self, object: &Value) -> Result<()> {
        let (path, name) = path(object)?;
        let at_once = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0});
        self.send(Method::DELETE, &format!("{path}/{name}"), Some(&at_once)).await
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<()> {
        let what = format!("{method} {path}");
        self.client.request::<Value>(request(method, path, body)?).await.context(what)?;
        Ok(())
    }
}

fn request(method: Method, path: &str, body: Option<&Value>) -> Result<Request<Vec<u8>>> {
    let body = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
    Ok(Request::builder().method(method).uri(path).header("content-type", "application/json").body(body)?)
}

/// Of the object's collection, and the object's name.
fn path(object: &Value) -> Result<(String, String)> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let kind = text(&object["kind"]).context("an object without a kind")?;
    let Some(resource) = Resource::of_kind(&kind) else { bail!("no {kind} is served") };
    let name = text(&object["metadata"]["name"]).context("an object without a name")?;
    let root =
        if resource.group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{}/v1", resource.group) };
    let namespace = match resource.namespaced {
        true => format!("/namespaces/{}", text(&object["metadata"]["namespace"]).context("no namespace")?),
        false => String::new(),
    };
    Ok((format!("{root}{namespace}/{}", resource.name), name))
}
