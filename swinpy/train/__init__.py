"""The training recipe: optimiser, schedule, loop, snapshots, command line."""
