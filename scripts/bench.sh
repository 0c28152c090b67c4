#!/usr/bin/env bash
# Measures, beside the bare engine in the same run: a JSON line per figure in
# target/bench.jsonl, and a table. With names of parts (create, command, stream,
# rest, beside): only those. SCALE=small does little, to see that it works.
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
cd "$ROOT"

scripts/setup.sh run
cargo build --release -p nullspace-bench
# What chooses the server of this host must not choose that of the benchmark.
unset "${!NULLSPACE_@}"
export SCALE=${SCALE:-full} NULLSPACED=$SERVER NULLSPACE_ASSETS=$ASSETS NULLSPACE_PYTHON=$PYTHON
export PYTHONPATH=$ROOT/clients/python NULLSPACE_BENCH_FILE=${BENCH_FILE:-$ROOT/target/bench.jsonl}
target/release/nullspace-bench "$@"
