#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Tests of a mounted tarnfs. What is done to files in the mount is done to files in a plain directory too; both must
answer the same and end the same, in the mount and, after it is unmounted, in the directory that tarnfs stores to.

cases.py says how they are run.
"""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import itertools
import mmap
import os
import pathlib
import random
import select
import signal
import subprocess
import sys
import threading
import time

import mounting
from cases import (
    READ_PATHS,
    SETTINGS,
    TIGHT,
    Failed,
    KiB,
    Pair,
    Skip,
    answer,
    case,
    compare_trees,
    ended_with,
    expect,
    expect_equal,
    main,
    noise,
    program,
    run_to_end,
    wait_until,
)
from mounting import MiB

IDENTITY = {
    name: value
    for role in ("AUTHOR", "COMMITTER")
    for name, value in (
        (f"GIT_{role}_NAME", "A"),
        (f"GIT_{role}_EMAIL", "a@example.org"),
        (f"GIT_{role}_DATE", "2001-02-03T04:05:06Z"),
    )
}


# --- The system's own tools -------------------------------------------------------------------------------------------


@case(timeout=120)
def files_are_copied_and_edited_as_in_a_plain_directory():
    for options in SETTINGS:
        with Pair(*options) as pair:
            (pair.input / "big").write_bytes(noise(9 * MiB + 123, 1))
            (pair.input / "text").write_text("".join(f"line {n * 7919 % 5000}\n" for n in range(5000)))
            (pair.input / "empty").touch()
            (pair.input / "dir").mkdir()
            (pair.input / "dir" / "link").symlink_to("../text")
            pair.run(
                r"""
                cp --preserve=all -r "$INPUT" tree
                cmp "$INPUT"/big tree/big
                cp --sparse=always tree/big sparse; cmp tree/big sparse
                dd if="$INPUT"/big of=patched bs=7777 count=300 status=none
                dd if="$INPUT"/big of=patched bs=7777 seek=100 skip=3 count=2 conv=notrunc status=none
                dd if="$INPUT"/text of=patched oflag=append conv=notrunc status=none
                dd if=tree/big of=direct bs=1M status=none conv=fsync
                cmp tree/big direct
                sed -i s/line/LINE/ tree/text
                sort -o tree/text tree/text; md5sum tree/text
                split -b 1000001 tree/big piece.
                cat piece.* > joined; cmp joined tree/big
                rm piece.a[a-d]
                tail -c 70000 tree/big >> tree/empty
                mv tree/empty tree/full; ln -s tree/full short; ln tree/full hard; rm tree/full
                gzip -1 < tree/big | gzip -d | cmp - tree/big
                mkdir -p a/b/c; mv tree a/b/c/; rmdir a/b 2>/dev/null || echo not empty
                chmod 640 hard; touch -d '2001-02-03 04:05:06.123456789' hard; stat -c '%a %Y %.9Y %s %h' hard
                find . -type f -printf '%P %m %s %n\n' -o -type l -printf '%P %l\n' | sort
                find . -type f -print0 | sort -z | xargs -0 md5sum
                """
            )
            pair.finish()


@case(timeout=120, needs=["tar"])
def tar_brings_back_every_nanosecond():
    def files(top):
        for i in range(60):
            path = top / f"d{i % 7}" / f"f{i}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(noise(i * 1777, i))
            path.chmod(0o600 + i % 8)
            os.utime(path, ns=(0, 1_000_000_000_000_000_000 + i * 1_000_000_007))

    for options in SETTINGS:
        with Pair(*options) as pair:
            files(pair.input)
            pair.run(
                r"""
                tar --format=posix --create --file=one.tar --directory="$INPUT" .
                mkdir out; tar --extract --file=one.tar --directory=out
                tar --format=posix --sort=name --create --file=two.tar --directory=out --mtime=@0 .
                tar --compare --file=one.tar --directory=out
                rm one.tar; md5sum < two.tar > /dev/null; rm two.tar
                find out -type f -printf '%P %T@ %m %s\n' | sort
                """
            )
            for path in sorted(pair.input.rglob("f*")):
                expect_equal(
                    (pair.at / "out" / path.relative_to(pair.input)).stat().st_mtime_ns,
                    path.stat().st_mtime_ns,
                    f"mtime of {path.name}",
                )
            pair.finish(with_mtime=True)


@case(timeout=180, needs=["git"])
def a_git_clone_is_clean_works_and_stays_clean():
    environment = {
        **IDENTITY,
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_SYSTEM": "/dev/null",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    }
    with Pair() as pair:
        for i in range(150):
            path = pair.input / f"d{i % 11}" / f"f{i}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(noise(i * 997 % 60_000, i) if i % 3 else f"text {i}\n".encode() * i)
        subprocess.run(
            [
                "bash",
                "-ec",
                "git init -q -b main; git add .; git commit -qm one; rm -r d3; echo x >> d0/f0; git commit -qam two",
            ],
            cwd=pair.input,
            env={**os.environ, **environment},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        pair.run(
            r"""
            git clone -q --no-hardlinks "$INPUT" clone
            cd clone; git status --porcelain; git fsck --strict 2>/dev/null
            git checkout -q -b other HEAD~1; git status --porcelain; ls
            for i in 1 5 9; do echo more >> d1/f$i; done; cp d0/f0 new; git add -A
            git commit -qm three; git status --porcelain
            git checkout -q main; git merge -q -m four other; git gc -q; git fsck --strict 2>/dev/null
            git log --format='%H %s'; git status --porcelain
            """,
            environment,
        )
        # The index holds inode numbers and times, and packs are named alike: only what git says is compared after that.
        pair.mounted.stop()
        pair.mounted.start()
        pair.run(
            "cd clone; git status --porcelain; git fsck --strict 2>/dev/null; git log --format=%H; git ls-files -s",
            environment,
        )


@case(timeout=120, needs=["sqlite3"])
def sqlite_keeps_its_databases_whole():
    for options in SETTINGS:
        with Pair(*options) as pair:
            for mode in ("delete", "truncate", "persist", "wal"):
                pair.run(
                    f"""
                    sqlite3 {mode}.db '
                      PRAGMA journal_mode={mode}; PRAGMA synchronous=FULL; PRAGMA page_size;
                      CREATE TABLE t(id INTEGER PRIMARY KEY, word TEXT, data BLOB);
                      WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 3000)
                        INSERT INTO t SELECT i, hex(i * 7919), zeroblob(i % 700) FROM n;
                      CREATE INDEX w ON t(word);
                      BEGIN; UPDATE t SET word = word || word WHERE id % 3 = 0;
                        DELETE FROM t WHERE id % 5 = 0; ROLLBACK;
                      BEGIN; UPDATE t SET word = lower(word) WHERE id % 2 = 0; DELETE FROM t WHERE id % 11 = 0; COMMIT;
                      VACUUM; PRAGMA integrity_check; SELECT count(*), sum(length(word)), sum(length(data)) FROM t;'
                    for i in $(seq 20); do sqlite3 {mode}.db "INSERT INTO t(word) VALUES ('again $i')"; done
                    sqlite3 {mode}.db .dump | md5sum
                    """
                )
            pair.mounted.stop()
            pair.mounted.start()
            pair.run("for db in *.db; do sqlite3 $db 'PRAGMA integrity_check'; sqlite3 $db .dump | md5sum; done")


@case(timeout=240, needs=["fio"])
def fio_finds_every_block_it_wrote():
    common = (
        "fio --directory=. --size=24m --bsrange=512-128k --verify=crc32c --verify_fatal=1 --verify_state_save=0 "
        "--randseed=7 "
        "--output-format=terse --output=/dev/null"
    )
    for options, jobs in (
        (
            [],
            [
                "--ioengine=psync --rw=randwrite",
                "--ioengine=mmap --rw=randwrite --bsrange=4k-64k",
                "--ioengine=psync --rw=randrw --fsync=32 --numjobs=3",
            ],
        ),
        (TIGHT, ["--ioengine=psync --rw=randwrite --numjobs=2", "--ioengine=psync --rw=write"]),
        (["--direct-io"], ["--ioengine=psync --rw=randrw --bsrange=4k-1m --blockalign=4k"]),
        (
            ["--direct-io", "--budget=24M"],
            [
                "--ioengine=psync --rw=randwrite --bs=128k",
                "--ioengine=psync --rw=randrw --bsrange=4k-1m --blockalign=4k --numjobs=2",
            ],
        ),
    ):
        with Pair(*options) as pair:
            for number, job in enumerate(jobs):
                pair.run(f"{common} --name=job{number} {job}")
            pair.mounted.stop()


# --- Bytes ------------------------------------------------------------------------------------------------------------


def differential(options, seed, operations=120):
    """Seeded operations on an old and a new file, each compared as it answers; then all bytes, mounted and stored."""
    draw = random.Random(seed)
    old_bytes, reach = 40 * MiB, 24 * MiB
    first = noise(MiB, seed)

    def prepare(top):
        with open(top / "old", "wb") as file:
            for i in range(old_bytes // MiB):
                file.write(first[i * 1009 :] + first[: i * 1009])

    with Pair(*options, prepare=prepare) as pair:
        names = {"old": old_bytes, "new": reach}
        files = {
            name: [os.open(top / name, os.O_RDWR | os.O_CREAT, 0o644) for top in (pair.plain, pair.at)]
            for name in names
        }
        try:
            for step in range(operations):
                name = draw.choice(list(names))
                plain, mounted = files[name]
                offset = draw.choice(
                    [
                        draw.randrange(names[name]),
                        draw.randrange(names[name] // 65536) * 65536 + draw.choice([-1, 0, 1]) % 65536,
                    ]
                )
                size = draw.choice([1, 4096, draw.randrange(70_000), draw.randrange(1_200_000)])
                kind = draw.choices(
                    ["write", "read", "truncate", "punch", "append", "sync", "reopen"], [8, 8, 1, 2, 1, 1, 1]
                )[0]
                what = f"{options}, seed {seed}, step {step}: {kind} of {name} at {offset}, {size} bytes"
                if kind == "write":
                    start = draw.randrange(MiB - 4096)
                    data = (first[start:] + first)[:size]
                    expect_equal(os.pwrite(mounted, data, offset), os.pwrite(plain, data, offset), what)
                elif kind == "read":
                    expect(os.pread(mounted, size, offset) == os.pread(plain, size, offset), what)
                elif kind == "truncate":
                    for fd in (plain, mounted):
                        os.ftruncate(fd, offset)
                elif kind == "punch":
                    for fd in (plain, mounted):
                        punch_hole(fd, offset, size + 1)
                elif kind == "append":
                    for fd in (plain, mounted):
                        end = os.fstat(fd).st_size
                        os.pwrite(fd, first[: size % 50_000], end)
                elif kind == "sync":
                    os.fsync(mounted)
                else:
                    for side, top in enumerate((pair.plain, pair.at)):
                        os.close(files[name][side])
                        files[name][side] = os.open(top / name, os.O_RDWR)
                expect_equal(os.fstat(files[name][1]).st_size, os.fstat(files[name][0]).st_size, f"{what}: size after")
        finally:
            for fds in files.values():
                for fd in fds:
                    os.close(fd)
        pair.finish()


def punch_hole(fd, offset, size):
    fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, size)


FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_ZERO_RANGE = 1, 2, 8, 16


def fallocate(fd, mode, offset, size):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(size)) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def every_combination(chunk):
    data_bytes = 64 * MiB
    parts = dict.fromkeys([chunk, "4M", "256M"])
    for seed, (path, budget, part) in enumerate(
        itertools.product(READ_PATHS, (data_bytes // 8, 4 * data_bytes), parts)
    ):
        # Five and three, so that each of the one meets each of the other.
        memory = [[], ["--storage=heap"], ["--prefault"], ["--storage=heap", "--prefault"], []][seed % 5]
        cache = [[], ["--direct-io"], ["--keep-cache"]][seed % 3]
        if "--storage=heap" in memory:
            budget += MiB  # its least is four chunks and the tables; the arena's, less
        receive = [["--receive=in-place"], ["--receive=copy"]][seed % 2]
        sizes = [f"--budget={budget}", f"--chunk-size={chunk}", f"--part-size={part}"]
        differential([f"--read-path={path}", *sizes, *memory, *cache, *receive], seed)


@case(timeout=120)
def bytes_are_equal_in_every_kind_of_memory():
    settings = itertools.product(
        ([], ["--storage=heap"], ["--prefault"], ["--storage=heap", "--prefault"]),
        (["--budget=8M", "--chunk-size=4K", "--part-size=64K", "--direct-io"], ["--budget=16M"]),
    )
    for seed, (memory, sizes) in enumerate(settings):
        differential([*memory, *sizes], seed, operations=60)


@case(timeout=240, slow=True)
def bytes_are_equal_with_4k_chunks_on_every_path_budget_and_part():
    every_combination("4K")


@case(timeout=240, slow=True)
def bytes_are_equal_with_64k_chunks_on_every_path_budget_and_part():
    every_combination("64K")


@case(timeout=240, slow=True)
def bytes_are_equal_with_2m_chunks_on_every_path_budget_and_part():
    every_combination("2M")


@case(timeout=120)
def a_read_never_shows_half_a_write():
    block, reads = 256 * KiB, 1500  # within one window, and across chunks
    for path, received in itertools.product(("copy", "gather"), (["--receive=copy"], ["--receive=in-place"])):
        with Pair(f"--read-path={path}", "--direct-io", "--threads=4", *received) as pair:
            fd = os.open(pair.at / "f", os.O_RDWR | os.O_CREAT)
            done, torn = threading.Event(), []
            try:
                versions = [bytes([letter]) * block for letter in b"AB"]
                os.pwrite(fd, versions[0], 0)

                def write():
                    for turn in itertools.count():
                        if done.is_set():
                            return
                        os.pwrite(fd, versions[turn % 2], 0)

                def read():
                    for _ in range(reads):
                        got = os.pread(fd, block, 0)
                        if got not in versions:
                            torn.append(got)

                readers = [threading.Thread(target=read) for _ in range(2)]
                writer = threading.Thread(target=write)
                for thread in (writer, *readers):
                    thread.start()
                for thread in readers:
                    thread.join()
                done.set()
                writer.join()
                expect(not torn, f"{path} {received}: {len(torn)} of {2 * reads} reads are torn")
            finally:
                done.set()
                os.close(fd)


@case()
def a_file_across_the_border_of_two_256m_parts_is_whole():
    border = 256 * MiB
    for path in READ_PATHS:
        with Pair("--part-size=256M", "--budget=64M", f"--read-path={path}") as pair:

            def write(top):
                with open(top / "f", "wb", buffering=0) as file:
                    file.seek(border - 11)
                    file.write(b"twenty-two bytes here.")
                    file.seek(border - 3 * MiB)
                    file.write(noise(2 * MiB, 1))
                    file.seek(border - 5)
                    file.write(b"0123456789")
                    file.truncate(border + 4 * MiB)
                with open(top / "f", "rb", buffering=0) as file:
                    file.seek(border - 20)
                    return file.read(40)

            pair.both(write)

            def resize(top):
                os.truncate(top / "f", 200 * MiB)
                with open(top / "f", "rb") as file:
                    file.seek(201 * MiB)
                    past_the_end = file.read(10)
                os.truncate(top / "f", 300 * MiB)
                with open(top / "f", "r+b") as file:
                    file.seek(301 * MiB)
                    file.write(b"after a gap")
                return past_the_end

            pair.both(resize)
            pair.finish()


@case()
def what_is_read_in_order_is_loaded_ahead_if_that_was_asked_for():
    data = noise(24 * MiB, 1)
    for path in READ_PATHS:
        for options in (["--read-ahead=1M", "--budget=16M"], ["--read-ahead=1M", *TIGHT], []):
            settings = ["--direct-io", f"--read-path={path}", *options]
            with Pair(*settings, prepare=lambda top: (top / "f").write_bytes(data)) as pair:
                with open(pair.at / "f", "rb", buffering=0) as file:
                    read = b"".join(iter(lambda: file.read(64 * KiB), b""))
                expect(read == data, f"{path}, {options}: the bytes")
                stats = pair.mounted.tarnfs.stats()
                if not options:
                    expect_equal(stats["load_ahead_bytes"], 0, f"{path}: bytes loaded ahead")
                    continue
                # Nearly all of it, but for what a busy machine does to who comes first.
                before = stats["load_ahead_bytes"]
                expect(before > len(data) // 2, f"{path}, {options}: {before} bytes loaded ahead")
                with open(pair.at / "f", "rb", buffering=0) as file:
                    for mib in (20, 4, 16, 8, 1):
                        expect_equal(os.pread(file.fileno(), KiB, mib * MiB), data[mib * MiB :][:KiB], "bytes anywhere")
                expect_equal(pair.mounted.tarnfs.stats()["load_ahead_bytes"], before, f"{path}: ahead of a random read")


# --- Memory -----------------------------------------------------------------------------------------------------------


@case()
def a_4k_write_into_a_256m_part_loads_nothing_and_holds_one_chunk():
    def prepare(top):
        with open(top / "f", "wb") as file:
            file.truncate(256 * MiB)
            file.seek(100 * MiB)
            file.write(noise(MiB, 1))

    with Pair("--part-size=256M", "--budget=64M", "--chunk-size=64K", "--direct-io", prepare=prepare) as pair:

        def write(top):
            fd = os.open(top / "f", os.O_RDWR)
            os.pwrite(fd, noise(4 * KiB, 2), 100 * MiB + 12 * KiB)
            return fd

        fds = [write(top) for top in (pair.plain, pair.at)]
        try:
            stats = pair.mounted.tarnfs.stats()
            expect_equal(stats["load_bytes"], 0, "bytes loaded")
            expect_equal(stats["chunks_held"], 1, "chunks held")
            got, wanted = (os.pread(fd, MiB, 100 * MiB) for fd in reversed(fds))
            expect(got == wanted, "the bytes around it")
        finally:
            for fd in fds:
                os.close(fd)
        pair.mounted.stop()
        compare_trees(pair.source, pair.plain, "stored")


@case(timeout=200, slow=True)
def peak_memory_stays_near_the_budget_while_900m_pass():
    budget, allowance, total, threads = 128 * MiB, 32 * MiB, 900 * MiB, 4
    pattern = noise(4 * MiB, 9)

    def block(index):
        start = index * 7919 % (3 * MiB)
        return pattern[start : start + MiB]

    for path, part in itertools.product(("copy", "gather"), ("4M", "256M")):
        options = [
            f"--budget={budget}",
            f"--read-path={path}",
            f"--part-size={part}",
            f"--threads={threads}",
            "--direct-io",
        ]
        with mounting.scratch_directory(total + 64 * MiB) as scratch:
            (scratch / "source").mkdir()
            with mounting.Tarnfs(program(), scratch / "source", scratch / "mount", *options) as tarnfs:
                problems = []

                def work(first):
                    try:
                        fd = os.open(scratch / "mount" / "f", os.O_RDWR | os.O_CREAT)
                        try:
                            mine = range(first, total // MiB, threads)
                            for index in mine:
                                os.pwrite(fd, block(index), index * MiB)
                            for index in mine:
                                if os.pread(fd, MiB, index * MiB) != block(index):
                                    problems.append(f"wrong bytes in block {index}")
                            for index in list(mine)[::5]:
                                os.pwrite(fd, b"patched", index * MiB + 500)
                        finally:
                            os.close(fd)
                    except OSError as e:
                        problems.append(str(e))

                workers = [threading.Thread(target=work, args=(first,)) for first in range(threads)]
                for worker in workers:
                    worker.start()
                for worker in workers:
                    worker.join()
                expect_equal(problems, [], f"{options}")
                peak = tarnfs.peak_resident_bytes()
                print(f"  {path}, parts of {part}: peak {peak / MiB:.1f} MiB", flush=True)
                expect(peak < budget + allowance, f"{options}: peak of {peak / MiB:.1f} MiB")
            patched = {index for first in range(threads) for index in list(range(first, total // MiB, threads))[::5]}
            with open(scratch / "source" / "f", "rb") as stored:
                for index in range(total // MiB):
                    wanted = bytearray(block(index))
                    if index in patched:
                        wanted[500:507] = b"patched"
                    expect(stored.read(MiB) == wanted, f"{options}: stored block {index}")
                expect_equal(stored.read(1), b"", "bytes past the end")


# --- Names and descriptors --------------------------------------------------------------------------------------------


@case()
def an_open_file_outlives_a_rename_over_it_and_an_unlink():
    def prepare(top):
        (top / "stored").write_bytes(noise(300_000, 1))

    with Pair(prepare=prepare) as pair:

        def rename_over(top):
            (top / "a").write_bytes(noise(200_000, 2))
            (top / "b").write_bytes(noise(100_000, 3))
            with open(top / "b", "r+b", buffering=0) as old, open(top / "a", "r+b", buffering=0) as new:
                os.rename(top / "a", top / "b")
                old.seek(50_000)
                old.write(b"to the one that was replaced")
                new.seek(150_000)
                new.write(b"to the one that took its place")
                old.seek(0)
                return (
                    hashlib.sha256(old.read()).hexdigest(),
                    os.fstat(old.fileno()).st_nlink,
                    sorted(os.listdir(top)),
                    hashlib.sha256((top / "b").read_bytes()).hexdigest(),
                )

        pair.both(rename_over)

        def unlink_while_open(name):
            def action(top):
                with open(top / name, "a+b", buffering=0) as file:
                    file.write(b"before")
                    os.unlink(top / name)
                    file.write(noise(100_000, 4))
                    file.truncate(350_000)
                    file.seek(0)
                    held = hashlib.sha256(file.read()).hexdigest()
                    status = os.fstat(file.fileno())
                    os.fsync(file.fileno())
                    return held, status.st_size, status.st_nlink, (top / name).exists()

            return action

        pair.both(unlink_while_open("stored"), "unlink of a stored file")
        pair.both(unlink_while_open("created"), "unlink of a new file")

        def renamed_while_dirty(top):
            (top / "d").mkdir()
            with open(top / "one", "wb", buffering=0) as file:
                file.write(b"one")
                os.rename(top / "one", top / "d" / "two")
                file.write(b"two")
                (top / "d").rename(top / "e")
                file.write(b"three")
                return (top / "e" / "two").read_bytes()

        pair.both(renamed_while_dirty)

        def exchange_and_refuse(top):
            (top / "x").write_bytes(b"x")
            try:
                os.rename(top / "x", top / "e")  # a file onto a folder
            finally:
                (top / "x").write_bytes(b"xx")

        pair.both(exchange_and_refuse)

        def name_used_again(top):
            with open(top / "n", "wb", buffering=0) as first:
                first.write(b"first" * 1000)
                os.unlink(top / "n")
                (top / "n").write_bytes(b"second")
                first.write(b"more")
                return (top / "n").read_bytes()

        pair.both(name_used_again)
        pair.finish()


@case()
def append_and_truncate_on_open_mean_what_they_say():
    with Pair() as pair:

        def append(top):
            (top / "a").write_bytes(b"head")
            with open(top / "a", "ab", buffering=0) as one, open(top / "a", "ab", buffering=0) as two:
                for i in range(200):
                    (one if i % 2 else two).write(f"{i};".encode() * (i + 1))
                one.truncate(7)
                two.write(b"after truncate")
            return (top / "a").read_bytes()

        pair.both(append)

        def appenders_race(top):
            def work(mark):
                with open(top / "r", "ab", buffering=0) as file:
                    for _ in range(300):
                        file.write(mark * 100)

            threads = [threading.Thread(target=work, args=(mark,)) for mark in (b"x", b"y", b"z")]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            held = (top / "r").read_bytes()
            os.unlink(top / "r")
            return len(held), sorted({held[i : i + 100] for i in range(0, len(held), 100)})

        pair.both(appenders_race)

        def truncate_on_open(top):
            (top / "t").write_bytes(noise(100_000, 1))
            with open(top / "t", "rb", buffering=0) as reader:
                head = reader.read(10)
                with open(top / "t", "wb", buffering=0) as writer:
                    reader.seek(0)
                    emptied = reader.read(10)
                    writer.seek(5000)
                    writer.write(b"late")
                reader.seek(0)
                return head, emptied, reader.read()

        pair.both(truncate_on_open)
        pair.run("echo one > s; echo two >> s; echo three > s; cat s; : > s; stat -c %s s")
        pair.run("set -C; echo again > s", may_fail=True)  # O_EXCL
        pair.finish()


@case()
def truncate_grows_with_zeros_and_shrinks_for_good():
    def prepare(top):
        (top / "stored").write_bytes(noise(200_000, 1))

    for options in SETTINGS:
        with Pair(*options, prepare=prepare) as pair:
            for size in (16, 0, 5, 4095, 4096, 4097, 65_535, 65_536, 65_537, 3, 131_072, 1, 500_000):
                pair.run(
                    f"""truncate -s {size} new stored
                    stat -c %s new stored; md5sum new stored
                    printf x | dd of=new bs=1 seek={size + 3} conv=notrunc status=none; md5sum new"""
                )
            pair.run(
                "truncate -s 5G huge; stat -c %s huge; tail -c 5 huge | od -c; printf end >> huge;"
                "tail -c 8 huge | od -c; truncate -s 3 huge"
            )
            pair.both(lambda top: os.truncate(top / "new", (1 << 63) - 1 - (1 << 40)) or os.stat(top / "new").st_size)
            pair.both(lambda top: os.truncate(top / "new", 7))
            pair.finish()


def largest_file(top):
    """The largest size that a file in a directory can be given."""
    path = top / "largest"
    path.touch()
    fits, too_large = 0, 1 << 63
    while too_large - fits > 1:
        middle = (fits + too_large) // 2
        try:
            os.truncate(path, middle)
            fits = middle
        except OSError as e:
            expect_equal(e.errno, errno.EFBIG, f"the refusal of {middle} bytes")
            too_large = middle
    path.unlink()
    return fits


@case()
def a_size_that_source_refuses_changes_nothing():
    with Pair(prepare=lambda top: (top / "f").write_bytes(noise(10_000, 5))) as pair:
        largest = largest_file(pair.plain)

        def size_and_bytes(top):
            with open(top / "f", "rb") as file:
                return os.fstat(file.fileno()).st_size, file.read(20_000)

        def opened(top, action):
            fd = os.open(top / "f", os.O_RDWR)
            try:
                return action(fd)
            finally:
                os.close(fd)

        for name, grow in {
            "truncate": lambda fd, size: os.ftruncate(fd, size),
            "write": lambda fd, size: os.pwrite(fd, b"12345678", size - 8),
            "fallocate": lambda fd, size: fallocate(fd, FALLOC_FL_KEEP_SIZE, size - 8, 8),
            "punch": lambda fd, size: punch_hole(fd, size - 8, 8),
        }.items():
            for size in {1 << 50, largest - 4095, largest, min(largest + 5, (1 << 63) - 1), largest // 2 + (1 << 62)}:
                pair.both(lambda top: opened(top, lambda fd: grow(fd, size)), f"{name} to {size}, of {largest}")
                pair.both(lambda top: os.stat(top / "f").st_size, f"the size after {name} to {size}")
                pair.both(lambda top: size_and_bytes(top)[1], f"the bytes after {name} to {size}")
                pair.both(lambda top: os.truncate(top / "f", 10_000), "back")
        pair.both(lambda top: os.truncate(top / "f", 1 << 50), "truncate by name")
        pair.both(size_and_bytes)
        pair.both(lambda top: os.truncate(top / "f", 10_000))
        pair.both(lambda top: opened(top, lambda fd: (os.pwrite(fd, b"later", 9_998), os.fsync(fd))), "a later write")
        expect_equal(size_and_bytes(pair.source), size_and_bytes(pair.plain), "what the fsync stored")
        pair.finish()


@case(needs=["chattr"])
def an_immutable_file_is_not_cut():
    with Pair(prepare=lambda top: (top / "f").write_bytes(noise(10_000, 6))) as pair:
        files = [top / "f" for top in (pair.source, pair.plain)]

        def set_immutable(sign):
            for file in files:
                if subprocess.run(["chattr", f"{sign}i", file], capture_output=True).returncode != 0:
                    raise Skip("no file can be made immutable here")

        try:
            set_immutable("+")
            pair.both(lambda top: os.truncate(top / "f", 10))
            pair.both(lambda top: (top / "f").read_bytes())
        finally:
            with contextlib.suppress(Skip):
                set_immutable("-")
        pair.mounted.stop()
        compare_trees(pair.source, pair.plain, "stored")


@case()
def fallocate_does_each_mode_or_refuses_it():
    size = 300_000
    data = noise(size, 1)

    def prepare(top):
        (top / "stored").write_bytes(data)

    with Pair(prepare=prepare) as pair:
        for name in ("stored", "new"):
            with open(pair.at / name, "r+b" if name == "stored" else "x+b", buffering=0) as file:
                wanted = bytearray(data)
                if name == "new":
                    file.write(data)
                fd = file.fileno()

                def check(what):
                    expect_equal(os.fstat(fd).st_size, len(wanted), f"{name}, {what}: size")
                    expect(os.pread(fd, 1 << 20, 0) == bytes(wanted), f"{name}, {what}: bytes")

                fallocate(fd, FALLOC_FL_KEEP_SIZE, size - 10, 5000)
                check("keep the size")
                fallocate(fd, 0, size - 10, 5000)
                wanted += bytes(4990)
                check("grow")
                fallocate(fd, 0, 0, 5000)
                check("within")
                for offset, length in ((0, 1), (4095, 2), (65_000, 70_000), (290_001, 4096), (304_000, 100_000)):
                    fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length)
                    end = min(offset + length, len(wanted))
                    wanted[offset:end] = bytes(end - offset)
                    check(f"punch at {offset}")
                for keep, offset, length in (
                    (FALLOC_FL_KEEP_SIZE, 150_000, 33),
                    (FALLOC_FL_KEEP_SIZE, 304_000, 9000),
                    (0, 300_123, 10_000),
                ):
                    try:
                        fallocate(fd, FALLOC_FL_ZERO_RANGE | keep, offset, length)
                    except OSError as e:
                        expect_equal(e.errno, errno.EOPNOTSUPP, f"{name}: zero at {offset}")
                        continue
                    end = offset + length
                    if keep:
                        end = min(end, len(wanted))
                    wanted[offset:end] = bytes(end - offset)
                    check(f"zero at {offset}")
                for mode in (FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_PUNCH_HOLE):  # a punch has to keep the size
                    try:
                        fallocate(fd, mode, 0, 4096)
                        raise Failed(f"{name}: mode {mode} was not refused")
                    except OSError as e:
                        expect_equal(e.errno, errno.EOPNOTSUPP, f"{name}: mode {mode}")
                check("after what was refused")
            (pair.plain / name).write_bytes(wanted)
        pair.finish()


def extents(path):
    """(offset, size) of what SEEK_DATA and SEEK_HOLE call data."""
    found, at = [], 0
    with open(path, "rb", buffering=0) as file:
        end = os.fstat(file.fileno()).st_size
        while at < end:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError as e:
                expect_equal(e.errno, errno.ENXIO, "SEEK_DATA with no more data")
                break
            at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            expect(at > start, f"SEEK_HOLE from {start} goes to {at}")
            found.append((start, at - start))
    return found


@case()
def holes_are_found_before_and_after_they_are_stored():
    with Pair() as pair:

        def write(top):
            file = open(top / "f", "x+b", buffering=0)
            for megabyte in (1, 4, 5, 9):
                file.seek(megabyte * MiB)
                file.write(noise(MiB, megabyte))
            file.truncate(12 * MiB)
            punch_hole(file.fileno(), 4 * MiB, MiB // 2)
            return file

        with write(pair.plain), write(pair.at):
            wanted = extents(pair.plain / "f")
            expect_equal(
                wanted, [(MiB, MiB), (4 * MiB + MiB // 2, 3 * MiB // 2), (9 * MiB, MiB)], "holes of the plain file"
            )
            expect_equal(extents(pair.at / "f"), wanted, "holes while dirty")
            pair.both(lambda top: hashlib.sha256((top / "f").read_bytes()).hexdigest())
            expect_equal(extents(pair.at / "f"), wanted, "holes after all was read")
        expect_equal(extents(pair.at / "f"), wanted, "holes once flushed")
        pair.remount()
        # What was there before the mount may be called data as a whole, but no byte of data may be called a hole.
        held = extents(pair.at / "f")
        for offset, size in wanted:
            expect(
                any(start <= offset and offset + size <= start + length for start, length in held),
                f"{offset} is not in {held}",
            )
        pair.run("cp --sparse=auto f g; cmp f g; rm g")
        for offset, whence in ((12 * MiB - 1, os.SEEK_HOLE), (12 * MiB, os.SEEK_DATA), (12 * MiB, os.SEEK_HOLE)):

            def seek(top):
                with open(top / "f", "rb") as file:
                    return os.lseek(file.fileno(), offset, whence)

            pair.both(seek)
        pair.finish()


@case()
def shared_maps_and_calls_see_each_other():
    for options in SETTINGS:
        with Pair(*options) as pair:

            def action(top):
                with open(top / "m", "w+b", buffering=0) as file:
                    file.write(noise(600_000, 1))
                    with mmap.mmap(file.fileno(), 0) as map:
                        map[100_000:100_010] = b"through it"
                        map[599_990:600_000] = b"at the end"
                        map.flush()
                        seen = os.pread(file.fileno(), 20, 99_995)
                        os.pwrite(file.fileno(), b"by a call", 200_001)
                        seen += map[200_000:200_012]
                        map[300_000:300_003] = b"two"  # written back by the unmap and close
                    return seen

            pair.both(action)

            def again(top):
                with open(top / "m", "r+b") as file, mmap.mmap(file.fileno(), 0) as map:
                    map[0:4] = b"head"
                    return hashlib.sha256(map).hexdigest()

            pair.both(again)
            pair.finish()


@case()
def hard_links_are_one_file():
    with Pair() as pair:

        def action(top):
            (top / "a").write_bytes(noise(100_000, 1))
            os.link(top / "a", top / "b")
            with open(top / "a", "r+b", buffering=0) as a, open(top / "b", "r+b", buffering=0) as b:
                a.seek(50_000)
                a.write(b"written through a")
                b.seek(49_995)
                seen = b.read(30)
                b.truncate(60_000)
                seen += str((os.fstat(a.fileno()).st_size, os.fstat(a.fileno()).st_nlink)).encode()
                os.unlink(top / "a")
                a.seek(0)
                a.write(b"still there")
                seen += str(os.fstat(b.fileno()).st_nlink).encode()
            os.link(top / "b", top / "c")
            same = os.stat(top / "b").st_ino == os.stat(top / "c").st_ino
            return seen, same, (top / "c").read_bytes() == (top / "b").read_bytes(), (top / "b").read_bytes()[:20]

        pair.both(action)
        pair.finish()


@case()
def extended_attributes_are_kept():
    with Pair() as pair:
        try:
            (pair.plain / "probe").touch()
            os.setxattr(pair.plain / "probe", "user.probe", b"1")
            os.unlink(pair.plain / "probe")
        except OSError as e:
            raise Skip(f"the scratch directory has no user attributes: {e.strerror}") from None

        def action(top):
            (top / "f").write_bytes(b"x")
            os.setxattr(top / "f", "user.one", b"1" * 1000)
            os.setxattr(top / "f", "user.two", b"")
            os.setxattr(top / "f", "user.one", b"0\0\xff", os.XATTR_REPLACE)
            held = (
                sorted(os.listxattr(top / "f")),
                os.getxattr(top / "f", "user.one"),
                os.getxattr(top / "f", "user.two"),
            )
            os.removexattr(top / "f", "user.two")
            return held, sorted(os.listxattr(top / "f"))

        pair.both(action)
        for name, flags in (("user.one", os.XATTR_CREATE), ("user.none", os.XATTR_REPLACE)):
            pair.both(lambda top: os.setxattr(top / "f", name, b"", flags))
        pair.both(lambda top: os.getxattr(top / "f", "user.none"))
        pair.finish()
        expect_equal(os.getxattr(pair.source / "f", "user.one"), b"0\0\xff", "attribute stored")


@case()
def a_folder_of_ten_thousand_lists_them_once_each():
    count = 10_000

    def prepare(top):
        (top / "d").mkdir()
        for i in range(count):
            (top / "d" / f"{i:05}-{'n' * (i % 60)}").touch()

    with Pair(prepare=prepare) as pair:
        pair.run("ls -U d | wc -l; ls d | md5sum; find d -type f | wc -l")
        listed = os.listdir(pair.at / "d")
        expect_equal((len(listed), len(set(listed))), (count, count), "names, and different ones")
        with os.scandir(pair.at / "d") as entries:
            for i, entry in enumerate(entries):  # taken away while it is read
                if i % 2:
                    os.unlink(entry.path)
        left = sorted(os.listdir(pair.at / "d"))
        expect_equal(len(left), count // 2, "names left")
        for name in set(os.listdir(pair.plain / "d")) - set(left):
            os.unlink(pair.plain / "d" / name)
        pair.run("rm -r d; ls")
        pair.finish()


@case(needs=["flock"])
def locks_hold_across_processes():
    with Pair() as pair:
        pair.run(
            r"""
            exec 7> lock; flock 7
            flock -n lock true && echo taken twice || echo held
            flock -u 7; flock -n lock echo free
            exec 8< lock; flock -s 8; flock -sn lock echo shared; flock -xn lock true || echo not exclusive
            """
        )

        def record_locks(top):
            with open(top / "lock", "r+b") as file:
                fcntl.lockf(file, fcntl.LOCK_EX, 10, 5)
                probe = (
                    "import fcntl, sys; f = open(sys.argv[1], 'r+b')\n"
                    "for start in (0, 5, 15):\n"
                    "  try: fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, start); print(start, 'free')\n"
                    "  except BlockingIOError: print(start, 'held')"
                )
                return subprocess.run(
                    [sys.executable, "-c", probe, top / "lock"], capture_output=True, text=True, check=True
                ).stdout

        expect_equal(pair.both(record_locks), "0 free\n5 held\n15 free\n", "record locks")
        pair.mounted.stop()


# --- Time, owner, mode ------------------------------------------------------------------------------------------------


@case()
def a_flush_moves_no_mtime():
    with Pair() as pair:
        path = pair.at / "f"
        given = 1_234_567_890_123_456_789
        with open(path, "wb", buffering=0) as file:
            file.write(noise(300_000, 1))
            written = path.stat().st_mtime_ns
            expect(abs(written - time.time_ns()) < 10_000_000_000, "a write sets the time of day")
            os.fsync(file.fileno())
            expect_equal(path.stat().st_mtime_ns, written, "mtime after fsync")
        expect_equal(path.stat().st_mtime_ns, written, "mtime after close")
        with open(path, "r+b", buffering=0) as file:
            file.write(b"dirty")
            os.utime(path, ns=(given, given))
            expect_equal(path.stat().st_mtime_ns, given, "mtime given while dirty")
            os.fsync(file.fileno())
            expect_equal(path.stat().st_mtime_ns, given, "given mtime after fsync")
        expect_equal(path.stat().st_mtime_ns, given, "given mtime after close")
        pair.mounted.stop()
        expect_equal((pair.source / "f").stat().st_mtime_ns, given, "given mtime stored")
        pair.mounted.start()
        expect_equal(path.stat().st_mtime_ns, given, "given mtime after a remount")
        os.truncate(path, 10)
        moved = path.stat().st_mtime_ns
        expect(moved > given, "a truncate sets the time")
        pair.mounted.stop()
        expect_equal((pair.source / "f").stat().st_mtime_ns, moved, "mtime of the truncate stored")


@case(needs=["setpriv"])
def a_file_whose_times_are_not_ours_to_set_is_stored():
    """As for a tarnfs that is not root, on files of others that it may write."""

    def prepare(top):
        (top / "f").write_bytes(b"old")
        os.chown(top / "f", 1234, 1234)
        (top / "f").chmod(0o666)
        os.utime(top / "f", ns=(0, 10**18))

    with Pair(prepare=prepare) as pair:
        pair.mounted.stop()
        wrapper = pair.scratch / "tarnfs"
        wrapper.write_text(f'#!/bin/sh\nexec setpriv --bounding-set=-fowner "{os.path.abspath(program())}" "$@"\n')
        wrapper.chmod(0o755)
        usual = program()
        os.environ["TARNFS_BIN"] = str(wrapper)
        try:
            pair.mounted.start()
        finally:
            os.environ["TARNFS_BIN"] = usual
        pair.both(lambda top: (top / "f").write_bytes(b"new bytes"), "a write and a close")
        expect_equal((pair.source / "f").read_bytes(), b"new bytes", "what the close stored")
        expect((pair.source / "f").stat().st_mtime_ns > 10**18, "the write moved the time")
        expect_equal(
            (pair.at / "f").stat().st_mtime_ns, (pair.source / "f").stat().st_mtime_ns, "the time that is shown"
        )
        pair.finish()


@case(needs=["setpriv"])
def a_write_by_another_user_clears_suid():
    if os.geteuid() != 0:
        raise Skip("takes root, to become another user")
    for options in SETTINGS:
        with Pair(*options) as pair:

            def action(change):
                def run(top):
                    path = top / "suid"
                    path.write_bytes(b"x" * 5000)
                    path.chmod(0o6777)
                    done = subprocess.run(
                        [
                            "setpriv",
                            "--reuid=65534",
                            "--regid=65534",
                            "--clear-groups",
                            "bash",
                            "-c",
                            change,
                            "-",
                            path,
                        ],
                        capture_output=True,
                        text=True,
                    )
                    return done.returncode, oct(path.stat().st_mode), path.stat().st_size

                return run

            # With no permission to reach the mount the other user would change nothing and the test would show nothing.
            expect_equal(
                pair.both(action('printf y | dd of="$1" conv=notrunc status=none'), "a write")[:2],
                (0, "0o100777"),
                "a write",
            )
            pair.both(action('truncate -s 10 "$1"'), "a truncate")
            pair.both(action('printf y >> "$1"'), "an append")
            pair.both(action(': > "$1"'), "an open that truncates")
            pair.finish()


@case()
def modes_owners_and_special_files_are_kept():
    with Pair() as pair:
        pair.run(
            r"""
            umask 027; mkdir d; touch d/f; mkfifo d/p; ln -s nowhere d/l; chmod 1777 d; chmod 6711 d/f
            stat -c '%n %F %a %h' d d/* | sed 's/ [0-9]*$//'
            ln -s "$(printf 'x%.0s' $(seq 1000))" long; readlink long | wc -c
            touch "$(printf 'n%.0s' $(seq 255))"; touch "$(printf 'n%.0s' $(seq 256))" 2>/dev/null || echo too long
            mkdir d 2>/dev/null || echo exists; rmdir d 2>/dev/null || echo not empty; rm d 2>/dev/null || echo a folder
            cat none 2>/dev/null || echo none; cat d 2>/dev/null || echo is a folder
            """
        )
        if os.geteuid() == 0:
            pair.run("touch o; chown 1:2 o; stat -c '%u %g' o; chown -h 3:4 d/l; stat -c '%u %g' d/l")
        pair.finish()


# --- The process ------------------------------------------------------------------------------------------------------


@case()
def wrong_arguments_are_refused_in_one_line():
    with mounting.scratch_directory(MiB) as scratch:
        source, mount, file = scratch / "source", scratch / "mount", scratch / "file"
        inside = source / "a" / "b"
        for folder in (source, mount, inside):
            folder.mkdir(parents=True, exist_ok=True)
        file.touch()
        (scratch / "way_in").symlink_to(inside)
        (scratch / "way_out").symlink_to(scratch)
        for arguments in (
            [],
            [source],
            [source, mount, mount],
            [scratch / "none", mount],
            [file, mount],
            [source, scratch / "none"],
            [source, file],
            ["--read-path=fast", source, mount],
            ["--budget=many", source, mount],
            ["--budget=", source, mount],
            ["--budget=-1", source, mount],
            ["--budget=0", source, mount],
            ["--budget=4K", source, mount],
            ["--chunk-size=3", source, mount],
            ["--chunk-size=0", source, mount],
            ["--part-size=100K", source, mount],
            ["--budget=99999999999999999999", source, mount],
            ["--no-such-option", source, mount],
            ["--budget=1X", source, mount],
            ["--threads=0", source, mount],
            ["--loaders=0", source, mount],
            ["--storage=disk", source, mount],
            ["--receive=there", source, mount],
            ["--one-thread-a-cpu", "--receive=copy", source, mount],
            ["--cpu=", source, mount],
            ["--cpu=3-1", source, mount],
            ["--cpu=1023", source, mount],
            ["--rescue=", source, mount],
            [f"--rescue={scratch / 'none'}", source, mount],
            [f"--rescue={inside}", source, mount],
            # Each inside the other, however one gets there.
            [source, source],
            [source, inside],
            [source, scratch / "way_in"],
            [f"{mount}/../source", f"{inside}/../b"],
            [inside, source],
            [scratch / "way_in", source],
            [source, scratch / "way_out"],
        ):
            code, out, err = run_to_end(*arguments)
            what = f"tarnfs {' '.join(map(str, arguments))}"
            expect_equal(code, 2, f"{what}: exit code ({err.strip()})")
            expect_equal(out, "", f"{what}: standard output")
            expect(err.strip() and err.count("\n") == 1, f"{what}: not one line: {err!r}")


@case()
def a_second_tarnfs_on_one_source_is_refused():
    with Pair() as pair:
        second = pair.scratch / "second"
        second.mkdir()
        (pair.at / "f").write_bytes(b"one")
        code, _, err = run_to_end(pair.source, second)
        expect_equal(code, 2, f"exit code ({err.strip()})")
        expect(err.strip() and err.count("\n") == 1, f"not one line: {err!r}")
        expect_equal((pair.at / "f").read_bytes(), b"one", "the first one still serves")
        pair.mounted.stop()
        pair.mounted.start()  # and its end frees the source
        expect_equal((pair.at / "f").read_bytes(), b"one", "after a remount")


@case()
def a_term_signal_stores_everything():
    data = noise(20 * MiB + 77, 1)
    for number, options in itertools.product((signal.SIGTERM, signal.SIGINT), ([], ["--receive=copy"])):
        with Pair(*options) as pair:
            fd = os.open(pair.at / "f", os.O_WRONLY | os.O_CREAT)
            try:
                for at in range(0, len(data), MiB):
                    os.pwrite(fd, data[at : at + MiB], at)
                os.utime(pair.at / "f", ns=(5, 1_111_111_111_222_222_222))
                pair.mounted.tarnfs.send(number)
                pair.mounted.tarnfs.wait_for_end()
                expect((pair.source / "f").read_bytes() == data, "what was dirty and open is stored")
                expect_equal((pair.source / "f").stat().st_mtime_ns, 1_111_111_111_222_222_222, "mtime")
            finally:
                with contextlib.suppress(OSError):  # ENOTCONN: its filesystem is gone
                    os.close(fd)
            expect_equal(list(pair.at.iterdir()), [], "the mount point is a plain folder again")


@case()
def a_source_changed_behind_is_stale_never_mixed():
    size = 16 * MiB
    before, after = noise(size, 1), noise(size, 2)

    def prepare(top):
        for name in ("dirty", "clean"):
            (top / name).write_bytes(before)

    with Pair("--direct-io", prepare=prepare) as pair:
        fd = os.open(pair.at / "dirty", os.O_RDWR)
        try:
            expect(os.pread(fd, 4096, 0) == before[:4096], "the head before")
            os.pwrite(fd, b"dirty", 100)
            (pair.source / "dirty").write_bytes(after)
            expect_equal(answer(lambda: os.pread(fd, 4096, size // 2)), "ESTALE", "a read of what was not held")
            expect(answer(lambda: os.pread(fd, 5, 100)) in (b"dirty", "ESTALE"), "a read of what is dirty")
            expect(answer(lambda: os.fsync(fd)) in ("ESTALE", "EIO"), "a flush over somebody else's change")
            expect((pair.source / "dirty").read_bytes() == after, "the other's bytes are as they were")
        finally:
            with contextlib.suppress(OSError):
                os.close(fd)
        with open(pair.at / "clean", "rb", buffering=0) as file:
            expect(os.pread(file.fileno(), 4 * MiB, 0) == before[: 4 * MiB], "a clean file's head")
            (pair.source / "clean").write_bytes(after)
            held = [answer(lambda at=at: os.pread(file.fileno(), MiB, at)) for at in range(0, size, MiB)]
        old = {before[at : at + MiB] for at in range(0, size, MiB)}
        new = {after[at : at + MiB] for at in range(0, size, MiB)}
        seen = {
            "old" if piece in old else "new" if piece in new else piece if piece == "ESTALE" else "mixed"
            for piece in held
        }
        expect(
            "mixed" not in seen and seen != {"old"} and not {"old", "new"} <= seen,
            f"a clean file, changed behind, shows {seen}",
        )
        # It says by its exit code that something could not be stored.
        expect_equal(ended_with(pair.mounted), 1, "exit code")


@case()
def what_cannot_be_stored_is_rescued():
    size = 4 * MiB

    def prepare(top):
        (top / "d").mkdir()
        (top / "d" / "f").write_bytes(noise(size, 1))

    with mounting.scratch_directory(16 * MiB) as rescue, Pair(f"--rescue={rescue}", prepare=prepare) as pair:
        fd = os.open(pair.at / "d" / "f", os.O_RDWR)
        try:
            os.pwrite(fd, b"only in memory", MiB + 77)
            (pair.source / "d" / "f").write_bytes(b"somebody else's")
            pair.mounted.tarnfs.send(signal.SIGTERM)
            expect_equal(pair.mounted.tarnfs.process.wait(20), 1, "exit code")
        finally:
            with contextlib.suppress(OSError):
                os.close(fd)
        expect_equal((pair.source / "d" / "f").read_bytes(), b"somebody else's", "what is stored")
        expect_equal(
            [str(path.relative_to(rescue)) for path in rescue.rglob("*") if path.is_file()], ["d/f"], "what was rescued"
        )
        rescued = (rescue / "d" / "f").read_bytes()
        expect_equal(rescued[MiB + 77 : MiB + 91], b"only in memory", "its bytes")
        with contextlib.suppress(mounting.MountError):  # it ended with 1
            pair.mounted.stop()


@case()
def a_signal_stores_everything_and_stays_mounted():
    data = noise(5 * MiB + 9, 1)
    with Pair() as pair:
        fd = os.open(pair.at / "f", os.O_RDWR | os.O_CREAT)
        try:
            os.pwrite(fd, data, 0)
            expect(pair.mounted.tarnfs.stats()["dirty_bytes"] >= len(data), "it is dirty before")
            pair.mounted.tarnfs.send(signal.SIGUSR2)
            # Signals are taken in the order of their numbers: the counters may be said before it is done.
            wait_until(lambda: pair.mounted.tarnfs.stats()["dirty_bytes"] == 0, "nothing is dirty")
            expect((pair.source / "f").read_bytes() == data, "stored")
            expect(os.pread(fd, len(data), 0) == data, "and still there")
        finally:
            os.close(fd)


@case()
def a_daemon_is_mounted_when_its_command_returns_and_ends_with_its_mount():
    with mounting.scratch_directory(16 * MiB) as scratch:
        source, mount = scratch / "source", scratch / "mount"
        source.mkdir()
        mount.mkdir()
        try:
            done = subprocess.run([program(), source, mount], capture_output=True, text=True, timeout=20)
            expect_equal((done.returncode, done.stdout, done.stderr), (0, "", ""), "what the command says")
            expect(os.path.ismount(mount), "it is mounted")
            daemons = [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and names_path(pid, source)]
            expect_equal(len(daemons), 1, "daemons")
            ended = os.pidfd_open(daemons[0])
            (mount / "f").write_bytes(b"through a daemon")
            subprocess.run(
                ["umount", mount] if os.geteuid() == 0 else ["fusermount3", "-u", mount], check=True, timeout=20
            )
            poll = select.poll()
            poll.register(ended, select.POLLIN)
            expect(poll.poll(20_000), "the daemon still runs 20 s after its unmount")
            os.close(ended)
            expect_equal((source / "f").read_bytes(), b"through a daemon", "stored")
        finally:
            if os.path.ismount(mount):
                for pid in (pid for pid in os.listdir("/proc") if pid.isdigit() and names_path(pid, source)):
                    os.kill(int(pid), signal.SIGKILL)
                subprocess.run(["umount", "-l", mount] if os.geteuid() == 0 else ["fusermount3", "-uz", mount])


def names_path(pid, path):
    """Whether a process has this path among its arguments."""
    try:
        return os.fsencode(path) in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


@case()
def a_kept_cache_costs_no_request():
    with Pair("--keep-cache") as pair:
        data = noise(8 * MiB, 1)
        (pair.at / "f").write_bytes(data)
        expect((pair.at / "f").read_bytes() == data, "the first read")
        asked = []
        for _ in range(9):
            before = pair.mounted.tarnfs.stats()["read_requests"]
            expect((pair.at / "f").read_bytes() == data, "a warm read")
            asked.append(pair.mounted.tarnfs.stats()["read_requests"] - before)
        # The system may take back a page of its cache at any time; a cache that is not kept shows in every read.
        expect_equal(sorted(asked)[4], 0, f"read requests, the median of {asked}")
        with open(pair.at / "f", "r+b") as file:
            file.seek(4 * MiB)
            file.write(b"new bytes")
        expect_equal((pair.at / "f").read_bytes()[4 * MiB : 4 * MiB + 9], b"new bytes", "what was written since")
        os.truncate(pair.at / "f", 100)
        expect_equal((pair.at / "f").read_bytes(), data[:100], "what was cut since")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
