"""Examples on their way to ranks of the log's node: what lies in the log's files goes as its place there.

Given examples whose arrays are views of the log; gives examples to be sent, which arrive as those that were given. So a
step of any size is copied nowhere: not to the loop, nor to Ray's object store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from raylign.learners.examples.example import Example
from raylign.rollout.experience.mapped_files import place_of

OF_THE_LOG = ("prompt_ids", "completion_ids", "rollout_logps")
LARGE_BYTES = 1 << 14
"""What is smaller travels as it is."""


def by_place(examples: Sequence[Example]) -> list[Example]:
    """Not to be read before they have arrived."""
    return [replace(example, **_places(example)) for example in examples]


def _places(example: Example) -> dict[str, Any]:
    arrays = ((name, getattr(example, name)) for name in OF_THE_LOG)
    places = ((name, place_of(array)) for name, array in arrays if array is not None and array.nbytes >= LARGE_BYTES)
    return {name: place for name, place in places if place is not None}
