#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Builds the fuzz targets with clang's libFuzzer (preset fuzz) and runs them, all at a time.
# Writes build/report/fuzz.md. `tests/run.sh fuzz ...` calls it.
#   tests/fuzz/run.sh [SECONDS | -runs=N] [--merge] [TARGET | TARGET=N ...]     by default 60 seconds each, every target
# Each begins with tests/fuzz/corpus/TARGET and with what earlier runs have found, kept in build/fuzz/corpus/TARGET.
# TARGET=N: this one is executed N times. --merge: what was found then goes into tests/fuzz/corpus, reduced to what
# covers as much.
set -euo pipefail
exec </dev/null
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

command="tests/run.sh fuzz${*:+ $*}"
limit=-max_total_time=60
merge=
targets=()
declare -A runs_of
for argument in "$@"; do
  case $argument in
    --merge) merge=yes ;;
    -runs=*) limit=$argument ;;
    *=*)
      targets+=("${argument%%=*}")
      runs_of[${argument%%=*}]=${argument#*=}
      ;;
    *[!0-9]*) targets+=("$argument") ;;
    *) limit=-max_total_time=$argument ;;
  esac
done
if [[ ${#targets[@]} -eq 0 ]]; then
  for source in tests/fuzz/*.fuzz.cpp; do targets+=("$(basename "$source" .fuzz.cpp)"); done
fi

cmake/dependencies.sh
cmake --preset fuzz >/dev/null
cmake --build --preset fuzz

program_of() { printf 'build/fuzz/tests/fuzz/%s.fuzz' "$1"; }
# Entropic scheduling takes three quarters of the time with so many features.
options=(-entropic=0 -max_len=1024 -timeout=120 -print_final_stats=1)

# The last number that a log has after some word.
figure() { grep -oE "$2 *[0-9]+" "$1" | tail -n 1 | grep -oE '[0-9]+$' || printf '?'; }

fuzz() {
  local target=$1 found=build/fuzz/corpus/$1 failures=build/fuzz/failures/$1 log=build/fuzz/$1.log failed=0 file
  local its_limit=${runs_of[$1]:+-runs=${runs_of[$1]}} began=$SECONDS executions rate features inputs
  rm -rf "$failures"
  mkdir -p "$found" "$failures"
  cp tests/fuzz/corpus/"$target"/* "$found"/
  "$(program_of "$target")" "${options[@]}" "${its_limit:-$limit}" -artifact_prefix="$failures/" "$found" \
    >"$log" 2>&1 || failed=1
  executions=$(figure "$log" number_of_executed_units:)
  rate=$(figure "$log" average_exec_per_sec:)
  features=$(figure "$log" ' ft:')
  inputs=$(find "$found" -type f | wc -l)
  printf '| %s | %s | %s | %s | %s | %s |\n' \
    "$target" "$executions" "$rate" "$features" "$inputs" $((SECONDS - began)) >build/fuzz/"$target".row
  printf '%-18s %10s executions %8s a second %7s features %5s inputs\n' \
    "$target" "$executions" "$rate" "$features" "$inputs"
  [[ $failed -eq 0 ]] && return
  printf '%s failed (%s):\n' "$target" "$log"
  grep -E 'does not hold|Assertion|^SUMMARY' "$log" | head -n 3 || true
  for file in "$failures"/*; do
    if [[ -e $file ]]; then printf '  %s, again by: %s %s\n' "$file" "$(program_of "$target")" "$file"; fi
  done
  return 1
}

# What has a name of its own stays: who gave it one had a reason. Of the rest only edges count, not how often each was
# taken, so that the corpus stays small enough to run in every build.
merge() {
  local target=$1 kept=tests/fuzz/corpus/$1 made
  made=$(mktemp -d)
  find "$kept" -type f | grep -vE '/[0-9a-f]{40}$' | xargs -r -d '\n' cp -t "$made"
  "$(program_of "$target")" "${options[@]}" -use_counters=0 -merge=1 "$made" "$kept" build/fuzz/corpus/"$target" \
    >build/fuzz/"$target".merge.log 2>&1
  rm -f "$kept"/*
  cp "$made"/* "$kept"/
  rm -rf "$made"
  printf '%-18s %d inputs kept in %s\n' "$target" "$(find "$kept" -type f | wc -l)" "$kept"
}

failed=0
running=0
began=$SECONDS
rm -f build/fuzz/*.row
for target in "${targets[@]}"; do
  fuzz "$target" &
  running=$((running + 1))
done
for ((; running > 0; --running)); do wait -n || failed=$((failed + 1)); done

rows=$(for target in "${targets[@]}"; do cat build/fuzz/"$target".row; done)
executions=$(awk -F'|' '{n += $3} END {printf "%d", n}' <<<"$rows")
mkdir -p build/report
{
  tests/report.py Fuzzing "$command" "preset fuzz: $(clang++ --version | head -n 1), libFuzzer, all at a time" \
    "**$executions executions of ${#targets[@]} targets, $failed of them failed**; $((SECONDS - began)) s"
  cat <<'END'
With asserts, and the sanitizers of addresses and undefined behaviour. An execution is one input: calls on a file that it
spells out (`operations`: over a store that answers at once, or when the input says), changes and questions of a set
(`extent_set`), a command line (`tarnfs_arguments`), and so on. Each is compared with a flat array or another model of
its own, and the program ends where they differ. Features are what libFuzzer counts of new ground: edges, and how often
each was taken. Inputs are what it keeps because they were the first to reach some; those that cover as much are in
`tests/fuzz/corpus`, and every build runs them, and inputs made of them, as the tests `fuzz.TARGET`.

END
  printf '| %s |\n' 'target | executions | a second | features | inputs | seconds' '- | -: | -: | -: | -: | -:'
  printf '%s\n' "$rows"
} >build/report/fuzz.md
echo 'see build/report/fuzz.md'
if [[ $failed -ne 0 ]]; then exit 1; fi

if [[ -n $merge ]]; then
  for target in "${targets[@]}"; do merge "$target"; done
fi
