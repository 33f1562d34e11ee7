"""A tiny text-to-image diffusion model whose text encoder and U-Net each find a step size of their own.

    python examples/diffusion.py

Both are groups of one optimizer, and `estimate` names the d that a group follows. The images are squares whose place the
"prompt" tells; put your own data and models in their place.
"""

import json
import logging
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

import dadapt_dist

STEPS, BATCH, PROMPTS = 150, 64, 16
log = logging.getLogger("diffusion")


def data(size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Prompts [size], and images [size, 1, 8, 8] with one bright square at the place that the prompt names."""
    prompts = torch.randint(0, PROMPTS, (size,), generator=torch.Generator().manual_seed(seed))
    images = nn.functional.one_hot(prompts, PROMPTS).float().reshape(size, 1, 4, 4)
    return prompts, 2 * nn.functional.interpolate(images, scale_factor=2) - 1


class UNet(nn.Module):
    """Predict the noise in an image from the image, the share of noise in it, and the prompt."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.down, self.low = nn.Conv2d(1, width, 4, 2, 1), nn.Conv2d(width, width, 3, 1, 1)
        self.up, self.out = nn.ConvTranspose2d(2 * width, width, 4, 2, 1), nn.Conv2d(width + 1, 1, 3, 1, 1)
        self.condition = nn.Linear(width + 1, width * 16)

    def forward(self, x: Tensor, noise: Tensor, text: Tensor) -> Tensor:
        high = nn.functional.silu(self.down(x))
        condition = self.condition(torch.cat([text, noise[:, None]], 1)).reshape(high.shape)
        low = nn.functional.silu(self.low(high + condition))
        return cast(Tensor, self.out(torch.cat([nn.functional.silu(self.up(torch.cat([high, low], 1))), x], 1)))


def main() -> None:
    """Train, and show loss and both d of every tenth step; they are in diffusion-out/metrics.jsonl as well."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(0)
    text_encoder, unet = nn.Sequential(nn.Embedding(PROMPTS, 32), nn.Linear(32, 32)), UNet()
    optimizer = dadapt_dist.Prodigy(
        [
            {"params": text_encoder.parameters(), "estimate": "text_encoder"},
            {"params": unet.parameters(), "estimate": "unet"},
        ],
        recipe="auto",
        total_steps=STEPS,
    )
    folder = Path("diffusion-out")
    folder.mkdir(exist_ok=True)
    recent: list[float] = []
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(1, STEPS + 1):
            prompts, images = data(BATCH, step)
            share, noise = torch.rand(BATCH), torch.randn_like(images)
            noisy = (1 - share).sqrt()[:, None, None, None] * images + share.sqrt()[:, None, None, None] * noise
            loss = (unet(noisy, share, text_encoder(prompts)) - noise).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            recent.append(loss.item())
            if step % 10 == 0:
                values = {"loss": sum(recent) / len(recent), **dadapt_dist.log_values(optimizer)}
                file.write(json.dumps({"step": step, **values}) + "\n")
                d = [values[f"d/{name}"] for name in ("text_encoder", "unet")]
                log.info(
                    "step %3d   loss %.4f   d of the text encoder %.1e, of the U-Net %.1e", step, values["loss"], *d
                )
                recent.clear()


if __name__ == "__main__":
    main()
