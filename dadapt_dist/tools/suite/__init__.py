"""A benchmark of untuned optimizers against AdamW with the best learning rate of a grid."""
