"""Known mistakes: the catalogue, and the diagnosis of results that failed."""
