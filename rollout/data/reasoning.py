"""The system message that asks for thoughts and an answer in tags, as the reward `format` checks them.

Given nothing; gives the words.
"""

from __future__ import annotations

REASONING_SYSTEM = (
    "Work out the answer before you give it. Write your working between <think> and </think>, and after it, between "
    "<answer> and </answer>, the answer alone. Write nothing outside of these two parts."
)
