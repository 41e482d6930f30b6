"""The benchmark: attacks x victims x distortions x clips, to be killed, resumed, widened and shared
out at will.

`config` says what is compared, `entries` makes the attacks, `runner` makes the trials (`trials`),
`tables` and `report` show them. `vidmarl benchmark`, `vidmarl test` and `vidmarl demo` run it.
"""

from vidmarl.benchmark.config import Benchmark, VictimChoice, agents_and_controls
from vidmarl.benchmark.runner import BenchmarkResult, run_benchmark

__all__ = ["Benchmark", "BenchmarkResult", "VictimChoice", "agents_and_controls", "run_benchmark"]
