"""Training: one module for each way to train the agents."""
