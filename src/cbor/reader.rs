//! [`Reader`]: deterministic CBOR in. It takes the shortest head and a definite length, or nothing.

use std::fmt::Debug;
use std::str::FromStr;

use ciborium_ll::{Header, simple};

use super::error::DecodeError;
use super::head::{Head, HeadError, Major, pull};
use crate::error::Error;
use crate::hash::Hash;

type Result<T> = std::result::Result<T, DecodeError>;

/// Reads CBOR items one after the other. `what` names the item in errors.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// A reader over `bytes`, which are refused unread if there are more than `limit`.
    pub(crate) fn new(bytes: &'a [u8], limit: usize) -> Result<Reader<'a>> {
        match bytes.len() {
            len if len > limit => Err(DecodeError::TooLarge { len, limit }),
            _ => Ok(Reader { bytes, at: 0 }),
        }
    }

    pub(crate) fn malformed(&self, what: &'static str, why: impl Into<String>) -> DecodeError {
        DecodeError::Malformed { what, offset: self.at, why: why.into() }
    }

    fn take(&mut self, what: &'static str, count: usize) -> Result<&'a [u8]> {
        let taken = self.bytes.get(self.at..).and_then(|rest| rest.get(..count));
        self.at = self.at.saturating_add(count).min(self.bytes.len());
        taken.ok_or(DecodeError::Incomplete { what, len: self.bytes.len() })
    }

    /// The type of the next item, which is not consumed.
    pub(crate) fn peek(&self, what: &'static str) -> Result<Major> {
        let initial = self.bytes.get(self.at).ok_or(DecodeError::Incomplete { what, len: self.bytes.len() })?;
        Ok(Major::of(*initial))
    }

    /// Consumes the next head, in whatever form, and says how long it was.
    fn pull(&mut self, what: &'static str) -> Result<(Header, usize)> {
        match pull(self.bytes.get(self.at..).unwrap_or_default()) {
            Ok((header, len)) => {
                self.at += len;
                Ok((header, len))
            }
            Err(HeadError::Incomplete) => Err(DecodeError::Incomplete { what, len: self.bytes.len() }),
            Err(HeadError::Reserved) => Err(self.malformed(what, "its first byte is reserved in CBOR")),
        }
    }

    fn require_shortest(&self, what: &'static str, header: Header, len: usize, value: impl Debug) -> Result<()> {
        match len > Head::of(header).as_bytes().len() {
            true => Err(self.malformed(what, format!("{value:?} is not in its shortest form"))),
            false => Ok(()),
        }
    }

    /// The number in the head of an item of type `expected`: its value, or its length.
    fn head(&mut self, what: &'static str, expected: Major) -> Result<u64> {
        let found = self.peek(what)?;
        if found != expected {
            return Err(self.malformed(what, format!("expected {expected}, found {found}")));
        }
        let (header, len) = self.pull(what)?;
        let number = match header {
            Header::Positive(number) | Header::Negative(number) | Header::Tag(number) => Some(number),
            Header::Bytes(len) | Header::Text(len) | Header::Array(len) | Header::Map(len) => len.map(|len| len as u64),
            Header::Float(_) | Header::Simple(_) | Header::Break => None,
        };
        let indefinite = "its length is indefinite, only definite lengths are allowed";
        let number = number.ok_or_else(|| self.malformed(what, indefinite))?;
        self.require_shortest(what, header, len, number)?;
        Ok(number)
    }

    fn bounded(&self, what: &'static str, unit: &str, found: u64, limit: usize) -> Result<usize> {
        match usize::try_from(found) {
            Ok(found) if found <= limit => Ok(found),
            _ => Err(self.malformed(what, format!("{found} {unit}, at most {limit} are allowed"))),
        }
    }

    pub(crate) fn uint(&mut self, what: &'static str) -> Result<u64> {
        self.head(what, Major::Unsigned)
    }

    pub(crate) fn int(&mut self, what: &'static str) -> Result<i64> {
        let negative = self.peek(what)? == Major::Negative;
        let argument = self.head(what, if negative { Major::Negative } else { Major::Unsigned })?;
        match i64::try_from(argument) {
            Ok(value) => Ok(if negative { !value } else { value }),
            Err(_) => Err(self.malformed(what, "the integer does not fit 64 bits with a sign")),
        }
    }

    pub(crate) fn bytes(&mut self, what: &'static str, limit: usize) -> Result<&'a [u8]> {
        let len = self.head(what, Major::Bytes)?;
        let len = self.bounded(what, "bytes", len, limit)?;
        self.take(what, len)
    }

    pub(crate) fn byte_array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N]> {
        let bytes = self.bytes(what, N)?;
        bytes.try_into().map_err(|_| self.malformed(what, format!("{} bytes, it takes {N}", bytes.len())))
    }

    pub(crate) fn hash(&mut self, what: &'static str) -> Result<Hash> {
        self.byte_array(what).map(Hash::from_bytes)
    }

    pub(crate) fn text(&mut self, what: &'static str, limit: usize) -> Result<&'a str> {
        let len = self.head(what, Major::Text)?;
        let len = self.bounded(what, "bytes", len, limit)?;
        let bytes = self.take(what, len)?;
        std::str::from_utf8(bytes).map_err(|_| self.malformed(what, "the text is not UTF-8"))
    }

    /// A text that is left out where it is empty.
    pub(crate) fn non_empty_text(&mut self, what: &'static str, limit: usize) -> Result<&'a str> {
        match self.text(what, limit)? {
            "" => Err(self.malformed(what, "an empty text, it is left out instead")),
            text => Ok(text),
        }
    }

    /// A text that has rules of its own.
    pub(crate) fn parsed<T: FromStr<Err = Error>>(&mut self, what: &'static str, limit: usize) -> Result<T> {
        let text = self.text(what, limit)?;
        text.parse().map_err(|error: Error| self.malformed(what, error.to_string()))
    }

    pub(crate) fn boolean(&mut self, what: &'static str) -> Result<bool> {
        let found = self.peek(what)?;
        let (header, len) = self.pull(what)?;
        let value = match header {
            Header::Simple(simple::FALSE) => false,
            Header::Simple(simple::TRUE) => true,
            _ => return Err(self.malformed(what, format!("expected true or false, found {found}"))),
        };
        self.require_shortest(what, header, len, value)?;
        Ok(value)
    }

    /// A flag that is left out where it is false.
    pub(crate) fn only_true(&mut self, what: &'static str) -> Result<bool> {
        match self.boolean(what)? {
            true => Ok(true),
            false => Err(self.malformed(what, "it is false, it is left out instead")),
        }
    }

    pub(crate) fn float(&mut self, what: &'static str) -> Result<f64> {
        let found = self.peek(what)?;
        let (header, len) = self.pull(what)?;
        let Header::Float(value) = header else {
            return Err(self.malformed(what, format!("expected a float, found {found}")));
        };
        if !value.is_finite() {
            return Err(self.malformed(what, "the float is not finite"));
        }
        self.require_shortest(what, header, len, value)?;
        Ok(value)
    }

    /// The number of items in the array that starts here. Each takes a byte or more, so a claim of more items than
    /// there are bytes left is refused before anyone makes room for them.
    pub(crate) fn array(&mut self, what: &'static str, limit: usize) -> Result<usize> {
        let items = self.head(what, Major::Array)?;
        let items = self.bounded(what, "items", items, limit)?;
        self.claim(what, items)
    }

    /// The number of entries in the map that starts here.
    pub(crate) fn map(&mut self, what: &'static str, limit: usize) -> Result<usize> {
        let entries = self.head(what, Major::Map)?;
        let entries = self.bounded(what, "entries", entries, limit)?;
        self.claim(what, entries.saturating_mul(2)).map(|_| entries)
    }

    fn claim(&self, what: &'static str, items: usize) -> Result<usize> {
        match items > self.bytes.len() - self.at {
            true => Err(DecodeError::Incomplete { what, len: self.bytes.len() }),
            false => Ok(items),
        }
    }

    /// The fields of the map that starts here; its keys are small numbers.
    pub(crate) fn fields(&mut self, what: &'static str) -> Result<Fields> {
        const MOST: usize = 64;
        Fields::new(self, what, MOST)
    }

    /// Nothing may follow the last item.
    pub(crate) fn finish(&self, what: &'static str) -> Result<()> {
        match self.bytes.len() - self.at {
            0 => Ok(()),
            more => Err(self.malformed(what, format!("{more} trailing bytes follow its end"))),
        }
    }
}

/// Walks a map whose keys are numbers.
pub(crate) struct Fields {
    what: &'static str,
    left: usize,
    last: Option<u64>,
}

impl Fields {
    pub(crate) fn new(reader: &mut Reader<'_>, what: &'static str, limit: usize) -> Result<Fields> {
        Ok(Fields { what, left: reader.map(what, limit)?, last: None })
    }

    /// The number of the next field, whose value is to be read next.
    pub(crate) fn next(&mut self, reader: &mut Reader<'_>) -> Result<Option<u64>> {
        if self.left == 0 {
            return Ok(None);
        }
        let field = reader.uint(self.what)?;
        match self.last {
            Some(last) if last == field => {
                return Err(reader.malformed(self.what, format!("field {field} is there twice")));
            }
            Some(last) if last > field => {
                return Err(reader.malformed(self.what, format!("field {field} is out of order after field {last}")));
            }
            _ => {}
        }
        self.left -= 1;
        self.last = Some(field);
        Ok(Some(field))
    }

    /// The first field of a format: its version, known before anything that another version may hold otherwise.
    pub(crate) fn version(&mut self, reader: &mut Reader<'_>, supported: u64) -> Result<()> {
        if self.next(reader)? != Some(0) {
            return Err(reader.malformed(self.what, "it does not start with its format version"));
        }
        match reader.uint("format version")? {
            found if found > supported => Err(DecodeError::NewerVersion { found, supported }),
            0 => Err(reader.malformed(self.what, "there is no format version 0")),
            _ => Ok(()),
        }
    }

    pub(crate) fn unknown<T>(&self, reader: &Reader<'_>, field: u64) -> Result<T> {
        Err(reader.malformed(self.what, format!("field {field} is unknown")))
    }

    pub(crate) fn required<T>(&self, reader: &Reader<'_>, value: Option<T>, name: &str) -> Result<T> {
        value.ok_or_else(|| reader.malformed(self.what, format!("its {name} is missing")))
    }
}
