"""Weight files that lie, byte by byte, and what a reader has to say to each."""
