//! [`Fold`]: the arithmetic of a rule over blocks of elements, in tiles that stay in the first-level cache.
//!
//! Invariant: a result is that of the rule computed in `f64`, rounded once, finite, and neither less than the least value that counts nor
//! greater than the greatest. The loops over a tile assume finite values and sums that do not overflow; where that shows to be wrong, the
//! coordinate is folded again by itself, with care.

use std::ops::Range;

use multiversion::multiversion;

use super::element::{Element, Lane};
use super::network::Network;
use super::rule::{NonFinite, Rule, power_of_two};

/// Most elements of a tile, whose sums take 16 KiB.
const TILE: usize = 2048;

/// Bytes of the table of a tile that is sorted, unless there are too many contributions for it.
const TABLE_BYTES: usize = 32 << 10;

/// Fewest elements of a tile: whole vectors, and enough of them that the comparisons are worth starting.
const LEAST_TILE: usize = 64;

/// Why a block cannot be folded. Indices count from its start.
#[derive(Debug, PartialEq)]
pub(super) enum Flaw {
    /// A value is not finite.
    NonFinite { contribution: usize, index: usize, value: f64 },
    /// All values of a coordinate were left out, or all that have a weight.
    NothingLeft { index: usize },
}

/// A rule, ready to be applied to a number of contributions.
pub(super) struct Fold<'r> {
    rule: &'r Rule,
    non_finite: NonFinite,
    weights: Vec<f64>,
    /// What is left of sorted values, and how they are sorted; `None` where nothing is left out, so that order does not matter.
    sorted: Option<(Network, Range<usize>)>,
}

impl<'r> Fold<'r> {
    /// A fold of `contributions` contributions, for which the rule was checked.
    pub(super) fn new(rule: &'r Rule, non_finite: NonFinite, contributions: usize) -> Fold<'r> {
        let trimmed = rule.trimmed(contributions);
        let kept = trimmed..contributions - trimmed;
        let sorted = (trimmed > 0).then(|| (Network::new(contributions, &kept), kept));
        Fold { rule, non_finite, weights: rule.weights(contributions), sorted }
    }

    /// Folds a block of each contribution, all equally long and of whole elements, into `out`, which is as long. Answers how many
    /// values were left out because they were not finite.
    pub(super) fn block<E: Element>(&self, blocks: &[&[u8]], out: &mut [u8]) -> Result<u64, Flaw> {
        let table_row = TABLE_BYTES / (size_of::<E::Lane>() * blocks.len().max(1));
        let columns = if self.sorted.is_some() { table_row.clamp(LEAST_TILE, TILE) } else { TILE };
        let mut table = match &self.sorted {
            Some(_) => vec![E::Lane::default(); columns * blocks.len()],
            None => Vec::new(),
        };
        let mut sums = [0.0; TILE];
        let mut dropped = 0;
        for (tile, out) in E::elements_mut(out).chunks_mut(columns).enumerate() {
            let (start, len) = (tile * columns, out.len());
            let rows = || blocks.iter().map(|block| E::elements(block).get(start..start + len).unwrap_or_default());
            let sums = &mut sums[..len];
            let clean = match &self.sorted {
                None if E::AS_WIDE_AS_SUMS => {
                    let clean = self.sum::<E>(rows(), sums, out);
                    self.confine_to_rows::<E>(rows(), sums, out);
                    clean
                }
                None => self.sum::<E>(rows(), sums, out),
                Some((network, kept)) => sort_and_sum::<E>(rows(), (network, kept), &mut table, sums, out),
            };
            if !clean {
                dropped += self.mend::<E>(&rows().collect::<Vec<_>>(), sums, out).map_err(|flaw| flaw.behind(start))?;
            }
        }
        Ok(dropped)
    }

    /// The weighted mean of `rows`. False where anything was not finite, which shows in the sums.
    fn sum<'e, E: Element>(
        &self,
        rows: impl Iterator<Item = &'e [E::Bytes]>,
        sums: &mut [f64],
        out: &mut [E::Bytes],
    ) -> bool
    where
        E::Bytes: 'e,
    {
        for (number, (row, weight)) in rows.zip(&self.weights).enumerate() {
            // Adding to zero would lose the sign of a negative one.
            if number == 0 { start_sums::<E>(row, *weight, sums) } else { add::<E>(row, *weight, sums) }
        }
        finish::<E>(sums, self.weights.iter().sum(), out)
    }

    /// Has `means` lie within the values that have a weight.
    fn confine_to_rows<'e, E: Element>(
        &self,
        rows: impl Iterator<Item = &'e [E::Bytes]>,
        means: &[f64],
        out: &mut [E::Bytes],
    ) where
        E::Bytes: 'e,
    {
        let (mut least, mut most) = ([f64::INFINITY; TILE], [f64::NEG_INFINITY; TILE]);
        for (row, _) in rows.zip(&self.weights).filter(|(_, weight)| **weight > 0.0) {
            widen::<E>(row, &mut least, &mut most);
        }
        confine::<E, f64>(means, &least, &most, out);
    }

    /// Folds those coordinates again that have a value, or came to a result, that is not finite.
    fn mend<E: Element>(&self, rows: &[&[E::Bytes]], means: &[f64], out: &mut [E::Bytes]) -> Result<u64, Flaw> {
        let mut dropped = 0;
        let mut values = Vec::with_capacity(rows.len());
        for (index, (mean, out)) in means.iter().zip(out).enumerate() {
            values.clear();
            let mut bad = 0;
            for (contribution, (row, weight)) in rows.iter().zip(&self.weights).enumerate() {
                let Some(value) = row.get(index).map(|bytes| E::decode(*bytes).wide()) else { continue };
                match self.non_finite {
                    _ if value.is_finite() => values.push((*weight, value)),
                    NonFinite::Refuse => return Err(Flaw::NonFinite { contribution, index, value }),
                    NonFinite::Drop => bad += 1,
                }
            }
            if bad > 0 || !mean.is_finite() {
                *out = E::encode(self.careful(&mut values).ok_or(Flaw::NothingLeft { index })?);
                dropped += bad;
            }
        }
        Ok(dropped)
    }

    /// The rule over the finite `values` of one coordinate, each with its weight. `None` where no weight is left.
    fn careful(&self, values: &mut [(f64, f64)]) -> Option<f64> {
        let trimmed = self.rule.trimmed(values.len());
        if trimmed > 0 {
            values.sort_unstable_by(|(_, a), (_, b)| a.total_cmp(b));
        }
        let values = values.get(trimmed..values.len() - trimmed)?;
        let total: f64 = values.iter().map(|(weight, _)| weight).sum();
        let mean = |scale: f64| {
            let products = values.iter().map(|(weight, value)| weight * (value * scale));
            products.reduce(|sum, product| sum + product).map(|sum| sum / total)
        };
        let rounded = match mean(1.0).filter(|_| total > 0.0)? {
            plain if plain.is_finite() => plain,
            // Values that overflow a sum are so large that scaling costs them nothing.
            _ => mean(SCALE)? / SCALE,
        };
        let counted = || values.iter().filter(|(weight, _)| *weight > 0.0).map(|(_, value)| *value);
        Some(rounded.min(counted().reduce(f64::max)?).max(counted().reduce(f64::min)?))
    }
}

/// What the greatest `f64` becomes so small by that no number of contributions with the greatest weights makes it overflow.
const SCALE: f64 = power_of_two(-400);

impl Flaw {
    /// The same flaw, seen from `elements` before.
    fn behind(self, elements: usize) -> Flaw {
        match self {
            Flaw::NonFinite { contribution, index, value } => {
                Flaw::NonFinite { contribution, index: index + elements, value }
            }
            Flaw::NothingLeft { index } => Flaw::NothingLeft { index: index + elements },
        }
    }
}

/// The mean of what is `kept` of the sorted `rows`. False where anything was not finite.
fn sort_and_sum<'e, E: Element>(
    rows: impl Iterator<Item = &'e [E::Bytes]>,
    (network, kept): (&Network, &Range<usize>),
    table: &mut [E::Lane],
    sums: &mut [f64],
    out: &mut [E::Bytes],
) -> bool
where
    E::Bytes: 'e,
{
    let columns = out.len();
    let mut finite = true;
    for (row, lanes) in rows.zip(table.chunks_exact_mut(columns)) {
        finite &= decode::<E>(row, lanes);
    }
    network.sort(table, columns);
    for (number, row) in table.chunks_exact(columns).take(kept.end).skip(kept.start).enumerate() {
        if number == 0 { start_lanes(row, sums) } else { add_lanes(row, sums) }
    }
    let clean = finish::<E>(sums, kept.len() as f64, out) && finite;
    let row = |number: usize| table.chunks_exact(columns).nth(number);
    if let (true, Some(least), Some(most)) = (E::AS_WIDE_AS_SUMS, row(kept.start), row(kept.end - 1)) {
        confine::<E, E::Lane>(sums, least, most, out);
    }
    clean
}

#[multiversion(targets("x86_64+avx2+bmi1+bmi2"))]
fn start_sums<E: Element>(row: &[E::Bytes], weight: f64, sums: &mut [f64]) {
    for (sum, bytes) in sums.iter_mut().zip(row) {
        *sum = weight * E::decode(*bytes).wide();
    }
}

#[multiversion(targets("x86_64+avx2+bmi1+bmi2"))]
fn add<E: Element>(row: &[E::Bytes], weight: f64, sums: &mut [f64]) {
    for (sum, bytes) in sums.iter_mut().zip(row) {
        *sum += weight * E::decode(*bytes).wide();
    }
}

#[multiversion(targets("x86_64+avx2+bmi1+bmi2"))]
fn decode<E: Element>(row: &[E::Bytes], lanes: &mut [E::Lane]) -> bool {
    let mut finite = true;
    for (lane, bytes) in lanes.iter_mut().zip(row) {
        *lane = E::decode(*bytes);
        finite &= lane.finite();
    }
    finite
}

#[multiversion(targets("x86_64+avx2+bmi1+bmi2"))]
fn start_lanes<L: Lane>(row: &[L], sums: &mut [f64]) {
    for (sum, lane) in sums.iter_mut().zip(row) {
        *sum = lane.wide();
    }
}

#[multiversion(targets("x86_64+avx2+bmi1+bmi2"))]
fn add_lanes<L: Lane>(row: &[L], sums: &mut [f64]) {
    for (sum, lane) in sums.iter_mut().zip(row) {
        *sum += lane.wide();
    }
}

/// Has `least` and `most` be those of the values of a row as well.
#[multiversion(targets("x86_64+avx2+bmi1+bmi2"))]
fn widen<E: Element>(row: &[E::Bytes], least: &mut [f64], most: &mut [f64]) {
    for ((least, most), bytes) in least.iter_mut().zip(most).zip(row) {
        let value = E::decode(*bytes).wide();
        *least = if value < *least { value } else { *least };
        *most = if value > *most { value } else { *most };
    }
}

/// Encodes means that rounding has carried past the least or the greatest of their values as what they were carried past.
#[multiversion(targets("x86_64+avx2+bmi1+bmi2"))]
fn confine<E: Element, L: Lane>(means: &[f64], least: &[L], most: &[L], out: &mut [E::Bytes]) {
    for (((mean, least), most), out) in means.iter().zip(least).zip(most).zip(out) {
        let (least, most) = (least.wide(), most.wide());
        let mean = if *mean < least { least } else { *mean };
        *out = E::encode(if mean > most { most } else { mean });
    }
}

/// Divides the sums, which become means, and encodes them. Says whether all are finite.
#[multiversion(targets("x86_64+avx2+bmi1+bmi2"))]
fn finish<E: Element>(sums: &mut [f64], divisor: f64, out: &mut [E::Bytes]) -> bool {
    let mut finite = true;
    for (sum, out) in sums.iter_mut().zip(out) {
        *sum /= divisor;
        finite &= sum.is_finite();
        *out = E::encode(*sum);
    }
    finite
}

#[cfg(test)]
mod tests {
    use super::super::element::F64;
    use super::*;

    fn fold(rule: &Rule, non_finite: NonFinite, rows: &[&[f64]]) -> Result<(Vec<f64>, u64), Flaw> {
        let bytes = |row: &&[f64]| row.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let blocks: Vec<Vec<u8>> = rows.iter().map(bytes).collect();
        let blocks: Vec<&[u8]> = blocks.iter().map(Vec::as_slice).collect();
        let mut out = vec![0; blocks[0].len()];
        let dropped = Fold::new(rule, non_finite, rows.len()).block::<F64>(&blocks, &mut out)?;
        Ok((out.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect(), dropped))
    }

    #[test]
    fn sums_past_the_greatest_number_do_not_show() {
        let rows: [&[f64]; 3] = [&[f64::MAX, f64::MAX, 1.0], &[f64::MAX, f64::MIN, 2.0], &[f64::MAX, f64::MAX, 3.0]];
        let third = f64::MAX / 3.0;
        for rule in [Rule::Mean, Rule::Weighted(vec![power_of_two(1000); 3]), Rule::TrimmedMean { fraction: 0.1 }] {
            assert_eq!(fold(&rule, NonFinite::Refuse, &rows), Ok((vec![f64::MAX, third, 2.0], 0)), "{rule}");
        }
        assert_eq!(fold(&Rule::Median, NonFinite::Refuse, &rows), Ok((vec![f64::MAX, f64::MAX, 2.0], 0)));
        assert_eq!(fold(&Rule::Median, NonFinite::Refuse, &rows[..2]), Ok((vec![f64::MAX, 0.0, 1.5], 0)));
        let four = [rows[0]; 4];
        assert_eq!(fold(&Rule::Median, NonFinite::Refuse, &four), Ok((rows[0].to_vec(), 0)));
    }

    #[test]
    fn no_mean_lies_outside_its_values() {
        let tiny = 5e-324;
        let columns =
            [[0.1, 0.1, 0.1], [-0.1, -0.1, -0.1], [0.3, 0.3, 0.3_f64.next_up()], [tiny, tiny, tiny], [-0.0; 3]];
        let rows = [0, 1, 2].map(|row| columns.map(|column| column[row]));
        let four = [0, 1, 2, 0].map(|row| &rows[row][..]);
        let five = [0, 1, 2, 0, 1].map(|row| &rows[row][..]);
        // One that has no weight is no value.
        let far = [1e9, 1e9, 1e9, 1e9, -0.0];
        for (rule, rows) in [
            (Rule::Mean, &four[..3]),
            (Rule::Weighted(vec![0.1, 0.1, 0.1]), &four[..3]),
            (Rule::Weighted(vec![0.3, 0.0, 0.2, 0.7]), &[&rows[0][..], &far, &rows[1], &rows[2]][..]),
            (Rule::TrimmedMean { fraction: 0.2 }, &five[..]),
            (Rule::Median, &four[..]),
        ] {
            let (means, _) = fold(&rule, NonFinite::Refuse, rows).unwrap();
            // By itself, with a value in front that is left out.
            let mut spoilt = rows.to_vec();
            spoilt.push(&[f64::NAN; 5]);
            let careful = match &rule {
                Rule::Weighted(weights) => &Rule::Weighted([&weights[..], &[1.0]].concat()),
                rule => rule,
            };
            let (mended, _) = fold(careful, NonFinite::Drop, &spoilt).unwrap();
            for (column, values) in columns.iter().enumerate() {
                let bounds = values[0].min(values[2])..=values[0].max(values[2]);
                assert!(bounds.contains(&means[column]), "{rule}: {:e} of {values:?}", means[column]);
                assert!(bounds.contains(&mended[column]), "{rule}: {:e} of {values:?}, mended", mended[column]);
            }
            assert!(means[4].is_sign_negative() && mended[4].is_sign_negative(), "{rule}");
        }
    }

    #[test]
    fn what_is_not_finite_is_found_wherever_it_is() {
        let clean = vec![1.0; 2 * TILE + 5];
        for rule in [Rule::Mean, Rule::Median, Rule::Weighted(vec![1.0, 1.0, 0.0, 1.0])] {
            for (bad, index) in [(f64::NAN, 0), (f64::INFINITY, TILE), (f64::NEG_INFINITY, 2 * TILE + 4)] {
                let mut spoilt = clean.clone();
                spoilt[index] = bad;
                let rows: [&[f64]; 4] = [&clean, &clean, &spoilt, &clean];
                match fold(&rule, NonFinite::Refuse, &rows) {
                    Err(Flaw::NonFinite { contribution: 2, index: found, .. }) => assert_eq!(found, index),
                    other => panic!("{rule}: {other:?}"),
                }
                assert_eq!(fold(&rule, NonFinite::Drop, &rows), Ok((clean.clone(), 1)));
            }
        }
    }

    #[test]
    fn a_coordinate_without_values_is_refused() {
        let rows: [&[f64]; 2] = [&[1.0, f64::NAN], &[2.0, f64::NAN]];
        assert_eq!(fold(&Rule::Median, NonFinite::Drop, &rows), Err(Flaw::NothingLeft { index: 1 }));
        let rows: [&[f64]; 2] = [&[f64::NAN], &[2.0]];
        let weighted = Rule::Weighted(vec![1.0, 0.0]);
        assert_eq!(fold(&weighted, NonFinite::Drop, &rows), Err(Flaw::NothingLeft { index: 0 }));
        assert_eq!(fold(&Rule::Mean, NonFinite::Drop, &rows), Ok((vec![2.0], 1)));
    }
}
