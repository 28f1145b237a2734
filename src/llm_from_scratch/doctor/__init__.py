"""The doctor: checks of a machine and of a run.

findings (a line of the report) -> machine, run (the checks) -> examination (all of them)
"""
