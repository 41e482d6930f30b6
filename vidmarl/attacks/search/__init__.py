"""What attacks are made of: the clean-up, restarts, the Linf ball, estimates of gradients."""
