"""Values of --preset: five published solutions, `s0` to `s4`, `scratch` and `large`.

`scratch` is for a machine without pretrained weights: the best settings found for an hour on one
core (tests/benchmarks/RESULTS.md). `large` is for a GPU, and was never measured.

A task's recipe adds the values that a source sets for that task. A value that a source doesn't state
is the one its code runs with; of several the first is taken. S0 trains one network with three heads, S1
and S3 one network of 18 classes: here each task gets their settings, and tests/benchmarks/baselines.py
has the original networks.
"""

from collections.abc import Mapping
from typing import Any

# What our own defaults add, and no source has.
_PLAIN: dict[str, Any] = {
    "aux": (),
    "drop": 0.0,
    "mixup": 0.0,
    "model_ema_decay": 0.0,
    "sched": "none",
    "size": (224, 224),
    "warmup_epochs": 0.0,
    "weight_decay": 0.0,
}

_SOURCES: dict[str, dict[str, Any]] = {
    "s0": {
        "model": "efficientnet_b0",
        "crop": "center",
        "mean": (0.560, 0.524, 0.501),
        "std": (0.233, 0.243, 0.246),
        "aug": ("light", "rotate"),
        # The source's beta of .9 gives all classes of more than 83 photos the same weight.
        "loss": "cb_focal",
        "opt": "momentum",
        "lr": 1e-3,
        "weight_decay": 3e-5,
        "sched": "cosine",
        "cycle_epochs": 5,
        "epochs": 50,
        "batch_size": 32,
        "keep": "loss",
        "seed": 77,
        "folds": 10,
    },
    "s1": {
        "model": "efficientnet_b0",
        "drop": 0.2,
        # Its own six models see the whole photo; the centre crop of 412 x 244 was a team mate's.
        "size": (512, 384),
        "crop": "none",
        "mean": ("none",),
        "std": ("none",),
        "aug": ("jitter", "equalize", "light"),
        "loss": "ce+f1",
        "opt": "madgrad",
        "lr": 8e-5,
        "sched": "step",
        "decay_epochs": 3.0,
        "decay_rate": 0.5,
        "epochs": 18,
        "batch_size": 32,
        "seed": 42,
    },
    "s2": {
        "model": "efficientnet_b3",
        "crop": "face",
        "margin": 0.3,  # not stated
        "mean": ("imagenet",),
        "std": ("imagenet",),
        "aug": ("own",),
        "loss": "cross_entropy",
        "opt": "adam",
        "lr": 1e-4,
        "epochs": 10,
        "batch_size": 64,
        "seed": 777,
    },
    "s3": {
        "model": "resnet18",
        "size": (350, 350),
        "crop": "center",
        "center": (350, 350),
        "mean": ("none",),
        "std": ("none",),
        "aug": ("light",),
        "loss": "focal",
        "opt": "adam",
        "lr": 8e-5,
        "epochs": 10,
        "batch_size": 64,
        "seed": 42,
    },
    "s4": {
        "model": "tf_efficientnetv2_m",
        "size": (384, 288),
        "crop": "face",
        "margin": 0.3,  # not stated
        "mean": (0.548, 0.504, 0.479),
        "std": (0.237, 0.247, 0.246),
        "aug": ("autoaugment",),
        "loss": "focal",
        "label_fixes": "core",
        "sampler": "class",
        "opt": "adamw",
        "lr": 1e-4,
        "weight_decay": 5e-4,
        "sched": "cosine",
        "epochs": 30,
        "batch_size": 32,
        "seed": 42,
    },
}


_SCRATCH: dict[str, Any] = {
    "model": "mobilenetv3_small_100",
    "pretrained": False,
    "size": (96, 96),
    "stem_stride": 1,
    "drop": 0.0,
    "mixup": 0.0,
    "model_ema_decay": 0.0,
    "opt": "adamw",
    "lr": 2e-3,
    "weight_decay": 0.05,
    "sched": "cosine",
    "warmup_epochs": 1.0,
    "epochs": 10,
    "batch_size": 32,
}
_LARGE: dict[str, Any] = {
    "model": "tf_efficientnet_b3",
    "size": (224, 224),
    "lr": 3e-4,
    "batch_size": 64,
}


def presets(**own: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """All presets of a task; the values in `own`, by preset, replace the shared ones."""
    shared = {name: _PLAIN | values for name, values in _SOURCES.items()}
    shared |= {"scratch": _SCRATCH, "large": _LARGE}
    return {name: values | own.get(name, {}) for name, values in shared.items()}
