"""Whether a backend agrees with the specification: cases and checks."""
