"""Training with Lightning: the module, its optimisers and schedules, and what fills the run folder on the way."""
