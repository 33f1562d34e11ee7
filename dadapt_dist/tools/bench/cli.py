"""Commands `dadapt-dist bench step`, `sync`, `memory` and `scale`; torch is imported when one runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from .. import choices
from ..choices import listed, one_of, some_of
from ..method_names import method_names
from .shapes import SHAPES

if TYPE_CHECKING:
    from .report import Report

app = typer.Typer(help="Measure steps, the reduce, memory and the host's work.", no_args_is_help=True)
console = Console(soft_wrap=True, highlight=False)
errors = Console(stderr=True, soft_wrap=True, highlight=False)
Json = Annotated[
    Path | None,
    typer.Option("--json", help="Write the figures, with the machine's facts, to this file.", show_default="none"),
]
Plot = Annotated[Path | None, typer.Option(help="Write a plot to this file (.png, .svg, .pdf).", show_default="none")]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print the table as markdown.")]
ALL = "all"
PICTURES = (".png", ".svg", ".pdf")
Device = Annotated[str, typer.Option(help=f"{listed(choices.DEVICES)}.", autocompletion=one_of(choices.DEVICES))]


@app.command()
def step(
    method: Annotated[
        str,
        typer.Option(
            help=f"{listed(choices.timed_methods())}; - may stand for _.",
            autocompletion=one_of(choices.timed_methods()),
        ),
    ] = "prodigy",
    shape: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(SHAPES)}, or a number of parameters in one tensor.", autocompletion=one_of(SHAPES)
        ),
    ] = "tensors",
    backend: Annotated[
        str,
        typer.Option(
            help=f"Our backends, separated by commas: {', '.join(choices.BACKENDS)}.",
            autocompletion=some_of(choices.BACKENDS),
        ),
    ] = "auto",
    groups: Annotated[int, typer.Option(min=1, help="Parameter groups into which the tensors are dealt.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds in which every optimizer steps once.")] = 30,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads of torch and of the compiled step.", show_default="torch's own number"),
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(
            help=f"Dtype of parameters and gradients: {listed(choices.DTYPES)}.", autocompletion=one_of(choices.DTYPES)
        ),
    ] = "float32",
    device: Device = "cpu",
    peers: Annotated[
        str,
        typer.Option(
            help="installed, all (also those that take minutes to build), or fused: torch's fused AdamW alone.",
            autocompletion=one_of(choices.PEERS),
        ),
    ] = "installed",
    json: Json = None,
    plot: Plot = None,
    markdown: Markdown = False,
) -> None:
    """Time one step against torch's AdamW, the released packages and what memory alone allows.

    With --method all every method of this package is timed against the memory that it must move, and against nothing else.
    """
    import torch

    from . import every
    from .step import measure

    _check_files(json, plot)
    method = method.replace("-", "_")
    _require(method in (ALL, *method_names()), f"--method {method} is not one of {', '.join(method_names())}")
    right = shape in SHAPES or (shape.isdecimal() and int(shape) > 0)
    _require(right, f"--shape {shape} is neither a number of parameters nor one of {', '.join(SHAPES)}")
    _require(dtype in choices.DTYPES, f"--dtype {dtype} is not one of {', '.join(choices.DTYPES)}")
    _require(peers in choices.PEERS, f"--peers {peers} is not one of {', '.join(choices.PEERS)}")
    _check_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        kind, backends = getattr(torch, dtype), [name.strip() for name in backend.split(",")]
        if method == ALL:
            _deliver(every.measure(shape, backends, rounds, kind, device), json, plot, markdown, ("name",), "of_limit")
            return
        report = measure(method, shape, backends, rounds=rounds, dtype=kind, device=device, peers=peers, groups=groups)
    except ValueError as error:
        _fail(str(error))
    _deliver(report, json, plot, markdown, ("name",), "ms")


@app.command()
def sync(
    ranks: Annotated[str, typer.Option(help="Numbers of ranks, separated by commas.")] = "2,4",
    latency_ms: Annotated[str, typer.Option(help="One-way latencies, separated by commas.")] = "0,20",
    compute_ms: Annotated[float, typer.Option(min=0, help="Length of a forward and backward.")] = 100,
    steps: Annotated[int, typer.Option(min=2, help="Steps of each kind.")] = 20,
    tensors: Annotated[int, typer.Option(min=1, help="Tensors of 1000 elements.")] = 10,
    json: Json = None,
    plot: Plot = None,
    markdown: Markdown = False,
) -> None:
    """Time steps whose all-reduce is waited for, hidden, and left out, over hosts that are far apart."""
    from .emulated_network import NetworkError
    from .overlap import measure

    _check_files(json, plot)
    try:
        worlds, delays = [int(n) for n in ranks.split(",")], [float(ms) for ms in latency_ms.split(",")]
    except ValueError:
        _fail(f"--ranks {ranks} and --latency-ms {latency_ms} must be numbers separated by commas")
    _require(min(worlds) > 1 and min(delays) >= 0, "--ranks must be 2 or more, --latency-ms 0 or more")
    try:
        report = measure(worlds, delays, compute_ms, steps, tensors)
    except (NetworkError, RuntimeError) as error:
        _fail(str(error))
    _deliver(report, json, plot, markdown, ("world", "delay", "mode"), "added")


@app.command()
def memory(
    params: Annotated[int, typer.Option(min=1000, help="Number of parameters.")] = 20_000_000,
    device: Device = "cpu",
    json: Json = None,
    plot: Plot = None,
    markdown: Markdown = False,
) -> None:
    """Measure the state of every method and option, and the peak of a step."""
    from .memory import measure

    _check_files(json, plot)
    _check_device(device)
    _deliver(measure(params, device), json, plot, markdown, ("name", "options", "dtype"), "peak")


@app.command()
def scale(
    ranks: Annotated[str, typer.Option(help="Numbers of simulated ranks, separated by commas.")] = "8,64,1024",
    tensors: Annotated[str, typer.Option(help="Numbers of tensors, separated by commas.")] = "10,100,1000,10000",
    steps: Annotated[int, typer.Option(min=1, help="Steps that are timed.")] = 10,
    json: Json = None,
    plot: Plot = None,
    markdown: Markdown = False,
) -> None:
    """Time the host's work of a step with many simulated ranks and many tensors."""
    from .scale import measure

    _check_files(json, plot)
    try:
        worlds, counts = [int(n) for n in ranks.split(",")], [int(n) for n in tensors.split(",")]
    except ValueError:
        _fail(f"--ranks {ranks} and --tensors {tensors} must be numbers separated by commas")
    _require(min(*worlds, *counts) > 0, "--ranks and --tensors must be 1 or more")
    try:
        report = measure(worlds, counts, steps)
    except RuntimeError as error:
        _fail(str(error))
    _deliver(report, json, plot, markdown, ("ranks", "tensors", "kind"), "step")


def _deliver(
    report: "Report", json: Path | None, plot: Path | None, markdown: bool, labels: tuple[str, ...], key: str
) -> None:
    if markdown:
        console.print(report.markdown(), markup=False)
    else:
        report.show(console)
    if json is not None:
        report.write(json)
    if plot is not None:
        report.plot(plot, labels, key)


def _check_files(json: Path | None, plot: Path | None) -> None:
    """Refuse before minutes of measuring what could not be written after them."""
    for option, path in (("--json", json), ("--plot", plot)):
        folder = path.parent if path is not None else Path()
        _require(folder.is_dir(), f"{option} {path}: the folder {folder} does not exist")
    _require(plot is None or plot.suffix in PICTURES, f"--plot {plot} must end in one of {', '.join(PICTURES)}")


def _check_device(device: str) -> None:
    _require(device in choices.DEVICES, f"--device {device} is neither cpu nor cuda")
    import torch

    _require(device == "cpu" or torch.cuda.is_available(), "--device cuda: there is no CUDA device here")


def _require(right: bool, message: str) -> None:
    if not right:
        _fail(message)


def _fail(message: str) -> NoReturn:
    errors.print(f"error: {message}", markup=False)
    raise typer.Exit(2)
