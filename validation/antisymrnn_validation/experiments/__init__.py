"""The paper's four tasks."""
