#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The simulation for so many seconds, on every processor, each run from a seed of its own. Stops at the first that fails,
# and shows it; says at the end how many steps were simulated. Writes build/report/soak.md.
set -euo pipefail
exec </dev/null
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
seconds=$1 steps=5000000
log=$PWD/build/report/soak
mkdir -p "$log"
rm -f "$log"/*
program=$PWD/build/dev/tests/sim.simulation.test

cmake/dependencies.sh
cmake --preset dev >/dev/null
cmake --build --preset dev --target sim.simulation.test

end=$((SECONDS + seconds))
one_after_another() {
  local runs=0 out=$log/$1.log
  while ((SECONDS < end)) && [[ ! -e $log/failed ]]; do
    if ! (cd "$log" && TARN_MODEL_STEPS=$steps "$program" >"$out" 2>&1); then  # its .replay stays there
      touch "$log/failed"
      cat "$out"
      return 1
    fi
    runs=$((runs + 1))
    echo "$runs" >"$log/$1.runs"
  done
}
for ((i = 0; i < $(nproc); ++i)); do
  one_after_another "$i" &
done
failed=0
for job in $(jobs -p); do
  wait "$job" || failed=1
done
runs=$(cat "$log"/*.runs 2>/dev/null | awk '{n += $1} END {print n + 0}')
printf '%d runs of %d steps went well, %d steps in all, in %d s\n' "$runs" $steps $((runs * steps)) $SECONDS
[[ $failed -eq 0 ]] || exit 1
{
  tests/report.py "The simulation" "tests/run.sh soak $seconds" "$SECONDS s, $(nproc) runs at a time" \
    "**$((runs * steps)) steps, in $runs runs, each from a seed of its own: every byte, error and wake-up was right**"
  printf '%s\n' "One run: how often it came where bytes, errors and wake-ups get lost, and how often into each cell of the byte" \
    'table (rows: what a byte was; columns: what happened to it).' '' '```'
  sed -n '/^TARN_MODEL_SEED/,/^====/{/^====/!p}' "$log"/0.log
  printf '```\n'
} >build/report/soak.md
echo 'see build/report/soak.md'
