//! Healing: chunks that verification found damaged are fetched again from the peers that hold them.

use std::collections::HashMap;
use std::sync::Arc;

use crate::chunk::LeaseTerms;
use crate::error::Result;
use crate::key::{Key, VersionRef, VersionSpec};
use crate::monitor::Monitor;
use crate::node::online::find::{Missing, keep};
use crate::node::online::node::Node;
use crate::node::report::VerifyReport;

impl Node {
    /// Fetches the chunks that `report` names as damaged. Says how many came; what peers do not have either stays damaged, with a warning.
    ///
    /// A damaged manifest is not healed here: without it nobody knows which chunks the version has. Getting the version again brings it.
    pub fn heal(&self, report: &VerifyReport, monitor: &Monitor) -> Result<u64> {
        let mut versions: HashMap<(Key, u64), Vec<_>> = HashMap::new();
        for damage in &report.damaged {
            if let (Some(key), Some(number), Some(chunk)) = (&damage.key, damage.version, damage.chunk) {
                versions.entry((key.clone(), number)).or_default().push(chunk);
            }
        }
        let mut healed = 0;
        for ((key, number), damaged) in versions {
            let wanted = VersionRef { key, version: VersionSpec::Number(number) };
            let version = self.inner.store.version(&wanted)?;
            let places = version.manifest.chunks.iter().enumerate();
            let missing: Vec<Missing> = places
                .filter(|(_, chunk)| damaged.contains(&chunk.hash))
                .filter_map(|(index, chunk)| {
                    Some(Missing { chunk: *chunk, home: version.manifest.home(index)?, bases: Vec::new() })
                })
                .collect();
            let (manifest, expires_unix_ms) = (version.entry.manifest, self.inner.lease_end());
            let terms = LeaseTerms { manifest, owner: self.inner.owner, expires_unix_ms };
            let intake = Arc::new(self.inner.store.intake(terms)?);
            let healing = async {
                let brought = self.inner.bring(missing, None, Arc::clone(&intake), monitor).await;
                keep(brought, intake).await
            };
            match self.block_on(healing) {
                Ok(fetched) => healed += fetched.chunks,
                Err(error) => monitor.warn(&format!("{wanted} is not whole again: {error}")),
            }
        }
        Ok(healed)
    }
}
