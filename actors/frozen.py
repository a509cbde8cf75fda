"""Imported last in the warm process: what lives now lives as long as its copies, which need not look at it.

A collection of garbage would touch every object, and so copy nearly all memory: a second for each copy.
"""

from __future__ import annotations

import gc

gc.freeze()
gc.enable()
