//! [`DecodeError`]: why bytes are refused, with *incomplete* apart from *invalid*.

/// Why bytes are not a manifest or a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// All is well so far, but the bytes end too early.
    #[error("the bytes end after {len}, inside {what}")]
    Incomplete {
        /// What was being read.
        what: &'static str,
        /// How many bytes there are.
        len: usize,
    },

    /// There are more bytes than the format allows; none of them was looked at.
    #[error("it is {len} bytes long, the limit is {limit}")]
    TooLarge {
        /// How many bytes there are.
        len: usize,
        /// The bound, from [`crate::limits`].
        limit: usize,
    },

    /// A newer caskad wrote it.
    #[error("it has format version {found}, this caskad reads up to {supported}; use a newer caskad")]
    NewerVersion {
        /// The version that it has.
        found: u64,
        /// The newest version that this caskad knows.
        supported: u64,
    },

    /// The bytes are not deterministic CBOR of the right shape.
    #[error("{what}, before byte {offset}: {why}")]
    Malformed {
        /// What was being read.
        what: &'static str,
        /// How far the reader had come.
        offset: usize,
        /// What is wrong with it.
        why: String,
    },

    /// The shape is right, but the values contradict each other.
    #[error(transparent)]
    Invalid(#[from] RuleError),
}

/// Values that break a rule of the format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}")]
pub struct RuleError {
    /// What breaks the rule, by name.
    pub what: String,
    /// The rule, and how it is broken.
    pub why: String,
}

impl RuleError {
    pub(crate) fn new(what: impl Into<String>, why: impl Into<String>) -> RuleError {
        RuleError { what: what.into(), why: why.into() }
    }
}
