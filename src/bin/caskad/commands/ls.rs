//! `caskad ls`: the keys of a store.

use caskad::{Key, KeySummary, Scope, ScopeKey};
use clap::Args;

use crate::context::Context;
use crate::failure::{Exit, Result};
use crate::output::size;
use crate::table::Table;

/// List keys
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caskad ls
  caskad ls runs/
  caskad ls --json | jq -r '.[].key'")]
pub(crate) struct Ls {
    /// Only keys whose names start like this; `@scope` or `@scope/` lists those that a scope has published
    #[arg(value_name = "PREFIX", default_value = "", hide_default_value = true)]
    prefix: String,
}

impl Ls {
    pub(crate) fn run(&self, context: &Context) -> Result<Exit> {
        let keys = match (context.node(), self.scope(context)?) {
            (Some(node), Some((scope, name))) => {
                let keys = node.keys_of(&scope.unwrap_or(node.scope()), context.monitor())?;
                keys.into_iter().filter(|key| key.key.name().starts_with(&name)).collect()
            }
            (None, Some((Some(scope), name))) => context.read()?.keys(&format!("@{scope}/{name}"))?,
            (None, Some((None, name))) => {
                let keys = context.read()?.keys(&name)?;
                keys.into_iter().filter(|key| key.key.scope().is_none()).collect()
            }
            (_, None) => context.read()?.keys(&self.prefix)?,
        };
        context.list(keys.as_slice(), describe)?;
        Ok(Exit::Done)
    }
}

impl Ls {
    /// The scope that the prefix names (none within: this store's own), and the rest of it; `None` where it names none.
    fn scope(&self, context: &Context) -> Result<Option<(Option<ScopeKey>, String)>> {
        let Some(scoped) = self.prefix.strip_prefix('@') else { return Ok(None) };
        let (scope, name) = scoped.split_once('/').unwrap_or((scoped, ""));
        let key: Key = format!("@{scope}/x").parse()?;
        let scope = match context.read()?.canonical(&key)?.scope() {
            Some(Scope::Key(scope)) => Some(scope),
            _ => None,
        };
        Ok(Some((scope, name.to_owned())))
    }
}

fn describe(keys: &[KeySummary]) -> String {
    if keys.is_empty() {
        return "no keys\n".to_owned();
    }
    let mut table = Table::new(&["KEY", ">VERSIONS", ">LATEST", ">SIZE", "STORED AT"]);
    for key in keys {
        table.row([
            key.key.to_string(),
            key.versions.to_string(),
            key.latest.to_string(),
            size(key.bytes),
            key.created.to_string(),
        ]);
    }
    table.render("")
}
