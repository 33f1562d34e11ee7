"""Prove that a change of the package leaves every trajectory as it was, bit for bit.

A fixed suite trains small models with every method, in one process and on real gloo ranks, and records a hash of the
parameters after each step, d and every other scalar of the estimates to the last bit, the buffers at the end and the
collectives of a step. The suite runs from this checkout against the package of any checkout, so that two trees are
compared on the same cases:

    python -m tests.replay record --package ../before before.json
    python -m tests.replay record --package . --load before.json.checkpoints after.json
    python -m tests.replay compare before.json after.json

or, in one go, the tree that this suite is in against another:

    python -m tests.replay check --before ../before

`record` also writes checkpoints, into OUT.checkpoints; with `--load` the cases named `load/...` continue those of another
recording, which shows that the checkpoints of the old tree load into the new one. `compare` lists the cases that differ,
and by how much, and exits with 1 when there are any. `--expected TAG` lists the cases of a tag apart and does not count
them: `zero-dadapt-sgd` marks D-Adapt SGD under DeepSpeed, whose steps arrive in pieces. `--only TEXT` keeps the cases with
TEXT in their name, `--part PART` one of the parts. Both recordings must come from one machine: bits depend on the CPU, the
compiler and the release of torch. The whole suite takes about two minutes a tree on two cores. Triton's cases need triton,
those of ZeRO need deepspeed.

    python -m tests.replay checkpoints --package ../before tests/recorded

writes the small checkpoints that `tests/test_recorded.py` continues.

Only names that outlive a restructuring are used: the public classes, `StepSize`, state dicts, and torch's and DeepSpeed's
own interfaces. Modules: `trace` (what is recorded), `single` (one process), `ranks` (layouts of torch), `zero` (DeepSpeed),
`recorded` (the committed checkpoints), `child` (a process that runs a part), `comparing`.
"""

PARTS = {"single": 1, "triton": 1, "2 ranks": 2, "4 ranks": 4, "zero": 2}
"""Part of the suite -> ranks, in the order in which they run: `4 ranks` loads what `2 ranks` has saved."""
