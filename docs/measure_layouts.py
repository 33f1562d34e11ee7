"""Measure how far each layout departs from one process and which collectives run, and write the tables of docs/layouts.md.

    python -m docs.measure_layouts

Every layout of tests/helpers/layouts.py trains the float64 model of tests/helpers/models.py for 10 steps with every method, on
the global batch that one process sees; with sums before the move twice, exact and lagged. The deviation of d is max |d/d1 - 1|
over steps and ranks, that of the parameters max ‖x - x1‖/‖x1‖ over tensors and ranks; d1, x1: the one-process float64 oracles
of tests/helpers/oracles. Last come two low-precision runs of Prodigy under FSDP2 against the same float64 oracle.
"""

import sys
from collections import Counter
from typing import Any

from torch.distributed.tensor.debug import CommDebugMode

from tests.helpers.classes import ALL, WITH_D, parts
from tests.helpers.layout_runs import WAYS, depth_of, frozen_in, reference, train, train_low_precision
from tests.helpers.layouts import LAYOUTS
from tests.helpers.pool import WorkerPool

HEAD = "| layout | ranks | d | parameters | d equal on ranks | first step | later steps |"


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


def deviations(pool: WorkerPool, layout: str, method: str, before: str) -> tuple[float, float, bool]:
    """Deviation of d, deviation of the parameters, and whether d has the same bits on all ranks."""
    ds, params = reference(method, depth_of(layout), frozen_in(layout), before)
    results = pool.run(train, layout, method, before)
    of_d = max(abs(d / expected - 1) for r in results for d, expected in zip(r["d"], ds, strict=True))
    of_d = of_d if method in WITH_D else 0.0
    of_x = max(float((r["params"][n] - x).norm() / x.norm()) for r in results for n, x in params.items())
    return of_d, of_x, all([d.hex() for d in r["d"]] == [d.hex() for d in results[0]["d"]] for r in results)


def row(pools: dict[int, WorkerPool], layout: str) -> tuple[Any, ...]:
    """One layout: ranks, worst deviations over the methods, equality over ranks, collectives of two steps."""
    ranks = LAYOUTS[layout][0]
    if ranks not in pools:
        pools[ranks] = WorkerPool(ranks)
    pool = pools[ranks]
    measured = [deviations(pool, layout, *way) for way in WAYS]
    first, second = pool.run(collectives, layout)[0]
    equal = all(same for *_, same in measured)
    return layout, ranks, max(m[0] for m in measured), max(m[1] for m in measured), equal, first, second


def main() -> None:
    """Write one table row a layout, as each is measured."""
    pools: dict[int, WorkerPool] = {}
    out = sys.stdout.write
    out(f"{HEAD}\n{'|---' * 7}|\n")
    for layout in LAYOUTS:
        name, ranks, of_d, of_x, equal, first, second = row(pools, layout)
        said = "bit for bit" if equal else "NO"
        cells = (name, ranks, f"{of_d:.1e}", f"{of_x:.1e}", said, words(first), words(second))
        out(f"| {' | '.join(map(str, cells))} |\n")
        sys.stdout.flush()
    for precision in ("float32", "mixed precision"):
        ds = pools[2].run(train_low_precision, precision)[0]
        out(f"{precision}: {max(abs(d / d1 - 1) for d, d1 in zip(ds, reference('prodigy', 1)[0], strict=True)):.1e}\n")
    for pool in pools.values():
        pool.close()


def words(counts: dict[str, int]) -> str:
    """{'allreduce_': 1} -> '1 allreduce_'."""
    return ", ".join(f"{number} {name}" for name, number in sorted(Counter(counts).items()))


if __name__ == "__main__":
    main()
