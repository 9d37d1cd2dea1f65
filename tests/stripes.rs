//! Stripes cut by threads that know nothing of each other give the chunks of one serial cutter, and those cover the payload exactly.
#![allow(clippy::unwrap_used, reason = "a test may panic outside of its own function too")]

mod formats;

use caskad::chunk::{ElementWidth, Span};
use caskad::split::{CutSizes, Format, Layout, Run, Segment, Speculation, Window, cut_all};
use formats::noise;
use proptest::prelude::*;

fn bytes(payload: &[u8], span: Span) -> &[u8] {
    &payload[span.offset as usize..span.end() as usize]
}

fn assert_covers(len: u64, chunks: &[(Span, ElementWidth)]) {
    let mut end = 0;
    for (span, _) in chunks {
        assert!(span.offset == end && span.len > 0);
        end = span.end();
    }
    assert_eq!(end, len);
}

/// Contents that cut well, badly, and not at all.
fn content(len: usize) -> impl Strategy<Value = Vec<u8>> {
    (0..5, any::<u16>(), 1_usize..700).prop_map(move |(kind, label, period)| match kind {
        0 => noise(&label.to_string(), len),
        1 => vec![label as u8; len],
        2 => noise(&label.to_string(), period).into_iter().cycle().take(len).collect(),
        3 => (0..).flat_map(|n| format!("line {n} of {label}\n").into_bytes()).take(len).collect(),
        _ => [noise(&label.to_string(), len / 3), vec![0; len / 3], noise("end", len - 2 * (len / 3))].concat(),
    })
}

/// A payload, and runs with small cut sizes that cover it.
fn payload_and_runs() -> impl Strategy<Value = (Vec<u8>, Vec<Run>)> {
    let by_content = [(64, 256, 1024, 1), (64, 256, 1024, 8), (128, 512, 2048, 4), (64, 1024, 8192, 8)];
    let by_content = by_content.map(|(min, average, max, align)| CutSizes::new(min, average, max, align).unwrap());
    let fixed = [(256, 320), (1024, 1024), (1000, 8000)].map(|(len, last)| CutSizes::fixed(len, last).unwrap());
    let sizes = prop::sample::select([&by_content[..], &fixed].concat());
    let runs = prop::collection::vec((prop_oneof![1_u64..100, 100_u64..20_000], sizes), 1..20);
    runs.prop_flat_map(|lens| {
        let total: u64 = lens.iter().map(|(len, _)| len).sum();
        let mut at = 0;
        let runs: Vec<Run> = lens
            .into_iter()
            .map(|(len, sizes)| {
                let span = Span::new(at, len);
                at = span.end();
                Run { span, width: ElementWidth::from_bytes(sizes.align()), sizes }
            })
            .collect();
        (content(total as usize), Just(runs))
    })
}

fn cut_in_stripes(payload: &[u8], runs: &[Run], stripe_len: u64) -> Vec<(Span, ElementWidth)> {
    let len = payload.len() as u64;
    let (mut chunks, mut entry) = (Vec::new(), 0);
    for offset in (0..len).step_by(stripe_len as usize) {
        let stripe = Span::new(offset, stripe_len.min(len - offset));
        let window = Window::new(offset, bytes(payload, Window::needed_in(runs, stripe)));
        let settled = Speculation::cut(runs, window, stripe).settle(entry, runs, window);
        assert!(settled.chunks.iter().all(|(span, _)| stripe.offset <= span.offset && span.offset < stripe.end()));
        assert!(settled.exit >= stripe.end());
        chunks.extend(settled.chunks);
        entry = settled.exit;
    }
    chunks
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn stripes_are_cut_as_one_and_cover_the_payload(
        (payload, runs) in payload_and_runs(),
        stripe_len in prop_oneof![50_u64..2_000, 2_000_u64..100_000],
    ) {
        let serial = cut_all(&runs, &payload);
        assert_covers(payload.len() as u64, &serial);
        for run in &runs {
            let inside = serial.iter().filter(|(span, _)| span.intersection(run.span).is_some());
            for (span, width) in inside {
                prop_assert!(span.intersection(run.span) == Some(*span) && *width == run.width);
                prop_assert!((span.offset - run.span.offset).is_multiple_of(run.sizes.align() as u64));
                prop_assert!(span.len as usize <= run.sizes.max());
                prop_assert!(span.len as usize >= run.sizes.min() || span.end() == run.span.end());
            }
        }
        prop_assert_eq!(cut_in_stripes(&payload, &runs, stripe_len), serial);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn stripes_of_real_sizes_are_cut_as_one(
        payload in content(7 << 20),
        tensors in prop::collection::vec(prop_oneof![1_u64..2_000, 60_000_u64..70_000, 100_000_u64..3_000_000], 0..8),
        stripe_len in prop_oneof![Just(1 << 20), 1_u64 << 20..3 << 20],
    ) {
        let mut at = 0;
        let mut layout = Layout { format: Format::Safetensors, segments: Vec::new() };
        for len in tensors.iter().filter(|len| **len > 0) {
            let (name, dtype) = (at.to_string(), "F32".to_owned());
            let span = Span::new(at + len % 7, *len);
            layout.segments.push(Segment { name, dtype, shape: vec![], span, tensor: true });
            at = span.end();
        }
        let runs = layout.runs(payload.len() as u64);
        let serial = cut_all(&runs, &payload);
        assert_covers(payload.len() as u64, &serial);
        prop_assert!(cut_in_stripes(&payload, &runs, stripe_len) == serial);
    }
}
