"""Compiles the programs of a run for TPUs that are not there.

`experiments/compile_for_tpu.py` is the command; `README.md` holds its results.
"""
