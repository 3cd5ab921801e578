//! Says what a DuckDB library that was compiled beforehand (`scripts/duckdb`) needs beside itself.
fn main() {
    println!("cargo:rerun-if-env-changed=DUCKDB_LIB_DIR");
    println!("cargo:rerun-if-env-changed=DUCKDB_STATIC");
    let bundled = std::env::var_os("CARGO_FEATURE_BUNDLED").is_some();
    let is_static = std::env::var("DUCKDB_STATIC").is_ok_and(|v| v != "0");
    if let (false, true, Ok(folder)) = (bundled, is_static, std::env::var("DUCKDB_LIB_DIR")) {
        println!("cargo:rustc-link-search=native={folder}");
        // It registers the extensions before main and is named by nobody: whole, or the linker drops it.
        println!("cargo:rustc-link-lib=static:+whole-archive=duckdb_register");
        println!("cargo:rustc-link-lib=static=duckdb_static");
        println!("cargo:rustc-link-lib=dylib=stdc++");
    }
}
