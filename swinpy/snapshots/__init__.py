"""Snapshots of a run that survive kills, full disks, power cuts and flipped bits.

`store` saves and loads them. `staging` puts one on the disk whole or not at all. `manifest` finds damage. `plain_json`
holds what is no array. `fingerprint` tells whether a resumed run will compute with the same bits.
"""
