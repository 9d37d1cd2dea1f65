//! [`Config`]: the settings of a store, from `config.toml` in its directory. They tune; they never change what is stored.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};

use crate::error::{Error, Result};
use crate::limits;
#[cfg(feature = "net")]
use crate::net::config::NetConfig;
use crate::node::stripe::STRIPE_BYTES;

/// Settings of a store. Every field can be left out of `config.toml`; bytes are written as a number or as `64 MiB`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Config {
    /// Most plain bytes of hot chunks kept in memory (default 64 MiB; 0 keeps none).
    #[serde(deserialize_with = "crate::size::deserialize")]
    pub cache_bytes: u64,
    /// Threads of one put, get or verify (default: one per core, 8 at most). Each takes about 5 MiB.
    pub threads: NonZeroUsize,
    /// Bytes of a full pack (default 256 MiB; 1 MiB to 2 GiB).
    #[serde(deserialize_with = "crate::size::deserialize")]
    pub pack_bytes: u64,
    /// Bytes of the index's page cache (default 64 MiB).
    #[serde(deserialize_with = "crate::size::deserialize")]
    pub index_cache_bytes: u64,
    /// Most bases between a chunk of a new version and one that stands alone (default 4; 0 keeps every chunk by itself, 8 at most).
    /// Each is one more chunk to decode when the version is read.
    pub delta_depth: u8,
    /// Where packs are kept (default: in the store's directory): see [`StoreOptions::backend_url`](crate::StoreOptions::backend_url).
    pub backend: Option<String>,
    /// The window of a node.
    pub http: HttpConfig,
    /// Settings of a node.
    #[cfg(feature = "net")]
    pub network: NetConfig,
    /// Settings of a node, which this build has none of.
    #[cfg(not(feature = "net"))]
    #[serde(rename = "network")]
    ignored: Option<toml::Table>,
}

/// Whether and how `caskad node` serves HTTP. Its flags have their say before this.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct HttpConfig {
    /// Where to listen (default: nowhere).
    pub address: Option<SocketAddr>,
    /// A file with the bearer token that requests need; a relative path is one in the store's directory.
    pub token_file: Option<PathBuf>,
    /// Most bytes of an upload (default: no bound but the disk's).
    #[serde(deserialize_with = "some_bytes")]
    pub upload_bytes: Option<u64>,
}

fn some_bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    crate::size::deserialize(from).map(Some)
}

impl Default for Config {
    fn default() -> Config {
        let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Config {
            cache_bytes: 64 << 20,
            threads: cores.min(NonZeroUsize::new(8).unwrap_or(NonZeroUsize::MIN)),
            pack_bytes: 256 << 20,
            index_cache_bytes: 64 << 20,
            delta_depth: 4,
            backend: None,
            http: HttpConfig::default(),
            #[cfg(feature = "net")]
            network: NetConfig::default(),
            #[cfg(not(feature = "net"))]
            ignored: None,
        }
    }
}

impl Config {
    /// Reads `path`; a file that is not there means the defaults.
    pub fn read(path: &Path) -> Result<Config> {
        let damaged = |why: String| Error::Damaged {
            what: "config",
            place: path.display().to_string(),
            why: format!("{why}; mend or delete it (without it the defaults hold)"),
        };
        let bytes = match std::fs::read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Config::default()),
            Err(error) => return Err(Error::io("read", path, error)),
            Ok(bytes) => bytes,
        };
        let text = String::from_utf8(bytes).map_err(|_| damaged("it is not text".to_owned()))?;
        let config: Config = toml::from_str(&text).map_err(|error| damaged(one_line(&error.to_string())))?;
        config.validate().map_err(damaged)?;
        Ok(config)
    }

    /// True if the file at `path`, which [`read`](Config::read) does not take, may say where the packs are.
    pub(super) fn may_name_backend(path: &Path) -> bool {
        let bytes = std::fs::read(path).unwrap_or_default();
        // As ASCII out of whatever encoding it is in.
        let text = String::from_utf8_lossy(&bytes).replace('\0', "");
        match toml::from_str::<toml::Table>(&text) {
            Ok(table) => table
                .iter()
                .any(|(name, value)| name == "backend" || value.as_str().is_some_and(|url| url.contains("://"))),
            Err(_) => text
                .lines()
                .map(|line| line.trim_start_matches(|c: char| !c.is_ascii_alphanumeric() && c != '#'))
                .any(|line| line.starts_with("backend")),
        }
    }

    /// Checks each field against its range; the answer names the field.
    pub(super) fn validate(&self) -> Result<(), String> {
        let range = (1 << 20)..=(2 << 30);
        if !range.contains(&self.pack_bytes) {
            return Err(format!("pack_bytes is {}, it must be between 1 MiB and 2 GiB", self.pack_bytes));
        }
        if self.threads.get() > limits::THREADS {
            return Err(format!("threads is {}, the most is {}", self.threads, limits::THREADS));
        }
        if self.delta_depth > limits::PUT_DELTA_DEPTH {
            return Err(format!("delta_depth is {}, the most is {}", self.delta_depth, limits::PUT_DELTA_DEPTH));
        }
        if usize::try_from(self.index_cache_bytes).is_err() {
            return Err(format!("index_cache_bytes is {}, more than this machine can address", self.index_cache_bytes));
        }
        #[cfg(feature = "net")]
        self.network.check().map_err(|(field, why)| format!("{field} in [network]: {why}"))?;
        Ok(())
    }

    /// Memory that the threads of one operation may take, in bytes.
    pub fn working_bytes(&self) -> u64 {
        self.threads.get() as u64 * (STRIPE_BYTES + limits::CHUNK_BYTES as u64)
    }
}

fn one_line(message: &str) -> String {
    message.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}
