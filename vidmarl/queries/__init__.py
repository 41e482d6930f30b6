"""Queries: what is asked of a victim, what it cost, and what came of it."""
