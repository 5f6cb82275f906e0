"""A dataset of your own: `scan` lists the files, `images` draws crops and makes batches, `decode` reads one file."""
