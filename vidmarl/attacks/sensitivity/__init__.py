"""Sensitivity maps: where and when a distortion hurts a victim, and how sure that is."""
