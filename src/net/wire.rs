//! The frames of `/caskad/chunk/1`, byte for byte. Pure: bytes in, frames out. `docs/protocol.md` is the specification.
//!
//! A frame is its length (4 bytes, of what follows), its kind (1 byte) and its fields. Numbers are little-endian, hashes and keys 32
//! bytes. Both sides send [`Hello`](Frame::Hello) first. Then the side that opened the stream asks and the other answers, each answer
//! with the number of its request, in the order of the requests.
//!
//! Invariant: [`Frame::decode`] takes only what [`Frame::encode`] writes, and allocates no more than the frame is long.

use crate::chunk::{Codec, LeaseTerms, Parcel};
use crate::hash::Hash;
use crate::limits;

/// The version of the protocol that this caskad speaks.
pub const VERSION: u16 = 1;

const MAGIC: [u8; 4] = *b"cskd";

/// Bytes before the fields: length and kind.
pub const FRAME_HEADER_BYTES: usize = 5;

/// What became of a parcel that was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum PutStatus {
    /// It is stored, durably after the commit.
    Stored = 0,
    /// It was there.
    Known = 1,
    /// Its base is not there: send it encoded to stand alone.
    NeedsBase = 2,
    /// It does not decode to the bytes of its hash.
    Wrong = 3,
    /// The peer's quota, or the disk, is full.
    Full = 4,
    /// Its group belongs to other peers.
    Elsewhere = 5,
}

/// Why a request or a connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Refused {
    /// Another version of the protocol, or none at all.
    Version = 1,
    /// A frame that does not decode, is too long, or came at the wrong time.
    Malformed = 2,
    /// The peer may not do that: the lease of somebody else.
    Forbidden = 3,
    /// A quota is used up.
    Full = 4,
    /// Too many requests at once.
    Busy = 5,
    /// The other side failed: its disk, say.
    Failed = 6,
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Opens the stream, in both directions.
    Hello {
        /// [`VERSION`].
        version: u16,
        /// Requests that the sender of this frame takes at once.
        window: u32,
    },
    /// Request `.0` is refused (0: the stream as a whole, which ends).
    Refuse(u32, Refused, String),
    /// Which of these chunks are there? Answered by `Bits`.
    Have(u32, Vec<Hash>),
    /// One bit a hash, the lowest bit of the first byte first.
    Bits(u32, Vec<bool>),
    /// Opens intake `.0`: what is put into it is kept under a lease.
    Begin(u32, LeaseTerms),
    /// As `Have`; what is there is taken into intake `.1`, each chunk with its home.
    Hold(u32, u32, Vec<(Hash, [u8; 4])>),
    /// Chunks for intake `.1`. Answered by `Taken`.
    Put(u32, u32, Vec<Parcel>),
    /// What became of each.
    Taken(u32, Vec<PutStatus>),
    /// Makes intake `.1` durable and grants its lease. Answered by `Done`.
    Commit(u32, u32),
    /// It is done.
    Done(u32),
    /// Wanted: a chunk, as a difference to one of these bases or to stand alone. Answered by `Data` or `Miss`.
    Get(u32, Hash, Vec<Hash>),
    /// The chunk.
    Data(u32, Parcel),
    /// It is not there.
    Miss(u32),
    /// Extends a lease. Answered by `Lease`.
    Renew(u32, LeaseTerms),
    /// The lease has so many chunks and bytes; none: it is not known.
    Lease(u32, Option<(u64, u64)>),
    /// Ends a lease of the sender's. Answered by `Done`.
    Release(u32, Hash, [u8; 32]),
    /// The chunks under lease in a placement group, those behind a hash. Answered by `Group`.
    List(u32, u16, Hash),
    /// The digest over all of the group's chunks, and some of them in order.
    Group(u32, Hash, Vec<Hash>),
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes end before the frame does.
    #[error("the frame is cut short")]
    Incomplete,
    /// The bytes are no frame.
    #[error("the frame is malformed: {0}")]
    Malformed(&'static str),
    /// The frame announces more bytes than are taken.
    #[error("the frame announces {0} bytes, the most is {max}", max = limits::FRAME_BYTES)]
    TooLong(u32),
}

/// Checks the header of a frame: how many bytes of fields follow, and their kind.
pub fn decode_header(header: [u8; FRAME_HEADER_BYTES]) -> Result<(usize, u8), WireError> {
    let [a, b, c, d, kind] = header;
    let len = u32::from_le_bytes([a, b, c, d]);
    match len {
        0 => Err(WireError::Malformed("it has no kind")),
        _ if len as usize > limits::FRAME_BYTES => Err(WireError::TooLong(len)),
        _ => Ok((len as usize - 1, kind)),
    }
}

/// The kind of a [`Frame::Data`].
const DATA: u8 = 25;

impl Frame {
    /// The number of the request that the frame is or answers.
    pub fn request(&self) -> u32 {
        match self {
            Frame::Hello { .. } => 0,
            Frame::Refuse(request, ..)
            | Frame::Have(request, _)
            | Frame::Bits(request, _)
            | Frame::Begin(request, _)
            | Frame::Hold(request, ..)
            | Frame::Put(request, ..)
            | Frame::Taken(request, _)
            | Frame::Commit(request, _)
            | Frame::Done(request)
            | Frame::Get(request, ..)
            | Frame::Data(request, _)
            | Frame::Miss(request)
            | Frame::Renew(request, _)
            | Frame::Lease(request, _)
            | Frame::Release(request, ..)
            | Frame::List(request, ..)
            | Frame::Group(request, ..) => *request,
        }
    }

    fn kind(&self) -> u8 {
        match self {
            Frame::Hello { .. } => 1,
            Frame::Refuse(..) => 2,
            Frame::Have(..) => 16,
            Frame::Bits(..) => 17,
            Frame::Begin(..) => 18,
            Frame::Hold(..) => 19,
            Frame::Put(..) => 20,
            Frame::Taken(..) => 21,
            Frame::Commit(..) => 22,
            Frame::Done(..) => 23,
            Frame::Get(..) => 24,
            Frame::Data(..) => DATA,
            Frame::Miss(..) => 26,
            Frame::Renew(..) => 27,
            Frame::Lease(..) => 28,
            Frame::Release(..) => 29,
            Frame::List(..) => 30,
            Frame::Group(..) => 31,
        }
    }

    /// Appends the frame's bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode_frame(self.kind(), out, |out| {
            if !matches!(self, Frame::Hello { .. }) {
                out.extend_from_slice(&self.request().to_le_bytes());
            }
            self.encode_fields(out);
        });
    }

    fn encode_fields(&self, out: &mut Vec<u8>) {
        match self {
            Frame::Hello { version, window } => {
                out.extend_from_slice(&MAGIC);
                out.extend_from_slice(&version.to_le_bytes());
                out.extend_from_slice(&window.to_le_bytes());
            }
            Frame::Refuse(_, code, why) => {
                out.extend_from_slice(&(*code as u16).to_le_bytes());
                out.extend_from_slice(clipped(why).as_bytes());
            }
            Frame::Have(_, hashes) => encode_hashes(hashes, out),
            Frame::Bits(_, bits) => {
                out.extend_from_slice(&(bits.len() as u32).to_le_bytes());
                out.extend(bits.chunks(8).map(|eight| {
                    eight.iter().enumerate().fold(0, |byte, (place, &bit)| byte | (u8::from(bit) << place))
                }));
            }
            Frame::Begin(_, terms) | Frame::Renew(_, terms) => encode_terms(terms, out),
            Frame::Hold(_, intake, chunks) => {
                out.extend_from_slice(&intake.to_le_bytes());
                for (hash, home) in chunks {
                    out.extend_from_slice(hash.as_bytes());
                    out.extend_from_slice(home);
                }
            }
            Frame::Put(_, intake, parcels) => {
                out.extend_from_slice(&intake.to_le_bytes());
                parcels.iter().for_each(|parcel| encode_parcel(parcel, out));
            }
            Frame::Taken(_, statuses) => out.extend(statuses.iter().map(|status| *status as u8)),
            Frame::Commit(_, intake) => out.extend_from_slice(&intake.to_le_bytes()),
            Frame::Done(_) | Frame::Miss(_) => {}
            Frame::Get(_, hash, bases) => {
                out.extend_from_slice(hash.as_bytes());
                encode_hashes(bases, out);
            }
            Frame::Data(_, parcel) => encode_parcel(parcel, out),
            Frame::Lease(_, summary) => {
                if let Some((chunks, bytes)) = summary {
                    out.extend_from_slice(&chunks.to_le_bytes());
                    out.extend_from_slice(&bytes.to_le_bytes());
                }
            }
            Frame::Release(_, manifest, owner) => {
                out.extend_from_slice(manifest.as_bytes());
                out.extend_from_slice(owner);
            }
            Frame::List(_, group, behind) => {
                out.extend_from_slice(&group.to_le_bytes());
                out.extend_from_slice(behind.as_bytes());
            }
            Frame::Group(_, digest, hashes) => {
                out.extend_from_slice(digest.as_bytes());
                encode_hashes(hashes, out);
            }
        }
    }

    /// The frame of kind `kind` with these fields.
    pub fn decode(kind: u8, fields: &[u8]) -> Result<Frame, WireError> {
        let mut rest = Rest(fields);
        if kind == 1 {
            if rest.take::<4>()? != MAGIC {
                return Err(WireError::Malformed("it does not start as this protocol does"));
            }
            let (version, window) = (u16::from_le_bytes(rest.take()?), rest.number()?);
            return rest.end(Frame::Hello { version, window });
        }
        let request = rest.number()?;
        let frame = match kind {
            2 => Frame::Refuse(request, refused(u16::from_le_bytes(rest.take()?))?, rest.text()?),
            16 => Frame::Have(request, rest.hashes()?),
            17 => Frame::Bits(request, rest.bits()?),
            18 => Frame::Begin(request, rest.terms()?),
            19 => Frame::Hold(
                request,
                rest.number()?,
                rest.all(limits::HAVE_HASHES, |rest| Ok((rest.hash()?, rest.take()?)))?,
            ),
            20 => Frame::Put(request, rest.number()?, rest.all(limits::PUT_PARCELS, Rest::parcel)?),
            21 => Frame::Taken(request, rest.all(limits::PUT_PARCELS, Rest::status)?),
            22 => Frame::Commit(request, rest.number()?),
            23 => Frame::Done(request),
            24 => Frame::Get(request, rest.hash()?, rest.bases()?),
            DATA => Frame::Data(request, rest.parcel()?),
            26 => Frame::Miss(request),
            27 => Frame::Renew(request, rest.terms()?),
            28 if rest.0.is_empty() => Frame::Lease(request, None),
            28 => Frame::Lease(request, Some((u64::from_le_bytes(rest.take()?), u64::from_le_bytes(rest.take()?)))),
            29 => Frame::Release(request, rest.hash()?, rest.take()?),
            30 => Frame::List(request, rest.group()?, rest.hash()?),
            31 => Frame::Group(request, rest.hash()?, rest.hashes()?),
            _ => return Err(WireError::Malformed("its kind is unknown")),
        };
        rest.end(frame)
    }
}

/// Appends a frame of kind `kind`, whose request and fields `fields` appends.
fn encode_frame(kind: u8, out: &mut Vec<u8>, fields: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
    fields(out);
    let len = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
    out[start + 4] = kind;
}

/// Appends a [`Frame::Data`] with a parcel that lies elsewhere.
pub fn encode_data(request: u32, parcel: &Parcel<&[u8]>, out: &mut Vec<u8>) {
    encode_frame(DATA, out, |out| {
        out.extend_from_slice(&request.to_le_bytes());
        encode_parcel(parcel, out);
    });
}

fn encode_hashes(hashes: &[Hash], out: &mut Vec<u8>) {
    hashes.iter().for_each(|hash| out.extend_from_slice(hash.as_bytes()));
}

fn encode_terms(terms: &LeaseTerms, out: &mut Vec<u8>) {
    out.extend_from_slice(terms.manifest.as_bytes());
    out.extend_from_slice(&terms.owner);
    out.extend_from_slice(&terms.expires_unix_ms.to_le_bytes());
}

/// A parcel: hash, home, plain length, codec, the base's hash where the codec has one, payload length, payload.
fn encode_parcel<P: AsRef<[u8]>>(parcel: &Parcel<P>, out: &mut Vec<u8>) {
    out.extend_from_slice(parcel.hash.as_bytes());
    out.extend_from_slice(&parcel.home);
    out.extend_from_slice(&parcel.plain_len.to_le_bytes());
    out.push(parcel.codec as u8);
    if let Some(base) = &parcel.base {
        out.extend_from_slice(base.as_bytes());
    }
    let payload = parcel.payload.as_ref();
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(payload);
}

/// Bytes of a parcel in a frame.
pub fn parcel_bytes(parcel: &Parcel) -> usize {
    45 + parcel.base.map_or(0, |_| Hash::LEN) + parcel.payload.len()
}

/// As much of a message as goes into a frame.
fn clipped(text: &str) -> &str {
    let mut end = text.len().min(limits::REFUSAL_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

fn refused(code: u16) -> Result<Refused, WireError> {
    [Refused::Version, Refused::Malformed, Refused::Forbidden, Refused::Full, Refused::Busy, Refused::Failed]
        .into_iter()
        .find(|known| *known as u16 == code)
        .ok_or(WireError::Malformed("its error code is unknown"))
}

/// The fields of a frame that were not read yet.
struct Rest<'f>(&'f [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(WireError::Incomplete)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn number(&mut self) -> Result<u32, WireError> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    fn hash(&mut self) -> Result<Hash, WireError> {
        Ok(Hash::from_bytes(self.take()?))
    }

    /// Items to the end of the frame, `most` of them at most.
    fn all<T>(&mut self, most: usize, read: impl Fn(&mut Self) -> Result<T, WireError>) -> Result<Vec<T>, WireError> {
        let mut items = Vec::new();
        while !self.0.is_empty() {
            if items.len() == most {
                return Err(WireError::Malformed("it has too many items"));
            }
            items.push(read(self)?);
        }
        Ok(items)
    }

    fn hashes(&mut self) -> Result<Vec<Hash>, WireError> {
        self.all(limits::HAVE_HASHES, Rest::hash)
    }

    fn bases(&mut self) -> Result<Vec<Hash>, WireError> {
        self.all(limits::GET_BASES, Rest::hash)
    }

    fn bits(&mut self) -> Result<Vec<bool>, WireError> {
        let count = self.number()? as usize;
        if count > limits::HAVE_HASHES || self.0.len() != count.div_ceil(8) {
            return Err(WireError::Malformed("its bits are not as many as it says"));
        }
        let bits = (0..count).map(|at| self.0.get(at / 8).is_some_and(|byte| byte >> (at % 8) & 1 == 1)).collect();
        let unused = if count.is_multiple_of(8) { 0 } else { self.0.last().map_or(0, |last| last >> (count % 8)) };
        if unused != 0 {
            return Err(WireError::Malformed("it has bits beyond its count"));
        }
        self.0 = &[];
        Ok(bits)
    }

    fn terms(&mut self) -> Result<LeaseTerms, WireError> {
        let (manifest, owner) = (self.hash()?, self.take()?);
        Ok(LeaseTerms { manifest, owner, expires_unix_ms: u64::from_le_bytes(self.take()?) })
    }

    fn group(&mut self) -> Result<u16, WireError> {
        let group = u16::from_le_bytes(self.take()?);
        if group >> 12 == 0 { Ok(group) } else { Err(WireError::Malformed("there is no such placement group")) }
    }

    fn status(&mut self) -> Result<PutStatus, WireError> {
        let [code] = self.take()?;
        [
            PutStatus::Stored,
            PutStatus::Known,
            PutStatus::NeedsBase,
            PutStatus::Wrong,
            PutStatus::Full,
            PutStatus::Elsewhere,
        ]
        .into_iter()
        .find(|known| *known as u8 == code)
        .ok_or(WireError::Malformed("its status is unknown"))
    }

    fn parcel(&mut self) -> Result<Parcel, WireError> {
        let (hash, home, plain_len, [codec]) = (self.hash()?, self.take()?, self.number()?, self.take()?);
        let codec = Codec::from_byte(codec).ok_or(WireError::Malformed("its encoding is unknown"))?;
        let base = if codec.has_base() { Some(self.hash()?) } else { None };
        let len = self.number()? as usize;
        if len > limits::ENCODED_CHUNK_BYTES || plain_len as usize > limits::CHUNK_BYTES {
            return Err(WireError::Malformed("a chunk is longer than chunks are"));
        }
        let (payload, rest) = self.0.split_at_checked(len).ok_or(WireError::Incomplete)?;
        self.0 = rest;
        Ok(Parcel { hash, home, plain_len, codec, base, payload: payload.to_vec() })
    }

    fn text(&mut self) -> Result<String, WireError> {
        let bytes = std::mem::take(&mut self.0);
        if bytes.len() > limits::REFUSAL_BYTES {
            return Err(WireError::Malformed("its message is too long"));
        }
        String::from_utf8(bytes.to_vec()).map_err(|_| WireError::Malformed("its message is not text"))
    }

    fn end(&self, frame: Frame) -> Result<Frame, WireError> {
        if self.0.is_empty() { Ok(frame) } else { Err(WireError::Malformed("bytes follow its end")) }
    }
}
