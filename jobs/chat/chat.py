"""`raylign chat`: talk to a model in the terminal, through the engine and the template of training.

Given a `ChatConfig` and lines from standard input; prints the answers as they come. Ctrl-C ends an answer; at an empty
line it ends the conversation, as Ctrl-D and /quit do. /new begins another one.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from raylign.jobs.chat.config import ChatConfig
from raylign.jobs.chat.conversation import Conversation
from raylign.jobs.run.checkpoints import model_folder
from raylign.jobs.run.trained_as import config_of_run, run_of_model
from raylign.rollout.engine.base import RolloutEngine
from raylign.rollout.engine.builder import build_engine
from raylign.rollout.model_folder import check_model_folder, load_tokenizer
from raylign.rollout.sample import Prompt
from raylign.rollout.sampling import SamplingConfig

WELCOME = "Write a line; Ctrl-C ends an answer, /new begins anew, /quit (or Ctrl-D) ends."
ONE_BY_ONE = "Its template has no place for what was said before: each line is a prompt of its own."


def chat(config: ChatConfig) -> None:
    """Load the model, then answer line by line."""
    model_path = model_folder(config.model)
    check_model_folder(model_path)
    conversation = conversation_of(config, model_path)
    engine = build_engine(model_path, config.engine, weight_backend=None, seed=config.seed, sleeps=False, lora_rank=0)
    with asyncio.Runner() as runner:
        # Ctrl-C in a terminal reaches every process in front, and would end the engine's: they inherit what is blocked
        # in the thread that starts them.
        runner.get_loop().set_default_executor(ThreadPoolExecutor(1, initializer=_block_interrupts))
        print(f"loading {model_path} …", file=sys.stderr, flush=True)
        try:
            runner.run(engine.start())
            print(WELCOME if conversation.has_memory else f"{WELCOME}\n{ONE_BY_ONE}", file=sys.stderr, flush=True)
            talk(config, conversation, engine, runner)
        finally:
            runner.run(engine.stop())
            for process in multiprocessing.active_children():  # of a start that was broken off
                process.kill()


def conversation_of(config: ChatConfig, model_path: str) -> Conversation:
    """With what the run was trained with, where the config says nothing else."""
    run = run_of_model(config.model)
    trained_with = config_of_run(run).get("data") or {} if run is not None else {}
    template = config.template or trained_with.get("template") or "chat"
    system = config.system
    if system is None and template == "chat":
        system = trained_with.get("system")
    room = config.engine.max_model_len - config.sampling.max_tokens
    return Conversation(load_tokenizer(model_path), template, system, room)


def talk(config: ChatConfig, conversation: Conversation, engine: RolloutEngine, runner: asyncio.Runner) -> None:
    """Until the input ends."""
    sampling = config.sampling.of(1)
    while (line := next_line()) not in (None, "/quit", "/exit"):
        assert line is not None
        if line == "/new":
            conversation.begin_anew()
            print("(a new conversation)", flush=True)
            continue
        if not line.strip():
            continue
        try:
            prompt = conversation.ask(line)
        except ValueError as error:
            print(f"({error})", flush=True)
            continue
        answer = Answer()
        try:
            runner.run(print_answer(engine, prompt, sampling, answer))
        except KeyboardInterrupt:
            print(" (stopped)", end="")
        print(flush=True)
        conversation.answered(answer.text)


def next_line() -> str | None:
    """None at the end of the input, or at Ctrl-C."""
    try:
        return input("> " if sys.stdin.isatty() else "")
    except EOFError:
        return None
    except KeyboardInterrupt:
        print()
        return None


@dataclass
class Answer:
    """As far as it has come."""

    text: str = ""


async def print_answer(engine: RolloutEngine, prompt: Prompt, sampling: SamplingConfig, answer: Answer) -> None:
    """Piece by piece; `answer` keeps what came when it is cancelled."""
    async for piece, stop_reason in engine.stream(prompt, sampling):
        answer.text += piece
        print(piece, end="", flush=True)
        if stop_reason == "length":
            print(f" (cut at sampling.max_tokens = {sampling.max_tokens})", end="")


def _block_interrupts() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
