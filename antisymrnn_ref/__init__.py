"""The executable specification of the AntisymmetricRNN (Chang, Chen, Haber, Chi, ICLR 2019)."""

from antisymrnn_ref import antisymmetric, dynamics, gated, initialization, readout, stability
from antisymrnn_ref.backend import load_backend
from antisymrnn_ref.contract import (
    BackendUnavailable,
    GatedParameters,
    Gradients,
    Parameters,
    Trajectory,
    asarray,
    to_numpy,
)

__all__ = [
    "BackendUnavailable",
    "GatedParameters",
    "Gradients",
    "Parameters",
    "Trajectory",
    "antisymmetric",
    "asarray",
    "dynamics",
    "gated",
    "initialization",
    "load_backend",
    "readout",
    "stability",
    "to_numpy",
]
