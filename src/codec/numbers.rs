//! Elements as numbers whose size counts: what a delta in context codes, and the bytes of the base that it looks at.
//!
//! Invariant: [`differences`] undoes [`numbers`], and [`join_signs`] what [`split_signs`] did, for every width.

/// The highest byte of each element of the base, rotated as in planes; zero where the base has none.
pub(super) fn highest_bytes(width: usize, base: &[u8], highest: &mut [u8]) {
    let mut missing = 0;
    match width {
        2 => {
            for (highest, base) in highest.iter_mut().zip(base.as_chunks().0) {
                *highest = (u16::from_le_bytes(*base) >> 7) as u8;
                missing += 1;
            }
        }
        4 => {
            for (highest, base) in highest.iter_mut().zip(base.as_chunks().0) {
                *highest = (u32::from_le_bytes(*base) >> 23) as u8;
                missing += 1;
            }
        }
        _ => {
            missing = highest.len().min(base.len());
            highest[..missing].copy_from_slice(&base[..missing]);
        }
    }
    highest[missing..].fill(0);
}

/// The number of each difference, sign lowest.
pub(super) fn numbers(width: usize, differences: &[u8], numbers: &mut [u32]) {
    match width {
        2 => {
            for (number, difference) in numbers.iter_mut().zip(differences.as_chunks().0) {
                *number = u16::from_le_bytes(*difference).rotate_left(1).into();
            }
        }
        4 => {
            for (number, difference) in numbers.iter_mut().zip(differences.as_chunks().0) {
                *number = u32::from_le_bytes(*difference).rotate_left(1);
            }
        }
        _ => {
            for (number, difference) in numbers.iter_mut().zip(differences) {
                *number = (difference << 1 ^ (*difference as i8 >> 7) as u8).into();
            }
        }
    }
}

/// Puts numbers back as differences: what [`numbers`] undoes.
pub(super) fn differences(width: usize, numbers: &[u32], differences: &mut [u8]) {
    match width {
        2 => {
            for (number, difference) in numbers.iter().zip(differences.as_chunks_mut().0) {
                *difference = (*number as u16).rotate_right(1).to_le_bytes();
            }
        }
        4 => {
            for (number, difference) in numbers.iter().zip(differences.as_chunks_mut().0) {
                *difference = number.rotate_right(1).to_le_bytes();
            }
        }
        _ => {
            for (number, difference) in numbers.iter().zip(differences) {
                *difference = (*number >> 1 ^ (number & 1).wrapping_neg()) as u8;
            }
        }
    }
}

/// Makes numbers magnitudes and gathers their signs, eight a byte.
pub(super) fn split_signs(numbers: &mut [u32], signs: &mut Vec<u8>) {
    signs.clear();
    signs.extend(numbers.chunks_mut(8).map(|numbers| {
        let mut byte = 0;
        for (i, number) in numbers.iter_mut().enumerate() {
            byte |= ((*number & 1) as u8) << i;
            // -1 is 1, 1 is 2, -2 is 3: halved upwards they are the magnitude.
            *number = (*number >> 1) + (*number & 1);
        }
        byte
    }));
}

/// Makes magnitudes numbers again. Where a sign is missing, the number is positive.
pub(super) fn join_signs(magnitudes: &mut [u32], signs: &[u8]) {
    for (magnitudes, signs) in magnitudes.chunks_mut(8).zip(signs) {
        for (i, magnitude) in magnitudes.iter_mut().enumerate() {
            *magnitude = (*magnitude << 1).wrapping_sub(u32::from(signs >> i & 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_as_differences_with_signs_inside_and_apart() {
        let bytes: Vec<u8> = (0..4096_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
        for width in [1, 2, 4] {
            let (mut found, mut back) = (vec![0; bytes.len() / width], vec![0; bytes.len()]);
            numbers(width, &bytes, &mut found);
            differences(width, &found, &mut back);
            assert_eq!(back, bytes, "width {width}");
            let (mut magnitudes, mut signs) = (found.clone(), Vec::new());
            split_signs(&mut magnitudes, &mut signs);
            join_signs(&mut magnitudes, &signs);
            assert_eq!(magnitudes, found, "width {width}");
        }
    }

    #[test]
    fn the_magnitude_of_the_least_number_has_room() {
        let (mut numbers, mut signs) = (vec![u32::MAX, 0, 1, 2], Vec::new());
        split_signs(&mut numbers, &mut signs);
        assert_eq!((&numbers[..], &signs[..]), (&[1 << 31, 0, 1, 1][..], &[0b0101][..]));
        join_signs(&mut numbers, &signs);
        assert_eq!(numbers, [u32::MAX, 0, 1, 2]);
    }

    #[test]
    fn the_highest_byte_is_the_exponent_and_missing_elements_are_zero() {
        let mut highest = [9; 3];
        highest_bytes(4, &[&1.5_f32.to_le_bytes()[..], &(-0.5_f32).to_le_bytes(), &[0xff; 3]].concat(), &mut highest);
        assert_eq!(highest, [127, 126, 0]);
        highest_bytes(2, &[0x80, 0x3f], &mut highest);
        assert_eq!(highest, [127, 0, 0]);
        highest_bytes(1, &[7, 8], &mut highest);
        assert_eq!(highest, [7, 8, 0]);
    }
}
