"""How good a run is, measured from its run folder alone."""
