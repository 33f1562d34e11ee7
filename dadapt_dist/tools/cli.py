"""Commands of `dadapt-dist`: demo, suite, bench, doctor and others. Each imports what it needs when it runs."""

import logging
from pathlib import Path
from typing import Annotated, Any

try:
    import typer
    from rich import console as _console  # noqa: F401
except ImportError as error:
    raise ImportError("the command line needs typer and rich: pip install 'dadapt-dist[cli]'") from error

from .. import __version__
from . import choices
from .bench import cli
from .choices import listed, one_of, some_of
from .doctor.cli import doctor
from .terminal import HELP, Commands, console, errors
from .terminal import or_2 as _or_2

app = typer.Typer(
    help="Learning-rate-free optimizers for sharded training.",
    cls=Commands,
    no_args_is_help=True,
    context_settings=HELP,
    pretty_exceptions_enable=False,
)
app.add_typer(cli.app, name="bench")
app.command()(doctor)
Hidden = typer.Option(hidden=True)
LOGS = "Logs of runs: metrics.jsonl, TensorBoard's event files, or folders with either."


def _show_version(wanted: bool) -> None:
    if wanted:
        console.print(__version__)
        raise typer.Exit


@app.callback()
def main(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Send the library's log to the terminal."""
    if context.invoked_subcommand != "run":  # a script sets up its own log
        logging.basicConfig(level=logging.WARNING, format="%(message)s")


@app.command()
def demo(
    method: Annotated[
        str | None,
        typer.Option(
            help=f"{listed(choices.trained_methods())}.",
            show_default="prodigy",
            autocompletion=one_of(choices.trained_methods()),
        ),
    ] = None,
    sharding: Annotated[
        str | None,
        typer.Option(
            help=f"{listed(choices.SHARDINGS)}.", show_default="fsdp2", autocompletion=one_of(choices.SHARDINGS)
        ),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            help="Layouts, such as none,fsdp2,zero3,tp: run the same training under each, and compare d.",
            show_default="none: a single run",
            autocompletion=some_of(choices.SHARDINGS),
        ),
    ] = None,
    nproc: Annotated[
        int | None, typer.Option(min=1, help="Processes on this machine.", show_default="1, 2 or 4 by sharding")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Optimizer steps, at least 1.", show_default="600, and 150 with --compare")
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="A file or folder to learn.", show_default="Python's standard library")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for logs, checkpoints and the plot.", show_default="demo-out, or demo-compare"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue what is in --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in --out.")] = False,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the weights and of the order of the text, at least 0.", show_default="0")
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(help="Multiplier of d; for adamw its learning rate.", show_default="1.0, and 1e-3 for adamw"),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help=f"Of the model: {listed(choices.SIZES)}.",
            show_default="small, and tiny with --compare",
            autocompletion=one_of(choices.SIZES),
        ),
    ] = None,
    save_every: Annotated[int | None, Hidden] = None,
) -> None:
    """Train a small byte-level language model on several processes, without a learning rate."""
    options = _given(method=method, sharding=sharding, nproc=nproc, steps=steps, seed=seed, lr=lr, size=size)
    options |= _given(save_every=save_every, text=text and str(text), out=out and str(out))
    options |= _given(resume=resume or None, overwrite=overwrite or None)

    def work() -> int:
        if compare is not None:
            from .demo.comparison.command import run_comparison

            return run_comparison(compare, options, console)
        from .demo.command import run_demo

        return run_demo(options, console)

    raise typer.Exit(_or_2(work))


@app.command("demo-grid")
def demo_grid(
    out: Annotated[Path, typer.Option(help="Where the table goes.")] = Path("adamw_grid.json"),
    lrs: Annotated[
        str, typer.Option(help="Learning rates, separated by commas.")
    ] = "5e-4,7e-4,1e-3,1.4e-3,2e-3,2.8e-3,4e-3,5.6e-3",
    seeds: Annotated[
        str, typer.Option(help="Seeds of the weights and of the order of the text, separated by commas.")
    ] = "0,1,2",
    steps: Annotated[
        int | None, typer.Option(help="Optimizer steps of each run, at least 1.", show_default="600")
    ] = None,
    size: Annotated[str | None, Hidden] = None,
) -> None:
    """Measure AdamW over a grid of learning rates and Prodigy, on the demo's model and text. Goes on where it was stopped."""
    from .demo.grid import measure_grid

    def work() -> int:
        try:
            values = [float(value) for value in lrs.split(",")]
        except ValueError as error:
            raise ValueError(f"--lrs {lrs} must be numbers separated by commas, for instance 1e-3,3e-3") from error
        try:
            numbers = [int(value) for value in seeds.split(",")]
        except ValueError as error:
            raise ValueError(
                f"--seeds {seeds} must be whole numbers separated by commas, for instance 0,1,2"
            ) from error
        return measure_grid(values, numbers, out, _given(steps=steps, size=size))

    raise typer.Exit(_or_2(work))


@app.command()
def suite(
    out: Annotated[Path, typer.Option(help="Folder for results and report; a second start goes on.")] = Path(
        "suite-out"
    ),
    tasks: Annotated[
        str,
        typer.Option(
            help=f"Names separated by commas: {listed(choices.TASK_GROUPS)}, or of tasks, {listed(choices.TASKS)}.",
            autocompletion=some_of((*choices.TASK_GROUPS, *choices.TASKS)),
        ),
    ] = "all",
    variants: Annotated[
        str | None,
        typer.Option(
            help="Names separated by commas, such as released,recipe,auto,dadapt-adam; all; or none: AdamW alone. "
            "A name that is not known lists those that are.",
            show_default="released-linear,recipe,auto",
            autocompletion=some_of(("all", "none", *choices.VARIANTS)),
        ),
    ] = None,
    optimizer: Annotated[
        list[str] | None,
        typer.Option(help="module:function of (parameters, total_steps), may be given again.", show_default="none"),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Runs of each row, with seeds 0, 1, and so on, at least 1.", show_default="3")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Steps of every run, at least 1.", show_default="each task's usual length")
    ] = None,
    length: Annotated[
        float | None, typer.Option(help="Steps as a factor on each task's usual length, up to 100.", show_default="1.0")
    ] = None,
    rates: Annotated[
        str | None, typer.Option(help="AdamW's learning rates.", show_default="nine for each task")
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes, at least 1.", show_default="one for each core")] = None,
    only_report: Annotated[bool, typer.Option("--only-report", help="Run nothing, report what is there.")] = False,
) -> None:
    """Compare untuned optimizers with AdamW at its best learning rate, on two dozen small tasks."""

    def work() -> int:
        from .suite.command import Request, run_suite

        options = _given(variants=variants, optimizers=optimizer)
        given = Request(
            out,
            tasks,
            seeds=seeds,
            steps=steps,
            length=length,
            rates=rates,
            jobs=jobs,
            only_report=only_report,
            **options,
        )
        return run_suite(given, console)

    raise typer.Exit(_or_2(work))


@app.command()
def compare(
    task: Annotated[
        str,
        typer.Argument(
            help=f"module:function that makes model, batches and loss, or a task of the suite: {listed(choices.TASKS)}.",
            autocompletion=one_of(choices.TASKS),
        ),
    ],
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME[:option=value,...], untuned; may be given again. NAME is module:function, "
            f"{listed(choices.optimizers())}.",
            show_default="prodigy:recipe=auto",
            autocompletion=one_of(choices.optimizers()),
        ),
    ] = None,
    tuned: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME[:option=value,...], at every rate, or none; may be given again. NAME as for --method.",
            show_default="adamw",
            autocompletion=one_of(("none", *choices.optimizers())),
        ),
    ] = None,
    rates: Annotated[
        str | None, typer.Option(help="Learning rates: a list, or LOWEST..HIGHESTxCOUNT.", show_default="1e-4..1x9")
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            help="warmup (linear decay after 5 % of it), linear, cosine, constant, or a .json file.",
            show_default="warmup",
            autocompletion=one_of(choices.SCHEDULES),
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Optimizer steps of each run, at least 1.", show_default="a task of the suite has its own"),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Runs of each row, with seeds 0, 1, and so on, at least 1.", show_default="3")
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes, at least 1.", show_default="one for each core")] = None,
    out: Annotated[Path, typer.Option(help="Folder for results; a second start goes on.")] = Path("compare-out"),
) -> None:
    """Compare optimizers on your own task, untuned and with tuned learning rates, and count the runs that each takes."""

    def work() -> int:
        from .compare.command import Request, run_compare

        options = _given(
            methods=method, tuned=tuned, rates=rates, schedule=schedule, steps=steps, seeds=seeds, jobs=jobs
        )
        return run_compare(Request(task, out, **options), console, errors)

    raise typer.Exit(_or_2(work))


@app.command()
def watch(
    logs: Annotated[list[Path], typer.Argument(help=LOGS)],
    every: Annotated[float, typer.Option(help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Show the present state and exit.")] = False,
) -> None:
    """Show step, loss, d, d·lr, AdamW-equivalent rate, held steps and speed of runs while they train. Ctrl-C ends it."""

    def work() -> int:
        from .watch.command import run_watch

        return run_watch(logs, console, every=every, once=once)

    raise typer.Exit(_or_2(work))


@app.command()
def plot(
    logs: Annotated[list[Path], typer.Argument(help=LOGS)],
    out: Annotated[
        Path | None,
        typer.Option(help="The picture; its ending chooses the format.", show_default="beside the first log"),
    ] = None,
) -> None:
    """Draw loss, d and learning rates over the steps, of several runs in one picture."""

    def work() -> int:
        from ..monitor.plot import picture_beside, plot_runs

        console.print(f"plot: {plot_runs(logs, out or picture_beside(logs))}", markup=False)
        return 0

    raise typer.Exit(_or_2(work))


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="The log of a run: metrics.jsonl or event files, or its folder.")],
    others: Annotated[list[Path] | None, typer.Argument(help="Runs to compare it with.", show_default="none")] = None,
    out: Annotated[Path, typer.Option(help="The page.")] = Path("report.html"),
) -> None:
    """Write one HTML page on a run: settings, pictures, held steps, what seems wrong, and a comparison with other runs."""

    def work() -> int:
        from .report.command import write_report

        console.print(f"report: {write_report(run, others or [], out)}", markup=False)
        return 0

    raise typer.Exit(_or_2(work))


@app.command("refine-schedule")
def refine_schedule(
    log: Annotated[Path, typer.Argument(help="The metrics.jsonl of a finished run, with grad_norm_l1 or grad_norm.")],
    norm: Annotated[
        str,
        typer.Option(
            help="l1, for Adam, Prodigy and others like them, or l2, for methods like SGD.",
            autocompletion=one_of(choices.NORMS),
        ),
    ] = "l1",
    steps: Annotated[
        int | None, typer.Option(help="Steps of the run to come, at least 1.", show_default="as many as in the log")
    ] = None,
    smooth: Annotated[float, typer.Option(help="Width of the running median, as a part of the run.")] = 0.1,
    out: Annotated[Path, typer.Option(help="The schedule; its picture stands beside it.")] = Path("schedule.json"),
) -> None:
    """Make a schedule of the gradient norms of a finished run, for dadapt_dist.schedules.from_file."""

    def work() -> int:
        from .refine_schedule import refine_file

        return refine_file(log, norm, steps, smooth, out, console)

    raise typer.Exit(_or_2(work))


@app.command()
def universal(
    checkpoint: Annotated[Path, typer.Argument(help="The folder given to save_checkpoint, or one tag's.")],
    output: Annotated[Path, typer.Argument(help="The new folder.")],
    tag: Annotated[
        str | None, typer.Option(help="The checkpoint's tag.", show_default="the one that `latest` names")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that read and merge.")] = 1,
    trust: Annotated[
        bool, typer.Option("--trust", help="Take files that others own or may write, too: code in them is run.")
    ] = False,
) -> None:
    """Make a universal checkpoint, for another number of ranks, of one that DeepSpeed saved under ZeRO 1, 2 or 3.

    Its files are unpickled, which runs code that is in them: convert only what you trust.
    """

    def work() -> int:
        from ..integrations.deepspeed.universal_load import convert

        console.print(f"universal checkpoint: {convert(checkpoint, output, tag, workers, trust=trust)}")
        return 0

    raise typer.Exit(_or_2(work))


@app.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "allow_interspersed_args": False},
)
def run(context: typer.Context) -> None:
    """Run a script with the optimizers known to DeepSpeed, or to programs that import others: dadapt-dist run train.py."""
    from ..integrations.run_script import main as run_script

    run_script(context.args)


def _given(**options: Any) -> dict[str, Any]:
    """What the user typed: an option left out must not look like a choice, because --resume compares."""
    return {name: value for name, value in options.items() if value is not None}
