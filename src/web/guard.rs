//! Who may look, and who may act.
//!
//! Invariant: a page of another origin reaches nothing, whatever name it gives this machine; a token is compared in
//! constant time, and the right one opens at once, however many wrong ones come: those alone wait, so many at a time.

use super::patient::Peer;
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::sync::Semaphore;

/// A token has at least so many bytes: it cannot be guessed then.
pub const TOKEN_BYTES: usize = 16;
/// How long the answer to a wrong token takes.
const WRONG_TAKES: Duration = Duration::from_secs(1);
/// Wrong ones that are answered at a time.
const WRONG_AT_A_TIME: usize = 8;

static FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What opens the page.
pub struct Token(blake3::Hash);

impl Token {
    /// From its text.
    ///
    /// # Errors
    /// It is too short, or no browser could send it.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.len() < TOKEN_BYTES {
            return Err(format!("a token has {TOKEN_BYTES} bytes at least: make one with `openssl rand -hex 32`"));
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("a token has printable ASCII characters alone, and no blanks".to_owned());
        }
        Ok(Token(blake3::hash(text.as_bytes())))
    }

    fn is(&self, other: &[u8]) -> bool {
        // Hashes compare in constant time.
        self.0 == blake3::hash(other)
    }
}

/// Decides on requests.
pub struct Guard {
    address: SocketAddr,
    token: Option<Token>,
    is_private: bool,
    wrong: Semaphore,
}

/// An answer to somebody who is not let in.
pub type Denied = (StatusCode, &'static str);

impl Guard {
    /// For a page at an address. Who looks needs the token unless it is a loopback address; where it `is_private`, in any
    /// case.
    ///
    /// # Errors
    /// Without a token everybody who reaches the address could read names of files.
    pub fn new(address: SocketAddr, token: Option<Token>, is_private: bool) -> Result<Self, String> {
        let is_private = is_private || !address.ip().is_loopback();
        if is_private && token.is_none() {
            return Err(format!(
                "whoever reaches {address} could read names of files: give a token by --token-file or \
                 TREEHAUL_DASHBOARD_TOKEN, or listen on a loopback address"
            ));
        }
        Ok(Guard { address, token, is_private, wrong: Semaphore::new(WRONG_AT_A_TIME) })
    }

    /// Is there a token with which somebody could act?
    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// May this page, or whatever it is, speak to this one at all?
    ///
    /// # Errors
    /// [`Denied`].
    pub fn check_site(&self, headers: &HeaderMap, is_navigation: bool) -> Result<(), Denied> {
        let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        if !is_own_host(self.address, host) {
            return Err((StatusCode::FORBIDDEN, "this page is not known by that name: use its address, or localhost"));
        }
        let site = headers.get(&FETCH_SITE).map(|site| site.as_bytes());
        let is_foreign = site.is_some_and(|site| !matches!(site, b"same-origin" | b"none"));
        if is_foreign && !is_navigation {
            return Err((StatusCode::FORBIDDEN, "pages of other sites reach nothing here"));
        }
        match headers.get(ORIGIN) {
            Some(origin) if !origin.to_str().is_ok_and(|origin| is_origin_of(origin, host)) => {
                Err((StatusCode::FORBIDDEN, "pages of other origins reach nothing here"))
            }
            _ => Ok(()),
        }
    }

    /// May the sender look?
    ///
    /// # Errors
    /// [`Denied`].
    pub async fn check_reader(&self, headers: &HeaderMap, peer: Peer) -> Result<(), Denied> {
        if self.is_private { self.check_token(headers, peer).await } else { Ok(()) }
    }

    /// May the sender act?
    ///
    /// # Errors
    /// [`Denied`]. A wrong token is told so late.
    pub async fn check_token(&self, headers: &HeaderMap, peer: Peer) -> Result<(), Denied> {
        let Some(token) = &self.token else {
            return Err((StatusCode::FORBIDDEN, "this page is for looking only: it was started without a token"));
        };
        let Some(sent) = headers.get(AUTHORIZATION).and_then(|sent| sent.as_bytes().strip_prefix(b"Bearer ")) else {
            return Err((StatusCode::UNAUTHORIZED, "a token is needed"));
        };
        if token.is(sent) {
            return Ok(());
        }
        // Not a line for each one beyond: the log does not grow with them.
        let Ok(_permit) = self.wrong.try_acquire() else {
            return Err((StatusCode::TOO_MANY_REQUESTS, "too many wrong tokens: try again in a second"));
        };
        tracing::warn!(%peer, "a wrong token was sent to the dashboard");
        tokio::time::sleep(WRONG_TAKES).await;
        Err((StatusCode::UNAUTHORIZED, "the token is wrong"))
    }
}

/// Is that how one would call a server at this address? On a loopback address a name that is not its own was made to
/// point there; elsewhere names are many, and a token is needed to read.
fn is_own_host(address: SocketAddr, host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    if !address.ip().is_loopback() {
        return true;
    }
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Is it a page of this very host, by whatever way it came?
fn is_origin_of(origin: &str, host: &str) -> bool {
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn guard(address: &str) -> Guard {
        Guard::new(address.parse().unwrap(), Token::new("0123456789abcdef").ok(), false).unwrap()
    }

    #[test]
    fn names_of_files_are_not_for_everybody() {
        let open = |address: &str, token, private| {
            Guard::new(SocketAddr::new(address.parse().unwrap(), 1), token, private).map(|guard| guard.is_private)
        };
        let token = || Token::new("0123456789abcdef").ok();
        assert_eq!(open("127.0.0.1", None, false), Ok(false));
        assert_eq!(open("::1", token(), false), Ok(false));
        assert_eq!(open("127.0.0.1", token(), true), Ok(true));
        assert_eq!(open("10.0.0.1", token(), false), Ok(true));
        for address in ["10.0.0.1", "0.0.0.0", "::", "192.168.1.1"] {
            assert!(open(address, None, false).is_err(), "{address}");
        }
        assert!(open("127.0.0.1", None, true).is_err());
    }

    #[test]
    fn only_own_names_and_own_pages_are_answered() {
        let here = guard("127.0.0.1:8080");
        for host in ["127.0.0.1:8080", "localhost:8080", "LOCALHOST", "[::1]:8080", "127.0.0.2"] {
            assert_eq!(here.check_site(&headers(&[("host", host)]), false), Ok(()), "{host}");
        }
        for host in ["evil.example:8080", "localhost.evil.example", "10.0.0.1", "", "a b"] {
            assert!(here.check_site(&headers(&[("host", host)]), false).is_err(), "{host}");
        }
        assert!(guard("10.0.0.1:80").check_site(&headers(&[("host", "node7.example")]), false).is_ok());
        let from = |origin| headers(&[("host", "localhost:8080"), ("origin", origin)]);
        for origin in ["http://localhost:8080", "https://localhost:8080"] {
            assert_eq!(here.check_site(&from(origin), false), Ok(()), "{origin}");
        }
        for origin in
            ["http://localhost", "http://evil.example", "null", "http://localhost:8080.evil", "localhost:8080"]
        {
            assert!(here.check_site(&from(origin), false).is_err(), "{origin}");
        }
        let of = |site| headers(&[("host", "localhost"), ("sec-fetch-site", site)]);
        for site in ["same-origin", "none"] {
            assert_eq!(here.check_site(&of(site), false), Ok(()), "{site}");
        }
        for site in ["cross-site", "same-site"] {
            assert!(here.check_site(&of(site), false).is_err(), "{site}");
            assert_eq!(here.check_site(&of(site), true), Ok(()), "a link to the page may be anywhere");
        }
    }

    #[test]
    fn a_token_is_long_and_plain() {
        for text in ["", "short", "0123456789abcde", "0123456789 abcdef", "0123456789abcdefü"] {
            assert!(Token::new(text).is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn wrong_tokens_take_their_time_and_are_few() {
        let guard = guard("127.0.0.1:1");
        let with = |token: &str| headers(&[("authorization", &format!("Bearer {token}"))]);
        let peer = Peer("10.0.0.1:1".parse().unwrap());
        assert_eq!(guard.check_token(&with("0123456789abcdef"), peer).await, Ok(()));
        assert_eq!(guard.check_token(&headers(&[]), peer).await.unwrap_err().0, StatusCode::UNAUTHORIZED);
        let began = tokio::time::Instant::now();
        assert_eq!(guard.check_token(&with("0123456789abcdeX"), peer).await.unwrap_err().0, StatusCode::UNAUTHORIZED);
        assert!(began.elapsed() >= WRONG_TAKES);
        let wrong = with("x");
        let many = (0..20).map(|_| guard.check_token(&wrong, peer));
        let (answers, right) = futures_util::future::join(futures_util::future::join_all(many), async {
            let began = tokio::time::Instant::now();
            (guard.check_token(&with("0123456789abcdef"), peer).await, began.elapsed())
        })
        .await;
        assert!(right.0.is_ok() && right.1 < WRONG_TAKES, "the right one is let in meanwhile: {right:?}");
        let late = answers.iter().filter(|a| a.unwrap_err().0 == StatusCode::UNAUTHORIZED).count();
        assert_eq!(late, WRONG_AT_A_TIME);
        let open = Guard::new("127.0.0.1:1".parse().unwrap(), None, false).unwrap();
        assert_eq!(open.check_token(&with("0123456789abcdef"), peer).await.unwrap_err().0, StatusCode::FORBIDDEN);
    }
}
