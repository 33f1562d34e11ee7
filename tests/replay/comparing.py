"""Find the cases in which two recordings differ, where they first do, and by how much."""

import math
from collections.abc import Iterator
from typing import Any

Record = dict[str, Any]


def differences(name: str, before: Record, after: Record) -> list[str]:
    """What differs in a case, in words; empty when nothing does."""
    if "error" in before or "error" in after:
        errors = [one.get("error") for one in (before, after)]
        kinds = [error and error.split(":")[0] for error in errors]
        return [] if kinds[0] == kinds[1] else [f"before: {errors[0] or 'no error'}; after: {errors[1] or 'no error'}"]
    found = [*_steps(before, after), *_rest(before, after)]
    if found:
        found += _sizes(before, after)
    if after.get("continues") is False:
        found.append("the loaded checkpoint does not continue as the run that saved it went on")
    if after.get("ranks_apart"):
        found.append("ranks differ in d")
    return found


def _steps(before: Record, after: Record) -> Iterator[str]:
    for what in ("params", "d"):
        old, new = before[what], after[what]
        if len(old) != len(new):
            yield f"{what}: {len(old)} steps before, {len(new)} after"
        elif old != new:
            yield f"{what} differ from step {next(i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b)} on"


def _rest(before: Record, after: Record) -> Iterator[str]:
    """Everything else. A number that only the new groups have is no difference, one that they lost is."""
    known = {"params", "d", "checksum", "seconds", "tags", "continues", "ranks_apart", "name"}
    for what in sorted((set(before) | set(after)) - known):
        lost = [*_lost(what, before.get(what), after.get(what))]
        if lost:
            yield f"{'; '.join(lost[:4])}{' and more' if len(lost) > 4 else ''}"


def _lost(where: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old if where.startswith("scalars") else {**old, **new}):
            yield from _lost(f"{where} {key}", old.get(key), new.get(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from _lost(f"{where}[{index}]", a, b)
    elif old != new:
        yield f"{where}: {_short(old)} before, {_short(new)} after"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 26 else text[:12] + "..."


def _numbers(value: Any) -> list[float]:
    if isinstance(value, str):
        return [float.fromhex(value)]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [number for part in parts for number in _numbers(part)]


def _sizes(before: Record, after: Record) -> Iterator[str]:
    for what, title in (("d", "d of all steps"), ("d_end", "last d"), ("checksum", "weighted sum of the parameters")):
        old, new = (_numbers(one.get(what)) for one in (before, after))
        pairs = [(a, b) for a, b in zip(old, new, strict=False) if a != b and not (math.isnan(a) and math.isnan(b))]
        if pairs:
            most = max(abs(a - b) for a, b in pairs)
            relative = max(abs(a - b) / max(abs(a), 1e-300) for a, b in pairs)
            yield f"{title}: at most {most:.3g} apart, relative {relative:.3g}"


def report(before: Record, after: Record, expected: list[str]) -> tuple[list[str], int]:
    """Lines to print, and how many cases differ that were not expected to."""
    old, new = before["cases"], after["cases"]
    lines, apart, wrong, same = [], [], 0, 0
    for name in sorted({**old, **new}):
        if name not in old or name not in new:
            found, tags = [f"only {'before' if name in old else 'after'}"], (old | new)[name]["tags"]
        else:
            found, tags = differences(name, old[name], new[name]), new[name]["tags"]
        if not found:
            same += 1
            continue
        block = [f"{name}", *(f"    {line}" for line in found)]
        if set(tags) & set(expected):
            apart += block
        else:
            wrong += 1
            lines += block
    if apart:
        lines += [f"expected to differ ({', '.join(expected)}):", *apart]
    return [*lines, f"{same} cases have the same bits, {wrong} differ unexpectedly"], wrong
