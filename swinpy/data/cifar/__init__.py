"""CIFAR-10 and CIFAR-100.

`layouts` knows the published archives and their records, `archive` checks and opens them, `download` fetches them, and
`pickled` reads the files of the "python version" without running anything.
"""
