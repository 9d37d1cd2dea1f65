//! [`Network`]: sorts the columns of a table, all by the same comparisons of two rows, so that each is a loop over vectors.
//!
//! Invariant: after the comparisons the wanted rows hold what they would hold if every column was sorted. Batcher's merge exchange
//! (Knuth, *The Art of Computer Programming*, 5.2.2, algorithm M) gives them for any number of rows; those that no wanted row depends
//! on are left out.

use std::ops::Range;

use multiversion::multiversion;

use super::element::Lane;

/// Comparisons of two rows, in order: the lesser of each column comes to the first.
#[derive(Debug)]
pub(super) struct Network(Vec<(usize, usize)>);

impl Network {
    /// The comparisons that bring the rows `wanted` of `rows` into place.
    pub(super) fn new(rows: usize, wanted: &Range<usize>) -> Network {
        let mut matters: Vec<bool> = (0..rows).map(|row| wanted.contains(&row)).collect();
        let mut kept = Vec::new();
        for (a, b) in merge_exchange(rows).into_iter().rev() {
            if matters[a] || matters[b] {
                (matters[a], matters[b]) = (true, true);
                kept.push((a, b));
            }
        }
        kept.reverse();
        Network(kept)
    }

    /// Sorts the columns of `table`, whose rows are `columns` long.
    pub(super) fn sort<L: Lane>(&self, table: &mut [L], columns: usize) {
        exchange_rows(table, columns, &self.0);
    }
}

fn merge_exchange(rows: usize) -> Vec<(usize, usize)> {
    let mut comparisons = Vec::new();
    let top = rows.next_power_of_two() / 2;
    let mut p = top;
    while p > 0 {
        let (mut q, mut r, mut d) = (top, 0, p);
        loop {
            let pairs = (0..rows.saturating_sub(d)).filter(|i| i & p == r);
            comparisons.extend(pairs.map(|i| (i, i + d)));
            if q == p {
                break;
            }
            (d, q, r) = (q - p, q / 2, p);
        }
        p /= 2;
    }
    comparisons
}

#[multiversion(targets("x86_64+avx2+bmi1+bmi2"))]
fn exchange_rows<L: Lane>(table: &mut [L], columns: usize, comparisons: &[(usize, usize)]) {
    for &(a, b) in comparisons {
        let (front, back) = table.split_at_mut(b * columns);
        let (first, second) = (&mut front[a * columns..][..columns], &mut back[..columns]);
        for (x, y) in first.iter_mut().zip(second) {
            (*x, *y) = if *y < *x { (*y, *x) } else { (*x, *y) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wanted_rows_are_in_place_for_every_column_of_zeros_and_ones() {
        // The 0-1 principle: what sorts these sorts everything.
        for rows in 1..=12 {
            for wanted in (0..rows).flat_map(|start| (start + 1..=rows).map(move |end| start..end)) {
                let columns = 1 << rows;
                let bit = |row: usize, column: usize| (column >> row & 1) as f32;
                let mut table: Vec<f32> = (0..rows).flat_map(|r| (0..columns).map(move |c| bit(r, c))).collect();
                Network::new(rows, &wanted).sort(&mut table, columns);
                for (column, row) in (0..columns).flat_map(|c| wanted.clone().map(move |r| (c, r))) {
                    let zeros = rows - column.count_ones() as usize;
                    assert_eq!(table[row * columns + column], if row < zeros { 0.0 } else { 1.0 });
                }
            }
        }
    }

    #[test]
    fn large_tables_are_sorted() {
        for rows in [13, 17, 64, 100, 1000] {
            let mut table: Vec<f64> = (0..rows).map(|row| (row * 7919 % rows) as f64).collect();
            Network::new(rows, &(0..rows)).sort(&mut table, 1);
            assert!(table.is_sorted());
        }
    }
}
