"""LoRA without a learning rate: PEFT, Hugging Face's Trainer and Prodigy. `python examples/lora.py`, or under torchrun.

The model is tiny and random, so that the script runs anywhere in seconds; put your own in its place. LoRA begins with B = 0,
so at first only B has a gradient; Prodigy needs no setting for that.
"""

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, default_data_collator

import dadapt_dist
from dadapt_dist.integrations.transformers import DAdaptCallback

VOCABULARY, LENGTH, STEPS = 64, 16, 100


class Walks(Dataset[dict[str, Tensor]]):
    """Sequences whose next token is one of three. Replace it by your tokenized texts."""

    def __init__(self, size: int) -> None:
        steps = torch.randint(0, 3, (size, LENGTH), generator=torch.Generator().manual_seed(0))
        self.ids = steps.cumsum(1) % VOCABULARY

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.ids[index], "labels": self.ids[index]}


def model() -> torch.nn.Module:
    """A frozen Llama with LoRA on its attention and MLP. Replace the first part by `from_pretrained`."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=LENGTH,
    )  # fmt: skip
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=True, task_type="CAUSAL_LM")
    return get_peft_model(LlamaForCausalLM(config), lora)


def main() -> None:
    """Train; the log shows loss, grad_norm, d and effective_lr, and the adapter is in lora-out."""
    arguments = TrainingArguments(
        output_dir="lora-out",
        learning_rate=1.0,
        lr_scheduler_type="linear",
        warmup_steps=2,
        max_steps=STEPS,
        per_device_train_batch_size=8,
        logging_steps=10,
        save_steps=STEPS,
        report_to=[],
        use_cpu=not torch.cuda.is_available(),  # without it, processes on CPUs train apart, each with all of the data
    )
    trainer = Trainer(
        model=model(),
        args=arguments,
        train_dataset=Walks(512),
        data_collator=default_data_collator,
        callbacks=[DAdaptCallback()],
        optimizer_cls_and_kwargs=(dadapt_dist.Prodigy, {"recipe": "auto"}),
    )
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main()
