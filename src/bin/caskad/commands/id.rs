//! `caskad id`: the key pair that this store publishes under.

use std::io::ErrorKind;
use std::path::PathBuf;

use caskad::{Error, Identity};
use clap::Args;
use serde_json::json;

use crate::commands::is_dash;
use crate::context::Context;
use crate::failure::{Exit, Failure, Result};

/// Print the scope that this store publishes under and the id of its node as a peer, or carry the scope's key to another store
///
/// Whoever has the key can publish under the scope: a team shares a scope by sharing its key file. The id as a peer is each store's own;
/// nodes that are started with `--allow` name those that may connect by it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caskad id
  caskad id --export team.key
  caskad --store other id --import team.key")]
pub(crate) struct Id {
    /// Write the secret key to this new file, which only you can read
    #[arg(long, value_name = "FILE", conflicts_with = "import")]
    export: Option<PathBuf>,
    /// Publish under the secret key in this file from now on
    #[arg(long, value_name = "FILE")]
    import: Option<PathBuf>,
    /// Let an imported key take the place of one that is there already
    #[arg(long, requires = "import")]
    force: bool,
}

impl Id {
    pub(crate) fn run(&self, context: &Context) -> Result<Exit> {
        if self.export.as_deref().is_some_and(is_dash) {
            return Err(Failure::Usage(
                "a secret key is not written to standard output, where others may see it; name a new file".to_owned(),
            ));
        }
        let store = if self.import.is_some() { context.create()? } else { context.create_or_read()? };
        if let Some(file) = &self.import {
            if context.node().is_some() {
                return Err(Failure::Usage(
                    "a running node keeps its key; stop it, import, and start it again".to_owned(),
                ));
            }
            let identity = Identity::load(&context.path(file))?;
            let path = store.path().map(|directory| directory.join("identity.key")).unwrap_or_default();
            match Identity::load(&path) {
                Ok(known) if known.scope() == identity.scope() => {}
                Ok(known) if !self.force => {
                    return Err(Failure::Usage(format!(
                        "this store publishes under @{} already; --force makes it forget that key",
                        known.scope()
                    )));
                }
                Ok(_) => {
                    std::fs::remove_file(&path).map_err(|source| Error::Io {
                        action: "replace",
                        path: path.clone(),
                        source,
                    })?;
                    identity.save(&path)?;
                }
                Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => identity.save(&path)?,
                Err(error) => return Err(error.into()),
            }
        }
        let identity = store.identity()?;
        if let Some(file) = &self.export {
            identity.save(&context.path(file))?;
        }
        let scope = identity.scope();
        let peer = match store.peer_id() {
            // No node has run here, and no key can be made for one.
            Err(Error::Io { source, .. }) if store.is_read_only() && source.kind() == ErrorKind::NotFound => None,
            peer => Some(peer?.to_string()),
        };
        let report = json!({ "scope": scope.to_string(), "peer_id": peer });
        context.list(&report, |_| {
            let peer: String = peer.iter().map(|peer| format!("peer {peer}\n")).collect();
            format!("@{scope}\n{peer}")
        })?;
        Ok(Exit::Done)
    }
}
