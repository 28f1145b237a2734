"""Checks of a machine and of a run folder: the command `doctor`.

findings (a line of the report) -> machine, run (the checks) -> examination (all checks)
"""
