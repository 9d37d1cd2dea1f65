//! Every bound on what caskad accepts from a disk, a user or a peer, in one place.
//!
//! A length that is read is checked against one of these before anything is allocated for it.

/// Longest plain chunk, in bytes. Cut sizes never exceed it.
pub const CHUNK_BYTES: usize = 1 << 20;

/// Longest encoded payload of a pack record that holds a chunk: raw is always possible, so encodings never grow a chunk.
pub const ENCODED_CHUNK_BYTES: usize = CHUNK_BYTES;

/// Longest manifest, in bytes of CBOR. At 36 bytes a chunk this is over 3 million chunks, 800 GB of tensors.
pub const MANIFEST_BYTES: usize = 128 << 20;

/// Longest ref or removal record, in bytes of CBOR.
pub const REF_BYTES: usize = 128 << 10;

/// Longest journal of a small store's index, in bytes: the rows of some 17 thousand chunks. A larger index is a database.
pub const JOURNAL_BYTES: usize = 1 << 20;

/// A payload below this many bytes is carried inside the manifest and makes no chunk.
pub const INLINE_BYTES: usize = 1 << 10;

/// Longest key, scope excluded, in bytes.
pub const KEY_BYTES: usize = 512;

/// Longest name for a scope, in bytes: as long as a public key in hex.
pub const ALIAS_BYTES: usize = 64;

/// Most names for scopes in one store.
pub const ALIASES: usize = 1 << 16;

/// Longest label, in bytes.
pub const LABEL_BYTES: usize = 128;

/// Longest path of a file inside a version, in bytes.
pub const PATH_BYTES: usize = 4096;

/// Most chunks in one version. A manifest that lists more is over [`MANIFEST_BYTES`] anyway.
pub const CHUNKS: usize = MANIFEST_BYTES / 33;

/// Most files in one version.
pub const FILES: usize = 1 << 20;

/// Most segments in one version.
pub const SEGMENTS: usize = 1 << 20;

/// Longest segment name, in bytes.
pub const SEGMENT_NAME_BYTES: usize = 4096;

/// Longest name of an element type, in bytes.
pub const DTYPE_BYTES: usize = 64;

/// Longest media type of a file, in bytes.
pub const MEDIA_TYPE_BYTES: usize = 256;

/// Most dimensions of a tensor's shape.
pub const SHAPE_DIMENSIONS: usize = 16;

/// Most user metadata entries of one version.
pub const META_ENTRIES: usize = 1024;

/// Longest user metadata key or text value, in bytes.
pub const META_BYTES: usize = 4096;

/// All user metadata of one version, in bytes: keys and texts as they are, eight for a number. With every other field
/// at its longest, a ref that carries this much stays below [`REF_BYTES`].
pub const META_TOTAL_BYTES: usize = 64 << 10;

/// Longest safetensors JSON header that is parsed; a longer one makes the file opaque.
pub const SAFETENSORS_HEADER_BYTES: usize = 16 << 20;

/// Longest stretch of a GGUF file that is walked for its tensor table; a longer one makes the file opaque.
pub const GGUF_HEADER_BYTES: usize = 64 << 20;

/// Longest zip central directory that is parsed; a longer one makes the file opaque.
pub const ZIP_DIRECTORY_BYTES: usize = 16 << 20;

/// Longest NPY header inside a zip that is parsed; a member with a longer one is not taken for an array.
pub const NPY_HEADER_BYTES: usize = 64 << 10;

/// Most arrays inside one another in a GGUF file's metadata; deeper ones make the file opaque.
pub const GGUF_ARRAY_DEPTH: usize = 8;

/// Most delta bases between a chunk and one that stands alone.
pub const DELTA_DEPTH: u8 = 16;

/// The same for what a put may add. Re-encoding may lengthen the chain below a chunk that a put just relied on, hence the distance.
pub const PUT_DELTA_DEPTH: u8 = 8;

/// Most contributions that one aggregation folds: each is an open file, and takes its share of the memory for blocks.
pub const CONTRIBUTIONS: usize = 1024;

/// Most threads of one operation.
pub const THREADS: usize = 256;

/// Deepest nesting of directories that is stored.
pub const DIRECTORY_DEPTH: usize = 128;

/// Longest frame of the exchange, in bytes: the longest chunk, and room for what is said about it.
pub const FRAME_BYTES: usize = CHUNK_BYTES + (64 << 10);

/// Most hashes that one frame asks about. So many, with their homes, fit into a frame.
pub const HAVE_HASHES: usize = 4096;

/// Most chunks that one frame puts.
pub const PUT_PARCELS: usize = 1024;

/// Most bases that are offered with one wanted chunk.
pub const GET_BASES: usize = 8;

/// Longest message of a refusal, in bytes.
pub const REFUSAL_BYTES: usize = 512;

/// Requests that a peer may have under way on one stream.
pub const STREAM_REQUESTS: u32 = 64;

/// Streams of the exchange that one peer may have open to us.
pub const STREAMS_PER_PEER: usize = 2;

/// Intakes that one stream may have open.
pub const STREAM_INTAKES: usize = 4;

/// Most connections of a node, and most of them to one peer.
pub const CONNECTIONS: u32 = 1024;

/// Most connections to one peer: a TCP and a QUIC one in each direction, and one through a relay.
pub const CONNECTIONS_PER_PEER: u32 = 5;

/// Most incoming connections that are not encrypted yet.
pub const PENDING_CONNECTIONS: u32 = 64;

/// Most places that a relay gives.
pub const RELAY_RESERVATIONS: usize = 256;

/// How long a place at a relay lasts, while its peer is connected.
pub const RELAY_RESERVATION_TIME: std::time::Duration = std::time::Duration::from_secs(365 * 24 * 3600);

/// How often in a row a peer may ask for a place; after that, once a minute.
pub const RELAY_REQUESTS: std::num::NonZeroU32 = std::num::NonZeroU32::new(30).unwrap();

/// Most connections that a relay passes on at a time.
pub const RELAY_CIRCUITS: usize = 512;

/// Most of them from and to one peer, and so many new ones from it in a minute.
pub const RELAY_CIRCUITS_PER_PEER: usize = 64;

/// How long one of them lasts at most. Whoever still needs it makes another.
pub const RELAY_CIRCUIT_TIME: std::time::Duration = std::time::Duration::from_secs(3600);

/// Most addresses of a peer that are noted.
pub const PEER_ADDRESSES: usize = 16;

/// Most replicas of a chunk.
pub const REPLICAS: usize = 8;

/// Peers that a record is stored on.
pub const RECORD_REPLICAS: std::num::NonZeroUsize = std::num::NonZeroUsize::new(8).unwrap();

/// Longest lease that is granted.
pub const LEASE_TTL: std::time::Duration = std::time::Duration::from_secs(30 * 24 * 3600);

/// How far clocks may differ: a record may end so much later than [`LEASE_TTL`] from now, since its writer's clock may be ahead of whoever
/// stores or reads it.
pub const CLOCK_SKEW: std::time::Duration = std::time::Duration::from_secs(3600);

/// Longest signed record, in bytes.
pub const RECORD_BYTES: usize = 1 << 10;

/// Most records of other nodes' that a node keeps.
pub const RECORDS: usize = 64 << 10;

/// Longest catalogue of a key's versions, or listing of a scope's keys, in bytes of CBOR.
pub const CATALOGUE_BYTES: usize = 16 << 20;
