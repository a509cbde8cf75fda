"""Votes on one input: acceptance 4 and 5 of the specification, with its numbers."""

from __future__ import annotations

import pytest

from raylign.jobs.synthetic.voting import Vote, count_votes, verify


def test_the_most_frequent_answer_wins_and_unread_ones_do_not_vote() -> None:
    assert count_votes(["72", "72", "70", None, "72"]) == Vote("72", (0, 1, 4), num_read=4)


def test_the_first_seen_of_equally_frequent_answers_wins_and_the_own_answer_votes_too() -> None:
    tied = count_votes(["B", "A", "A", "B"])
    assert tied is not None and (tied.answer, tied.voters) == ("B", (0, 3))
    with_own = count_votes(["B", "A", "A", "B", "A"])
    assert with_own is not None and (with_own.answer, len(with_own.voters), with_own.num_read) == ("A", 3, 5)


def test_voters_are_places_among_all_replies() -> None:
    vote = count_votes([None, "A", "B", "A"])
    assert vote is not None and (vote.answer, vote.voters) == ("A", (1, 3))


@pytest.mark.parametrize("answers", [[], [None], [None, None, None]])
def test_without_a_readable_answer_there_is_no_vote(answers: list[str | None]) -> None:
    assert count_votes(answers) is None
    assert verify(["?"] * len(answers), answers, seed=0, row_id="r") is None


def test_the_label_is_a_reply_of_the_mode_and_all_of_them_are_targets() -> None:
    replies = ["no idea", "so A", "it is B", "therefore A"]
    answers = [None, "A", "B", "A"]
    labels = set()
    for row in range(40):
        verified = verify(replies, answers, seed=0, row_id=str(row))
        assert verified is not None and verified.targets == ("so A", "therefore A") and verified.lengths == (4, 11)
        assert verified == verify(replies, answers, seed=0, row_id=str(row))
        labels.add(verified.label)
    assert labels == {"so A", "therefore A"}


def test_fewer_votes_than_are_asked_for_drop_the_row() -> None:
    replies, answers = ["1", "1", "2"], ["1", "1", "2"]
    assert verify(replies, answers, seed=0, row_id="r", min_votes=2) is not None
    assert verify(replies, answers, seed=0, row_id="r", min_votes=3) is None


def test_a_reply_without_an_answer_of_its_own_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="1 answers for 2 replies of row r7"):
        verify(["a", "b"], ["a"], seed=0, row_id="r7")
