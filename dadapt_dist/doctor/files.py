"""Which settings of a JSON or YAML file are wrong?"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import deepspeed_config, other_configs
from .findings import Finding, section

Checked = list[tuple[Path, str, list[Finding]]]
"""File, what kind of config it is, what is wrong in it."""


class UnreadableError(ValueError):
    """A file is not there, is no JSON or YAML, or belongs to no framework that is known here."""


def check(path: Path) -> Checked:
    """What is wrong in a config, and in those that it names. Raises UnreadableError."""
    config = _read(path)
    if other_configs.is_accelerate(config):
        own = (path, "Accelerate", list(other_configs.check_accelerate(config)))
        named = section(config, "deepspeed_config").get("deepspeed_config_file")
        return [own, *(check(Path(str(named))) if named else [])]
    if deepspeed_config.is_one(config):
        return [(path, "DeepSpeed", list(deepspeed_config.check(config)))]
    if other_configs.is_trainer(config):
        own = (path, "TrainingArguments", list(other_configs.check_trainer(config)))
        named = config.get("deepspeed")
        if isinstance(named, Mapping):
            return [own, (path, "its DeepSpeed", list(deepspeed_config.check(named)))]
        return [own, *(check(Path(str(named))) if named else [])]
    raise UnreadableError(
        f"{path} is no config that is known: neither DeepSpeed's ({', '.join(deepspeed_config.MARKS)}), nor Accelerate's "
        "(distributed_type), nor the Trainer's (output_dir, learning_rate)"
    )


def _read(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableError(f"{path} cannot be read: {error}") from error
    try:
        config = _yaml(text, path) if path.suffix in (".yaml", ".yml") else _json(text)
    except ValueError as error:
        raise UnreadableError(f"{path} is not well formed: {' '.join(str(error).split())}") from error
    if not isinstance(config, Mapping):
        raise UnreadableError(f"{path} holds a {type(config).__name__}, not settings by name")
    return config


def _json(text: str) -> Any:
    """DeepSpeed also takes comments and commas at the end, by a package of its own."""
    try:
        return json.loads(text)
    except ValueError:
        try:
            import hjson  # type: ignore[import-untyped]
        except ImportError:
            hjson = None
        if hjson is None:
            raise
        return hjson.loads(text)


def _yaml(text: str, path: Path) -> Any:
    try:
        import yaml  # type: ignore[import-untyped]
    except ImportError as error:
        raise UnreadableError(f"{path}: reading YAML needs pyyaml: pip install pyyaml") from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
