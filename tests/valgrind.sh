#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The unit tests of the preset dev under valgrind's memcheck: an invalid or uninitialised use or a leak is a failure.
# Writes build/report/valgrind.md. What takes minutes without valgrind is left out; models run as long as they can here.
#   tests/valgrind.sh [TEST...]      or those named alone, as chunk_pool
set -euo pipefail
exec </dev/null
cd "$(dirname "${BASH_SOURCE[0]}")/.."

command -v valgrind >/dev/null || {
  printf 'Not installed: valgrind\n  sudo apt-get install -y valgrind\n' >&2
  exit 2
}
cmake/dependencies.sh
cmake --preset dev >/dev/null
cmake --build --preset dev

left_out='^(comb|explore\..*|instruction_count|stress|torture|sim\.shrink|linearizability|fault\.sweep|testing\.check_store)$'
export TARN_TESTS_UNDER_VALGRIND=1 TARN_MODEL_STEPS=${TARN_MODEL_STEPS:-10000} log=$PWD/build/report/valgrind
mkdir -p "$log"
rm -f "$log"/*

run() {
  local name=$1
  shift
  # Some programs have an operator new of their own, which is to be called.
  if (cd "$log" && timeout 900 valgrind --quiet --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite \
    --soname-synonyms=somalloc=nouserintercepts --num-callers=30 "$@" >"$log/$name.log" 2>&1) &&
    ! grep -q '^No test cases matched' "$log/$name.log"; then
    printf 'passed %s\n' "$name" | tee "$log/$name.passed"
  else
    printf 'FAILED %s: build/report/valgrind/%s.log\n' "$name" "$name"
    return 1
  fi
}
export -f run

# Of each test that is a program of ours: its name, and its command, quoted for a shell.
list='
import json, shlex, sys
for test in json.load(sys.stdin)["tests"]:
    if test["command"][0].endswith(".test"):
        print(shlex.join([test["name"], *test["command"]]))'
ctest --preset dev --show-only=json-v1 | python3 -c "$list" >"$log"/tests
commands=()
while read -r name command; do
  if [[ $# -gt 0 ]]; then
    [[ " $* " == *" $name "* ]] && commands+=("$name $command")
  elif [[ ! $name =~ $left_out ]]; then
    commands+=("$name $command")
  fi
done <"$log"/tests
failed=0
printf '%s\0' "${commands[@]}" | xargs -0 -P "$(nproc)" -I{} bash -c 'run {}' || failed=1
passed=$(find "$log" -name '*.passed' | wc -l)
{
  tests/report.py "Valgrind" "TARN_MODEL_STEPS=$TARN_MODEL_STEPS tests/run.sh valgrind${*:+ $*}" "$(valgrind --version); $SECONDS s" \
    "**$passed of ${#commands[@]} tests: no invalid use of memory, no leak**"
  printf 'Left out, since they take minutes or count instructions: `%s`.\n' "$left_out"
} >build/report/valgrind.md
printf '%d of %d tests passed; see build/report/valgrind.md\n' "$passed" "${#commands[@]}"
exit $failed
