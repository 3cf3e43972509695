"""Results as text: ratios first, medians of the rounds with the lowest and the highest."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from statistics import median

from benchmarks.base import CaseResult, Machine, Measure, Report, Result, Role

WIDTH = 96
_NAME = 36


def head(machine: Machine, rounds: int) -> str:
    """What ran where."""
    packages = ", ".join(f"{name} {version}" for name, version in machine.packages.items())
    lines = [
        f"RTX benchmarks, {machine.time}, commit {machine.commit}",
        f"{machine.processor}, {machine.cores} cores, load {machine.load:g}; {machine.system}",
        f"{machine.python}, {machine.server} on TCP loopback; {packages}",
        f"Medians of {rounds} interleaved rounds, lowest and highest in brackets. A ratio says how "
        "many times better RTX (the first line of its case) is than the line it stands on, round "
        "by round. Lines in round brackets are no libraries: they show what is left to win. "
        "benchmarks/README.md has the method and its limits.",
    ]
    return "\n".join(wrapped for line in lines for wrapped in textwrap.wrap(line, WIDTH))


def case_table(case: CaseResult) -> str:
    """The table of one case, one part for each measure."""
    lines = ["", f"{case.name}: {case.title}"]
    for measure in case.measures:
        lines += _measure_table(case, measure)
    lines += [f"    skipped: {name}, {reason}" for name, reason in case.skipped.items()]
    if case.note:
        indent = " " * 4
        lines += textwrap.wrap(case.note, WIDTH, initial_indent=indent, subsequent_indent=indent)
    return "\n".join(lines)


def _measure_table(case: CaseResult, measure: Measure) -> Iterator[str]:
    which = "more" if measure.more_is_better else "less"
    label = f"  {measure.name}, {measure.unit}, {which} is better"
    yield f"{label:<{_NAME + 26}}{'median':>10}{'[min – max]':>22}"
    ours = case.results[0]
    first_peer = next((each for each in case.results if each.role is Role.PEER), None)
    for result in case.results:
        values = values_of(result, measure)
        ratio = "" if result is ours else ratio_text(ratios(ours, result, measure))
        name = f"({result.contestant})" if result.role is Role.CEILING else result.contestant
        span = f"[{number(min(values))} – {number(max(values))}]"
        line = f"  {ratio:<22}  {name:<{_NAME}}{number(median(values)):>10}{span:>22}"
        yield line.rstrip()
        target = measure.target if result is first_peer else None
        if measure is case.measures[0] and result.target is not None:
            target = result.target
        if target is not None:
            reached = median(ratios(ours, result, measure))
            verdict = "met" if reached >= target else "not met"
            yield f"  {'':<22}  target: {target:.3g}x, {verdict}"


def values_of(result: Result, measure: Measure) -> list[float]:
    """A contestant's values of a measure, by round."""
    return [sample.values[measure.name] for sample in result.samples]


def ratios(ours: Result, other: Result, measure: Measure) -> list[float]:
    """How many times better ours is, round by round."""
    pairs = zip(values_of(ours, measure), values_of(other, measure), strict=True)
    if measure.more_is_better:
        return [mine / theirs for mine, theirs in pairs]
    return [theirs / mine for mine, theirs in pairs]


def ratio_text(values: list[float]) -> str:
    """`6.1x [5.8 – 6.4]`."""
    return f"{median(values):5.2f}x [{min(values):.2f} – {max(values):.2f}]"


def number(value: float) -> str:
    """Four figures at most, thousands set apart."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def comparison(before: Report, after: Report) -> str:
    """Two runs side by side; the last column says how many times better the second is."""
    lines = [
        f"A: {before.machine.time}, commit {before.machine.commit}, {before.machine.python}, "
        f"{before.machine.server}, {before.rounds} rounds",
        f"B: {after.machine.time}, commit {after.machine.commit}, {after.machine.python}, "
        f"{after.machine.server}, {after.rounds} rounds",
        "Ratios say how many times better RTX is than the line. Compare these first: they are of",
        "one run each, while medians of two runs differ with whatever else the machine did.",
        "",
        " " * (_NAME + 2)
        + f"{'A ratio':>9}{'B ratio':>9}{'A median':>14}{'B median':>14}{'B to A':>9}",
    ]
    old = {case.name: case for case in before.cases}
    for case in after.cases:
        if case.name in old:
            lines += _compared(old[case.name], case)
        else:
            lines.append(f"{case.name}: only in B")
    new = {case.name for case in after.cases}
    lines += [f"{name}: only in A" for name in old if name not in new]
    return "\n".join(lines)


def _compared(before: CaseResult, after: CaseResult) -> Iterator[str]:
    old = {result.contestant: result for result in before.results}
    for measure in after.measures:
        yield f"{after.name}, {measure.name} in {measure.unit}"
        for result in after.results:
            was = old.get(result.contestant)
            if was is None or measure not in before.measures:
                yield f"  {result.contestant:<{_NAME}}  only in B"
                continue
            a, b = median(values_of(was, measure)), median(values_of(result, measure))
            better = b / a if measure.more_is_better else a / b
            mine = result is after.results[0]
            a_ratio = "" if mine else f"{median(ratios(before.results[0], was, measure)):.2f}x"
            b_ratio = "" if mine else f"{median(ratios(after.results[0], result, measure)):.2f}x"
            yield (
                f"  {result.contestant:<{_NAME}}{a_ratio:>9}{b_ratio:>9}"
                f"{number(a):>14}{number(b):>14}{better:>8.2f}x"
            )
