"""What the paper's simulations and Jacobians look like: portraits and spectra."""
