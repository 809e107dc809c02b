//! Two pages for those who watch over a process: is it alive, does it do its work?
//!
//! Invariant: what they say is one line, and never waits for anything but what is asked about.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, routing};
use std::future::Future;

/// All is well, or why it is not, in one line.
pub type Verdict = Result<(), String>;

/// `/healthz`, 200 as long as the process is `alive`: whoever watches may start it anew if it is not. `/readyz`, 200 while it is
/// `ready`: without its broker it is not, and starting it anew would not help. Otherwise 503, and why.
pub fn pages<A, AsksA, R, AsksR>(alive: A, ready: R) -> Router
where
    A: Fn() -> AsksA + Clone + Send + Sync + 'static,
    AsksA: Future<Output = Verdict> + Send + 'static,
    R: Fn() -> AsksR + Clone + Send + Sync + 'static,
    AsksR: Future<Output = Verdict> + Send + 'static,
{
    let healthz = move || {
        let verdict = alive();
        async { page(verdict.await) }
    };
    let readyz = move || {
        let verdict = ready();
        async { page(verdict.await) }
    };
    Router::new().route("/healthz", routing::get(healthz)).route("/readyz", routing::get(readyz))
}

fn page(verdict: Verdict) -> Response {
    let (code, status, reason) = match verdict {
        Ok(()) => (StatusCode::OK, "ok", None),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", Some(crate::model::escape::defused(&why))),
    };
    let body = Json(serde_json::json!({ "status": status, "reason": reason }));
    (code, [(header::CACHE_CONTROL, "no-store")], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::Server;
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn ask(server: &Server, page: &str) -> String {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        write!(stream, "GET {page} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn the_pages_say_how_it_is() {
        let well = Arc::new(AtomicBool::new(true));
        let look = Arc::clone(&well);
        let ready = move || {
            let is_well = look.load(Ordering::SeqCst);
            async move { if is_well { Ok(()) } else { Err("paused\nby \u{1b}[31m".to_owned()) } }
        };
        let server = Server::start("127.0.0.1:0".parse().unwrap(), pages(|| async { Ok(()) }, ready)).unwrap();
        let answer = ask(&server, "/readyz");
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(r#"{"reason":null,"status":"ok"}"#),
            "{answer}"
        );
        well.store(false, Ordering::SeqCst);
        let answer = ask(&server, "/readyz");
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.ends_with(r#"{"reason":"paused\\nby \\x1b[31m","status":"unavailable"}"#), "{answer}");
        assert!(ask(&server, "/healthz").starts_with("HTTP/1.1 200 "));
        assert!(ask(&server, "/").starts_with("HTTP/1.1 404 "));
    }
}
