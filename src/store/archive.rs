//! Records outside a pack: the bytes of an archive that one version is exported to.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::chunk::Codec;
use crate::codec::Decoder;
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::limits;
use crate::store::pack::{RECORD_HEADER_BYTES, RecordHeader, RecordKind};

const ARCHIVE_MAGIC: [u8; 8] = *b"caskarch";
const ARCHIVE_VERSION: u32 = 1;

/// The first bytes of an archive.
pub fn archive_header() -> [u8; 16] {
    let mut header = [0; 16];
    header[..8].copy_from_slice(&ARCHIVE_MAGIC);
    header[8..12].copy_from_slice(&ARCHIVE_VERSION.to_le_bytes());
    header
}

/// A record of an archive, its checksums verified. Its hash is checked by [`plain`](ArchiveRecord::plain).
#[derive(Debug)]
pub struct ArchiveRecord {
    /// Chunk or manifest.
    pub kind: RecordKind,
    /// How `payload` is encoded.
    pub codec: Codec,
    /// Plain bytes.
    pub plain_len: u32,
    /// BLAKE3 of the plain bytes.
    pub hash: Hash,
    /// The encoded bytes.
    pub payload: Vec<u8>,
}

impl ArchiveRecord {
    /// The plain bytes, verified against the hash; or what is wrong with them.
    pub fn plain(&self, decoder: &mut Decoder) -> Result<Vec<u8>, String> {
        let len = self.plain_len as usize;
        let mut plain = Vec::new();
        match (self.kind, self.codec) {
            (RecordKind::Manifest, Codec::Raw) => plain.clone_from(&self.payload),
            (RecordKind::Manifest, _) => {
                plain = decoder.decode_frame(&self.payload, len).map_err(|why| why.to_string())?
            }
            _ => decoder.decode(self.codec, &self.payload, len, None, &mut plain).map_err(|why| why.to_string())?,
        }
        match plain.len() == len && Hash::of(&plain) == self.hash {
            true => Ok(plain),
            false => Err("its bytes do not match its hash".to_owned()),
        }
    }
}

/// Reads the records of an archive in order.
#[derive(Debug)]
pub struct ArchiveReader<R> {
    source: R,
    name: PathBuf,
    bytes_read: u64,
}

impl<R: Read> ArchiveReader<R> {
    /// Checks the header of the archive that `source` gives; `name` is what errors call it.
    pub fn open(source: R, name: &Path) -> Result<ArchiveReader<R>> {
        let mut reader = ArchiveReader { source, name: name.to_owned(), bytes_read: 0 };
        let mut header = [0; 16];
        if reader.fill(&mut header)? < header.len() || header[..8] != ARCHIVE_MAGIC {
            return Err(reader.damaged("it is no archive of caskad"));
        }
        match u32::from_le_bytes([header[8], header[9], header[10], header[11]]) {
            ARCHIVE_VERSION => Ok(reader),
            found => Err(Error::NewerFormat { path: reader.name, found, supported: ARCHIVE_VERSION }),
        }
    }

    /// The next record; `None` at the end.
    pub fn next_record(&mut self) -> Result<Option<ArchiveRecord>> {
        let mut head = [0; RECORD_HEADER_BYTES];
        match self.fill(&mut head)? {
            0 => return Ok(None),
            RECORD_HEADER_BYTES => {}
            _ => return Err(self.damaged("it is cut short; copy it again")),
        }
        let header = RecordHeader::decode(&head).map_err(|why| self.damaged(&why.to_string()))?;
        if header.has_base || !matches!(header.kind, RecordKind::Chunk | RecordKind::Manifest) {
            return Err(self.damaged("it holds a record that does not belong into an archive"));
        }
        // The header's lengths are within limits, and what is read grows only with what is there.
        let mut payload = Vec::new();
        let stored_len = u64::from(header.stored_len);
        payload.reserve((header.stored_len as usize).min(limits::ENCODED_CHUNK_BYTES));
        (&mut self.source)
            .take(stored_len)
            .read_to_end(&mut payload)
            .map_err(|error| Error::io("read", &self.name, error))?;
        self.bytes_read += payload.len() as u64;
        if payload.len() as u64 != stored_len {
            return Err(self.damaged("it is cut short; copy it again"));
        }
        if crc32c::crc32c(&payload) != header.payload_crc {
            return Err(self.damaged(&format!("the record of {} is damaged; copy it again", header.hash.short())));
        }
        let RecordHeader { kind, codec, plain_len, hash, .. } = header;
        Ok(Some(ArchiveRecord { kind, codec, plain_len, hash, payload }))
    }

    /// Bytes taken from the source so far.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.source.read(rest) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("read", &self.name, error)),
            }
        }
        self.bytes_read += filled as u64;
        Ok(filled)
    }

    fn damaged(&self, why: &str) -> Error {
        Error::Damaged { what: "archive", place: self.name.display().to_string(), why: why.to_owned() }
    }
}
