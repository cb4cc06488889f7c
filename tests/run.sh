#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Builds tarn and runs its tests, from a clean clone on a machine that may lack all it takes.
#   tests/run.sh                       preset dev
#   tests/run.sh PRESET [ctest args]   another preset of CMakePresets.json, and what ctest is to be told
# Long runs, each of which writes build/report/WORD.md; docs/reports has one report of each:
#   tests/run.sh breakages [--case TEXT]  tarn is broken on purpose, one mechanism at a time: does a test notice?
#   tests/run.sh coverage [ctest args] which branches of the headers the tests take
#   tests/run.sh faults                every fault point of every script of tests/fault, once and for ever
#   tests/run.sh fuzz [SECONDS | -runs=N] [TARGET...]  the fuzz targets under libFuzzer: a minute each, or so long
#   tests/run.sh interleavings [ORDERS]  the explorer's scenarios, for longer, and a million random orders, or so many
#   tests/run.sh kills [KILLS]         tarnfs is killed in the middle of its work, and SOURCE checked: 500 times, or so many
#   tests/run.sh mounted [OPERATIONS]  random operations on a mounted tarnfs: a million, or so many
#   tests/run.sh mutants [N] [SEED]    small changes of the headers, drawn by the seed: 200, or so many; goes on where it was
#   tests/run.sh soak [SECONDS]        the simulation, from one seed after another, on every processor: an hour, or so long
#   tests/run.sh valgrind [TEST...]    the unit tests under valgrind
set -euo pipefail
exec </dev/null
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# build [TARGET...]: what a long run needs of the preset dev
build() {
  cmake/dependencies.sh
  cmake --preset dev >/dev/null
  if [[ $# -gt 0 ]]; then cmake --build --preset dev --target "$@"; fi
}

case ${1:-} in
  breakages)
    build
    exec tests/breakages/run.py "${@:2}"
    ;;
  coverage) exec tests/coverage.sh "${@:2}" ;;
  faults)
    build sweeps.test
    exec tests/fault/sweep_report.py build/dev build/report/faults.md
    ;;
  fuzz) exec tests/fuzz/run.sh "${@:2}" ;;
  interleavings)
    build explorations.test explore.explorer.test
    exec tests/explore/explored_report.py "${2:-1000000}" build/dev build/report/interleavings.md
    ;;
  kills)
    build tarnfs
    exec tests/mount/kills_report.py "${2:-500}" build/dev build/report/kills.md
    ;;
  mounted)
    build tarnfs torture_bytes torture_names
    exec tests/mount/torture_report.py "${2:-1000000}" build/dev build/report/mounted.md
    ;;
  mutants)
    build
    exec tests/mutations/run.py --count "${2:-200}" --seed "${3:-1}"
    ;;
  soak) exec tests/sim/soak.sh "${2:-3600}" ;;
  valgrind) exec tests/valgrind.sh "${@:2}" ;;
esac

preset=${1:-dev}
shift $(($# > 0))

cmake/dependencies.sh
cmake --preset "$preset"
cmake --build --preset "$preset"
CTEST_PARALLEL_LEVEL=${CTEST_PARALLEL_LEVEL:-$(nproc)} ctest --preset "$preset" "$@"
