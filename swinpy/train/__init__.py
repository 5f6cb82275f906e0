"""The training recipe: optimiser, schedule, loop, command line."""
