"""The promises of the contract, each declared where it is checked."""

from antisymrnn_validation.conformance.check import declared_in
from antisymrnn_validation.conformance.promises import (
    accuracy,
    arguments,
    conduct,
    frameworks,
    interface,
    metamorphic,
    numbers,
    process,
)

PROMISES = declared_in(accuracy, interface, arguments, conduct, process, metamorphic, numbers, frameworks)
"""Every promise by name."""
