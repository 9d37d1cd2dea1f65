//! The element width of each chunk of a version, for encoding it anew: put knows it from the payload, later the manifest tells.

use crate::chunk::ElementWidth;
use crate::manifest::Manifest;
use crate::split::element_width;

/// The element width of every chunk that `manifest` lists: that of the segment in which it starts.
pub(super) fn chunk_widths(manifest: &Manifest) -> Vec<ElementWidth> {
    let mut widths = vec![ElementWidth::Unknown; manifest.chunks.len()];
    for (file, segment) in manifest.segments() {
        for (index, covered) in manifest.chunks_overlapping(file, segment.span) {
            if let Some(width) = widths.get_mut(index).filter(|_| covered.offset >= segment.span.offset) {
                *width = element_width(&segment.dtype);
            }
        }
    }
    widths
}
