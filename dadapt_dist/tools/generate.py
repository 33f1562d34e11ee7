"""Write what follows from the code: stubs of the public classes, their section of docs/methods.md, and tables of docs/reference.

`make format` runs it in a clone: python -m dadapt_dist.tools.generate
"""

import inspect
import re
import textwrap
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..engine.optimizer import LearningRateFree
from ..engine.optimizer_class import docstring_of, paragraph, signature_of
from ..methods import METHODS, Method
from ..methods.base import Documentation, Variant
from ..methods.registry import class_name, class_names
from ..options.fields import MethodOptions
from ..wrappers import TRAC, Mechanic
from . import reference_pages

ROOT = Path(__file__).parents[2]
STUB, PAGE = ROOT / "dadapt_dist/optimizers.pyi", ROOT / "docs/methods.md"
WRAPPERS = ROOT / "dadapt_dist/wrappers.pyi"
BEGIN, END = "<!-- methods: written by `make format` from dadapt_dist/methods -->", "<!-- end of methods -->"
_ARXIV = re.compile(r"arXiv \d{4}\.\d{5}")
_HEAD = """\
# Written by `make format` from the methods' files.
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from .engine.optimizer import LearningRateFree
from .engine.step_size import StepSize
from .methods import Method

def of_method(name: str) -> type[LearningRateFree]: ...
def classes() -> dict[str, type[LearningRateFree]]: ...
def register(method: type[Method]) -> type[LearningRateFree]: ...
"""


_HEAD_OF_WRAPPERS = """\
# Written by `make format` from engine/wrapped.py.
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from .engine.step_size import StepSize
from .engine.wrapped import Wrapped
"""


def main() -> None:
    """Write all files."""
    for path, text in texts().items():
        path.write_text(text, encoding="utf-8")


def texts() -> dict[Path, str]:
    """What each file should hold."""
    pages = {ROOT / name: text for name, text in reference_pages.pages().items()}
    return {STUB: stub(), WRAPPERS: stub_of_wrappers(), PAGE: page(PAGE.read_text(encoding="utf-8")), **pages}


def stub() -> str:
    """The text of optimizers.pyi."""
    listed = "".join(f'    "{name}",\n' for name in sorted(class_names(), key=lambda name: (not name.isupper(), name)))
    stubs = "".join(_stub_of(method, variant) for method, variant in _classes())
    return _HEAD + stubs + f"\n__all__ = [\n{listed}]\n"


def stub_of_wrappers() -> str:
    """The text of wrappers.pyi."""
    classes = (Mechanic, TRAC)
    stubs = "".join(_class(cls.__name__, "Wrapped", cls.__doc__, inspect.signature(cls)) for cls in classes)
    return _HEAD_OF_WRAPPERS + stubs + '\n__all__ = ["TRAC", "Mechanic"]\n'


def _classes() -> list[tuple[type[Method], Variant | None]]:
    """Every public class: its method, and which variant of it, where it is one."""
    return [(method, variant) for method in METHODS.values() for variant in (None, *method.variants)]


def _words(method: type[Method], variant: Variant | None) -> tuple[str, Documentation]:
    """Name and documentation of a public class."""
    return (class_name(method), method.documentation) if variant is None else (variant.name, variant.documentation)


def page(text: str) -> str:
    """docs/methods.md with its generated part as it should be. ValueError where the markers are missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE} lacks the lines {BEGIN!r} and {END!r}")
    sections = "\n\n".join([table(), *(_section(method, variant) for method, variant in _classes())])
    return before + begin + "\n\n" + sections + "\n\n" + end + after


def table(methods: Iterable[type[Method]] | None = None) -> str:
    """A row a method: its class, when to use it, its source. None: all methods."""
    rows = ["| class | when to use it | source |", "|---|---|---|"]
    classes = _classes() if methods is None else [(method, None) for method in methods]
    for name, words in (_words(method, variant) for method, variant in classes):
        links = ", ".join(map(_linked, _ARXIV.findall(words.reference))) or words.reference
        rows.append(f"| [`{name}`](#{name.lower()}) | {words.when} | {links} |")
    return "\n".join(rows)


def _section(method: type[Method], variant: Variant | None) -> str:
    name, words = _words(method, variant)
    source = words.reference[0].upper() + words.reference[1:]
    common = {f.name for f in fields(MethodOptions)}
    own = [f for f in method.options.of_constructor() if f.name not in common and "check" in f.metadata]
    parts = [f"### {name}", _filled(f"{words.summary} {source}.")]
    parts.append("\n".join(f"    {line}".rstrip() for line in paragraph(words.equations)))
    parts += ["\n".join(paragraph(words.notes))] if words.notes else []
    parts.append(_filled(f"Defaults: `{', '.join(f'{f.name}={_repr(f.default)}' for f in own)}`."))
    return "\n\n".join(parts)


def _filled(text: str) -> str:
    """The text in lines that part no identifier of a paper."""
    whole = _ARXIV.sub(lambda found: found[0].replace(" ", "\0"), text)
    return _linked(textwrap.fill(whole, 110, break_on_hyphens=False).replace("\0", " "))


def _linked(text: str) -> str:
    return _ARXIV.sub(lambda found: f"[{found[0]}](https://arxiv.org/abs/{found[0].removeprefix('arXiv ')})", text)


def _repr(value: Any) -> str:
    return re.sub(r"e-0(\d)", r"e-\1", repr(value))


def _stub_of(method: type[Method], variant: Variant | None) -> str:
    name = _words(method, variant)[0]
    return _class(name, LearningRateFree.__name__, docstring_of(method, variant), signature_of(method, variant))


def _class(name: str, base: str, docstring: str | None, signature: inspect.Signature) -> str:
    lines = [f"\nclass {name}({base}):"]
    lines += [f"    {line}".rstrip() for line in f'"""{docstring}"""'.splitlines()]
    lines += ["", "    def __init__(", "        self,"]
    keyword_only = False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            lines.append("        *,")
        default = "" if parameter.default is parameter.empty else f" = {_source(parameter.default)}"
        lines.append(f"        {parameter.name}: {_type(parameter.annotation)}{default},")
    return "\n".join([*lines, "    ) -> None: ...", ""])


def _source(value: Any) -> str:
    if value == float("inf"):
        return 'float("inf")'
    return _repr(value).replace("'", '"')


def _type(annotation: Any) -> str:
    text = inspect.formatannotation(annotation).replace("'", '"')
    for prefix in ("typing.", "collections.abc.", "dadapt_dist.engine.step_size.", "dadapt_dist.methods.", "builtins."):
        text = text.replace(prefix, "")
    text = re.sub(r"Optional\[(Literal\[[^]]*\])\]", r"\1 | None", text)
    text = re.sub(r"Union\[(.*), NoneType\]", lambda found: found[1].replace("], ", "] | ") + " | None", text)
    return text.replace("torch.Tensor", "Tensor")


if __name__ == "__main__":
    main()
