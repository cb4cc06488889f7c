#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Traps that a filesystem over a directory can fall into, each held open: names, syncs, inodes, owners, options.

cases.py says how they are run.
"""

import ctypes
import itertools
import mmap
import os
import pathlib
import re
import resource
import stat
import subprocess
import sys

import mounting
from cases import (
    TIGHT,
    Pair,
    Skip,
    answer,
    case,
    expect,
    expect_equal,
    main,
    noise,
    program,
    run_to_end,
    wait_until,
)
from mounting import MiB

libc = ctypes.CDLL(None, use_errno=True)


def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


# --- Names ------------------------------------------------------------------------------------------------------------

RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
AT_FDCWD = -100


def rename(old, new, flags=0):
    checked(libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), ctypes.c_uint(flags)))


@case()
def a_rename_over_a_name_stores_the_new_bytes_first():
    for options in ([], TIGHT, ["--direct-io"]):
        with Pair(*options, prepare=lambda top: (top / "old").write_bytes(b"old")) as pair:
            wanted = noise(3 * MiB + 5, 1)
            for folder in ("", "d"):
                (pair.at / folder).mkdir(exist_ok=True)
                (pair.at / folder / "target").write_bytes(b"what was there")
                with open(pair.at / "new", "wb", buffering=0) as file:
                    file.write(wanted)
                    expect((pair.source / "new").read_bytes() != wanted, f"{options}: it is dirty before")
                    os.rename(pair.at / "new", pair.at / folder / "target")
                    expect(
                        (pair.source / folder / "target").read_bytes() == wanted,
                        f"{options}: SOURCE has the new bytes when the rename returns, in '{folder}'",
                    )
            with open(pair.at / "old", "r+b", buffering=0) as old, open(pair.at / "other", "wb", buffering=0) as other:
                old.write(b"OLD and dirty")
                other.write(b"other and dirty")
                rename(pair.at / "old", pair.at / "other", RENAME_EXCHANGE)
                expect_equal((pair.source / "old").read_bytes(), b"other and dirty", f"{options}: one exchanged")
                expect_equal((pair.source / "other").read_bytes(), b"OLD and dirty", f"{options}: the other")


@case()
def a_rename_does_as_its_flags_say():
    def prepare(top):
        for name in ("a", "b", "c"):
            (top / name).write_bytes(name.encode() * 5000)
        for name in ("d", "e"):
            (top / name).mkdir()
            (top / name / "in").write_bytes(name.encode())

    with Pair(prepare=prepare) as pair:
        steps = [
            (RENAME_NOREPLACE, "a", "b", "EEXIST"),
            (RENAME_NOREPLACE, "a", "d", "EEXIST"),
            (RENAME_NOREPLACE, "a", "new", None),
            (RENAME_NOREPLACE, "none", "other", "ENOENT"),
            (RENAME_EXCHANGE, "b", "c", None),
            (RENAME_EXCHANGE, "b", "none", "ENOENT"),
            (RENAME_EXCHANGE, "b", "d", None),  # a file and a folder
            (RENAME_EXCHANGE, "b/in", "e/in", None),
            (RENAME_EXCHANGE, "b", "e", None),
            (RENAME_EXCHANGE | RENAME_NOREPLACE, "b", "e", "EINVAL"),
            (RENAME_WHITEOUT, "c", "new", None),
            (0, "new", "e/in", None),
        ]
        for flags, old, new, error in steps:
            what = f"{old} to {new} with {flags}"

            def step(top):
                rename(top / old, top / new, flags)

            got = pair.both(step, what)
            expect_equal(got, error and f"OSError {error}", what)
            # What each name is now, by the directory and by the file behind it.
            pair.both(
                lambda top: {
                    str(path.relative_to(top)): path.read_bytes() if path.is_file() else oct(path.lstat().st_mode)
                    for path in sorted(top.rglob("*"))
                },
                f"the names after {what}",
            )
        pair.finish()


# --- Syncs ------------------------------------------------------------------------------------------------------------


@case()
def an_fsync_syncs_source_once_for_what_was_stored():
    for options in ([], ["--direct-io"]):
        with Pair(*options) as pair:

            def syncs(action):
                """How many syncs of SOURCE the action costs."""
                before = pair.mounted.tarnfs.stats()["source_syncs"]
                action()
                return pair.mounted.tarnfs.stats()["source_syncs"] - before

            path = pair.at / "f"
            path.write_bytes(noise(300_000, 1))  # stored by its close
            fd = os.open(path, os.O_RDWR)
            try:
                expect_equal(pair.mounted.tarnfs.stats()["dirty_bytes"], 0, "dirty bytes after a close")
                expect_equal(syncs(lambda: os.fsync(fd)), 1, "syncs with nothing dirty, after a close that stored")
                expect_equal(syncs(lambda: os.fsync(fd)), 0, "syncs with nothing stored since")
                os.pwrite(fd, b"dirty", 1000)
                expect_equal(syncs(lambda: os.fsync(fd)), 1, "syncs after a write")
                expect_equal(syncs(lambda: os.fsync(fd)), 0, "syncs with nothing written since")
                os.pwrite(fd, b"dirty", 2000)
                expect_equal(syncs(lambda: os.close(os.dup(fd))), 0, "syncs of a close, which stores")
                expect_equal(syncs(lambda: os.fdatasync(fd)), 1, "data syncs after a close that stored")
                expect_equal(syncs(lambda: os.fdatasync(fd)), 0, "data syncs with nothing stored since")
                expect_equal(syncs(lambda: os.fsync(fd)), 1, "syncs after one of the data alone")
                expect_equal(syncs(lambda: os.fdatasync(fd)), 0, "data syncs after one of everything")
                os.truncate(path, 100)
                expect_equal(syncs(lambda: os.fsync(fd)), 1, "syncs after a truncate by name")
                os.utime(path, ns=(5, 5))
                expect_equal(syncs(lambda: os.fsync(fd)), 1, "syncs after new times")
            finally:
                os.close(fd)
            pair.mounted.stop()
            pair.mounted.start()
            fd = os.open(path, os.O_RDONLY)
            try:
                expect_equal(syncs(lambda: os.fsync(fd)), 1, "syncs of a file of which nothing is known")
            finally:
                os.close(fd)


# --- Inodes -----------------------------------------------------------------------------------------------------------


def handle_of(path):
    """Inode number and generation, by which the kernel tells one inode of the mount from another."""

    class Handle(ctypes.Structure):
        _fields_ = [("size", ctypes.c_uint), ("kind", ctypes.c_int), ("words", ctypes.c_uint * 32)]

    handle, mount_id = Handle(size=128), ctypes.c_int()
    checked(libc.name_to_handle_at(AT_FDCWD, os.fsencode(path), ctypes.byref(handle), ctypes.byref(mount_id), 0))
    expect_equal((handle.kind, handle.size), (0x81, 12), "kind and size of a FUSE file handle")
    return (handle.words[0] << 32 | handle.words[1]), handle.words[2]


@case()
def an_inode_number_used_again_has_another_generation():
    with Pair("--threads=1") as pair:
        seen = []
        for i in range(300):
            path = pair.at / "f"
            path.write_bytes(b"%d" % i)
            seen.append(handle_of(path))
            path.unlink()
        numbers = {number for number, _ in seen}
        expect(len(numbers) < len(seen), "no inode number was used twice: nothing was shown")
        expect_equal(len(set(seen)), len(seen), f"different inodes, with {len(numbers)} numbers")


def private_descriptors(pid, source):
    """How many files of SOURCE a process has open for reading and writing."""
    found = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            path = os.readlink(f"/proc/{pid}/fd/{name}")
            details = pathlib.Path(f"/proc/{pid}/fdinfo/{name}").read_text()
        except FileNotFoundError:
            continue
        flags = int(re.search(r"^flags:\s*(\d+)", details, re.M)[1], 8)
        if path.startswith(f"{source}/") and flags & os.O_ACCMODE == os.O_RDWR and not flags & os.O_PATH:
            found += 1
    return found


@case(timeout=120)
def the_descriptors_of_open_files_are_bounded():
    count, threads = 2000, 2
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count + 200:
        raise Skip(f"{hard} open files are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 200), hard))
    with Pair(f"--threads={threads}") as pair:
        fds = []
        try:
            for i in range(count):
                fds.append(os.open(pair.at / f"f{i}", os.O_RDWR | os.O_CREAT))
                os.pwrite(fds[-1], b"%d" % i, i)
            pid = pair.mounted.tarnfs.pid
            open_now = private_descriptors(pid, pair.source)
            print(f"  {count} open files, {open_now} descriptors", flush=True)
            expect(0 < open_now <= 1024 + threads, f"{open_now} descriptors for {count} open files")
            for i, fd in enumerate(fds):  # each file is as open as it was
                os.pwrite(fd, b"+", i + 10)
                os.fsync(fd)
            open_now = private_descriptors(pid, pair.source)
            expect(0 < open_now <= 1024 + threads, f"{open_now} descriptors after {count} files were stored")
            for i in range(count):
                wanted = (bytes(i) + b"%d" % i).ljust(i + 10, b"\0") + b"+"
                expect_equal((pair.source / f"f{i}").read_bytes(), wanted, f"the bytes of f{i}")
        finally:
            for fd in fds:
                os.close(fd)
        expect_equal(private_descriptors(pid, pair.source), 0, "descriptors with no file open")


# --- Owners and rights ------------------------------------------------------------------------------------------------


def as_nobody(script, path, groups="--clear-groups"):
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", groups, sys.executable, "-c", script, path],
        capture_output=True,
        text=True,
    )
    return done.stdout + done.stderr


@case(needs=["setpriv"])
def another_user_gets_what_the_mode_gives():
    if os.geteuid() != 0:
        raise Skip("takes root, to become another user")
    script = """
import errno, os, sys
for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
    try:
        os.close(os.open(sys.argv[1], flags))
        print("opened")
    except OSError as e:
        print(errno.errorcode[e.errno])
for call in (os.listdir, os.unlink, os.stat, lambda path: os.chmod(path, 0o777), lambda path: os.truncate(path, 0)):
    try:
        call(sys.argv[1])
        print("done")
    except OSError as e:
        print(errno.errorcode[e.errno])
"""

    def prepare(top):
        for mode in (0o600, 0o644, 0o602, 0o666):
            (top / f"f{mode:o}").write_bytes(b"private")
            (top / f"f{mode:o}").chmod(mode)
        (top / "locked").mkdir()
        (top / "locked" / "f").write_bytes(b"open, in a locked folder")
        (top / "locked" / "f").chmod(0o666)
        (top / "locked").chmod(0o700)

    for options in ([], ["--direct-io"]):
        with Pair(*options, prepare=prepare) as pair:
            for name in ("f600", "f644", "f602", "f666", "locked", "locked/f"):
                got = pair.both(lambda top: as_nobody(script, top / name), f"another user on {name}")
                expect("EACCES" in got, f"another user on {name}: nothing is refused: {got}")
            expect_equal(as_nobody(script, pair.at / "f600").split()[:3], ["EACCES"] * 3, "opens of a private file")
            pair.finish()


# A permitted, effective CAP_NET_RAW as the kernel keeps it, revision 2.
CAPABILITY = bytes.fromhex("01000002" "00200000" "00000000" "00000000" "00000000")


@case(needs=["setpriv"])
def a_direct_write_takes_suid_sgid_and_capabilities():
    if os.geteuid() != 0:
        raise Skip("takes root, to become another user")
    write = "import os, sys; fd = os.open(sys.argv[1], os.O_WRONLY); print(os.pwrite(fd, b'new', 10))"

    with Pair("--direct-io") as pair:

        def after_a_write(mode, write_as):
            def action(top):
                path = top / "f"
                path.write_bytes(b"x" * 5000)
                path.chmod(mode)
                os.setxattr(path, "security.capability", CAPABILITY)
                before = os.getxattr(path, "security.capability") == CAPABILITY, oct(path.stat().st_mode)
                said = write_as(path)
                capability = answer(lambda: os.getxattr(path, "security.capability"))
                return before, said, oct(path.stat().st_mode), capability

            return action

        # The file's group is root's own, 0. It may keep a sgid bit that is none, for want of the right to execute.
        for mode, groups, kept in (
            (0o6777, "--clear-groups", 0o777),
            (0o4777, "--clear-groups", 0o777),
            (0o2777, "--groups=0", 0o777),
            (0o6767, "--groups=0", 0o2767),
            (0o2767, "--groups=5,0,7", 0o2767),
            (0o2767, "--groups=5,7", 0o767),
            (0o777, "--clear-groups", 0o777),
        ):
            what = f"{mode:o}, {groups}"
            action = after_a_write(mode, lambda path: as_nobody(write, path, groups))
            got = pair.both(action, f"another's write, {what}")
            expect_equal(got[:2], ((True, oct(stat.S_IFREG | mode)), "3\n"), f"before and during it, {what}")
            expect_equal(got[2:], (oct(stat.S_IFREG | kept), "ENODATA"), f"after it, {what}")
        # What one writer may keep, the next one takes.
        path = pair.at / "f"
        path.chmod(0o2767)
        for groups, kept in (("--groups=0", 0o2767), ("--clear-groups", 0o767)):
            expect_equal(as_nobody(write, path, groups), "3\n", f"a write with {groups}")
            expect_equal(oct(path.stat().st_mode), oct(stat.S_IFREG | kept), f"the mode after a write with {groups}")
        (pair.plain / "f").unlink()
        path.unlink()

        def as_root(path):
            with open(path, "r+b", buffering=0) as file:
                return file.write(b"new")

        pair.both(after_a_write(0o6777, as_root), "a write by root")
        pair.finish()


# --- The filesystem and its process -----------------------------------------------------------------------------------


@case()
def statfs_is_that_of_source():
    with Pair() as pair:

        def fixed(top):
            held = os.statvfs(top)
            return held.f_bsize, held.f_frsize, held.f_blocks, held.f_namemax

        expect(pair.both(fixed)[2] > 0, "blocks")
        held = os.statvfs(pair.at)
        expect(0 < held.f_bavail <= held.f_bfree <= held.f_blocks, f"free blocks: {held}")
        expect(0 < held.f_ffree <= held.f_files or held.f_files == 0, f"free inodes: {held}")


def affinities(pid):
    return {frozenset(os.sched_getaffinity(int(task))) for task in os.listdir(f"/proc/{pid}/task")}


@case()
def a_daemon_runs_on_the_cpus_it_was_given():
    usable = sorted(os.sched_getaffinity(0))
    for given in {(usable[0],), (usable[-1],), tuple(usable)}:
        with Pair(f"--cpu={','.join(map(str, given))}", "--threads=4") as pair:
            for i in range(20):
                (pair.at / f"f{i}").write_bytes(b"so that threads are started")
            expect_equal(affinities(pair.mounted.tarnfs.pid), {frozenset(given)}, f"CPUs, of {usable}")


@case()
def each_thread_stays_on_a_cpu_of_its_own_if_that_is_asked_for():
    usable = os.sched_getaffinity(0)
    with Pair("--one-thread-a-cpu", f"--threads={len(usable)}") as pair:
        (pair.at / "f").write_bytes(b"so that threads are started")
        ones = {frozenset([cpu]) for cpu in usable}
        # The first worker may answer before the others have begun.
        wait_until(lambda: ones <= affinities(pair.mounted.tarnfs.pid), f"a thread stays on each of {usable}")


@case()
def a_direct_mebibyte_is_one_request():
    for path, received in itertools.product(("copy", "gather", "after"), (["--receive=copy"], ["--receive=in-place"])):
        with Pair("--direct-io", f"--read-path={path}", *received) as pair, mmap.mmap(-1, MiB) as buffer:
            # Memory from a page's start: a piece that begins within one touches a page more than a request may.
            fd = os.open(pair.at / "f", os.O_RDWR | os.O_CREAT)
            try:
                for turn in range(3):
                    data = noise(MiB, turn)
                    buffer[:] = data
                    before = pair.mounted.tarnfs.stats()
                    expect_equal(os.pwrite(fd, buffer, turn * MiB), MiB, "written")
                    written = pair.mounted.tarnfs.stats()
                    buffer[:] = bytes(MiB)
                    expect_equal(os.preadv(fd, [buffer], turn * MiB), MiB, "read")
                    expect(buffer[:] == data, "the bytes")
                    read = pair.mounted.tarnfs.stats()
                    for name, was, now, wanted in (
                        ("write_requests", before, written, 1),
                        ("read_requests", before, written, 0),
                        ("write_requests", written, read, 0),
                        ("read_requests", written, read, 1),
                        ("write_request_bytes", before, written, MiB),
                        ("read_request_bytes", written, read, MiB),
                    ):
                        expect_equal(now[name] - was[name], wanted, f"{path}: {name}")
            finally:
                os.close(fd)


# --- Options ----------------------------------------------------------------------------------------------------------


@case()
def shared_maps_are_refused_where_the_kernel_keeps_no_pages():
    data = noise(100_000, 1)
    with Pair("--direct-io", prepare=lambda top: (top / "f").write_bytes(data)) as pair:
        with open(pair.at / "f", "r+b", buffering=0) as file:
            for protection in (mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE):
                shared = answer(lambda: mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, protection).close())
                expect_equal(shared, "ENODEV", f"a shared map with protection {protection}")
            with mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE) as private:
                expect(private[:] == data, "a private map")
                private[:4] = b"mine"
            expect_equal(os.pread(file.fileno(), 4, 0), data[:4], "the file after a change of a private map")


@case()
def options_are_taken_with_and_without_an_equals_sign():
    data = noise(3 * MiB, 1)
    valued = {
        "--budget": "16M",
        "--chunk-size": "8K",
        "--part-size": "64K",
        "--storage": "heap",
        "--read-path": "after",
        "--read-ahead": "256K",
        "--threads": "2",
        "--loaders": "3",
        "--receive": "copy",
        "--cpu": str(min(os.sched_getaffinity(0))),
        "--rescue": "/tmp",
    }
    plain = ["--prefault", "--keep-cache"]
    for options in (
        [*plain, *(f"{name}={value}" for name, value in valued.items())],
        [*itertools.chain.from_iterable(valued.items()), *plain],
    ):
        with Pair(*options) as pair:
            (pair.at / "f").write_bytes(data)
            fd = os.open(pair.at / "f", os.O_RDWR)
            try:
                os.pwrite(fd, b"x", 100)
                stats = pair.mounted.tarnfs.stats()
                # It was understood, and not taken for something else.
                expect_equal(stats["budget_bytes"], 16 * MiB, f"{options}: budget")
                expect_equal(affinities(pair.mounted.tarnfs.pid), {frozenset([int(valued["--cpu"])])}, f"{options}")
                os.ftruncate(fd, 0)
                os.pwrite(fd, b"x", 0)
                expect_equal(pair.mounted.tarnfs.stats()["chunks_held"], 1, f"{options}: chunks of one byte")
                os.pwrite(fd, data[: 64 << 10], 0)
                expect_equal(pair.mounted.tarnfs.stats()["chunks_held"], 8, f"{options}: chunks of 64 KiB")
                expect(os.pread(fd, MiB, 0) == data[: 64 << 10], f"{options}: bytes")
            finally:
                os.close(fd)
    for option in valued:
        code, out, err = run_to_end(option)
        expect_equal((code, out), (2, ""), f"{option} without a value")
        expect(option in err and err.count("\n") == 1, f"{option} without a value says {err!r}")
    for option in plain:
        code, _, err = run_to_end(f"{option}=on")
        expect(code == 2 and option in err and err.count("\n") == 1, f"{option} with a value: {code}, {err!r}")


@case()
def help_names_every_option_and_its_default():
    for asked in ("--help", "-h"):
        code, out, err = run_to_end(asked)
        expect_equal((code, err), (0, ""), f"{asked}: exit code and errors")
        for name, default in {
            "--budget": "1G",
            "--chunk-size": "64K",
            "--part-size": "4M",
            "--storage": "arena",
            "--prefault": "off",
            "--read-path": "gather",
            "--direct-io": "off",
            "--keep-cache": "off",
            "--read-ahead": "0: nothing",
            "--threads": "one a CPU, at least 2",
            "--receive": "in-place",
            "--one-thread-a-cpu": "off",
            "--loaders": "4",
            "--cpu": "all",
            "--foreground": "off: daemon, syslog",
            "--stats": "off",
            "--rescue": "none",
        }.items():
            # An option's text goes on until the next one's.
            text = re.search(rf"^  {name}\b.*?(?=^  --|^$)", out, re.M | re.S)
            expect(text, f"{asked} does not name {name}")
            expect_equal(re.findall(r"\[(.*?)\]", text[0]), [default], f"{asked}: the default of {name}")
        signals = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGKILL")
        for word in ("SOURCE", "MOUNTPOINT", *signals, "sync(2)", "exit status"):
            expect(word in out, f"{asked} does not say {word}")
        expect(all(len(line) <= 120 for line in out.splitlines()), f"{asked}: a line is too long")


@case()
def counters_are_said_at_the_end_if_they_were_asked_for():
    with Pair() as pair:
        (pair.at / "f").write_bytes(noise(MiB, 1))
        tarnfs = pair.mounted.tarnfs
        pair.mounted.stop()
        said = dict(line.split() for line in tarnfs.whole_log().splitlines())
        for name in ("read_requests", "load_bytes", "chunks_held", "charged_bytes", "source_syncs"):
            expect(said.get(name, "").isdigit(), f"{name} is not said at the end: {tarnfs.log()}")
        expect_equal(said["dirty_bytes"], "0", "dirty bytes at the end")
        expect(int(said["write_request_bytes"]) == MiB, f"bytes of write requests: {said['write_request_bytes']}")

    with mounting.scratch_directory(MiB) as scratch:
        (scratch / "source").mkdir()
        quiet = mounting.Tarnfs(program(), scratch / "source", scratch / "mount", stats=False)
        with quiet:
            (scratch / "mount" / "f").write_bytes(b"x")
        expect_equal(quiet.whole_log(), "", "what is said by one that was not asked")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
