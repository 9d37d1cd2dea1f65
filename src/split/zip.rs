//! The stored members of a zip archive: PyTorch's `.pt` and NumPy's `.npz` are such archives.
//!
//! Invariant: members are taken from the central directory, and the archive is refused when two of them, or a member and the directory, share
//! a byte. A compressed or encrypted member is no segment, but its place is checked like the others.
//!
//! Format: PKWARE's APPNOTE 6.3.10, sections 4.3 and 4.5.3 (zip64). Archives with bytes before the first member, or on several
//! disks, are opaque.

use crate::chunk::Span;
use crate::limits;

use super::layout::Segment;
use super::npy;
use super::source::{Fields, Refusal, Source};

const END_BYTES: u64 = 22;
const END_MAGIC: [u8; 4] = *b"PK\x05\x06";
const END64_LOCATOR_BYTES: u64 = 20;
const END64_LOCATOR_MAGIC: [u8; 4] = *b"PK\x06\x07";
const END64_BYTES: u64 = 56;
const END64_MAGIC: [u8; 4] = *b"PK\x06\x06";
const ENTRY_MAGIC: [u8; 4] = *b"PK\x01\x02";
const LOCAL_BYTES: u64 = 30;
const LOCAL_MAGIC: [u8; 4] = *b"PK\x03\x04";
const EXTRA_ZIP64: u16 = 1;
const FLAG_ENCRYPTED: u16 = 1;
/// The member of a PyTorch archive that holds the structure; the tensors' bytes are members of `data/` next to it.
const TORCH_PICKLE: &str = "/data.pkl";

/// A member as the directory tells it.
struct Entry {
    name: Option<String>,
    stored: bool,
    local: u64,
    len: u64,
}

pub(super) fn segments(source: &mut Source<'_>) -> Result<Vec<Segment>, Refusal> {
    let directory = find_directory(source)?;
    let bytes = source.bytes(directory.offset, directory.len, limits::ZIP_DIRECTORY_BYTES)?;
    let mut entries = Vec::new();
    let mut fields = Fields(&bytes);
    while !fields.0.is_empty() {
        entries.push(entry(&mut fields).ok_or(Refusal::Malformed)?);
        if entries.len() > limits::SEGMENTS {
            return Err(Refusal::Malformed);
        }
    }
    let torch = entries.iter().filter_map(|entry| entry.name.as_deref()?.strip_suffix(TORCH_PICKLE)).next();
    let storages = torch.map(|prefix| format!("{prefix}/data/"));

    entries.sort_by_key(|entry| entry.local);
    let mut segments = Vec::new();
    let mut end = 0;
    for entry in entries {
        if entry.local < end {
            return Err(Refusal::Malformed);
        }
        let span = member_span(source, &entry)?;
        end = span.offset.checked_add(span.len).ok_or(Refusal::Malformed)?;
        if end > directory.offset {
            return Err(Refusal::Malformed);
        }
        let Some(name) = entry.name.filter(|name| entry.stored && !name.ends_with('/')) else { continue };
        segments.push(segment(source, name, span, storages.as_deref())?);
    }
    Ok(segments)
}

fn segment(source: &mut Source<'_>, name: String, span: Span, storages: Option<&str>) -> Result<Segment, Refusal> {
    if let Some(array_name) = name.strip_suffix(".npy")
        && let Some(array) = npy::array(source, span)?
    {
        let npy::Array { dtype, shape, span } = array;
        return Ok(Segment { name: array_name.to_owned(), dtype, shape, span, tensor: true });
    }
    let tensor = storages.is_some_and(|prefix| name.len() > prefix.len() && name.starts_with(prefix));
    Ok(Segment { name, dtype: String::new(), shape: Vec::new(), span, tensor })
}

/// Where the central directory is, from the record at the archive's end.
fn find_directory(source: &mut Source<'_>) -> Result<Span, Refusal> {
    let tail_len = source.len().min(END_BYTES + u64::from(u16::MAX));
    let tail_at = source.len() - tail_len;
    let tail = source.bytes(tail_at, tail_len, (END_BYTES + u64::from(u16::MAX)) as usize)?;
    let is_end = |at: &usize| {
        let mut fields = Fields(&tail[*at..]);
        fields.array() == Some(END_MAGIC)
            && fields.take(16).is_some()
            && fields.u16().is_some_and(|comment| usize::from(comment) == fields.0.len())
    };
    let last = tail.len().checked_sub(END_BYTES as usize).ok_or(Refusal::Malformed)?;
    let at = (0..=last).rev().find(is_end).ok_or(Refusal::Malformed)?;
    let end_at = tail_at + at as u64;
    let (directory, entries) = match locate_end64(source, end_at)? {
        Some(end64_at) => end64(&source.array::<{ END64_BYTES as usize }>(end64_at)?),
        None => end(&tail[at..]),
    }
    .ok_or(Refusal::Malformed)?;
    let fits = directory.offset.checked_add(directory.len).is_some_and(|end| end <= end_at);
    // Without members there may be no directory at all; that an entry takes 46 bytes bounds their number otherwise.
    if !fits || entries > directory.len / 46 {
        return Err(Refusal::Malformed);
    }
    Ok(directory)
}

/// The directory's place and number of entries from the plain end record.
fn end(record: &[u8]) -> Option<(Span, u64)> {
    let mut fields = Fields(record);
    fields.take(4)?;
    let disks = (fields.u16()?, fields.u16()?);
    let (here, entries) = (fields.u16()?, fields.u16()?);
    let (len, offset) = (fields.u32()?, fields.u32()?);
    (disks == (0, 0) && here == entries).then(|| (Span::new(offset.into(), len.into()), entries.into()))
}

/// The same from the zip64 end record.
fn end64(record: &[u8]) -> Option<(Span, u64)> {
    let mut fields = Fields(record);
    if fields.array()? != END64_MAGIC {
        return None;
    }
    fields.take(12)?;
    let disks = (fields.u32()?, fields.u32()?);
    let (here, entries) = (fields.u64()?, fields.u64()?);
    let (len, offset) = (fields.u64()?, fields.u64()?);
    (disks == (0, 0) && here == entries).then(|| (Span::new(offset, len), entries))
}

/// Where the zip64 end record is, if the archive has one: a locator right before the plain record tells.
fn locate_end64(source: &mut Source<'_>, end_at: u64) -> Result<Option<u64>, Refusal> {
    let Some(at) = end_at.checked_sub(END64_LOCATOR_BYTES) else { return Ok(None) };
    let locator: [u8; END64_LOCATOR_BYTES as usize] = source.array(at)?;
    let mut fields = Fields(&locator);
    if fields.array() != Some(END64_LOCATOR_MAGIC) {
        return Ok(None);
    }
    fields.u32();
    let end64_at = fields.u64().filter(|end64_at| end64_at.checked_add(END64_BYTES).is_some_and(|end| end <= at));
    end64_at.map(Some).ok_or(Refusal::Malformed)
}

/// The next entry of the directory.
fn entry(fields: &mut Fields<'_>) -> Option<Entry> {
    if fields.array()? != ENTRY_MAGIC {
        return None;
    }
    fields.take(4)?;
    let (flags, method) = (fields.u16()?, fields.u16()?);
    fields.take(8)?;
    let (packed, plain) = (fields.u32()?, fields.u32()?);
    let (name_len, extra_len, comment_len) = (fields.u16()?, fields.u16()?, fields.u16()?);
    fields.take(8)?;
    let local = fields.u32()?;
    let name = fields.take(name_len.into())?;
    let extra = fields.take(extra_len.into())?;
    fields.take(comment_len.into())?;

    let mut zip64 = Fields(zip64_extra(extra).unwrap_or_default());
    let mut widen = |short: u32| if short == u32::MAX { zip64.u64() } else { Some(short.into()) };
    let (plain, packed, local) = (widen(plain)?, widen(packed)?, widen(local)?);
    let stored = method == 0 && flags & FLAG_ENCRYPTED == 0;
    if stored && plain != packed {
        return None;
    }
    // A name in an old code page gives a gap, not a segment whose name would be a guess.
    let name = std::str::from_utf8(name).ok().map(str::to_owned);
    Some(Entry { name, stored, local, len: packed })
}

/// The content of the zip64 field among an entry's extra fields.
fn zip64_extra(extra: &[u8]) -> Option<&[u8]> {
    let mut fields = Fields(extra);
    loop {
        let (id, len) = (fields.u16()?, fields.u16()?);
        let content = fields.take(len.into())?;
        if id == EXTRA_ZIP64 {
            return Some(content);
        }
    }
}

/// Where a member's bytes are: only its local header tells how long that header is.
fn member_span(source: &mut Source<'_>, entry: &Entry) -> Result<Span, Refusal> {
    let header: [u8; LOCAL_BYTES as usize] = source.array(entry.local)?;
    let mut fields = Fields(&header);
    if fields.array() != Some(LOCAL_MAGIC) {
        return Err(Refusal::Malformed);
    }
    fields.take(22);
    let (name_len, extra_len) = (fields.u16().unwrap_or(0), fields.u16().unwrap_or(0));
    // `array` has checked that the fixed part lies inside the payload, so this cannot overflow.
    let start = entry.local + LOCAL_BYTES + u64::from(name_len) + u64::from(extra_len);
    Ok(Span::new(start, entry.len))
}
