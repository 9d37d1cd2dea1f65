//! [`Rule`]: what becomes of the values of one coordinate, and the checks of what a caller asks for.

use std::fmt;

use crate::error::{Error, Result};
use crate::limits;

/// How the values of one coordinate are folded into one.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub enum Rule {
    /// Their mean.
    #[default]
    Mean,
    /// Their weighted mean. The weights are those of the contributions in their order: finite, not negative, not all zero.
    Weighted(Vec<f64>),
    /// The mean of what is left without the `floor(fraction * n)` least and as many greatest of `n` values.
    TrimmedMean {
        /// From 0 to below 0.5, so that something is left. With 0 this is the mean.
        fraction: f64,
    },
    /// The middle value; of an even number of values the mean of the middle two.
    Median,
}

/// What to do about values that are infinite or no numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum NonFinite {
    /// The first one refuses the aggregation; the error says where it is.
    #[default]
    Refuse,
    /// Its contribution is left out of that coordinate. Where none is left, or none with a weight, the aggregation is refused.
    Drop,
}

impl Rule {
    /// Fails unless the rule makes sense for this number of contributions.
    pub(super) fn check(&self, contributions: usize) -> Result<()> {
        let limit = limits::CONTRIBUTIONS;
        if contributions == 0 {
            return Err(syntax("number of contributions", &0, "at least one is needed"));
        }
        if contributions > limit {
            let (found, limit) = (contributions as u64, limit as u64);
            return Err(Error::Limit { what: "number of contributions", found, limit });
        }
        match self {
            Rule::Weighted(weights) if weights.len() != contributions => {
                let why = format!("there are {contributions} contributions, and each has one weight");
                Err(syntax("number of weights", &weights.len(), &why))
            }
            Rule::Weighted(weights) => {
                if let Some(weight) = weights.iter().find(|&weight| !(0.0..=f64::MAX).contains(weight)) {
                    return Err(syntax("weight", weight, "weights are finite and not negative"));
                }
                match weights.iter().any(|&weight| weight > 0.0) {
                    true => Ok(()),
                    false => Err(syntax("weight", &0, "at least one weight is greater than zero")),
                }
            }
            Rule::TrimmedMean { fraction } if !(0.0..0.5).contains(fraction) => {
                Err(syntax("fraction", fraction, "it lies between 0 and 0.5, 0.5 excluded, so that something is left"))
            }
            Rule::Mean | Rule::TrimmedMean { .. } | Rule::Median => Ok(()),
        }
    }

    /// How many of the least, and of the greatest, of `values` values are left out. Some value is always left.
    pub(super) fn trimmed(&self, values: usize) -> usize {
        let most = values.saturating_sub(1) / 2;
        match self {
            Rule::Mean | Rule::Weighted(_) => 0,
            // The product may be rounded up to half of them, or down to just below the whole number that it is.
            Rule::TrimmedMean { fraction } => ((fraction * values as f64 + 1e-9) as usize).min(most),
            Rule::Median => most,
        }
    }

    /// The weight of each contribution. Where they are so large or small that sums of them could overflow or vanish, they are scaled by a
    /// power of two, which changes no digit: the greatest is then between one and two.
    pub(super) fn weights(&self, contributions: usize) -> Vec<f64> {
        let Rule::Weighted(weights) = self else { return vec![1.0; contributions] };
        let greatest = weights.iter().copied().fold(0.0, f64::max);
        if (power_of_two(-256)..power_of_two(256)).contains(&greatest) {
            return weights.clone();
        }
        // In two steps: a subnormal number is first made a normal one.
        let lift = if greatest < f64::MIN_POSITIVE { power_of_two(100) } else { 1.0 };
        let power = f64::from_bits((greatest * lift).to_bits() & (0x7ff << 52));
        weights.iter().map(|weight| weight * lift / power).collect()
    }
}

/// Two to the power of a normal number's exponent.
pub(super) const fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((1023 + exponent) as u64) << 52)
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::Mean => f.write_str("mean"),
            Rule::Weighted(_) => f.write_str("weighted mean"),
            Rule::TrimmedMean { fraction } => write!(f, "trimmed mean {fraction}"),
            Rule::Median => f.write_str("median"),
        }
    }
}

fn syntax(what: &'static str, input: &dyn fmt::Display, why: &str) -> Error {
    Error::Syntax { what, input: input.to_string(), why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_that_make_no_sense_are_refused() {
        for (rule, contributions) in [
            (Rule::Mean, 0),
            (Rule::Mean, limits::CONTRIBUTIONS + 1),
            (Rule::Weighted(vec![1.0]), 2),
            (Rule::Weighted(vec![1.0, -0.5]), 2),
            (Rule::Weighted(vec![f64::NAN, 1.0]), 2),
            (Rule::Weighted(vec![f64::INFINITY, 1.0]), 2),
            (Rule::Weighted(vec![0.0, 0.0]), 2),
            (Rule::TrimmedMean { fraction: 0.5 }, 9),
            (Rule::TrimmedMean { fraction: -0.1 }, 9),
            (Rule::TrimmedMean { fraction: f64::NAN }, 9),
        ] {
            assert!(rule.check(contributions).is_err(), "{rule:?} of {contributions}");
        }
        assert!(Rule::Weighted(vec![0.0, 1e-320, f64::MAX]).check(3).is_ok());
    }

    #[test]
    fn something_is_left_after_trimming() {
        let nearly_half = Rule::TrimmedMean { fraction: 0.5_f64.next_down() };
        for values in 1..=limits::CONTRIBUTIONS {
            assert!(nearly_half.trimmed(values) * 2 < values && Rule::Median.trimmed(values) * 2 < values);
        }
        assert_eq!(Rule::TrimmedMean { fraction: 0.25 }.trimmed(7), 1);
        assert_eq!(Rule::TrimmedMean { fraction: 0.29 }.trimmed(100), 29);
        assert_eq!((Rule::Median.trimmed(4), Rule::Median.trimmed(5)), (1, 2));
    }

    #[test]
    fn only_extreme_weights_are_scaled() {
        assert_eq!(Rule::Weighted(vec![3.0, 0.0, 12.0]).weights(3), [3.0, 0.0, 12.0]);
        assert_eq!(Rule::Weighted(vec![3.0 * power_of_two(300), 0.0]).weights(2), [1.5, 0.0]);
        assert_eq!(Rule::Weighted(vec![f64::MAX, 1.0]).weights(2), [2.0_f64.next_down(), 2.0_f64.powi(-1023)]);
        assert_eq!(Rule::Weighted(vec![5e-324, 1e-323]).weights(2), [0.5, 1.0]);
        assert_eq!(Rule::Median.weights(2), [1.0, 1.0]);
    }
}
