"""Files, terminal, figures, and what a result was made with."""
