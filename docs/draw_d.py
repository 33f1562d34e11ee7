"""Draw the pictures of docs/explanation/what-is-d.md: d beside the distance that it measures, and d in the run of a network.

    python -m docs.draw_d [--out docs/explanation]

Needs matplotlib: pip install 'dadapt-dist[cli]'.
"""

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import dadapt_dist

F64, D0 = torch.float64, 1e-6
CONVEX_STEPS, STEPS, TRIALS = 80, 300, 8
SHOWN = (35, 80)  # steps whose d is drawn as a square
WIDTH = 5.2  # inches: panels stand one above another, so that a phone shows their words in a size to read


@dataclass
class Course:
    """What a run went through; one entry a step, each of after the step."""

    d: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    points: list[Tensor] = field(default_factory=list)


class Regression:
    """A logistic regression with two weights, which starts at 0 and whose minimum is known."""

    def __init__(self, rows: int = 200) -> None:
        random = torch.Generator().manual_seed(1)
        inputs = torch.randn(rows, 2, generator=random, dtype=F64)
        noise = torch.randn(rows, generator=random, dtype=F64)
        self.signed = inputs * (inputs @ torch.tensor([2.0, 1.0], dtype=F64) + noise).sign().unsqueeze(1)
        self.best = torch.zeros(2, dtype=F64)
        for _ in range(50):  # Newton's method
            p = torch.sigmoid(self.signed @ self.best)
            curvature = (self.signed * (p * (1 - p)).unsqueeze(1)).T @ self.signed / rows
            self.best = self.best - torch.linalg.solve(curvature, self.gradient(self.best))

    def loss(self, x: Tensor) -> Tensor:
        """At x, or at each row of x."""
        return torch.nn.functional.softplus(-(x @ self.signed.T)).mean(-1)

    def gradient(self, x: Tensor) -> Tensor:
        """At x."""
        return -(self.signed * torch.sigmoid(-(self.signed @ x)).unsqueeze(1)).mean(0)

    def run(self) -> Course:
        """Prodigy from 0, with the parts of the recipe that make a step Adam's at d·lr."""
        x, course = torch.nn.Parameter(torch.zeros(2, dtype=F64)), Course(points=[torch.zeros(2, dtype=F64)])
        optimizer = dadapt_dist.Prodigy([x], d0=D0, betas=(0.5, 0.999), exact_bias_correction=True, same_weights=True)
        for _ in range(CONVEX_STEPS):
            x.grad = self.gradient(x.detach())
            optimizer.step()
            course.d.append(optimizer.d)
            course.points.append(x.detach().clone())
        return course


def network_run(size: int = 64, noise: float = 0.0, seed: int = 0, **options: Any) -> Course:
    """A small network, whose step decays linearly to 0. size: of a batch. noise: of the targets. options: of Prodigy."""
    torch.manual_seed(seed)
    inputs = torch.randn(512, 8)
    targets = torch.tanh(inputs @ torch.randn(8, 1))
    targets = targets + noise * torch.randn(512, 1, generator=torch.Generator().manual_seed(seed))
    model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))
    optimizer, course = dadapt_dist.Prodigy(model.parameters(), total_steps=STEPS, **options), Course()
    for step in range(STEPS):
        batch = torch.randint(0, 512, (size,), generator=torch.Generator().manual_seed(step))
        loss = torch.nn.functional.mse_loss(model(inputs[batch]), targets[batch])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        course.loss.append(loss.item())
        course.d.append(optimizer.d)
        course.rate.append((optimizer.adamw_lr or [0.0])[0])
    return course


def draw_bound(path: Path) -> None:
    """Where the weights go, with squares of half-width d; and d over steps, below D."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    task = Regression()
    course, far = task.run(), float(task.best.abs().max())
    figure = Figure(figsize=(WIDTH, 8), layout="constrained")
    plane, curve = figure.subplots(2, 1, height_ratios=(5, 3))
    across, up = torch.linspace(-3.4, 4.6, 90, dtype=F64), torch.linspace(-3.4, 3.8, 90, dtype=F64)
    grid = torch.stack(torch.meshgrid(across, up, indexing="xy"), dim=-1)
    plane.contour(across, up, task.loss(grid), levels=11, colors="0.8", linewidths=0.7)
    for step, shade in zip(SHOWN, (0.6, 1.0), strict=True):
        d = course.d[step - 1]
        plane.add_patch(Rectangle((-d, -d), 2 * d, 2 * d, fill=False, edgecolor="C0", alpha=shade, linewidth=1.5))
        plane.text(-d, -d - 0.05, f"step {step}", color="C0", ha="left", va="top")
    plane.add_patch(Rectangle((-far, -far), 2 * far, 2 * far, fill=False, linestyle="--"))
    plane.text(-far, far, " D", ha="left", va="top")
    plane.plot(
        *torch.stack(course.points).T.tolist(), color="C1", marker=".", markersize=4, linewidth=1, label="weights"
    )
    plane.plot(0, 0, "ko", markersize=5)
    plane.annotate("start", (0, 0), (0, -14), textcoords="offset points", ha="center")
    plane.plot(*task.best.tolist(), "k*", markersize=11)
    plane.annotate("minimum", task.best.tolist(), (0, -30), textcoords="offset points", ha="center")
    plane.set(aspect="equal", xlabel="first weight", ylabel="second weight", xlim=(-3.4, 4.6), ylim=(-3.4, 3.8))
    curve.plot(range(1, CONVEX_STEPS + 1), course.d, color="C0", label="d")
    curve.axhline(far, color="black", linestyle="--", linewidth=1)
    curve.text(CONVEX_STEPS, far * 1.15, f"D = {far:.2f}", ha="right", va="bottom")
    curve.set(yscale="log", xlabel="step", ylabel="d", ylim=(D0 / 2, far * 6))
    curve.grid(alpha=0.3)
    figure.savefig(path, dpi=92)
    sys.stdout.write(f"two weights: D {far:.3f}, d {course.d[-1]:.3f}, {course.d[-1] / far:.0%} of it\n")


def draw_run(path: Path) -> None:
    """Loss, d and the AdamW-equivalent rate of the same network with the recipe and without."""
    from matplotlib.figure import Figure

    runs = {'recipe="auto"': network_run(recipe="auto"), "without a recipe": network_run()}
    figure = Figure(figsize=(WIDTH, 8), layout="constrained")
    titles = {"loss": "loss", "d": "d", "rate": "AdamW-equivalent rate"}
    for axes, (name, title) in zip(figure.subplots(3, 1, sharex=True), titles.items(), strict=True):
        for label, course in runs.items():
            axes.plot([value or None for value in getattr(course, name)], label=label, linewidth=1.2)
        axes.axvspan(0, TRIALS, color="0.9", zorder=0)
        axes.set(title=title, yscale="log")
        axes.grid(alpha=0.3)
    figure.axes[1].legend(loc="lower right")
    figure.axes[-1].set(xlabel="step")
    figure.savefig(path, dpi=100)
    for label, course in runs.items():
        half = next(step for step, d in enumerate(course.d, 1) if d >= course.d[-1] / 2)
        sys.stdout.write(
            f"{label}: d {course.d[TRIALS]:.1e} at step {TRIALS + 1}, {course.d[-1]:.1e} at the end, half of that at step "
            f"{half}; largest rate after the trials {max(course.rate[TRIALS:]):.1e}\n"
        )


def print_noise() -> None:
    """Print d at the end for batches of several sizes, the mean of three seeds."""
    for size in (1, 16, 512):
        runs = [network_run(size, noise=0.3, seed=seed, recipe="auto") for seed in range(3)]
        sys.stdout.write(f"batches of {size}: d {sum(run.d[-1] for run in runs) / 3:.1e}\n")


def main() -> None:
    """Draw both, and print what noise does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "explanation")
    out = parser.parse_args().out
    draw_bound(out / "d-bound.png")
    draw_run(out / "d-run.png")
    print_noise()


if __name__ == "__main__":
    main()
