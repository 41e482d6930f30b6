"""Perturbations: strength maps over tubelets, and how they become clips."""
