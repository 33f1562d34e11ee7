"""The reference names what the code has: every public name, every key of a group and of a state dict, every command."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import dadapt_dist as dd
from dadapt_dist import checkpoint, launch, monitor, schedules, universal
from dadapt_dist.optimizers import classes
from dadapt_dist.tools import generate, reference_pages

FOLDER = Path(__file__).parents[2] / "docs/reference"
# Options that bring keys of their own, by class.
ON: dict[str, list[dict[str, Any]]] = {
    "Prodigy": [{"recipe": "auto", "total_steps": 1000}, {"slice_p": 2}],
    "DoG": [{"average": 8.0}],
    "DoWG": [{"average": 8.0}],
    "DualAveraging": [{"average": True}],
    "AdamPP": [{"normalizer": "sum"}],
    "MechanicSGD": [{"momentum": 0.9}],
}


def text(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def rows(table: str) -> dict[str, str]:
    """The rest of each row, by the key in its first cell."""
    return dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE))


@pytest.mark.parametrize("path", generate.texts(), ids=lambda path: path.name)
def test_generated_files_are_as_the_code_is(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == generate.texts()[path], "make format writes them"


def trained() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """(class, optimizer, state dict after two steps) of every class, with its options that bring keys, and of the wrappers."""
    for cls in classes().values():
        for options in [{}, {"estimates": "per_tensor"}, *ON.get(cls.__name__, [])]:
            p = torch.nn.Parameter(torch.linspace(-1, 2, 12).view(4, 3))
            yield cls.__name__, *stepped(cls([p], **options), p)
    for wrapper in (dd.Mechanic, dd.TRAC):
        p = torch.nn.Parameter(torch.linspace(-1, 2, 12).view(4, 3))
        yield wrapper.__name__, *stepped(wrapper(torch.optim.AdamW([p], lr=1.0)), p)


def stepped(optimizer: Any, p: torch.nn.Parameter) -> tuple[Any, dict[str, Any]]:
    for _ in range(2):
        optimizer.zero_grad()
        loss = (p - 1).square().sum()
        loss.backward()
        optimizer.step(loss=loss) if optimizer._method.wants_loss else optimizer.step()
    return optimizer, optimizer.state_dict()


def test_every_key_of_a_checkpoint_is_named_with_its_classes() -> None:
    scalars, buffers = (rows(part) for part in text("state-dict.md").split("## Buffers"))
    options = rows(text("groups.md"))
    of_base = torch.optim.AdamW([torch.ones(1, requires_grad=True)]).defaults
    for name, optimizer, saved in trained():
        wrapper = name in ("Mechanic", "TRAC")
        for key, value in saved["param_groups"][0].items():
            if key in optimizer.defaults or (wrapper and key in of_base):
                assert wrapper or key in options, (name, key)
                continue
            said = scalars[key].split(" | ")[0]
            assert name in said or not said.startswith("`") or wrapper, (name, key)
            assert ("(vector)" in scalars[key]) == (isinstance(value, tuple) or _is_rows(value, key)), (name, key)
        for key, value in saved["state"][0].items():
            if key.startswith("direction."):
                continue
            assert value.shape == (4, 3), (name, key)
            assert value.dtype == torch.float32, (name, key)
            assert name in buffers[key] or wrapper, (name, key)


def _is_rows(value: Any, key: str) -> bool:
    """Whether there is a vector for each tensor."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], (tuple, list)) and key != "tensor_estimates"


def test_what_freeze_after_drops_is_said() -> None:
    buffers = rows(text("state-dict.md").split("## Buffers")[1])
    for name, cls in ((cls.__name__, cls) for cls in classes().values()):
        p = torch.nn.Parameter(torch.linspace(-1, 2, 12).view(4, 3))
        optimizer = cls([p], freeze_after=1)
        before = {
            key for key, spec in optimizer._method.buffers(optimizer.param_groups[0]).items() if not spec.transient
        }
        for _ in range(2):
            _, saved = stepped(optimizer, p)
        dropped = before - {*saved["state"][0]}
        said = {key: row.split(" | ")[2] for key, row in buffers.items()}
        assert dropped == {key for key in before if said[key] == "yes" or f"`{name}`" in said[key]}, name


def test_every_public_name_has_a_place_in_the_reference() -> None:
    shown = "\n".join(path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md"))
    named = set(re.findall(r"^::: [\w.]*?(\w+)$", shown, re.MULTILINE))
    for module in (dd, checkpoint, launch, monitor, schedules, universal):
        assert [name for name in module.__all__ if name not in named and name != "__version__"] == [], module.__name__


def test_every_command_and_option_is_on_its_page() -> None:
    page = text("cli.md")
    assert page == reference_pages.cli()
    for option in ("--resume", "--no-reduce", "--as prodigyopt,dadaptation", "--only-report"):
        assert option in page
    assert "--save-every" not in page, "hidden options stay hidden"


def test_a_method_with_new_scalars_and_buffers_touches_no_other_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(reference_pages._SCALARS, "wealth")
    monkeypatch.delitem(reference_pages._OF_BUFFERS, "coins")
    rows = reference_pages.state_dict().splitlines()
    for key in ("`wealth`", "`coins`"):
        (row,) = [row for row in rows if row.startswith(f"| {key} |") and "see the equations in" in row]
        assert "KT" in row or "COCOB" in row
