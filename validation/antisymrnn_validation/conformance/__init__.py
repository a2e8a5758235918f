"""Whether a backend, or a candidate in any language, keeps the promises of the contract."""
