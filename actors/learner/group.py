"""The learner group: one `Learner` on each rank of a Ray Train worker group.

Given a model and configs; gives the learner's verbs to the train loop. Ray Train owns the ranks (placement, process
group, failures); a mailbox actor carries our commands to all of them and rank 0's answer back.

    train loop ── call(command) ────▶ mailbox ◀── next(index) ── every rank, in the same order
               ◀── rank 0's result ── mailbox ◀── done(index, rank, answer)

Who waits for whom: a rank waits in `next` until the loop calls; the loop waits in `call` until every rank is done,
the deadline passes, or the worker group ends, whichever is first. A loop that waits for others meanwhile waits for
`lost` beside them: Ray Train looks after the ranks every two seconds, and ends those that are silent. After an error
the group is of no use: `failure` says why, and the run starts another (`jobs/run/recovery.py`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, cast

from raylign.actors.learner.by_place import by_place
from raylign.actors.learner.daemon_thread import in_daemon_thread
from raylign.actors.learner.last_words import last_words
from raylign.actors.learner.mailbox import POLL_S, STOP, WHERE, Command, LearnerError, Mailbox, MailboxHandle
from raylign.actors.learner.serve import RankArguments, serve_rank
from raylign.actors.learner.spec import LearnerSpec
from raylign.actors.learner.verbs import RankVerbs
from raylign.actors.placement import described, labels_of, no_room, on_this_node
from raylign.actors.waiting import wait_for
from raylign.learners.examples.example import Example
from raylign.rollout.owned_folders import OwnedFolder
from raylign.rollout.weights.buckets import BucketInfo

if TYPE_CHECKING:
    from ray.actor import ActorHandle

RANKS_END_S = 20.0
"""For Ray Train to end ranks of which one failed, by force where they do not answer."""
P = ParamSpec("P")
R = TypeVar("R")
RANK_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",  # ranks and engines share cores: a thread that spins while it waits slows the others
    "TORCH_COMPILE_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


class LearnerGroup:
    """The learner as the train loop sees it: awaitable verbs."""

    def __init__(
        self,
        spec: LearnerSpec,
        cpus_per_rank: float,
        gpus_per_rank: float,
        labels: Mapping[str, str] | None = None,
        reads_files: bool = False,
    ) -> None:
        """`gpus_per_rank`: 0 on CPU, a half where a rank shares the only GPU with an engine. `labels`: of its nodes.
        `reads_files`: all ranks are on this node, and read the log themselves."""
        self._spec = spec
        self._cpus_per_rank = cpus_per_rank
        self._gpus_per_rank = gpus_per_rank
        self._labels = dict(labels or {})
        self._sent = by_place if reads_files else list
        self._mailbox: MailboxHandle | None = None
        self._is_placed = False
        self._fit: asyncio.Future[None] | None = None
        self._under_way: set[asyncio.Event] = set()
        """One for each verb, which is set when it has ended."""
        self.failure: LearnerError | None = None
        """Set by the first verb that failed, or by `lost`: none will be answered any more."""

    async def start(self, placement_deadline_s: float) -> None:
        """`place` and `load`."""
        await self.place(placement_deadline_s)
        await self.load()

    async def place(self, deadline_s: float) -> str:
        """Start the ranks' processes, which load nothing yet; gives the node of rank 0."""
        import ray

        actor = ray.remote(Mailbox).options(num_cpus=0, max_concurrency=64, scheduling_strategy=on_this_node())
        self._mailbox = cast(MailboxHandle, actor.remote(self._spec.config.num_ranks))
        self._storage = OwnedFolder("raylign-train-")
        self._fit = in_daemon_thread(partial(self._run_trainer, deadline_s))
        count = self._spec.config.num_ranks
        role, together = f"{count} learner ranks", {name: count * each for name, each in self._resources.items()}

        def standing() -> str:
            on = f" on nodes with {labels_of(self._labels)}" if self._labels else ""
            free = described(ray.available_resources()) or "nothing"
            return f"they want {described(together)}{on}; free on all nodes: {free}"

        try:
            where = self._send(WHERE, None, deadline_s)
            node: str = await wait_for(where, f"room for {role}", deadline_s, state=standing)
        except (TimeoutError, LearnerError) as error:
            if isinstance(error, LearnerError) and self._fit.done():  # it failed by itself, and says why
                raise
            raise no_room(role, together, self._labels) from error
        self._is_placed = True
        return node

    async def load(self) -> None:
        """Build a learner on every rank."""
        await self._call(RankVerbs.ready)

    @property
    def _resources(self) -> dict[str, float]:
        """Of one rank."""
        return {"CPU": self._cpus_per_rank} | ({"GPU": self._gpus_per_rank} if self._gpus_per_rank else {})

    def _run_trainer(self, placement_deadline_s: float) -> None:
        # Ray Train would give the place up and ask again every minute; `place` has the deadline
        os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(placement_deadline_s + POLL_S)
        os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(self._spec.config.silence_deadline_s)
        from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig

        from raylign.actors.learner.quiet_trainer import QuietTorchConfig, QuietTorchTrainer

        assert self._mailbox is not None, "place() has made it"
        arguments: RankArguments = {"spec": self._spec, "mailbox": self._mailbox}
        trainer = QuietTorchTrainer(
            serve_rank,
            train_loop_config=arguments,
            torch_config=QuietTorchConfig(backend="nccl" if self._gpus_per_rank else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=self._spec.config.num_ranks,
                use_gpu=self._gpus_per_rank > 0,
                resources_per_worker=self._resources,
                placement_strategy="PACK",
                label_selector=self._labels or None,
            ),
            run_config=RunConfig(
                name="learner",
                storage_path=str(self._storage.path),
                failure_config=FailureConfig(max_failures=0, max_preemption_failures=0),
                logging_config=LoggingConfig(log_level="WARNING"),
                worker_runtime_env={"env_vars": RANK_ENVIRONMENT},
            ),
        )
        trainer.mailbox = self._mailbox
        trainer.fit()

    async def _call(self, verb: Callable[Concatenate[RankVerbs, P], R], *given: P.args, **named: P.kwargs) -> R:
        """Run one of `RankVerbs` on every rank."""
        import ray

        config = self._spec.config
        deadline_s = config.start_deadline_s if verb is RankVerbs.ready else config.step_deadline_s
        return cast(R, await self._send(verb.__name__, ray.put((given, named)), deadline_s))

    async def _send(self, name: str, arguments: Any, deadline_s: float) -> Any:
        assert self._fit is not None and self._mailbox is not None, "place() comes first"
        call = asyncio.ensure_future(self._mailbox.call.remote(Command(name, arguments), deadline_s))
        self._under_way.add(has_ended := asyncio.Event())
        try:
            finished, _ = await asyncio.wait(
                {call, self._fit}, timeout=deadline_s + POLL_S, return_when=asyncio.FIRST_COMPLETED
            )
            if self._fit in finished:
                # A rank that raised has told the mailbox first; its traceback is the better message.
                await asyncio.wait({call}, timeout=2.0)
            if call.done():
                return answer_of(call)
            if self._fit in finished:
                raise self._end_of_it(f"during `{name}`")
            raise LearnerError(f"`{name}` got no answer from the learner group within {deadline_s:.0f} s")
        except LearnerError as error:
            self.failure = self.failure or error
            raise
        finally:
            call.cancel()  # no effect where it is done: else the mailbox lives, and would be waited for
            self._under_way.discard(has_ended)
            has_ended.set()

    def _end_of_it(self, when: str) -> LearnerError:
        assert self._fit is not None
        cause = self._fit.exception()
        error = LearnerError(f"the learner group ended {when}: {last_words(cause)}")
        error.__cause__ = cause
        return error

    async def lost(self) -> LearnerError:
        """Returns once the group has ended by itself, be it that nobody asks it for anything: a rank that died, or one
        that Ray Train has ended for its silence (`learner.silence_deadline_s`)."""
        assert self._fit is not None, "place() comes first"
        await asyncio.wait({self._fit})
        for verb in [*self._under_way]:  # one that is under way says more: the traceback of the rank
            await verb.wait()
        self.failure = self.failure or self._end_of_it("while nothing was asked of it")
        return self.failure

    # ---- `RankVerbs`, which says what each does ---------------------------------------------------------

    async def update(self, examples: Sequence[Example], version: int | None = None) -> dict[str, float]:
        return await self._call(RankVerbs.update, self._sent(examples), version)

    async def evaluate(self, examples: Sequence[Example]) -> dict[str, float]:
        return await self._call(RankVerbs.evaluate, examples)

    async def algorithm_state(self) -> dict[str, Any]:
        return await self._call(RankVerbs.algorithm_state)

    async def offload(self) -> None:
        await self._call(RankVerbs.offload)

    async def reload(self) -> None:
        await self._call(RankVerbs.reload)

    async def export_weights(self, version: int) -> list[BucketInfo]:
        return await self._call(RankVerbs.export_weights, version)

    async def release_weights(self) -> None:
        await self._call(RankVerbs.release_weights)

    async def save(self, folder: Path) -> None:
        await self._call(RankVerbs.save, str(folder))

    async def stop(self, deadline_s: float = 30.0) -> None:
        """End the ranks; after the deadline their processes are left to Ray's own teardown."""
        import ray

        if self._fit is None or self._mailbox is None:
            return
        if not self._is_placed:  # there is nobody who could stop: what waits for a place ends with this process
            deadline_s = 0.0
        elif self.failure is not None:  # a rank may wait for ever for another that is gone
            await asyncio.wait({self._fit}, timeout=RANKS_END_S)
            if not self._fit.done():
                self._mailbox.abort.remote()
        elif not self._fit.done():
            self._mailbox.call.remote(Command(STOP), deadline_s)
        await asyncio.wait({self._fit}, timeout=deadline_s)
        if self._fit.done():
            self._fit.exception()  # whoever called a verb has seen it
        ray.kill(cast("ActorHandle[Mailbox]", self._mailbox))
        self._storage.remove()


def answer_of(call: asyncio.Future[Any]) -> Any:
    """The mailbox's answer; its error without the actor call around it."""
    from ray.exceptions import RayTaskError

    try:
        return call.result()
    except RayTaskError as error:
        raise error.cause if isinstance(error.cause, LearnerError) else error from None
