//! Answers: JSON, compressed where that was asked for, and the API's errors.

use std::io::Write as _;

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};

/// Servers compress nothing smaller.
const SMALLEST_COMPRESSED: usize = 128 << 10;

pub(crate) fn json(code: u16, value: &Value, gzip: bool) -> Response<Body> {
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    let compressed = if gzip && bytes.len() > SMALLEST_COMPRESSED { compress(&bytes) } else { None };
    let is_compressed = compressed.is_some();
    let mut response = Response::new(Body::from(compressed.unwrap_or(bytes)));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if is_compressed {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

fn compress(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).ok()?;
    encoder.finish().ok()
}

/// A Status, as the API has it.
pub(crate) fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}

pub(crate) fn failure(code: u16, message: &str) -> Response<Body> {
    json(code, &status(code, reason(code), message), false)
}

pub(crate) const fn reason(code: u16) -> &'static str {
    match code {
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        409 => "AlreadyExists",
        410 => "Expired",
        422 => "Invalid",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        _ => "InternalError",
    }
}
