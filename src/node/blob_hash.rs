//! The BLAKE3 hash of a whole payload from the subtrees of its stripes, which several threads hash in any order.

use blake3::Hasher;
use blake3::hazmat::{ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};

use crate::hash::Hash;
use crate::node::stripe::{STRIPE_BYTES, Stripe};

/// What one stripe contributes.
#[derive(Debug, Clone, Copy)]
pub(super) enum StripeHash {
    /// The payload is this stripe alone.
    Whole(Hash),
    /// The chaining value of the stripe's subtree.
    Subtree(ChainingValue),
}

impl StripeHash {
    /// Hashes `bytes`, all of `stripe`.
    pub(super) fn of(stripe: &Stripe, bytes: &[u8]) -> StripeHash {
        if stripe.payload_len == Some(stripe.span.len) {
            return StripeHash::Whole(Hash::of(bytes));
        }
        let mut hasher = Hasher::new();
        hasher.set_input_offset(stripe.span.offset);
        hasher.update(bytes);
        StripeHash::Subtree(hasher.finalize_non_root())
    }
}

/// The hash of a payload of `len` bytes whose stripes hash to `stripes`, in order.
pub(super) fn join(stripes: &[StripeHash], len: u64) -> Hash {
    match stripes {
        [] => Hash::of(&[]),
        [StripeHash::Whole(hash), ..] => *hash,
        _ => {
            let values: Vec<ChainingValue> = stripes
                .iter()
                .map(|stripe| match stripe {
                    StripeHash::Subtree(value) => *value,
                    StripeHash::Whole(hash) => *hash.as_bytes(),
                })
                .collect();
            let (left, right) = halves(&values, len);
            merge_subtrees_root(&left, &right, Mode::Hash).into()
        }
    }
}

/// The chaining values of the two halves of a tree over `len` bytes.
fn halves(values: &[ChainingValue], len: u64) -> (ChainingValue, ChainingValue) {
    let left_len = left_subtree_len(len);
    let (left, right) = values.split_at((left_len / STRIPE_BYTES) as usize);
    (subtree(left, left_len), subtree(right, len - left_len))
}

fn subtree(values: &[ChainingValue], len: u64) -> ChainingValue {
    match values {
        [value] => *value,
        _ => {
            let (left, right) = halves(values, len);
            merge_subtrees_non_root(&left, &right, Mode::Hash)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::Span;

    #[test]
    fn stripes_join_to_the_hash_of_the_whole() {
        let bytes: Vec<u8> = (0..5 * STRIPE_BYTES + 1).map(|at| (at % 251) as u8).collect();
        for len in [
            0,
            1,
            1024,
            1025,
            STRIPE_BYTES,
            STRIPE_BYTES + 1,
            2 * STRIPE_BYTES,
            3 * STRIPE_BYTES + 7,
            5 * STRIPE_BYTES + 1,
        ] {
            let payload = &bytes[..len as usize];
            let stripes: Vec<StripeHash> = payload
                .chunks(STRIPE_BYTES as usize)
                .enumerate()
                .map(|(index, bytes)| {
                    let span = Span::new(index as u64 * STRIPE_BYTES, bytes.len() as u64);
                    StripeHash::of(&Stripe { index: index as u64, span, payload_len: Some(len) }, bytes)
                })
                .collect();
            assert_eq!(join(&stripes, len), Hash::of(payload), "{len} bytes");
        }
    }
}
