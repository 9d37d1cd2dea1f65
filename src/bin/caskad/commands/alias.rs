//! `caskad alias`: names for scopes.

use std::collections::BTreeMap;

use caskad::ScopeKey;
use clap::Args;

use crate::context::Context;
use crate::failure::{Exit, Result};
use crate::table::Table;

/// Name a scope, so that `@NAME/key` can be written for its keys; list the names without arguments
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caskad alias alice 1f0c…
  caskad get @alice/models/llama
  caskad alias
  caskad alias alice --remove")]
pub(crate) struct Alias {
    /// The name
    name: Option<String>,
    /// The scope: 64 hex digits, as `caskad id` prints them there
    #[arg(requires = "name", conflicts_with = "remove")]
    scope: Option<ScopeKey>,
    /// Take the name away
    #[arg(long, requires = "name")]
    remove: bool,
}

impl Alias {
    pub(crate) fn run(&self, context: &Context) -> Result<Exit> {
        let store = match (&self.name, self.scope) {
            (Some(_), Some(_)) => context.create()?,
            (Some(_), None) if self.remove => context.change()?,
            _ => context.read()?,
        };
        match (&self.name, self.scope) {
            (Some(name), Some(scope)) => store.set_alias(name, scope)?,
            (Some(name), None) if self.remove => store.remove_alias(name)?,
            _ => {}
        }
        let mut aliases = store.aliases()?;
        if let (Some(name), false) = (&self.name, self.remove) {
            // Asked for one: an unknown name is an error, as everywhere.
            store.canonical(&format!("@{name}/x").parse()?)?;
            aliases.retain(|alias, _| alias == name);
        }
        context.list(&aliases, describe)?;
        Ok(Exit::Done)
    }
}

fn describe(aliases: &BTreeMap<String, ScopeKey>) -> String {
    if aliases.is_empty() {
        return "no aliases\n".to_owned();
    }
    let mut table = Table::new(&["ALIAS", "SCOPE"]);
    for (alias, scope) in aliases {
        table.row([alias.clone(), format!("@{scope}")]);
    }
    table.render("")
}
