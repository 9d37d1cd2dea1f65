//! Names for scopes: what `@alice/model` means here. `STORE/aliases.toml` has a line for each: `alice = "<64 hex digits>"`.

use std::collections::BTreeMap;
use std::io::Write as _;

use crate::backend::sync_directory;
use crate::error::{Error, Result};
use crate::identity::{Identity, ScopeKey};
use crate::key::{Key, Scope, VersionRef, check_alias};
use crate::limits;
use crate::node::store::{Store, nearest};

const FILE: &str = "aliases.toml";

impl Store {
    /// This store's own identity, made with the first call: who publishes its keys.
    pub fn identity(&self) -> Result<Identity> {
        self.own_key("identity.key")
    }

    /// The key pair that this store's node proves itself to peers with, made with the first call.
    pub(super) fn peer_identity(&self) -> Result<Identity> {
        self.own_key("peer.key")
    }

    fn own_key(&self, name: &str) -> Result<Identity> {
        let path = self.own_file(name)?;
        if self.is_read_only() { Identity::load(&path) } else { Identity::load_or_create(&path) }
    }

    /// The names for scopes.
    pub fn aliases(&self) -> Result<BTreeMap<String, ScopeKey>> {
        let path = self.own_file(FILE)?;
        let damaged = |why: String| Error::Damaged { what: "aliases", place: path.display().to_string(), why };
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(Error::io("read", &path, error)),
            Ok(bytes) => {
                String::from_utf8(bytes).map_err(|_| damaged("it is not text; mend or delete it".to_owned()))?
            }
        };
        let table: BTreeMap<String, String> =
            toml::from_str(&text).map_err(|error| damaged(format!("{}; mend or delete it", error.message())))?;
        let parse = |(alias, scope): (String, String)| Ok((alias, scope.parse()?));
        table.into_iter().map(parse).collect()
    }

    /// Makes `alias` a name for `scope`, in place of what it named before.
    pub fn set_alias(&self, alias: &str, scope: ScopeKey) -> Result<()> {
        let refuse = |why| Error::Syntax { what: "alias", input: alias.to_owned(), why };
        check_alias(alias).map_err(refuse)?;
        if alias.parse::<ScopeKey>().is_ok() {
            return Err(refuse("64 hex digits are a scope themselves; choose a name".to_owned()));
        }
        let mut aliases = self.aliases()?;
        if aliases.len() >= limits::ALIASES {
            let (found, limit) = (aliases.len() as u64, limits::ALIASES as u64);
            return Err(Error::Limit { what: "the number of aliases", found, limit });
        }
        aliases.insert(alias.to_owned(), scope);
        self.write_aliases(&aliases)
    }

    /// Takes a name for a scope away.
    pub fn remove_alias(&self, alias: &str) -> Result<()> {
        let mut aliases = self.aliases()?;
        if aliases.remove(alias).is_none() {
            return Err(unknown(alias, &aliases));
        }
        self.write_aliases(&aliases)
    }

    fn write_aliases(&self, aliases: &BTreeMap<String, ScopeKey>) -> Result<()> {
        let path = self.own_file(FILE)?;
        let text: String = aliases.iter().map(|(alias, scope)| format!("\"{alias}\" = \"{scope}\"\n")).collect();
        let failed = |error| Error::io("write", &path, error);
        let directory = path.parent().unwrap_or(&path);
        let mut file = tempfile::NamedTempFile::new_in(self.spool()).map_err(failed)?;
        file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
        file.persist(&path).map_err(|error| failed(error.error))?;
        sync_directory(directory).map_err(|error| Error::io("sync", directory, error))
    }

    fn own_file(&self, name: &str) -> Result<std::path::PathBuf> {
        let path = self.path().ok_or_else(|| Error::Input {
            path: "the store".into(),
            why: "it is in no directory, so it has neither an identity nor aliases".to_owned(),
        })?;
        Ok(path.join(name))
    }

    /// The key with its alias explained: a scope is then a public key, and the store's own keys have none. A copy of what another machine has
    /// published under the same scope has it, where nothing of this store's own is called so.
    pub fn canonical(&self, key: &Key) -> Result<Key> {
        let scope = match key.scope() {
            None => return Ok(key.clone()),
            Some(Scope::Key(scope)) => scope,
            Some(Scope::Alias(alias)) => {
                let aliases = self.aliases()?;
                *aliases.get(&alias).ok_or_else(|| unknown(&alias, &aliases))?
            }
        };
        let own = self.path().is_some_and(|path| path.join("identity.key").exists());
        match own && self.identity()?.scope() == scope {
            true => {
                let (own, copy) = (key.unscoped(), key.in_scope(&scope));
                let is_copy = self.inner.chunks.refs(&own)?.versions.is_empty()
                    && !self.inner.chunks.refs(&copy)?.versions.is_empty();
                Ok(if is_copy { copy } else { own })
            }
            false => Ok(key.in_scope(&scope)),
        }
    }

    /// As [`canonical`](Store::canonical), for a version.
    pub fn canonical_version(&self, wanted: &VersionRef) -> Result<VersionRef> {
        Ok(VersionRef { key: self.canonical(&wanted.key)?, version: wanted.version.clone() })
    }
}

fn unknown(alias: &str, aliases: &BTreeMap<String, ScopeKey>) -> Error {
    let place = "the aliases; `caskad alias NAME SCOPE` makes one".to_owned();
    let nearest = nearest(alias, aliases.keys().map(String::as_str));
    Error::NotFound { what: "alias", name: alias.to_owned(), place, nearest }
}
