//! Splitting: from the bytes of a payload to the spans of its chunks.
//!
//! ```text
//! recognise → Layout (format, named segments) → runs → cut_all, or per stripe: Speculation::cut → settle → chunks
//! ```
//!
//! # Why tensors
//! The chunks of two versions dedup when equal bytes are cut equally. Content-defined cutting alone finds a moved tensor again only after
//! its first chunk, and mixes the end of one tensor with the start of the next. So a cut is forced where a segment starts and ends, and
//! inside it cuts count from its own first byte: one tensor has the same chunks in every file, at every offset, in a safetensors as in a
//! `.pt`. Each chunk then also holds elements of one width, which is what the codec's planes need.
//!
//! # Why fixed lengths inside them
//! Training changes nearly every element of a tensor, and moves none. Cuts that follow the content would fall elsewhere in each version, so
//! that no chunk had a counterpart to be stored as a difference to; taking them over from the version before (which an earlier design did) gives
//! one tensor different chunks, depending on what was stored before it. Every 256 KiB from its start, chunk *i* of a tensor holds the same
//! elements in every version, container and key. Without differences the two ways cost the same within 0.5 points on fourteen families of
//! model versions. The price: rows inserted in front of others make new chunks of all behind them; rows appended do not.
//!
//! # Why FastCDC elsewhere
//! In documents and formats that are not parsed, bytes do move. There cut points follow the content: FastCDC as of Xia et al., *The Design
//! of Fast Content-Defined Chunking for Data Deduplication Based Storage Systems*, IEEE TPDS 31 (2020), by the crate `fastcdc`, with its gear
//! table and masks unchanged, normalization level 1 and no seed. A gear hash rolls over the bytes, a cut falls where masked bits of it are
//! zero, with a stricter mask below the average length than above it, and no byte below the minimum is looked at. An insertion changes the
//! chunks it touches and one or two after them.
//!
//! | bytes | cuts | at multiples of |
//! |---|---|---|
//! | tensors of a recognised format ([`CutSizes::TENSOR`]) | every 256 KiB; the last chunk is up to 320 KiB long | 256 KiB |
//! | everything else ([`CutSizes::OPAQUE`]) | by content: min 16 KiB, average 64 KiB, max 256 KiB | 1 |
//!
//! Small tensors in a row are cut as a group, which ends once it holds 256 KiB. Cuts elsewhere are not aligned to anything: after the
//! insertion of a single byte, rounding would give every later chunk other bytes.
//!
//! Sizes, masks, grouping and recognition decide which bytes are shared with what is already stored. A change to any of them makes stores
//! grow, hence the golden file `manifests/cutpoints.json` and its test.
//!
//! # Rules of this layer
//! Pure: no threads, no clock, no files. Payload bytes are hostile. What cannot be parsed is [`Format::Opaque`] and one run, never an error.

mod cut;
mod gguf;
mod layout;
mod npy;
mod run;
mod safetensors;
mod source;
mod stripe;
mod zip;

pub use cut::{CutSizes, cut_run};
pub use layout::{Format, Layout, Segment, element_width, recognise};
pub use run::{GROUP_BYTES, Run};
pub use stripe::{Settled, Speculation, Window, cut_all};
