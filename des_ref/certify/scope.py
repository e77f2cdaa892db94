"""The scope and the limits of a certificate, in words for readers who do not train models."""

from __future__ import annotations

CHECKED = (
    "The loss, every gradient and every parameter, after each step. They may differ from those of one process by at "
    "most 1e-12, which only rounding explains.",
    "Ownership. Parameters that a rank does not own are overwritten with NaN (not a number) in advance, so reading "
    "one ruins the result.",
    "Copies. Where several ranks hold a copy of a parameter, all copies are equal to the last bit.",
    "Messages. Each message of the plan is sent once, no other is sent, and each has the bytes of the formula with "
    "which the simulator prices it.",
    "Random draws. The units that dropout leaves out in each step are drawn a second time by separate code.",
    "Asynchronous servers (ps_async). The servers write down the order in which they answered pulls and applied "
    "pushes. One process replays that order with its own arithmetic, and every step of every worker must equal the "
    "replay. How stale pulls were is counted anew from the same order, and must keep the bound.",
)
SHARED = (
    "The starting values of parameters, and the hash that assigns rows to ranks.",
    "The model file, and the formulas that state how many bytes a message should have.",
    "The synthetic samples.",
    "Optimizers of dense parameters other than Adam (Shampoo, SGD, ...): both sides run the same code.",
    "A module of your own above the pooled vectors (kind = head).",
    "PyTorch: its products, its automatic derivatives, its random generator of starting weights.",
)
NOT_CHECKED = (
    "Evaluation, checkpoints, restarts, streams, and rows that are admitted late or expire; they have their own tests.",
    "Training in float32: the same code runs, but rounding makes runs differ.",
    "Lossy codecs: their bytes are checked, and that no NaN appears; the error that they cause is only reported.",
    "Accuracy of a trained model, and speed.",
    "Numbers of ranks and devices other than those of this certificate.",
)
