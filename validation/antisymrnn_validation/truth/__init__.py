"""What is true, independent of the code: cases, calls, oracles and the measured tolerance."""
