"""Helpers that know nothing of videos."""
