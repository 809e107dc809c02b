//! What a Prometheus, and whoever looks after an exporter, asks for.

use crate::telemetry::export::Page;
use axum::Router;
use axum::body::Bytes;
use axum::http::header;
use axum::routing::get;
use std::sync::Arc;

/// The type of what is scraped.
pub(super) const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A text that is served without being copied.
struct Scraped(Arc<String>);

impl AsRef<[u8]> for Scraped {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// `/metrics`, `/healthz` and `/readyz` of an exporter.
pub fn metrics(page: &Arc<Page>) -> Router {
    let scraped = Arc::clone(page);
    let scrape = async move || {
        let text = Bytes::from_owner(Scraped(scraped.scrape()));
        ([(header::CONTENT_TYPE, OPEN_METRICS)], text)
    };
    Router::new().route("/metrics", get(scrape)).merge(health_of(page))
}

/// `/healthz` and `/readyz` of an exporter.
pub fn health_of(page: &Arc<Page>) -> Router {
    let (health, readiness) = (Arc::clone(page), Arc::clone(page));
    let alive = move || if health.is_healthy() { Ok(()) } else { Err("no cycle for long".to_owned()) };
    let healthy = move || std::future::ready(alive());
    let ready = move || std::future::ready(readiness.ready());
    super::health::pages(healthy, ready)
}
