"""The pictures of what d is: d stays below the distance that it estimates, and the page has the numbers that were drawn."""

from pathlib import Path

import pytest

from docs import draw_d

PAGE = Path(draw_d.__file__).parent / "explanation" / "what-is-d.md"


def test_d_is_below_the_distance_in_every_step_of_the_picture() -> None:
    task = draw_d.Regression()
    course, far = task.run(), float(task.best.abs().max())
    assert float(task.gradient(task.best).norm()) < 1e-9  # it is the minimum
    assert max(course.d) <= far
    assert f"never crosses D = {far:.2f}, and ends at {course.d[-1]:.2f}, {course.d[-1] / far * 100:.0f} %" in " ".join(
        PAGE.read_text(encoding="utf-8").split()
    )


@pytest.mark.parametrize("options", [{"recipe": "auto"}, {}], ids=["recipe", "none"])
def test_the_table_has_the_d_of_the_picture(options: dict[str, str]) -> None:
    course = draw_d.network_run(**options)
    row = next(
        line
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith("| `recipe" if options else "| without")
    )
    _, _, first, _, rate, last, _ = (cell.strip() for cell in row.split("|"))
    drawn = course.d[draw_d.TRIALS], max(course.rate[draw_d.TRIALS :]), course.d[-1]
    assert [float(cell) for cell in (first, rate, last)] == pytest.approx(drawn, rel=0.2)


def test_the_pictures_are_small() -> None:
    assert all((PAGE.parent / name).stat().st_size < 80_000 for name in ("d-bound.png", "d-run.png"))
