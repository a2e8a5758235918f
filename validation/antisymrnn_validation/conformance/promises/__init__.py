"""The promises of the contract, each declared where it is checked."""

from antisymrnn_validation.conformance.check import declared_in
from antisymrnn_validation.conformance.promises import accuracy, conduct, frameworks, interface, metamorphic, numbers

PROMISES = declared_in(accuracy, interface, conduct, metamorphic, numbers, frameworks)
"""Every promise by name."""
