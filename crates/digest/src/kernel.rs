//! The kernels: AVX-512 with 2 × 16 lanes, AVX2 with 2 × 8, and none. Chosen at run time.
//!
//! *Invariant*: unsafe code is here only, for intrinsics; what they read are references to whole blocks.

use std::sync::OnceLock;

use crate::compress::START;
use crate::{BLOCK, blocks, scalar};

/// How rows are digested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// One row at a time.
    Scalar,
    /// 2 × 8 lanes.
    Avx2,
    /// 2 × 16 lanes.
    Avx512,
}

impl Kernel {
    /// Returns the kernels that this processor has, slowest first.
    #[must_use]
    pub fn available() -> &'static [Self] {
        static AVAILABLE: OnceLock<Vec<Kernel>> = OnceLock::new();
        AVAILABLE.get_or_init(|| {
            let mut found = vec![Self::Scalar];
            #[cfg(target_arch = "x86_64")]
            {
                found.extend(is_x86_feature_detected!("avx2").then_some(Self::Avx2));
                found.extend((is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx2")).then_some(Self::Avx512));
            }
            found
        })
    }

    /// Returns the fastest kernel that gives what the safe twin gives on this machine.
    #[must_use]
    pub fn best() -> Self {
        static BEST: OnceLock<Kernel> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().iter().rev().copied().find(|k| k.is_right()).unwrap_or(Self::Scalar))
    }

    /// Digests messages of many lengths and compares with the safe twin.
    fn is_right(self) -> bool {
        let bytes: Vec<u8> = (0..4096u32).map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
        let rows: Vec<&[u8]> = (0..200).map(|i| &bytes[i..i + i * 7 % 300]).collect();
        let mut right = 0;
        crate::ManyMd5::with(self).digest(&rows, |i, digest| right += usize::from(digest == scalar(rows[i])));
        right == rows.len()
    }

    /// Returns how many rows it digests at a time.
    pub(crate) fn lanes(self) -> usize {
        match self {
            Self::Scalar => 1,
            Self::Avx2 => 16,
            Self::Avx512 => 32,
        }
    }

    /// Digests up to [`Kernel::lanes`] rows, ordered by length.
    pub(crate) fn digest(self, batch: &[u32], rows: &[&[u8]], each: &mut impl FnMut(usize, [u8; 16])) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => run::<16>(batch, rows, each, |state, blocks| {
                // SAFETY: `ManyMd5::with` uses this kernel only where `available` has found AVX2.
                #[expect(unsafe_code, reason = "a SIMD kernel that a benchmark justifies")]
                unsafe {
                    x86::step_avx2(state, blocks);
                }
            }),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => run::<32>(batch, rows, each, |state, blocks| {
                // SAFETY: `ManyMd5::with` uses this kernel only where `available` has found AVX-512F and AVX2.
                #[expect(unsafe_code, reason = "a SIMD kernel that a benchmark justifies")]
                unsafe {
                    x86::step_avx512(state, blocks);
                }
            }),
            _ => batch.iter().for_each(|i| each(*i as usize, scalar(rows[*i as usize]))),
        }
    }
}

/// State of `L` lanes: the four words of each, word by word.
pub(crate) type State<const L: usize> = [[u32; L]; 4];

/// Feeds the blocks of up to `L` messages to `step`, and hands out each digest when its message ends. A lane that has ended,
/// or has no row, repeats a block that nobody looks at.
fn run<const L: usize>(
    batch: &[u32],
    rows: &[&[u8]],
    each: &mut impl FnMut(usize, [u8; 16]),
    step: impl Fn(&mut State<L>, &[&[u8; BLOCK]; L]),
) {
    let row = |lane: usize| rows[batch[lane] as usize];
    let mut tails = [[0u8; 2 * BLOCK]; L];
    // Number of whole blocks in the row itself, and of all blocks.
    let mut whole = [0usize; L];
    let mut all = [0usize; L];
    for lane in 0..batch.len() {
        let message = row(lane);
        (whole[lane], all[lane]) = (message.len() / BLOCK, blocks(message.len()));
        let rest = &message[whole[lane] * BLOCK..];
        let tail = &mut tails[lane];
        tail[..rest.len()].copy_from_slice(rest);
        tail[rest.len()] = 0x80;
        let end = (all[lane] - whole[lane]) * BLOCK;
        tail[end - 8..end].copy_from_slice(&(message.len() as u64 * 8).to_le_bytes());
    }
    let mut state: State<L> = START.map(|word| [word; L]);
    let steps = all[..batch.len()].iter().copied().max().unwrap_or(0);
    let idle = [0u8; BLOCK];
    for n in 0..steps {
        let mut blocks: [&[u8; BLOCK]; L] = [&idle; L];
        for lane in 0..batch.len() {
            if n < whole[lane] {
                blocks[lane] = block_at(row(lane), n);
            } else if n < all[lane] {
                blocks[lane] = block_at(&tails[lane], n - whole[lane]);
            }
        }
        step(&mut state, &blocks);
        for lane in 0..batch.len() {
            if all[lane] == n + 1 {
                let mut digest = [0; 16];
                for (bytes, words) in digest.chunks_exact_mut(4).zip(&state) {
                    bytes.copy_from_slice(&words[lane].to_le_bytes());
                }
                each(batch[lane] as usize, digest);
            }
        }
    }
}

fn block_at(bytes: &[u8], n: usize) -> &[u8; BLOCK] {
    bytes[n * BLOCK..(n + 1) * BLOCK].try_into().expect("a slice of 64 bytes")
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "SIMD intrinsics")]
pub(crate) mod x86 {
    //! Intrinsics. Lane `l` of a vector belongs to row `l` of its group.

    use std::arch::x86_64::*;

    use super::State;
    use crate::BLOCK;
    use crate::compress::{Lanes, Pair, compress};

    #[derive(Clone, Copy)]
    struct V8(__m256i);

    // SAFETY of every block in this impl: the methods are inlined into `step_avx2`, which runs only where AVX2 is.
    impl Lanes for V8 {
        #[inline(always)]
        fn add(self, other: Self) -> Self {
            // SAFETY: see the impl.
            Self(unsafe { _mm256_add_epi32(self.0, other.0) })
        }
        #[inline(always)]
        fn splat(word: u32) -> Self {
            // SAFETY: see the impl.
            Self(unsafe { _mm256_set1_epi32(word.cast_signed()) })
        }
        #[inline(always)]
        fn rotate<const LEFT: i32>(self) -> Self {
            // SAFETY: see the impl.
            Self(unsafe {
                _mm256_or_si256(
                    _mm256_sllv_epi32(self.0, _mm256_set1_epi32(LEFT)),
                    _mm256_srlv_epi32(self.0, _mm256_set1_epi32(32 - LEFT)),
                )
            })
        }
        #[inline(always)]
        fn f(b: Self, c: Self, d: Self) -> Self {
            // SAFETY: see the impl.
            Self(unsafe { _mm256_xor_si256(d.0, _mm256_and_si256(b.0, _mm256_xor_si256(c.0, d.0))) })
        }
        #[inline(always)]
        fn g(b: Self, c: Self, d: Self) -> Self {
            Self::f(d, b, c)
        }
        #[inline(always)]
        fn h(b: Self, c: Self, d: Self) -> Self {
            // SAFETY: see the impl.
            Self(unsafe { _mm256_xor_si256(_mm256_xor_si256(b.0, c.0), d.0) })
        }
        #[inline(always)]
        fn i(b: Self, c: Self, d: Self) -> Self {
            // SAFETY: see the impl.
            Self(unsafe {
                let not_d = _mm256_xor_si256(d.0, _mm256_set1_epi32(-1));
                _mm256_xor_si256(c.0, _mm256_or_si256(b.0, not_d))
            })
        }
    }

    /// Loads half of the words (first or second) of eight blocks, from `first` on, and turns rows into lanes.
    ///
    /// # Safety
    /// AVX2 is available; there are eight blocks from `first` on, and `half` is 0 or 1.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn transposed(blocks: &[&[u8; BLOCK]], first: usize, half: usize) -> [__m256i; 8] {
        // No closures here: they would not have the feature, and every intrinsic in them would be a call.
        let mut rows = [_mm256_setzero_si256(); 8];
        for (lane, row) in rows.iter_mut().enumerate() {
            // SAFETY: the load reads 32 bytes at offset 0 or 32 of a block of 64.
            *row = unsafe { _mm256_loadu_si256(blocks[first + lane].as_ptr().add(half * 32).cast()) };
        }
        let mut pairs = [_mm256_setzero_si256(); 8];
        for i in 0..4 {
            pairs[2 * i] = _mm256_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
            pairs[2 * i + 1] = _mm256_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
        }
        let mut quads = [_mm256_setzero_si256(); 8];
        for i in 0..2 {
            quads[4 * i] = _mm256_unpacklo_epi64(pairs[4 * i], pairs[4 * i + 2]);
            quads[4 * i + 1] = _mm256_unpackhi_epi64(pairs[4 * i], pairs[4 * i + 2]);
            quads[4 * i + 2] = _mm256_unpacklo_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
            quads[4 * i + 3] = _mm256_unpackhi_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
        }
        let mut out = [_mm256_setzero_si256(); 8];
        for i in 0..4 {
            out[i] = _mm256_permute2x128_si256::<0x20>(quads[i], quads[i + 4]);
            out[i + 4] = _mm256_permute2x128_si256::<0x31>(quads[i], quads[i + 4]);
        }
        out
    }

    /// Takes one block of each of 16 rows.
    ///
    /// # Safety
    /// AVX2 is available.
    #[target_feature(enable = "avx2")]
    pub(crate) unsafe fn step_avx2(state: &mut State<16>, blocks: &[&[u8; BLOCK]; 16]) {
        let zero = Pair(V8(_mm256_setzero_si256()), V8(_mm256_setzero_si256()));
        let mut words = [zero; 16];
        for half in 0..2 {
            // SAFETY: the caller has AVX2; there are 16 blocks.
            let (low, high) = unsafe { (transposed(blocks, 0, half), transposed(blocks, 8, half)) };
            for i in 0..8 {
                words[half * 8 + i] = Pair(V8(low[i]), V8(high[i]));
            }
        }
        let mut lanes = [zero; 4];
        for (lanes, word) in lanes.iter_mut().zip(state.iter()) {
            // SAFETY: both loads are within the 16 words.
            *lanes = unsafe {
                Pair(V8(_mm256_loadu_si256(word.as_ptr().cast())), V8(_mm256_loadu_si256(word.as_ptr().add(8).cast())))
            };
        }
        compress(&mut lanes, &words);
        for (word, lanes) in state.iter_mut().zip(&lanes) {
            // SAFETY: both stores are within the 16 words.
            unsafe {
                _mm256_storeu_si256(word.as_mut_ptr().cast(), lanes.0.0);
                _mm256_storeu_si256(word.as_mut_ptr().add(8).cast(), lanes.1.0);
            }
        }
    }

    #[derive(Clone, Copy)]
    struct V16(__m512i);

    /// Returns the table of a function of three bits for `vpternlog`: the bit at index `b c d`.
    pub(crate) const fn table(function: [u8; 8]) -> i32 {
        let mut table = 0;
        let mut i = 0;
        while i < 8 {
            table |= (function[i] as i32) << i;
            i += 1;
        }
        table
    }
    //                                 000 001 010 011 100 101 110 111
    pub(crate) const F: i32 = table([0, 1, 0, 1, 0, 0, 1, 1]);
    pub(crate) const G: i32 = table([0, 0, 1, 0, 0, 1, 1, 1]);
    pub(crate) const H: i32 = table([0, 1, 1, 0, 1, 0, 0, 1]);
    pub(crate) const I: i32 = table([1, 0, 0, 1, 1, 1, 0, 0]);

    // SAFETY of every block in this impl: the methods are inlined into `step_avx512`, which runs only where AVX-512F is.
    impl Lanes for V16 {
        #[inline(always)]
        fn add(self, other: Self) -> Self {
            // SAFETY: see the impl.
            Self(unsafe { _mm512_add_epi32(self.0, other.0) })
        }
        #[inline(always)]
        fn splat(word: u32) -> Self {
            // SAFETY: see the impl.
            Self(unsafe { _mm512_set1_epi32(word.cast_signed()) })
        }
        #[inline(always)]
        fn rotate<const LEFT: i32>(self) -> Self {
            // SAFETY: see the impl.
            Self(unsafe { _mm512_rol_epi32::<LEFT>(self.0) })
        }
        #[inline(always)]
        fn f(b: Self, c: Self, d: Self) -> Self {
            // SAFETY: see the impl.
            Self(unsafe { _mm512_ternarylogic_epi32::<F>(b.0, c.0, d.0) })
        }
        #[inline(always)]
        fn g(b: Self, c: Self, d: Self) -> Self {
            // SAFETY: see the impl.
            Self(unsafe { _mm512_ternarylogic_epi32::<G>(b.0, c.0, d.0) })
        }
        #[inline(always)]
        fn h(b: Self, c: Self, d: Self) -> Self {
            // SAFETY: see the impl.
            Self(unsafe { _mm512_ternarylogic_epi32::<H>(b.0, c.0, d.0) })
        }
        #[inline(always)]
        fn i(b: Self, c: Self, d: Self) -> Self {
            // SAFETY: see the impl.
            Self(unsafe { _mm512_ternarylogic_epi32::<I>(b.0, c.0, d.0) })
        }
    }

    /// Takes one block of each of 32 rows.
    ///
    /// # Safety
    /// AVX-512F and AVX2 are available.
    #[target_feature(enable = "avx512f,avx2")]
    pub(crate) unsafe fn step_avx512(state: &mut State<32>, blocks: &[&[u8; BLOCK]; 32]) {
        let zero = Pair(V16(_mm512_setzero_si512()), V16(_mm512_setzero_si512()));
        let mut words = [zero; 16];
        for half in 0..2 {
            for group in 0..2 {
                // SAFETY: the caller has AVX2; there are 32 blocks.
                let (low, high) = unsafe { (transposed(blocks, group * 16, half), transposed(blocks, group * 16 + 8, half)) };
                for i in 0..8 {
                    let joined = V16(_mm512_inserti64x4::<1>(_mm512_castsi256_si512(low[i]), high[i]));
                    let pair = &mut words[half * 8 + i];
                    if group == 0 { pair.0 = joined } else { pair.1 = joined }
                }
            }
        }
        let mut lanes = [zero; 4];
        for (lanes, word) in lanes.iter_mut().zip(state.iter()) {
            // SAFETY: both loads are within the 32 words.
            *lanes = unsafe {
                Pair(V16(_mm512_loadu_si512(word.as_ptr().cast())), V16(_mm512_loadu_si512(word.as_ptr().add(16).cast())))
            };
        }
        compress(&mut lanes, &words);
        for (word, lanes) in state.iter_mut().zip(&lanes) {
            // SAFETY: both stores are within the 32 words.
            unsafe {
                _mm512_storeu_si512(word.as_mut_ptr().cast(), lanes.0.0);
                _mm512_storeu_si512(word.as_mut_ptr().add(16).cast(), lanes.1.0);
            }
        }
    }
}
