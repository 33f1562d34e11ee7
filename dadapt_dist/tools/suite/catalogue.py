"""The list of tasks, and the two halves into which it is split."""

import functools

from . import deep, language
from .logistic import LOGISTIC
from .task import Task
from .users_task import UsersTask

# The order decides the halves: the first, third, ... of each kind are for choosing, the others for reporting.
DEEP: list[Task] = [
    language.Transformer(),
    language.Recurrent(),
    deep.ConvNet(),
    deep.Vision(),
    deep.AutoEncoder(),
    deep.Diffusion(),
    deep.Tabular(),
    deep.Recommendation(),
    deep.Digits(),
    language.FineTune(),
    language.FineTuneImages(),
    language.LowRank(),
]
TASKS: dict[str, Task] = {task.name: task for task in (*DEEP, *LOGISTIC)}
HALVES: dict[str, list[str]] = {
    "chosen on": [task.name for kind in (DEEP, LOGISTIC) for task in kind[0::2]],
    "reported": [task.name for kind in (DEEP, LOGISTIC) for task in kind[1::2]],
}


def select(words: str) -> list[Task]:
    """Tasks of a comma-separated list: names, "all", "deep", "logistic", "chosen" or "reported".

    Raises ValueError for an unknown word, naming those that are known.
    """
    groups = {
        "all": list(TASKS),
        "deep": [task.name for task in DEEP],
        "logistic": [task.name for task in LOGISTIC],
        "chosen": HALVES["chosen on"],
        "reported": HALVES["reported"],
    }
    wanted: set[str] = set()
    for word in (part.strip() for part in words.split(",")):
        if word not in groups and word not in TASKS:
            raise ValueError(f"--tasks {word!r} is unknown; known are {', '.join([*groups, *TASKS])}")
        wanted |= set(groups.get(word, [word]))
    return [task for name, task in TASKS.items() if name in wanted]


@functools.cache
def task_of(name: str) -> Task:
    """The task of this name, or the one that the user's "module:function" makes.

    Raises ValueError for an unknown name, naming those that are known, and for a function that cannot be imported.
    """
    if name in TASKS:
        return TASKS[name]
    if ":" not in name:
        raise ValueError(f"task {name!r} is unknown: give module:function, or one of {', '.join(TASKS)}")
    return UsersTask(name)
