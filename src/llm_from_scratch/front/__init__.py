"""The front between the shell and Hydra, whose `hydra.main` starts jobs, sweeps and launchers.

Before Hydra, every job's overrides are composed once and held against the schema, so that a mistake
costs one line and no folder. Around it, an error of a job becomes one line, or a traceback, and an
exit status.

run_name (the name that all processes share) · words (the command line) -> compose (Hydra's
configuration) -> inherit (what a resumed run or `init_from` brings) -> sweep (many jobs) -> program
(the checks of a command, and its start)
"""
