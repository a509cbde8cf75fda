"""The rollout engine: vLLM's AsyncLLM behind a few verbs.

Given prompts and a `SamplingConfig`, gives `Group`s as they finish. Weight updates follow vLLM's own protocol.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import multiprocessing
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from raylign.rollout.engine.base import EngineDiedError
from raylign.rollout.engine.config import EngineConfig
from raylign.rollout.engine.evidence import STOP_REASONS, EvidenceError, to_completion
from raylign.rollout.engine.process import set_environment
from raylign.rollout.sample import ENGINE_DIED, Completion, Failure, Group, Prompt, StopReason
from raylign.rollout.sampling import AnswerSamplingConfig, SamplingConfig
from raylign.rollout.weights.buckets import AdapterFolder, BucketError, BucketInfo, check_buckets

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.outputs import RequestOutput


T = TypeVar("T")
POLL_INTERVAL_S = 1.0
"""How often a call in flight looks whether its engine still lives."""


class VllmEngine:
    """vLLM's AsyncLLM, in processes of its own, which end with this one.

    With a seed, completion `i` of a prompt is drawn from a generator of its own with seed `seed + i`: what is sampled
    does not depend on what else is in the batch (up to rounding). Without one, all draw from the engine's generator.
    """

    def __init__(
        self,
        model_path: str,
        config: EngineConfig,
        *,
        weight_backend: str | None = None,
        seed: int = 0,
        sleeps: bool = False,
        lora_rank: int = 0,
    ) -> None:
        """`weight_backend`: shared_memory, or None when weights never change. `sleeps`: shares
        its GPU by turns (`sleep`, `wake`). `lora_rank`: of the adapter that updates bring, on top of the model's own
        weights; 0: they bring all weights."""
        self._model_path = model_path
        self._config = config
        self._weight_backend = weight_backend
        self._seed = seed
        self._sleeps = sleeps
        self._lora_rank = lora_rank
        self._adapter: AdapterFolder | None = None
        self._adapter_buckets: list[BucketInfo] = []
        self._num_requests = 0
        self._cache_salt, self._num_commits = "", 0
        """Keys and values are shared among requests of one salt."""
        self._llm: Any = None
        self._tokenizer: Any = None

    async def start(self) -> None:
        """Start the engine's processes and load the model; its weights are version 0 until another is committed."""
        config = self._config
        others = set(multiprocessing.active_children())
        starting = asyncio.create_task(asyncio.to_thread(self._build))
        started_at = time.monotonic()
        while not (await asyncio.wait({starting}, timeout=min(30.0, config.start_deadline_s)))[0]:
            waited_s = time.monotonic() - started_at
            if waited_s >= config.start_deadline_s:
                for process in set(multiprocessing.active_children()) - others:
                    process.kill()
                raise TimeoutError(
                    f"the vLLM engine of {self._model_path} did not start within {config.start_deadline_s:.0f} s "
                    "(engine.start_deadline_s)"
                )
            print(f"waiting for the vLLM engine of {self._model_path} to start since {waited_s:.0f} s", flush=True)
        starting.result()
        self._tokenizer = self._llm.get_tokenizer()
        await self._llm.update_weight_version("0")

    def _build(self) -> None:
        import torch

        on_gpu = torch.cuda.is_available()
        config = self._config
        if not on_gpu and config.tensor_parallel_size > 1:
            raise ValueError(
                f"engine.tensor_parallel_size is {config.tensor_parallel_size} but this machine has no GPU; "
                "start more engines instead (rollout.num_engines)"
            )
        set_environment(self._model_path, None if on_gpu else config.cpu_cores)

        from vllm.config import WeightTransferConfig
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.model_executor.models import registry
        from vllm.v1.engine.async_llm import AsyncLLM

        if not on_gpu:
            # A model seen for the first time is looked at in a process of its own, lest it start CUDA in this one: 9 s.
            registry._run_in_subprocess = lambda look: look()

        auto_dtype: Literal["bfloat16", "float32"] = "bfloat16" if on_gpu else "float32"
        arguments = AsyncEngineArgs(
            model=self._model_path,
            trust_remote_code=False,
            load_format="safetensors",
            dtype=auto_dtype if config.dtype == "auto" else config.dtype,
            seed=self._seed,
            max_model_len=config.max_model_len,
            max_num_seqs=config.max_num_seqs,
            tensor_parallel_size=config.tensor_parallel_size,
            # inside our placement group vLLM would choose its Ray executor, which wants bundles of its own
            distributed_executor_backend="mp" if config.tensor_parallel_size > 1 else None,
            gpu_memory_utilization=config.gpu_memory_utilization,
            kv_cache_memory_bytes=None if on_gpu else int(config.kv_cache_gib * 2**30),
            enforce_eager=not on_gpu,
            # vLLM 0.32 rewinds a seeded generator after a partial prefill, which CPU generators cannot do
            enable_chunked_prefill=on_gpu,
            max_num_batched_tokens=None if on_gpu else max(8192, config.max_model_len),
            logprobs_mode="processed_logprobs",
            worker_extension_cls="raylign.rollout.weights.transfer.WorkerExtension",
            weight_transfer_config=(
                WeightTransferConfig(backend=self._weight_backend) if self._weight_backend else None
            ),
            enable_sleep_mode=self._sleeps,
            disable_log_stats=True,
            use_tqdm_on_load=False,
            enable_lora=self._lora_rank > 0,
            max_loras=1,
            max_lora_rank=allowed_lora_rank(self._lora_rank) if self._lora_rank else 16,  # type: ignore[arg-type]
        )
        self._llm = AsyncLLM.from_engine_args(arguments)

    async def generate(self, prompt: Prompt, sampling: SamplingConfig, seed: int | None) -> Group:
        """All completions of one prompt; an engine failure is a value in `failures`."""
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        limit = self._config.max_model_len
        if len(prompt.token_ids) >= limit:
            raise ValueError(
                f"prompt {prompt.prompt_id} has {len(prompt.token_ids)} tokens and leaves no room in "
                f"engine.max_model_len = {limit}"
            )
        self._num_requests += 1
        started_at = time.perf_counter()
        if self._lora_rank and self._adapter is None:
            raise ValueError("this engine serves a model with an adapter, and was sent none yet")
        salt = {"cache_salt": self._cache_salt} if self._cache_salt else {}
        try:
            if self._llm is None:
                raise EngineDeadError()
            async for output in self._llm.generate(
                {"type": "token", "prompt_token_ids": prompt.token_ids.tolist()} | salt,
                sampling_params(sampling, seed),
                request_id=f"{prompt.ordinal}-{self._num_requests}",
                lora_request=self._lora_request(load_inplace=False),
            ):
                final = output  # FINAL_ONLY: there is exactly one, with all completions
            completions = self._completions(final, with_text=bool(sampling.stop))
        except (EngineDeadError, EngineGenerateError, EvidenceError) as error:
            kind = ENGINE_DIED if isinstance(error, EngineDeadError) else "engine"
            return Group(prompt, (), failures=(Failure(kind, "engine", self._failure_message(error)),))
        return Group(prompt, completions, timings_s={"generate": time.perf_counter() - started_at})

    async def stream(self, prompt: Prompt, sampling: SamplingConfig) -> AsyncIterator[tuple[str, StopReason | None]]:
        """The text of one completion as it comes; leaving the iteration aborts the request."""
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        parameters = sampling_params(sampling, None)
        parameters.detokenize, parameters.output_kind = True, RequestOutputKind.DELTA
        self._num_requests += 1
        tokens: Any = {"type": "token", "prompt_token_ids": prompt.token_ids.tolist()}
        token_ids: list[int] = []
        said = ""
        try:
            async for output in self._llm.generate(tokens, parameters, request_id=f"stream-{self._num_requests}"):
                last = output.outputs[0]
                token_ids += last.token_ids
                text = last.text
                if output.finished:  # vLLM holds back bytes that may become a character, also where no more come
                    whole: str = self._tokenizer.decode(token_ids, skip_special_tokens=True)
                    text = whole.removeprefix(said) if whole.startswith(said + text) else text
                said += text
                yield text, STOP_REASONS.get(last.finish_reason or "", "aborted") if output.finished else None
        except (EngineDeadError, EngineGenerateError) as error:
            raise EngineDiedError(self._failure_message(error)) from error

    def _failure_message(self, error: Exception) -> str:
        if self._llm is None:
            return "the engine was stopped"
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        manager = self._llm.engine_core.resources.engine_manager
        exits = ", ".join(f"{name} ended with code {code}" for name, code in manager.finished_procs().items())
        return f"{type(error).__name__}: {error}{cause} {exits}".strip()

    def _completions(self, output: RequestOutput, with_text: bool) -> tuple[Completion, ...]:
        if with_text:
            texts = [completion.text for completion in output.outputs]
        else:
            texts = self._tokenizer.batch_decode(
                [list(completion.token_ids) for completion in output.outputs], skip_special_tokens=True
            )
        return tuple(map(to_completion, output.outputs, texts))

    async def _answer(self, call: Awaitable[T]) -> T:
        """The answer of the engine's process. vLLM never settles a call whose process died, so we look at both."""
        from vllm.v1.engine.exceptions import EngineDeadError

        waiting = asyncio.ensure_future(call)
        while not (await asyncio.wait({waiting}, timeout=POLL_INTERVAL_S))[0]:
            if self._llm is None or self._llm.errored:
                waiting.cancel()
                raise EngineDiedError(self._failure_message(RuntimeError("the engine died")))
        try:
            return waiting.result()
        except EngineDeadError as error:
            raise EngineDiedError(self._failure_message(error)) from error

    async def ping(self) -> None:
        await self._answer(self._llm.is_sleeping())  # the cheapest question that goes to the process itself

    async def wait_until_queued(self, num_completions: int, deadline_s: float) -> bool:
        until = time.monotonic() + deadline_s
        while self._llm.output_processor.get_num_unfinished_requests() < num_completions:
            if time.monotonic() > until:
                return False
            await asyncio.sleep(0.01)
        return True

    async def pause(self) -> None:
        # not `pause_generation`: it sleeps another 20 ms for outputs on their way, whose label does not change any more
        await self._answer(self._llm.engine_core.pause_scheduler_async(mode="keep", clear_cache=False))

    async def resume(self) -> None:
        await self._answer(self._llm.resume_generation())

    async def check_weights(self, buckets: Sequence[BucketInfo]) -> None:
        await asyncio.to_thread(check_buckets, buckets)

    async def load_weights(self, buckets: Sequence[BucketInfo]) -> str | None:
        if buckets[0].adapter is not None:
            return await self._load_adapter(buckets)
        outcomes = await self._answer(
            self._llm.collective_rpc("load_weight_buckets", args=([asdict(bucket) for bucket in buckets],))
        )
        for outcome in outcomes:
            if "error" in outcome:
                raise BucketError(outcome["error"], outcome["bucket"])
        return one_digest(outcomes) if outcomes[0] else None

    async def _load_adapter(self, buckets: Sequence[BucketInfo]) -> str | None:
        """Under the id that running requests carry: under a new one they would stay with the old adapter, although
        their later tokens are labelled with the new version."""
        if not self._lora_rank:
            raise BucketError("an adapter was sent to an engine that was started without one")
        if buckets[0].index == 0:
            self._adapter_buckets = []
        self._adapter_buckets += buckets
        if len(self._adapter_buckets) < buckets[-1].num_buckets:
            return None
        folder = self._adapter or AdapterFolder()
        await asyncio.to_thread(folder.write, self._adapter_buckets)
        self._adapter = folder
        if not await self._answer(self._llm.add_lora(self._lora_request(load_inplace=True))):
            raise RuntimeError(f"vLLM did not take the adapter in {folder.path}")
        return await self.weight_checksum()

    def _lora_request(self, load_inplace: bool) -> Any:
        if self._adapter is None:
            return None
        from vllm.lora.request import LoRARequest

        return LoRARequest("policy", 1, str(self._adapter.path), load_inplace=load_inplace)

    async def abort_weight_update(self, reason: str) -> None:
        await self._answer(self._llm.collective_rpc("abort_weight_update", args=(reason,)))

    async def commit_weights(self, version: int, recompute_kv: bool) -> None:
        await self.commit_weight_version(version)
        if recompute_kv:
            if not await self._answer(self._llm.reset_prefix_cache(reset_running_requests=True)):
                raise RuntimeError("vLLM could not reset its prefix cache")
        else:  # the cache cannot be emptied under running requests: new ones do not find what was there
            self._num_commits += 1  # a version may come twice: the learner goes back to a checkpoint when it dies
            self._cache_salt = f"{version}-{self._num_commits}"
        await self.resume()

    async def commit_weight_version(self, version: int) -> None:
        await self._answer(self._llm.update_weight_version(str(version)))

    async def weight_checksum(self) -> str:
        return one_digest(await self._answer(self._llm.collective_rpc("compute_digests")))

    async def sleep(self) -> None:
        # level 2 forgets the weights, which the next update brings anyway; level 1 keeps them on the host, since an
        # update of adapters brings no others
        await self._answer(self._llm.sleep(level=1 if self._lora_rank else 2, mode="keep"))

    async def wake(self) -> None:
        await self._answer(self._llm.wake_up())

    async def stop(self) -> None:
        """End the engine's processes; requests that still run come back as failures."""
        if self._llm is None:
            return
        llm, self._llm = self._llm, None
        llm.output_processor.propagate_error(RuntimeError("the engine was stopped"))
        if llm.output_handler is not None:
            llm.output_handler.cancel()
        await asyncio.to_thread(llm.shutdown, 10.0)
        del llm
        gc.collect()  # it is part of cycles, and would complain if it were first collected as Python exits


def allowed_lora_rank(rank: int) -> int:
    """The smallest that vLLM has room for."""
    allowed = (1, 8, 16, 32, 64, 128, 256, 320, 512)
    if rank > allowed[-1]:
        raise ValueError(f"learner.lora.rank is {rank}; vLLM serves adapters of rank {allowed[-1]} at most")
    return next(each for each in allowed if each >= rank)


def one_digest(of_workers: Sequence[dict[str, str]]) -> str:
    """Of the digests of all weights on all of an engine's workers."""
    lines = (f"{rank}:{name} {digest}" for rank, of in enumerate(of_workers) for name, digest in sorted(of.items()))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def sampling_params(sampling: SamplingConfig, seed: int | None) -> SamplingParams:
    """vLLM's request parameters: one log-prob a token, everything in one output; top-p for answers alone."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    if sampling.temperature == 0 and sampling.num_completions > 1:
        raise ValueError(
            f"{sampling.num_completions} completions at temperature 0 would all be the same: "
            "set num_completions to 1 or the temperature above 0"
        )
    return SamplingParams(
        n=sampling.num_completions,
        temperature=sampling.temperature,
        top_p=sampling.top_p if isinstance(sampling, AnswerSamplingConfig) else 1.0,
        max_tokens=sampling.max_tokens,
        stop=list(sampling.stop),
        seed=seed,
        logprobs=0,
        flat_logprobs=True,
        detokenize=bool(sampling.stop),
        output_kind=RequestOutputKind.FINAL_ONLY,
        skip_clone=True,
    )
