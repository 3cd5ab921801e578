//! CPU time of row digests: every kernel of this processor beside the md-5 crate, in one run, on rows like those of TPC-H lineitem.
//!
//! Prints one JSON object; `scripts/bench` puts it into `docs/benchmarks.md`.

#![allow(clippy::print_stdout, reason = "a benchmark prints")]

use std::time::{Duration, Instant};

use dozo_digest::{Kernel, ManyMd5, scalar};

/// Rows of one block of the pipeline.
const ROWS: usize = 16 << 10;
/// lineitem at scale 1.
const ALL: u32 = 6_001_215;
const ROUNDS: usize = 7;

fn main() {
    // Lengths between 195 and 227 bytes, as lineitem's tuples have; contents do not matter to MD5.
    let lengths: Vec<usize> = (0..ROWS).map(|i| 195 + (i * 2_654_435_761) % 33).collect();
    let total: usize = lengths.iter().sum();
    let bytes: Vec<u8> = (0..total).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 13) as u8).collect();
    let mut at = 0;
    let rows: Vec<&[u8]> = lengths
        .iter()
        .map(|n| {
            at += n;
            &bytes[at - n..at]
        })
        .collect();
    let mut times: Vec<(String, Vec<Duration>)> = Vec::new();
    for round in 0..ROUNDS {
        let mut slot = 0;
        let mut note = |name: String, time: Duration| {
            if round == 0 {
                times.push((name, vec![]));
            }
            times[slot].1.push(time);
            slot += 1;
        };
        for kernel in Kernel::available().iter().filter(|k| **k != Kernel::Scalar) {
            let mut md5 = ManyMd5::with(*kernel);
            let mut sum = 0u64;
            let began = Instant::now();
            for _ in 0..20 {
                md5.digest(&rows, |_, d| sum = sum.wrapping_add(u64::from(d[0])));
            }
            note(format!("{kernel:?}").to_lowercase(), began.elapsed());
            assert_ne!(std::hint::black_box(sum), 1);
        }
        let mut sum = 0u64;
        let began = Instant::now();
        for _ in 0..20 {
            rows.iter().for_each(|row| sum = sum.wrapping_add(u64::from(scalar(row)[0])));
        }
        note("md-5 crate".into(), began.elapsed());
        assert_ne!(std::hint::black_box(sum), 1);
    }
    let lines: Vec<String> = times
        .iter_mut()
        .map(|(name, rounds)| {
            rounds.sort();
            let per_row = rounds[ROUNDS / 2].as_secs_f64() / (20.0 * f64::from(u32::try_from(ROWS).expect("small")));
            format!(
                "\"{name}\": {{\"ns-per-row\": {:.1}, \"seconds-for-lineitem\": {:.3}}}",
                per_row * 1e9,
                per_row * f64::from(ALL)
            )
        })
        .collect();
    println!("{{{}}}", lines.join(", "));
}
