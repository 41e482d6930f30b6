"""The benchmark: attacks x victims x distortions x clips."""
