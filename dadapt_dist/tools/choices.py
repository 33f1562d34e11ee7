"""Names that options of the command line take, for help and shell completion, known without importing torch."""

from collections.abc import Callable, Iterable, Sequence

from .method_names import method_flags, method_names

SHARDINGS = ("none", "ddp", "fsdp1", "fsdp2", "hsdp", "tp", "fsdp2+tp", "zero1", "zero2", "zero3")
SIZES = ("tiny", "small", "medium")
DEVICES = ("cpu", "cuda")
DTYPES = ("float32", "bfloat16", "float16")
BACKENDS = ("auto", "c", "triton", "eager")
PEERS = ("installed", "all", "fused")
NORMS = ("l1", "l2")
SCHEDULES = ("warmup", "linear", "cosine", "constant")
TASK_GROUPS = ("all", "deep", "logistic", "chosen", "reported")
_DEEP = "transformer gru cnn vit autoencoder diffusion tabular recommender mlp finetune finetune-cnn lora"
_LOGISTIC = "libras dna glass iris chess digits segment satimage mnist vehicle vowel wine"
TASKS = (*_DEEP.split(), *_LOGISTIC.split())
_CAPPED = [f"cap{cap}-d{d0}" for cap in (0.1, 0.14, 0.2, 0.4) for d0 in ("1e-6", "1e-5", "1e-4")]
VARIANTS = (
    *("released", "released-linear", "recipe", "auto", "auto-wd0.1", "auto-coef0.5", "auto-nocap"),
    *_CAPPED,
    *(f"nocap-d{d0}" for d0 in ("1e-6", "1e-5", "1e-4")),
    *(f"cap{cap}-d{d0}-coef{coef}" for cap in (0.1, 0.2) for d0 in ("1e-6", "1e-4") for coef in ("0.5", "2")),
    *("without-exact", "without-same", "exact-alone", "same-alone", "cap0.2-alone", "d1e-4-alone"),
    *(f"cap{cap}-d{d0}-wd0.1" for cap in (0.1, 0.2) for d0 in ("1e-6", "1e-4")),
    "dadapt-adam",
)
OF_TORCH = ("adadelta", "adagrad", "adam", "adamax", "adamw", "asgd", "nadam", "radam", "rmsprop", "rprop", "sgd")

Completer = Callable[[str], list[str]]


def one_of(names: Iterable[str]) -> Completer:
    """Complete one of some names."""
    known = tuple(names)
    return lambda incomplete: [name for name in known if name.startswith(incomplete)]


def some_of(names: Iterable[str]) -> Completer:
    """Complete the last of names that are separated by commas; one that is there already is not offered again.

    Example:
        >>> some_of(["none", "fsdp2", "zero3"])("none,z")
        ['none,zero3']
    """
    known = tuple(names)

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        there = before.split(",")
        return [f"{before}{comma}{name}" for name in known if name.startswith(last) and name not in there]

    return complete


def listed(names: Sequence[str], last: str = "or") -> str:
    """Names in a sentence.

    Example:
        >>> listed(["a", "b", "c"])
        'a, b or c'
    """
    return f"{', '.join(names[:-1])} {last} {names[-1]}" if len(names) > 1 else "".join(names)


def trained_methods() -> tuple[str, ...]:
    """What the demo trains with."""
    return (*method_flags(), "adamw")


def timed_methods() -> tuple[str, ...]:
    """What `bench step` times, as its help names them."""
    return ("all", *method_names())


def optimizers() -> tuple[str, ...]:
    """What `compare` takes by name."""
    return (*method_flags(), *OF_TORCH)
