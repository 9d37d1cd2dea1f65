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
//! # Why FastCDC
//! Inside a run, cut points follow the content: FastCDC as of Xia et al., *The Design of Fast Content-Defined Chunking for Data
//! Deduplication Based Storage Systems*, IEEE TPDS 31 (2020), by the crate `fastcdc`, with its gear table and masks unchanged, normalization
//! level 1 and no seed. A gear hash rolls over the bytes, a cut falls where masked bits of it are zero, with a stricter mask below the
//! average length than above it, and no byte below the minimum is looked at. An insertion changes the chunks it touches and one or two after them.
//!
//! | bytes | min | average | max | cuts at multiples of |
//! |---|---|---|---|---|
//! | tensors of a recognised format ([`CutSizes::TENSOR`]) | 64 KiB | 256 KiB | 1 MiB | 8 |
//! | everything else ([`CutSizes::OPAQUE`]) | 16 KiB | 64 KiB | 256 KiB | 1 |
//!
//! Weights change in place and whole tensors move, so with forced cuts the large sizes dedup about as well as small ones at a fraction
//! of the chunks; containers that are not parsed need the small ones. Cuts in tensors are rounded down to 8 bytes, so that no chunk starts
//! inside an element. Elsewhere they are not: after the insertion of a single byte, rounding would give every later chunk other bytes.
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
