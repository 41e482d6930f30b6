"""Damaged files and odd arguments, drawn at random: `make fuzz`.

Each case has to end well or in an error of vidmarl that names the file (or the setting); never in
another exception, in other content than was saved, in a hang, or in memory beyond a bound.

    PYTHONPATH=tests python -m fuzz --seconds 60 --seed 1
    PYTHONPATH=tests python -m fuzz --only videos --seed 1 --case 17    # one case again

A kind of case is a module with `make` (writes the originals, once), `draw` (writes one case, told
by a generator alone) and `check` (loads it; raises what vidmarl raises, or `Wrong`).
"""
