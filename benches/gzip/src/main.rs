//! Compresses a file in blocks of 4 MiB, each a gzip member, on one thread, at every level: bytes and MB/s of each library.
//!
//!     cargo run --release --features zlib-ng -- FILE     # and once more with zlib-rs
//!
//! One line of JSON per library and level; the size to compare with is that of `gzip -6 < FILE`.

use std::io::Write;
use std::time::Instant;

const BLOCK: usize = 4 << 20;
const ROUNDS: usize = 3;
const BACKEND: &str = if cfg!(feature = "zlib-ng") { "zlib-ng" } else { "zlib-rs" };

/// Returns stored bytes and the least seconds.
fn measured(data: &[u8], mut block: impl FnMut(&[u8]) -> usize) -> (usize, f64) {
    let rounds = (0..ROUNDS).map(|_| {
        let began = Instant::now();
        let bytes = data.chunks(BLOCK).map(&mut block).sum::<usize>();
        (bytes, began.elapsed().as_secs_f64())
    });
    rounds.min_by(|a, b| a.1.total_cmp(&b.1)).expect("there are rounds")
}

fn show(library: &str, level: u32, data: &[u8], (bytes, seconds): (usize, f64)) {
    #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
    let speed = data.len() as f64 / seconds / 1e6;
    println!("{{\"library\": \"{library}\", \"level\": {level}, \"bytes\": {bytes}, \"mb-per-second\": {speed:.1}}}");
}

fn main() {
    let path = std::env::args().nth(1).expect("usage: dozo-bench-gzip FILE");
    let data = std::fs::read(&path).expect("the file can be read");
    for level in 1..=7 {
        let mut compressor = libdeflater::Compressor::new(libdeflater::CompressionLvl::new(level).expect("a level"));
        let mut out = vec![0; compressor.gzip_compress_bound(BLOCK)];
        let done = measured(&data, |block| compressor.gzip_compress(block, &mut out).expect("there is room"));
        show("libdeflate", level.unsigned_abs(), &data, done);
    }
    for level in 1..=7 {
        let done = measured(&data, |block| {
            let mut writer = flate2::write::GzEncoder::new(Vec::with_capacity(BLOCK), flate2::Compression::new(level));
            writer.write_all(block).expect("memory");
            writer.finish().expect("memory").len()
        });
        show(BACKEND, level, &data, done);
    }
}
