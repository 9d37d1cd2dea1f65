//! Walking the records of a pack in order, past damage where there is any.

use std::ops::Range;

use crate::backend::ObjectReader;
use crate::error::Result;
use crate::store::pack::{
    PACK_HEADER_BYTES, RECORD_HEADER_BYTES, RecordError, RecordHeader, find_record, parse_record,
};

/// Bytes that are read at a time.
const WINDOW_BYTES: usize = 4 << 20;

/// What lies at one place of a pack.
#[derive(Debug)]
pub(super) enum Found<'a> {
    /// A record whose two checksums match; `bytes` is all of it, header included.
    Record { offset: u64, header: RecordHeader, payload: &'a [u8], bytes: &'a [u8] },
    /// Bytes from `offset` to `end` that are no record.
    Damage { offset: u64, end: u64, why: RecordError },
}

/// Whether to go on with the walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Walk {
    Continue,
    Stop,
}

/// Calls `visit` for each record, and each stretch of damage, in bytes `range` of a pack. Records start below 4 GiB: no pack of
/// ours grows that long, and what lies behind cannot be named.
///
/// After a damaged payload the walk goes on where its header says that the record ends, which no payload can feign; after a damaged
/// header, at the next bytes that are a sound one.
pub(super) fn walk_pack(
    reader: &dyn ObjectReader,
    range: Range<u64>,
    read_error: impl Fn(std::io::Error) -> crate::Error,
    mut visit: impl FnMut(Found<'_>) -> Result<Walk>,
) -> Result<()> {
    let len = range.end.min(u32::MAX.into());
    let mut offset = range.start.max(PACK_HEADER_BYTES as u64);
    let mut window = Window { reader, start: 0, bytes: Vec::new() };
    while offset < len {
        let bytes = window.at(offset, RECORD_HEADER_BYTES, len).map_err(&read_error)?;
        let bytes = match RecordHeader::decode(bytes) {
            Ok(header) => window.at(offset, header.record_len() as usize, len).map_err(&read_error)?,
            Err(_) => bytes,
        };
        let (end, found) = match parse_record(bytes) {
            Ok((header, payload)) => {
                let bytes = bytes.get(..header.record_len() as usize).unwrap_or(bytes);
                (offset + header.record_len(), Found::Record { offset, header, payload, bytes })
            }
            Err(why) => {
                let end = match RecordHeader::decode(bytes) {
                    Ok(header) if why == RecordError::Payload => offset + header.record_len(),
                    _ => next_record(&mut window, offset + 1, len).map_err(&read_error)?,
                };
                (end, Found::Damage { offset, end, why })
            }
        };
        if visit(found)? == Walk::Stop {
            return Ok(());
        }
        offset = end;
    }
    Ok(())
}

/// The first place at or after `from` where a sound record header starts, or the pack's end.
fn next_record(window: &mut Window<'_>, from: u64, len: u64) -> std::io::Result<u64> {
    let mut offset = from;
    while offset < len {
        let bytes = window.at(offset, RECORD_HEADER_BYTES, len)?;
        if bytes.is_empty() {
            // The pack became shorter meanwhile.
            break;
        }
        let mut at = 0;
        while let Some(candidate) = find_record(bytes, at) {
            let rest = &bytes[candidate..];
            if rest.len() < RECORD_HEADER_BYTES && offset + (bytes.len() as u64) < len {
                break;
            }
            if RecordHeader::decode(rest).is_ok() {
                return Ok(offset + candidate as u64);
            }
            at = candidate + 1;
        }
        // A header may straddle the window's end.
        offset += (bytes.len() as u64).saturating_sub(RECORD_HEADER_BYTES as u64 - 1).max(1);
    }
    Ok(len)
}

struct Window<'r> {
    reader: &'r dyn ObjectReader,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// The bytes from `offset` on: at least `need` of them, or all up to `len`.
    fn at(&mut self, offset: u64, need: usize, len: u64) -> std::io::Result<&[u8]> {
        let wanted = (len - offset).min(need as u64) as usize;
        let held = offset >= self.start && offset + wanted as u64 <= self.start + self.bytes.len() as u64;
        if !held {
            let take = (len - offset).min(need.max(WINDOW_BYTES) as u64) as usize;
            self.bytes.resize(take, 0);
            self.start = offset;
            let n = self.reader.read_at(offset, &mut self.bytes)?;
            self.bytes.truncate(n);
        }
        let at = usize::try_from(offset - self.start).unwrap_or(usize::MAX);
        Ok(self.bytes.get(at..).unwrap_or_default())
    }
}
