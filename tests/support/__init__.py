"""What the tests share: the table of ops, generic checks, layouts, strategies, tolerances and planted faults."""
