"""BLEU, ROUGE-L and their mean against numbers worked out from the equations."""

from __future__ import annotations

import gzip
import json
import math
import os
import random
from collections import Counter
from pathlib import Path

import pytest
from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from raylign.rewards.base import Graded, Item
from raylign.rewards.overlap import (
    BleuConfig,
    BleuReferences,
    BleuReward,
    BleuRougeF1Config,
    BleuRougeF1Reward,
    RougeConfig,
    RougeReward,
    bleu,
    harmonic_mean,
    rouge_l,
)
from raylign.rewards.tokens_13a import tokenize_13a

MAT = "the cat sat on the mat"
MULTIPLE = ("a b x y z", "q q c d e")


@pytest.mark.parametrize(
    ("prediction", "references", "expected"),
    [
        (MAT, (MAT,), 1.0),
        ("the cat is on the mat", (MAT,), 0.488923),
        ("the cat", (MAT,), 0.135335),
        ("Yes", ("No",), 0.840896),
        ("hello world", ("goodbye moon",), 0.638943),
        ("one two three four five", ("six seven eight",), 0.229575),
        ("Yes", ("No, it is not possible.",), 0.002084),
        ("a b c d e", MULTIPLE, 0.604275),
        ("a b c d e", MULTIPLE[:1], 0.359304),
        ("a b c d e", MULTIPLE[1:], 0.508133),
        ("a b c d e", (*MULTIPLE, "n o n e o f i t"), 0.604275),
        ("the the the the", ("the cat sat", "a the the dog ran off"), 0.472871),
        ("The cat sat on the mat.", ("the cat sat on the mat.",), 0.840896),
        ("It costs 3.5 dollars, right?", ("It costs 3.5 dollars, correct?",), 0.707107),
        ("", (MAT,), 0.0),
        (" \n\t", (MAT,), 0.0),
        (math.nan, (MAT,), 0.0),
        (None, (MAT,), 0.0),
        ("<skipped>", (MAT,), 0.0),
    ],
)
def test_bleu_gives_the_worked_out_number(
    prediction: str | float | None, references: tuple[str, ...], expected: float
) -> None:
    assert bleu(prediction, references) == pytest.approx(expected, abs=5e-7)


def test_bleu_precisions_of_the_worked_example() -> None:
    product = 0.857143 * 0.666667 * 0.4 * 0.25
    assert bleu("the cat is on the mat", [MAT]) == pytest.approx(product**0.25, abs=1e-6)


def test_a_price_stays_one_token() -> None:
    assert len(tokenize_13a("It costs 3.5 dollars, right?")) == 7


def test_bleu_agrees_with_the_equations_written_out_naively() -> None:
    rng = random.Random(0)
    for _ in range(100):
        prediction, *references = [
            [rng.choice("abcd") for _ in range(rng.randint(1, 9))] for _ in range(rng.randint(2, 4))
        ]
        precisions = []
        for order in range(1, 5):
            counts = [
                Counter(tuple(tokens[i : i + order]) for i in range(len(tokens) - order + 1))
                for tokens in (prediction, *references)
            ]
            matches = sum(min(n, max(other[gram] for other in counts[1:])) for gram, n in counts[0].items())
            precisions.append((matches + 1) / (max(0, len(prediction) - order + 1) + 1))
        shortest = min(map(len, references))
        brevity = 1.0 if len(prediction) > shortest else math.exp(1 - shortest / len(prediction))
        expected = brevity * math.prod(precisions) ** 0.25
        assert bleu(" ".join(prediction), [" ".join(r) for r in references]) == pytest.approx(expected)


def test_merged_references_give_the_same_as_texts() -> None:
    assert bleu("a b c d e", BleuReferences.of(MULTIPLE)) == bleu("a b c d e", MULTIPLE)


def test_rouge_l_and_the_mean_of_both() -> None:
    assert rouge_l("the cat is on the mat", [MAT]) == pytest.approx(0.833333, abs=5e-7)
    assert harmonic_mean(bleu("the cat is on the mat", [MAT]), 5 / 6) == pytest.approx(0.616274, abs=5e-7)
    assert rouge_l("a b c d e", MULTIPLE) == pytest.approx(0.6)
    assert harmonic_mean(bleu("a b c d e", MULTIPLE), 0.6) == pytest.approx(0.602130, abs=5e-7)
    assert harmonic_mean(0.0, 0.0) == 0.0
    assert rouge_l("", [MAT]) == 0.0
    assert rouge_l(math.nan, [MAT]) == 0.0


def test_rouge_l_agrees_with_the_library() -> None:
    library = RougeScorer(["rougeL"], use_stemmer=False)
    rng = random.Random(1)
    for _ in range(200):
        words = ["a", "B", "c,", "d.", "e-f", "10"]
        prediction, *references = [" ".join(rng.choices(words, k=rng.randint(0, 90))) for _ in range(3)]
        expected = library.score_multi(references, prediction)["rougeL"].fmeasure
        assert rouge_l(prediction, references) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        (BleuReward(BleuConfig()), 0.488923),
        (RougeReward(RougeConfig()), 0.833333),
        (BleuRougeF1Reward(BleuRougeF1Config()), 0.616274),
    ],
)
def test_rewards_score_what_stands_in_the_answer_tag(
    reward: BleuReward | RougeReward | BleuRougeF1Reward, expected: float
) -> None:
    answer = "the cat is on the mat"
    completions = (
        answer,
        f"  {answer}\n",
        f"<think>well</think><answer> {answer} </answer> and more",
        f"words <answer>{answer}",
        "<answer></answer> words",
        "",
        "<skipped>",
    )
    scores = reward.score([Item("p", completions, (MAT,))])[0]
    assert scores[:4] == [pytest.approx(expected, abs=5e-7)] * 4
    assert scores[4:] == [0.0, 0.0, 0.0]


def test_scores_carry_what_they_may_be_bought_by() -> None:
    item = Item("p", ("the cat", "the cat sat on the mat."), (MAT, "a cat sat."))
    for reward in (BleuReward(BleuConfig()), RougeReward(RougeConfig()), BleuRougeF1Reward(BleuRougeF1Config())):
        short, long = reward.score([item])[0]
        assert isinstance(short, Graded) and isinstance(long, Graded)
        points = 0 if isinstance(reward, RougeReward) else 1  # ROUGE's tokens are letters and digits
        assert short.parts == {"words": 2, "shortest_reference_words": 3 + points}
        assert long.parts == {"words": 6 + points, "shortest_reference_words": 3 + points}


DATA = Path(os.environ.get("RAYLIGN_DATA", Path(__file__).parents[3] / "shared/data"))


@pytest.mark.real_data
@pytest.mark.skipif(not (DATA / "asset").is_dir(), reason="no data folder (RAYLIGN_DATA)")
def test_bleu_of_real_answers_is_that_of_the_plain_formula() -> None:
    folder = DATA / "alpaca_eval"
    asked, answered = (
        [json.loads(line) for line in gzip.decompress((folder / name).read_bytes()).decode().splitlines()]
        for name in ("references.jsonl.gz", "candidates.jsonl.gz")
    )
    for row, others in zip(asked[:60], answered[:60], strict=True):
        references = list(row["references"].values())
        for candidate in others["candidates"].values():
            assert bleu(candidate["output"], references) == pytest.approx(
                plain_bleu(candidate["output"], references), abs=1e-12
            )


def plain_bleu(prediction: str, references: list[str]) -> float:
    """As the equations stand, with sacrebleu's tokens."""
    tokenized = [Tokenizer13a.__call__.__wrapped__(Tokenizer13a(), text).split() for text in (prediction, *references)]
    product = 1.0
    for order in range(1, 5):
        counts = [Counter(tuple(tokens[i : i + order]) for i in range(len(tokens) - order + 1)) for tokens in tokenized]
        matches = sum(min(n, max(other[gram] for other in counts[1:])) for gram, n in counts[0].items())
        product *= (matches + 1) / (max(0, len(tokenized[0]) - order + 1) + 1)
    shortest = min(map(len, tokenized[1:]))
    return product**0.25 * math.exp(min(0.0, 1 - shortest / max(1, len(tokenized[0]))))
