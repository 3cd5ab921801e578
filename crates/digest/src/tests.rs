use proptest::prelude::*;

use super::*;
use crate::compress::{Lanes, START, compress};

fn hex(digest: [u8; 16]) -> String {
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

/// RFC 1321, appendix A.5.
const RFC: [(&str, &str); 7] = [
    ("", "d41d8cd98f00b204e9800998ecf8427e"),
    ("a", "0cc175b9c0f1b6a831c399e269772661"),
    ("abc", "900150983cd24fb0d6963f7d28e17f72"),
    ("message digest", "f96b697d7cb7938d525a2f31aaf161d0"),
    ("abcdefghijklmnopqrstuvwxyz", "c3fcd3d76192e4007dfb496cca67e13b"),
    ("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", "d174ab98d277d9f5a5611c2c9f419d9f"),
    ("12345678901234567890123456789012345678901234567890123456789012345678901234567890", "57edf4a22be3c955ac49da2e2107b67a"),
];

#[test]
fn every_kernel_of_this_machine_gives_the_vectors_of_the_rfc() {
    for kernel in Kernel::available() {
        assert_eq!(ManyMd5::with(*kernel).kernel(), *kernel);
        // Often enough to fill all lanes.
        let rows: Vec<&[u8]> = (0..20).flat_map(|_| RFC.iter().map(|(text, _)| text.as_bytes())).collect();
        let mut seen = vec![0; rows.len()];
        ManyMd5::with(*kernel).digest(&rows, |i, digest| {
            assert_eq!(hex(digest), RFC[i % RFC.len()].1, "{kernel:?}");
            seen[i] += 1;
        });
        assert!(seen.iter().all(|n| *n == 1), "each row once: {kernel:?}");
    }
}

#[test]
fn the_best_kernel_is_the_widest_that_is_right() {
    assert_eq!(Some(&Kernel::best()), Kernel::available().last());
}

/// What is the same in all kernels, with lanes that need no intrinsics: also where a processor lacks the wide ones.
#[derive(Clone, Copy)]
struct One(u32);

impl Lanes for One {
    fn add(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }
    fn splat(word: u32) -> Self {
        Self(word)
    }
    fn rotate<const LEFT: i32>(self) -> Self {
        Self(self.0.rotate_left(LEFT.unsigned_abs()))
    }
    fn f(b: Self, c: Self, d: Self) -> Self {
        Self((b.0 & c.0) | (!b.0 & d.0))
    }
    fn g(b: Self, c: Self, d: Self) -> Self {
        Self((d.0 & b.0) | (!d.0 & c.0))
    }
    fn h(b: Self, c: Self, d: Self) -> Self {
        Self(b.0 ^ c.0 ^ d.0)
    }
    fn i(b: Self, c: Self, d: Self) -> Self {
        Self(c.0 ^ (b.0 | !d.0))
    }
}

#[test]
fn the_steps_are_those_of_the_rfc() {
    let mut block = [0u8; BLOCK];
    block[..3].copy_from_slice(b"abc");
    block[3] = 0x80;
    block[56] = 24;
    let words: [One; 16] = std::array::from_fn(|i| One(u32::from_le_bytes(block[4 * i..4 * i + 4].try_into().unwrap())));
    let mut state = START.map(One);
    compress(&mut state, &words);
    let digest: Vec<u8> = state.iter().flat_map(|w| w.0.to_le_bytes()).collect();
    assert_eq!(hex(digest.try_into().unwrap()), RFC[2].1);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_tables_are_the_functions() {
    use crate::kernel::x86::{F, G, H, I};
    type Function = fn(One, One, One) -> One;
    for (table, function) in [(F, One::f as Function), (G, One::g), (H, One::h), (I, One::i)] {
        for index in 0..8u32 {
            let bit = |n: u32| One(if index >> n & 1 == 1 { u32::MAX } else { 0 });
            let expected = function(bit(2), bit(1), bit(0)).0 & 1;
            assert_eq!((table >> index & 1).unsigned_abs(), expected, "index {index}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Any number of rows of any lengths, at any alignment: the same digests as one at a time.
    #[test]
    fn kernels_agree_with_their_safe_twin(
        lengths in prop::collection::vec(prop_oneof![8 => 0usize..300, 1 => 0usize..3000, 1 => prop::sample::select(vec![55usize, 56, 63, 64, 119, 120, 127, 128])], 0..150),
        offset in 0usize..64,
        seed in any::<u64>(),
    ) {
        let bytes: Vec<u8> = (0..offset + lengths.iter().sum::<usize>())
            .map(|i| (seed.wrapping_add(i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
            .collect();
        let mut at = offset;
        let rows: Vec<&[u8]> = lengths.iter().map(|n| { at += n; &bytes[at - n..at] }).collect();
        for kernel in Kernel::available() {
            let mut found = vec![None; rows.len()];
            ManyMd5::with(*kernel).digest(&rows, |i, digest| found[i] = Some(digest));
            for (row, digest) in rows.iter().zip(&found) {
                prop_assert_eq!(digest.unwrap(), scalar(row), "{:?}", kernel);
            }
        }
    }
}

/// Rows far above what is sorted by counting.
#[test]
fn long_rows_too() {
    let bytes: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
    let rows: Vec<&[u8]> = (0..40).map(|i| &bytes[..i * 4999]).collect();
    for kernel in Kernel::available() {
        let mut count = 0;
        ManyMd5::with(*kernel).digest(&rows, |i, digest| {
            assert_eq!(digest, scalar(rows[i]));
            count += 1;
        });
        assert_eq!(count, rows.len());
    }
}
