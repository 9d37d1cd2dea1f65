//! [`RefRecord`]: what the pack log says about versions, labels and pins.
//!
//! A record speaks of one [`Entity`] and replaces all that was said of it under a lower sequence number, so a log
//! replays to the same state in whatever order its records lie. Invariant: every value of these types encodes to at
//! most [`limits::REF_BYTES`] of deterministic CBOR, and only those bytes decode to it. `manifests/manifest.cddl` is the
//! norm.

pub use crate::cbor::DecodeError;
use crate::cbor::{Reader, Sink, Writer};
use crate::hash::Hash;
use crate::key::{Key, Label, Scope};
use crate::limits;
pub use crate::meta::{Meta, MetaValue};

/// The version of the record format that this caskad writes, and the newest that it reads.
pub const REF_VERSION: u64 = 1;

/// What a record is about. A later record on the same entity replaces an earlier one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entity {
    /// A version of a key.
    Version {
        /// The key.
        key: Key,
        /// Its number.
        number: u64,
    },
    /// A label of a key.
    Label {
        /// The key.
        key: Key,
        /// The label.
        label: Label,
    },
    /// The pin on a version.
    Pin {
        /// The key.
        key: Key,
        /// The number of the version.
        number: u64,
    },
}

impl Entity {
    /// The key that the entity belongs to.
    pub fn key(&self) -> &Key {
        match self {
            Entity::Version { key, .. } | Entity::Label { key, .. } | Entity::Pin { key, .. } => key,
        }
    }
}

/// A committed version: its manifest, and what `log` and `ls` tell without reading that.
#[derive(Debug, Clone, PartialEq)]
pub struct VersionEntry {
    /// Hash of the manifest.
    pub manifest: Hash,
    /// Bytes of the manifest.
    pub manifest_bytes: u64,
    /// Bytes of the payload, all files together.
    pub bytes: u64,
    /// Bytes that the version added on disk when it was stored.
    pub stored_bytes: u64,
    /// Chunks that the manifest lists.
    pub chunks: u64,
    /// Chunks that the store did not have before.
    pub new_chunks: u64,
    /// When it was stored, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// When it may be collected, in milliseconds since 1970; never, where absent.
    pub expires_unix_ms: Option<u64>,
    /// Whether the payload is one file rather than a directory.
    pub single: bool,
    /// The user's metadata, as in the manifest.
    pub meta: Meta,
}

/// A pin: it keeps a version from being removed or expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PinEntry {
    /// When it was set, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// When it lapses, in milliseconds since 1970; never, where absent.
    pub expires_unix_ms: Option<u64>,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq)]
pub enum RefChange {
    /// A ref: the version exists.
    Version {
        /// The key.
        key: Key,
        /// Its number.
        number: u64,
        /// The version.
        entry: VersionEntry,
    },
    /// A ref: the label names a version.
    Label {
        /// The key.
        key: Key,
        /// The label.
        label: Label,
        /// The number of the version that it names.
        number: u64,
    },
    /// A ref: the version is pinned.
    Pin {
        /// The key.
        key: Key,
        /// The number of the version.
        number: u64,
        /// The pin.
        pin: PinEntry,
    },
    /// A removal: the entity exists no more.
    Removal(Entity),
}

impl RefChange {
    /// What the change is about.
    pub fn entity(&self) -> Entity {
        match self {
            RefChange::Version { key, number, .. } => Entity::Version { key: key.clone(), number: *number },
            RefChange::Label { key, label, .. } => Entity::Label { key: key.clone(), label: label.clone() },
            RefChange::Pin { key, number, .. } => Entity::Pin { key: key.clone(), number: *number },
            RefChange::Removal(entity) => entity.clone(),
        }
    }
}

/// One event of the pack log: a ref or a removal.
#[derive(Debug, Clone, PartialEq)]
pub struct RefRecord {
    /// Its place in the replay; the highest number on an entity wins.
    pub seq: u64,
    /// What it says.
    pub change: RefChange,
}

const KIND_REF: u64 = 0;
const KIND_REMOVAL: u64 = 1;

const ENTITY_VERSION: u64 = 0;
const ENTITY_LABEL: u64 = 1;
const ENTITY_PIN: u64 = 2;

impl RefRecord {
    /// What the record is about.
    pub fn entity(&self) -> Entity {
        self.change.entity()
    }

    /// Whether it is a removal rather than a ref.
    pub fn is_removal(&self) -> bool {
        matches!(self.change, RefChange::Removal(_))
    }

    /// The record as deterministic CBOR, at most [`limits::REF_BYTES`] of it.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::<Vec<u8>>::default();
        writer.map(if self.is_removal() { 4 } else { 5 });
        for (field, value) in
            [(0, REF_VERSION), (1, if self.is_removal() { KIND_REMOVAL } else { KIND_REF }), (2, self.seq)]
        {
            writer.uint(field);
            writer.uint(value);
        }
        writer.uint(3);
        encode_entity(&mut writer, &self.entity());
        match &self.change {
            RefChange::Removal(_) => {}
            RefChange::Version { entry, .. } => {
                writer.uint(4);
                encode_version(&mut writer, entry);
            }
            RefChange::Label { number, .. } => {
                writer.uint(4);
                writer.uint(*number);
            }
            RefChange::Pin { pin, .. } => {
                writer.uint(4);
                writer.map(1 + usize::from(pin.expires_unix_ms.is_some()));
                encode_optional(&mut writer, 0, Some(pin.created_unix_ms));
                encode_optional(&mut writer, 1, pin.expires_unix_ms);
            }
        }
        writer.0
    }

    /// Reads what [`encode`](RefRecord::encode) wrote, and nothing else.
    pub fn decode(bytes: &[u8]) -> Result<RefRecord, DecodeError> {
        let mut reader = Reader::new(bytes, limits::REF_BYTES)?;
        let reader = &mut reader;
        let mut fields = reader.fields("ref record")?;
        fields.version(reader, REF_VERSION)?;
        let (mut kind, mut seq, mut entity, mut change) = (None, None, None, None);
        while let Some(field) = fields.next(reader)? {
            match (field, kind) {
                (1, _) => match reader.uint("record kind")? {
                    known @ (KIND_REF | KIND_REMOVAL) => kind = Some(known),
                    other => return Err(reader.malformed("record kind", format!("{other} is unknown"))),
                },
                (2, _) => seq = Some(reader.uint("sequence number")?),
                (3, _) => entity = Some(decode_entity(reader)?),
                (4, Some(KIND_REF)) => {
                    let entity = fields.required(reader, entity.take(), "entity")?;
                    change = Some(decode_change(reader, entity)?);
                }
                (4, _) => return Err(reader.malformed("removal record", "it has a value, which only a ref has")),
                (other, _) => return fields.unknown(reader, other),
            }
        }
        reader.finish("ref record")?;
        let seq = fields.required(reader, seq, "sequence number")?;
        let change = match fields.required(reader, kind, "kind")? {
            KIND_REMOVAL => RefChange::Removal(fields.required(reader, entity, "entity")?),
            _ => fields.required(reader, change, "value")?,
        };
        Ok(RefRecord { seq, change })
    }
}

fn encode_optional(writer: &mut Writer<impl Sink>, field: u64, value: Option<u64>) {
    if let Some(value) = value {
        writer.uint(field);
        writer.uint(value);
    }
}

fn encode_entity(writer: &mut Writer<impl Sink>, entity: &Entity) {
    writer.array(3);
    writer.uint(match entity {
        Entity::Version { .. } => ENTITY_VERSION,
        Entity::Label { .. } => ENTITY_LABEL,
        Entity::Pin { .. } => ENTITY_PIN,
    });
    writer.text(entity.key().as_str());
    match entity {
        Entity::Version { number, .. } | Entity::Pin { number, .. } => writer.uint(*number),
        Entity::Label { label, .. } => writer.text(label.as_str()),
    }
}

fn decode_entity(reader: &mut Reader<'_>) -> Result<Entity, DecodeError> {
    if reader.array("entity", 3)? != 3 {
        return Err(reader.malformed("entity", "it is not [kind, key, number or label]"));
    }
    let kind = reader.uint("entity kind")?;
    // A scope is `@`, 64 hex digits and `/`. What an alias means may change, so no ref has one.
    let key: Key = reader.parsed("key", limits::KEY_BYTES + limits::ALIAS_BYTES + 2)?;
    if matches!(key.scope(), Some(Scope::Alias(_))) {
        return Err(reader.malformed("key", "its scope is no public key"));
    }
    match kind {
        ENTITY_VERSION => Ok(Entity::Version { key, number: reader.uint("version number")? }),
        ENTITY_PIN => Ok(Entity::Pin { key, number: reader.uint("version number")? }),
        ENTITY_LABEL => Ok(Entity::Label { key, label: reader.parsed("label", limits::LABEL_BYTES)? }),
        other => Err(reader.malformed("entity kind", format!("{other} is unknown"))),
    }
}

fn decode_change(reader: &mut Reader<'_>, entity: Entity) -> Result<RefChange, DecodeError> {
    Ok(match entity {
        Entity::Version { key, number } => RefChange::Version { key, number, entry: decode_version(reader)? },
        Entity::Label { key, label } => RefChange::Label { key, label, number: reader.uint("version number")? },
        Entity::Pin { key, number } => RefChange::Pin { key, number, pin: decode_pin(reader)? },
    })
}

pub(crate) fn encode_version(writer: &mut Writer<impl Sink>, entry: &VersionEntry) {
    writer.map(8 + usize::from(entry.expires_unix_ms.is_some()) + usize::from(!entry.meta.is_empty()));
    writer.uint(0);
    writer.bytes(entry.manifest.as_bytes());
    encode_optional(writer, 1, Some(entry.manifest_bytes));
    encode_optional(writer, 2, Some(entry.bytes));
    encode_optional(writer, 3, Some(entry.stored_bytes));
    encode_optional(writer, 4, Some(entry.chunks));
    encode_optional(writer, 5, Some(entry.new_chunks));
    encode_optional(writer, 6, Some(entry.created_unix_ms));
    encode_optional(writer, 7, entry.expires_unix_ms);
    writer.uint(8);
    writer.boolean(entry.single);
    if !entry.meta.is_empty() {
        writer.uint(9);
        entry.meta.encode(writer);
    }
}

pub(crate) fn decode_version(reader: &mut Reader<'_>) -> Result<VersionEntry, DecodeError> {
    const NAMES: [&str; 8] = [
        "manifest hash",
        "manifest length",
        "payload length",
        "stored bytes",
        "chunk count",
        "new chunk count",
        "creation time",
        "expiry",
    ];
    let mut fields = reader.fields("version entry")?;
    let (mut manifest, mut single, mut meta) = (None, None, Meta::default());
    let mut numbers = [None; 8];
    while let Some(field) = fields.next(reader)? {
        match field {
            0 => manifest = Some(reader.hash("manifest hash")?),
            1..=7 => numbers[field as usize] = Some(reader.uint(NAMES[field as usize])?),
            8 => single = Some(reader.boolean("single-file flag")?),
            9 => meta = Meta::decode(reader)?,
            other => return fields.unknown(reader, other),
        }
    }
    let number = |field: usize| fields.required(reader, numbers[field], NAMES[field]);
    Ok(VersionEntry {
        manifest: fields.required(reader, manifest, NAMES[0])?,
        manifest_bytes: number(1)?,
        bytes: number(2)?,
        stored_bytes: number(3)?,
        chunks: number(4)?,
        new_chunks: number(5)?,
        created_unix_ms: number(6)?,
        expires_unix_ms: numbers[7],
        single: fields.required(reader, single, "single-file flag")?,
        meta,
    })
}

fn decode_pin(reader: &mut Reader<'_>) -> Result<PinEntry, DecodeError> {
    let mut fields = reader.fields("pin")?;
    let (mut created, mut expires_unix_ms) = (None, None);
    while let Some(field) = fields.next(reader)? {
        match field {
            0 => created = Some(reader.uint("creation time")?),
            1 => expires_unix_ms = Some(reader.uint("expiry")?),
            other => return fields.unknown(reader, other),
        }
    }
    Ok(PinEntry { created_unix_ms: fields.required(reader, created, "creation time")?, expires_unix_ms })
}
