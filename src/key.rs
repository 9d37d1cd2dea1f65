//! [`Key`], [`Label`] and [`VersionRef`]: the names that people give to payloads and to versions of them.
//!
//! The full syntax is `[@scope/]name[@version]`. A value of these types has passed its rules, so whoever holds one need
//! not check again; the text that it displays parses to the same value.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::identity::ScopeKey;
use crate::limits;

/// What a manifest hash is written with in a version: `b3-<hex>`.
const MANIFEST_PREFIX: &str = "b3-";

fn syntax(what: &'static str, input: &str, why: impl Into<String>) -> Error {
    Error::Syntax { what, input: input.to_owned(), why: why.into() }
}

/// The name of a payload: segments of ASCII letters, digits and `. _ - :`, joined by `/`, behind an optional scope.
///
/// No segment is empty, `.` or `..`, and the name is at most [`limits::KEY_BYTES`] long. A scope (`@scope/name`) says who published it: a
/// public key in 64 hex digits, or an alias for one. Without a scope a key is the store's own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

/// The scope of a key, as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// A public key.
    Key(ScopeKey),
    /// A name that the store's aliases explain.
    Alias(String),
}

impl Key {
    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part after the last `/`: a file name for a payload that has none of its own.
    pub fn last_segment(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// Who published it, if that is said.
    pub fn scope(&self) -> Option<Scope> {
        let (scope, _) = split_scope(&self.0)?;
        Some(match scope.parse() {
            Ok(key) => Scope::Key(key),
            Err(_) => Scope::Alias(scope.to_owned()),
        })
    }

    /// The name without its scope.
    pub fn name(&self) -> &str {
        split_scope(&self.0).map_or(&self.0, |(_, name)| name)
    }

    /// The same name as a key of the store's own.
    pub fn unscoped(&self) -> Key {
        Key(self.name().to_owned())
    }

    /// The same name in `scope`.
    pub fn in_scope(&self, scope: &ScopeKey) -> Key {
        Key(format!("@{scope}/{}", self.name()))
    }

    fn check(text: &str) -> Result<(), String> {
        let text = match text.strip_prefix('@') {
            None => text,
            Some(_) => {
                let (scope, name) = split_scope(text).ok_or("write it as @scope/name")?;
                check_alias(scope)?;
                name
            }
        };
        if text.is_empty() {
            return Err("it is empty; give a name such as `team/model`".to_owned());
        }
        if text.len() > limits::KEY_BYTES {
            return Err(format!("it is {} bytes long, at most {} are allowed", text.len(), limits::KEY_BYTES));
        }
        if let Some(bad) = text.chars().find(|&c| !is_name_char(c) && !matches!(c, ':' | '/')) {
            return Err(format!("{bad:?} is not allowed; use letters, digits, `. _ - :` and `/`"));
        }
        match text.split('/').find(|segment| matches!(*segment, "" | "." | "..")) {
            Some("") => Err("a segment is empty; put exactly one `/` between segments and none at the ends".to_owned()),
            Some(dots) => Err(format!("`{dots}` is not allowed as a segment; give it a name")),
            None => Ok(()),
        }
    }
}

/// Scope and name of `@scope/name`.
fn split_scope(text: &str) -> Option<(&str, &str)> {
    text.strip_prefix('@')?.split_once('/')
}

/// Checks a name for a scope: 1 to 64 letters, digits and `. _ -`.
pub(crate) fn check_alias(alias: &str) -> Result<(), String> {
    let fits = (1..=limits::ALIAS_BYTES).contains(&alias.len()) && alias.chars().all(is_name_char);
    if fits {
        Ok(())
    } else {
        Err(format!("a scope is an alias (1 to {} letters, digits and `. _ -`) or 64 hex digits", limits::ALIAS_BYTES))
    }
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

impl FromStr for Key {
    type Err = Error;

    fn from_str(text: &str) -> Result<Key> {
        Key::check(text).map_err(|why| syntax("key", text, why))?;
        Ok(Key(text.to_owned()))
    }
}

/// A name for one version of a key: ASCII letters, digits and `. _ -`.
///
/// It is not all digits (that is a version number), does not start with `b3-` (that is a manifest hash), and is at most
/// [`limits::LABEL_BYTES`] long.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(String);

impl Label {
    /// The label as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn check(text: &str) -> Result<(), String> {
        if text.is_empty() {
            return Err("it is empty; give a label such as `best`, or leave the `@` out".to_owned());
        }
        if text.len() > limits::LABEL_BYTES {
            return Err(format!("it is {} bytes long, at most {} are allowed", text.len(), limits::LABEL_BYTES));
        }
        if let Some(bad) = text.chars().find(|&c| !is_name_char(c)) {
            return Err(format!("{bad:?} is not allowed; use letters, digits and `. _ -`"));
        }
        if text.bytes().all(|c| c.is_ascii_digit()) {
            return Err("version numbers are given by the store; use a label with a letter in it".to_owned());
        }
        if text.starts_with(MANIFEST_PREFIX) {
            return Err("`b3-` starts a manifest hash; use a label that starts otherwise".to_owned());
        }
        Ok(())
    }
}

impl FromStr for Label {
    type Err = Error;

    fn from_str(text: &str) -> Result<Label> {
        Label::check(text).map_err(|why| syntax("label", text, why))?;
        Ok(Label(text.to_owned()))
    }
}

/// The first hex digits of a manifest hash: enough of them to name one version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HashPrefix(String);

impl HashPrefix {
    /// Fewest hex digits that are taken for a prefix.
    pub const MIN_DIGITS: usize = 6;

    /// Whether `hash` starts with these digits.
    pub fn matches(&self, hash: &Hash) -> bool {
        hash.to_string().starts_with(&self.0)
    }

    /// The hash itself, when all of its digits were given.
    pub fn full(&self) -> Option<Hash> {
        self.0.parse().ok()
    }

    /// The hex digits, lower-case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<Hash> for HashPrefix {
    fn from(hash: Hash) -> HashPrefix {
        HashPrefix(hash.to_string())
    }
}

impl FromStr for HashPrefix {
    type Err = Error;

    fn from_str(digits: &str) -> Result<HashPrefix> {
        let hex = digits.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
        match hex && (HashPrefix::MIN_DIGITS..=2 * Hash::LEN).contains(&digits.len()) {
            true => Ok(HashPrefix(digits.to_owned())),
            false => Err(syntax("manifest hash", digits, "give 6 to 64 lower-case hex digits after `b3-`")),
        }
    }
}

/// Which version of a key is meant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum VersionSpec {
    /// The one with the highest number.
    #[default]
    Latest,
    /// The one with this number; numbers count from 1.
    Number(u64),
    /// The one that carries this label.
    Label(Label),
    /// The one whose manifest hash starts with these digits.
    Manifest(HashPrefix),
}

impl FromStr for VersionSpec {
    type Err = Error;

    /// Reads what follows the `@`.
    fn from_str(text: &str) -> Result<VersionSpec> {
        if let Some(digits) = text.strip_prefix(MANIFEST_PREFIX) {
            return Ok(VersionSpec::Manifest(digits.parse()?));
        }
        if text.is_empty() || !text.bytes().all(|c| c.is_ascii_digit()) {
            return Ok(VersionSpec::Label(text.parse()?));
        }
        if text.starts_with('0') {
            return Err(syntax("version", text, "version numbers count from 1 and have no leading zeros"));
        }
        match text.parse() {
            Ok(number) => Ok(VersionSpec::Number(number)),
            Err(_) => {
                Err(syntax("version", text, "no version has a number that large; `log KEY` lists those there are"))
            }
        }
    }
}

/// A key and which version of it: `name`, `name@3`, `name@best` or `name@b3-<hex>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionRef {
    /// The key.
    pub key: Key,
    /// The version; [`VersionSpec::Latest`] where the text names none.
    pub version: VersionSpec,
}

impl FromStr for VersionRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<VersionRef> {
        let (key, version) = split_version(text);
        Ok(VersionRef { key: key.parse()?, version: version.map(str::parse).transpose()?.unwrap_or_default() })
    }
}

impl From<Key> for VersionRef {
    fn from(key: Key) -> VersionRef {
        VersionRef { key, version: VersionSpec::Latest }
    }
}

/// What a new version is stored as: `KEY` or `KEY@LABEL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutName {
    /// The key that gets a new version.
    pub key: Key,
    /// The label that the new version carries.
    pub label: Option<Label>,
}

impl FromStr for PutName {
    type Err = Error;

    fn from_str(text: &str) -> Result<PutName> {
        let (key, label) = split_version(text);
        Ok(PutName { key: key.parse()?, label: label.map(str::parse).transpose()? })
    }
}

/// Splits at the `@` of the version. One at the very start belongs to a scope, which [`Key`] has its say about.
fn split_version(text: &str) -> (&str, Option<&str>) {
    let from = usize::from(text.starts_with('@'));
    match text.get(from..).and_then(|rest| rest.find('@')) {
        Some(at) => (&text[..from + at], Some(&text[from + at + 1..])),
        None => (text, None),
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for HashPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{MANIFEST_PREFIX}{}", self.0)
    }
}

impl fmt::Display for VersionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            VersionSpec::Latest => write!(f, "{}", self.key),
            VersionSpec::Number(number) => write!(f, "{}@{number}", self.key),
            VersionSpec::Label(label) => write!(f, "{}@{label}", self.key),
            VersionSpec::Manifest(prefix) => write!(f, "{}@{prefix}", self.key),
        }
    }
}

impl fmt::Display for PutName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.label {
            Some(label) => write!(f, "{}@{label}", self.key),
            None => write!(f, "{}", self.key),
        }
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Label {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl serde::Serialize for Key {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl serde::Serialize for Label {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn why<T: FromStr<Err = Error> + fmt::Debug>(text: &str) -> String {
        match text.parse::<T>() {
            Err(Error::Syntax { why, .. }) => why,
            other => panic!("{text:?} gave {other:?}"),
        }
    }

    #[test]
    fn keys_are_segments_of_plain_characters() {
        for good in ["a", "team/model", "a.b_c-d:e/1", "..a/b..", &"k".repeat(limits::KEY_BYTES)] {
            assert_eq!(good.parse::<Key>().unwrap().as_str(), good);
        }
        for (bad, fragment) in [
            ("", "empty"),
            ("/a", "segment is empty"),
            ("a/", "segment is empty"),
            ("a//b", "segment is empty"),
            ("a/../b", "`..` is not allowed"),
            (".", "`.` is not allowed"),
            ("a b", "' ' is not allowed"),
            ("modèle", "'è' is not allowed"),
            ("a\\b", "is not allowed"),
            ("a\0", "is not allowed"),
            ("@team", "@scope/name"),
            ("@/model", "a scope is an alias"),
            ("@te am/model", "a scope is an alias"),
            ("@team/", "empty"),
            ("@team/../x", "`..` is not allowed"),
            (&"k".repeat(limits::KEY_BYTES + 1), "513 bytes long"),
        ] {
            assert!(why::<Key>(bad).contains(fragment), "{bad:?}: {}", why::<Key>(bad));
        }
    }

    #[test]
    fn a_version_is_a_number_a_label_or_a_manifest_hash() {
        let hash = Hash::of(b"manifest");
        let spec = |text: &str| text.parse::<VersionRef>().unwrap().version;
        assert_eq!(spec("m"), VersionSpec::Latest);
        assert_eq!(spec("m@3"), VersionSpec::Number(3));
        assert_eq!(spec("m@best"), VersionSpec::Label("best".parse().unwrap()));
        assert_eq!(spec("m@3a"), VersionSpec::Label("3a".parse().unwrap()));
        assert_eq!(spec(&format!("m@b3-{hash}")), VersionSpec::Manifest(hash.into()));
        let VersionSpec::Manifest(prefix) = spec(&format!("m@b3-{}", hash.short())) else { panic!("not a prefix") };
        assert!(prefix.matches(&hash) && !prefix.matches(&Hash::of(b"other")));
        assert_eq!((prefix.full(), HashPrefix::from(hash).full()), (None, Some(hash)));
        for (bad, fragment) in [
            ("m@", "empty"),
            ("m@0", "count from 1"),
            ("m@03", "leading zeros"),
            ("m@99999999999999999999", "that large"),
            ("m@a@b", "'@' is not allowed"),
            ("m@a/b", "'/' is not allowed"),
            ("m@b3-12345", "6 to 64"),
            ("m@b3-ABCDEF", "lower-case"),
            ("m@b3-é23456", "hex digits"),
            ("@team/m@", "empty"),
        ] {
            assert!(why::<VersionRef>(bad).contains(fragment), "{bad:?}: {}", why::<VersionRef>(bad));
        }
    }

    #[test]
    fn a_scope_is_a_public_key_or_an_alias() {
        let scope = ScopeKey::from_bytes([0xa5; 32]);
        let key: Key = "team/model".parse().unwrap();
        assert_eq!((key.scope(), key.name()), (None, "team/model"));
        let scoped = key.in_scope(&scope);
        assert_eq!(scoped.as_str().parse::<Key>().unwrap(), scoped);
        assert_eq!((scoped.scope(), scoped.name(), scoped.unscoped()), (Some(Scope::Key(scope)), "team/model", key));
        let version: VersionRef = "@alice/m@best".parse().unwrap();
        assert_eq!(version.key.scope(), Some(Scope::Alias("alice".to_owned())));
        assert_eq!((version.key.name(), version.to_string().as_str()), ("m", "@alice/m@best"));
    }

    #[test]
    fn a_put_takes_a_label_but_no_number_and_no_hash() {
        assert_eq!("m@best".parse::<PutName>().unwrap().label, Some("best".parse().unwrap()));
        assert_eq!("m".parse::<PutName>().unwrap().label, None);
        assert!(why::<PutName>("m@3").contains("given by the store"));
        assert!(why::<PutName>("m@b3-abcdef").contains("manifest hash"));
        assert!(why::<Label>(&"l".repeat(limits::LABEL_BYTES + 1)).contains("129 bytes long"));
    }

    proptest! {
        #[test]
        fn what_parses_displays_as_it_was_given(text in "[a-c@./:é0-9_-]{0,12}|[a-c/]{1,5}@(b3-)?[0-9a-f]{1,8}") {
            if let Ok(version) = text.parse::<VersionRef>() {
                prop_assert_eq!(version.to_string(), &*text);
            }
            if let Ok(name) = text.parse::<PutName>() {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }
}
