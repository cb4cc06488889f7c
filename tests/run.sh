#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Builds tarn and runs its tests, from a clean clone on a machine that may lack all it takes.
#   tests/run.sh                       preset dev
#   tests/run.sh PRESET [ctest args]   another preset of CMakePresets.json, and what ctest is to be told
#   tests/run.sh coverage [ctest args] which branches of the headers the tests take
#   tests/run.sh valgrind [PROGRAM...] the unit tests under valgrind
#   tests/run.sh soak [SECONDS]        the simulation, from one seed after another, on every processor: an hour, or so long
#   tests/run.sh mounted [OPERATIONS]  random operations on a mounted tarnfs: a million, or so many
#   tests/run.sh kills [KILLS]         tarnfs is killed in the middle of its work, and SOURCE checked: 500 times, or so many
#   tests/run.sh faults                every fault point of every script of tests/fault, once and for ever
#   tests/run.sh mutants [N] [SEED]    small changes of the headers, drawn by the seed: 200, or so many; goes on where it was
set -euo pipefail
exec </dev/null
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ ${1:-} == soak ]]; then
  exec tests/sim/soak.sh "${2:-3600}"
fi
if [[ ${1:-} == mounted ]]; then
  cmake/dependencies.sh
  cmake --preset dev >/dev/null
  cmake --build --preset dev --target tarnfs torture_bytes torture_names
  exec tests/mount/torture_report.py "${2:-1000000}" build/dev build/report/mounted.md
fi
if [[ ${1:-} == kills ]]; then
  cmake/dependencies.sh
  cmake --preset dev >/dev/null
  cmake --build --preset dev --target tarnfs
  exec tests/mount/kills_report.py "${2:-500}" build/dev build/report/kills.md
fi
if [[ ${1:-} == faults ]]; then
  cmake/dependencies.sh
  cmake --preset dev >/dev/null
  sweeps=(tests/fault/sweep*.test.cpp)
  sweeps=("${sweeps[@]##*/}")
  sweeps=("${sweeps[@]/#/fault.}")
  cmake --build --preset dev --target "${sweeps[@]%.cpp}"
  exec tests/fault/report.py build/dev build/report/faults.md
fi
if [[ ${1:-} == coverage ]]; then
  exec tests/coverage.sh "${@:2}"
fi
if [[ ${1:-} == valgrind ]]; then
  exec tests/valgrind.sh "${@:2}"
fi
if [[ ${1:-} == mutants ]]; then
  cmake/dependencies.sh
  cmake --preset dev >/dev/null
  exec tests/mutations/run.py --count "${2:-200}" --seed "${3:-1}"
fi
preset=${1:-dev}
shift $(($# > 0))

cmake/dependencies.sh
cmake --preset "$preset"
cmake --build --preset "$preset"
CTEST_PARALLEL_LEVEL=${CTEST_PARALLEL_LEVEL:-$(nproc)} ctest --preset "$preset" "$@"
