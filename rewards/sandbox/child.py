"""What the process of a reward does: build the reward and score items; forked by keeper.py, never started by hand.

Given over a socket the reward's config, then numbered items one by one; gives back `{"ready": is pointwise}` or
`{"error": why}`, then for each item its number and scores (for a question: its values). Ends when the socket closes.
"""

from __future__ import annotations

import json
import pickle
import socket
from dataclasses import replace
from typing import Any

from raylign.rewards.base import Item, Reward, RewardFailure, Score, failure_of, typed_scores
from raylign.rewards.sandbox.limits import Limits
from raylign.rewards.sandbox.messages import MAX_MESSAGE_CHARACTERS, receive_frame, scores_to_data, send_frame
from raylign.rewards.sandbox.questions import Answers, Question, values_to_data


def score_one_item(reward: Reward, item: Item, limits: Limits) -> list[Score]:
    limits.start_item()
    try:
        scored = reward.score([item])[0]
    except BaseException as error:  # sys.exit() in a user's function included
        scored = [failure_of(error)] * len(item.completions)
    return [_with_limit(score, limits) for score in typed_scores(scored, len(item.completions))]


def answer_question(reward: Reward, question: Question, limits: Limits) -> list[Any]:
    limits.start_item()
    assert isinstance(reward, Answers), f"{type(reward).__name__} answers no questions"
    return values_to_data(reward.answer(question))


def _with_limit(score: Score, limits: Limits) -> Score:
    if isinstance(score, RewardFailure):
        return replace(score, message=score.message + limits.describe(score.kind))
    return score


def _reply(channel: socket.socket, reply: dict[str, Any]) -> None:
    send_frame(channel, json.dumps(reply).encode())


def serve(channel: socket.socket, limits: Limits) -> None:
    from raylign.rewards.registry import build_here, config_from_json

    try:
        reward = build_here(config_from_json(receive_frame(channel).decode()))
    except BaseException as error:  # whatever an import can raise is the user's to read
        why = (str(error) or type(error).__name__)[:MAX_MESSAGE_CHARACTERS]
        _reply(channel, {"error": why + limits.describe(failure_of(error.__cause__ or error).kind)})
        return
    _reply(channel, {"ready": reward.is_pointwise, "form": reward.form})
    while True:
        try:
            # From the parent, which is trusted: rows may hold dates and other objects that JSON has not.
            number, item = pickle.loads(receive_frame(channel))
        except EOFError:
            return
        if isinstance(item, Question):
            scores = answer_question(reward, item, limits)
        else:
            scores = scores_to_data(score_one_item(reward, item, limits))
        _reply(channel, {"number": number, "scores": scores})
