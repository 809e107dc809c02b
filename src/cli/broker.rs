//! Which broker, and what it and the fleet need to know of this node: shared by all commands that use one.
//!
//! Invariant: neither the key nor a password comes from the arguments of the process, but for RabbitMQ's own
//! `guest:guest` on this machine, which is no secret.

use super::key;
use super::secret::{self, shown};
use super::settings::{
    AMQP_PASSWORD, AMQP_USER, BROKER, CA, CERT, CERT_KEY, Flag, KEY_FILE, Origin, PASSWORD_FILE, QUEUES, Settings,
};
use crate::broker::amqp::{Access, AmqpConfig, Identity, QueueType, Seal, split_urls};
use crate::node::NodeError;
use anyhow::{Context, bail, ensure};
use clap::Args;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The user and password that RabbitMQ lets in from its own machine alone.
const GUEST: &str = "guest";

/// The broker, and how to use it.
#[derive(Debug, Default, Args)]
pub struct BrokerArgs {
    /// The broker of the fleet: amqp://HOST/VHOST or amqps://HOST/VHOST [env: TREEHAUL_BROKER=] [default: none]
    #[arg(long, value_name = "URL", help_heading = "Fleet")]
    broker: Option<OsString>,
    /// Kind of the broker's queues [env: TREEHAUL_QUEUE_TYPE=] [default: quorum]
    #[arg(long, value_name = "quorum|classic", help_heading = "Fleet")]
    queue_type: Option<QueueType>,
    /// The fleet's key, made by `treehaul key new` [env: TREEHAUL_KEY_FILE=]
    #[arg(long, value_name = "FILE", help_heading = "Fleet")]
    key_file: Option<PathBuf>,
    /// The broker's password is the first line of this file [env: TREEHAUL_AMQP_PASSWORD_FILE=]
    #[arg(long, value_name = "FILE", help_heading = "Fleet")]
    password_file: Option<PathBuf>,
    /// Do without a key, though the broker is on another machine: who can publish there is believed
    #[arg(long, help_heading = "Fleet")]
    insecure: bool,
    /// Read this configuration file [env: TREEHAUL_CONFIG=] [default: /etc/treehaul/config.toml]
    #[arg(long, value_name = "FILE", help_heading = "Fleet")]
    config: Option<PathBuf>,
}

impl BrokerArgs {
    /// What holds, with these flags and `more`.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn settings(&self, more: Vec<Flag>) -> anyhow::Result<Settings> {
        let path = |path: &Option<PathBuf>| path.clone().map(PathBuf::into_os_string);
        let given: [(_, Option<OsString>); 4] = [
            (&BROKER, self.broker.clone()),
            (&QUEUES, self.queue_type.map(|queue_type| queue_type.noun().into())),
            (&KEY_FILE, path(&self.key_file)),
            (&PASSWORD_FILE, path(&self.password_file)),
        ];
        let mut flags = more;
        flags.extend(given.into_iter().filter_map(|(key, value)| Some((key, value?))));
        Settings::load(self.config.as_deref(), &flags)
    }

    /// Does anybody name a broker?
    pub fn is_given(&self) -> bool {
        // What is wrong with the settings is said when they are used.
        self.settings(Vec::new()).is_ok_and(|settings| settings.text(&BROKER).is_some())
    }

    /// How to reach the broker.
    ///
    /// # Errors
    /// No broker is named, or something about it is wrong; the message has the way out, and no secret.
    pub fn config(&self) -> anyhow::Result<AmqpConfig> {
        self.optional()?.context(
            "no broker is named: give --broker amqp://HOST/VHOST, TREEHAUL_BROKER, or broker in /etc/treehaul/config.toml",
        )
    }

    /// How to reach the broker, if one is named.
    ///
    /// # Errors
    /// Something about it is wrong; the message has the way out, and no secret.
    pub fn optional(&self) -> anyhow::Result<Option<AmqpConfig>> {
        let settings = &self.settings(Vec::new())?;
        let Some(url) = settings.text(&BROKER) else {
            return Ok(None);
        };
        // Of one that is not understood nothing is known; its own error says so.
        let parsed: Vec<url::Url> = split_urls(url).into_iter().filter_map(|url| url::Url::parse(url).ok()).collect();
        let password = parsed.iter().find_map(url::Url::password);
        let access = Access {
            user: settings.text(&AMQP_USER).map(str::to_owned),
            password: if password.is_some() { None } else { password_of(settings)? },
            ca: settings.path(&CA).map(certificates).transpose()?,
            identity: identity(settings)?,
        };
        let queue_type = settings.text(&QUEUES).and_then(|word| word.parse().ok()).unwrap_or_default();
        let mut config = AmqpConfig::new(url, queue_type, access).map_err(NodeError::Broker)?;
        for url in &parsed {
            if let Some(password) = url.password() {
                check_password(url, password, config.is_loopback(), settings)?;
            }
        }
        let key = settings.path(&KEY_FILE).map(key::read).transpose().context("the fleet's key")?;
        if key.is_none() && !config.is_loopback() && !self.insecure {
            bail!(
                "the broker {config} is on another machine, and no key tells this fleet's messages from others: make one with \
                 `treehaul key new FILE`, copy it to every node, and name it by --key-file or TREEHAUL_KEY_FILE; \
                 --insecure does without"
            );
        }
        config.seal = Seal::new(key);
        Ok(Some(config))
    }
}

/// A password in the URL may be there, and is the only one.
fn check_password(url: &url::Url, password: &str, is_here: bool, settings: &Settings) -> anyhow::Result<()> {
    let is_known = url.username() == GUEST && password == GUEST && is_here;
    ensure!(
        is_known || !matches!(settings.origin(&BROKER), Origin::Flag(_)),
        "everybody on this machine can read the password in --broker: leave it out there, and name a file that \
         holds it by --password-file, or put the whole URL into TREEHAUL_BROKER"
    );
    ensure!(
        !matches!(settings.origin(&PASSWORD_FILE), Origin::Flag(_)),
        "there is a password in the broker's URL and one in --password-file: leave one of them out"
    );
    Ok(())
}

/// A flag counts more than a variable, and that more than the configuration file.
fn password_of(settings: &Settings) -> anyhow::Result<Option<String>> {
    let file = settings.path(&PASSWORD_FILE);
    match (settings.text(&AMQP_PASSWORD), file, settings.origin(&PASSWORD_FILE)) {
        (Some(password), None, _) | (Some(password), _, Origin::Env(_) | Origin::File(_)) => {
            Ok(Some(password.to_owned()))
        }
        (_, Some(file), _) => Ok(Some(secret::read_password(file).context("the broker's password")?)),
        (None, None, _) => Ok(None),
    }
}

fn certificates(path: &Path) -> anyhow::Result<String> {
    let bytes = secret::open_trusted(path).and_then(|opened| opened.read(path)).context("certificates")?;
    let text = String::from_utf8(bytes).ok().filter(|text| text.contains("-----BEGIN CERTIFICATE-----"));
    text.with_context(|| format!("{} holds no certificate: PEM is expected", shown(path)))
}

fn identity(settings: &Settings) -> anyhow::Result<Option<Identity>> {
    let (cert, key) = match (settings.path(&CERT), settings.path(&CERT_KEY)) {
        (Some(cert), Some(key)) => (cert, key),
        (None, None) => return Ok(None),
        (Some(_), None) => bail!("there is a client certificate without its key: set cert_key or {}", CERT_KEY.env),
        (None, Some(_)) => bail!("there is the key of a client certificate without that: set cert or {}", CERT.env),
    };
    let bytes = secret::read(key).context("the key of the client certificate")?;
    let text = String::from_utf8_lossy(&bytes);
    ensure!(!text.contains("ENCRYPTED"), "the key in {} is encrypted, and nobody is there to ask", shown(key));
    ensure!(text.contains("PRIVATE KEY-----"), "{} holds no private key: PEM is expected", shown(key));
    Ok(Some(Identity { cert: certificates(cert)?.into_bytes(), key: bytes }))
}
