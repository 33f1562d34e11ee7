"""Example: a small language model, trained on several processes without a learning rate."""
