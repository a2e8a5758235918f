"""Golden vectors: inputs and correctly rounded results, so that any program can be checked without this package."""
