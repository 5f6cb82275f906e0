"""Procedural scenes: `draw` and `shapes` make them, `files` keeps them on disk, `calibrate` says how hard they are."""
