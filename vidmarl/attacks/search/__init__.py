"""What attacks are made of: minimization, restarts, the Linf ball, estimates of gradients."""
