#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What must wait for SOURCE or for memory, and what must not wait with it.

cases.py says how they are run.
"""

import contextlib
import os
import signal
import statistics
import sys
import threading
import time

import mounting
from cases import KiB, case, expect, expect_equal, main, noise, program, wait_until
from mounting import MiB


class SlowSource:
    """A mount of a SOURCE that can become slow: a load of a file whose name begins with `slow`, or a store to it, then
    takes a second."""

    def __init__(self, *options, files):
        self._options, self._files = options, files

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            scratch = stack.enter_context(mounting.scratch_directory(256 * MiB))
            self.source, self.at, self._slow_while = (scratch / name for name in ("source", "mount", "slow while"))
            self.source.mkdir()
            for name, data in self._files.items():
                (self.source / name).write_bytes(data)
            environment = {"TARNFS_SLOW_WHILE": str(self._slow_while)}
            tarnfs = mounting.Tarnfs(program(), self.source, self.at, *self._options, environment=environment)
            self.tarnfs = stack.enter_context(tarnfs)
            stack.callback(self.become_fast)  # so that it can end
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error):
        return self._stack.__exit__(*error)

    def become_slow(self):
        self._slow_while.write_text("slow")

    def become_fast(self):
        self._slow_while.unlink(missing_ok=True)

    def wait_for_loads(self, count):
        """Until so many loads were asked for since the start."""
        wait_until(lambda: self.tarnfs.stats()["loads"] >= count, f"{count} loads are asked for")


class Threads:
    """Threads that do turn(i) each, i counting on over all of them, until they are stopped."""

    def __init__(self, count, turn):
        self._turn, self._turns, self._lock = turn, 0, threading.Lock()
        self._stopped = threading.Event()
        self.took, self.errors = [], []
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error):
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _run(self):
        while not self._stopped.is_set():
            with self._lock:
                i, self._turns = self._turns, self._turns + 1
            started = time.monotonic()
            try:
                self._turn(i)
            except Exception as e:
                self.errors.append(e)
                return
            self.took.append(time.monotonic() - started)


def expect_quick(tarnfs, action, what, count=500):
    """action(i), a request, takes under 2 ms in the median, and under 20 ms in 99 of 100 cases."""

    def requests():
        stats = tarnfs.stats()
        return stats["read_requests"] + stats["write_requests"]

    took, before = [], requests()
    for i in range(count):
        started = time.perf_counter_ns()
        action(i)
        took.append((time.perf_counter_ns() - started) / 1e6)
    expect(requests() - before >= count, f"{what}: not all came to tarnfs")
    took.sort()
    said = f"{what}: median {statistics.median(took):.3f} ms, p99 {took[count * 99 // 100]:.3f} ms"
    print(f"  {said}", flush=True)
    expect(statistics.median(took) < 2 and took[count * 99 // 100] < 20, said)


@case(timeout=120, measures=True)
def more_slow_loads_than_there_are_threads_hold_up_nothing_else():
    threads, loaders, part = 2, 2, 64 * KiB
    outstanding = 2 * (threads + loaders)
    first = 2 * MiB  # of the slow file: what is before it is in memory, what is behind it is loaded
    data = {"slow": noise(32 * MiB, 1), "quick": noise(2 * MiB, 2)}
    piece, in_part = noise(4 * KiB, 3), 8 * KiB  # what is written, and where in a part
    for path in ("gather", "copy"):
        options = [f"--threads={threads}", f"--loaders={loaders}", "--part-size=64K", "--direct-io"]
        with SlowSource(*options, f"--read-path={path}", files=data) as mount:
            slow, quick = (os.open(mount.at / name, os.O_RDWR) for name in ("slow", "quick"))
            try:

                def read(fd, name):
                    def action(i):
                        at = i * 37 * 4 * KiB % (2 * MiB)
                        expect(os.pread(fd, 4 * KiB, at) == data[name][at : at + 4 * KiB], f"the bytes of {name}")

                    return action

                # Into bytes that are being loaded, and into such as are about to be.
                written = [first + i * part + in_part for i in range(4 * outstanding)]
                actions = {
                    "reads of a resident file": read(quick, "quick"),
                    "reads of a resident range": read(slow, "slow"),
                    "writes into the slow range": lambda i: os.pwrite(slow, piece, written[i % len(written)]),
                }

                def load(i):
                    at = first + i * part
                    got = os.pread(slow, part, at)
                    here = data["slow"][at : at + part]
                    changed = here[:in_part] + piece + here[in_part + len(piece) :]
                    expect(got in (here, changed), f"the bytes of a load at {at}")

                for i in range(512):
                    actions["reads of a resident file"](i)
                    actions["reads of a resident range"](i)
                mount.become_slow()
                before = mount.tarnfs.stats()["loads"]
                with Threads(outstanding, load) as loads:
                    mount.wait_for_loads(before + outstanding)
                    for what, action in actions.items():
                        expect_quick(mount.tarnfs, action, f"{path}: {what}, with {outstanding} loads of 1 s outstanding")
                    # Each that ends is followed by the next, so there were as many all the time.
                    expect(not loads.errors, f"{path}: {loads.errors}")
                    expect(min(loads.took, default=1) >= 1, f"{path}: loads that were not slow: {loads.took}")
                expect(not loads.errors, f"{path}: {loads.errors}")
                mount.become_fast()
                for at in written:
                    expect(os.pread(slow, len(piece), at) == piece, f"{path}: what was written at {at}")
            finally:
                os.close(slow)
                os.close(quick)
            mount.tarnfs.unmount()
            stored = bytearray(data["slow"])
            for at in written:
                stored[at : at + len(piece)] = piece
            expect((mount.source / "slow").read_bytes() == stored, f"{path}: what is stored")


@case(timeout=120, measures=True)
def more_writes_than_there_are_threads_that_wait_for_memory_hold_up_nothing_else():
    writers, budget, held = 8, 4 * MiB, 2 * MiB
    data = noise(8 * MiB, 1)
    names = ["slow", *(f"slow {i}" for i in range(writers))]  # a file each: the kernel lets one write to a file at a time
    options = ["--threads=2", "--chunk-size=4K", "--part-size=64K", f"--budget={budget}", "--storage=heap"]
    with SlowSource(*options, "--direct-io", files={name: b"" for name in names}) as mount:
        fd, *others = (os.open(mount.at / name, os.O_RDWR) for name in names)
        try:
            for at in range(0, held, MiB):
                os.pwrite(fd, data[at : at + MiB], at)

            def write(i):
                at = i // writers * MiB % len(data)
                expect_equal(os.pwrite(others[i % writers], data[at : at + MiB], at), MiB, "bytes written")

            def read(i):
                # A part a second is stored, from the start on: what is read here is dirty still, and so in memory.
                at = held - (1 + i * 37 % 64) * 4 * KiB
                expect(os.pread(fd, 4 * KiB, at) == data[at : at + 4 * KiB], "the bytes of what is held")

            mount.become_slow()
            with Threads(writers, write) as writes:
                wait_until(lambda: mount.tarnfs.stats()["dirty_bytes"] >= budget * 3 // 4, "the pool is full")
                expect_quick(mount.tarnfs, read, f"reads of what is held, with {writers} writes that wait for memory")
                expect(len(writes.took) <= (budget - held) // MiB, f"{len(writes.took)} writes did not have to wait")
                mount.become_fast()
            expect(not writes.errors, f"{writes.errors}")
            expect(len(writes.took) >= writers, "the writes did not go on")
            sizes = [os.fstat(other).st_size for other in others]
        finally:
            for opened in (fd, *others):
                os.close(opened)
        mount.tarnfs.unmount()
        for name, size in zip(names, [held, *sizes]):
            expect((mount.source / name).read_bytes() == data[:size], f"what is stored in {name}")


@case(measures=True)
def a_file_that_goes_while_it_is_loaded_ahead_holds_up_nothing_else():
    data = {"slow": noise(4 * MiB, 1), "quick": noise(MiB, 2)}
    options = ["--threads=1", "--loaders=1", "--part-size=64K", "--direct-io", "--read-ahead=1M"]
    with SlowSource(*options, files=data) as mount:
        slow, quick = (os.open(mount.at / name, os.O_RDONLY) for name in ("slow", "quick"))
        try:
            expect(os.pread(quick, MiB, 0) == data["quick"], "the bytes of quick")
            expect(os.pread(slow, 64 * KiB, 0) == data["slow"][: 64 * KiB], "the first bytes of slow")
            mount.wait_for_loads(16 + 3)
            mount.become_slow()
            for at in (64 * KiB, 128 * KiB):
                expect(os.pread(slow, 64 * KiB, at) == data["slow"][at : at + 64 * KiB], f"the bytes of slow at {at}")
            mount.wait_for_loads(16 + 7)
        finally:
            os.close(slow)
        os.unlink(mount.at / "slow")  # the kernel forgets it

        took = []
        try:
            for _ in range(500):
                started = time.monotonic()
                expect(os.pread(quick, MiB, 0) == data["quick"], "the bytes of quick")
                took.append(time.monotonic() - started)
            expect(max(took) < 0.5, f"one of {len(took)} reads took {max(took):.3f} s")
        finally:
            os.close(quick)
            mount.become_fast()
        mount.tarnfs.unmount()


@case()
def a_term_signal_waits_for_what_was_asked_before():
    data = {"slow": noise(MiB, 1)}
    options = ["--threads=2", "--loaders=2", "--part-size=64K", "--direct-io"]
    with SlowSource(*options, files=data) as mount:
        fd = os.open(mount.at / "slow", os.O_RDWR)
        try:
            os.pwrite(fd, b"dirty", 100)
            mount.become_slow()
            got = {}

            def read(at):
                got[at] = os.pread(fd, 64 * KiB, at)

            readers = [threading.Thread(target=read, args=(i * 64 * KiB,)) for i in range(1, 5)]
            for reader in readers:
                reader.start()
            mount.wait_for_loads(len(readers))
            mount.tarnfs.send(signal.SIGTERM)
            for reader in readers:
                reader.join()
            for i in range(1, 5):
                at = i * 64 * KiB
                expect(got.get(at) == data["slow"][at : at + 64 * KiB], f"what was read at {at}")
        finally:
            with contextlib.suppress(OSError):  # there is nobody left to store it
                os.close(fd)
        mount.tarnfs.wait_for_end()
        stored = data["slow"][:100] + b"dirty" + data["slow"][105:]
        expect((mount.source / "slow").read_bytes() == stored, "what is stored")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
