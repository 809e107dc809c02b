//! What a Prometheus, and whoever looks after an exporter, asks for.

use crate::telemetry::export::Page;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use std::sync::Arc;

/// The type of what is scraped.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `/metrics`, `/healthz` and `/readyz` of an exporter.
pub fn metrics(page: &Arc<Page>) -> Router {
    let (scraped, health, readiness) = (Arc::clone(page), Arc::clone(page), Arc::clone(page));
    let scrape = async move || ([(header::CONTENT_TYPE, OPEN_METRICS)], scraped.scrape().to_string());
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
