//! What splitting promises: formats told from their bytes, hostile headers survived, a tensor's chunks the same everywhere, and edits local.
#![allow(clippy::unwrap_used, reason = "a test may panic outside of its own function too")]

mod formats;

use std::collections::HashSet;
use std::io;

use caskad::Hash;
use caskad::chunk::{ElementWidth, Span};
use caskad::limits;
use caskad::split::{CutSizes, Format, Layout, Run, cut_all, recognise};
use formats::{Member, Tensor, gguf, noise, npy, pt, safetensors, safetensors_raw, zip};
use proptest::prelude::*;

fn layout(payload: &[u8]) -> Layout {
    recognise(payload.len() as u64, &mut |offset, buffer| {
        buffer.copy_from_slice(&payload[offset as usize..][..buffer.len()]);
        Ok(())
    })
    .unwrap()
}

fn bytes(payload: &[u8], span: Span) -> &[u8] {
    &payload[span.offset as usize..span.end() as usize]
}

fn hashes(payload: &[u8], chunks: &[(Span, ElementWidth)]) -> HashSet<Hash> {
    chunks.iter().map(|&(span, _)| Hash::of(bytes(payload, span))).collect()
}

fn chunks(payload: &[u8]) -> Vec<(Span, ElementWidth)> {
    cut_all(&layout(payload).runs(payload.len() as u64), payload)
}

fn model() -> Vec<Tensor> {
    let mut embedding = Tensor::random("embedding", "BF16", 300_000);
    embedding.shape = vec![3000, 100];
    let mut scalar = Tensor::random("step", "I64", 1);
    scalar.shape = vec![];
    let small = |n: usize| Tensor::random(&format!("layer.{n}.bias"), "F32", 100 + n as u64);
    let mut tensors = vec![scalar, small(0), embedding, small(1), Tensor::random("layer.0.weight", "F32", 70_000)];
    tensors.extend((2..6).map(small));
    tensors
}

fn assert_holds(payload: &[u8], expected: &[Tensor], layout: &Layout) {
    for tensor in expected {
        let segment = layout.segments.iter().find(|segment| segment.name == tensor.name).unwrap();
        assert_eq!(bytes(payload, segment.span), tensor.bytes, "{}", tensor.name);
        assert_eq!((segment.dtype.as_str(), &segment.shape), (tensor.dtype, &tensor.shape));
        assert!(segment.tensor);
    }
    assert_eq!(layout.segments.len(), expected.len());
}

/// What must be true of every layout and its runs, whatever the payload.
fn assert_sound(payload: &[u8]) -> Layout {
    let len = payload.len() as u64;
    let layout = layout(payload);
    let mut end = 0;
    for segment in &layout.segments {
        assert!(segment.span.offset >= end && segment.span.end() <= len);
        end = segment.span.end();
    }
    assert!(layout.format != Format::Opaque || layout.segments.is_empty());
    assert_covers(len, layout.runs(len).iter().map(|run| run.span));
    layout
}

fn assert_covers(len: u64, spans: impl Iterator<Item = Span>) {
    let mut end = 0;
    for span in spans {
        assert!(span.offset == end && span.len > 0);
        end = span.end();
    }
    assert_eq!(end, len);
}

#[test]
fn safetensors_and_gguf_give_their_tensors() {
    let payload = safetensors(&model());
    let found = assert_sound(&payload);
    assert_eq!(found.format, Format::Safetensors);
    assert_holds(&payload, &model(), &found);
    for alignment in [8, 32, 4096] {
        let payload = gguf(&model(), alignment);
        let found = assert_sound(&payload);
        assert_eq!(found.format, Format::Gguf);
        assert_holds(&payload, &model(), &found);
    }
}

#[test]
fn a_torch_archive_gives_its_storages_as_tensors_and_its_documents_as_others() {
    let payload = pt(&model());
    let found = assert_sound(&payload);
    assert_eq!(found.format, Format::Zip);
    for (n, tensor) in model().iter().enumerate() {
        let segment = found.segments.iter().find(|segment| segment.name == format!("model/data/{n}")).unwrap();
        assert_eq!(bytes(&payload, segment.span), tensor.bytes);
        assert!(segment.tensor && segment.dtype.is_empty());
    }
    let documents: Vec<_> = found.segments.iter().filter(|s| !s.tensor).map(|s| s.name.as_str()).collect();
    assert_eq!(documents, ["model/data.pkl", "model/byteorder", "model/version"]);
}

#[test]
fn compressed_members_are_gaps_and_zip64_records_are_followed() {
    let mut packed = Member::stored("model/packed", &noise("packed", 500));
    packed.deflated = true;
    let members = [packed, Member::stored("model/plain", b"plain"), Member::stored("model/", b"")];
    for zip64 in [false, true] {
        let payload = zip(&members, zip64);
        let found = assert_sound(&payload);
        assert_eq!(found.format, Format::Zip);
        let names: Vec<_> = found.segments.iter().map(|segment| segment.name.as_str()).collect();
        assert_eq!(names, ["model/plain"]);
        assert_eq!(bytes(&payload, found.segments[0].span), b"plain");
        assert!(!found.segments[0].tensor);
    }
}

#[test]
fn an_npz_gives_its_arrays_without_their_headers() {
    let data = noise("array", 96);
    let array = |name: &str, version, descr, column_major, shape| {
        Member::stored(&format!("{name}.npy"), &npy(version, descr, column_major, shape, &data))
    };
    let payload = zip(
        &[
            array("f32", 1, "<f4", false, "(4, 6)"),
            array("columns", 2, "<f8", true, "(3, 4)"),
            array("big", 3, ">i2", false, "(48,)"),
            array("lying", 1, "<f4", false, "(4, 7)"),
            array("long", 1, "<f4", false, "(4, 5)"),
            array("objects", 1, "|O", false, "(12,)"),
            Member::stored("broken.npy", b"\x93NUMPY\x01\0"),
        ],
        false,
    );
    let found = assert_sound(&payload);
    let listed: Vec<_> =
        found.segments.iter().map(|s| (s.name.as_str(), s.dtype.as_str(), s.shape.clone(), s.tensor)).collect();
    let expected = [
        ("f32", "F32", vec![4, 6], true),
        ("columns", "F64", vec![4, 3], true),
        ("big", ">i2", vec![48], true),
        ("lying.npy", "", vec![], false),
        ("long.npy", "", vec![], false),
        ("objects.npy", "", vec![], false),
        ("broken.npy", "", vec![], false),
    ];
    assert_eq!(listed, expected);
    for segment in &found.segments[..3] {
        assert_eq!(bytes(&payload, segment.span), data);
    }
}

#[test]
fn lying_safetensors_headers_make_the_payload_opaque() {
    let entry = |dtype: &str, shape: &str, begin: u64, end: u64| {
        format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
    };
    let one = |entry: String| format!(r#"{{"t":{entry}}}"#);
    let two = |a: String, b: String| format!(r#"{{"a":{a},"b":{b}}}"#);
    let format_of = |header: &str| layout(&safetensors_raw(header, &[7; 64])).format;
    assert_eq!(format_of(&one(entry("F32", "[4,4]", 0, 64))), Format::Safetensors);
    assert_eq!(format_of(&one(entry("NEW_TYPE", "[4]", 0, 64))), Format::Safetensors);
    assert_eq!(format_of("{}"), Format::Safetensors);
    let dimensions = format!("[{}1]", "1,".repeat(limits::SHAPE_DIMENSIONS));
    for header in [
        one(entry("F32", "[4,4]", 0, 60)),
        one(entry("F32", "[17]", 0, 68)),
        one(entry("F32", "[0]", 68, 64)),
        one(entry("F32", "[4294967296,4294967296,4294967296]", 0, 64)),
        one(entry("F32", "[4611686018427387905]", 0, 4)),
        one(entry("U8", "[64]", u64::MAX - 63, u64::MAX)),
        one(entry("F4", "[3]", 0, 1)),
        one(entry("F32", "[-1]", 0, 4)),
        one(entry("F32", &dimensions, 0, 4)),
        one(entry(&"D".repeat(limits::DTYPE_BYTES + 1), "[1]", 0, 4)),
        one(entry("F32", "[1]", 0, 4)).replace("\"t\"", &format!("{:?}", "n".repeat(limits::SEGMENT_NAME_BYTES + 1))),
        two(entry("F32", "[4]", 0, 16), entry("F32", "[4]", 12, 28)),
        two(entry("F32", "[4]", 0, 16), entry("F32", "[4]", 16, 32)).replace("\"b\"", "\"a\""),
        r#"{"t":{"dtype":"F32","shape":[1]}}"#.to_owned(),
        r#"{"t":1}"#.to_owned(),
        format!("{}{}", r#"{"__metadata__":"#, "[".repeat(4000)),
        "{".to_owned(),
        "[]".to_owned(),
    ] {
        assert_eq!(format_of(&header), Format::Opaque, "{header}");
    }
    let mut payload = safetensors(&model());
    for len in [u64::MAX, 1 << 40, payload.len() as u64 - 7, 0, 1] {
        payload[..8].copy_from_slice(&len.to_le_bytes());
        assert_eq!(layout(&payload).format, Format::Opaque, "{len}");
    }
}

#[test]
fn lying_gguf_and_zip_headers_make_the_payload_opaque() {
    let whole = gguf(&model(), 32);
    let patched = |at: usize, bytes: &[u8]| {
        let mut payload = whole.clone();
        payload[at..at + bytes.len()].copy_from_slice(bytes);
        layout(&payload).format
    };
    assert_eq!(patched(4, &2_u32.to_le_bytes()), Format::Gguf);
    for (at, bytes) in [
        (4, &1_u32.to_le_bytes()[..]),
        (4, &3_u32.to_be_bytes()),
        (8, &u64::MAX.to_le_bytes()),
        (8, &10_u64.to_le_bytes()),
        (16, &u64::MAX.to_le_bytes()),
        (16, &4_u64.to_le_bytes()),
        (24, &u64::MAX.to_le_bytes()),
    ] {
        assert_eq!(patched(at, bytes), Format::Opaque, "{at} {bytes:?}");
    }
    for alignment in [0_u32, 3, u32::MAX] {
        let at = whole.windows(17).position(|window| window == b"general.alignment").unwrap() + 17 + 4;
        assert_eq!(patched(at, &alignment.to_le_bytes()), Format::Opaque, "{alignment}");
    }
    assert_eq!(layout(&whole[..whole.len() - 1]).format, Format::Opaque);

    for zip64 in [false, true] {
        let whole = zip(&[Member::stored("a", &[1; 100]), Member::stored("b", &[2; 100])], zip64);
        let entry = whole.windows(4).rposition(|window| window == b"PK\x01\x02").unwrap();
        // The second entry's place: the first member's, a place in its bytes, and one beyond the payload.
        let at = if zip64 { entry + 46 + 1 + 6 + 4 + 16 } else { entry + 42 };
        for place in [0_u32, 70, u32::MAX - 1] {
            let mut payload = whole.clone();
            payload[at..at + 4].copy_from_slice(&place.to_le_bytes());
            assert_eq!(layout(&payload).format, Format::Opaque, "{zip64} {place}");
        }
        assert_eq!(layout(&whole[..whole.len() - 1]).format, Format::Opaque);
        assert_eq!(layout(&[b"PK\x03\x04", &whole[..]].concat()).format, Format::Opaque);
    }
}

#[test]
fn gguf_tensors_must_agree_with_their_type_and_the_alignment() {
    let quantised = |shape: [u64; 2]| {
        let (name, bytes) = ("q".to_owned(), noise("q", 136));
        layout(&gguf(&[Tensor { name, dtype: "Q8_0", shape: shape.to_vec(), bytes }], 32))
    };
    let found = quantised([2, 64]);
    assert_eq!(found.segments[0].span.len, 136);
    assert_eq!((found.segments[0].dtype.as_str(), found.segments[0].width()), ("Q8_0", ElementWidth::Unknown));
    assert_eq!(quantised([64, 2]).format, Format::Opaque, "half a block in a row");

    let mut whole = gguf(&[Tensor::random("first", "F32", 9), Tensor::random("second", "F32", 5)], 32);
    whole.extend([0; 64]);
    // After the name: number of dimensions, one dimension, type, offset.
    let after = whole.windows(6).position(|window| window == b"second").unwrap() + 6;
    let patched = |at: usize, bytes: &[u8]| {
        let mut payload = whole.clone();
        payload[at..at + bytes.len()].copy_from_slice(bytes);
        layout(&payload).format
    };
    let (kind, offset) = (after + 12, after + 16);
    assert_eq!(patched(offset, &96_u64.to_le_bytes()), Format::Gguf);
    assert_eq!(patched(offset, &68_u64.to_le_bytes()), Format::Opaque, "not aligned");
    assert_eq!(patched(offset, &32_u64.to_le_bytes()), Format::Opaque, "inside the first");
    assert_eq!(patched(kind, &4_u32.to_le_bytes()), Format::Opaque, "a type that ggml has retired");
    assert_eq!(patched(after, &17_u32.to_le_bytes()), Format::Opaque, "too many dimensions");

    assert_eq!(layout(&gguf(&[Tensor::random("only", "F32", 9)], 24)).format, Format::Opaque, "no power of two");

    for (depth, format) in [(limits::GGUF_ARRAY_DEPTH, Format::Gguf), (limits::GGUF_ARRAY_DEPTH + 1, Format::Opaque)] {
        let nested = [&9_u32.to_le_bytes()[..], &1_u64.to_le_bytes()].concat().repeat(depth - 1);
        let start = [&b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0"[..], &1_u64.to_le_bytes(), b"k"].concat();
        let payload = [&start[..], &9_u32.to_le_bytes(), &nested, &[0; 4], &1_u64.to_le_bytes(), b"v"].concat();
        assert_eq!(layout(&payload).format, format, "{depth}");
    }
}

#[test]
fn zip_members_must_not_share_a_byte() {
    let packed = Member { name: "packed".to_owned(), bytes: vec![3; 100], deflated: true };
    let whole = zip(&[packed, Member::stored("plain", &[1; 100])], false);
    let entries: Vec<_> =
        whole.windows(4).enumerate().filter(|(_, window)| window == b"PK\x01\x02").map(|(at, _)| at).collect();
    let sized = |entry: usize, packed: u32, plain: u32| {
        let mut payload = whole.clone();
        payload[entries[entry] + 20..entries[entry] + 28]
            .copy_from_slice(&[packed.to_le_bytes(), plain.to_le_bytes()].concat());
        layout(&payload).format
    };
    assert_eq!(sized(0, 90, 5000), Format::Zip);
    assert_eq!(sized(0, 200, 200), Format::Opaque, "the compressed member reaches into the next one's header");
    assert_eq!(sized(1, 90, 90), Format::Zip);
    assert_eq!(sized(1, 101, 101), Format::Opaque, "the last member reaches into the directory");
    assert_eq!(sized(1, 90, 91), Format::Opaque, "a stored member of two sizes");
}

#[test]
fn reads_stay_within_the_limits_and_their_errors_come_back() {
    let mut longest = 0;
    // A sparse payload of 1 TiB whose header claims as much as it may, and one byte more.
    for (header_len, most) in
        [(limits::SAFETENSORS_HEADER_BYTES as u64, limits::SAFETENSORS_HEADER_BYTES), (1 << 30, 8)]
    {
        let found = recognise(1 << 40, &mut |offset, buffer| {
            longest = longest.max(buffer.len());
            buffer.fill(b'{');
            if offset == 0 {
                let field = header_len.to_le_bytes();
                let len = buffer.len();
                buffer.copy_from_slice(&field[..len]);
            }
            Ok(())
        });
        assert_eq!(found.unwrap().format, Format::Opaque);
        assert!(longest <= most, "{longest}");
        longest = 0;
    }
    let failed = recognise(100, &mut |_, _| Err(io::Error::from(io::ErrorKind::UnexpectedEof)));
    assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn a_tensor_has_the_same_chunks_in_every_container() {
    let big: Vec<_> = model().into_iter().filter(|tensor| tensor.bytes.len() >= 64 << 10).collect();
    assert!(big.len() >= 2);
    let array = |tensor: &Tensor| {
        let elements = format!("({},)", tensor.bytes.len());
        Member::stored(&format!("{}.npy", tensor.name), &npy(1, "|u1", false, &elements, &tensor.bytes))
    };
    let arrays: Vec<_> = big.iter().map(array).collect();
    let payloads = [safetensors(&model()), gguf(&model(), 32), pt(&model()), zip(&arrays, true)];
    for tensor in &big {
        let mut alone = None;
        for payload in &payloads {
            let at = payload.windows(64).position(|window| window == &tensor.bytes[..64]).unwrap() as u64;
            let span = Span::new(at, tensor.bytes.len() as u64);
            let inside: Vec<_> =
                chunks(payload).into_iter().filter(|(chunk, _)| chunk.intersection(span).is_some()).collect();
            assert!(
                inside.iter().all(|(chunk, _)| chunk.intersection(span) == Some(*chunk)),
                "a chunk crosses the tensor's edge"
            );
            let lens: Vec<_> = inside.iter().map(|(chunk, _)| chunk.len).collect();
            assert_eq!(*alone.get_or_insert(lens.clone()), lens);
        }
    }
}

#[test]
fn an_edit_changes_few_chunks() {
    let small = CutSizes::new(2 << 10, 4 << 10, 16 << 10, 1).unwrap();
    let aligned = CutSizes::new(2 << 10, 4 << 10, 16 << 10, 8).unwrap();
    let original = noise("edited", 4 << 20);
    let cut = |payload: &[u8], sizes| {
        let run = Run { span: Span::new(0, payload.len() as u64), width: ElementWidth::Unknown, sizes };
        hashes(payload, &cut_all(&[run], payload))
    };
    // Any number of bytes without alignment, multiples of it with.
    for (sizes, lens) in [(small, [1, 3, 1000]), (aligned, [8, 24, 4096])] {
        let before = cut(&original, sizes);
        assert!(before.len() > 700);
        for at in [0, 1 << 20, 3_333_333] {
            for len in lens {
                let inserted = [&original[..at], &noise("insert", len), &original[at..]].concat();
                let deleted = [&original[..at], &original[at + len..]].concat();
                let mut overwritten = original.clone();
                overwritten[at..at + len].fill(0);
                for edited in [inserted, deleted, overwritten] {
                    let new = cut(&edited, sizes).difference(&before).count();
                    assert!(new <= 8, "{len} bytes at {at} made {new} of {} chunks new", before.len());
                }
            }
        }
    }
}

fn file() -> impl Strategy<Value = Vec<u8>> {
    let tensors = vec![Tensor::random("a", "F32", 9), Tensor::random("b", "F16", 40), Tensor::random("c", "I64", 1)];
    let arrays = [Member::stored("x.npy", &npy(1, "<f4", false, "(3,)", &[1; 12])), Member::stored("y", b"text")];
    let files = [safetensors(&tensors), gguf(&tensors, 32), pt(&tensors), zip(&arrays, true), zip(&arrays, false)];
    prop::sample::select(files.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_survived(
        magic in prop::sample::select(vec![&b""[..], b"GGUF\x03\0\0\0", b"PK\x03\x04", b"\x20\0\0\0\0\0\0\0{", b"\x93NUMPY"]),
        rest in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        assert_sound(&[magic, &rest].concat());
    }

    #[test]
    fn mutated_headers_are_survived(
        mut payload in file(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![any::<u8>(), Just(0), Just(255)], 1_usize..9), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
        from_end in any::<bool>(),
    ) {
        for (at, byte, count) in edits {
            // Headers are at one end or the other, and most of a GGUF's is a list of tokens.
            let near = at.index(payload.len().min(400));
            let at = if from_end { payload.len() - 1 - near } else { near };
            let end = (at + count).min(payload.len());
            payload[at..end].fill(byte);
        }
        if let Some(cut) = cut {
            payload.truncate(cut.index(payload.len()));
        }
        assert_sound(&payload);
    }
}
