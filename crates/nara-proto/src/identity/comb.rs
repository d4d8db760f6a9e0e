use std::sync::LazyLock;

use curve25519_dalek::constants::ED25519_BASEPOINT_POINT;
use curve25519_dalek::edwards::EdwardsPoint;
use curve25519_dalek::scalar::Scalar;

/// Bits of a scalar below the group order.
const SCALAR_BITS: usize = 253;

/// A fixed-base comb: the multiples of one point that make multiplying it by any scalar a sum of table
/// entries, one for every `W` bits of the scalar and none of them doubled.
///
/// Digits are signed, so a row holds the multiples 1 to 2^(W−1) only. Time and memory accesses depend on the
/// scalar: for public data only.
pub(super) struct Comb<const W: usize>(Box<[EdwardsPoint]>);

/// The comb of the base point, shared by all keys: 640 KiB, made on first use.
pub(super) static BASE: LazyLock<Comb<8>> = LazyLock::new(|| Comb::new(ED25519_BASEPOINT_POINT));

impl<const W: usize> Comb<W> {
    const ROWS: usize = SCALAR_BITS.div_ceil(W);
    const ROW: usize = 1 << (W - 1);

    /// Bytes of the table.
    pub(super) const BYTES: usize = Self::ROWS * Self::ROW * size_of::<EdwardsPoint>();

    pub(super) fn new(point: EdwardsPoint) -> Self {
        // The last row must take the carry of the one before: its digit may not reach half of its range.
        // A window of two bytes must hold any digit.
        const { assert!(1 < W && W <= 8 && SCALAR_BITS < Self::ROWS * W) }
        let mut table = Vec::with_capacity(Self::ROWS * Self::ROW);
        let mut base = point;
        for _ in 0..Self::ROWS {
            let mut multiple = base;
            table.push(multiple);
            for _ in 1..Self::ROW {
                multiple += base;
                table.push(multiple);
            }
            base = multiple + multiple;
        }
        Self(table.into())
    }

    /// Adds `scalar` times the point to `sum`. The scalar must be reduced.
    pub(super) fn add_product(&self, sum: &mut EdwardsPoint, scalar: &Scalar) {
        let bytes = scalar.as_bytes();
        let mut carry = 0;
        for (row, multiples) in self.0.chunks_exact(Self::ROW).enumerate() {
            let bit = row * W;
            let high = bytes.get(bit / 8 + 1).copied().unwrap_or(0);
            let window = u16::from_le_bytes([bytes[bit / 8], high]) >> (bit % 8);
            let digit = usize::from(window) % (1 << W) + carry;
            // A digit above half of the range stands for itself minus the range, plus one in the next row.
            if digit > Self::ROW {
                carry = 1;
                let magnitude = (1 << W) - digit;
                if magnitude > 0 {
                    *sum -= &multiples[magnitude - 1];
                }
            } else {
                carry = 0;
                if digit > 0 {
                    *sum += &multiples[digit - 1];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::traits::Identity as _;
    use proptest::prelude::*;

    use super::*;

    fn product<const W: usize>(comb: &Comb<W>, scalar: &Scalar) -> EdwardsPoint {
        let mut sum = EdwardsPoint::identity();
        comb.add_product(&mut sum, scalar);
        sum
    }

    #[test]
    fn the_extreme_scalars_are_multiplied_right() {
        let comb = Comb::<5>::new(ED25519_BASEPOINT_POINT);
        for scalar in [
            Scalar::ZERO,
            Scalar::ONE,
            -Scalar::ONE,
            Scalar::from(16u8),
            Scalar::from(17u8),
        ] {
            let expected = EdwardsPoint::mul_base(&scalar);
            assert_eq!(product(&comb, &scalar), expected);
            assert_eq!(product(&BASE, &scalar), expected);
        }
    }

    proptest! {
        #[test]
        fn any_scalar_is_multiplied_right(wide: [u8; 32], runs: [bool; 32]) {
            // Long runs of ones make carries.
            let bytes = std::array::from_fn(|i| if runs[i] { 0xff } else { wide[i] });
            let scalar = Scalar::from_bytes_mod_order(bytes);
            let expected = EdwardsPoint::mul_base(&scalar);
            prop_assert_eq!(product(&BASE, &scalar), expected);
            prop_assert_eq!(product(&Comb::<5>::new(ED25519_BASEPOINT_POINT), &scalar), expected);
        }
    }
}
