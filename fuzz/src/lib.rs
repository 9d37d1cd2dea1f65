//! What the fuzz targets share: a cap on allocations, checksums for bytes that a fuzzer made up, and what must hold of any layout.

use std::alloc::{GlobalAlloc, Layout as Request, System};

use caskad::Hash;
use caskad::split::{Format, Layout, cut_all, recognise};
use caskad::store::pack::{RECORD_HEADER_BYTES, RecordHeader, RecordKind, find_record};

/// Most bytes of one allocation. The longest thing that a length alone may make room for is a manifest, 128 MiB.
const MOST_BYTES: usize = 160 << 20;

/// The system's allocator, which ends the process when one allocation asks for more than any limit allows.
struct Capped;

// SAFETY: every call goes to the system's allocator as it is, or does not return.
unsafe impl GlobalAlloc for Capped {
    unsafe fn alloc(&self, request: Request) -> *mut u8 {
        check(request.size());
        unsafe { System.alloc(request) }
    }

    unsafe fn alloc_zeroed(&self, request: Request) -> *mut u8 {
        check(request.size());
        unsafe { System.alloc_zeroed(request) }
    }

    unsafe fn realloc(&self, place: *mut u8, request: Request, bytes: usize) -> *mut u8 {
        check(bytes);
        unsafe { System.realloc(place, request, bytes) }
    }

    unsafe fn dealloc(&self, place: *mut u8, request: Request) {
        unsafe { System.dealloc(place, request) }
    }
}

fn check(bytes: usize) {
    if bytes > MOST_BYTES {
        // Not a panic, which would allocate. libFuzzer reports the signal and keeps the input.
        std::process::abort();
    }
}

#[global_allocator]
static ALLOCATOR: Capped = Capped;

/// `bytes` with sound checksums in every record, so that a fuzzer gets past them; a raw manifest gets its hash too.
pub fn mend(bytes: &[u8]) -> Vec<u8> {
    let mut mended = bytes.to_vec();
    let mut at = 0;
    while let Some(start) = find_record(&mended, at) {
        at = start + mend_record(&mut mended[start..]).max(1);
    }
    mended
}

/// Mends the record at the start of `bytes`, as far as it is there; says how long it is.
fn mend_record(bytes: &mut [u8]) -> usize {
    let Some((header, rest)) = bytes.split_at_mut_checked(RECORD_HEADER_BYTES) else { return 1 };
    let stored_len = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
    let payload = &rest[..stored_len.min(rest.len())];
    if header[4] == RecordKind::Manifest as u8 && header[5] == 0 {
        header[16..48].copy_from_slice(Hash::of(payload).as_bytes());
    }
    header[48..52].copy_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    let crc = crc32c::crc32c(&header[..52]);
    header[52..].copy_from_slice(&crc.to_le_bytes());
    RECORD_HEADER_BYTES + if RecordHeader::decode(header).is_ok() { payload.len() } else { 0 }
}

/// Splits `payload` and checks what every layout and its runs promise.
pub fn split(payload: &[u8]) -> Layout {
    let len = payload.len() as u64;
    let layout = recognise(len, &mut |offset, buffer| {
        buffer.copy_from_slice(&payload[offset as usize..][..buffer.len()]);
        Ok(())
    })
    .unwrap_or_else(|error| panic!("reading cannot fail: {error}"));
    assert!(layout.format != Format::Opaque || layout.segments.is_empty());
    let mut end = 0;
    for segment in &layout.segments {
        assert!(segment.span.offset >= end && segment.span.end() <= len, "{segment:?}");
        end = segment.span.end();
    }
    let runs = layout.runs(len);
    let mut end = 0;
    for run in &runs {
        assert!(run.span.offset == end && run.span.len > 0, "{run:?}");
        end = run.span.end();
    }
    assert_eq!(end, len, "the runs do not cover the payload");
    let mut end = 0;
    for (span, _) in cut_all(&runs, payload) {
        assert!(span.offset == end && span.len > 0 && span.len <= caskad::limits::CHUNK_BYTES as u64, "{span:?}");
        end = span.end();
    }
    assert_eq!(end, len, "the chunks do not cover the payload");
    layout
}
