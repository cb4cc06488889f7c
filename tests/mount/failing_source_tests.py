#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A SOURCE that fails: it is full, or its syncs do not go well. What it did not take is told, kept, and stored later.

cases.py says how they are run.
"""

import contextlib
import os
import subprocess
import sys

import mounting
from cases import (
    Skip,
    answer,
    case,
    expect,
    expect_equal,
    main,
    noise,
    program,
)
from mounting import MiB

FULL_SETTINGS = (["--direct-io"], ["--chunk-size=4K", "--part-size=64K", "--budget=24M"])


class SmallSource:
    """A directory on a small tmpfs of its own as SOURCE, and a place for what is rescued."""

    def __init__(self, size_bytes):
        self._size_bytes = size_bytes

    def __enter__(self):
        if os.geteuid() != 0:
            raise Skip("takes root, to mount a small filesystem")
        with contextlib.ExitStack() as stack:
            self.scratch = stack.enter_context(mounting.scratch_directory(64 * MiB))
            self.source, self.at, self.rescue = (self.scratch / name for name in ("source", "mount", "rescue"))
            self.source.mkdir()
            self.rescue.mkdir()
            options = ["-o", f"size={self._size_bytes}", "tarnfs-small", self.source]
            if subprocess.run(["mount", "-t", "tmpfs", *options], stderr=subprocess.DEVNULL).returncode != 0:
                raise Skip("no tmpfs can be mounted here")
            stack.callback(subprocess.run, ["umount", "-l", self.source])
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error):
        return self._stack.__exit__(*error)

    def grow(self, size_bytes):
        subprocess.run(["mount", "-o", f"remount,size={size_bytes}", self.source], check=True)

    def mounted(self, *options):
        """A flush will fail, and who only looks at the exit code shall know."""
        return mounting.Tarnfs(program(), self.source, self.at, *options, exit_code=1)


def write_too_much(path, data):
    """Opens a file and writes more than SOURCE has room for, all of which is taken."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    for at in range(0, len(data), MiB):
        expect_equal(os.pwrite(fd, data[at : at + MiB], at), len(data[at : at + MiB]), f"bytes taken at {at}")
    return fd


def bytes_of(fd, size):
    return b"".join(os.pread(fd, MiB, at) for at in range(0, size + 1, MiB))


# --- No room ----------------------------------------------------------------------------------------------------------


@case()
def what_a_full_source_did_not_take_is_kept_and_stored_later():
    data = noise(12 * MiB + 777, 1)
    for options in FULL_SETTINGS:
        with SmallSource(8 * MiB) as small, small.mounted(*options) as tarnfs:
            (small.at / "d").mkdir()
            path = small.at / "d" / "too large"
            fd = write_too_much(path, data)
            for call, what in ((lambda: os.fsync(fd), "fsync"), (lambda: os.close(os.dup(fd)), "close")):
                start = len(tarnfs.log())
                expect_equal(answer(call), "ENOSPC", f"{options}: {what}")
                told = "d/too large: cannot store: No space left on device\n"
                expect(tarnfs.says(told, start), f"{options}: {what} does not log its failure: {tarnfs.log()!r}")
            expect(bytes_of(fd, len(data)) == data, f"{options}: the bytes after a flush that failed")
            expect_equal(answer(lambda: os.fsync(fd)), "ENOSPC", f"{options}: a second fsync")
            os.pwrite(fd, b"written since", 6 * MiB)
            data_now = data[: 6 * MiB] + b"written since" + data[6 * MiB + 13 :]

            small.grow(32 * MiB)
            os.fsync(fd)
            expect((small.source / "d" / "too large").read_bytes() == data_now, f"{options}: what is stored")
            expect_equal(tarnfs.stats()["dirty_bytes"], 0, f"{options}: dirty bytes")
            os.close(fd)
            expect(path.read_bytes() == data_now, f"{options}: the bytes after all is stored")


@case()
def what_a_full_source_did_not_take_is_rescued():
    data = noise(12 * MiB + 777, 2)
    for rescued in (True, False):
        with SmallSource(8 * MiB) as small:
            with small.mounted(*([f"--rescue={small.rescue}"] if rescued else [])) as tarnfs:
                (small.at / "d").mkdir()
                (small.at / "d" / "small").write_bytes(b"this one fits")
                fd = write_too_much(small.at / "d" / "f", data)
                expect_equal(answer(lambda: os.close(fd)), "ENOSPC", "close")
            said = tarnfs.whole_log()
            found = {str(path.relative_to(small.rescue)) for path in small.rescue.rglob("*") if path.is_file()}
            expect_equal((small.source / "d" / "small").read_bytes(), b"this one fits", "what fits is stored")
            if rescued:
                expect_equal(found, {"d/f"}, "what was rescued")
                expect((small.rescue / "d" / "f").read_bytes() == data, "its bytes")
                expect("d/f: saved in the rescue directory" in said, f"the log says {said!r}")
            else:
                expect_equal(found, set(), "what was rescued, with no place for it")
                expect("d/f: changes are LOST" in said, f"the log says {said!r}")


@case()
def a_full_source_behind_a_full_pool_refuses_writes_and_loses_none():
    piece = 64 << 10
    options = ["--chunk-size=4K", "--part-size=64K", "--storage=heap", "--budget=4M", "--direct-io"]
    with SmallSource(8 * MiB) as small, small.mounted(*options) as tarnfs:
        data = noise(32 * MiB, 3)
        fd = os.open(small.at / "f", os.O_RDWR | os.O_CREAT)
        taken = 0
        error = None
        while error is None and taken < len(data):
            try:
                taken += os.pwrite(fd, data[taken : taken + piece], taken)
            except OSError as e:
                error = e.strerror
        expect_equal(error, "No space left on device", f"the refusal after {taken} bytes")
        expect(taken > 8 * MiB, f"{taken} bytes were taken: fewer than fit into SOURCE")
        expect(bytes_of(fd, taken) == data[:taken], "the bytes that were taken")
        expect(tarnfs.says("f: cannot store: No space left on device\n"), f"the log says {tarnfs.log()!r}")
        expect_equal(answer(lambda: os.fsync(fd)), "ENOSPC", "fsync")
        small.grow(64 * MiB)
        while taken < len(data):
            taken += os.pwrite(fd, data[taken : taken + piece], taken)
        os.fsync(fd)
        expect((small.source / "f").read_bytes() == data, "what is stored in the end")
        os.close(fd)


@case()
def to_be_forgotten_by_the_kernel_loses_nothing():
    data = noise(12 * MiB, 4)
    with SmallSource(8 * MiB) as small:
        (small.source / "known").touch()
        os.link(small.source / "known", small.source / "unknown")  # a name that the kernel has never looked up
        # One thread, so that requests are served in their order.
        with small.mounted("--threads=1", "--direct-io") as tarnfs:
            fd = write_too_much(small.at / "known", data)
            expect_equal(answer(lambda: os.close(fd)), "ENOSPC", "close")
            # The last that the kernel knows of the inode: it lets go of it, and says so between two other requests, of
            # which it has these.
            os.unlink(small.at / "known")
            for _ in range(100):
                os.statvfs(small.at)
            expect(tarnfs.stats()["dirty_bytes"] > 0, "what nobody has open and the kernel does not know is dirty")
            expect((small.at / "unknown").stat().st_size == len(data), "the size, by the other name")
            expect((small.at / "unknown").read_bytes() == data, "the bytes, by the other name")
            small.grow(32 * MiB)
        expect((small.source / "unknown").read_bytes() == data, "what is stored at the end")


@case(needs=["unshare"])
def a_daemon_tells_syslog_what_it_could_not_store():
    """In a /dev of its own, where the socket of syslog is ours."""
    script = r"""
import errno, os, pathlib, socket, subprocess, sys
program, scratch = sys.argv[1], pathlib.Path(sys.argv[2])
source, at, dev = scratch / "source", scratch / "mount", scratch / "dev"
for folder in (at, dev):
    folder.mkdir()
def sh(*command): subprocess.run(command, check=True)
sh("mount", "-t", "tmpfs", "tarnfs-dev", dev)
for name in ("null", "fuse"):
    (dev / name).touch()
    sh("mount", "--bind", f"/dev/{name}", dev / name)
(dev / "shm").mkdir()
sh("mount", "--rbind", "/dev/shm", dev / "shm")
log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
log.bind(str(dev / "log"))
log.settimeout(20)
sh("mount", "--rbind", dev, "/dev")
command = subprocess.run([program, source, at], stdin=subprocess.DEVNULL, capture_output=True, text=True)
print("command:", command.returncode, command.stdout, command.stderr, flush=True)
fd = os.open(at / "too large", os.O_RDWR | os.O_CREAT)
os.pwrite(fd, bytes([7]) * (2 << 20), 0)
try:
    os.fsync(fd)
except OSError as e:
    print("fsync:", errno.errorcode[e.errno], flush=True)
print("syslog:", log.recv(4096).decode(), flush=True)
sh("mount", "-o", "remount,size=16m", source)
os.close(fd)
sh("umount", at)
"""
    with SmallSource(MiB) as small:
        # Ended with its namespace, in which nothing else runs: so is the daemon, whatever happens here.
        done = subprocess.run(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c", script]
            + [os.path.abspath(program()), small.scratch],
            capture_output=True,
            text=True,
            timeout=40,
        )
        if "unshare failed" in done.stderr:
            raise Skip(f"no namespace of our own: {done.stderr.strip()}")
        expect_equal(done.returncode, 0, f"the script's exit code: {done.stdout}{done.stderr}")
        lines = dict(line.split(": ", 1) for line in done.stdout.splitlines())
        expect_equal(lines["command"].split(), ["0"], "what the command says")
        expect_equal(lines["fsync"], "ENOSPC", "fsync")
        expect("tarnfs[" in lines["syslog"], f"syslog is told {lines['syslog']!r}")
        expect("too large: cannot store: No space left on device" in lines["syslog"], f"it is told {lines['syslog']!r}")


# --- A sync that fails ------------------------------------------------------------------------------------------------


@case()
def a_sync_that_failed_is_not_forgotten():
    data = noise(3 * MiB, 5)
    for data_only in (False, True):
        sync = os.fdatasync if data_only else os.fsync
        with mounting.scratch_directory(64 * MiB) as scratch:
            source, at, failing = scratch / "source", scratch / "mount", scratch / "failing"
            source.mkdir()
            environment = {"TARNFS_SYNC_FAILS_WHILE": str(failing)}
            with mounting.Tarnfs(
                program(), source, at, "--direct-io", environment=environment, exit_code=1
            ) as tarnfs:
                fd = os.open(at / "f", os.O_RDWR | os.O_CREAT)
                os.pwrite(fd, data, 0)
                sync(fd)
                before = tarnfs.stats()["source_syncs"]
                os.pwrite(fd, b"new", MiB)
                wanted = data[:MiB] + b"new" + data[MiB + 3 :]
                failing.touch()
                for turn in range(2):
                    start = len(tarnfs.log())
                    expect_equal(answer(lambda: sync(fd)), "EIO", f"sync {turn} while SOURCE's fails")
                    expect(tarnfs.says("f: fsync: Input/output error\n", start), f"the log says {tarnfs.log()!r}")
                    expect(bytes_of(fd, len(data)) == wanted, "the bytes after a sync that failed")
                os.close(os.dup(fd))  # a close syncs nothing, and settles nothing
                expect_equal(tarnfs.stats()["source_syncs"], before, "syncs while they fail")
                failing.unlink()
                sync(fd)
                expect_equal(tarnfs.stats()["source_syncs"], before + 1, "syncs after one that failed")
                expect((source / "f").read_bytes() == wanted, "what is stored")
                sync(fd)
                expect_equal(tarnfs.stats()["source_syncs"], before + 1, "syncs after one that went well")
                os.close(fd)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
