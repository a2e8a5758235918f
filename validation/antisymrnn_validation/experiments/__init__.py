"""The paper's four tasks and the digits: data, training, runs, sweeps, and the published accuracies."""
