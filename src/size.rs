//! Numbers of bytes as people write them in `config.toml`: a number, or a text like `64 MiB` or `1.5GB`.

use bytesize::ByteSize;
use serde::de::{Deserialize, Deserializer, Error};

/// Reads a number of bytes; for a field of any integer type.
pub(crate) fn deserialize<'de, D: Deserializer<'de>, T: TryFrom<u64>>(from: D) -> Result<T, D::Error> {
    let ByteSize(bytes) = ByteSize::deserialize(from)?;
    T::try_from(bytes).map_err(|_| D::Error::custom(format!("{bytes} bytes are more than this machine can count")))
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
        for text in ["-1", "\"-1\"", "\"64 apples\"", "\"\"", "1.5", "true"] {
            let why = read(text).unwrap_err().to_string();
            assert!(why.contains("bytes = "), "{text}: {why}");
        }
    }
}
