"""``python -m antisymrnn_validation.cli``."""

from antisymrnn_validation.cli import main

main()
