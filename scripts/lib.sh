# Shared by all scripts: where the cache is, and how things are run without root.
# shellcheck shell=bash
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Servers run as another user than root, who must be able to reach their programs: root's home is closed.
if [ "$(id -u)" = 0 ]; then DEFAULT_CACHE=/var/cache/dozo; else DEFAULT_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/dozo; fi
export DOZO_CACHE=${DOZO_CACHE:-$DEFAULT_CACHE}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$DOZO_CACHE/target}
export DOZO_SERVICES=$DOZO_CACHE/services
# DuckDB is compiled once for all (scripts/duckdb); the crate libduckdb-sys reads these.
# Our crates are built with these: all features, and the DuckDB library that is there instead of another compilation.
FEATURES=(--no-default-features --features dozo/duckdb)
export DUCKDB_LIB_DIR=$DOZO_CACHE/duckdb-2.0.0 DUCKDB_STATIC=1
mkdir -p "$DOZO_CACHE"

say() { printf '== %s\n' "$*"; }

# Runs a command as root: directly, or with sudo.
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}
