//! Payloads of no recognised format that change in place: an ONNX model, a memory image, a dump of arrays after another step of training.
//!
//! Content-defined cuts serve bytes that move. Where bytes change and stay where they are, those cuts fall elsewhere in each version and no
//! chunk has a counterpart. So a payload of the same length as an earlier version of the same file is probed: where most of a few chunks
//! are equal, or smaller as differences, the earlier cut points are forced, and each chunk faces the one in its place.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::chunk::{ChunkRef, ElementWidth, Span};
use crate::codec::{Effort, Encoder};
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::limits;
use crate::node::base::{Bases, Facing, placed};
use crate::split::{CutSizes, Run};
use crate::store::Session;

/// Chunks that are probed, and how many of them must have stayed or be smaller as differences.
const PROBES: (usize, usize) = (12, 9);

/// Where such a payload is cut, and what its chunks face.
pub(super) struct InPlace {
    pub(super) runs: Vec<Run>,
    pub(super) facing: Facing,
}

impl InPlace {
    /// Compares `file`, of `len` bytes and no format, with the earlier versions of the file at `path`. `None` where it does not change in
    /// place.
    pub(super) fn find(
        bases: &mut Bases<'_>,
        session: &Session,
        file: &File,
        len: u64,
        path: &str,
        read_error: &dyn Fn(io::Error) -> Error,
    ) -> Result<Option<InPlace>> {
        let Some(chunks) = bases.plain_file(path, |there| there == len)? else { return Ok(None) };
        let placed = placed(chunks);
        if !resembles(bases, session, file, &placed, read_error)? {
            return Ok(None);
        }
        let sizes = CutSizes::TENSOR;
        let runs = placed.iter().map(|(span, _)| Run { span: *span, width: ElementWidth::Unknown, sizes }).collect();
        Ok(Some(InPlace { runs, facing: Facing::in_place(placed) }))
    }
}

/// Whether most of a few chunks of `file` have stayed, or are smaller as differences to those in their place.
fn resembles(
    bases: &Bases<'_>,
    session: &Session,
    file: &File,
    placed: &[(Span, ChunkRef)],
    read_error: &dyn Fn(io::Error) -> Error,
) -> Result<bool> {
    let (probes, needed) = PROBES;
    let mut reader = bases.reader();
    let mut encoder = Encoder::new(Effort::Default);
    let (mut plain, mut base, mut encoded) = (Vec::new(), Vec::new(), Vec::new());
    let step = placed.len().div_ceil(probes).max(1);
    let (mut probed, mut alike) = (0, 0);
    for (span, chunk) in placed.iter().skip(step / 2).step_by(step) {
        probed += 1;
        plain.resize((span.len as usize).min(limits::CHUNK_BYTES), 0);
        file.read_exact_at(&mut plain, span.offset).map_err(read_error)?;
        if Hash::of(&plain) == chunk.hash {
            alike += 1;
            continue;
        }
        base.resize(plain.len(), 0);
        if session.base(&chunk.hash, limits::DELTA_DEPTH)?.is_none() {
            continue;
        }
        match reader.read(&chunk.hash, &mut base) {
            Err(Error::Damaged { .. }) => continue,
            read => read?,
        }
        alike += usize::from(encoder.encode_against(&plain, ElementWidth::Unknown, &base, &mut encoded).has_base());
    }
    Ok(alike * probes >= needed * probed)
}
