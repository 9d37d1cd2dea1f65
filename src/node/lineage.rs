//! [`Lineages`]: all chunks of a key, and which chunk of a newer version each faces. No chunk is read for it, only manifests.
//!
//! Versions are taken the newest first, and a chunk belongs to the newest that has it. So what a chunk faces always comes before it in the
//! list: the chunks form trees, whose roots are those of the newest version and those that nothing newer has a counterpart of.

use std::collections::HashMap;

use crate::chunk::{ChunkRef, ElementWidth, Span};
use crate::error::Result;
use crate::hash::Hash;
#[cfg(feature = "net")]
use crate::key::Key;
use crate::manifest::{FileEntry, Manifest, RegularFile};
use crate::monitor::Monitor;
use crate::node::base::{BASE_VERSIONS, Bases, Facing, placed};
use crate::node::store::Store;
use crate::node::width::chunk_widths;
use crate::split::{Format, Layout, Segment};
use crate::store::RecordKind;

/// A chunk of the key.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) chunk: ChunkRef,
    pub(super) width: ElementWidth,
    /// The chunk of a newer version that it faces, by its place in the list.
    pub(super) faces: Option<u32>,
    /// The last in the list that faces this one, and the one before that faces the same as this one.
    last_facing: Option<u32>,
    before: Option<u32>,
}

/// The chunks of a key, each after the one that it faces.
#[derive(Debug, Default)]
pub(super) struct Lineages {
    pub(super) members: Vec<Member>,
    places: HashMap<Hash, u32>,
    /// By base, the place of a chunk that is kept as the difference to it: what an edited document leaves has no counterpart by its
    /// place, but a put has found one by its bytes.
    based_on: HashMap<Hash, u32>,
}

/// What the chunks of a file of a stored manifest face in the versions of `others`.
fn facing_of(entry: &FileEntry, regular: &RegularFile, others: &mut Bases<'_>) -> Result<Facing> {
    let segments = regular.segments.iter().map(|segment| Segment {
        name: segment.name.clone(),
        dtype: segment.dtype.clone(),
        shape: segment.shape.clone(),
        span: segment.span,
        tensor: segment.tensor,
    });
    let layout = Layout { format: Format::Opaque, segments: segments.collect() };
    match regular.segments.is_empty() {
        true => {
            let chunks = others.plain_file(&entry.path, |len| len == regular.len)?;
            Ok(Facing::in_place(placed(chunks.unwrap_or_default())))
        }
        false => others.facing(&entry.path, &layout, regular.len),
    }
}

/// For each chunk of `manifest` the one that it faces in the versions of `key` that are stored, where there is one.
#[cfg(feature = "net")]
pub(super) fn faced_chunks(store: &Store, key: &Key, manifest: &Manifest) -> Result<Vec<Option<ChunkRef>>> {
    let stored = store.refs_of(key)?.versions.into_values().rev().take(BASE_VERSIONS);
    let mut others = Bases::new(store, stored.map(|entry| entry.manifest).collect());
    let mut faced = vec![None; manifest.chunks.len()];
    for (file, entry) in manifest.files.iter().enumerate() {
        let Some(regular) = entry.regular() else { continue };
        let facing = facing_of(entry, regular, &mut others)?;
        for (index, span) in manifest.chunks_overlapping(file, Span::new(0, regular.len)) {
            if let Some(place) = faced.get_mut(index) {
                *place = facing.in_place_of(span);
            }
        }
    }
    Ok(faced)
}

impl Lineages {
    /// Reads the manifests in `versions`, the newest first.
    pub(super) fn of(store: &Store, versions: &[Hash], monitor: &Monitor) -> Result<Lineages> {
        let mut lineages = Lineages::default();
        for (age, hash) in versions.iter().enumerate() {
            monitor.check()?;
            let newer = versions.iter().take(age).rev().take(BASE_VERSIONS).copied().collect();
            lineages.add(store, &store.manifest(hash)?, &mut Bases::new(store, newer))?;
        }
        Ok(lineages)
    }

    fn add(&mut self, store: &Store, manifest: &Manifest, newer: &mut Bases<'_>) -> Result<()> {
        let widths = chunk_widths(manifest);
        for (file, entry) in manifest.files.iter().enumerate() {
            let Some(regular) = entry.regular() else { continue };
            let facing = facing_of(entry, regular, newer)?;
            let whole = Span::new(0, regular.len);
            for (index, span) in manifest.chunks_overlapping(file, whole) {
                if let (Some(chunk), Some(width)) = (manifest.chunks.get(index), widths.get(index)) {
                    self.push(store, *chunk, *width, facing.in_place_of(span))?;
                }
            }
        }
        Ok(())
    }

    fn push(&mut self, store: &Store, chunk: ChunkRef, width: ElementWidth, facing: Option<ChunkRef>) -> Result<()> {
        let place = self.members.len() as u32;
        if self.places.contains_key(&chunk.hash) {
            return Ok(());
        }
        let faces = facing.and_then(|facing| self.places.get(&facing.hash).copied());
        let faces = faces.or_else(|| self.based_on.get(&chunk.hash).copied());
        let base = store.inner.chunks.locate(&chunk.hash, RecordKind::Chunk)?.and_then(|entry| entry.base);
        self.based_on.extend(base.map(|base| (base, place)));
        let newer = faces.and_then(|faces| self.members.get_mut(faces as usize));
        let before = newer.and_then(|newer| newer.last_facing.replace(place));
        self.places.insert(chunk.hash, place);
        self.members.push(Member { chunk, width, faces, last_facing: None, before });
        Ok(())
    }

    /// Where the chunk `hash` is in the list.
    pub(super) fn place(&self, hash: &Hash) -> Option<u32> {
        self.places.get(hash).copied()
    }

    /// The chunk at `place`.
    pub(super) fn member(&self, place: u32) -> Option<&Member> {
        self.members.get(place as usize)
    }

    /// The chunks that face the one at `place`.
    pub(super) fn facing(&self, place: u32) -> impl Iterator<Item = u32> {
        let last = self.member(place).and_then(|member| member.last_facing);
        std::iter::successors(last, |&place| self.member(place).and_then(|member| member.before))
    }
}
