"""The report fetches nothing, lets nothing through unescaped, and shows what there is."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from raylign.jobs.report.charts import CHARTS, figures, moving_mean
from raylign.jobs.report.report import try_report, write_report
from raylign.jobs.run.folder import RunFolder
from raylign.jobs.run.samples import write_samples
from raylign.rollout.sample import Completion, Failure, Group, Prompt, VersionSpan

EVIL = "<script>alert('x')</script></pre><img src=http://evil.example/a.png>"
CONFIG = "name: a\nnum_steps: 40\ncomment: '</pre><script>alert(1)</script>'\n"


def evil_group() -> Group:
    tokens = np.arange(2, dtype=np.int32)
    completion = Completion(tokens, np.zeros(2, dtype=np.float32), (VersionSpan(0, 0, 2),), "length", EVIL)
    prompt = Prompt(f"p{EVIL}", 0, f"prompt {EVIL}", tokens, (EVIL,))
    rewards_G = np.array([1.0, np.nan], dtype=np.float32)
    failures = (Failure("exception", EVIL, f"message {EVIL}"),)
    return Group(prompt, (completion, completion), {EVIL: rewards_G, "b": rewards_G}, rewards_G, failures)


def line(step: int) -> dict[str, float]:
    """Every metric of every chart."""
    keys = [key for chart in CHARTS for key, _ in chart.series if not key.startswith("evaluation/")]
    rewards = {f"reward/{EVIL}/mean": 0.5, "reward/b/mean": 0.5}
    return {"step": step, "seconds": step * 2.0, "time/step_s": 9.0, **dict.fromkeys(keys, 0.5), **rewards}


def evaluation(step: int, accuracy: float) -> dict[str, float]:
    interval = {"evaluation/accuracy_low": accuracy - 0.05, "evaluation/accuracy_high": accuracy + 0.05}
    return {
        "step": step,
        "evaluation/accuracy": accuracy,
        "evaluation/reward_mean": accuracy,
        "evaluation/num_prompts": 200,
        **interval,
    }


def fill(path: Path, num_steps: int) -> None:
    with RunFolder.create(path, CONFIG) as run_folder:
        run_folder.append_metrics(evaluation(0, 0.25))
        for step in range(1, num_steps + 1):
            run_folder.append_metrics(line(step))
        run_folder.append_metrics(evaluation(num_steps, 0.5))
        write_samples(run_folder, num_steps, [evil_group()])


class Tags(HTMLParser):
    """All tags with their attributes, and the text outside of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))


def test_the_page_fetches_nothing_and_runs_no_script_of_the_data(tmp_path: Path) -> None:
    fill(tmp_path / "a", num_steps=3)
    path = write_report(tmp_path / "a")
    assert path == tmp_path / "a" / "report.html"
    tags = Tags(path.read_text()).tags
    for name, attributes in tags:
        assert name not in {"link", "img", "iframe", "base"}, name
        assert "src" not in attributes, attributes
        assert (attributes.get("href") or "#").startswith("#"), attributes
    # data, plotly, ours
    assert [tag for tag in tags if tag[0] == "script"] == [
        ("script", {"type": "application/json", "id": "figures"}),
        ("script", {}),
        ("script", {}),
    ]


def test_every_chart_is_there_with_its_data(tmp_path: Path) -> None:
    fill(tmp_path, num_steps=3)
    page = write_report(tmp_path).read_text()
    for chart in CHARTS:
        assert f"<figcaption>{chart.title}<small>" in page
    data = re.search(r'id="figures">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    drawn = json.loads(data.group(1))
    assert len(drawn) == len(CHARTS)
    assert [trace["name"] for trace in drawn["chart-0-0"]["data"]] == ["total", EVIL, "b"]
    assert drawn["chart-0-0"]["data"][0]["y"] == [0.5, 0.5, 0.5]
    assert "25.0 % → 50.0 % (+25.0 points)" in page
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;" in page


def test_a_run_in_progress_says_how_far_it_is_and_what_it_does_not_measure(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, CONFIG) as run_folder:
        page = write_report(tmp_path).read_text()
        assert "in progress, step 0 of 40" in page and "No step has finished yet" in page
        run_folder.append_metrics({"step": 1, "learner/loss": 2.0, "learner/kl": None})
        page = write_report(tmp_path).read_text()
        assert "in progress, step 1 of 40" in page
        assert "<figcaption>Loss" in page and "<figcaption>KL" not in page
        assert re.search(r"Not measured here: .*KL to the reference", page)
        run_folder.write_summary({"finished": False})
        assert "stopped, step 1 of 40" in write_report(tmp_path).read_text()
        run_folder.write_summary({"finished": True})
        assert '<p class="soft">finished</p>' in write_report(tmp_path).read_text()


def test_the_stages_of_a_folder_stand_one_after_the_other(tmp_path: Path) -> None:
    fill(tmp_path / "sft", num_steps=2)
    fill(tmp_path / "grpo", num_steps=4)
    (tmp_path / "model").mkdir()
    (tmp_path / "summary.json").write_text('{"accuracy_after": 0.5, "seconds": 90, "checkpoint": "a/b"}')
    page = write_report(tmp_path).read_text()
    sft, grpo = page.index('id="stage-0">sft'), page.index('id="stage-1">grpo')
    assert sft < grpo
    assert "<h2>Stages</h2>" in page and "<b>1m30s</b><span>time</span>" in page
    assert "grpo: 25.0 % → 50.0 % (+25.0 points)" in page
    assert page.count("plotly.js v") == 1


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no run.*metrics.jsonl"):
        write_report(tmp_path)


def test_long_runs_are_thinned_and_smoothed_with_both_ends_kept() -> None:
    lines = [{"step": step, "learner/loss": float(step)} for step in range(1, 5001)]
    drawn, _ = figures(lines)
    ((chart, figure),) = drawn
    points, smooth = figure["data"]
    assert chart.title == "Loss" and len(points["x"]) == 1500
    assert (points["x"][0], points["x"][-1]) == (1, 5000)
    assert len(smooth["y"]) == 1500
    assert moving_mean([1.0, 2.0, 6.0, 2.0], reach=1) == [1.5, 3.0, 10 / 3, 4.0]


def test_a_report_that_fails_is_said_and_ends_nothing(tmp_path: Path) -> None:
    fill(tmp_path / "run", 2)
    (tmp_path / "run" / "samples" / "step-000001.jsonl").write_text("no JSON\n")
    said: list[str] = []
    try_report(tmp_path / "run", said.append)
    assert len(said) == 1 and "step-000001.jsonl:1: not JSON" in said[0] and "`raylign report " in said[0]
