"""The engine's side of a weight update, run inside vLLM's worker processes.

Given bucket descriptions through vLLM's weight-transfer verbs, gives a model that holds exactly the sent weights, or
an error. vLLM imports this module in its workers because `worker_extension_cls` names it: so it finds "shared_memory".

Parameters may not be changed in place: layers keep packed copies of them. So weights are loaded inside vLLM's layerwise
reload, during which parameters lie on the meta device: a model whose update broke off cannot serve (`abort_reload`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllm.config import set_current_vllm_config
from vllm.config.weight_transfer import WeightTransferConfig
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

from raylign.rollout.engine.process import end_with_owner
from raylign.rollout.loopback_store import keep_stores_on_loopback
from raylign.rollout.weights.buckets import BucketError, BucketInfo, BucketMaps, read_bucket

if TYPE_CHECKING:
    import torch
    from vllm.config import VllmConfig

logger = logging.getLogger(__name__)

NUM_SAMPLED_ELEMENTS = 1 << 16
NUM_PROBED_ELEMENTS = 4 << 20
"""A model with more in packed matrices has only every k-th of them read back, k up to 8."""
NUM_PROBED_COLUMNS = 8
"""Columns of a packed matrix that are read back for its digest, by multiplying with one-hot rows, which is exact."""


@dataclass
class SharedMemoryInitInfo(WeightTransferInitInfo):
    """Nothing to agree on: every bucket says where it lies."""


@dataclass
class SharedMemoryUpdateInfo(BucketInfo, WeightTransferUpdateInfo):
    """One bucket."""


class SharedMemoryEngine(WeightTransferEngine[SharedMemoryInitInfo, SharedMemoryUpdateInfo]):
    """Loads the buckets that a `SharedMemorySender` on this node wrote."""

    init_info_cls = SharedMemoryInitInfo
    update_info_cls = SharedMemoryUpdateInfo

    def __init__(
        self, config: WeightTransferConfig, vllm_config: VllmConfig, device: torch.device, model: torch.nn.Module
    ) -> None:
        super().__init__(config, vllm_config, device, model)
        self._expected: set[str] = set()
        self._loaded: set[str] = set()
        self._received: list[SharedMemoryUpdateInfo] = []
        self._maps = BucketMaps()

    def init_transfer_engine(self, init_info: SharedMemoryInitInfo) -> None:
        pass

    def start_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        abort_reload(self.model, self.model_config)  # of an update that broke off
        self._expected = {name for name, _ in self.model.named_parameters()}
        self._loaded, self._received = set(), []
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: SharedMemoryUpdateInfo) -> None:
        from vllm.model_executor.model_loader.mtp_validation import disable_mtp_completeness_check

        earlier = self._received
        if update_info.index != len(earlier) or (earlier and earlier[0].version != update_info.version):
            raise BucketError(
                f"bucket {update_info.index + 1} of version {update_info.version} came after {len(earlier)} buckets"
                + (f" of version {earlier[0].version}" if earlier else "")
            )
        with disable_mtp_completeness_check():
            self._loaded |= self.model.load_weights(read_bucket(update_info, self._maps.of(update_info))) or set()
        earlier.append(update_info)

    def finish_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        received = self._received
        if not received or len(received) != received[0].num_buckets:
            total = received[0].num_buckets if received else "any"
            raise BucketError(f"only {len(received)} of {total} buckets were received")
        missing = sorted((self._expected - self._loaded) | half_loaded_layers(self.model))
        if missing:
            shown = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
            raise BucketError(f"the sent weights leave {len(missing)} of the engine's unfilled: {shown}")
        tied = untouched_layers(self.model)
        finalize_layerwise_reload(self.model, self.model_config)
        for layer in tied:
            layer.quant_method.process_weights_after_loading(layer)
        self._maps.keep_only({info.path for info in received})
        self._received = []

    def shutdown(self) -> None:
        pass


def half_loaded_layers(model: torch.nn.Module) -> set[str]:
    """Layers that got some but not all of their weights (a padded vocabulary never gets all)."""
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

    found = set()
    for name, layer in model.named_modules():
        info = get_layerwise_info(layer)
        if not info.can_load() or isinstance(layer, VocabParallelEmbedding):
            continue
        if 0 < info.load_numel < (info.load_numel_total or 0):
            found.add(name)
    return found


def untouched_layers(model: torch.nn.Module) -> list[Any]:
    """Layers that got no weights of their own: since none is missing, their parameter is another layer's (a tied head).

    vLLM gives such a layer its parameter back, already changed, but on CPU it would go on with its old packed copy.
    """
    from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

    found = []
    for layer in model.modules():
        info = get_layerwise_info(layer)
        untouched = info.can_load() and info.load_numel == 0 and (info.load_numel_total or 0) > 0
        if untouched and isinstance(getattr(layer, "quant_method", None), QuantizeMethodBase):
            found.append(layer)
    return found


def abort_reload(model: torch.nn.Module, model_config: Any) -> None:
    """Take a model out of a layerwise reload that broke off; does nothing where there is none.

    Layers that were complete keep the new weights, the others get back the old ones, so the model holds a mixture and
    may not serve, but every parameter exists again and a whole update can start. Without this, weights buffered by the
    broken update would be counted in the next one.
    """
    from vllm.model_executor.model_loader.reload.layerwise import finalize_layerwise_reload, get_layerwise_info

    infos = [get_layerwise_info(layer) for layer in model.modules()]
    if not any(info.can_load() for info in infos):
        return
    for info in infos:
        if info.can_load():
            info.loaded_weights.clear()
            info.load_numel = 0
    finalize_layerwise_reload(model, model_config)


class WorkerExtension:
    """Mixed into vLLM's worker class by `worker_extension_cls`; its methods are called through `collective_rpc`."""

    def abort_weight_update(self, reason: str) -> None:
        """Leave a broken update; see `abort_reload`."""
        worker: Any = self
        engine = worker.weight_transfer_engine
        if engine is None:
            return
        if worker._weight_update_active:
            logger.error("weight update aborted: %s", reason)
        with set_current_vllm_config(worker.vllm_config):
            abort_reload(engine.model, engine.model_config)
        engine.reset_weight_update_target()
        worker._weight_update_active = False

    def load_weight_buckets(self, buckets: list[dict[str, Any]]) -> dict[str, Any]:
        """Load the next buckets of a version, all in one call: the first begins the update, the last ends it and gives
        the digests of what the model holds then. An error comes back as a value that names the bucket."""
        worker: Any = self
        index = None
        try:
            if buckets[0]["index"] == 0:
                worker.start_weight_update()
            for bucket in buckets:
                index = bucket["index"]
                worker.update_weights(bucket)
            if index != buckets[-1]["num_buckets"] - 1:
                return {}
            index = None
            worker.finish_weight_update()
            return self.compute_digests()
        except Exception as error:
            words = str(error) if isinstance(error, BucketError) else f"{type(error).__name__}: {error}"
            return {"error": words, "bucket": index}

    def compute_digests(self) -> dict[str, str]:
        """Of every weight that the model holds, by name: of a sample of its bytes, spread over all of it. Transport is
        checked whole by the buckets' checksums; this tells versions and half-loaded layers apart."""
        worker: Any = self
        model = worker.model_runner.get_model()
        digests = {name: digest_of(parameter) for name, parameter in model.named_parameters() if parameter.numel()}
        # On CPU vLLM drops the plain weights of linear layers once they are packed.
        packed = {name: layer for name, layer in model.named_modules() if hasattr(layer, "cpu_linear")}
        for name, layer in probed(packed).items():
            digests[f"{name}.packed"] = digest_of_packed(layer, worker.model_config.dtype)
        for name, layer in model.named_modules():
            for part in ("lora_a_stacked", "lora_b_stacked"):  # an adapter lies beside its layer
                for index, tensor in enumerate(getattr(layer, part, ())):
                    digests[f"{name}.{part}.{index}"] = digest_of(tensor)
        return digests


def num_inputs_of(layer: Any) -> int:
    """Of a linear layer."""
    return int(getattr(layer, "input_size_per_partition", None) or layer.weight.shape[1])


def probed(layers: dict[str, Any]) -> dict[str, Any]:
    """The packed layers that are read back: all of a small model, every k-th of a large one, since reading one back
    means reading all of it while generation stands still."""
    outputs = [getattr(layer, "output_size_per_partition", None) or num_inputs_of(layer) for layer in layers.values()]
    num_elements = sum(n * num_inputs_of(layer) for n, layer in zip(outputs, layers.values(), strict=True))
    every = -(-num_elements // max(NUM_PROBED_ELEMENTS, num_elements // 8)) if layers else 1
    return dict(list(layers.items())[::every])


def digest_of(tensor: torch.Tensor) -> str:
    """Of evenly spaced elements, the first and the last included; of all where they are few."""
    import torch
    import xxhash

    flat = tensor.detach().reshape(-1)
    if flat.numel() > NUM_SAMPLED_ELEMENTS:
        places = torch.linspace(0, flat.numel() - 1, NUM_SAMPLED_ELEMENTS, dtype=torch.float64, device=flat.device)
        flat = flat[places.long()]
    return xxhash.xxh3_128_hexdigest(flat.cpu().contiguous().view(torch.uint8).numpy())


def digest_of_packed(layer: Any, dtype: torch.dtype) -> str:
    """Of some columns of a matrix that only exists in packed form."""
    import torch

    num_inputs = num_inputs_of(layer)
    columns = torch.linspace(0, num_inputs - 1, NUM_PROBED_COLUMNS).long()
    one_hot = torch.nn.functional.one_hot(columns, num_inputs).to(dtype)
    return digest_of(layer.cpu_linear(one_hot, layer.weight, None))


if "shared_memory" not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine("shared_memory", SharedMemoryEngine)
end_with_owner()
keep_stores_on_loopback()
