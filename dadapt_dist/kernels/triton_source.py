"""Print the graphs of a method as a Triton module: a step, and the sums before it, over the blocks of a table of tensors.

Every operation of a block is a statement of its own in the order of torch's. What is made of coefficients alone is computed
once a program, in float64. A way through the method that hangs on coefficients on the device is chosen there: nobody waits.
"""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from .traced import FLOAT, Node, UntraceableError, names_in
from .traced_method import Path, StepPath, Traced
from .triton_statements import Body, Scalars

HEAD = """import triton
import triton.language as tl

from dadapt_dist.kernels.triton_kernel import (
    beyond, bound, bounded, gradient, measured_gradient, read, round_up_or_down, stay, within, write,
)
"""
ROOT = 1.8446742974197924e19  # the largest number whose square float32 holds


class Ways(NamedTuple):
    """The ways that may be taken, by their places, and the coefficients whose values have ruled out the others."""

    places: tuple[int, ...]
    known: frozenset[str]


def printed(traced: Traced, coefficients: Sequence[str], ways: Ways, sums: int, scaled: str) -> str:
    """The source of a module with the kernel `step`.

    sums: of the method. scaled: the coefficient that tensors have factors of.
    """
    steps = [traced.steps[place] for place in ways.places]
    scalars = Scalars(coefficients)
    raws = max(len(step.raw_sums) for step in steps)
    narrow = [_narrow(steps, raw) for raw in range(raws)]
    updates = [_update(f"update_{place}", step, traced, scalars, narrow) for place, step in enumerate(steps)]
    updates = [text.replace("SCALARS", _listed(scalars.names)) for text in updates]  # those of all ways
    return "\n".join(
        [
            HEAD,
            *updates,
            _choice(steps, traced, scalars, raws),
            _block(steps, traced, scalars, raws),
            _step(steps, ways, traced, scalars, raws, sums, scaled),
        ]
    )


def printed_measure(traced: Traced, coefficients: Sequence[str], ways: Ways, sums: int) -> str:
    """The source of a module with the kernel `measure`."""
    paths = [traced.measures[place] for place in ways.places]
    scalars = Scalars(coefficients)
    raws = max(len(path.raw_sums) for path in paths)
    terms = [_terms(f"terms_{place}", path, traced, scalars, raws) for place, path in enumerate(paths)]
    terms = [text.replace("SCALARS", _listed(scalars.names)) for text in terms]
    return "\n".join([HEAD, *terms, _measure(paths, ways, traced, scalars, raws, sums)])


def _listed(names: Collection[str]) -> str:
    return "".join(f" {name}," for name in names)


def _function(signature: str, lines: Sequence[str]) -> str:
    return f"\n@triton.jit\ndef {signature}:\n" + "".join(f"    {line}\n" for line in lines)


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"    {line}" for line in lines]


# ---------------------------------------------------------------- one block of a step


def _buffers(traced: Traced) -> list[str]:
    return [f"b{place}" for place in range(len(traced.fields))]


def _written(steps: Sequence[StepPath], traced: Traced) -> list[int]:
    """The buffers, by their places, that some way writes."""
    return [
        place
        for place, name in enumerate(traced.fields)
        if any(name in step.written and not _is_field(step.written[name], f".{name}") for step in steps)
    ]


def _is_field(node: Node, name: str) -> bool:
    return node.op == "field" and node.args[0] == name


def _narrow(steps: Sequence[StepPath], raw: int) -> bool:
    """Whether the addends of a raw sum are float32: half as many registers until they are added up."""
    (*values,) = (step.raw_sums[raw].args[0] for step in steps if raw < len(step.raw_sums))
    return all(value.op == "as" and value.args[0].kind == FLOAT and value.args[0].op != "mul" for value in values)


def _results(traced: Traced, raws: int) -> list[str]:
    """What an update returns: x, the buffers that it may write, the addends of sums, and which elements would overflow."""
    buffers = [f"n{place}" for place in range(len(traced.fields) - traced.read_only)]
    return ["nx", *buffers, *(f"s{place}" for place in range(raws)), "over"]


def _update(name: str, step: StepPath, traced: Traced, scalars: Scalars, narrow: Sequence[bool]) -> str:
    """narrow: of each raw sum, see `_narrow`."""
    raws = len(narrow)
    body = Body(traced, scalars)
    values = {"nx": body.of_node(step.written["x"], FLOAT)}
    for place, field in enumerate(traced.fields[: len(traced.fields) - traced.read_only]):
        values[f"n{place}"] = body.of_node(step.written[field], FLOAT)
    for place in range(raws):
        if place < len(step.raw_sums):
            values[f"s{place}"] = body.addend(step.raw_sums[place], narrow=narrow[place])
        else:
            values[f"s{place}"] = "zero" if narrow[place] else "zero.to(tl.float64)"
    limits: dict[str, str] = {}
    for field, node in step.tried.items():
        limit = "LARGEST" if field == "x" else f"bound(ROUNDED & {1 << traced.fields.index(field)})"
        limits[body.of_node(node, FLOAT)] = limit
    for node in step.squared:  # the tightest of all
        limits[body.of_node(node, FLOAT)] = repr(ROOT)
    over = [f"beyond({text}, {limit})" for text, limit in limits.items()]
    values["over"] = " | ".join(over) or "(zero != zero)"
    results = _results(traced, raws)
    lines = [*body.lines, *(f"{name} = {values[name]}" for name in results), f"return {', '.join(results)}"]
    given = f"x, g,{_listed(_buffers(traced))}SCALARS LARGEST: tl.constexpr, ROUNDED: tl.constexpr"
    return _function(f"{name}({given})", lines)


def _choice(steps: Sequence[StepPath], traced: Traced, scalars: Scalars, raws: int) -> str:
    """The function that takes the way."""
    given = f"x, g,{_listed([*_buffers(traced), *scalars.names])}"
    results = ", ".join(_results(traced, raws))
    lines = _branches(len(steps), lambda place: [f"{results} = update_{place}({given} LARGEST, ROUNDED)"])
    signature = f"update(way, {given} LARGEST: tl.constexpr, ROUNDED: tl.constexpr)"
    return _function(signature, [*lines, f"return {results}"])


def _branches(count: int, of: Callable[[int], list[str]]) -> list[str]:
    """The statements of each way, of which one is taken."""
    if count == 1:
        return of(0)
    lines = []
    for place in range(count):
        lines.append(f"if way == {place}:" if place == 0 else f"elif way == {place}:" if place < count - 1 else "else:")
        lines += _indented(of(place) or ["pass"])
    return lines


def _block(steps: Sequence[StepPath], traced: Traced, scalars: Scalars, raws: int) -> str:
    buffers, written = _buffers(traced), _written(steps, traced)
    results = ", ".join(_results(traced, raws))
    call = f"{results} = update(way, x, g,{_listed([*buffers, *scalars.names])} LARGEST, ROUNDED)"
    lines = [
        "x = read(x_at, i, inside, MASKED)",
        "g, wrong = gradient(read(g_at, i, inside, MASKED), x, decay, scale, SCALED, DECAYED, MAXIMIZE)",
        *(f"b{k} = read(p{k}, i, inside, MASKED)" for k in range(len(buffers))),
        call,
        "if tl.max(over.to(tl.int32), 0) > 0:",  # next to never: such elements are taken as not finite
        "    if DECAYED:",  # where the decay alone overflows, it is left out too
        "        g = tl.where(over, tl.where(wrong, 0.0, decay * x), g)",
        "        wrong = wrong | over",
        f"        {call}",
        "    g = tl.where(over, 0.0, g)",
        "    wrong = wrong | over",
        f"    {call}",
        "    nx = stay(nx, x, LARGEST)",
        *(f"    n{k} = stay(n{k}, b{k}, bound(ROUNDED & {1 << k}))" for k in written),
        "if not DRY:",
        "    write(x_at, i, nx, inside, element, seed, MASKED, False)",
        *(f"    write(p{k}, i, n{k}, inside, element, seed, MASKED, ROUNDED & {1 << k})" for k in written),
        "bad = tl.where(wrong & inside, 1.0, 0.0)",
        "stored = tl.where(inside, nx.to(x_at.dtype.element_ty).to(tl.float64), 0.0)",
        "square = stored * stored",
        *_only_inside(raws),
        f"return{_listed([f's{k}.to(tl.float64)' for k in range(raws)])} bad, square",
    ]
    return _function(f"block({_given(buffers, scalars)} {BLOCK_OPTIONS})", lines)


BLOCK_OPTIONS = (
    "SCALED: tl.constexpr, DECAYED: tl.constexpr, MAXIMIZE: tl.constexpr, DRY: tl.constexpr, LARGEST: tl.constexpr, "
    "ROUNDED: tl.constexpr, MASKED: tl.constexpr"
)


def _given(buffers: Sequence[str], scalars: Scalars) -> str:
    pointers = _listed([f"p{place}" for place in range(len(buffers))])
    return f"x_at, g_at,{pointers} i, inside, element, seed, decay, scale, way,{_listed(scalars.names)}"


def _only_inside(raws: int) -> list[str]:
    return ["if MASKED:", *(f"    s{k} = tl.where(inside, s{k}, 0.0)" for k in range(raws))] if raws else []


# ---------------------------------------------------------------- all blocks of a program


def _step(
    steps: Sequence[StepPath], ways: Ways, traced: Traced, scalars: Scalars, raws: int, sums: int, scaled: str
) -> str:
    adds = [*(f"a{k} += s{k}" for k in range(raws)), "bad += wrong", "if APART:", "    squares += square"]
    call = f"{_listed([f's{k}' for k in range(raws)])} wrong, square = block({_given(_buffers(traced), scalars)} "
    lines = [
        *_start(traced, scalars, skips=True, scaled=scaled),
        *_way(steps, ways, scalars),
        *scalars.lines,
        *(f"a{k} = tl.zeros((BLOCK,), tl.float64)" for k in range(raws)),
        "bad, squares = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float64)",
        *_over_blocks(call + "SCALED, DECAYED, MAXIMIZE, DRY, LARGEST, ROUNDED, ", adds),
        f"out = partial + program.to(tl.int64) * ({sums + 1} + APART)",
        *_stored(steps, scalars, sums),
        "if APART:",
        f"    tl.store(out + {sums + 1}, tl.sum(squares, 0))",
    ]
    options = "APART: tl.constexpr, SCALED: tl.constexpr, DECAYED: tl.constexpr, MAXIMIZE: tl.constexpr, "
    options += f"DRY: tl.constexpr, LARGEST: tl.constexpr, ROUNDED: tl.constexpr,{_units(traced)}"
    return _function(f"step({_tables(traced)} factors, partial, {options})", lines)


def _tables(traced: Traced) -> str:
    bases = _listed([f"base{place}" for place in range(len(traced.fields))])
    return f"x_base, g_base,{bases} distances, numels, origins, tensors, chunks, h,"


def _units(traced: Traced) -> str:
    units = ["UNIT_X", "UNIT_G", *(f"UNIT{place}" for place in range(len(traced.fields))), "BLOCK", "BLOCKS"]
    return _listed([f"{unit}: tl.constexpr" for unit in units]).removesuffix(",")


def _start(traced: Traced, scalars: Scalars, *, skips: bool, scaled: str = "") -> list[str]:
    """Find the tensor of the program, and the coefficients."""
    count = len(scalars.coefficients)
    fields = len(traced.fields)
    lines = [
        "program = tl.program_id(0)",
        "t = tl.load(tensors + program).to(tl.int64)",
        "start = tl.load(chunks + program).to(tl.int64) * (BLOCK * BLOCKS)",
        "n = tl.load(numels + t)",
        f"row = distances + t * {2 + fields}",
        "x_at = x_base + tl.load(row) * UNIT_X",
        "g_at = g_base + tl.load(row + 1) * UNIT_G",
        *(f"p{k} = base{k} + tl.load(row + {2 + k}) * UNIT{k}" for k in range(fields)),
    ]
    if not skips:  # a measure: in float64, with coefficients as they are
        lines += [f"c{k} = tl.load(h + {k})" for k in range(count)]
        return [*lines, f"decay, scale = tl.load(h + {count}), tl.load(h + {count + 1})"]
    lines += [
        f"n = tl.where(tl.load(h + {count + 3}) > 0, 0, n)",
        "origin = tl.load(origins + t)",
        *(f"c{k} = bounded(tl.load(h + {k}))" for k in range(count)),
        f"decay, scale = within(tl.load(h + {count})), tl.load(h + {count + 1}).to(tl.float32)",
        f"seed = (tl.load(h + {count + 2}).to(tl.int64) * 0x9E3779B9).to(tl.uint32)",
    ]
    if scaled in scalars.coefficients:
        place = scalars.coefficients.index(scaled)
        lines += ["if APART:", f"    c{place} = bounded(tl.load(h + {place}) * tl.load(factors + t))"]
    return lines


def _over_blocks(call: str, adds: Sequence[str]) -> list[str]:
    return [
        "for at in range(0, BLOCK * BLOCKS, BLOCK):",
        "    i = start + at + tl.arange(0, BLOCK)",
        "    inside = i < n",
        *(["    element = (origin + i).to(tl.uint32)"] if "element" in call else []),
        "    if start + at + BLOCK <= n:",
        *_indented(_indented([f"{call.strip()} False)", *adds])),
        "    elif start + at < n:",
        *_indented(_indented([f"{call.strip()} True)", *adds])),
    ]


def _stored(paths: Sequence[Path], scalars: Scalars, sums: int) -> list[str]:
    """Store what the program adds to the sums of the phase, and last how many elements are of no use."""

    def totals(place: int) -> list[str]:
        path = paths[place]
        lines = [f"r{k} = tl.sum(a{k}, 0)" for k in range(len(path.raw_sums))]
        for k in range(sums):
            terms = path.terms[k].items() if path.terms else ()  # none: a frozen method
            found = [_product(f"r{path.raw_sums.index(term)}", factor, scalars) for term, factor in terms]
            lines.append(f"tl.store(out + {k}, {' + '.join(found) or '0.0'})")
        return lines

    return [*_branches(len(paths), totals), f"tl.store(out + {sums}, tl.sum(bad.to(tl.float64), 0))"]


def _product(raw: str, factor: Node, scalars: Scalars) -> str:
    text = scalars.text(factor)
    return raw if text == "1.0" else f"{raw} * {text}"


def _way(paths: Sequence[Path], ways: Ways, scalars: Scalars) -> list[str]:
    """The statement that finds the way. Raises UntraceableError where coefficients can lead nowhere."""

    def tree(places: Sequence[int], depth: int) -> str:
        guards = paths[places[0]].guards
        if depth == len(guards):
            return str(places[0])
        condition = guards[depth][0]
        sides = {answer: [p for p in places if paths[p].guards[depth][1] is answer] for answer in (True, False)}
        if sides[True] and sides[False]:
            return (
                f"tl.where({scalars.text(condition)}, {tree(sides[True], depth + 1)}, {tree(sides[False], depth + 1)})"
            )
        if not ways.known.issuperset(names_in([condition])):
            raise UntraceableError("one of its ways cannot be recorded, and only the device knows which is taken")
        return tree(places, depth + 1)

    return [f"way = {tree(range(len(paths)), 0)}"]


# ---------------------------------------------------------------- the sums before a step


def _terms(name: str, path: Path, traced: Traced, scalars: Scalars, raws: int) -> str:
    body = Body(traced, scalars)
    values = [body.addend(term) for term in path.raw_sums]
    values += ["zero.to(tl.float64)"] * (raws - len(values))
    lines = [*body.lines, f"return {', '.join(values)}"]
    return _function(f"{name}(x, g,{_listed(_buffers(traced))}SCALARS)", lines)


def _measure(paths: Sequence[Path], ways: Ways, traced: Traced, scalars: Scalars, raws: int, sums: int) -> str:
    buffers = _buffers(traced)
    found = ", ".join(f"s{k}" for k in range(raws))
    given = f"x, g,{_listed([*buffers, *scalars.names])}"
    block = [
        "x = read(x_at, i, inside, MASKED).to(tl.float64)",
        "g, wrong = measured_gradient(read(g_at, i, inside, MASKED), x, decay, scale, SCALED, DECAYED, MAXIMIZE)",
        *(f"b{k} = read(p{k}, i, inside, MASKED).to(tl.float64)" for k in range(len(buffers))),
        *_branches(len(paths), lambda place: [f"{found} = terms_{place}({given})"]),
        "bad = tl.where(wrong & inside, 1.0, 0.0)",
        *_only_inside(raws),
        f"return {found}, bad",
    ]
    pointers = _listed([f"p{place}" for place in range(len(buffers))])
    passed = f"x_at, g_at,{pointers} i, inside, decay, scale, way,{_listed(scalars.names)} "
    flags = "SCALED: tl.constexpr, DECAYED: tl.constexpr, MAXIMIZE: tl.constexpr, "
    lines = [
        *_start(traced, scalars, skips=False),
        *_way(paths, ways, scalars),
        *scalars.lines,
        *(f"a{k} = tl.zeros((BLOCK,), tl.float64)" for k in range(raws)),
        "bad = tl.zeros((BLOCK,), tl.float32)",
        *_over_blocks(
            f"{found}, wrong = block({passed}SCALED, DECAYED, MAXIMIZE, ",
            [*(f"a{k} += s{k}" for k in range(raws)), "bad += wrong"],
        ),
        f"out = partial + program.to(tl.int64) * {sums + 1}",
        *_stored(paths, scalars, sums),
    ]
    return (
        _function(f"block({passed}{flags}MASKED: tl.constexpr)", block)
        + "\n"
        + _function(f"measure({_tables(traced)} partial, {flags.strip()}{_units(traced)})", lines)
    )
