"""Print pip constraints for one column of the CI matrix: `python .ci/releases.py oldest|pinned|newest`.

oldest: lower bounds of pyproject.toml for torch and the frameworks. pinned: constraints.txt as it is. newest: no bound at all.
In the first and the last, what they depend on is free, and only the test tools stay as constraints.txt pins them.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FRAMEWORKS = ("torch", "accelerate", "deepspeed", "lightning", "transformers")


def constraints(column: str) -> list[str]:
    """Lines of a constraints file.

    Raises:
        ValueError: if the column is not one of oldest, pinned and newest.
        KeyError: if pyproject.toml has no lower bound for a framework.
    """
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if column == "pinned":
        return pinned
    if column not in ("oldest", "newest"):
        raise ValueError(f"{column!r} is no column of the matrix: oldest, pinned or newest")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    tools = set(re.findall(r'"([\w.-]+)[>=]=', project[project.index("\ntest = [") : project.index("\nall = [")]))
    lines = [line for line in pinned if line.split("==")[0] in tools - {*FRAMEWORKS, "numpy", "peft", "triton"}]
    if column == "oldest":
        bounds = dict(re.findall(r'"([\w.-]+)>=([\d.]+)', project))
        lines += [f"{name}=={bounds[name]}" for name in FRAMEWORKS]
    return lines


if __name__ == "__main__":
    sys.stdout.write("\n".join(constraints(sys.argv[1] if len(sys.argv) == 2 else "")) + "\n")
