//! The payload of [`Codec::Planes`](crate::chunk::Codec::Planes): a chunk's elements as byte planes.
//!
//! Byte map, version 1, numbers little-endian; *w* is the element width, *n* the number of whole elements:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 1 | *w*: 1, 2, 4 or 8 |
//! | 1 + 5*i* | 1 | mode of plane *i*, for *i* in 0..*w*: 0 constant, 1 raw, 2 one zstd frame; in a delta also 3, rANS (`plane_rans.rs`) |
//! | 2 + 5*i* | 4 | stored length of plane *i* |
//! | 1 + 5*w* | sum of the stored lengths | the planes, in order |
//! | … | plain length mod *w* | the tail: the bytes after the last whole element, as they are |
//!
//! Plane *i* holds byte *i* (the lowest is 0) of every element, elements rotated left by one bit if *w* > 1. A constant plane is
//! stored as its one byte, a raw one as its *n* bytes; a frame decodes to *n* bytes, and so does rANS. Nothing follows the tail.
//!
//! Invariant: reading is strict (lengths add up to the payload, every plane is *n* bytes) and never allocates more than the
//! plain length.

use super::CodecError;
use super::plane::{PlaneMode, PlaneReader, PlaneWriter};
use super::transpose;

/// Bytes of a plane's entry in the header.
const ENTRY_BYTES: usize = 5;

/// Elements that are joined at a time, so that what is done to them next finds them in the first-level cache.
const BLOCK_ELEMENTS: usize = 2048;

/// Widest element.
const MOST_PLANES: usize = 8;

/// Writes payloads.
pub(super) struct PlanesWriter {
    plane: PlaneWriter,
}

impl PlanesWriter {
    /// A writer that takes the time of a thorough [`PlaneWriter`] or not.
    pub(super) fn new(thorough: bool) -> PlanesWriter {
        PlanesWriter { plane: PlaneWriter::new(thorough) }
    }

    /// The same for the planes of a delta.
    pub(super) fn of_delta(thorough: bool) -> PlanesWriter {
        PlanesWriter { plane: PlaneWriter::of_delta(thorough) }
    }

    /// Makes what follows the first `start` bytes of `out` the payload of `plain`, elements of `width` bytes.
    ///
    /// The elements are split right into `out`, where planes that stay as they are already lie in their place. What `out` held is
    /// overwritten, not cleared: only growth needs zeroes.
    pub(super) fn write(&mut self, plain: &[u8], width: usize, start: usize, out: &mut Vec<u8>) {
        let count = plain.len() / width;
        let (elements, tail) = plain.split_at(count * width);
        let entries = start + 1;
        let planes = entries + ENTRY_BYTES * width;
        out.resize(planes + plain.len(), 0);
        out[start] = width as u8;
        transpose::split(width, elements, &mut out[planes..planes + elements.len()]);
        let mut end = planes;
        for i in 0..width {
            let plane = planes + i * count..planes + (i + 1) * count;
            let (mode, coded) = self.plane.code(&out[plane.clone()]);
            // What a plane comes to is never longer than it, so nothing that is still to be read is overwritten.
            let len = match coded {
                Some(coded) => {
                    out[end..end + coded.len()].copy_from_slice(coded);
                    coded.len()
                }
                None => {
                    if plane.start != end {
                        out.copy_within(plane, end);
                    }
                    count
                }
            };
            end += len;
            let entry = entries + ENTRY_BYTES * i;
            out[entry] = mode as u8;
            out[entry + 1..entry + ENTRY_BYTES].copy_from_slice(&(len as u32).to_le_bytes());
        }
        out[end..end + tail.len()].copy_from_slice(tail);
        out.truncate(end + tail.len());
    }
}

/// Reads payloads.
pub(super) struct PlanesReader {
    plane: PlaneReader,
    room: Vec<u8>,
}

impl PlanesReader {
    pub(super) fn new() -> PlanesReader {
        PlanesReader { plane: PlaneReader::new(), room: Vec::new() }
    }

    /// Decodes the payload `stored` into `out`, which it must fill.
    pub(super) fn read(&mut self, stored: &[u8], out: &mut [u8]) -> Result<(), CodecError> {
        self.read_blocks(stored, PlaneMode::from_byte, out, |_, _, _| {})
    }

    /// Decodes the payload `stored` into `out`, which it must fill.
    ///
    /// `mode_of` knows the mode bytes of the codec. Each block of elements is handed to `finish` while it is in the first-level cache, with the element width and its offset.
    pub(super) fn read_blocks(
        &mut self,
        stored: &[u8],
        mode_of: fn(u8) -> Option<PlaneMode>,
        out: &mut [u8],
        mut finish: impl FnMut(usize, usize, &mut [u8]),
    ) -> Result<(), CodecError> {
        let (&[width], stored) = stored.split_first_chunk().ok_or(CodecError::Truncated)?;
        let width = usize::from(width);
        if !matches!(width, 1 | 2 | 4 | 8) {
            return Err(CodecError::Invalid("the element width is not 1, 2, 4 or 8"));
        }
        let count = out.len() / width;
        let (elements, tail) = out.split_at_mut(count * width);
        if self.room.len() < elements.len() {
            self.room.resize(elements.len(), 0);
        }

        let (mut header, mut body) = stored.split_at_checked(ENTRY_BYTES * width).ok_or(CodecError::Truncated)?;
        let mut rooms = self.room.chunks_exact_mut(count.max(1));
        let mut planes = [&[][..]; MOST_PLANES];
        for plane in &mut planes[..width] {
            let (entry, rest) = header.split_first_chunk::<ENTRY_BYTES>().ok_or(CodecError::Truncated)?;
            let [mode, len @ ..] = *entry;
            header = rest;
            let mode = mode_of(mode).ok_or(CodecError::Invalid("unknown mode of a plane"))?;
            let (coded, rest) = body.split_at_checked(u32::from_le_bytes(len) as usize).ok_or(CodecError::Truncated)?;
            body = rest;
            let room = if count == 0 { &mut [][..] } else { rooms.next().unwrap_or_default() };
            *plane = self.plane.read(mode, coded, room)?;
        }
        if body.len() < tail.len() {
            return Err(CodecError::Truncated);
        }
        if body.len() > tail.len() {
            return Err(CodecError::Invalid("bytes follow the last plane"));
        }
        tail.copy_from_slice(body);
        for (i, block) in elements.chunks_mut(BLOCK_ELEMENTS * width).enumerate() {
            let (start, len) = (i * BLOCK_ELEMENTS, block.len() / width);
            let planes = planes.map(|plane| plane.get(start..start + len).unwrap_or_default());
            transpose::join(&planes[..width], block);
            finish(width, start * width, block);
        }
        Ok(())
    }
}
