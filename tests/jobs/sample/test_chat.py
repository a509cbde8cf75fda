"""`raylign chat`: what the model is told, and what Ctrl-C and the end of the input do."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from raylign.jobs.chat.chat import conversation_of, talk
from raylign.jobs.chat.config import ChatConfig
from raylign.jobs.chat.conversation import Conversation
from raylign.jobs.cli import run_command_line
from raylign.rollout.engine.fake_engine import FakeEngine
from raylign.rollout.sample import Prompt, StopReason
from raylign.rollout.sampling import SamplingConfig
from tests.jobs.stand_ins import StandIns

pytestmark = pytest.mark.usefixtures("one_tokenizer")


def echo(prompt: Prompt, seed: int) -> str:
    return f"<{len(prompt.messages)}>"


class SlowEngine(FakeEngine):
    """Interrupts its owner in the middle of the first answer, as Ctrl-C does, and then waits."""

    was_left = False

    async def stream(self, prompt: Prompt, sampling: SamplingConfig) -> AsyncIterator[tuple[str, StopReason | None]]:
        if prompt.ordinal > 1:
            yield "whole", "stop"
            return
        yield "half", None
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            await asyncio.Event().wait()
        finally:
            self.was_left = True


def said(conversation: Conversation, engine: FakeEngine, lines: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    with asyncio.Runner() as runner:
        runner.run(engine.start())
        talk(ChatConfig(), conversation, engine, runner)


def test_a_chat_remembers_what_was_said_until_it_begins_anew(
    stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    conversation = conversation_of(ChatConfig(system="be brief"), stand_ins.model)
    said(conversation, FakeEngine(echo), "1 + 1\n\n2 + 2\n/new\n3 + 3\n/quit\n4 + 4\n", monkeypatch)
    assert capsys.readouterr().out == "<2>\n<4>\n(a new conversation)\n<2>\n"  # with the system message
    prompt = conversation.ask("5 + 5")
    assert [message["role"] for message in prompt.messages] == ["system", "user", "assistant", "user"]
    assert prompt.text.count("3 + 3") == 1 and "4 + 4" not in prompt.text


def test_a_plain_template_is_that_of_the_run_and_has_no_memory(stand_ins: StandIns, tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step-000001").mkdir(parents=True)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": {"template": "Q: {prompt} A:", "system": None}}))
    for model in (tmp_path, tmp_path / "checkpoints" / "step-000001"):
        conversation = conversation_of(ChatConfig(model=str(model)), stand_ins.model)
        assert conversation.ask("1 + 1").text == "Q: 1 + 1 A:"
        conversation.answered("2")
        assert conversation.ask("2 + 2").text == "Q: 2 + 2 A:" and not conversation.has_memory
    (tmp_path / "config.yaml").write_text("data: [")
    with pytest.raises(ValueError, match=r"config\.yaml: not a readable config"):
        conversation_of(ChatConfig(model=str(tmp_path)), stand_ins.model)


def test_ctrl_c_ends_an_answer_and_not_the_conversation(
    stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    conversation, engine = conversation_of(ChatConfig(), stand_ins.model), SlowEngine(echo)
    said(conversation, engine, "1 + 1\n2 + 2\n", monkeypatch)
    assert capsys.readouterr().out == "half (stopped)\nwhole\n"
    assert engine.was_left
    assert [message["content"] for message in conversation.messages] == ["1 + 1", "half", "2 + 2", "whole"]


def test_a_prompt_beyond_the_context_is_said_and_the_chat_goes_on(
    stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    conversation = conversation_of(ChatConfig(), stand_ins.model)
    said(conversation, FakeEngine(echo), "1 " * 2000 + "\n1 + 1\n", monkeypatch)
    out = capsys.readouterr().out
    assert "/new begins another" in out and out.endswith("<1>\n")


def test_an_answer_that_is_cut_says_so(
    stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    conversation = conversation_of(ChatConfig(), stand_ins.model)
    said(conversation, FakeEngine(lambda prompt, seed: "x" * 300), "1 + 1\n", monkeypatch)
    assert capsys.readouterr().out == "x" * 256 + " (cut at sampling.max_tokens = 256)\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["chat", "--model", "/nothing/here"], "model folder not found: /nothing/here"),
        (["chat", "--temperature", "0"], "did you mean --sampling.temperature?"),
        (["chat", "--template", "no place"], "a plain template with {prompt} in it"),
        (["sample", "--num_completions", "2", "--sampling.temperature", "0"], "all answers are the same"),
        (["sample", "--model", "/nothing/here"], "model folder not found: /nothing/here"),
        (["sample", "--rewards", "[]"], "--rewards: unknown option"),
        (["export", "--model", "/nothing/here", "--output", "x"], "neither a run folder"),
        (["export", "--model", "a"], "output: is missing"),
        (["export", "--model", "a", "--output", "x", "--push", "name"], "write ORG/NAME"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_bad_input_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(words) == 2
    err = capsys.readouterr().err
    assert said in err and "Traceback" not in err


def test_answers_of_a_chat_template_are_rows_that_render_once(stand_ins: StandIns, tmp_path: Path) -> None:
    """The file is given to `data` again: question and answer come back, whatever template wrote the prompt."""
    import json

    from raylign.jobs.sample.sample import answer_rows
    from raylign.rollout.best_worst import Answer, AnswerSet
    from raylign.rollout.data.config import DataConfig
    from raylign.rollout.data.loading import load_rows

    asked = ({"role": "user", "content": "1 + 1"},)
    answers = (Answer("2", (5,), True), Answer("3", (6,), False))
    drawn = AnswerSet(0, "p", "<user>1 + 1<assistant>", answers, (None, None), {}, "model@1", 0, "f", (), asked)
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in answer_rows(drawn, as_chat=True)))
    loaded = load_rows(DataConfig(source=str(path)))
    assert [(item.messages, item.response) for item in loaded.mapped] == [(list(asked), "2"), (list(asked), "3")]
    assert "chats in column 'messages'" in loaded.found
