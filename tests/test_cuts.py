"""Many shards give what one reader gives, wherever they are cut and whatever they guess; and nothing else is proved."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.cutting import DIALECTS, PIECES, Case, Loaded, Loader, at_random, check, load, shrunk, spell, whole
from support.effort import effort

from loader.core.errors import LoaderError, SourceError
from loader.sharding.boundaries import SHARD_BITS
from loader.sharding.proof import ShardReport, cut, prove

pieces = st.lists(st.sampled_from(list(PIECES)), max_size=40)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Soups of all that has a meaning, and files made up at random, which look more like files."""
    if draw(st.booleans()):
        return at_random(draw(st.integers(0, 2**40)))
    name = draw(st.sampled_from(list(DIALECTS)))
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    text = spell("".join(draw(pieces)), DIALECTS[name], end)
    mark = draw(st.sampled_from([b"", b"\xef\xbb\xbf"]))
    before = draw(st.sampled_from([b"", b'skip "\r\n\r']))
    after = draw(st.sampled_from([b"", b'the "end"\n']))
    data = mark + before + text + after
    borders = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return Case(
        data,
        name,
        draw(st.integers(1, 3)),
        tuple(borders),
        mark=len(mark),
        start=len(before),
        end=len(before) + len(text),
        block_size=draw(st.sampled_from([1, 7, 64, 1 << 20])),
        record_limit=draw(st.sampled_from([20, 16 << 20])),
        chunk=draw(st.sampled_from([1, 9, 1 << 20])),
        window=draw(st.sampled_from([4, 30, 64 << 10])),
        tail=draw(st.sampled_from([2, 1 << 20])),
    )


@given(cases(), st.booleans(), st.integers(0, 9))
@example(Case(b"a,b\r\nc,d\r\n", borders=(4,)), True, 0)  # between the two halves of a line end
@example(Case('"é,\n🦆",1\n'.encode(), borders=(2, 6, 7)), True, 0)  # in the middle of characters
@example(Case(b'1,"' + b"x,x\n" * 20 + b'"\n2,y\n', borders=(8, 20, 40, 60)), True, 0)  # one record over five shards
@example(Case(b'1,"a""', borders=(4, 5)), True, 0)  # a doubled quote cut in two, in a record that does not end
@example(Case(b'1,a\n2,"b\n3,c\n4,d\n', borders=(6, 9, 10)), True, 0)  # amid what is given up
@example(Case(b'1,a\n"b\\"",x\n', "backslash", borders=(7,)), True, 0)  # an escape and what it escapes
@settings(max_examples=effort(100, 500))
def test_many_shards_find_what_one_reader_finds(case: Case, wrongly: bool, seed: int) -> None:
    """Raw texts, record numbers, lines, offsets, and what is given up; also where every guess is forced to be wrong."""
    check(case, wrongly=wrongly, seed=seed)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_place_may_be_a_cut(dialect: str) -> None:
    """Each byte a shard, and each pair of places the two ends of one."""
    text = 'aDbE"xE""D"DQQE#QErD"eE' + "\\QDyE1DQ2\r\n3QE\r\r\nzDé"
    data = spell(text.replace('"', "Q"), DIALECTS[dialect], "\n")
    check(Case(data, dialect, borders=tuple(range(1, len(data)))), wrongly=True)
    for first in range(len(data)):
        check(Case(data, dialect, borders=(first, min(first + 5, len(data)))), wrongly=True, seed=first)


# --- the guess


ADVERSARY = b"".join(b'",",%d,"\n' % number for number in range(400))
"""Each two lines are a record of four fields with quotes around whole fields, whether the first is in quotes or not."""


@pytest.mark.parametrize("wrongly", [False, True])
def test_a_file_that_is_right_both_ways_is_read_the_one_way(wrongly: bool) -> None:
    """No guess can know; the chain does."""
    lines = len(ADVERSARY) // 10
    case = Case(ADVERSARY, fields=4, borders=tuple(range(lines, len(ADVERSARY), lines)), window=200)
    loaded = check(case, wrongly=wrongly)
    assert [each[3] for each in whole(case)[0][:2]] == [b'",",0,"\n",",1,"', b'",",2,"\n",",3,"']
    assert loaded.proof.wrong > 0


def test_what_looks_like_records_within_quotes_is_found_out() -> None:
    """A field that holds a file: every guess within it is wrong, and each shard there comes to own nothing."""
    inner = b"".join(b"%d,name %d\n" % (number, number) for number in range(300))
    data = b'0,"' + inner + b'"\n' + inner
    case = Case(data, borders=tuple(range(500, len(data), 500)), window=300)
    loaded = check(case)
    within = [part for part in loaded.proof.parts if part.run is None]
    assert len(within) > 5
    assert loaded.proof.wrong == len(within) + 1, "also that one in which the field ends"


def test_quotes_guess_right_where_a_file_is_plain() -> None:
    """Guesses are there to be right: with newlines in quotes, and a few hundred records to look at, they are."""
    choose = random.Random(4)
    records = [
        b'%d,"text, with ""quotes""\nand %s",%d\n' % (number, b"lines\n" * choose.randrange(4), number * 7)
        for number in range(2000)
    ]
    data = b"".join(records)
    case = Case(data, fields=3, borders=tuple(sorted(choose.sample(range(len(data)), 60))))
    loaded = check(case)
    assert (loaded.proof.guessed, loaded.proof.wrong, loaded.rounds) == (60, 0, 1)


def test_the_parities_tell_all_wrong_guesses_at_once() -> None:
    """Where quotes can be counted, not one shard after the other is loaded again, but all of them side by side."""
    data = b"".join(b'%d,"a\nb"\n' % number for number in range(1000))
    case = Case(data, borders=tuple(range(300, len(data), 300)))
    loaded = check(case, wrongly=True)
    assert len(loaded.forced) == len(case.borders)
    assert loaded.rounds <= 3


def test_a_window_with_a_line_over_the_limit_is_no_error_of_the_guess() -> None:
    """Whether the line is one, the whole file says: with its record's number, and its line."""
    data = b"1,a\n" * 10 + b'2,"' + b"x" * 60 + b"\n" + b"3,b\n" * 10
    case = Case(data, borders=(20, 42, 70, 110), record_limit=40)
    loaded = check(case)
    assert (
        loaded.error
        == "x.csv: record 11 (line 11, byte 40) is longer than the limit of 40 bytes; is a quote left open?"
    )
    check(case, wrongly=True)


# --- what is read


def test_a_shard_reads_its_range_and_what_finishes_its_last_record() -> None:
    """And no more: not the rest of the object where no record begins in it."""
    data = b'1,"' + b"x\n" * 500 + b'"\n' + b"2,y\n" * 500
    case = Case(data, borders=(100, 200, 300, 1500), chunk=50, window=64, tail=50)
    loader = Loader(case)
    read = []
    for number, (first, past) in enumerate(loader.loaded.plan.ranges):
        place = {"start": [0, 1006, 1006, 1006, 1502][number]}
        cutter = loader.cutter(number)
        cutter.begin(place)
        for _ in cutter.blocks():
            pass
        read.append(cutter.bytes_read - (past - first))
    assert read[1:3] == [0, 0]
    assert max(read[3:]) <= 1 << 20
    assert sum(read[3:]) < len(data)


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_all_of_a_range_is_summed(chunk: int) -> None:
    """Also a footer, that no record is read of, and lines before the first record."""
    data = b"\xef\xbb\xbf" + b"skip\n" + b"1,a\n" * 5 + b"the end\n" * 20
    for border in range(len(data)):
        case = Case(data, borders=(border,), mark=3, start=5, end=25, chunk=chunk, block_size=4)
        assert check(case).proof.proved


# --- what is not proved


def proved(case: Case) -> Loaded:
    loaded = check(case)
    assert loaded.proof.proved
    return loaded


def changes(loaded: Loaded, choose: random.Random) -> list[tuple[str, list[ShardReport]]]:
    """Reports of which one thing is not true, each of them; what was changed, and all reports."""
    made = []
    plan, reports = loaded.plan, loaded.reports
    # what other reports bear out, or that a neighbour owns nothing, nobody could see to be a lie
    starts, ends = {each.start for each in reports}, {each.end for each in reports} | {plan.start}
    pasts = {plan.text(number)[1] for number in range(len(plan.ranges))}
    for place, report in enumerate(reports):
        others = reports[:place] + reports[place + 1 :]
        made.append((f"drop {place}", others))
        if report.crc is not None:
            made.append((f"crc {place}", [*others, replace(report, crc=report.crc ^ (1 << choose.randrange(32)))]))
        if report.tail:
            made.append((f"tail {place}", [*others, replace(report, tail=report.tail ^ (1 << choose.randrange(32)))]))
        for name, met in (("start", ends), ("end", starts | pasts)):
            value = getattr(report, name)
            lies = set() if value is None else {value - 1, value + 1} - met
            made += [(f"{name} {place}", [*others, replace(report, **{name: lie})]) for lie in sorted(lies)]
        made.append((f"attempt {place}", [*others, replace(report, attempt=2)]))
        made.append((f"load {place}", [*others, replace(report, load_id=2)]))
        problem = {"kind": "limit", "message": "too many", "run": report.run}
        made.append((f"problem {place}", [*others, replace(report, problem=problem)]))
        for other in choose.sample(range(place), min(place, 2)):
            swapped = list(reports)
            swapped[place] = replace(reports[place], number=reports[other].number)
            swapped[other] = replace(reports[other], number=reports[place].number)
            made.append((f"swap {other} and {place}", swapped))
    return made


@given(cases(), st.integers(0, 1000))
@settings(max_examples=40)
def test_nothing_wrong_is_proved(case: Case, seed: int) -> None:
    """A report that is missing, of another load, that lies of its ends or its bytes, or stands for another shard:
    nothing is proved then, or what was proved is the same as before."""
    loaded = load(case)
    if not loaded.proof.proved:
        return
    for what, reports in changes(loaded, random.Random(seed)):
        try:
            proof = prove(loaded.plan, reports)
        except LoaderError:
            continue
        if proof.proved:
            assert truth(loaded, proof) == truth(loaded, loaded.proof), what


def truth(loaded: Loaded, proof: Any) -> Any:
    """What would be merged by the proof."""
    kept = loaded.proof
    loaded.proof = proof
    found = loaded.found
    loaded.proof = kept
    return found, proof.counts


def test_each_lie_is_noticed_where_each_report_counts() -> None:
    """The same where every shard owns records, and has but one run: none of these is proved."""
    data = b"".join(b"%d,a\n" % number for number in range(100, 200))
    loaded = proved(Case(data, borders=(100, 203, 304, 450)))
    assert [each.start for each in sorted(loaded.reports, key=lambda each: each.number)] == [0, 102, 204, 306, 450]
    lies = changes(loaded, random.Random(1))
    assert len(lies) >= 5 * 8
    for what, reports in lies:
        try:
            assert not prove(loaded.plan, reports).proved, what
        except SourceError:
            assert what.startswith(("crc", "tail", "swap")), what
    assert sum(what.startswith("tail") for what, _ in lies) == 3  # one shard ends where its range does


def test_a_report_that_comes_twice_counts_once() -> None:
    """As one that was read from a queue again."""
    loaded = proved(Case(b"1,a\n" * 40, borders=(50, 110)))
    assert prove(loaded.plan, loaded.reports * 2) == loaded.proof


def test_two_runs_of_a_shard_that_began_alike_must_end_alike() -> None:
    """They read the same bytes by the same rules; if they differ, nobody knows which one is right."""
    loaded = proved(Case(b"1,a\n" * 40, borders=(50, 110)))
    first = next(each for each in loaded.reports if each.number == 1)
    for name in ("end", "records", "lines"):
        other = replace(first, run=99, **{name: getattr(first, name) + 4})
        with pytest.raises(SourceError, match="shard 1 was read twice"):
            prove(loaded.plan, [*loaded.reports, other])


def test_counts_that_do_not_add_up_are_not_proved() -> None:
    """Every record that was read was kept, filtered or rejected."""
    loaded = proved(Case(b"1,a\n" * 40, borders=(50, 110)))
    for name in ("records", "kept", "filtered", "rejected"):
        lying = [
            replace(each, **{name: getattr(each, name) + 1}) if each.number == 1 else each for each in loaded.reports
        ]
        with pytest.raises(LoaderError, match="shard 1 do not add up"):
            prove(loaded.plan, lying)


@pytest.mark.parametrize("kind", ["changed", "failed"])
def test_what_is_no_matter_of_guesses_ends_the_plan(kind: str) -> None:
    """Not even the shard's beginning is known then; to load it again would lead to the same."""
    loaded = proved(Case(b"1,a\n" * 40, borders=(50, 110)))
    changed = ShardReport(1, 1, 1, 99, problem={"kind": kind, "message": "it is not what it was", "run": 99})
    reports = [*(each for each in loaded.reports if each.number != 1), changed]
    proof = prove(loaded.plan, reports)
    assert not proof.proved
    assert proof.problem is not None
    assert (proof.problem["kind"], proof.problem["number"]) == (kind, 1)


def test_a_problem_of_a_wrong_guess_is_none() -> None:
    """A shard that began wrong may come to anything; it is loaded again. One that began right tells of the object."""
    loaded = proved(Case(b"1,a\n" * 40, borders=(50, 110)))
    first = next(each for each in loaded.reports if each.number == 1)
    others = [each for each in loaded.reports if each.number != 1]
    problem = {"kind": "limit", "message": "too many", "run": 1}
    wrong = replace(first, start=53, end=None, crc=None, problem=problem)
    assert prove(loaded.plan, [*others, wrong]).again == ((1, {"start": 52}),)
    assert prove(loaded.plan, [*others, wrong]).problem is None
    found = prove(loaded.plan, [*others, replace(wrong, start=52)]).problem
    assert found is not None
    assert (found["record"], found["line"], found["number"]) == (13, 13, 1)


# --- plans


@given(st.integers(0, 10**13), st.integers(1, 300))
def test_ranges_tile_the_object(size: int, number: int) -> None:
    """So many of them, as near to the same length as can be; none is empty, but that of an empty object."""
    ranges = cut(size, shards=number)
    assert [first for first, _ in ranges] == [0, *(past for _, past in ranges)][:-1]
    assert ranges[-1][1] == size
    lengths = {past - first for first, past in ranges}
    assert max(lengths) - min(lengths) <= 1
    assert len(ranges) == max(1, min(number, size))
    assert all(past - first <= 1000 for first, past in cut(size % 10**6, length=1000))


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=50), st.integers(1, 60))
def test_ranges_end_where_parts_do(sizes: list[int], number: int) -> None:
    """Where an object may be cut at some places only, each range is made of whole parts; no more than asked for."""
    places = list(accumulate(sizes, initial=0))
    ranges = cut(places[-1], shards=number, at=places)
    assert {border for each in ranges for border in each} <= set(places)
    assert [ranges[0][0], *(past for _, past in ranges)] == [*(first for first, _ in ranges), places[-1]]
    assert len(ranges) <= number


def test_a_record_has_a_number_in_any_shard() -> None:
    """As many as a bigint holds."""
    assert (8_000_000 << SHARD_BITS) + (1 << SHARD_BITS) < 1 << 63


def test_the_harness_notices_what_is_wrong() -> None:
    """With the guesses taken for proved, files differ: what compares is able to fail, and finds a small example."""

    def differs(case: Case) -> bool:
        loaded = Loader(case)
        loaded.find_truth()
        return any(loaded.wrong(number, random.Random(0)) for number in range(1, len(case.borders) + 1))

    case = Case(b'1,"a\nb"\n' * 20, borders=(30, 90))
    assert differs(case)
    small = shrunk(case, differs)
    assert len(small.data) <= 4
