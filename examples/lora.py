"""LoRA on a saved base in bfloat16, without a learning rate: PEFT, Hugging Face's Trainer and Prodigy.

    python examples/lora.py            # or under torchrun

The base is tiny, so that the script runs anywhere in seconds; put your own model and data in their places. LoRA begins with
B = 0, so at first only B has a gradient; Prodigy needs no setting for that. The base stays in bfloat16, and PEFT keeps the
adapters in float32: steps that bfloat16 would round away count.
"""

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.utils.data import Dataset
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from transformers import default_data_collator as collate

import dadapt_dist
from dadapt_dist.integrations.transformers import DAdaptCallback

BASE = "lora-base"
VOCABULARY, LENGTH, STEPS = 64, 16, 100


class Walks(Dataset[dict[str, Tensor]]):
    """Sequences whose next token is one of three: this many or up to two more further on. Replace it by your texts."""

    def __init__(self, size: int, pace: int) -> None:
        steps = torch.randint(0, 3, (size, LENGTH), generator=torch.Generator().manual_seed(pace))
        self.ids = (steps + pace).cumsum(1) % VOCABULARY

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.ids[index], "labels": self.ids[index]}


def make_base() -> None:
    """Train a small Llama on walks of 0, 1 or 2, and save it in bfloat16: a stand-in for the checkpoint that you have."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=LENGTH,
    )  # fmt: skip
    model, data = LlamaForCausalLM(config), Walks(512, pace=0)
    optimizer = dadapt_dist.Prodigy(model.parameters(), recipe="auto", total_steps=STEPS)
    for step in range(STEPS):
        ids = data.ids[torch.arange(16 * step, 16 * (step + 1)) % len(data)]
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.to(torch.bfloat16).save_pretrained(BASE)


def model() -> torch.nn.Module:
    """The base, frozen, with LoRA on its attention and MLP."""
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=True, task_type="CAUSAL_LM")
    torch.manual_seed(0)
    return get_peft_model(AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.bfloat16), lora)


def main() -> None:
    """Train; the log shows loss, grad_norm, d and effective_lr, and the adapter is in lora-out."""
    arguments = TrainingArguments(
        output_dir="lora-out",
        bf16=True,
        learning_rate=1.0,
        lr_scheduler_type="constant",  # total_steps below brings a linear decay to 0
        max_steps=STEPS,
        per_device_train_batch_size=8,
        logging_steps=10,
        save_steps=STEPS,
        report_to=[],
        use_cpu=not torch.cuda.is_available(),  # without it, processes on CPUs train apart, each with all of the data
    )
    with arguments.main_process_first():
        if not Path(BASE).exists():
            make_base()
    trainer = Trainer(
        model=model(),
        args=arguments,
        train_dataset=Walks(512, pace=3),  # the base has learned another pace
        data_collator=collate,
        callbacks=[DAdaptCallback()],
        optimizer_cls_and_kwargs=(dadapt_dist.Prodigy, {"recipe": "auto", "total_steps": STEPS}),
    )
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main()
