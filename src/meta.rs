//! [`Meta`]: what a user notes about a version.
//!
//! Invariant: it is within the bounds of [`limits`] and its numbers are finite, so it always encodes, and it encodes in
//! one way.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::Serialize;

use crate::cbor::{DecodeError, Major, Reader, Sink, Writer};
use crate::error::{Error, Result};
use crate::limits;

/// A value of user metadata.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum MetaValue {
    /// Any text.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// A finite number; stays a float when it has no fraction.
    Float(f64),
}

/// User metadata of a version, within the bounds of [`limits`].
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(transparent)]
pub struct Meta(BTreeMap<String, MetaValue>);

impl Meta {
    /// Sets `key` to `value`. Fails with [`Error::Syntax`] or [`Error::Limit`], and then changes nothing.
    pub fn insert(&mut self, key: impl Into<String>, value: MetaValue) -> Result<()> {
        let key = key.into();
        let why = match &value {
            _ if key.is_empty() => "it is empty; give the entry a name",
            MetaValue::Float(number) if !number.is_finite() => "its number is not finite; write it as text",
            _ => "",
        };
        if !why.is_empty() {
            return Err(Error::Syntax { what: "metadata key", input: key, why: why.to_owned() });
        }
        let longest = key.len().max(if let MetaValue::Text(text) = &value { text.len() } else { 0 });
        let others = self.0.iter().filter(|(other, _)| **other != key);
        let (entries, total) = others.fold((1, size(&key, &value)), |(n, sum), (k, v)| (n + 1, sum + size(k, v)));
        for (what, found, limit) in [
            ("bytes of a metadata key or text", longest, limits::META_BYTES),
            ("number of metadata entries", entries, limits::META_ENTRIES),
            ("bytes of metadata in all", total, limits::META_TOTAL_BYTES),
        ] {
            if found > limit {
                return Err(Error::Limit { what, found: found as u64, limit: limit as u64 });
            }
        }
        self.0.insert(key, value);
        Ok(())
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&MetaValue> {
        self.0.get(key)
    }

    /// All entries, by key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &MetaValue)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Deterministic CBOR orders text keys by their encoded bytes: the shorter one first, then bytewise.
    pub(crate) fn encode(&self, writer: &mut Writer<impl Sink>) {
        let mut entries: Vec<_> = self.0.iter().collect();
        entries.sort_by_key(|(key, _)| (key.len(), *key));
        writer.map(entries.len());
        for (key, value) in entries {
            writer.text(key);
            match value {
                MetaValue::Text(text) => writer.text(text),
                MetaValue::Integer(number) => writer.int(*number),
                MetaValue::Float(number) => writer.float(*number),
            }
        }
    }

    /// Reads a map that is not empty: without metadata the field itself is absent.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Meta, DecodeError> {
        const WHAT: &str = "metadata";
        let mut meta = Meta::default();
        let mut last: Option<&str> = None;
        let entries = reader.map(WHAT, limits::META_ENTRIES)?;
        for _ in 0..entries {
            let key = reader.text(WHAT, limits::META_BYTES)?;
            match last.map(|last| (last.len(), last).cmp(&(key.len(), key))) {
                Some(Ordering::Equal) => return Err(reader.malformed(WHAT, format!("key {key:?} is there twice"))),
                Some(Ordering::Greater) => {
                    return Err(reader.malformed(WHAT, format!("key {key:?} is out of order")));
                }
                _ => last = Some(key),
            }
            let value = match reader.peek(WHAT)? {
                Major::Text => MetaValue::Text(reader.text(WHAT, limits::META_BYTES)?.to_owned()),
                Major::Unsigned | Major::Negative => MetaValue::Integer(reader.int(WHAT)?),
                _ => MetaValue::Float(reader.float(WHAT)?),
            };
            meta.insert(key, value).map_err(|error| reader.malformed(WHAT, error.to_string()))?;
        }
        match meta.is_empty() {
            true => Err(reader.malformed(WHAT, "an empty map, it is left out instead")),
            false => Ok(meta),
        }
    }
}

fn size(key: &str, value: &MetaValue) -> usize {
    key.len() + if let MetaValue::Text(text) = value { text.len() } else { 8 }
}

impl TryFrom<BTreeMap<String, MetaValue>> for Meta {
    type Error = Error;

    fn try_from(entries: BTreeMap<String, MetaValue>) -> Result<Meta> {
        let mut meta = Meta::default();
        entries.into_iter().try_for_each(|(key, value)| meta.insert(key, value))?;
        Ok(meta)
    }
}
