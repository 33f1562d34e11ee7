"""Which example shows the optimizers at work? A small language model, trained on several processes."""
