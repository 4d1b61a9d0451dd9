"""A model as one GGUF file for llama.cpp, and a Modelfile that lets Ollama run it."""

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from config.schema import GenerateConfig, UserError
from export.stock import Stock, llama_cpp_name
from export.stock_tokenizer import Pairs
from model.tokenizer import END_TEXT

EXACT = ("wpe.weight",)  # llama.cpp keeps positions in float32, as it does biases and LayerNorms


def write_gguf(path: Path, stock: Stock, tokens: list[str], merges: Pairs, *, quantize: str, name: str) -> None:
    """Write `stock` to `path`, its matrices as "f32", "f16" or "q8_0"; `name` is the model's name in it.

    Raises:
        UserError: the library gguf is missing, or llama.cpp can't compute this model.
    """
    try:
        import gguf
    except ImportError:
        raise UserError("a GGUF file needs the library gguf: pip install -r requirements-full.txt") from None
    shape = stock.config
    if shape.activation != "gelu":
        raise UserError(f"this model's activation is {shape.activation}, and llama.cpp's GPT-2 knows only gelu")
    with closing(gguf.GGUFWriter(path, "gpt2")) as writer:
        writer.add_name(name)
        writer.add_context_length(shape.block_size)
        writer.add_embedding_length(shape.n_embd)
        writer.add_feed_forward_length(4 * shape.n_embd)
        writer.add_block_count(shape.n_layer)
        writer.add_head_count(shape.n_head)
        writer.add_layer_norm_eps(1e-5)
        kinds = {"f32": gguf.LlamaFileType.ALL_F32, "f16": gguf.LlamaFileType.MOSTLY_F16}
        writer.add_file_type(kinds.get(quantize, gguf.LlamaFileType.MOSTLY_Q8_0))
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        add_tokenizer(writer, tokens, merges)
        for ours, tensor in stock.tensors.items():
            exact = tensor.dim() == 1 or ours in EXACT
            data, kind = packed(tensor, "f32" if exact else quantize)
            writer.add_tensor(llama_cpp_name(ours), data, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()


def add_tokenizer(writer: Any, tokens: list[str], merges: Pairs) -> None:
    """GPT-2's tokenizer with these tokens; llama.cpp will put the end mark before every prompt."""
    import gguf

    end = tokens.index(END_TEXT)
    types = [gguf.TokenType.NORMAL] * len(tokens)
    types[end] = gguf.TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(True)


def packed(tensor: Tensor, quantize: str) -> tuple[np.ndarray[Any, Any], Any]:
    """A tensor's values as a GGUF file stores them, and the type of that format.

    Q8_0 packs 32 values of a row at a time; a matrix whose row length is no multiple of 32 is stored as f16.
    """
    from gguf import GGMLQuantizationType, quants

    data = tensor.contiguous().numpy()
    if quantize == "f32":
        return data, GGMLQuantizationType.F32
    if quantize == "f16" or data.shape[-1] % 32:
        return data.astype(np.float16), GGMLQuantizationType.F16
    return quants.quantize(data, GGMLQuantizationType.Q8_0), GGMLQuantizationType.Q8_0


def modelfile(gguf_name: str, settings: GenerateConfig, context: int) -> str:
    """Ollama's Modelfile: the prompt unchanged (llama.cpp puts the end mark before it), and the sampling settings."""
    values = {
        "num_ctx": context,
        "num_predict": settings.max_new_tokens,
        "temperature": settings.temperature,
        "top_k": settings.top_k,
        "top_p": settings.top_p,
        "min_p": settings.min_p,
        "repeat_penalty": settings.repetition_penalty,
        "stop": f'"{END_TEXT}"',
    }
    lines = [f"FROM ./{gguf_name}", 'TEMPLATE """{{ .Prompt }}"""']
    return "\n".join(lines + [f"PARAMETER {key} {value}" for key, value in values.items()]) + "\n"
