"""Train with TRL, a tiny random model on made-up words: `python trl_runs.py sft|dpo|grpo FILE` writes d and the log to FILE."""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import torch

D0 = 1e-4
STEPS = {"sft": 8, "dpo": 8, "grpo": 16}
WORDS = 16


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<eos>", "<unk>"]
    names = [*map(str, range(WORDS)), *special]
    made = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", model_max_length=64
    )


def model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS + 3, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        pad_token_id=WORDS, eos_token_id=WORDS + 1, bos_token_id=WORDS + 1,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def counting(start: int) -> str:
    """Words that count on from a number."""
    return " ".join(str((start + i) % WORDS) for i in range(8))


def even(completions: list[str], **_: Any) -> list[float]:
    """The share of even numbers in each completion."""
    words = [[word for word in text.split() if word.isdigit()] for text in completions]
    return [sum(int(word) % 2 == 0 for word in some) / max(len(some), 1) for some in words]


def trainer(kind: str, **more: Any) -> Any:
    """As its users make it, but for `more`."""
    import trl
    from datasets import Dataset

    rows: dict[str, Any] = {
        "sft": lambda i: {"text": counting(i)},
        "dpo": lambda i: {"prompt": counting(i), "chosen": " " + counting(i + 8), "rejected": " 5 5 5 5"},
        "grpo": lambda i: {"prompt": counting(i)},
    }
    own: dict[str, Any] = {
        "sft": {},
        "dpo": {"ref_model": copy.deepcopy(model())},
        "grpo": {"reward_funcs": even},
    }
    settings: dict[str, Any] = {"sft": {}, "dpo": {}, "grpo": {"num_generations": 8, "max_completion_length": 8}}
    args = getattr(trl, f"{kind.upper()}Config")(
        output_dir=f"{kind}-out", max_steps=STEPS[kind], learning_rate=1.0, lr_scheduler_type="constant", logging_steps=1,
        report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False, save_strategy="no", disable_tqdm=True,
        per_device_train_batch_size=16, **settings[kind],
    )  # fmt: skip
    data = Dataset.from_list([rows[kind](i) for i in range(256)])
    made = getattr(trl, f"{kind.upper()}Trainer")
    return made(model=model(), args=args, train_dataset=data, processing_class=tokenizer(), **own[kind], **more)


def found(made: Any) -> dict[str, Any]:
    """Train; the optimizer's class and d, and d and the loss as logged."""
    import dadapt_dist

    made.train()
    optimizer = dadapt_dist.base_optimizer(made.optimizer)
    log = [entry for entry in made.state.log_history if "loss" in entry]
    logged = [entry.get("d") for entry in log]
    return {
        "class": type(optimizer).__name__,
        "d": float(optimizer.d),
        "logged": logged,
        "losses": [e["loss"] for e in log],
    }


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(found(trainer(sys.argv[1]))))
