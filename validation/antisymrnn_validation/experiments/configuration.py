"""What a run of training is: its configuration, the defaults of each task, and the checks of both."""

from __future__ import annotations

from typing import Any, NamedTuple, get_type_hints

import numpy as np

from antisymrnn_validation.experiments import optimizers
from antisymrnn_validation.output.names import did_you_mean
from antisymrnn_validation.truth.cases import CELLS

CHOICES = {
    "cell": CELLS,
    "optimizer": tuple(optimizers.SLOTS),
    "schedule": optimizers.SCHEDULES,
    "dtype": ("float32", "float64"),
}
"""What some fields of a configuration may be."""


_KINDS = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}


MOST_UNITS = 2**30 - 1
"""With more W would have more bytes than an array of NumPy can."""


class Configuration(NamedTuple):
    """Everything that decides the numbers of a run; ``config.json`` holds it.

    Every number is finite and at least 0, ε above 0. Where the paper says something, its set is given as published or,
    where only later sources have it, unconfirmed; the rest is our choice.

    Attributes
    ----------
    task : str
        One of ``tasks.TASKS``.
    backend : str
        A name or module path that ``load_backend`` takes.
    cell : str
        ``antisymmetric``, equation (12), or ``gated``, equation (13).
    unconstrained : bool
        W as it is in place of W − Wᵀ; the published ablation, of the gated cell alone.
    full : bool
        Train all of W; else what is strictly above its diagonal, as the published parameter counts have it.
    units : int
        n, from 1. Published: 128 for MNIST, 256 for CIFAR-10, 196 in the ablation.
    step_size : float
        ε. Published: 0.01, 0.1 or 1.
    diffusion : float
        γ. Unconfirmed: 0.001, 0.01, 0.1 or 1.
    sigma_w : float
        W ~ N(0, σ_w²/n). Published: 0, 1, 2, 4, 8 or 16.
    optimizer : str
        ``sgd`` (with momentum) or ``adagrad``, both published, or ``adam``, ours.
    learning_rate : float
        Unconfirmed: 0.1, 0.2, … 1.
    momentum : float
        Of ``sgd``. The paper has some, of unknown size.
    schedule : str
        One of ``optimizers.SCHEDULES``. Not published.
    clip : float
        Largest norm of the gradient, 0 for none. Not published.
    batch : int
        B, from 1. Unconfirmed: 128.
    iterations : int
        From 1. Unconfirmed: 50,000; 10,000 for noise-padded.
    evaluate_every : int
        Iterations between two evaluations and checkpoints, from 1. Ours.
    patience : int
        Iterations without a better accuracy on the validation split after which the run ends, 0 for no end. Ours.
    validation : float
        Part of the training set to validate on, between 0 and 1. Ours.
    seed : int
        Of every draw.
    dtype : str
        ``float32`` or ``float64``. Not published.
    shards : int
        Parts of a batch whose gradients are added in their order, from 1 to B. Ours.
    """

    task: str
    backend: str = "numba"
    cell: str = "antisymmetric"
    unconstrained: bool = False
    full: bool = False
    units: int = 128
    step_size: float = 0.01
    diffusion: float = 0.01
    sigma_w: float = 1.0
    optimizer: str = "adagrad"
    learning_rate: float = 0.1
    momentum: float = 0.9
    schedule: str = "constant"
    clip: float = 0.0
    batch: int = 128
    iterations: int = 50_000
    evaluate_every: int = 500
    patience: int = 0
    validation: float = 0.1
    seed: int = 0
    dtype: str = "float32"
    shards: int = 1


DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": {
        "units": 64, "step_size": 0.3, "diffusion": 0.5, "sigma_w": 0.5, "optimizer": "adam", "learning_rate": 0.03,
        "schedule": "cosine", "clip": 1.0, "batch": 32, "iterations": 2000, "evaluate_every": 100,
    },
    "noise-padded": {"units": 256, "iterations": 10_000},
    "cifar": {"units": 256},
}  # fmt: skip
"""What differs from the defaults of :class:`Configuration`, by task."""


def default_configuration(task: str) -> Configuration:
    """The configuration of a task where nothing is asked for."""
    return Configuration(task, **DEFAULTS.get(task, {}))


SYNONYMS = {
    "model": "cell", "ablation": "unconstrained",
    "n": "units", "hidden": "units", "hidden_size": "units", "hidden_units": "units", "num_units": "units",
    "ε": "step_size", "eps": "step_size", "dt": "step_size", "step": "step_size",
    "γ": "diffusion", "damping": "diffusion",
    "sigma": "sigma_w", "init_scale": "sigma_w",
    "optim": "optimizer", "lr": "learning_rate", "scheduler": "schedule",
    "clip_norm": "clip", "grad_clip": "clip", "max_norm": "clip", "gradient_clipping": "clip",
    "B": "batch", "batch_size": "batch", "bs": "batch",
    "steps": "iterations", "max_iterations": "iterations", "eval_every": "evaluate_every",
    "early_stopping": "patience", "val": "validation", "validation_split": "validation",
    "random_state": "seed", "precision": "dtype",
}  # fmt: skip
"""Other words for the fields of a configuration, for hints alone; a Greek letter stands for its English name too."""

TYPES = get_type_hints(Configuration)
"""Of the fields of a configuration, by name."""


def check_type(name: str, value: object) -> None:
    """Refuse a value that is not of the type of its field; a whole number is a number, true and false are not.

    Raises
    ------
    ValueError
        Naming the field, what was expected and what was given.
    """
    kind = TYPES[name]
    if type(value) not in ((int, float) if kind is float else (kind,)):
        raise ValueError(f"{name}: expected {_KINDS[kind]}, got {value!r:.60}")


def check_configuration(configuration: Configuration) -> None:
    """Refuse a configuration that cannot be trained.

    Raises
    ------
    ValueError
        Naming the field, what was expected and what was given.
    """
    for name, value in configuration._asdict().items():
        check_type(name, value)
    for name, known in CHOICES.items():
        if (value := getattr(configuration, name)) not in known:
            raise ValueError(f"{name}: expected {' or '.join(known)}, got {value!r}{did_you_mean(value, known)}")
    for name in ("units", "batch", "iterations", "evaluate_every", "shards"):
        if getattr(configuration, name) < 1:
            raise ValueError(f"{name}: expected at least 1, got {getattr(configuration, name)}")
    for name in ("patience", "seed"):
        if getattr(configuration, name) < 0:
            raise ValueError(f"{name}: expected at least 0, got {getattr(configuration, name)}")
    if configuration.units > MOST_UNITS:
        raise ValueError(f"units: expected at most {MOST_UNITS}, got {configuration.units}")
    largest = float(np.finfo(configuration.dtype).max)
    for name in ("step_size", "diffusion", "sigma_w", "momentum", "clip", "learning_rate"):
        value = getattr(configuration, name)
        if not 0 <= value <= largest:
            raise ValueError(
                f"{name}: expected a finite number of at least 0 in {configuration.dtype}, got {value!r:.60}"
            )
    if not np.dtype(configuration.dtype).type(configuration.step_size) > 0:
        raise ValueError(f"step_size: expected more than 0 in {configuration.dtype}, got {configuration.step_size}")
    if configuration.shards > configuration.batch:
        raise ValueError(f"shards: expected at most batch = {configuration.batch}, got {configuration.shards}")
    if not 0 < configuration.validation < 1:
        raise ValueError(f"validation: expected a part between 0 and 1, got {configuration.validation}")
    if configuration.unconstrained and configuration.cell != "gated":
        raise ValueError("unconstrained: expected the gated cell, as in the paper's ablation")


def is_triangular(configuration: Configuration) -> bool:
    """Whether only what is strictly above the diagonal of W is trained."""
    return not (configuration.full or configuration.unconstrained)


def cell_options(configuration: Configuration) -> dict[str, Any]:
    """The keyword arguments of the cell's forward and backward."""
    options: dict[str, Any] = {"step_size": configuration.step_size, "diffusion": configuration.diffusion}
    return options | ({"unconstrained": True} if configuration.unconstrained else {})
