//! Runs: the stretches of a payload that are cut each in one go.
//!
//! Invariant: the runs of a payload cover it exactly and in order, and a tensor of [`GROUP_BYTES`] or more is a run of its own. So its chunks
//! depend on its bytes alone, and are the same in every container.

use crate::chunk::{ElementWidth, Span};

use super::cut::CutSizes;
use super::layout::{Layout, Segment};

/// A segment or a gap below this many bytes is cut together with its neighbours.
pub const GROUP_BYTES: u64 = 64 << 10;

/// A group that holds this many bytes is complete: it makes one chunk, and what follows is cut anew.
const GROUP_FULL_BYTES: u64 = 256 << 10;

/// A stretch of a payload that starts and ends at a forced cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Where it is.
    pub span: Span,
    /// The width of all its elements, which then also start at a multiple of it; else unknown.
    pub width: ElementWidth,
    /// How it is cut.
    pub sizes: CutSizes,
}

impl Layout {
    /// The runs of a payload of `len` bytes with this layout. None for an empty payload.
    ///
    /// Neighbouring small segments of one kind (tensors, or not) form a group, together with small gaps before, between and after
    /// them. A gap at the payload's start or end stands alone: headers and directories differ in every version, and would
    /// take the first and the last tensors with them.
    ///
    /// A segment that overlaps the one before it or leaves the payload (which [`recognise`](super::recognise) never gives) counts as a gap.
    pub fn runs(&self, len: u64) -> Vec<Run> {
        let mut runs = Runs::default();
        for segment in &self.segments {
            let Span { offset, .. } = segment.span;
            if segment.span.len == 0 || offset < runs.end || segment.span.end() > len {
                continue;
            }
            runs.gap(Span::new(runs.end, offset - runs.end));
            runs.segment(segment);
        }
        runs.flush();
        if runs.end < len {
            runs.alone(Span::new(runs.end, len - runs.end), None);
        }
        runs.done
    }
}

/// Runs so far, and the group that still grows.
#[derive(Default)]
struct Runs {
    done: Vec<Run>,
    group: Option<Group>,
    end: u64,
}

/// Small pieces in a row.
struct Group {
    span: Span,
    /// What its segments are; not yet known while it has none.
    tensor: Option<bool>,
    width: Option<ElementWidth>,
}

impl Runs {
    fn gap(&mut self, span: Span) {
        match &mut self.group {
            _ if span.len == 0 => {}
            _ if span.offset == 0 || span.len >= GROUP_BYTES => self.alone(span, None),
            Some(group) => {
                group.span.len += span.len;
                self.end = span.end();
            }
            None => {
                self.group = Some(Group { span, tensor: None, width: None });
                self.end = span.end();
            }
        }
    }

    fn segment(&mut self, segment: &Segment) {
        let Segment { span, tensor, .. } = *segment;
        if span.len >= GROUP_BYTES {
            return self.alone(span, Some(segment));
        }
        if self.group.as_ref().is_some_and(|group| group.tensor.is_some_and(|kind| kind != tensor)) {
            self.flush();
        }
        let group = self.group.get_or_insert(Group { span: Span::new(span.offset, 0), tensor: None, width: None });
        let phase = span.offset - group.span.offset;
        let width = match segment.width() {
            width if width.bytes().is_some_and(|bytes| phase.is_multiple_of(bytes as u64)) => width,
            _ => ElementWidth::Unknown,
        };
        group.width =
            Some(if group.width.is_none_or(|common| common == width) { width } else { ElementWidth::Unknown });
        group.tensor = Some(tensor);
        group.span.len += span.len;
        let full = group.span.len >= GROUP_FULL_BYTES;
        self.end = span.end();
        if full {
            self.flush();
        }
    }

    /// A run of one piece: a large segment, or a gap.
    fn alone(&mut self, span: Span, segment: Option<&Segment>) {
        self.flush();
        let tensor = segment.is_some_and(|segment| segment.tensor);
        let width = segment.map(Segment::width).unwrap_or_default();
        self.done.push(Run { span, width, sizes: sizes(tensor) });
        self.end = span.end();
    }

    fn flush(&mut self) {
        if let Some(Group { span, tensor, width }) = self.group.take() {
            let (tensor, width) = (tensor.unwrap_or(false), width.unwrap_or_default());
            self.done.push(Run { span, width, sizes: sizes(tensor) });
        }
    }
}

fn sizes(tensor: bool) -> CutSizes {
    if tensor { CutSizes::TENSOR } else { CutSizes::OPAQUE }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::split::layout::Format;

    const BIG: u64 = GROUP_BYTES;

    fn layout(segments: &[(u64, u64, &str)]) -> Layout {
        let segments = segments.iter().map(|&(offset, len, dtype)| Segment {
            name: offset.to_string(),
            dtype: dtype.to_owned(),
            shape: Vec::new(),
            span: Span::new(offset, len),
            tensor: dtype != "doc",
        });
        Layout { format: Format::Zip, segments: segments.collect() }
    }

    fn spans(segments: &[(u64, u64, &str)], len: u64) -> Vec<(u64, u64)> {
        layout(segments).runs(len).iter().map(|run| (run.span.offset, run.span.len)).collect()
    }

    #[test]
    fn an_opaque_payload_is_one_run_and_an_empty_one_none() {
        assert_eq!(Layout::default().runs(0), []);
        let run = Run { span: Span::new(0, 9), width: ElementWidth::Unknown, sizes: CutSizes::OPAQUE };
        assert_eq!(Layout::default().runs(9), [run]);
    }

    #[test]
    fn big_segments_stand_alone_whatever_lies_between_them() {
        let tensors = [(100, BIG, "F32"), (100 + BIG, BIG, "F32"), (200 + 2 * BIG, BIG, "F32")];
        let expected = [(0, 100), (100, BIG), (100 + BIG, BIG), (100 + 2 * BIG, 100), (200 + 2 * BIG, BIG)];
        assert_eq!(spans(&tensors, 200 + 3 * BIG), expected);
    }

    #[test]
    fn small_segments_and_their_gaps_form_a_group() {
        let small = [(10, 100, "F32"), (120, 80, "F32"), (200, 8, "F32"), (300, BIG, "F32"), (400 + BIG, 8, "F32")];
        // The gap before a small segment belongs to its group, the one at the end does not.
        let expected = [(0, 10), (10, 290), (300, BIG), (300 + BIG, 108), (408 + BIG, 92)];
        assert_eq!(spans(&small, 500 + BIG), expected);
    }

    #[test]
    fn a_group_ends_once_it_is_full() {
        let len = 40 << 10;
        let segments: Vec<_> = (0..10).map(|n| (n * len, len, "F32")).collect();
        assert_eq!(spans(&segments, 10 * len), [(0, 7 * len), (7 * len, 3 * len)]);
    }

    #[test]
    fn a_wide_gap_or_a_change_of_kind_ends_a_group() {
        assert_eq!(spans(&[(0, 8, "F32"), (8 + BIG, 8, "F32")], 16 + BIG), [(0, 8), (8, BIG), (8 + BIG, 8)]);
        let runs = layout(&[(0, 8, "doc"), (8, 8, "doc"), (20, 8, "F32"), (28, 4, "F32")]).runs(32);
        let found: Vec<_> = runs.iter().map(|run| (run.span, run.sizes)).collect();
        assert_eq!(found, [(Span::new(0, 20), CutSizes::OPAQUE), (Span::new(20, 12), CutSizes::TENSOR)]);
    }

    #[test]
    fn a_groups_width_is_common_and_in_phase_or_unknown() {
        let width = |segments: &[(u64, u64, &str)]| layout(segments).runs(64)[0].width;
        assert_eq!(width(&[(0, 32, "F32"), (32, 32, "I32")]), ElementWidth::Four);
        assert_eq!(width(&[(0, 32, "F32"), (32, 32, "F16")]), ElementWidth::Unknown);
        assert_eq!(width(&[(0, 30, "F32"), (30, 34, "F32")]), ElementWidth::Unknown);
        assert_eq!(width(&[(0, 32, "F32"), (32, 16, "Q8_0"), (48, 16, "F32")]), ElementWidth::Unknown);
    }

    #[test]
    fn a_layout_that_does_not_fit_still_covers_the_payload() {
        let layout = layout(&[(10, 20, "F32"), (15, 5, "F32"), (40, u64::MAX, "F32"), (50, 10, "F32")]);
        for len in [0, 5, 30, 55, 1000] {
            let mut end = 0;
            for run in layout.runs(len) {
                assert_eq!(run.span.offset, end);
                end = run.span.end();
            }
            assert_eq!(end, len);
        }
    }
}
