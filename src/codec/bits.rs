//! Numbers of a few bits each, side by side: the lowest bit first, in bytes of which the lowest bit is filled first.
//!
//! Invariant: reading past the end gives zeros, and [`BitReader::finish`] tells.

use super::CodecError;

/// Writes bits.
#[derive(Default)]
pub(super) struct BitWriter {
    waiting: u64,
    count: u32,
    bytes: Vec<u8>,
}

impl BitWriter {
    /// Appends the lowest `count` bits of `bits`, at most 32; the others are zero.
    #[inline(always)]
    pub(super) fn put(&mut self, bits: u32, count: u32) {
        self.waiting |= u64::from(bits) << self.count;
        self.count += count;
        if self.count >= 32 {
            self.bytes.extend_from_slice(&(self.waiting as u32).to_le_bytes());
            self.waiting >>= 32;
            self.count -= 32;
        }
    }

    /// Appends the bytes to `out`, the last filled up with zeros, and is as new.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes);
        let rest = self.count.div_ceil(8) as usize;
        out.extend_from_slice(&self.waiting.to_le_bytes()[..rest]);
        self.bytes.clear();
        (self.waiting, self.count) = (0, 0);
    }
}

/// Reads bits.
pub(super) struct BitReader<'a> {
    bytes: &'a [u8],
    next: usize,
}

impl<'a> BitReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> BitReader<'a> {
        BitReader { bytes, next: 0 }
    }

    /// Adds to each of `numbers` the next bits, as many as its place in `counts` says: at most 32.
    #[inline(always)]
    pub(super) fn add_to(&mut self, numbers: &mut [u32], counts: &[u32]) {
        // In a variable of its own, which stays in a register.
        let mut next = self.next;
        for (number, count) in numbers.iter_mut().zip(counts) {
            let rest = self.bytes.get(next / 8..).unwrap_or_default();
            let word = match rest.first_chunk() {
                Some(octet) => u64::from_le_bytes(*octet),
                None => last_bytes(rest),
            };
            *number = number.wrapping_add(((word >> (next % 8)) & !(u64::MAX << (count % 64))) as u32);
            next += *count as usize;
        }
        self.next = next;
    }

    /// Checks that all bytes were read, and no more.
    pub(super) fn finish(self) -> Result<(), CodecError> {
        if self.next.div_ceil(8) != self.bytes.len() {
            return Err(CodecError::Invalid("the bits do not end with their chunk"));
        }
        Ok(())
    }
}

/// Up to seven bytes as a number.
#[cold]
fn last_bytes(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_come_back_and_the_end_is_known() {
        let numbers: Vec<(u32, u32)> =
            (0..700_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> (31 - i % 31), i % 31 + 1)).collect();
        let (mut writer, mut bytes) = (BitWriter::default(), Vec::new());
        for (bits, count) in &numbers {
            writer.put(bits & ((1 << count) - 1), *count);
        }
        writer.finish(&mut bytes);
        let mut reader = BitReader::new(&bytes);
        for (bits, count) in &numbers {
            let mut found = [5];
            reader.add_to(&mut found, &[*count]);
            assert_eq!(found, [5_u32.wrapping_add(bits & ((1 << count) - 1))]);
        }
        assert_eq!(reader.finish(), Ok(()));
        assert!(BitReader::new(&bytes).finish().is_err());
        let (mut past, mut found) = (BitReader::new(&[0xff]), [0, 0]);
        past.add_to(&mut found, &[4, 30]);
        assert_eq!((found, past.finish().is_err()), ([15, 15], true));
    }
}
