//! [`Identity`] and [`ScopeKey`]: who may publish under a scope, as an ed25519 key pair (RFC 8032) and its public half.
//!
//! Invariant: the secret half leaves this module in a key file only, and a key file is readable by its owner alone.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::str::FromStr;

use ed25519_dalek::{Signature, SigningKey, VerifyingKey};

use crate::error::{Error, Result};
use crate::hash::Hash;

/// The first line of a key file.
const HEADING: &str = "caskad secret key 1: keep it to yourself";

/// Longest key file that is read, in bytes.
const FILE_BYTES: u64 = 4096;

/// A scope: the public key whose holder alone can publish under it. Its text is 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScopeKey([u8; 32]);

impl ScopeKey {
    /// A scope from its bytes. Whether they are a key shows when a signature is checked.
    pub const fn from_bytes(bytes: [u8; 32]) -> ScopeKey {
        ScopeKey(bytes)
    }

    /// The bytes of the key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether `signature` is this key's over `message`. Strict: no key of small order, no second form of a signature.
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        let key = VerifyingKey::from_bytes(&self.0);
        key.is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(signature)).is_ok())
    }
}

impl fmt::Display for ScopeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hash::from_bytes(self.0).fmt(f)
    }
}

impl fmt::Debug for ScopeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}", Hash::from_bytes(self.0).short())
    }
}

impl FromStr for ScopeKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<ScopeKey> {
        let why = || "a scope is 64 lower-case hex digits, as `caskad id` prints them".to_owned();
        let parsed = text.strip_prefix('@').unwrap_or(text).parse::<Hash>();
        let parsed = parsed.map_err(|_| Error::Syntax { what: "scope", input: text.to_owned(), why: why() });
        parsed.map(|bytes| ScopeKey(*bytes.as_bytes()))
    }
}

impl serde::Serialize for ScopeKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A key pair. It prints as its public half.
pub struct Identity(SigningKey);

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.scope().fmt(f)
    }
}

impl Identity {
    /// A new key pair, from the system's randomness.
    pub fn generate() -> Result<Identity> {
        let mut secret = [0; 32];
        let random = fs::File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut secret));
        random.map_err(|error| Error::io("read", "/dev/urandom", error))?;
        Ok(Identity::from_secret(secret))
    }

    fn from_secret(secret: [u8; 32]) -> Identity {
        Identity(SigningKey::from_bytes(&secret))
    }

    /// The public half.
    pub fn scope(&self) -> ScopeKey {
        ScopeKey(self.0.verifying_key().to_bytes())
    }

    /// The signature over `message`.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        use ed25519_dalek::Signer as _;
        self.0.sign(message).to_bytes()
    }

    /// The secret half, for a library that signs with the same key.
    #[cfg(feature = "net")]
    pub(crate) fn secret(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The key pair in the file `path`, or a new one that is kept there from now on.
    pub fn load_or_create(path: &Path) -> Result<Identity> {
        match Identity::load(path) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let identity = Identity::generate()?;
                match identity.save(path) {
                    // Another thread was first.
                    Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
                        Identity::load(path)
                    }
                    saved => saved.map(|()| identity),
                }
            }
            loaded => loaded,
        }
    }

    /// The key pair in the file `path`, which nobody else may be able to read.
    pub fn load(path: &Path) -> Result<Identity> {
        let refuse = |why: &str| Error::Input { path: path.to_owned(), why: why.to_owned() };
        let file = fs::File::open(path).map_err(|error| Error::io("open", path, error))?;
        let metadata = file.metadata().map_err(|error| Error::io("read", path, error))?;
        if metadata.mode() & 0o077 != 0 {
            return Err(refuse("others can read this secret key; `chmod 600` it if they did not, else make a new one"));
        }
        let mut text = String::new();
        file.take(FILE_BYTES).read_to_string(&mut text).map_err(|error| Error::io("read", path, error))?;
        let mut lines = text.lines();
        let secret = match (lines.next(), lines.next(), lines.next()) {
            (Some(HEADING), Some(hex), None) => hex.parse::<Hash>().ok(),
            _ => None,
        };
        let secret = secret.ok_or_else(|| refuse("it is no secret key of caskad; restore it from a copy"))?;
        Ok(Identity::from_secret(*secret.as_bytes()))
    }

    /// Writes the key pair to the new file `path`, readable by its owner alone, durably.
    pub fn save(&self, path: &Path) -> Result<()> {
        let failed = |error| Error::io("write", path, error);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        let text = format!("{HEADING}\n{}\n", Hash::from_bytes(self.0.to_bytes()));
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        if let Err(error) = written {
            // Half a key is none, and would be in the way of the next attempt.
            let _ = fs::remove_file(path);
            return Err(failed(error));
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(|error| Error::io("sync", parent, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_key_is_kept_and_only_its_own_signature_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let identity = Identity::load_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = Identity::load_or_create(&path).unwrap();
        assert_eq!(identity.scope(), again.scope());
        let signature = again.sign(b"message");
        assert!(identity.scope().verify(b"message", &signature));
        assert!(!identity.scope().verify(b"another", &signature));
        assert!(!Identity::generate().unwrap().scope().verify(b"message", &signature));
        assert!(!ScopeKey::from_bytes([0; 32]).verify(b"message", &signature));
        assert_eq!(identity.scope().to_string().parse::<ScopeKey>().unwrap(), identity.scope());
        assert!(!format!("{identity:?}").contains(fs::read_to_string(&path).unwrap().lines().nth(1).unwrap()));
    }

    #[test]
    fn a_key_file_that_is_open_to_others_or_damaged_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let identity = Identity::generate().unwrap();
        identity.save(&path).unwrap();
        assert!(identity.save(&path).is_err(), "a key is never overwritten");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Identity::load(&path).unwrap_err().to_string().contains("chmod 600"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "something else").unwrap();
        assert!(Identity::load_or_create(&path).unwrap_err().to_string().contains("no secret key"));
    }
}
