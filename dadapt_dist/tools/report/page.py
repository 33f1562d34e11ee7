"""Put the report of a run together as one HTML page without scripts and without anything from elsewhere."""

from collections.abc import Iterable, Sequence
from html import escape

from ...monitor import names
from ...monitor.diagnosis import Symptom, diagnose, summary, verdict
from ...monitor.run_log import RunLog
from ...monitor.without_d import CURE, instead_of_d
from .figures import comparison, held_events
from .pictures import Picture
from .settings import Settings

MARK = '<meta name="generator" content="dadapt-dist report">'
MOST_NOTES = 20
STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --line: #ccc; --bad: #b00020; --soft: #666; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --paper: #14161a; --line: #444; --bad: #ff7b8a; --soft: #a0a0a0; }
}
body { margin: 0 auto; max-width: 60rem; padding: 1rem; color: var(--ink); background: var(--paper);
       font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
nav a { margin-right: 1rem; } a { color: inherit; }
.table { overflow-x: auto; } table { border-collapse: collapse; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .75rem .25rem 0; text-align: left; vertical-align: top;
         font-variant-numeric: tabular-nums; }
.picture { overflow-x: auto; } svg { display: block; width: 100%; min-width: 34rem; height: auto; }
.wrong { color: var(--bad); } .soft { color: var(--soft); }
code { overflow-wrap: anywhere; }
"""


def page(logs: Sequence[RunLog], settings: Sequence[Settings], pictures: Iterable[Picture]) -> str:
    """The page on the first of these runs, with the others beside it.

    Args:
        logs: The runs.
        settings: Of each run.
        pictures: What was drawn of all of them.
    """
    sections = [
        ("verdict", "Verdict", _verdict(logs)),
        ("values", "Values", _values(logs)),
        *((_anchor(picture.title), _heading(picture.title), _picture(picture)) for picture in pictures),
        ("held", "Held steps and their reasons", _held(logs[0])),
        ("settings", "Settings", _settings(logs, settings)),
        ("log", "Notes on the logs", _notes(logs, settings)),
    ]
    title = escape(f"{logs[0].name}: report of a run")
    links = "\n".join(f'<a href="#{anchor}">{escape(name)}</a>' for anchor, name, _ in sections)
    body = "\n".join(
        f'<section id="{anchor}"><h2>{escape(name)}</h2>\n{text}\n</section>' for anchor, name, text in sections
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{MARK}\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(logs[0].name)}</h1>\n"
        f'<p class="soft"><code>{escape(str(logs[0].path))}</code>: {escape(summary(logs[0]))}</p>\n'
        f"<nav>{links}</nav>\n{body}\n</body>\n</html>\n"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain texts, which are escaped."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = [
        f'<tr><th scope="row">{escape(first)}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in rest) + "</tr>"
        for first, *rest in rows
    ]
    return (
        f'<div class="table"><table>\n<thead><tr>{top}</tr></thead>\n<tbody>\n'
        + "\n".join(lines)
        + "\n</tbody></table></div>"
    )


def _anchor(title: str) -> str:
    return "picture-" + title.replace(" ", "-")


def _heading(title: str) -> str:
    return title if title == names.D else title.capitalize()


def _verdict(logs: Sequence[RunLog]) -> str:
    log = logs[0]
    instead = instead_of_d(log.columns)
    if not instead and not log.columns.parts(names.D):
        return f"<p>The log has no d: {escape(CURE)}.</p>"
    symptoms = diagnose(log)
    items = "\n".join(map(_symptom, symptoms))
    said = f"<p>{escape(verdict(symptoms, log).capitalize())}.</p>" + (f"\n<ul>\n{items}\n</ul>" if items else "")
    return said + (f'\n<p class="soft">Of d nothing is said: {escape(instead)}.</p>' if instead else "")


def _symptom(symptom: Symptom) -> str:
    mark = '<strong class="wrong">wrong</strong>' if symptom.is_error else "better"
    said = escape(f"{symptom.problem}; {symptom.cure}.")
    return f"<li>{mark}: {said} See <code>{escape(symptom.page)}</code>.</li>"


def _values(logs: Sequence[RunLog]) -> str:
    said = table(["", *(log.name for log in logs)], comparison(logs))
    meanings = [
        f"<dt>{escape(quantity.label)}</dt><dd>{escape(quantity.meaning)}</dd>"
        for name, quantity in names.QUANTITIES.items()
        if any(log.columns.parts(name) for log in logs)
    ]
    return f"{said}\n<details><summary>What they mean</summary><dl>\n" + "\n".join(meanings) + "\n</dl></details>"


def _picture(picture: Picture) -> str:
    return (
        f'<div class="picture">{picture.svg}</div>'
        if picture.svg
        else f"<p>No log has a finite {escape(picture.title)}.</p>"
    )


def _held(log: RunLog) -> str:
    if names.HELD_STEPS not in log.columns.series:
        return "<p>The log does not count held steps.</p>"
    events = held_events(log)
    return table(["after step", "until step", "held", "because"], events) if events else "<p>No step was held.</p>"


def _settings(logs: Sequence[RunLog], settings: Sequence[Settings]) -> str:
    keys = dict.fromkeys(key for one in settings for key in one.values)
    if not keys:
        return "<p>No file with settings lies beside the log.</p>"
    read = ", ".join(dict.fromkeys(name for one in settings for name in one.files))
    rows = [[key, *(one.values.get(key, "-") for one in settings)] for key in keys]
    return f'<p class="soft">From {escape(read)}.</p>\n' + table(["", *(log.name for log in logs)], rows)


def _notes(logs: Sequence[RunLog], settings: Sequence[Settings]) -> str:
    notes = [note for log, one in zip(logs, settings, strict=True) for note in [*_of_log(log), *one.faults]]
    if not notes:
        return "<p>Every line could be read.</p>"
    more = [f"and {len(notes) - MOST_NOTES} more"] if len(notes) > MOST_NOTES else []
    return "<ul>\n" + "\n".join(f"<li>{escape(note)}</li>" for note in [*notes[:MOST_NOTES], *more]) + "\n</ul>"


def _of_log(log: RunLog) -> list[str]:
    notes = list(log.faults)
    if log.torn:
        notes.append(f"{log.path} ends in a line that is not finished; it is left out")
    notes += [f"{log.path} goes back to step {step:.0f}; the later records count" for step in log.columns.resumed]
    return notes
