//! Numbers of bytes as people write them, in `config.toml` and as flags: a number, or a text like `64 MiB` or `1.5GB`.

use std::fmt;
use std::marker::PhantomData;

use bytesize::ByteSize;
use serde::de::{Deserializer, Error, Visitor};

/// The number of bytes that `text` says, as any integer type; else why it is none.
pub fn parse<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let ByteSize(bytes) = text.parse()?;
    // Where the library counts no further.
    if bytes == u64::MAX {
        return Err("it is more than this machine can count".to_owned());
    }
    if bytes == 0 && text.contains(|c: char| matches!(c, '1'..='9')) {
        return Err("it is less than a byte".to_owned());
    }
    fitting(bytes)
}

fn fitting<T: TryFrom<u64>>(bytes: u64) -> Result<T, String> {
    T::try_from(bytes).map_err(|_| format!("{bytes} bytes are more than this machine can count"))
}

/// Reads a number of bytes; for a field of any integer type.
pub(crate) fn deserialize<'de, D: Deserializer<'de>, T: TryFrom<u64>>(from: D) -> Result<T, D::Error> {
    from.deserialize_any(Bytes(PhantomData))
}

struct Bytes<T>(PhantomData<T>);

impl<T: TryFrom<u64>> Visitor<'_> for Bytes<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of bytes, or a text like \"64 MiB\"")
    }

    fn visit_u64<E: Error>(self, bytes: u64) -> Result<T, E> {
        fitting(bytes).map_err(E::custom)
    }

    fn visit_i64<E: Error>(self, bytes: i64) -> Result<T, E> {
        let bytes = u64::try_from(bytes).map_err(|_| E::custom("it is less than nothing"))?;
        self.visit_u64(bytes)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        parse(text).map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Setting {
        #[serde(deserialize_with = "super::deserialize")]
        bytes: u64,
    }

    #[test]
    fn sizes_are_numbers_or_have_units() {
        let read = |text: &str| toml::from_str::<Setting>(&format!("bytes = {text}")).map(|setting| setting.bytes);
        for (text, bytes) in [
            ("0", 0),
            ("274_877_906_944", 256 << 30),
            ("\"1000\"", 1000),
            ("\"64 MiB\"", 64 << 20),
            ("\"64MiB\"", 64 << 20),
            ("\"1.5GB\"", 1_500_000_000),
        ] {
            assert_eq!(read(text).unwrap(), bytes, "{text}");
        }
        for text in
            ["-1", "\"-1\"", "\"0.5\"", "\"0.1 B\"", "\"64 apples\"", "\"\"", "1.5", "true", "\"99999999999 EiB\""]
        {
            let why = read(text).unwrap_err().to_string();
            assert!(why.contains("bytes = "), "{text}: {why}");
        }
    }
}
