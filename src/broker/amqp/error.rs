//! What can go wrong with the broker, in words that name the way out.

use super::AmqpConfig;
use super::envelope::EnvelopeError;
use crate::model::{JobId, escaped};
use lapin::ErrorKind;
use lapin::uri::AMQPScheme;
use std::io::ErrorKind as IoKind;

/// Why the broker could not be used. No message shows a password.
#[derive(Debug, thiserror::Error)]
pub enum AmqpError {
    /// Not a broker URL.
    #[error("not a broker URL: {0}; use amqp://user@host/vhost or amqps://...")]
    Url(String),
    /// Nobody answers; may go away.
    #[error("cannot reach the broker {broker}: {why}; is RabbitMQ running there?")]
    Unreachable {
        /// Its URL, masked.
        broker: String,
        /// What was met.
        why: String,
    },
    /// One side does not believe the other's certificate; may be put right there.
    #[error("no TLS with the broker {broker}: {why}; {advice}")]
    Tls {
        /// Its URL, masked.
        broker: String,
        /// What was met.
        why: String,
        /// The way out.
        advice: &'static str,
    },
    /// User or password are wrong.
    #[error(
        "the broker {broker} refuses these credentials: {why}; check user and password (`treehaul config show` tells where they come from)"
    )]
    Credentials {
        /// Its URL, masked.
        broker: String,
        /// The broker's words.
        why: String,
    },
    /// The vhost does not exist or is not this user's.
    #[error(
        "the broker {broker} does not open this vhost: {why}; make it with rabbitmqctl add_vhost and set_permissions"
    )]
    Vhost {
        /// Its URL, masked.
        broker: String,
        /// The broker's words.
        why: String,
    },
    /// The broker refused an operation for good.
    #[error("the broker {broker} refused: {why}")]
    Refused {
        /// Its URL, masked.
        broker: String,
        /// The broker's words.
        why: String,
    },
    /// The connection was lost; may go away.
    #[error("lost the broker {broker}: {why}")]
    Lost {
        /// Its URL, masked.
        broker: String,
        /// What was met.
        why: String,
    },
    /// The broker knows nothing of the job.
    #[error("the broker knows no job {0}: see `treehaul status`")]
    NoJob(JobId),
    /// A value does not fit into a message.
    #[error("cannot make a message: {0}")]
    Message(#[from] EnvelopeError),
    /// This process cannot make the threads it needs.
    #[error("cannot start the broker's threads: {0}")]
    Threads(#[from] std::io::Error),
}

impl AmqpError {
    /// May it go away when it is tried again?
    pub fn is_transient(&self) -> bool {
        matches!(self, AmqpError::Unreachable { .. } | AmqpError::Lost { .. } | AmqpError::Tls { .. })
    }

    /// Names an error that met the opening of a connection.
    pub(super) fn opening(config: &AmqpConfig, error: &lapin::Error) -> Self {
        let broker = config.to_string();
        let ErrorKind::ProtocolError(amqp) = error.kind() else {
            let why = words(error);
            return match tls_advice(config, error, &why) {
                Some(advice) => AmqpError::Tls { broker, why, advice },
                None => AmqpError::Unreachable { broker, why },
            };
        };
        let why = escaped(amqp.get_message().as_str().as_bytes());
        match amqp.get_id() {
            403 => AmqpError::Credentials { broker, why },
            530 | 402 => AmqpError::Vhost { broker, why },
            _ => AmqpError::Unreachable { broker, why },
        }
    }

    /// Names an error that met a connection in use.
    pub(super) fn using(config: &AmqpConfig, error: &lapin::Error) -> Self {
        let broker = config.to_string();
        match error.kind() {
            // 403 access refused, 404 a queue of the job was deleted by somebody, 406 a queue of that name exists
            // in another shape.
            ErrorKind::ProtocolError(amqp) if matches!(amqp.get_id(), 403 | 404 | 406) => {
                AmqpError::Refused { broker, why: escaped(amqp.get_message().as_str().as_bytes()) }
            }
            _ => AmqpError::Lost { broker, why: words(error) },
        }
    }
}

/// What may help against an error that met the opening of a connection with TLS.
fn tls_advice(config: &AmqpConfig, error: &lapin::Error, why: &str) -> Option<&'static str> {
    let ErrorKind::IOError(io) = error.kind() else { return None };
    if config.uri.scheme != AMQPScheme::AMQPS {
        return None;
    }
    if why.contains("invalid peer certificate") {
        return Some("name the CA that signed the broker's certificate by TREEHAUL_AMQP_CA or ca, and check the host");
    }
    // A broker that wants a certificate says so after the handshake, or just hangs up.
    let hung_up = [IoKind::ConnectionReset, IoKind::ConnectionAborted, IoKind::BrokenPipe, IoKind::UnexpectedEof];
    if !hung_up.contains(&io.kind()) && !why.contains("fatal alert") {
        return None;
    }
    Some(match config.identity {
        None => {
            "it may want a client certificate: set cert and cert_key, or TREEHAUL_AMQP_CERT and TREEHAUL_AMQP_CERT_KEY"
        }
        Some(_) => "it may not believe the client certificate, or not speak TLS on this port",
    })
}

/// What went wrong, fit for a terminal: the broker, or whoever answers in its place, chose some of the words.
fn words(error: &lapin::Error) -> String {
    escaped(error.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::amqp::QueueType;
    use lapin::protocol::{AMQPError, AMQPErrorKind, AMQPHardError, AMQPSoftError};

    #[test]
    fn the_brokers_words_cannot_steer_a_terminal() {
        let config = AmqpConfig::parse("amqp://joe:pw@broker", QueueType::Quorum).unwrap();
        let kinds = [
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED),
            AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED),
            AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED),
            AMQPErrorKind::Hard(AMQPHardError::INTERNALERROR),
        ];
        for kind in kinds {
            let error: lapin::Error = ErrorKind::ProtocolError(AMQPError::new(kind, "no\x1b[2J".into())).into();
            for named in [AmqpError::opening(&config, &error), AmqpError::using(&config, &error)] {
                let text = named.to_string();
                assert!(text.contains(r"no\x1b[2J") && !text.contains('\x1b'), "{text:?}");
            }
        }
    }
}
