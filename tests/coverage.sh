#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Which branches of include/tarn the tests take: builds them with clang's source-based coverage, runs them, and writes
# build/report/coverage.md. What follows is for ctest. TARN_MODEL_STEPS is how long a model runs; from one seed, so that
# two reports say the same, as far as threads allow.
set -euo pipefail
exec </dev/null
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cmake/dependencies.sh
# The tools must be of the compiler's own version: they read what it wrote.
version=$(clang++ -dumpversion)
llvm_tool() {
  command -v "$1-${version%%.*}" || command -v "$1" || {
    printf 'Not installed: %s\n  sudo apt-get install -y llvm-%s\n' "$1" "${version%%.*}" >&2
    exit 2
  }
}
profdata=$(llvm_tool llvm-profdata)
cov=$(llvm_tool llvm-cov)

export TARN_MODEL_SEED=${TARN_MODEL_SEED:-1} TARN_MODEL_STEPS=${TARN_MODEL_STEPS:-100000}
build=$PWD/build/coverage
raw=$build/profiles
rm -rf "$raw"
mkdir -p "$raw"
cmake --preset coverage
cmake --build --preset coverage
# One file for each program (%m), to which each of its processes adds.
tests=0  # a test that fails has taken branches all the same
LLVM_PROFILE_FILE=$raw/%m.profraw CTEST_PARALLEL_LEVEL=${CTEST_PARALLEL_LEVEL:-$(nproc)} ctest --preset coverage "$@" || tests=$?
"$profdata" merge -sparse -o "$build/tests.profdata" "$raw"/*.profraw

python3 tests/coverage.py --build "$build" --profile "$build/tests.profdata" --llvm-cov "$cov" \
  --report build/report/coverage.md \
  --command "TARN_MODEL_STEPS=$TARN_MODEL_STEPS tests/run.sh coverage${*:+ $*}" --compiler "$(clang++ --version | head -1)"
exit "$tests"
