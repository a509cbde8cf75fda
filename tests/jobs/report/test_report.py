"""The report fetches nothing, lets nothing through unescaped, and shows what there is."""

import json
import re
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from raylign.jobs.cli import run_command_line
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


def test_parts_of_a_reward_are_no_curves_of_rewards() -> None:
    values = {"reward/mean": 1.5, "reward/bleu/mean": 0.5, "reward/bleu/words/mean": 80.0, "reward/b/mean": 1.0}
    lines = [{"step": 1, **values, "reward/bleu/not_applicable_share": 0.1}]
    (figure,) = [figure for chart, figure in figures(lines)[0] if chart.title == "Reward"]
    assert [trace["name"] for trace in figure["data"]] == ["total", "b", "bleu"]


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
    (tmp_path / "run" / "report.html").mkdir()
    said: list[str] = []
    try_report(tmp_path / "run", said.append)
    assert len(said) == 1 and "report.html" in said[0] and "`raylign report " in said[0]


DAMAGE = {
    "summary.json": [b"{half", b"[1]", b"[" * 5000, b"\xff\xfe", b'{"finished": ' + b"1" * 5000 + b"}"],
    "config.yaml": [b"a: [1\nb: 2\n", b"\xff\xfe\x00", b"a: &a [*a]\n", b"a: " + b"[" * 5000],
    "samples/step-000002.jsonl": [
        b"no JSON\n",
        b'{"why": "best"}\n',
        b"[1, 2]\n",
        b'"text"\n',
        b"\xff\xfe\n",
        b"[" * 5000 + b"\n",
    ],
    "selection.parquet": [b"no parquet", b"PAR1" + bytes(100) + b"PAR1", b""],
}


@pytest.mark.parametrize(("name", "content"), [(name, content) for name, each in DAMAGE.items() for content in each])
def test_a_damaged_file_is_named_and_the_rest_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes
) -> None:
    run = tmp_path / "run"
    fill(run, 3)
    (run / name).write_bytes(content)
    assert run_command_line(["report", "--folder", str(run)]) == 0
    said, path = capsys.readouterr().out.splitlines()
    assert said.startswith(f"not shown: {run}/{name}:")
    assert len(said) < 500
    page = Path(path).read_text()
    assert "Not shown, since it cannot be read:" in page
    assert "25.0 % → 50.0 % (+25.0 points)" in page
    assert ("prompt &lt;script&gt;" in page) and "<figcaption>Reward" in page


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{half", "Expecting property name"),
        ("[1]", "a list in the place of names and numbers"),
        ('{"step": "two"}', "step is 'two', which is no number"),
        ('{"step": null}', "step is null"),
        ('{"step": 2, "learner/loss": {"a": 1}}', "learner/loss is"),
        ('{"step": 2, "learner/loss": 1e999}', "learner/loss is 'inf'"),
        ('{"step": ' + "9" * 400 + "}", "cannot be read (int too large"),
        ("[" * 5000, "cannot be read"),
    ],
)
def test_a_damaged_line_in_the_middle_of_the_metrics_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    fill(tmp_path, 3)
    metrics = tmp_path / "metrics.jsonl"
    first, *rest = metrics.read_text().splitlines(keepends=True)
    metrics.write_text(first + line + "\n" + "".join(rest))
    assert run_command_line(["report", "--folder", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith(f"not shown: {tmp_path}/metrics.jsonl:2: {said}")
    assert "25.0 % → 50.0 % (+25.0 points)" in (tmp_path / "report.html").read_text()
    metrics.write_text(first + "".join(rest) + line[:5])  # the last line of a run that is being written
    write_report(tmp_path)
    assert capsys.readouterr().out == ""


def test_what_stands_in_the_place_of_numbers_runs_no_script(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    samples = tmp_path / "samples" / "step-000003.jsonl"
    good = json.loads(samples.read_text())
    completions = [{**good["completions"][0], "num_tokens": EVIL}]
    foreign = [
        {**good, "ordinal": EVIL, "completions": completions},
        {**good, "num_completions": EVIL},
        {**good, "why": [EVIL]},
        {**good, "completions": [{**completions[0], "total": EVIL}]},
        {**good, "completions": [{**completions[0], "rewards": {EVIL: EVIL, "b": EVIL}}]},
        {**good, "failures": EVIL},
    ]
    samples.write_text("".join(json.dumps(group) + "\n" for group in foreign))
    (tmp_path / "summary.json").write_text(json.dumps({"finished": EVIL, "seconds": EVIL, EVIL: 1}))
    for name in ("step-x.jsonl", "step-\u0663.jsonl", f"step-{'9' * 30}.jsonl"):
        (tmp_path / "samples" / name).write_text("{}")
    said: list[str] = []
    page = write_report(tmp_path, said.append).read_text()
    assert len(said) == 5
    assert {"script", "img"} & {tag for tag, attributes in Tags(page).tags if attributes.get("id") != "figures"} == {
        "script"
    }
    assert [tag for tag in Tags(page).tags if tag[0] == "script"][1:] == [("script", {}), ("script", {})]
    assert f"prompt {escape(EVIL)}" in page and f">{escape(EVIL)}</td>" in page


def test_a_secret_in_an_older_config_or_failure_is_not_shown(tmp_path: Path) -> None:
    """Versions before wrote addresses as they were given."""
    fill(tmp_path, 3)
    secret = "http://user:hunter2@host/score?api_key=k3y"
    (tmp_path / "config.yaml").write_text(f"{CONFIG}rewards:\n- name: http\n  url: {secret}\n")
    samples = tmp_path / "samples" / "step-000003.jsonl"
    group = json.loads(samples.read_text())
    group["failures"] = [{"where": "http", "kind": "unreachable", "message": f"{secret}: ConnectError"}]
    samples.write_text(json.dumps(group) + "\n")
    page = write_report(tmp_path).read_text()
    assert page.count("http://***@host/score?api_key=***") == 2
    assert "hunter2" not in page and "k3y" not in page


def test_hundreds_of_damaged_lines_are_counted(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write("{half\n" * 300)
    said: list[str] = []
    write_report(tmp_path, said.append)
    assert len(said) == 21
    assert said[-1].endswith("and 280 more")
