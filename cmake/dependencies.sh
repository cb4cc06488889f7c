#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Installs what is missing to build and test tarn on Debian. Asks nothing and reads no input.
#   cmake/dependencies.sh [PACKAGE...]   and these packages
# Exit code 2: something is missing and may not be installed from here; the line to run was printed.
set -euo pipefail

packages=(
  cmake ninja-build g++ pkg-config python3 git
  libfmt-dev catch2 libbenchmark-dev libfuse3-dev fuse3
  clang libclang-rt-dev lld          # the preset asan: the second compiler, the runtime of its sanitizers, a fast linker
  clang-tidy                         # of the headers, and of tarnfs
  libboost-dev                       # Asio, of one example; headers alone
  fio sqlite3 attr acl tar           # programs that the mounted tests run on a mounted tarnfs
)
packages+=("$@")

# A program may have come from elsewhere than its package.
declare -A program_of=(
  [cmake]=cmake [ninja-build]=ninja [g++]=g++ [pkg-config]=pkg-config [python3]=python3 [git]=git [fuse3]=fusermount3
  [clang]=clang++ [lld]=ld.lld [clang-tidy]=clang-tidy [fio]=fio [sqlite3]=sqlite3 [attr]=setfattr [acl]=setfacl [tar]=tar
)

is_installed() {
  if [[ -v "program_of[$1]" ]] && command -v "${program_of[$1]}" >/dev/null; then return 0; fi
  [[ "$(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null)" == installed ]]
}

list_missing() {
  missing=()
  local package
  for package in "${packages[@]}"; do
    is_installed "$package" || missing+=("$package")
  done
}

list_missing
if [[ ${#missing[@]} -eq 0 ]]; then exit 0; fi

as_root=()
if [[ $EUID -ne 0 ]]; then as_root=(sudo -n); fi
if ! command -v apt-get >/dev/null || { [[ $EUID -ne 0 ]] && ! sudo -n true 2>/dev/null; }; then
  printf 'Not installed: %s\nTo install, run:\n' "${missing[*]}" >&2
  printf '  sudo apt-get update && sudo apt-get install -y --no-install-recommends %s\n' "${missing[*]}" >&2
  exit 2
fi

printf 'Installing: %s\n' "${missing[*]}"
apt_get() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q "$@" </dev/null; }
apt_get update
apt_get install -y --no-install-recommends "${missing[@]}"

list_missing
if [[ ${#missing[@]} -ne 0 ]]; then
  printf 'Still missing after the installation: %s\n' "${missing[*]}" >&2
  exit 1
fi
