//! Sums of floats whose results do not depend on the order of their terms.
//!
//! Owns: the exact sum as an expansion of non-overlapping parts (Shewchuk, "Adaptive Precision Floating-Point
//! Arithmetic", 1997, GROW-EXPANSION), as in Python's `math.fsum`. Crates that compute such sums are not used, since
//! they do not expose their state. Invariants: adding and then retracting a number does not change the sum; the value
//! is the exact sum, rounded once. Sums beyond the range of `f64` are infinite, as in IEEE 754.

/// An exact sum of finite numbers, with infinities and NaNs counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExactSum {
    /// The parts: non-overlapping, of increasing magnitude, none zero.
    parts: Vec<f64>,
    /// Number of terms that are +∞, −∞ and NaN.
    special: [i64; 3],
}

impl ExactSum {
    /// Adds `value` `times` times; a negative number retracts it.
    pub fn add(&mut self, value: f64, times: i64) {
        if value.is_finite() {
            self.add_product(value, times);
        } else {
            let kind = if value.is_nan() { 2 } else { usize::from(value < 0.0) };
            self.special[kind] += times;
        }
    }

    /// Adds `value * times` exactly.
    fn add_product(&mut self, value: f64, times: i64) {
        let mut rest = times.unsigned_abs();
        let signed = if times < 0 { -value } else { value };
        let mut scaled = signed;
        while rest > 0 {
            if rest & 1 == 1 {
                self.grow(scaled);
            }
            rest >>= 1;
            scaled *= 2.0;
        }
    }

    /// Adds the square of `value` `times` times, exactly.
    pub fn add_square(&mut self, value: f64, times: i64) {
        let square = value * value;
        if square.is_finite() {
            self.add_product(square, times);
            self.add_product(value.mul_add(value, -square), times);
        } else {
            self.add(square, times);
        }
    }

    fn grow(&mut self, term: f64) {
        let mut carry = term;
        let mut kept = 0;
        for at in 0..self.parts.len() {
            let (mut big, mut small) = (carry, self.parts[at]);
            if big.abs() < small.abs() {
                std::mem::swap(&mut big, &mut small);
            }
            let sum = big + small;
            let error = small - (sum - big);
            if error != 0.0 {
                self.parts[kept] = error;
                kept += 1;
            }
            carry = sum;
        }
        self.parts.truncate(kept);
        if carry != 0.0 {
            self.parts.push(carry);
        }
        if carry.is_infinite() {
            self.parts.clear();
            self.special[usize::from(carry < 0.0)] += 1;
        }
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &Self) {
        other.parts.iter().for_each(|part| self.grow(*part));
        self.special.iter_mut().zip(other.special).for_each(|(mine, more)| *mine += more);
    }

    /// Returns the sum's finite parts.
    pub fn parts(&self) -> &[f64] {
        &self.parts
    }

    /// Returns the sum, rounded to the nearest `f64`.
    pub fn value(&self) -> f64 {
        let [up, down, nan] = self.special.map(|count| count > 0);
        if nan || up && down {
            return f64::NAN;
        }
        if up || down {
            return if up { f64::INFINITY } else { f64::NEG_INFINITY };
        }
        let mut parts = self.parts.iter().rev();
        let Some(mut total) = parts.next().copied() else { return 0.0 };
        while let Some(part) = parts.next() {
            let before = total;
            total = before + part;
            let error = part - (total - before);
            if error != 0.0 {
                // In half-way cases the next part decides (as in CPython's math.fsum).
                let next = parts.next().copied().unwrap_or_default();
                if error < 0.0 && next < 0.0 || error > 0.0 && next > 0.0 {
                    let twice = error * 2.0;
                    let nudged = total + twice;
                    if twice == nudged - total {
                        total = nudged;
                    }
                }
                break;
            }
        }
        total
    }

    /// Returns the sum as parts that are the same for every order of terms.
    fn canonical(&self) -> Vec<f64> {
        let mut rest = self.clone();
        rest.special = [0; 3];
        let mut parts = Vec::with_capacity(rest.parts.len());
        while !rest.parts.is_empty() {
            let most = rest.value();
            parts.push(most);
            rest.grow(-most);
        }
        parts.reverse();
        parts
    }

    /// Appends the sum's bytes, which are equal for equal sums.
    pub fn write(&self, into: &mut Vec<u8>) {
        let parts = self.canonical();
        into.push(u8::try_from(parts.len()).unwrap_or(u8::MAX));
        parts.iter().for_each(|part| into.extend_from_slice(&part.to_le_bytes()));
        let is_special = self.special != [0; 3];
        into.push(u8::from(is_special));
        if is_special {
            self.special.iter().for_each(|count| into.extend_from_slice(&count.to_le_bytes()));
        }
    }

    /// Reads a sum that `write` has written from the front of `bytes`; `None` if it is cut off.
    pub fn read(bytes: &mut &[u8]) -> Option<Self> {
        let mut sum = Self::default();
        let count = take::<1>(bytes)?[0];
        for _ in 0..count {
            sum.parts.push(f64::from_le_bytes(take(bytes)?));
        }
        if take::<1>(bytes)?[0] == 1 {
            for special in &mut sum.special {
                *special = i64::from_le_bytes(take(bytes)?);
            }
        }
        Some(sum)
    }
}

/// Removes and returns the next bytes of `from`; `None` if there are too few.
pub fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = from.split_first_chunk::<N>()?;
    *from = rest;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sum(terms: &[f64]) -> ExactSum {
        let mut sum = ExactSum::default();
        terms.iter().for_each(|term| sum.add(*term, 1));
        sum
    }

    #[test]
    fn exact_where_naive_sums_are_not() {
        assert_eq!(sum(&[1e100, 1.0, -1e100]).value(), 1.0);
        assert_eq!(sum(&[0.1; 10]).value(), 1.0);
        assert_eq!(sum(&[1e-16, 1.0, 1e16]).value(), 1e16 + 2.0);
        assert!(sum(&[f64::INFINITY, f64::NEG_INFINITY]).value().is_nan());
        let mut gone = sum(&[f64::INFINITY, 2.5]);
        gone.add(f64::INFINITY, -1);
        assert_eq!(gone.value(), 2.5);
    }

    proptest! {
        #[test]
        fn the_order_does_not_matter_and_what_is_taken_away_is_gone(
            terms in proptest::collection::vec((-1e30f64..1e30, -60i32..60), 0..20),
            more in proptest::collection::vec(-1e10f64..1e10, 0..10),
            times in 1i64..100,
        ) {
            let terms: Vec<f64> = terms.into_iter().map(|(value, power)| value * 2f64.powi(power)).collect();
            let forward = sum(&terms);
            let mut backward = sum(&more);
            terms.iter().rev().for_each(|term| backward.add(*term, times));
            more.iter().for_each(|term| backward.add(*term, -1));
            terms.iter().for_each(|term| backward.add(*term, 1 - times));
            prop_assert_eq!(forward.value(), backward.value());
            let (mut one, mut other) = (Vec::new(), Vec::new());
            forward.write(&mut one);
            backward.write(&mut other);
            prop_assert_eq!(&one, &other);
            let read = ExactSum::read(&mut one.as_slice()).unwrap();
            prop_assert_eq!(read.value(), forward.value());
        }
    }
}
