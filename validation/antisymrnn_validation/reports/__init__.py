"""Records of results as tables, summary lines and pages."""
