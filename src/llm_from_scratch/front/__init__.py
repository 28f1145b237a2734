"""The front between the shell and Hydra, whose `hydra.main` starts jobs, sweeps and launchers.

Before Hydra starts, the overrides of each job are composed and checked against the schema: a
mistake is reported in one line and creates no folder. An error of a job becomes one line, or a
traceback, and an exit status.

run_name (the name that all processes share) · words (the command line) -> compose (Hydra's
configuration) -> inherit (what a resumed run or `init_from` brings) -> sweep (many jobs) -> search
(the sweeper of sweep=optuna) -> program (the checks of a command, and its start)
"""
