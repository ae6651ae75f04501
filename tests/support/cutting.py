"""Files that are cut anywhere, and what must come of them: the records of one reader, whoever guessed what.

`load` does with a byte string what workers do with an object: a `Cutter` for each shard, reports to `prove`, and again
what it asks for, until all is proved. `whole` is what one `Splitter` finds. Neither needs anything but this process.
"""

from __future__ import annotations

import base64
import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any
from unittest import mock

from loader.core.spec.model import CsvSpec
from loader.records.block import Block, Place
from loader.records.dialect import Dialect
from loader.records.splitter import EndlessRecordError, Splitter
from loader.sharding import boundaries
from loader.sharding.boundaries import SHARD_BITS, Cutter, Shard, counts_quotes
from loader.sharding.proof import Known, Proof, ShardPlan, ShardReport, prove

DIALECTS = {
    "plain": Dialect.of(CsvSpec()),
    "backslash": Dialect.of(CsvSpec(escape="\\")),
    "unquoted": Dialect.of(CsvSpec(quote="", escape="")),
    "commented": Dialect.of(CsvSpec(comment="#")),
    "bars": Dialect.of(CsvSpec(delimiter="||")),
    "odd": Dialect.of(CsvSpec(delimiter="|", escape="\\", comment="#a")),
    "apostrophes": Dialect.of(CsvSpec(delimiter=";", quote="'", escape="'")),
}

Found = list[tuple[int, int, int, bytes, bool]]
"""Record number, line, offset, raw text and whether it is terminated, of each record."""


@dataclass(frozen=True)
class Case:
    """An object, how it is read, and where it is cut. ``borders``: of the shards within the object, rising; two that
    are equal make an empty shard. ``window`` and ``tail`` stand for the constants of `loader.sharding.boundaries`."""

    data: bytes
    dialect: str = "plain"
    fields: int = 2
    borders: tuple[int, ...] = ()
    mark: int = 0
    start: int = 0
    end: int | None = None
    block_size: int = 1 << 20
    record_limit: int = 16 << 20
    chunk: int = 1 << 20
    window: int = 64 << 10
    tail: int = 1 << 20

    @property
    def csv(self) -> Dialect:
        return DIALECTS[self.dialect]

    @property
    def text_end(self) -> int:
        return len(self.data) - self.mark if self.end is None else self.end

    def plan(self) -> ShardPlan:
        before = self.data[self.mark : self.mark + self.start]
        return ShardPlan(
            "split",
            "x.csv",
            {},
            load_id=1,
            attempt=1,
            size=len(self.data),
            mark=self.mark,
            start=self.start,
            line=1 + len(before.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")) - 1,
            end=self.text_end,
            fields=self.fields,
            ranges=tuple(pairwise((0, *self.borders, len(self.data)))),
            counts_quotes=counts_quotes(self.csv),
            checksum=base64.b64encode(zlib.crc32(self.data).to_bytes(4, "big")).decode(),
        )

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        assert 0 <= start <= stop <= len(self.data)
        for at in range(start, stop, self.chunk):
            yield self.data[at : min(at + self.chunk, stop)]


def found_in(blocks: list[Block], *, records: int = 0, lines: int = 0) -> Found:
    """The records of blocks, numbered on from ``records`` and ``lines``."""
    return [
        (
            block.record + index + records,
            block.line_of(index) + lines,
            block.offset + int(block.starts[index]),
            block.raw(index),
            block.terminated,
        )
        for block in blocks
        for index in range(block.records)
    ]


def whole(case: Case) -> tuple[Found, str | None]:
    """What one reader finds, and the error that ends it."""
    plan, blocks, error = case.plan(), [], None
    place = Place(plan.start, 1, plan.line, plan.fields)
    size, limit = case.block_size, case.record_limit
    splitter = Splitter(case.csv, name="x.csv", start=place, block_size=size, record_limit=limit)
    try:
        for chunk in case.read(plan.start + plan.mark, plan.end + plan.mark):
            blocks += splitter.feed(chunk)
        blocks += splitter.flush()
    except EndlessRecordError as failure:
        error = str(failure)
    return found_in(blocks), error


@dataclass
class Loaded:
    """``found`` and ``error`` as of `whole`. ``staged``: the blocks of each run. ``forced``: shards whose beginning was
    set to what it is not."""

    plan: ShardPlan
    limit: int
    reports: list[ShardReport] = field(default_factory=list)
    staged: list[list[Block]] = field(default_factory=list)
    forced: set[int] = field(default_factory=set)
    wrong: int = 0  # guesses that are not true, forced or not
    rounds: int = 0
    proof: Proof = field(default_factory=lambda: Proof(proved=False))
    read: int = 0  # bytes

    @property
    def found(self) -> Found:
        return [
            each
            for part in self.proof.parts
            if part.run is not None
            for each in found_in(
                self.staged[part.run], records=part.record - (part.number << SHARD_BITS), lines=part.line
            )
        ]

    @property
    def error(self) -> str | None:
        problem = self.proof.problem
        if problem is None:
            return None
        offset, record, line = problem["place"]
        place = Place(offset, record + problem["record"], line + problem["line"])
        return str(EndlessRecordError("x.csv", place, self.limit))


Wrong = Callable[["Loader", int], int | None]
"""A wrong beginning for a shard, where there is one."""


class Loader:
    """Loads the shards of a case."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.loaded = Loaded(case.plan(), case.record_limit)
        self.truth: list[int] = []

    def cutter(self, number: int) -> Cutter:
        plan, case = self.loaded.plan, self.case
        start, stop = plan.text(number)
        first, past = plan.ranges[number]
        shard = Shard(
            number,
            first,
            past,
            start,
            stop,
            plan.end,
            plan.fields,
            plan.mark,
            begins=start == plan.start,
            counts_quotes=plan.counts_quotes,
            algorithm=plan.algorithm,
            block_size=case.block_size,
            record_limit=case.record_limit,
        )
        return Cutter(case.read, case.csv, shard, name="x.csv")

    def load(self, number: int, known: Known | None, *, wrongly: tuple[bool, int] | None = None) -> ShardReport:
        """One run of a shard. ``wrongly``: the guess that is forced upon it, and where it makes the shard begin."""
        loaded, cutter = self.loaded, self.cutter(number)
        if wrongly is None:
            cutter.begin(known)
        else:
            cutter.inside, cutter.start = wrongly
            loaded.forced.add(number)
        blocks: list[Block] = []
        problem: dict[str, Any] | None = None
        run = len(loaded.staged)
        try:
            blocks += cutter.blocks()
        except EndlessRecordError as error:
            place = [error.place.offset, error.place.record - (number << SHARD_BITS), error.place.line]
            problem = {"kind": "endless", "message": str(error), "place": place, "run": run}
        loaded.staged.append(blocks)
        loaded.read += cutter.bytes_read
        records = sum(each.records for each in blocks)
        report = ShardReport(
            1,
            1,
            number,
            run,
            known=None if known is None else dict(known),
            inside=cutter.inside,
            start=cutter.start,
        )
        if problem is not None:
            report = replace(report, problem=problem)
        else:
            assert cutter.end is None or cutter.end.record == (number << SHARD_BITS) + 1 + records
            report = replace(
                report,
                end=cutter.end.offset if cutter.end else None,
                records=records,
                kept=records,
                lines=cutter.end.line - 1 if cutter.end else 0,
                parity=cutter.parity,
                crc=cutter.crc,
                lead=cutter.lead,
                tail=cutter.tail,
                broken=cutter.broken,
            )
        loaded.reports.append(report)
        return report

    def find_truth(self) -> None:
        """Where each shard has to begin: found from left to right, and held against `whole` like everything else."""
        place: int = self.loaded.plan.start
        for number in range(len(self.loaded.plan.ranges)):
            self.truth.append(place)
            cutter = self.cutter(number)
            cutter.begin({"start": place})
            try:
                for _ in cutter.blocks():
                    pass
            except EndlessRecordError:
                return  # what is to the right of it is never proved
            assert cutter.end is not None
            place = cutter.end.offset

    def wrong(self, number: int, choose: random.Random) -> tuple[bool, int] | None:
        """A guess that is not true: by the other hypothesis, or where both say the same, any other place."""
        start, stop = self.loaded.plan.text(number)
        if start >= stop or start == self.loaded.plan.start:
            return None  # nothing is guessed
        truth = self.truth[number] if number < len(self.truth) else -1
        for inside in choose.sample((False, True), 2):
            if inside and self.case.csv.quote is None:
                continue
            cutter = self.cutter(number)
            cutter.begin({"inside": inside})
            if cutter.start not in (None, truth):
                assert cutter.start is not None
                return inside, cutter.start
        places = [place for place in (start, stop - 1, choose.randrange(start, stop)) if place != truth]
        return (choose.random() < 0.5, places[0]) if places else None

    def run(self, *, wrongly: bool, choose: random.Random) -> Loaded:
        """All shards, in any order, and again what has to be, until they are proved."""
        loaded = self.loaded
        numbers = list(range(len(loaded.plan.ranges)))
        choose.shuffle(numbers)
        if wrongly:
            self.find_truth()
        for number in numbers:
            report = self.load(number, None, wrongly=self.wrong(number, choose) if wrongly else None)
            if wrongly and number < len(self.truth) and report.inside is not None:
                owns = self.truth[number] < loaded.plan.text(number)[1]
                loaded.wrong += report.start != (self.truth[number] if owns else None)
        while True:
            loaded.rounds += 1
            loaded.proof = prove(loaded.plan, loaded.reports)
            if loaded.proof.proved or loaded.proof.problem is not None:
                return loaded
            assert loaded.proof.again, "nothing is left to be done, and it is not proved"
            assert loaded.rounds <= 2 * len(numbers) + 1, "the proof comes to no end"
            for number, known in loaded.proof.again:
                self.load(number, known)


def load(case: Case, *, wrongly: bool = False, seed: int = 0) -> Loaded:
    """As workers do it. ``wrongly``: each shard's guess is forced to be wrong, wherever it can be."""
    with mock.patch.multiple(boundaries, WINDOW=case.window, TAIL=case.tail):
        return Loader(case).run(wrongly=wrongly, choose=random.Random(seed))


def check(case: Case, *, wrongly: bool = False, seed: int = 0) -> Loaded:
    """Hold the shards against one reader. Raises AssertionError where they differ."""
    loaded = load(case, wrongly=wrongly, seed=seed)
    found, error = whole(case)
    proof, reports = loaded.proof, loaded.reports
    assert loaded.error == error
    if error is not None:
        assert not proof.proved
        assert loaded.found == found[: len(loaded.found)]
        return loaded
    assert proof.proved
    assert loaded.found == found
    assert proof.counts["records"] == len(found)
    runs = [sum(each.number == number for each in reports) for number in range(len(loaded.plan.ranges))]
    assert max(runs) <= 3, "a guess, what the parities tell, and where the neighbour ends: more is never asked for"
    if wrongly:
        assert proof.wrong == loaded.wrong >= len(loaded.forced), "a wrong guess was not found"
    return loaded


# --- files at random

PIECES = {
    "a": 4,
    "D": 6,
    "Q": 6,
    "E": 4,
    "\n": 3,
    "\r\n": 2,
    "\r": 1,
    "\r\r\n": 1,
    "QQ": 2,
    "QDQ": 3,
    "Q\n": 2,
    "\nQ": 2,
    "#": 1,
    "\n#": 2,
    "\n#aQ": 1,
    "\\": 1,
    "\\Q": 2,
    "\\\\": 1,
    "é": 1,
    "🦆": 1,
    "\n\n": 1,
    "aDaE": 6,
    "QaEaQDaE": 4,
    "aDQbQQbQE": 3,
    "QDQDaDQE": 3,
    "|": 1,
    ",": 1,
    "\0": 1,
}
"""Of which files are made. D, Q and E stand for the delimiter, the quote and the file's usual line end."""

_KINDS = ("soup", "table", "table", "ambiguous", "long", "stray")


def spell(text: str, dialect: Dialect, end: str) -> bytes:
    quote = '"' if dialect.quote is None else chr(dialect.quote)
    return text.replace("D", dialect.delimiter.decode()).replace("Q", quote).replace("E", end).encode()


def _field(choose: random.Random, escape: str) -> str:
    kind = choose.randrange(8)
    if kind < 4:
        return choose.choice(("", "a", "17", "bé", "🦆x", "2.5"))
    inner = "".join(choose.choice(("a", "D", "E", "\n", "\r", escape, "é", "1Dx", "#a", "", "\r\n")) for _ in range(3))
    return f"Q{inner}Q"


def _text(choose: random.Random, dialect: Dialect, fields: int, size: int) -> str:
    kind = choose.choice(_KINDS)
    escape = "QQ" if dialect.doubled or dialect.escape is None else choose.choice(("\\Q", "\\\\", "\\\\Q"))
    if kind == "soup":
        return "".join(choose.choices(list(PIECES), list(PIECES.values()), k=size // 2))
    if kind == "ambiguous":  # by either hypothesis each record is two lines, regular, and of four fields
        return "".join(f"QDQD{choose.randrange(10)}DQE" for _ in range(size // 6))
    records = []
    while sum(map(len, records)) < size:
        record = "D".join(_field(choose, escape) for _ in range(fields))
        if kind == "stray" and choose.random() < 0.1:
            record += choose.choice(("Q", "QxQ", "DQ", "\\", "Qa"))
        if choose.random() < 0.01:
            record += choose.choice(("", "Q")) + "x" * size
        if kind == "long" and choose.random() < 0.05:
            record += "Q" + "".join(choose.choice(("aDa\n", "x", "QQ", "\n", "a\r\n")) for _ in range(size // 4)) + "Q"
        if choose.random() < 0.08:
            record = choose.choice(("", "#", "#aQ", "# it's", "\n", "aD"))
        records.append(record + ("E" if choose.random() < 0.95 else choose.choice(("\n", "\r\n", "\r", "\r\r\n"))))
    if choose.random() < 0.3 and records:
        records[-1] = records[-1].removesuffix("E")
    return "".join(records)


def _borders(choose: random.Random, data: bytes) -> tuple[int, ...]:
    size = len(data)
    kind = choose.randrange(6)
    if kind == 0 and size <= 60:
        return tuple(range(1, size))  # shards of a byte
    places = [at for at in range(size) if data[at] in b"\"'\r\n\\#"] if kind < 3 else []
    count = choose.randint(1, 16)
    borders = [choose.randint(0, size) for _ in range(count)]
    if places:
        borders = [min(choose.choice(places) + choose.randint(0, 1), size) for _ in borders]
    if kind == 4:  # an empty shard, and one of a byte
        borders += [borders[0], min(borders[0] + 1, size)]
    return tuple(sorted(borders))


def at_random(seed: int) -> Case:
    """The case of this number."""
    choose = random.Random(seed)
    name = choose.choice([*DIALECTS, "plain", "plain"])
    dialect, fields = DIALECTS[name], choose.randint(1, 4)
    end = choose.choice(("\n", "\n", "\r\n", "\r"))
    size = choose.choice((10, 30, 60, 120, 300, 800))
    text = spell(_text(choose, dialect, fields, size), dialect, end)
    before = choose.choice((b"", b"", b"id\r\n", b'lines "to\n\nskip\n', b"\n"))
    after = choose.choice((b"", b"", b'the "end', b"1,2\n3\n", b"\n" * 40))
    mark = choose.choice((b"", b"", b"\xef\xbb\xbf"))
    data = mark + before + text + after
    limit = choose.choice((16 << 20, 16 << 20, 16 << 20, 400, 100, 30))
    return Case(
        data,
        name,
        fields,
        _borders(choose, data),
        mark=len(mark),
        start=len(before),
        end=len(before) + len(text),
        block_size=choose.choice((1 << 20, 64, 16, 5, 1)),
        record_limit=limit,
        chunk=choose.choice((1 << 20, 40, 7, 1)),
        window=choose.choice((64 << 10, 64, 20, 5)),
        tail=choose.choice((1 << 20, 50, 3)),
    )


def shrunk(case: Case, fails: Callable[[Case], bool], *, most: int = 3000) -> Case:
    """A smaller case that fails, too, by no more than so many trials."""
    trials = 0
    size = len(case.data)
    while size and trials < most:
        at = 0
        while at < len(case.data) and trials < most:
            trials += 1
            smaller = _without(case, at, at + size)
            if smaller is not None and fails(smaller):
                case = smaller
            else:
                at += size
        size = size // 2 if size > 1 else 0
    for border in case.borders:
        fewer = replace(case, borders=tuple(each for each in case.borders if each != border))
        if fails(fewer):
            case = fewer
    for name in ("block_size", "record_limit", "chunk", "window", "tail"):
        plainer = replace(case, **{name: Case.__dataclass_fields__[name].default})
        if fails(plainer):
            case = plainer
    return case


def _without(case: Case, first: int, past: int) -> Case | None:
    """The case without some bytes, of which none belong to its byte order mark."""
    past = min(past, len(case.data))
    if first < case.mark:
        return None

    def moved(place: int) -> int:
        return place if place <= first else max(first, place - (past - first))

    return replace(
        case,
        data=case.data[:first] + case.data[past:],
        borders=tuple(moved(each) for each in case.borders),
        start=moved(case.start + case.mark) - case.mark,
        end=moved(case.text_end + case.mark) - case.mark,
    )
