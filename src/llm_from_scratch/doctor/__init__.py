"""What may keep a machine or a run from working: findings -> machine, run (the checks) -> examination (all of them)."""
