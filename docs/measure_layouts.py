"""Measure how far each layout departs from one process and which collectives run, and write the tables of docs/layouts.md.

    python -m docs.measure_layouts [LAYOUT ...]

Every layout of tests/helpers/layouts.py trains the float64 model of tests/helpers/models.py for 10 steps with every method, on
the global batch that one process sees; with sums before the move twice, exact and lagged. The deviation of d is max |d/d1 - 1|
over steps and ranks, that of the parameters max ‖x - x1‖/‖x1‖ over tensors and ranks; d1, x1: the one-process float64 oracles
of tests/helpers/oracles. Last come two low-precision runs of Prodigy under FSDP2 against the same float64 oracle.
"""

import sys
from collections import Counter

from torch.distributed.tensor.debug import CommDebugMode

from tests.helpers.classes import ALL, WITH_D, parts
from tests.helpers.layout_runs import WAYS, depth_of, frozen_in, reference, train, train_low_precision
from tests.helpers.layouts import LAYOUTS
from tests.helpers.pool import WorkerPool

HEAD = "| layout | ranks | d | parameters | d equal on ranks | first step | later steps |"
KINDS = {
    "DDP": ("ddp",), "FSDP1": ("fsdp1",), "FSDP2, HSDP": ("fsdp2", "hsdp"), "TP": ("tp", " x tp"), "pipeline": ("pipeline",)
}  # fmt: skip
Deviations = tuple[float, float, bool]  # of d, of the parameters, and whether d has the same bits on all ranks


def collectives(layout: str) -> list[dict[str, int]]:
    """On every rank: the names and numbers of c10d collectives inside the first and the second step of Prodigy."""
    job = LAYOUTS[layout][1]()
    optimizer = ALL["prodigy"](job.params(), **parts("prodigy"))
    counts = []
    for step in range(2):
        optimizer.zero_grad()
        job.backward(step)
        with CommDebugMode() as communication:
            optimizer.step()
        ops = communication.get_comm_counts().items()
        counts.append({str(op).split(".")[-1]: number for op, number in ops if "c10d." in str(op)})
    return counts


def deviations(pool: WorkerPool, layout: str, method: str, before: str) -> Deviations:
    """Deviation of d, deviation of the parameters, and whether d has the same bits on all ranks."""
    ds, params = reference(method, depth_of(layout), frozen_in(layout), before)
    results = pool.run(train, layout, method, before)
    of_d = max(abs(d / expected - 1) for r in results for d, expected in zip(r["d"], ds, strict=True))
    of_d = of_d if method in WITH_D else 0.0
    of_x = max(float((r["params"][n] - x).norm() / x.norm()) for r in results for n, x in params.items())
    return of_d, of_x, all([d.hex() for d in r["d"]] == [d.hex() for d in results[0]["d"]] for r in results)


def measured(pool: WorkerPool, layout: str) -> dict[tuple[str, str], Deviations]:
    """The deviations of one layout, for every method and when its sums count."""
    return {way: deviations(pool, layout, *way) for way in WAYS}


def row_of_layout(pool: WorkerPool, layout: str, found: list[Deviations]) -> str:
    """One layout: ranks, worst deviations over the methods, equality over ranks, collectives of two steps."""
    first, second = pool.run(collectives, layout)[0]
    of_d, of_x, equal = worst(found)
    return line(layout, pool.world_size, f"{of_d:.1e}", f"{of_x:.1e}", equal, words(first), words(second))


def kind_of(layout: str) -> str:
    """The column of a layout in the table of methods."""
    ends = [kind for kind, words in KINDS.items() if any(layout.endswith(word) for word in words if word[0] == " ")]
    starts = [kind for kind, words in KINDS.items() if layout.startswith(words)]
    return (ends + starts)[0]


def row_of_method(way: tuple[str, str], by_layout: dict[str, dict[tuple[str, str], Deviations]]) -> str:
    """One method: worst deviation of d over all layouts, and of the parameters in the layouts of each kind."""
    found = {layout: of[way] for layout, of in by_layout.items()}
    of_kinds = [
        worst([of for layout, of in found.items() if kind_of(layout) == kind] or [(0.0, 0.0, True)])[1]
        for kind in KINDS
    ]
    of_d, _, equal = worst([*found.values()])
    method, before = way
    name = f"`{method}`" + (", lagged" if before == "lagged" else "")
    return line(name, f"{of_d:.1e}" if of_d else "-", *[f"{of_x:.1e}" for of_x in of_kinds], equal)


def worst(found: list[Deviations]) -> tuple[float, float, str]:
    """The largest deviations, and what is said of d on the ranks."""
    return max(of[0] for of in found), max(of[1] for of in found), "bit for bit" if all(of[2] for of in found) else "NO"


def line(*cells: object) -> str:
    """A line of a table."""
    return f"| {' | '.join(map(str, cells))} |\n"


def main() -> None:
    """Write one table row a layout, as each is measured, and then one a method."""
    pools: dict[int, WorkerPool] = {}
    out = sys.stdout.write
    out(f"{HEAD}\n{'|---' * 7}|\n")
    by_layout = {}
    for layout in sys.argv[1:] or LAYOUTS:
        ranks, _ = LAYOUTS[layout]
        if ranks not in pools:
            pools[ranks] = WorkerPool(ranks)
        pool = pools[ranks]
        by_layout[layout] = measured(pool, layout)
        out(row_of_layout(pool, layout, [*by_layout[layout].values()]))
        sys.stdout.flush()
    for precision in () if sys.argv[1:] else ("float32", "mixed precision"):
        ds = pools[2].run(train_low_precision, precision)[0]
        out(f"{precision}: {max(abs(d / d1 - 1) for d, d1 in zip(ds, reference('prodigy', 1)[0], strict=True)):.1e}\n")
    out(line("method", "d", *KINDS, "d equal on ranks") + f"{'|---' * (3 + len(KINDS))}|\n")
    for way in WAYS:
        out(row_of_method(way, by_layout))
    for pool in pools.values():
        pool.close()


def words(counts: dict[str, int]) -> str:
    """{'allreduce_': 1} -> '1 allreduce_'."""
    return ", ".join(f"{number} {name}" for name, number in sorted(Counter(counts).items()))


if __name__ == "__main__":
    main()
