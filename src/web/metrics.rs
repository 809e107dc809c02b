//! What a Prometheus, and whoever looks after an exporter, asks for.

use crate::telemetry::export::Page;
use axum::Router;
use axum::body::Bytes;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use std::sync::Arc;

/// The type of what is scraped.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A text that is served without being copied.
struct Scraped(Arc<String>);

impl AsRef<[u8]> for Scraped {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// `/metrics`, `/healthz` and `/readyz` of an exporter.
pub fn metrics(page: &Arc<Page>) -> Router {
    let (scraped, health, readiness) = (Arc::clone(page), Arc::clone(page), Arc::clone(page));
    let scrape = async move || {
        let text = Bytes::from_owner(Scraped(scraped.scrape()));
        ([(header::CONTENT_TYPE, OPEN_METRICS)], text)
    };
    Router::new()
        .route("/metrics", get(scrape))
        .route("/healthz", get(async move || answer(health.is_healthy(), "cycles go on", "no cycle for long")))
        .route("/readyz", get(async move || answer(readiness.is_ready(), "all is read", "something does not answer")))
}

fn answer(is_well: bool, well: &'static str, ill: &'static str) -> impl IntoResponse + use<> {
    match is_well {
        true => (StatusCode::OK, format!("{well}\n")),
        false => (StatusCode::SERVICE_UNAVAILABLE, format!("{ill}\n")),
    }
}
