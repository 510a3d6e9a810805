//! Requests to answers.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{HeaderValue, Method, Request, Response, header};
use serde_json::{Value, json};

use crate::Shared;
use crate::access::Access;
use crate::answer::{failure, json};
use crate::path::{Target, parameters, target};
use crate::resources::discovery;
use crate::store::Page;
use crate::watch;

const LARGEST_BODY: usize = 8 << 20;

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new().fallback(handle).with_state(shared)
}

async fn handle(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Response<Body> {
    let delay = shared.store().faults.delay;
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    if let Some(refused) = unknown_caller(&shared, &request) {
        return refused;
    }
    let path = request.uri().path().trim_matches('/').to_owned();
    let segments: Vec<&str> = path.split('/').collect();
    if let Some(found) = discovery(&segments) {
        return json(200, &found, false);
    }
    let Some(target) = target(&segments) else {
        return failure(404, "the server could not find the requested resource");
    };
    let parameters = parameters(request.uri().query().unwrap_or_default());
    let parameter = |name: &str| parameters.get(name).map(String::as_str).unwrap_or_default();
    let watches = matches!(parameter("watch"), "true" | "1");
    let verb = match (request.method(), &target.name) {
        (&Method::GET, None) if watches => "watch",
        (&Method::GET, None) => "list",
        (&Method::GET, Some(_)) => "get",
        (&Method::POST, _) => "create",
        (&Method::PUT, _) => "update",
        (&Method::PATCH, _) => "patch",
        (&Method::DELETE, _) => "delete",
        _ => return failure(405, "the server does not allow this method on the requested resource"),
    };
    if let Some(refused) = refusal(&shared, verb, &target) {
        return refused;
    }
    let gzip =
        request.headers().get(header::ACCEPT_ENCODING).is_some_and(|v| v.as_bytes().starts_with(b"gzip"));
    match verb {
        "watch" => {
            let seconds = parameter("timeoutSeconds").parse().unwrap_or(1800);
            let wanted = watch::Request {
                resource: target.resource,
                namespace: target.namespace,
                version: parameter("resourceVersion").to_owned(),
                initial_events: parameter("sendInitialEvents") == "true",
                bookmarks: parameter("allowWatchBookmarks") == "true",
                timeout: Duration::from_secs(seconds),
            };
            watch::answer(shared, wanted)
        }
        "list" => {
            let limit = parameter("limit").parse().unwrap_or(0);
            let token = Some(parameter("continue")).filter(|token| !token.is_empty());
            list(&shared, &target, limit, token, gzip)
        }
        "get" => match found(&shared, &target) {
            Some(object) => json(200, &object, gzip),
            None => absent(&target),
        },
        "delete" => {
            match shared.change(|store| store.delete(target.resource.name, of(&target), name(&target))) {
                Ok(_) => json(
                    200,
                    &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}),
                    false,
                ),
                Err(_) => absent(&target),
            }
        }
        _ => match to_bytes(request.into_body(), LARGEST_BODY)
            .await
            .map(|bytes| serde_json::from_slice(&bytes))
        {
            Ok(Ok(body)) => write(&shared, verb, &target, body),
            _ => failure(400, "the body is no JSON object"),
        },
    }
}

fn of(target: &Target) -> &str {
    target.namespace.as_deref().unwrap_or_default()
}

fn name(target: &Target) -> &str {
    target.name.as_deref().unwrap_or_default()
}

fn found(shared: &Shared, target: &Target) -> Option<Value> {
    shared.store().get(target.resource.name, of(target), name(target)).map(|object| Value::clone(object))
}

fn absent(target: &Target) -> Response<Body> {
    failure(404, &format!("{} \"{}\" not found", target.resource.name, name(target)))
}

fn unknown_caller(shared: &Shared, request: &Request<Body>) -> Option<Response<Body>> {
    let token = shared.store().token.clone()?;
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let known = given.and_then(|value| value.strip_prefix("Bearer ")) == Some(token.as_str());
    (!known).then(|| failure(401, "Unauthorized"))
}

fn refusal(shared: &Shared, verb: &'static str, target: &Target) -> Option<Response<Body>> {
    let resource = target.resource;
    let access = Access {
        verb,
        group: resource.group.to_owned(),
        resource: resource.name.to_owned(),
        subresource: target.subresource.clone(),
    };
    let mut store = shared.store();
    *store.used.entry(access.clone()).or_default() += 1;
    if store.role.as_ref().is_some_and(|role| !role.grants(&access)) {
        let message = format!(
            "{} is forbidden: User \"system:serviceaccount:kube-system:sluice\" cannot {verb} resource \"{}\" in API group \"{}\" at the cluster scope",
            resource.name, resource.name, resource.group
        );
        return Some(failure(403, &message));
    }
    let refusal = store.faults.refuse.get_mut(resource.name)?;
    match &mut refusal.times {
        Some(0) => return None,
        Some(times) => *times -= 1,
        None => {}
    }
    let mut answer = failure(refusal.code, "refused, as the test wants it");
    if let Some(seconds) = refusal.retry_after {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    Some(answer)
}

fn list(shared: &Shared, target: &Target, limit: usize, token: Option<&str>, gzip: bool) -> Response<Body> {
    let mut store = shared.store();
    if token.is_some() && store.faults.break_pages > 0 {
        store.faults.break_pages -= 1;
        return failure(500, "this page broke, as the test wants it");
    }
    let page = store.page(target.resource.name, target.namespace.as_deref(), limit, token);
    drop(store);
    let Some(Page { version, items, next, remaining }) = page else {
        return failure(410, "The provided continue parameter is too old");
    };
    let items: Vec<Value> = items
        .iter()
        .map(|object| {
            // The items of a typed list do not say their kind.
            let mut object = Value::clone(object);
            if let Some(map) = object.as_object_mut() {
                map.remove("kind");
                map.remove("apiVersion");
            }
            object
        })
        .collect();
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if let Some(next) = next {
        metadata["continue"] = next.into();
        metadata["remainingItemCount"] = remaining.into();
    }
    let kind = format!("{}List", target.resource.kind);
    let api_version = target.resource.api_version();
    json(200, &json!({"kind": kind, "apiVersion": api_version, "metadata": metadata, "items": items}), gzip)
}

/// Creates or replaces; a status is only written by way of its subresource.
fn write(shared: &Shared, verb: &str, target: &Target, mut body: Value) -> Response<Body> {
    let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if !body.is_object() || name.is_empty() {
        return failure(422, "metadata.name: Required value");
    }
    let target = Target {
        name: Some(name),
        resource: target.resource,
        namespace: target.namespace.clone(),
        subresource: target.subresource.clone(),
    };
    let before = found(shared, &target);
    body["kind"] = target.resource.kind.into();
    if let Some(namespace) = &target.namespace {
        body["metadata"]["namespace"] = namespace.as_str().into();
    }
    let object = match (verb, before) {
        ("create", Some(_)) => return failure(409, "already exists"),
        ("create", None) => without_status(body),
        ("update", None) => return absent(&target),
        ("update", Some(before)) if target.subresource == "status" => {
            let mut object = before;
            object["status"] = body["status"].take();
            object
        }
        ("update", Some(before)) => {
            let mut object = without_status(body);
            if let Some(status) = before.get("status") {
                object["status"] = status.clone();
            }
            object
        }
        _ => return failure(405, "the double knows no patches"),
    };
    match shared.change(|store| store.put(object)) {
        Ok(_) => {
            json(if verb == "create" { 201 } else { 200 }, &found(shared, &target).unwrap_or_default(), false)
        }
        Err(error) => failure(422, &error.to_string()),
    }
}

fn without_status(mut object: Value) -> Value {
    if let Some(map) = object.as_object_mut() {
        map.remove("status");
    }
    object
}
