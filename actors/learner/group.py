"""The learner group: one `Learner` on each rank of a Ray Train worker group.

Given a model and configs; gives the learner's verbs to the train loop. Ray Train owns the ranks (placement, process
group, failures); a mailbox actor carries our commands to all of them and rank 0's answer back.

    train loop ── call(verb, arguments) ──▶ mailbox ◀── next(rank) ── every rank, in the same order
               ◀── rank 0's result ──────── mailbox ◀── done(rank, result)

Who waits for whom: a rank waits in `next` until the loop calls; the loop waits in `call` until every rank is done,
the deadline passes, or the worker group ends, whichever is first.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from raylign.actors.learner.spec import LearnerSpec
from raylign.learners.examples.example import Example

POLL_S = 20.0
RANK_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",  # ranks and engines share cores: a thread that spins while it waits slows the others
    "TORCH_COMPILE_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


class LearnerError(RuntimeError):
    """The learner group failed; the message holds the rank's own words."""


class Mailbox:
    """Hands each command to every rank once, in order, and gathers their answers."""

    def __init__(self, num_ranks: int) -> None:
        self._num_ranks = num_ranks
        self._commands: list[tuple[str, tuple[Any, ...]]] = []
        self._answers: list[dict[int, tuple[bool, Any]]] = []
        self._changed = asyncio.Condition()

    async def call(self, verb: str, arguments: tuple[Any, ...], deadline_s: float) -> Any:
        """Rank 0's result once all ranks are done; the first failed rank's words as a `LearnerError`."""
        async with self._changed:
            index = len(self._commands)
            self._commands.append((verb, arguments))
            self._answers.append({})
            self._changed.notify_all()
            answers = self._answers[index]

            def settled() -> bool:
                return len(answers) == self._num_ranks or any(not ok for ok, _ in answers.values())

            try:
                await asyncio.wait_for(self._changed.wait_for(settled), deadline_s)
            except TimeoutError:
                missing = sorted(set(range(self._num_ranks)) - set(answers))
                raise LearnerError(
                    f"`{verb}` took over {deadline_s:.0f} s; ranks {missing} have not answered"
                ) from None
        for rank, (ok, value) in sorted(answers.items()):
            if not ok:
                raise LearnerError(f"rank {rank} failed in `{verb}`:\n{value}")
        self._commands[index] = (verb, ())  # lets Ray free the payload
        result = answers[0][1]
        answers.clear()  # a long run asks many times
        return result

    async def next(self, index: int) -> tuple[str, tuple[Any, ...]] | None:
        """Command number `index`, or None when none came within the poll time (the rank asks again)."""
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(lambda: len(self._commands) > index), POLL_S)
            except TimeoutError:
                return None
            return self._commands[index]

    async def done(self, index: int, rank: int, ok: bool, value: Any) -> None:
        """Rank's answer to command `index`."""
        async with self._changed:
            self._answers[index][rank] = (ok, value)
            self._changed.notify_all()


def serve_rank(arguments: dict[str, Any]) -> None:
    """What Ray Train runs on every rank: build the learner, then serve commands until `stop`."""
    import ray
    import ray.train

    from raylign.actors.learner.rank import LearnerRank

    spec: LearnerSpec = arguments["spec"]
    mailbox = arguments["mailbox"]
    context = ray.train.get_context()
    rank = context.get_world_rank()
    learner: LearnerRank | None = None
    index = 0
    while True:
        command = ray.get(mailbox.next.remote(index), timeout=POLL_S * 6)
        if command is None:
            continue
        verb, payload = command
        if verb == "stop":
            ray.get(mailbox.done.remote(index, rank, True, None), timeout=POLL_S)
            return
        try:
            if verb == "start":
                learner = LearnerRank(spec)
                result = None
            else:
                assert learner is not None, "start comes first"
                resolved = [ray.get(item) if isinstance(item, ray.ObjectRef) else item for item in payload]
                result = getattr(learner, verb)(*resolved)
        except BaseException:
            ray.get(mailbox.done.remote(index, rank, False, traceback.format_exc()), timeout=POLL_S)
            raise
        ray.get(mailbox.done.remote(index, rank, True, result if rank == 0 else None), timeout=POLL_S)
        index += 1


class LearnerGroup:
    """The learner as the train loop sees it: awaitable verbs."""

    def __init__(self, spec: LearnerSpec, cpus_per_rank: float, gpus_per_rank: float) -> None:
        """`gpus_per_rank`: 0 on CPU, a half where a rank shares the only GPU with an engine."""
        self._spec = spec
        self._cpus_per_rank = cpus_per_rank
        self._gpus_per_rank = gpus_per_rank
        self._mailbox: Any = None
        self._fit: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Start the worker group and build a learner on every rank."""
        import ray

        self._mailbox = ray.remote(Mailbox).options(num_cpus=0, max_concurrency=64).remote(self._spec.config.num_ranks)
        self._storage = tempfile.mkdtemp(prefix="raylign-train-")
        self._fit = in_daemon_thread(self._run_trainer)
        await self._call("start", deadline_s=self._spec.config.start_deadline_s)

    def _run_trainer(self) -> None:
        from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig

        from raylign.actors.learner.quiet_trainer import QuietTorchTrainer

        QuietTorchTrainer(
            serve_rank,
            train_loop_config={"spec": self._spec, "mailbox": self._mailbox},
            torch_config=TorchConfig(backend="nccl" if self._gpus_per_rank else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=self._spec.config.num_ranks,
                use_gpu=self._gpus_per_rank > 0,
                resources_per_worker={
                    "CPU": self._cpus_per_rank,
                    **({"GPU": self._gpus_per_rank} if self._gpus_per_rank else {}),
                },
            ),
            run_config=RunConfig(
                name="learner",
                storage_path=self._storage,
                failure_config=FailureConfig(max_failures=0),
                logging_config=LoggingConfig(log_level="WARNING"),
                worker_runtime_env={"env_vars": RANK_ENVIRONMENT},
            ),
        ).fit()

    async def _call(self, verb: str, *arguments: Any, deadline_s: float | None = None) -> Any:
        assert self._fit is not None, "start() comes first"
        deadline_s = deadline_s or self._spec.config.step_deadline_s
        call = asyncio.ensure_future(self._mailbox.call.remote(verb, arguments, deadline_s))
        finished, _ = await asyncio.wait(
            {call, self._fit}, timeout=deadline_s + POLL_S, return_when=asyncio.FIRST_COMPLETED
        )
        if call in finished:
            return own_words(call)
        if self._fit in finished:
            # A rank that raised has told the mailbox first; its own words are the better message.
            await asyncio.wait({call}, timeout=2.0)
            if call.done():
                return own_words(call)
            error = self._fit.exception()
            raise LearnerError(f"the learner group ended during `{verb}`: {error}") from error
        raise LearnerError(f"`{verb}` got no answer from the learner group within {deadline_s:.0f} s")

    async def update(self, examples: list[Example], version: int | None = None) -> dict[str, float]:
        """One batch: `algorithm.num_updates` optimizer steps. Metrics of all ranks together. `version`: of the weights
        that the batch improves; no token may be older than the bound."""
        import ray

        return await self._call("update", ray.put(examples), version)

    async def evaluate(self, examples: list[Example]) -> dict[str, float]:
        """Loss and metrics of the current model on examples, without a gradient."""
        result: dict[str, float] = await self._call("evaluate", examples)
        return result

    async def algorithm_state(self) -> dict[str, Any]:
        """What the algorithm learned beside the model."""
        result: dict[str, Any] = await self._call("algorithm_state")
        return result

    async def offload(self) -> None:
        """Leave the GPU to the engine (colocated mode)."""
        await self._call("offload")

    async def reload(self) -> None:
        """Take the GPU back."""
        await self._call("reload")

    async def logprobs(self, examples: list[Example]) -> list[Any]:
        """Log-probs of the completions under the current weights."""
        import ray

        return await self._call("logprobs", ray.put(examples))

    async def export_weights(self, version: int) -> list[dict[str, Any]]:
        """Make the current weights available to engines; the description that they need to fetch them."""
        return await self._call("export_weights", version)

    async def release_weights(self) -> None:
        """Engines have fetched the exported weights."""
        await self._call("release_weights")

    async def connect_weights(self, transport: str, handles: Sequence[Any]) -> None:
        """Open the transport (nccl, ipc) between rank 0 and the engines behind `handles`."""
        await self._call("connect_weights", transport, tuple(handles))

    async def send_weights(self, version: int) -> None:
        """Rank 0 drives the whole update on all connected engines."""
        await self._call("send_weights", version)

    async def save(self, folder: Path) -> None:
        """Write the model in Hugging Face format to `folder`, and resumable state to `folder/state`."""
        await self._call("save", str(folder))

    async def stop(self, deadline_s: float = 30.0) -> None:
        """End the ranks; after the deadline their processes are left to Ray's own teardown."""
        import ray

        if self._fit is None:
            return
        if not self._fit.done():
            self._mailbox.call.remote("stop", (), deadline_s)
        await asyncio.wait({self._fit}, timeout=deadline_s)
        if self._fit.done():
            self._fit.exception()  # whoever called a verb has seen it
        ray.kill(self._mailbox)
        shutil.rmtree(self._storage, ignore_errors=True)


def own_words(call: asyncio.Future[Any]) -> Any:
    """The mailbox's answer; its error without the actor call around it."""
    from ray.exceptions import RayTaskError

    try:
        return call.result()
    except RayTaskError as error:
        raise error.cause if isinstance(error.cause, LearnerError) else error from None


def in_daemon_thread(work: Callable[[], None]) -> asyncio.Future[None]:
    """Like `asyncio.to_thread`, but work that never returns (a rank hangs) does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def settle(error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    def run() -> None:
        error = None
        try:
            work()
        except BaseException as raised:  # handed to whoever awaits
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody awaits any more
            loop.call_soon_threadsafe(settle, error)

    threading.Thread(target=run, daemon=True, name="learner-group").start()
    return future
