#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Random operations on a mounted tarnfs: on bytes, beside flat arrays; on names, beside a plain directory. What goes
wrong names its seed, and leaves a log of its operations that can be done again; `tests/run.sh mounted` does much more
of it.

    TARN_MOUNTED_SEED=7 tests/mount/torture_tests.py CASE        begins with this seed; each setting takes a later one

cases.py says how they are run, and TORTURE_BIN is the directory of the programs that torture.py runs.
"""

import contextlib
import mmap
import os
import pathlib
import random
import shutil
import sqlite3
import sys

from cases import SETTINGS, Pair, case, expect, expect_equal, main
from torture import settings, torture_bytes, torture_names

FIRST_SEED = int(os.environ.get("TARN_MOUNTED_SEED") or 1)
TREE = pathlib.Path(__file__).resolve().parents[2]


def bytes_are_as_in_flat_arrays(chunk):
    evictions = flushes = 0
    for number, setting in enumerate(settings([chunk])):
        seed = FIRST_SEED + 2 * number
        print(f"  seed {seed}: {setting}", flush=True)
        outcome = torture_bytes(setting, seed, 4000, 2000, forget_every=1000)
        evictions += outcome.stats["evictions"]
        flushes += outcome.stats["flushes"]
    expect(evictions > 1000 and flushes > 1000, f"memory was not short: {evictions} evictions, {flushes} flushes")


@case(timeout=120)
def bytes_are_as_in_flat_arrays_with_4k_chunks_on_every_path():
    bytes_are_as_in_flat_arrays("4K")


@case(timeout=120)
def bytes_are_as_in_flat_arrays_with_64k_chunks_on_every_path():
    bytes_are_as_in_flat_arrays("64K")


@case(timeout=120)
def names_answer_as_in_a_plain_directory():
    for number, setting in enumerate(settings()[::3]):
        print(f"  seed {FIRST_SEED + number}: {setting}", flush=True)
        torture_names(setting, FIRST_SEED + number, 8000)


@case()
def a_size_given_by_name_is_stored_though_a_map_keeps_the_closed_file():
    with Pair() as pair:
        path = pair.at / "f"
        path.write_bytes(b"x" * 9000)
        with open(path, "rb") as file:
            held = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        # Closed, but the kernel keeps it open for the map; as it does for a moment after every close.
        with held:
            for size in (5000, 12_000, 0):
                os.truncate(path, size)
                expect_equal((pair.source / "f").stat().st_size, size, "the size in SOURCE")
            # Who has it open, and closes it later, stores it then.
            with open(path, "r+b") as file:
                os.truncate(path, 100)
                file.write(b"y")
                expect_equal((pair.source / "f").stat().st_size, 0, "the size in SOURCE before the close")
            expect_equal((pair.source / "f").read_bytes(), b"y" + bytes(99), "what SOURCE has after it")


# --- Programs that care what they read back ---------------------------------------------------------------------------


class Databases:
    """The same statements on a database in the mount and on one in a plain directory."""

    def __init__(self, pair, mode):
        self._files = [top / f"{mode}.db" for top in (pair.plain, pair.at)]
        self._mode = mode
        self.open()

    def open(self):
        self._both = [sqlite3.connect(file, isolation_level=None) for file in self._files]
        for database in self._both:
            database.execute("PRAGMA mmap_size=1000000")
            database.execute("PRAGMA cache_size=8")  # pages, so that it asks for them again and again
            database.execute(f"PRAGMA journal_mode={self._mode}")

    def close(self):
        for database in self._both:
            database.close()

    def do(self, statement, *values):
        wanted, got = (database.execute(statement, values).fetchall() for database in self._both)
        expect_equal(got, wanted, f"{self._mode}: {statement}")

    def check(self):
        self.do("PRAGMA integrity_check")
        self.do("SELECT * FROM t ORDER BY id")
        self.do("SELECT id FROM t INDEXED BY w ORDER BY word, id")


def random_transactions(draw, databases, number):
    for _ in range(number):
        databases.do("BEGIN IMMEDIATE")
        depth = 0
        for _ in range(draw.randrange(1, 12)):
            at = draw.randrange(400)
            kind = draw.choice(["insert", "insert", "update", "delete", "range", "savepoint", "back", "look"])
            if kind == "insert":
                data = draw.randbytes(draw.choice([0, 10, 500, draw.randrange(20_000)]))
                databases.do("INSERT OR REPLACE INTO t VALUES (?, ?, ?)", at, f"word {draw.randrange(50)}", data)
            elif kind == "update":
                databases.do("UPDATE t SET word = word || 'x' WHERE id % 7 = ?", at % 7)
            elif kind == "delete":
                databases.do("DELETE FROM t WHERE id = ?", at)
            elif kind == "range":
                databases.do("DELETE FROM t WHERE id BETWEEN ? AND ?", at, at + 20)
            elif kind == "savepoint":
                databases.do(f"SAVEPOINT s{depth}")
                depth += 1
            elif kind == "back" and depth > 0:
                depth -= 1
                databases.do(f"ROLLBACK TO s{depth}")
            else:
                databases.do("SELECT count(*), sum(length(data)), max(word) FROM t WHERE id > ?", at)
        databases.do(draw.choice(["COMMIT", "COMMIT", "ROLLBACK"]))
        if draw.random() < 0.02:
            databases.do("VACUUM")


@case(timeout=120)
def a_database_ends_as_beside_it_after_random_transactions_and_remounts():
    for options in (*SETTINGS, ["--direct-io", "--storage=heap", "--budget=2M", "--chunk-size=4K", "--part-size=64K"]):
        draw = random.Random(FIRST_SEED)
        with Pair(*options) as pair:
            # A write-ahead log shares a map, which a mount without the kernel's pages refuses.
            modes = ["delete", "truncate", "persist"] + ["wal"] * ("--direct-io" not in options)
            all_databases = [Databases(pair, mode) for mode in modes]
            for databases in all_databases:
                databases.do("CREATE TABLE t(id INTEGER PRIMARY KEY, word TEXT, data BLOB)")
                databases.do("CREATE INDEX w ON t(word)")
            for _ in range(3):
                for databases in all_databases:
                    random_transactions(draw, databases, 25)
                    databases.check()
                    databases.close()
                pair.mounted.stop()
                for mode in modes:  # what is stored is a whole database, too
                    with contextlib.closing(sqlite3.connect(pair.source / f"{mode}.db")) as stored:
                        expect_equal(stored.execute("PRAGMA integrity_check").fetchall(), [("ok",)], f"{mode}, stored")
                pair.mounted.start()
                for databases in all_databases:
                    databases.open()
                    databases.check()
            for databases in all_databases:
                databases.close()


@case(timeout=240, needs=["c++"])
def a_program_compiled_in_the_mount_is_the_program():
    with Pair(*SETTINGS[1]) as pair:
        for name in ("include", "tests/support", "tests/mount/torture"):
            shutil.copytree(TREE / name, pair.input / name)
        pair.run(
            """
            cp -r "$INPUT"/* .
            c++ -std=c++20 -I include -I tests -c tests/mount/torture/names.cpp -o names.o
            ar rcs libnames.a names.o
            c++ libnames.a -o names
            ./names --directory 2>&1 || echo $?
            md5sum names.o libnames.a names
            """
        )
        pair.remount()
        pair.run("./names --directory 2>&1 || echo $?; md5sum names")
        pair.finish()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
