//! Settings. Each can come from a flag, the environment or the TOML file, in
//! this order of precedence, and else has its default.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use clap::{Args, Parser, Subcommand};
use nullspace_proto::{Error, Result};
use serde::Deserialize;

use crate::{quota, runtime::network, sandbox::warm};

const MAX_SLOTS: usize = network::MAX_SLOTS as usize;
const DEFAULT_DATA: &str = "/var/lib/nullspace";
const DEFAULT_LISTEN: &str = "127.0.0.1:3000";
const DEFAULT_READY_SLOTS: usize = 8;
const DEFAULT_KEY: quota::Limits = quota::Limits { calls: 16_384, streams: 16_384, bytes_per_second: 0 };
const DEFAULT_SANDBOX: quota::Limits = quota::Limits { calls: 16_384, streams: 4_096, bytes_per_second: 0 };
const DEFAULT_POOL: warm::Settings = warm::Settings { size: 8, ready: 1, memory_mib: 512 };
/// A small host has this part of its memory for the pool.
const POOL_PART: usize = 16;

/// Runs code in isolated sandboxes and serves all of it over gRPC.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Action,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Serve the API, in the foreground.
    Serve(Box<Settings>),
    /// Ask a server whether it serves. Exit status 0: it does.
    Health {
        /// The server's address, such as http://127.0.0.1:3000 (plaintext only).
        #[arg(long)]
        url: String,
    },
    /// Install a file that sandboxes run from, under the hash of its content.
    Install {
        /// Where assets are.
        #[arg(long, env = "NULLSPACE_ASSETS_DIR")]
        assets_dir: PathBuf,
        /// What to install.
        #[command(subcommand)]
        what: Install,
    },
}

/// What to install. Prints its SHA-256.
#[derive(Debug, Subcommand)]
pub enum Install {
    /// An agent binary.
    Agent {
        /// The file.
        file: PathBuf,
    },
    /// An engine binary (runsc).
    Engine {
        /// The file.
        file: PathBuf,
    },
    /// A template: a root file system, which is moved, and template.json beside it.
    Template {
        /// What callers name it.
        name: String,
        /// The directory, on the file system of the assets.
        rootfs: PathBuf,
    },
}

/// Settings of a server. Flags go before the environment, and that before the
/// file.
#[derive(Debug, Default, Clone, Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// TOML file with settings, named as the flags without the dashes in front.
    #[arg(long, env = "NULLSPACE_CONFIG")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Address to serve on. Port 0 takes a free one. Off loopback only with TLS.
    /// Default: 127.0.0.1:3000.
    #[arg(long, env = "NULLSPACE_LISTEN")]
    pub listen: Option<SocketAddr>,
    /// Directory of records, running sandboxes and logs. Default:
    /// /var/lib/nullspace.
    #[arg(long, env = "NULLSPACE_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Directory of agents, engines and templates; servers of one host may share
    /// it. Default: `assets` below the data directory.
    #[arg(long, env = "NULLSPACE_ASSETS_DIR")]
    pub assets_dir: Option<PathBuf>,
    /// Where the first start leaves the first API key for clients. Default:
    /// nullspace/config.json below $XDG_CONFIG_HOME or ~/.config.
    #[arg(long, env = "NULLSPACE_CLIENT_CONFIG")]
    pub client_config: Option<PathBuf>,
    /// TLS certificate chain, PEM.
    #[arg(long, env = "NULLSPACE_TLS_CERT", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// TLS private key, PEM.
    #[arg(long, env = "NULLSPACE_TLS_KEY", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Resolvers for sandboxes, comma-separated. Default: those of the host that
    /// are not loopback.
    #[arg(long, env = "NULLSPACE_DNS", value_delimiter = ',')]
    pub dns: Option<Vec<IpAddr>>,
    /// The /16 that sandboxes get their addresses from, such as 10.77.0.0. Kept
    /// from the first start on. Default: one of 10.0.0.0/8 that the host does not
    /// use.
    #[arg(long, env = "NULLSPACE_SUBNET")]
    pub subnet: Option<Ipv4Addr>,
    /// Network slots to keep ready. Default: 8.
    #[arg(long, env = "NULLSPACE_READY_SLOTS")]
    pub ready_slots: Option<usize>,
    /// Sandboxes at once; past that a creation is CAPACITY_EXCEEDED. Default: as
    /// many as the subnet has addresses for, 16,382.
    #[arg(long, env = "NULLSPACE_MAX_SANDBOXES")]
    pub max_sandboxes: Option<usize>,
    /// Sandboxes of one shape (template, size, internet access) that are started
    /// ahead of need, at most. How many there are follows the creations of the
    /// last five minutes. 0: none. Default: 8.
    #[arg(long, env = "NULLSPACE_POOL_SIZE")]
    pub pool_size: Option<usize>,
    /// Of those, sandboxes of the default shape that are kept though nobody asks.
    /// Default: 1.
    #[arg(long, env = "NULLSPACE_POOL_READY")]
    pub pool_ready: Option<usize>,
    /// MiB of the host's memory for sandboxes that are started ahead, at 32 for
    /// each. Default: a sixteenth of the host's, and not more than 512.
    #[arg(long, env = "NULLSPACE_POOL_MEMORY")]
    pub pool_memory: Option<usize>,
    /// Calls that one API key may have at once; past that they are refused as
    /// CONCURRENCY_LIMIT_REACHED. 0: no limit. Default: 16,384.
    #[arg(long, env = "NULLSPACE_KEY_CALLS")]
    pub key_calls: Option<usize>,
    /// Streams that one API key may have at once. 0: no limit. Default: 16,384.
    #[arg(long, env = "NULLSPACE_KEY_STREAMS")]
    pub key_streams: Option<usize>,
    /// Bytes a second that the calls of one API key may pass together, in both
    /// directions; more is slowed down. 0: no limit. Default: 0.
    #[arg(long, env = "NULLSPACE_KEY_BYTES_PER_SECOND")]
    pub key_bytes_per_second: Option<u64>,
    /// Calls into one sandbox at once. 0: no limit. Default: 16,384.
    #[arg(long, env = "NULLSPACE_SANDBOX_CALLS")]
    pub sandbox_calls: Option<usize>,
    /// Streams into one sandbox at once. 0: no limit. Default: 4,096.
    #[arg(long, env = "NULLSPACE_SANDBOX_STREAMS")]
    pub sandbox_streams: Option<usize>,
    /// Bytes a second that the calls into one sandbox may pass together, in both
    /// directions; more is slowed down. 0: no limit. Default: 0.
    #[arg(long, env = "NULLSPACE_SANDBOX_BYTES_PER_SECOND")]
    pub sandbox_bytes_per_second: Option<u64>,
    /// What to log, such as `info` or `nullspaced=debug`. Default: info.
    #[arg(long, env = "NULLSPACE_LOG")]
    pub log: Option<String>,
}

/// Settings with everything filled in.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Config {
    pub listen: SocketAddr,
    pub data_dir: PathBuf,
    pub assets_dir: PathBuf,
    pub client_config: PathBuf,
    pub tls: Option<(PathBuf, PathBuf)>,
    pub dns: Vec<IpAddr>,
    pub subnet: Option<Ipv4Addr>,
    pub ready_slots: usize,
    pub max_sandboxes: usize,
    pub pool: warm::Settings,
    pub quotas: quota::Settings,
    pub log: String,
}

impl Settings {
    /// Reads the file, and fills in what nobody said.
    pub fn resolve(self) -> Result<Config> {
        let file = self.config.as_deref().map(read).transpose()?.unwrap_or_default();
        let data_dir = self.data_dir.or(file.data_dir).unwrap_or_else(|| DEFAULT_DATA.into());
        let default_listen =
            || DEFAULT_LISTEN.parse().map_err(|error| Error::internal(format!("{DEFAULT_LISTEN}: {error}")));
        let config = Config {
            listen: self.listen.or(file.listen).map_or_else(default_listen, Ok)?,
            assets_dir: self.assets_dir.or(file.assets_dir).unwrap_or_else(|| data_dir.join("assets")),
            client_config: self.client_config.or(file.client_config).map_or_else(default_client_config, Ok)?,
            tls: self.tls_cert.or(file.tls_cert).zip(self.tls_key.or(file.tls_key)),
            dns: self.dns.or(file.dns).unwrap_or_else(crate::instance::host_resolvers),
            subnet: self.subnet.or(file.subnet),
            ready_slots: self.ready_slots.or(file.ready_slots).unwrap_or(DEFAULT_READY_SLOTS),
            max_sandboxes: self.max_sandboxes.or(file.max_sandboxes).unwrap_or(MAX_SLOTS).min(MAX_SLOTS),
            pool: warm::Settings {
                size: self.pool_size.or(file.pool_size).unwrap_or(DEFAULT_POOL.size),
                ready: self.pool_ready.or(file.pool_ready).unwrap_or(DEFAULT_POOL.ready),
                memory_mib: self
                    .pool_memory
                    .or(file.pool_memory)
                    .unwrap_or_else(|| DEFAULT_POOL.memory_mib.min(crate::instance::host_memory_mib() / POOL_PART)),
            },
            quotas: quota::Settings {
                key: quota::Limits {
                    calls: self.key_calls.or(file.key_calls).unwrap_or(DEFAULT_KEY.calls),
                    streams: self.key_streams.or(file.key_streams).unwrap_or(DEFAULT_KEY.streams),
                    bytes_per_second: self.key_bytes_per_second.or(file.key_bytes_per_second).unwrap_or(0),
                },
                sandbox: quota::Limits {
                    calls: self.sandbox_calls.or(file.sandbox_calls).unwrap_or(DEFAULT_SANDBOX.calls),
                    streams: self.sandbox_streams.or(file.sandbox_streams).unwrap_or(DEFAULT_SANDBOX.streams),
                    bytes_per_second: self.sandbox_bytes_per_second.or(file.sandbox_bytes_per_second).unwrap_or(0),
                },
            },
            log: self.log.or(file.log).unwrap_or_else(|| "info".to_owned()),
            data_dir,
        };
        if config.subnet.is_some_and(|subnet| subnet.octets()[2..] != [0, 0]) {
            return Err(Error::invalid_field("subnet", "must be a /16, such as 10.77.0.0"));
        }
        Ok(config)
    }
}

fn read(path: &Path) -> Result<Settings> {
    let bad = |error: &dyn std::fmt::Display| Error::invalid_field("config", format!("{}: {error}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| bad(&error))?;
    toml::from_str(&text).map_err(|error| bad(&error))
}

fn default_client_config() -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let directory = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
    let directory =
        directory.ok_or_else(|| Error::invalid_field("client-config", "is required where HOME is not set"))?;
    Ok(directory.join("nullspace/config.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_goes_before_the_file_and_that_before_the_default() {
        let directory = crate::tests::temporary_directory("config");
        let file = directory.path().join("nullspaced.toml");
        fs::write(&file, "listen = \"127.0.0.1:4000\"\nready-slots = 3\n").expect("written");
        let settings = Settings { config: Some(file.clone()), ready_slots: Some(5), ..Default::default() };
        let config = settings.resolve().expect("resolved");
        assert_eq!(config.listen.port(), 4000);
        assert_eq!(config.ready_slots, 5);
        assert_eq!(config.data_dir, Path::new(DEFAULT_DATA));

        fs::write(&file, "listn = \"127.0.0.1:4000\"\n").expect("written");
        let error = Settings { config: Some(file), ..Default::default() }.resolve().expect_err("a bad name");
        assert!(error.message().contains("listn"), "{error}");
    }
}
