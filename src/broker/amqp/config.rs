//! How to reach the broker. Invariant: the password is never shown.

use super::{AmqpError, Seal};
use lapin::uri::AMQPUri;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;
use url::{Host, Url};

/// Seconds between signs of life, if the URL does not say: a dead broker or worker is found within two.
const HEARTBEAT_SECONDS: u16 = 10;
/// A dead worker is noticed within this time: more than two heartbeats.
const UNNOTICED: Duration = Duration::from_secs(45);
/// Deliveries that may be with one worker at a time, dirs and files, if the node does not say.
const PREFETCH: [u16; 2] = [8, 32];

/// How RabbitMQ keeps the queues of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QueueType {
    /// Replicated on a cluster, and safe on one node.
    #[default]
    Quorum,
    /// On one node. It does not count deliveries: a task that kills whole workers comes back for ever.
    Classic,
}

impl QueueType {
    /// The word that the broker and the command line use.
    pub fn noun(self) -> &'static str {
        match self {
            QueueType::Quorum => "quorum",
            QueueType::Classic => "classic",
        }
    }
}

impl FromStr for QueueType {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "quorum" => Ok(QueueType::Quorum),
            "classic" => Ok(QueueType::Classic),
            other => Err(format!("unknown queue type {other:?}; use quorum or classic")),
        }
    }
}

/// Where the broker is and how to use it. Printing it shows no password.
#[derive(Clone)]
pub struct AmqpConfig {
    pub(super) uri: AMQPUri,
    /// Further nodes of the same broker.
    pub(super) others: Vec<AMQPUri>,
    pub(super) ca: Option<String>,
    pub(super) identity: Option<Identity>,
    /// Signs and checks messages.
    pub seal: Seal,
    /// Kind of the queues that a job gets.
    pub queue_type: QueueType,
    /// Deliveries that may be with this worker at a time, for dir actors and for file actors; about two an
    /// actor keep it busy without hoarding.
    pub prefetch: [u16; 2],
}

/// Who this process is to the broker, and whom it believes.
#[derive(Clone, Default)]
pub struct Access {
    /// For a URL without a user.
    pub user: Option<String>,
    /// For a URL without a password.
    pub password: Option<String>,
    /// Certificates to trust besides the system's, as PEM.
    pub ca: Option<String>,
    /// Shown to a broker that wants to know who comes.
    pub identity: Option<Identity>,
}

/// A client's certificate and its private key, both as PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate, and those between it and the CA.
    pub cert: Vec<u8>,
    /// The key.
    pub key: Vec<u8>,
}

impl AmqpConfig {
    /// Reads `amqp://[user[:password]@]host[:port][/vhost]` or `amqps://...`, or several for the nodes of a cluster,
    /// separated by commas; what a URL lacks is taken from `access`. There is no key yet: see [`AmqpConfig::seal`].
    ///
    /// # Errors
    /// [`AmqpError::Url`].
    pub fn new(url: &str, queue_type: QueueType, access: Access) -> Result<Self, AmqpError> {
        let mut uris = split_urls(url).into_iter().map(|url| uri_of(url, &access)).collect::<Result<Vec<_>, _>>()?;
        let uri = uris.remove(0);
        let Access { ca, identity, .. } = access;
        Ok(AmqpConfig { uri, others: uris, ca, identity, seal: Seal::new(None), queue_type, prefetch: PREFETCH })
    }

    /// As [`AmqpConfig::new`], with nothing but the URL.
    #[cfg(test)]
    pub fn parse(url: &str, queue_type: QueueType) -> Result<Self, AmqpError> {
        Self::new(url, queue_type, Access::default())
    }

    /// All nodes of the broker, beginning anywhere: so clients spread over them.
    pub(super) fn nodes(&self) -> Vec<&AMQPUri> {
        let mut nodes: Vec<_> = std::iter::once(&self.uri).chain(&self.others).collect();
        let first = usize::try_from(super::random() % nodes.len() as u64).unwrap_or_default();
        nodes.rotate_left(first);
        nodes
    }

    /// Is the broker on this machine, by its address? Then nobody but this machine's users can reach it.
    pub fn is_loopback(&self) -> bool {
        let here = |uri: &AMQPUri| {
            let host = &uri.authority.host;
            host.eq_ignore_ascii_case("localhost")
                || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
        };
        self.nodes().into_iter().all(here)
    }
}

/// The URLs of a list.
pub fn split_urls(list: &str) -> Vec<&str> {
    let mut urls = Vec::new();
    let mut rest = list;
    loop {
        // A comma alone may be a part of a password.
        let next = [",amqp://", ",amqps://"].iter().filter_map(|s| rest.find(s)).min();
        let Some(at) = next else { break };
        urls.push(&rest[..at]);
        rest = &rest[at + 1..];
    }
    urls.push(rest);
    urls
}

fn uri_of(url: &str, access: &Access) -> Result<AMQPUri, AmqpError> {
    let parsed = Url::parse(url).map_err(|e| AmqpError::Url(e.to_string()))?;
    let host = host_of(&parsed)?;
    // Its own words could repeat the URL.
    let not_understood = |_| AmqpError::Url("something behind its host is not understood".to_owned());
    let mut uri: AMQPUri = url.parse().map_err(not_understood)?;
    // It takes any address in brackets for no host at all.
    if let Host::Ipv6(address) = host {
        uri.authority.host = address.to_string();
    }
    let user = &mut uri.authority.userinfo;
    if parsed.username().is_empty()
        && let Some(name) = &access.user
    {
        user.username.clone_from(name);
    }
    if parsed.password().is_none()
        && let Some(password) = &access.password
    {
        user.password.clone_from(password);
    }
    // "amqp://host/" names the vhost "", which nobody has; the default vhost is meant.
    if uri.vhost.is_empty() {
        "/".clone_into(&mut uri.vhost);
    }
    uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
    Ok(uri)
}

/// The host of a broker URL. What is wrong is said without any part of the URL: a mistyped one may have its
/// password anywhere.
fn host_of(url: &Url) -> Result<Host<&str>, AmqpError> {
    let wrong = |why: &str| Err(AmqpError::Url(why.to_owned()));
    if !matches!(url.scheme(), "amqp" | "amqps") || url.cannot_be_a_base() {
        return wrong("it does not begin with amqp:// or amqps://");
    }
    // A password with one of these bare in it ends the host too early, and its rest becomes a vhost to be shown.
    if [Some(url.path()), url.query(), url.fragment()].iter().flatten().any(|part| part.contains('@')) {
        return wrong("there is an @ behind its host: write / ? # @ in a password as %2F %3F %23 %40");
    }
    match url.host() {
        Some(host) if host != Host::Domain("") => Ok(host),
        _ => wrong("it names no host"),
    }
}

impl AmqpConfig {
    /// For how long a worker may be dead without the broker giving its deliveries to others, as far as they
    /// cannot be seen otherwise: of a quorum queue the broker goes on counting the consumer that they went to.
    pub(super) fn unnoticed(&self) -> Duration {
        let heartbeat = Duration::from_secs(self.uri.query.heartbeat.unwrap_or_default().into());
        match self.queue_type {
            QueueType::Quorum => Duration::ZERO,
            QueueType::Classic => UNNOTICED.max(2 * heartbeat + UNNOTICED / 4),
        }
    }
}

impl fmt::Display for AmqpConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AMQPUri { scheme, authority, vhost, .. } = &self.uri;
        let user = authority.userinfo.username.escape_debug();
        let (host, port) = (authority.host.escape_debug(), authority.port);
        let [open, close] = if authority.host.contains(':') { ["[", "]"] } else { ["", ""] };
        let vhost = vhost.trim_start_matches('/').escape_debug();
        write!(f, "{scheme}://{user}:***@{open}{host}{close}:{port}/{vhost}")?;
        if self.others.is_empty() { Ok(()) } else { write!(f, " (one of {} nodes)", 1 + self.others.len()) }
    }
}

impl fmt::Debug for AmqpConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AmqpConfig({self}, {}, prefetch {:?})", self.queue_type.noun(), self.prefetch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<AmqpConfig, AmqpError> {
        AmqpConfig::parse(url, QueueType::Quorum)
    }

    fn with(url: &str, user: Option<&str>, password: &str) -> AmqpConfig {
        let access = Access { user: user.map(str::to_owned), password: Some(password.to_owned()), ..Access::default() };
        AmqpConfig::new(url, QueueType::Quorum, access).unwrap()
    }

    #[test]
    fn a_password_is_never_shown() {
        for config in
            [parse("amqp://joe:s3cret@broker/fleet").unwrap(), with("amqp://joe@broker/fleet", None, "s3cret")]
        {
            assert_eq!(config.uri.authority.userinfo.password, "s3cret");
            assert_eq!(config.to_string(), "amqp://joe:***@broker:5672/fleet");
            assert!(!format!("{config:?}").contains("s3cret"));
        }
    }

    #[test]
    fn the_url_wins_over_what_is_said_elsewhere() {
        let user = |url| with(url, Some("env"), "env").uri.authority.userinfo;
        assert_eq!(user("amqp://joe:pw@broker").username, "joe");
        assert_eq!(user("amqp://joe:pw@broker").password, "pw");
        assert_eq!(user("amqp://broker").username, "env");
    }

    #[test]
    fn several_urls_are_nodes_of_one_broker() {
        let config = parse("amqp://joe:a,b@one/v,amqps://two:99/v").unwrap();
        let hosts: Vec<_> = config.nodes().iter().map(|uri| uri.authority.host.clone()).collect();
        assert!(hosts.len() == 2 && ["one", "two"].iter().all(|h| hosts.iter().any(|x| x == h)), "{hosts:?}");
        assert_eq!(config.uri.authority.userinfo.password, "a,b");
        assert_eq!(config.to_string(), "amqp://joe:***@one:5672/v (one of 2 nodes)");
        assert!(!parse("amqp://127.0.0.1,amqp://broker").unwrap().is_loopback());
        assert!(matches!(parse("amqp://one,amqp://"), Err(AmqpError::Url(_))));
    }

    #[test]
    fn no_vhost_and_a_bare_slash_are_the_default_vhost() {
        for url in ["amqp://broker", "amqp://broker/", "amqp://broker/%2f"] {
            assert_eq!(parse(url).unwrap().uri.vhost, "/", "{url}");
        }
    }

    #[test]
    fn an_address_in_brackets_is_the_host() {
        let config = parse("amqp://joe:s3cret@[2001:db8::5]:99/").unwrap();
        assert_eq!(config.uri.authority.host, "2001:db8::5");
        assert_eq!(config.to_string(), "amqp://joe:***@[2001:db8::5]:99/");
        assert_eq!(parse("amqp://192.0.2.7").unwrap().uri.authority.host, "192.0.2.7");
    }

    #[test]
    fn what_is_no_broker_url_is_refused() {
        for url in ["", "broker", "http://broker", "amqp://broker:notaport"] {
            assert!(matches!(parse(url), Err(AmqpError::Url(_))), "{url}");
        }
        for url in [
            "joe:s3cret@broker",
            "amqp:joe:s3cret@broker",
            "amqp:/joe:s3cret@broker",
            "amqp:///joe:s3cret@broker",
            "amqp://joe:12/s3cret@broker",
            "amqp://joe:12?s3cret@broker",
            "amqp://joe:12#s3cret@broker",
            "amqp://joe:s3cret@",
            "http://joe:s3cret@broker",
            "s3cret://joe@broker",
            "amqp://joe:s3cret@broker/%ff?heartbeat=s3cret",
            "amqp://broker?auth_mechanism=s3cret",
        ] {
            let error = parse(url).unwrap_err();
            assert!(matches!(error, AmqpError::Url(_)) && !error.to_string().contains("s3cret"), "{url}: {error}");
        }
    }

    #[test]
    fn a_broker_on_this_machine_is_known_by_its_address() {
        for (url, here) in [
            ("amqp://127.0.0.1", true),
            ("amqp://127.8.9.1:99/x", true),
            ("amqps://[::1]", true),
            ("amqp://[::ffff:127.0.0.1]", true),
            ("amqp://LocalHost", true),
            ("amqp://localhost.example", false),
            ("amqp://127.0.0.1.example", false),
            ("amqp://128.0.0.1", false),
            ("amqp://[2001:db8::1]", false),
        ] {
            assert_eq!(parse(url).unwrap().is_loopback(), here, "{url}");
        }
    }
}
