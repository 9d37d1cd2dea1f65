//! Elements to byte planes and back: rotate each element left by one bit, then gather all i-th bytes.
//!
//! Invariant: [`join`] undoes [`split`] for every width and count, whatever the bytes. The rotation sends the sign of a float
//! to the lowest bit, so that the exponent of f32 and bf16 fills the last plane alone: that plane is what entropy coding
//! saves. Elements of one byte are not rotated, since no plane would gain by it.
//!
//! Wide elements are halved in steps (u64 → u32 → u16 → u8) through blocks that stay in the first-level cache. Each step is
//! a plain loop that the compiler turns into packs and unpacks of whole registers, about three times faster than taking the
//! bytes out of each element at once. `multiversion` compiles every loop for AVX2 too and picks at run time.

use multiversion::multiversion;

/// Elements per block. The halves of a block (at most 8 KiB) stay in the first-level cache.
const BLOCK: usize = 1024;

/// Splits `plain` into `width` planes that lie end to end in `planes`.
///
/// `width` is 1, 2, 4 or 8; `plain` is whole elements and `planes` as long. Anything else leaves `planes` unspecified.
pub(super) fn split(width: usize, plain: &[u8], planes: &mut [u8]) {
    let count = plain.len() / width.max(1);
    let mut plane = planes.chunks_exact_mut(count.max(1));
    let mut next = || plane.next().unwrap_or_default();
    match width {
        2 => split_2(plain, [next(), next()]),
        4 => split_4(plain, [next(), next(), next(), next()]),
        8 => split_8(plain, [next(), next(), next(), next(), next(), next(), next(), next()]),
        _ => next().copy_from_slice(plain),
    }
}

/// Joins planes, as many as the element has bytes and each one byte an element long, into elements.
///
/// There are 1, 2, 4 or 8 planes; for another number, `plain` is left as it was.
pub(super) fn join(planes: &[&[u8]], plain: &mut [u8]) {
    match *planes {
        [a] => plain.copy_from_slice(a),
        [a, b] => join_2([a, b], plain),
        [a, b, c, d] => join_4([a, b, c, d], plain),
        [a, b, c, d, e, f, g, h] => join_8([a, b, c, d, e, f, g, h], plain),
        _ => {}
    }
}

#[multiversion(targets("x86_64+avx2+bmi1+bmi2"))]
fn split_2(plain: &[u8], planes: [&mut [u8]; 2]) {
    let [low, high] = planes;
    for ((element, low), high) in plain.as_chunks().0.iter().zip(low).zip(high) {
        [*low, *high] = u16::from_le_bytes(*element).rotate_left(1).to_le_bytes();
    }
}

#[multiversion(targets("x86_64+avx2+bmi1+bmi2"))]
fn split_4(plain: &[u8], planes: [&mut [u8]; 4]) {
    let [a, b, c, d] = planes.map(|plane| plane.chunks_mut(BLOCK));
    let (mut low, mut high) = ([0; BLOCK], [0; BLOCK]);
    for ((((plain, a), b), c), d) in plain.chunks(4 * BLOCK).zip(a).zip(b).zip(c).zip(d) {
        for ((element, low), high) in plain.as_chunks().0.iter().zip(&mut low).zip(&mut high) {
            let element = u32::from_le_bytes(*element).rotate_left(1);
            (*low, *high) = (element as u16, (element >> 16) as u16);
        }
        halve_16(&low, a, b);
        halve_16(&high, c, d);
    }
}

#[multiversion(targets("x86_64+avx2+bmi1+bmi2"))]
fn split_8(plain: &[u8], planes: [&mut [u8]; 8]) {
    let [a, b, c, d, e, f, g, h] = planes.map(|plane| plane.chunks_mut(BLOCK));
    let (mut low, mut high) = ([0; BLOCK], [0; BLOCK]);
    let (mut q0, mut q1, mut q2, mut q3) = ([0; BLOCK], [0; BLOCK], [0; BLOCK], [0; BLOCK]);
    let low_planes = a.zip(b).zip(c).zip(d);
    let high_planes = e.zip(f).zip(g).zip(h);
    for ((plain, (((a, b), c), d)), (((e, f), g), h)) in plain.chunks(8 * BLOCK).zip(low_planes).zip(high_planes) {
        for ((element, low), high) in plain.as_chunks().0.iter().zip(&mut low).zip(&mut high) {
            let element = u64::from_le_bytes(*element).rotate_left(1);
            (*low, *high) = (element as u32, (element >> 32) as u32);
        }
        halve_32(&low, &mut q0, &mut q1);
        halve_32(&high, &mut q2, &mut q3);
        halve_16(&q0, a, b);
        halve_16(&q1, c, d);
        halve_16(&q2, e, f);
        halve_16(&q3, g, h);
    }
}

#[multiversion(targets("x86_64+avx2+bmi1+bmi2"))]
fn join_2(planes: [&[u8]; 2], plain: &mut [u8]) {
    let [low, high] = planes;
    for ((element, low), high) in plain.as_chunks_mut().0.iter_mut().zip(low).zip(high) {
        *element = u16::from_le_bytes([*low, *high]).rotate_right(1).to_le_bytes();
    }
}

#[multiversion(targets("x86_64+avx2+bmi1+bmi2"))]
fn join_4(planes: [&[u8]; 4], plain: &mut [u8]) {
    let [a, b, c, d] = planes.map(|plane| plane.chunks(BLOCK));
    let (mut low, mut high) = ([0; BLOCK], [0; BLOCK]);
    for ((((plain, a), b), c), d) in plain.chunks_mut(4 * BLOCK).zip(a).zip(b).zip(c).zip(d) {
        pair_8(a, b, &mut low);
        pair_8(c, d, &mut high);
        for ((element, low), high) in plain.as_chunks_mut().0.iter_mut().zip(&low).zip(&high) {
            *element = (u32::from(*low) | u32::from(*high) << 16).rotate_right(1).to_le_bytes();
        }
    }
}

#[multiversion(targets("x86_64+avx2+bmi1+bmi2"))]
fn join_8(planes: [&[u8]; 8], plain: &mut [u8]) {
    let [a, b, c, d, e, f, g, h] = planes.map(|plane| plane.chunks(BLOCK));
    let (mut low, mut high) = ([0; BLOCK], [0; BLOCK]);
    let (mut q0, mut q1, mut q2, mut q3) = ([0; BLOCK], [0; BLOCK], [0; BLOCK], [0; BLOCK]);
    let low_planes = a.zip(b).zip(c).zip(d);
    let high_planes = e.zip(f).zip(g).zip(h);
    for ((plain, (((a, b), c), d)), (((e, f), g), h)) in plain.chunks_mut(8 * BLOCK).zip(low_planes).zip(high_planes) {
        pair_8(a, b, &mut q0);
        pair_8(c, d, &mut q1);
        pair_8(e, f, &mut q2);
        pair_8(g, h, &mut q3);
        pair_16(&q0, &q1, &mut low);
        pair_16(&q2, &q3, &mut high);
        for ((element, low), high) in plain.as_chunks_mut().0.iter_mut().zip(&low).zip(&high) {
            *element = (u64::from(*low) | u64::from(*high) << 32).rotate_right(1).to_le_bytes();
        }
    }
}

// The steps are inlined into each version of their caller: only so are they compiled with its instructions.

#[inline(always)]
fn halve_32(wholes: &[u32], low: &mut [u16], high: &mut [u16]) {
    for ((whole, low), high) in wholes.iter().zip(low).zip(high) {
        (*low, *high) = (*whole as u16, (*whole >> 16) as u16);
    }
}

#[inline(always)]
fn halve_16(wholes: &[u16], low: &mut [u8], high: &mut [u8]) {
    for ((whole, low), high) in wholes.iter().zip(low).zip(high) {
        [*low, *high] = whole.to_le_bytes();
    }
}

#[inline(always)]
fn pair_8(low: &[u8], high: &[u8], wholes: &mut [u16]) {
    for ((whole, low), high) in wholes.iter_mut().zip(low).zip(high) {
        *whole = u16::from_le_bytes([*low, *high]);
    }
}

#[inline(always)]
fn pair_16(low: &[u16], high: &[u16], wholes: &mut [u32]) {
    for ((whole, low), high) in wholes.iter_mut().zip(low).zip(high) {
        *whole = u32::from(*low) | u32::from(*high) << 16;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(len: usize) -> Vec<u8> {
        (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    #[test]
    fn joining_undoes_splitting_for_every_width_around_block_borders() {
        for width in [1, 2, 4, 8] {
            for count in (0..70).chain([BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 31]) {
                let plain = numbered(width * count);
                let mut planes = vec![0; plain.len()];
                split(width, &plain, &mut planes);
                let views: Vec<&[u8]> = (0..width).map(|i| &planes[i * count..(i + 1) * count]).collect();
                let mut joined = vec![0; plain.len()];
                join(&views, &mut joined);
                assert_eq!(joined, plain, "width {width}, {count} elements");
            }
        }
    }

    #[test]
    fn a_plane_is_the_same_byte_of_every_rotated_element() {
        let plain: Vec<u8> = [0x8123_4567_u32, 0x7f80_0000].iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut planes = vec![0; plain.len()];
        split(4, &plain, &mut planes);
        assert_eq!(planes, [0xcf, 0x00, 0x8a, 0x00, 0x46, 0x00, 0x02, 0xff]);
    }
}
