//! How to reach the broker. Invariant: the password is never shown.

use super::AmqpError;
use lapin::uri::AMQPUri;
use std::fmt;
use std::str::FromStr;

/// User name for a URL without one.
const ENV_USER: &str = "TREEHAUL_AMQP_USER";
/// Password for a URL without one: arguments of a process are no place for secrets.
const ENV_PASSWORD: &str = "TREEHAUL_AMQP_PASSWORD";
/// A file of PEM certificates to trust besides the system's.
const ENV_CA: &str = "TREEHAUL_AMQP_CA";
/// Seconds between signs of life, if the URL does not say: a dead broker or worker is found within two.
const HEARTBEAT_SECONDS: u16 = 10;
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
    pub(super) ca: Option<String>,
    /// Kind of the queues that a job gets.
    pub queue_type: QueueType,
    /// Deliveries that may be with this worker at a time, for dir actors and for file actors; about two an
    /// actor keep it busy without hoarding.
    pub prefetch: [u16; 2],
}

impl AmqpConfig {
    /// Reads `amqp://[user[:password]@]host[:port][/vhost]` or `amqps://...`; credentials that the URL lacks
    /// come from `TREEHAUL_AMQP_USER` and `TREEHAUL_AMQP_PASSWORD`, a CA from `TREEHAUL_AMQP_CA`.
    ///
    /// # Errors
    /// [`AmqpError::Url`] or [`AmqpError::Ca`].
    pub fn parse(url: &str, queue_type: QueueType) -> Result<Self, AmqpError> {
        Self::parse_with(url, queue_type, |name| std::env::var(name).ok())
    }

    fn parse_with(url: &str, queue_type: QueueType, env: impl Fn(&str) -> Option<String>) -> Result<Self, AmqpError> {
        let parsed = url::Url::parse(url).map_err(|e| AmqpError::Url(e.to_string()))?;
        let mut uri: AMQPUri = url.parse().map_err(AmqpError::Url)?;
        let user = &mut uri.authority.userinfo;
        if parsed.username().is_empty()
            && let Some(name) = env(ENV_USER)
        {
            user.username = name;
        }
        if parsed.password().is_none()
            && let Some(password) = env(ENV_PASSWORD)
        {
            user.password = password;
        }
        // "amqp://host/" names the vhost "", which nobody has; the default vhost is meant.
        if uri.vhost.is_empty() {
            "/".clone_into(&mut uri.vhost);
        }
        uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
        let ca = env(ENV_CA)
            .map(|path| std::fs::read_to_string(&path).map_err(|e| AmqpError::Ca { path, why: e.to_string() }));
        Ok(AmqpConfig { uri, ca: ca.transpose()?, queue_type, prefetch: PREFETCH })
    }
}

impl fmt::Display for AmqpConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AMQPUri { scheme, authority, vhost, .. } = &self.uri;
        let user = authority.userinfo.username.escape_debug();
        let (host, port) = (authority.host.escape_debug(), authority.port);
        write!(f, "{scheme}://{user}:***@{host}:{port}/{}", vhost.trim_start_matches('/').escape_debug())
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

    fn parse(url: &str, env: &[(&str, &str)]) -> Result<AmqpConfig, AmqpError> {
        let lookup = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        AmqpConfig::parse_with(url, QueueType::Quorum, lookup)
    }

    #[test]
    fn a_password_is_never_shown() {
        for config in [
            parse("amqp://joe:s3cret@broker/fleet", &[]).unwrap(),
            parse("amqp://joe@broker/fleet", &[(ENV_PASSWORD, "s3cret")]).unwrap(),
        ] {
            assert_eq!(config.uri.authority.userinfo.password, "s3cret");
            assert_eq!(config.to_string(), "amqp://joe:***@broker:5672/fleet");
            assert!(!format!("{config:?}").contains("s3cret"));
        }
    }

    #[test]
    fn the_url_wins_over_the_environment() {
        let env = [(ENV_USER, "env"), (ENV_PASSWORD, "env")];
        let user = |url| parse(url, &env).unwrap().uri.authority.userinfo;
        assert_eq!(user("amqp://joe:pw@broker").username, "joe");
        assert_eq!(user("amqp://joe:pw@broker").password, "pw");
        assert_eq!(user("amqp://broker").username, "env");
    }

    #[test]
    fn no_vhost_and_a_bare_slash_are_the_default_vhost() {
        for url in ["amqp://broker", "amqp://broker/", "amqp://broker/%2f"] {
            assert_eq!(parse(url, &[]).unwrap().uri.vhost, "/", "{url}");
        }
    }

    #[test]
    fn what_is_no_broker_url_is_refused() {
        for url in ["", "broker", "http://broker", "amqp://broker:notaport"] {
            assert!(matches!(parse(url, &[]), Err(AmqpError::Url(_))), "{url}");
        }
        let ca = parse("amqps://broker", &[(ENV_CA, "/nonexistent/ca.pem")]);
        assert!(matches!(ca, Err(AmqpError::Ca { .. })));
    }
}
