"""The two agents: what they see, do and are paid for, their networks, and the trained ones that
ship."""
