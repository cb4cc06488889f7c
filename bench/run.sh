#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The main job, from a clean clone: installs what is missing, builds release, runs the plan's workload on a mounted
# tarnfs, verifies every byte, and says what reads and writes cost. README.md says how it is measured.
#   bench/run.sh            under three minutes
#   bench/run.sh --full     the plan's 3 x 300 MB, 15 pairs
#   bench/run.sh --quick    about a minute
# Writes build/report/main.md, main.svg and main.json.
#   bench/run.sh micro [--quick]   what calls cost whose bytes are held; writes build/report/micro.md, .svg and .json
#   bench/run.sh scale [--quick]   what calls and memory come to by how much is held; likewise
#   bench/run.sh peers [--quick]   what a look-up costs, beside RocksDB, LevelDB and oneTBB, which it installs; the same
#   bench/run.sh mount [--quick]   what reads and writes through a mount cost; likewise, under five minutes
#   bench/run.sh instructions      how many instructions hits run; exits with 1 if more than goals.toml lets pass
#   bench/run.sh check             says which goals of the suites were missed, or not measured; exits with 1 if any
set -euo pipefail
exec </dev/null
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() { sed -n '3,14s/^# \{0,1\}//p' bench/run.sh; }
suite=
more_packages=()
case ${1:-} in
  check) exec python3 bench/suite.py check build/report ;;
  micro | scale | mount | instructions)
    suite=$1
    shift
    ;;
  peers)
    suite=$1
    more_packages=(librocksdb-dev libleveldb-dev libtbb-dev)
    shift
    ;;
esac
for argument; do
  case $argument in
    --full | --quick) ;;
    -h | --help) usage && exit 0 ;;
    *) usage >&2 && exit 2 ;;
  esac
done

build=build/bench
report=build/report
mkdir -p "$report"

# Says what it does in a line; what that prints is shown only if it fails.
quietly() {
  local what=$1
  shift
  printf '%s ...\n' "$what" >&2
  if ! "$@" >"$report/build.log" 2>&1; then
    cat "$report/build.log" >&2
    printf 'FAILED: %s\n' "$what" >&2
    exit 1
  fi
}

cmake/dependencies.sh "${more_packages[@]}"
# No warnings as errors: a newer compiler's new warning is no reason not to measure.
quietly "configuring" cmake --preset release -B "$build" -D TARN_BUILD_TESTS=OFF -D TARN_DEV_WARNINGS=OFF
if [[ $suite == instructions ]]; then
  quietly "building" cmake --build "$build" --target micro
  exec python3 bench/suite.py instructions "$build/bench/micro"
fi
mounted=(--tarnfs "$build/examples/tarnfs/tarnfs" --io "$build/bench/file_io"
  --plan-writes "$build/bench/plan_writes_mount")
if [[ $suite == mount ]]; then
  if [[ ! -e /usr/share/doc/libfuse3-dev/examples/passthrough_ll.c ]]; then
    echo "bench/run.sh mount: the examples of libfuse3-dev, one of which it measures, are not installed" >&2
    exit 1
  fi
  quietly "building" cmake --build "$build" --target tarnfs file_io plan_writes_mount passthrough_ll
  exec python3 bench/suite.py run mount "$report" "$@" \
    python3 bench/mount.py "${mounted[@]}" --passthrough-ll "$build/bench/passthrough_ll"
fi
if [[ -n $suite ]]; then
  quietly "building" cmake --build "$build" --target "$suite"
  exec python3 bench/suite.py run "$suite" "$report" "$@" "$build/bench/$suite"
fi
quietly "building" cmake --build "$build" --target tarnfs file_io main_job_in_process plan_writes_mount

exec python3 bench/main_job.py "$@" "${mounted[@]}" --in-process "$build/bench/main_job_in_process" --report "$report"
