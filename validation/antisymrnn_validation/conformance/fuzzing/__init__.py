"""The fuzzer: sequences of calls at random, each held against the truth and against itself."""
