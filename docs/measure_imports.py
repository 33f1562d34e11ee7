"""Time `import torch` and `import dadapt_dist` in fresh processes, and name what costs most above torch.

python -m docs.measure_imports [ROUNDS]
"""

import resource
import statistics
import subprocess
import sys
import time

ABOVE = 12
"""How many of the heaviest imports are listed."""


def seconds(program: str) -> tuple[float, float]:
    """(wall time, time of the CPU) of a fresh Python that runs `program`; the second is steadier on a busy machine."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def own_imports() -> list[tuple[float, float, str]]:
    """(milliseconds with what it imports, without, name) of every module that dadapt_dist imports beyond torch."""
    command = [sys.executable, "-X", "importtime", "-c", "import torch\nimport dadapt_dist"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    rows = [
        line.removeprefix("import time:").split("|") for line in text.splitlines() if line.startswith("import time:")
    ]
    named = [(int(total) / 1e3, int(alone) / 1e3, name.rstrip()) for alone, total, name in rows[1:]]
    torch_at = max(i for i, (_, _, name) in enumerate(named) if name == " torch")
    return named[torch_at + 1 :]


def main() -> None:
    """Print the medians, their difference, and the heaviest imports."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    programs = {"import torch": "import torch", "import torch, dadapt_dist": "import torch\nimport dadapt_dist"}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    for _ in range(rounds):  # in turn, so that a busy machine disturbs both alike
        for name, program in programs.items():
            times[name].append(seconds(program))
    for which, title in enumerate(("wall", "CPU")):
        torch_alone, both = ([pair[which] for pair in values] for values in times.values())
        above = statistics.median(b - a for a, b in zip(torch_alone, both, strict=True))
        sys.stdout.write(
            f"{title:5} import torch {statistics.median(torch_alone):.3f} s, with dadapt_dist {statistics.median(both):.3f} s, "
            f"above torch {above:.3f} s (median of {rounds} differences)\n"
        )
    modules = own_imports()
    sys.stdout.write(
        f"one process, by Python's own count: {sum(alone for _, alone, _ in modules):.0f} ms above torch\n"
    )
    for total, alone, name in sorted(modules, reverse=True)[:ABOVE]:
        sys.stdout.write(f"{total:9.1f} ms {alone:9.1f} alone  {name}\n")


if __name__ == "__main__":
    main()
