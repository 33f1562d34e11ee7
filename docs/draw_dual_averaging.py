"""Draw dual-averaging.png, d beside the distance that bounds it, on convex problems whose solution is known.

    python -m docs.draw_dual_averaging [--out docs/dual-averaging.png]

Needs matplotlib: pip install 'dadapt-dist[cli]'.
"""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import dadapt_dist

Gradient = Callable[[Tensor], Tensor]
STEPS, D0, F64 = 1000, 1e-6, torch.float64
SHARE = 1 / (1 + math.sqrt(3))


def logistic(rows: int = 400, features: int = 10) -> tuple[Tensor, Gradient]:
    """(the minimum of a logistic regression with noisy labels, its gradient)."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(rows, features, generator=generator, dtype=F64)
    true = torch.randn(features, generator=generator, dtype=F64)
    noise = 2 * torch.randn(rows, generator=generator, dtype=F64)
    signed = inputs * (inputs @ true + noise).sign().unsqueeze(1)
    best = torch.zeros(features, dtype=F64)

    def gradient(x: Tensor) -> Tensor:
        return -(signed * torch.sigmoid(-(signed @ x)).unsqueeze(1)).mean(0)

    for _ in range(50):  # Newton's method
        p = torch.sigmoid(signed @ best)
        best = best - torch.linalg.solve((signed * (p * (1 - p)).unsqueeze(1)).T @ signed / rows, gradient(best))
    return best, gradient


def problems() -> dict[str, tuple[Tensor, Gradient]]:
    """The minimum and the gradient of each; all start at 0."""
    goal = torch.randn(20, generator=torch.Generator().manual_seed(0), dtype=F64)
    three = torch.full((1,), 3.0, dtype=F64)
    return {
        "|x - 3|": (three, lambda x: (x - three).sign()),
        "1-norm, 20 dimensions": (goal, lambda x: (x - goal).sign()),
        "2-norm, 20 dimensions": (goal, lambda x: (x - goal) / (x - goal).norm()),
        "logistic regression": logistic(),
    }


def run(best: Tensor, gradient: Gradient, **options: Any) -> list[float]:
    """d/D after each step."""
    x, far, shares = torch.nn.Parameter(torch.zeros_like(best)), float(best.norm()), []
    optimizer = dadapt_dist.DualAveraging([x], d0=D0 * far, **options)
    for _ in range(STEPS):
        x.grad = gradient(x.detach())
        optimizer.step()
        shares.append(float(optimizer.param_groups[0]["d"]) / far)
    return shares


def draw(path: Path) -> None:
    """Draw one panel for each bound; print where each curve ends."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, bound in zip(figure.subplots(1, 2, sharey=True), ("I", "II"), strict=True):
        for name, (best, gradient) in problems().items():
            shares = run(best, gradient, lower_bound=bound)
            lagged = run(best, gradient, lower_bound=bound, before="lagged")
            (line,) = axes.plot(shares, label=name, linewidth=4 if len(best) == 1 else 1.5)  # another hides it
            axes.plot(lagged, color=line.get_color(), linestyle=":", linewidth=1)
            sys.stdout.write(f"Option {bound:2}  {name:22}  d/D {shares[-1]:.3f}, lagged {lagged[-1]:.3f}\n")
        axes.axhline(1, color="black", linewidth=1)
        axes.axhline(SHARE, color="black", linewidth=1, linestyle="--")
        axes.set(title=f'lower_bound="{bound}"', xlabel="step", yscale="log", ylim=(D0 / 2, 3))
        axes.text(STEPS, 1.1, "D", ha="right", va="bottom")
        axes.text(STEPS, SHARE * 0.9, "0.366·D", ha="right", va="top")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("d / D")
    figure.axes[0].legend(loc="lower right")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Draw the picture of docs/dual-averaging.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("dual-averaging.png"))
    draw(parser.parse_args().out)


if __name__ == "__main__":
    main()
