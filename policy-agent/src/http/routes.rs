//! What is answered.

use std::fmt::Write as _;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::health::{Heartbeat, LIVE_WITHIN, Readiness};
use crate::metrics::{Exposition, Scraper};

/// `/livez` and `/readyz`, each with `?verbose`.
pub fn health(heartbeat: Heartbeat, readiness: Readiness) -> Router {
    Router::new()
        .route("/livez", get(live).with_state(heartbeat))
        .route("/readyz", get(ready).with_state(readiness))
}

/// `/metrics`.
pub fn exposition(scraper: Scraper) -> Router {
    Router::new().route("/metrics", get(scrape).with_state(scraper))
}

async fn live(State(heartbeat): State<Heartbeat>, RawQuery(query): RawQuery) -> Response {
    let age = heartbeat.age();
    let report = if age <= LIVE_WITHIN {
        Ok("[+]loop ok\n".to_owned())
    } else {
        Err(format!("[-]loop failed: it has been at one thing for {} s\n", age.as_secs()))
    };
    answer("livez", report, query.as_deref())
}

async fn ready(State(readiness): State<Readiness>, RawQuery(query): RawQuery) -> Response {
    let report = readiness.report();
    answer("readyz", if readiness.is_ready() { Ok(report) } else { Err(report) }, query.as_deref())
}

/// In the API server's words: `ok`, or what is wrong.
fn answer(check: &str, report: Result<String, String>, query: Option<&str>) -> Response {
    let verbose =
        query.is_some_and(|query| query.split('&').any(|word| word.split('=').next() == Some("verbose")));
    let plain = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-store")];
    match report {
        Ok(mut report) if verbose => {
            let _ = writeln!(report, "{check} check passed");
            (StatusCode::OK, plain, report).into_response()
        }
        Ok(_) => (StatusCode::OK, plain, "ok").into_response(),
        Err(mut report) => {
            let _ = writeln!(report, "{check} check failed");
            (StatusCode::SERVICE_UNAVAILABLE, plain, report).into_response()
        }
    }
}

async fn scrape(State(scraper): State<Scraper>, headers: HeaderMap) -> Response {
    let accept: Vec<&str> =
        headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let exposition = Exposition::accepted(&accept.join(","));
    let text = exposition.of(&scraper.text().await);
    ([(header::CONTENT_TYPE, exposition.content_type())], text).into_response()
}
