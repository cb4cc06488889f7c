#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A tarnfs that is killed in the middle of its work. What SOURCE has then is checked byte by byte against a log.

    TARN_KILL_SEED=7 tests/mount/kill_tests.py CASE       begins with this seed; each kill takes the next one

cases.py says how they are run. A seed draws the operations, the settings and the operation that the kill falls into,
or next to; how far that one and those of the other threads have come is the machine's to say.
"""

import contextlib
import itertools
import os
import random
import signal
import sys
import threading
import typing

import mounting
from cases import TIGHT, Failed, KiB, case, expect, expect_equal, main, program
from mounting import MiB

THREADS, NAMES = 3, 3  # each thread has its own files, and knows to the byte what they hold
REACH = 384 * KiB
CELL = 8
SETTINGS = [
    [],
    ["--direct-io"],
    TIGHT,
    # So little memory that most of what is stored is stored for room, in the middle of other calls.
    ["--storage=heap", "--chunk-size=4K", "--part-size=16K", "--budget=2M"],
    ["--storage=heap", "--chunk-size=64K", "--part-size=1M", "--budget=3M", "--direct-io", "--read-path=copy"],
]

_cells = b"".join(bytes(4) + (cell ^ 0xA5A5A5A5).to_bytes(4, "little") for cell in range(2 * REACH // CELL))


def pattern(file, write, offset, size):
    """Bytes that say whose they are: in each cell of eight the file's number, the write's, and the cell's."""
    first, end = offset // CELL, (offset + size + CELL - 1) // CELL
    cells = bytearray(_cells[first * CELL : end * CELL])
    for at, byte in enumerate(((file ^ 0xA5A5) | (write ^ 0xA5A5) << 16).to_bytes(4, "little")):
        cells[at::CELL] = bytes([byte]) * (end - first)
    return bytes(cells[offset - first * CELL :][:size])


def meaning(cell):
    """What a cell says, for whoever reads of a failure."""
    if not any(cell):
        return "zeros"
    file, write = (int.from_bytes(cell[at : at + 2], "little") ^ 0xA5A5 for at in (0, 2))
    return f"file {file}, write {write}, offset {(int.from_bytes(cell[4:], 'little') ^ 0xA5A5A5A5) * CELL}"


class File:
    """One file: what a read has to show, and what SOURCE may have of it at any time.

    SOURCE may have, of each byte, the one it had when a call last promised that all is stored, or one of a later write,
    begun or done: a flush may take any of them, whenever it likes.
    """

    def __init__(self, number, held=b""):
        self.number, self.writes = number, 0
        self.held = bytearray(held)
        self.log = [f"there are {len(held)} bytes"]
        self.is_stored()

    def is_stored(self):
        self.stored = bytes(self.held)
        self.later = []  # (offset, bytes)
        self.least = self.most = self.zero_from = len(self.stored)  # its size; zeros may be at or past the last

    def begin_write(self, offset, size):
        self.writes += 1
        data = pattern(self.number, self.writes, offset, size)
        self.log.append(f"write {self.writes} of [{offset}, {offset + size})")
        self.later.append((offset, data))
        self.most = max(self.most, offset + size)
        return data

    def end_write(self, offset, data):
        self.held.extend(bytes(max(0, offset - len(self.held))))
        self.held[offset : offset + len(data)] = data

    def begin_truncate(self, size):
        self.log.append(f"truncate to {size}")
        self.least, self.most, self.zero_from = min(self.least, size), max(self.most, size), min(self.zero_from, size)

    def end_truncate(self, size):
        del self.held[size:]
        self.held.extend(bytes(size - len(self.held)))

    def check(self, got, what):
        """`got` is what SOURCE has."""
        expect(self.least <= len(got) <= self.most, self._failure(f"{what}: {len(got)} bytes", 0, b""))
        step = 512
        for start in range(0, len(got), step):
            piece = got[start : start + step]
            end = start + len(piece)
            if piece == self.stored[start:end] or piece == self.held[start:end]:
                continue
            near = [(offset, data) for offset, data in self.later if offset < end and start < offset + len(data)]
            for at in range(start, end):
                may_be = {data[at - offset] for offset, data in near if offset <= at < offset + len(data)}
                if at < len(self.stored):
                    may_be.add(self.stored[at])
                if at >= self.zero_from:
                    may_be.add(0)
                if got[at] not in may_be:
                    cell = at // CELL * CELL
                    raise Failed(self._failure(f"{what}: a byte that was never there", cell, got[cell : cell + CELL]))

    def _failure(self, what, at, cell):
        log = "\n    ".join(self.log[-60:])
        sizes = f"{len(self.stored)} bytes were stored, then between {self.least} and {self.most}"
        return f"{what}\n  at {at}: {meaning(cell)}\n  file {self.number}: {sizes}; its last calls:\n    {log}"


class Worker:
    """Does what its seed draws to the files of one folder, until the filesystem is gone."""

    def __init__(self, seed, index, numbers, source, at, done, dying):
        self._draw = random.Random(f"{seed}, thread {index}")
        self._numbers, self._done, self._dying = numbers, done, dying
        self.folder, self._at = f"t{index}", at / f"t{index}"
        self.names = {}  # name -> file
        self.promises = 0  # calls that answered, and after which all of a file is in SOURCE
        self.moving = None  # (name, other name, the file that has the other one) while a rename is on its way
        self._fds = {}
        self.error = None
        (source / self.folder).mkdir()
        for name in (f"f{i}" for i in range(NAMES)):
            number = next(numbers)
            held = pattern(number, 0, 0, self._draw.randrange(1, REACH))
            (source / self.folder / name).write_bytes(held)
            self.names[name] = File(number, held)

    def run(self):
        try:
            while True:
                self._step()
                self._done()
        except Exception as e:  # the test's own thread raises it
            gone = isinstance(e, OSError) and self._dying.is_set()
            self.error = None if gone else e

    def close(self):
        for fd in self._fds.values():
            with contextlib.suppress(OSError):
                os.close(fd)

    def _step(self):
        kinds = {
            self._write: 12,
            self._read: 3,
            self._sync: 3,
            self._close: 4,
            self._truncate: 1,
            self._replace: 3,
        }
        action = self._draw.choices(list(kinds), list(kinds.values()))[0]
        action(self._draw.choice(sorted(self.names)))

    def _is_stored(self, file):
        self.promises += 1
        file.is_stored()

    def _fd(self, name):
        if name not in self._fds:
            self._fds[name] = os.open(self._at / name, os.O_RDWR)
        return self._fds[name]

    def _write(self, name):
        fd, file = self._fd(name), self.names[name]
        size = self._draw.choice([1, 7, 4096, self._draw.randrange(1, 9000), self._draw.randrange(1, 150_000)])
        offset = self._draw.choice(
            [self._draw.randrange(REACH), self._draw.randrange(REACH) // 4096 * 4096, len(file.held)]
        )
        offset = min(offset, REACH)
        data = file.begin_write(offset, size)
        if (taken := os.pwrite(fd, data, offset)) != size:  # the kernel made it more than one request
            raise OSError(f"{name}: {taken} bytes of {size} written")
        file.end_write(offset, data)

    def _read(self, name):
        fd, file = self._fd(name), self.names[name]
        offset, size = self._draw.randrange(REACH), self._draw.randrange(1, 200_000)
        got, wanted = os.pread(fd, size, offset), file.held[offset : offset + size]
        if self._dying.is_set() and len(got) < len(wanted):  # what the kernel had kept of it
            wanted = wanted[: len(got)]
        expect(got == wanted, f"{name}: a read of [{offset}, {offset + size}), {len(got)} bytes")

    def _sync(self, name):
        fd, file = self._fd(name), self.names[name]
        self._draw.choice([os.fsync, os.fdatasync])(fd)
        file.log.append("synced")
        self._is_stored(file)

    def _close(self, name):
        if name in self._fds:
            # Of one of two, which stores as much, and after which the file is as open as it was.
            fd = os.dup(self._fds[name]) if self._draw.random() < 0.6 else self._fds.pop(name)
            os.close(fd)
            self.names[name].log.append("closed")
            self._is_stored(self.names[name])

    def _truncate(self, name):
        fd, file = self._fd(name), self.names[name]
        size = self._draw.randrange(1, REACH)
        file.begin_truncate(size)
        os.ftruncate(fd, size)
        file.end_truncate(size)

    def _replace(self, name):
        """What careful programs do, and careless ones: a new file, renamed over an old one, synced or not, closed or
        not."""
        other = f"new-{name}"
        fd = os.open(self._at / other, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        self._fds[other] = fd
        file = self.names[other] = File(next(self._numbers))
        for _ in range(self._draw.randrange(1, 4)):
            self._write(other)
        prelude = self._draw.choice(["nothing", "sync", "close"])
        if prelude == "sync":
            self._sync(other)
        elif prelude == "close":
            self._close(other)
        file.log.append(f"rename of {other} over {name}")
        self.moving = (other, name, self.names[name])
        os.rename(self._at / other, self._at / name)
        file.log.append("renamed")
        self._is_stored(file)
        self.moving = None
        self.names[name] = self.names.pop(other)
        replaced, new = self._fds.pop(name, None), self._fds.pop(other, None)
        if new is not None:
            self._fds[name] = new
        if replaced is not None:
            os.close(replaced)

    def check(self, source):
        """What SOURCE has of these files."""
        top = source / self.folder
        there = set(os.listdir(top))
        names = dict(self.names)
        if self.moving and self.moving[0] not in there:
            # The rename was done, and nobody was told any more: then the file came whole.
            other, name, _ = self.moving
            names[name] = names.pop(other)
            names[name].is_stored()
        # A create on its way, of which nobody was told either.
        expect(set(names) <= there, f"{self.folder}: {sorted(set(names) - there)} is missing")
        for name in there - set(names):
            expect(name.startswith("new-") and os.path.getsize(top / name) == 0, f"{self.folder}: {name} is left")
        for name, file in names.items():
            file.check((top / name).read_bytes(), f"{self.folder}/{name}")


class Outcome(typing.NamedTuple):
    """Of one kill, or of some."""

    kills: int = 1
    operations: int = 0  # done before it
    promises: int = 0  # closes, syncs and renames that had answered
    files: int = 0
    size_bytes: int = 0  # of what SOURCE had then, each byte of it checked

    def __add__(self, other):
        return Outcome(*map(sum, zip(self, other)))


def settings_and_operation(seed):
    """What a seed draws first: how tarnfs is started, and the operation at which it is killed."""
    draw = random.Random(seed)
    return draw.choice(SETTINGS), draw.randrange(1, draw.choice([60, 600, 3000]))


def kill_once(seed):
    options, kill_at = settings_and_operation(seed)
    print(f"  TARN_KILL_SEED={seed}: {' '.join(options)}, killed at operation {kill_at}", flush=True)
    with mounting.scratch_directory(64 * MiB) as scratch:
        source, at = scratch / "source", scratch / "mount"
        source.mkdir()
        now, dying = threading.Event(), threading.Event()
        counted = itertools.count(1)  # its next() is one step, whichever thread takes it

        with mounting.Tarnfs(program(), source, at, *options) as tarnfs:

            def done():
                count = next(counted)
                if count >= kill_at:
                    now.set()
                elif count % 40 == 0:
                    tarnfs.send(signal.SIGUSR2)  # store everything, while the others go on

            numbers = itertools.count(1)
            workers = [Worker(seed, index, numbers, source, at, done, dying) for index in range(THREADS)]
            threads = [threading.Thread(target=worker.run) for worker in workers]
            for thread in threads:
                thread.start()
            while not now.wait(1):
                expect(any(thread.is_alive() for thread in threads), f"all ended before: {[w.error for w in workers]}")
            dying.set()
            tarnfs.kill()
            tarnfs.process.wait()
            for thread in threads:
                thread.join()
            for worker in workers:
                worker.close()
            said = tarnfs.whole_log()
            for worker in workers:
                if worker.error:
                    raise worker.error
            expect_equal(said, "", "what it said before")
        for worker in workers:
            worker.check(source)

        # And the next one finds a SOURCE like any other.
        held = {path: path.read_bytes() for path in source.glob("*/*")}
        with mounting.Tarnfs(program(), source, at, *options, stats=False) as tarnfs:
            for path, data in held.items():
                expect((at / path.relative_to(source)).read_bytes() == data, f"{path.name} in the next mount")
        promises = sum(worker.promises for worker in workers)
        return Outcome(1, next(counted) - 1, promises, len(held), sum(map(len, held.values())))


def kill_again_and_again(times):
    first = int(os.environ.get("TARN_KILL_SEED") or random.randrange(1 << 32))
    for seed in range(first, first + times):
        try:
            kill_once(seed)
        except Exception:
            print(f"  to see it again: TARN_KILL_SEED={seed}", flush=True)
            raise


@case(timeout=120)
def a_kill_shifts_no_byte_and_loses_none_that_was_stored():
    kill_again_and_again(5)


@case(timeout=400, slow=True)
def fifty_kills_shift_no_byte_and_lose_none_that_was_stored():
    kill_again_and_again(50)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
