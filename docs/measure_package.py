"""Count the lines and files of the package, folder by folder, with and without its tools.

    python -m docs.measure_package [PACKAGE_DIR] [--before PACKAGE_DIR]

Lines of code are those that hold a token of Python other than a comment or a docstring.
"""

import argparse
import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

TOOLS = {"tools", "cli", "doctor", "bench", "demo"}
"""The tools' folder, and the names that its parts had at the top of the package before."""
SILENT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def docstring_lines(text: str) -> set[int]:
    """The lines of statements that are a string alone."""
    return {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }


def code_lines(text: str) -> int:
    """How many lines hold code."""
    held = {
        line
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in SILENT
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(held - docstring_lines(text))


def measure(package: Path) -> dict[str, Counter[str]]:
    """For each folder, and for the sums, the files, lines and lines of code."""
    found: dict[str, Counter[str]] = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        text = path.read_text(encoding="utf-8")
        one = Counter(files=1, lines=len(text.splitlines()), code=code_lines(text))
        is_tool = parts[0] in TOOLS
        folder = "tools" if is_tool else parts[0] if len(parts) > 1 else "(top)"
        for name in (folder, "package", "package without tools"):
            if not (is_tool and name == "package without tools"):
                found.setdefault(name, Counter()).update(one)
    for name in ("package", "package without tools"):
        found[name] = found.pop(name)
    return found


def main() -> None:
    """Print a table; with --before, the change of each figure beside it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", nargs="?", type=Path, default=Path(__file__).parents[1] / "dadapt_dist")
    parser.add_argument("--before", type=Path, help="the dadapt_dist folder of an earlier checkout")
    given = parser.parse_args()
    here = measure(given.package)
    before = measure(given.before) if given.before else None
    sys.stdout.write(f"{'':22}{'files':>8}{'lines':>16}{'of code':>16}\n")
    for name in [*(name for name in before or {} if name not in here), *here]:
        row, was = here.get(name, Counter()), (before or {}).get(name, Counter())
        cells = [
            f"{row[key]}" + (f" ({row[key] - was[key]:+})" if before else "") for key in ("files", "lines", "code")
        ]
        sys.stdout.write(f"{name:22}{cells[0]:>8}{cells[1]:>16}{cells[2]:>16}\n")


if __name__ == "__main__":
    main()
