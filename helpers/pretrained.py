"""Our configuration and weights <-> Hugging Face's folder layout. Pure functions on dicts; taught in notebook 04.

block="gpt2" is Hugging Face's GPT-2, block="modern" is its Qwen3: the same numbers under other names.
"""

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

# (our name, Hugging Face's name); {i} is the layer. In GPT-2 query, key and value are one matrix, see below.
GPT2_NAMES = [
    ("token_embedding.weight", "transformer.wte.weight"),
    ("position_embedding.weight", "transformer.wpe.weight"),
    ("blocks.{i}.attention_norm", "transformer.h.{i}.ln_1"),
    ("blocks.{i}.attention.query_key_value", "transformer.h.{i}.attn.c_attn"),
    ("blocks.{i}.attention.out", "transformer.h.{i}.attn.c_proj"),
    ("blocks.{i}.feed_forward_norm", "transformer.h.{i}.ln_2"),
    ("blocks.{i}.feed_forward.up", "transformer.h.{i}.mlp.c_fc"),
    ("blocks.{i}.feed_forward.down", "transformer.h.{i}.mlp.c_proj"),
    ("norm", "transformer.ln_f"),
    ("head.weight", "lm_head.weight"),
]
QWEN3_NAMES = [
    ("token_embedding.weight", "model.embed_tokens.weight"),
    ("blocks.{i}.attention_norm", "model.layers.{i}.input_layernorm"),
    ("blocks.{i}.attention.query", "model.layers.{i}.self_attn.q_proj"),
    ("blocks.{i}.attention.key", "model.layers.{i}.self_attn.k_proj"),
    ("blocks.{i}.attention.value", "model.layers.{i}.self_attn.v_proj"),
    ("blocks.{i}.attention.out", "model.layers.{i}.self_attn.o_proj"),
    ("blocks.{i}.attention.query_norm", "model.layers.{i}.self_attn.q_norm"),
    ("blocks.{i}.attention.key_norm", "model.layers.{i}.self_attn.k_norm"),
    ("blocks.{i}.feed_forward_norm", "model.layers.{i}.post_attention_layernorm"),
    ("blocks.{i}.feed_forward.gate", "model.layers.{i}.mlp.gate_proj"),
    ("blocks.{i}.feed_forward.up", "model.layers.{i}.mlp.up_proj"),
    ("blocks.{i}.feed_forward.down", "model.layers.{i}.mlp.down_proj"),
    ("norm", "model.norm"),
    ("head.weight", "lm_head.weight"),
]
# GPT-2 stores these matrices as (in, out); nn.Linear keeps (out, in).
GPT2_TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def config_to_huggingface(config: dict) -> dict:
    """The content of config.json from the fields of a GPTConfig."""
    if config["block"] == "gpt2":
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "vocab_size": config["vocab_size"],
            "n_positions": config["context_length"],
            "n_embd": config["d_model"],
            "n_layer": config["n_layers"],
            "n_head": config["n_heads"],
            "n_inner": config["d_ff"],
            "activation_function": "gelu_new",
            "layer_norm_epsilon": 1e-5,
            "attn_pdrop": config["dropout"],
            "embd_pdrop": config["dropout"],
            "resid_pdrop": config["dropout"],
            "tie_word_embeddings": config["tied_head"],
            "dtype": "float32",
        }
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": config["vocab_size"],
        "max_position_embeddings": config["context_length"],
        "hidden_size": config["d_model"],
        "intermediate_size": config["d_ff"],
        "num_hidden_layers": config["n_layers"],
        "num_attention_heads": config["n_heads"],
        "num_key_value_heads": config["n_heads"],
        "head_dim": config["d_model"] // config["n_heads"],
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": config["rope_theta"],  # where transformers 4 looks
        "rope_parameters": {"rope_type": "default", "rope_theta": config["rope_theta"]},  # where transformers 5 looks
        "attention_bias": False,
        "attention_dropout": config["dropout"],
        "use_sliding_window": False,
        "tie_word_embeddings": config["tied_head"],
        "dtype": "float32",
    }


def config_from_huggingface(theirs: dict) -> dict:
    """The fields of a GPTConfig from config.json. Raises ValueError naming what our class cannot express."""
    kind = theirs.get("model_type")
    if kind == "gpt2":
        ours = {
            "block": "gpt2",
            "vocab_size": theirs["vocab_size"],
            "context_length": theirs["n_positions"],
            "d_model": theirs["n_embd"],
            "n_layers": theirs["n_layer"],
            "n_heads": theirs["n_head"],
            "d_ff": theirs.get("n_inner") or 4 * theirs["n_embd"],
            "dropout": theirs.get("resid_pdrop", 0.0),
            "tied_head": theirs.get("tie_word_embeddings", True),
        }
    elif kind == "qwen3":
        rope = theirs.get("rope_parameters") or {}
        ours = {
            "block": "modern",
            "vocab_size": theirs["vocab_size"],
            "context_length": theirs["max_position_embeddings"],
            "d_model": theirs["hidden_size"],
            "n_layers": theirs["num_hidden_layers"],
            "n_heads": theirs["num_attention_heads"],
            "d_ff": theirs["intermediate_size"],
            "dropout": theirs.get("attention_dropout", 0.0),
            "tied_head": theirs.get("tie_word_embeddings", False),
            "rope_theta": rope.get("rope_theta", theirs.get("rope_theta", 10000.0)),
        }
    else:
        raise ValueError(f"a {kind!r} model cannot be opened; GPT-2 and Qwen3 can")
    # Whatever differs between what they describe and what we would write back is beyond our class.
    written = config_to_huggingface(ours)
    defaults = written | {"num_key_value_heads": written.get("num_attention_heads"), "rope_parameters": None}
    for key, value in written.items():
        if key in ("architectures", "dtype", "rope_theta", "rope_parameters", "n_inner") or key.endswith("_pdrop"):
            continue
        if theirs.get(key, defaults[key]) != value:
            raise ValueError(f"this {kind} model has {key} = {theirs[key]!r}, and our class only does {value!r}")
    if (theirs.get("rope_parameters") or {}).get("rope_type", "default") != "default" or theirs.get("rope_scaling"):
        raise ValueError(f"this {kind} model scales its rotary positions (rope_scaling), which our class does not do")
    return ours


def _renamed(names: list[tuple[str, str]], name: str, n_layers: int) -> str | None:
    """The partner of `name` (first entry of a pair -> second), or None."""
    for i in range(n_layers):
        for mine, other in names:
            mine = mine.replace("{i}", str(i))
            if name == mine or name.startswith(mine + "."):
                return other.replace("{i}", str(i)) + name[len(mine) :]
    return None


def weights_to_huggingface(weights: dict[str, Tensor], block: str, n_layers: int) -> dict[str, Tensor]:
    """Our state dict under Hugging Face's names; a tied head is left out, as they do."""
    weights = dict(weights)
    if "head.weight" in weights and weights["head.weight"].data_ptr() == weights["token_embedding.weight"].data_ptr():
        del weights["head.weight"]
    if block == "gpt2":
        for i in range(n_layers):
            for kind in ("weight", "bias"):
                parts = [weights.pop(f"blocks.{i}.attention.{part}.{kind}") for part in ("query", "key", "value")]
                weights[f"blocks.{i}.attention.query_key_value.{kind}"] = _cat(parts)
    theirs = {}
    for name, tensor in weights.items():
        new = _renamed(GPT2_NAMES if block == "gpt2" else QWEN3_NAMES, name, n_layers)
        theirs[new] = (tensor.T if block == "gpt2" and new.endswith(GPT2_TRANSPOSED) else tensor).contiguous()
    return theirs


def weights_from_huggingface(theirs: dict[str, Tensor], block: str, n_layers: int) -> dict[str, Tensor]:
    """Hugging Face's weights under our names, in float32."""
    names = [(other, mine) for mine, other in (GPT2_NAMES if block == "gpt2" else QWEN3_NAMES)]
    weights = {}
    for name, tensor in theirs.items():
        if block == "gpt2" and not name.startswith(("transformer.", "lm_head.")):
            name = "transformer." + name  # the first GPT-2 files were saved without the prefix
        if name.endswith((".attn.bias", ".attn.masked_bias")):
            continue  # GPT-2's causal mask, stored as if it were a weight
        new = _renamed(names, name, n_layers)
        if new is None:
            raise ValueError(f"the weight {name} has no place in our {block} model")
        tensor = tensor.float()
        weights[new] = tensor.T.contiguous() if block == "gpt2" and name.endswith(GPT2_TRANSPOSED) else tensor
    for name in [name for name in weights if ".query_key_value." in name]:
        for part, tensor in zip(("query", "key", "value"), weights.pop(name).chunk(3), strict=True):
            weights[name.replace("query_key_value", part)] = tensor.contiguous()
    return weights


def _cat(parts: list[Tensor]) -> Tensor:
    import torch

    return torch.cat(parts)


def write_folder(folder: str | Path, config: dict, weights: dict[str, Tensor]) -> None:
    """Write config.json and model.safetensors: config holds the fields of a GPTConfig, weights our state dict."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    theirs = weights_to_huggingface(weights, config["block"], config["n_layers"])
    save_file(theirs, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config_to_huggingface(config), indent=1), encoding="utf-8")


def read_folder(folder: str | Path) -> tuple[dict, dict[str, Tensor]]:
    """The fields of a GPTConfig and our state dict from a model folder.

    Raises FileNotFoundError where there is none, ValueError where a file is damaged or of another kind.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} is not a model folder: it has no config.json")
    index = folder / "model.safetensors.index.json"
    try:
        config = config_from_huggingface(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        shards = {"model.safetensors"}
        if index.is_file():
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"the configuration in {folder} is damaged or incomplete ({error!r})") from None
    theirs = {}
    for shard in sorted(shards):
        if not (folder / shard).is_file():
            raise FileNotFoundError(f"{folder} is not a whole model folder: it has no {shard}")
        try:
            theirs |= load_file(folder / shard)
        except SafetensorError as error:
            raise ValueError(f"{folder / shard} is damaged: {error}") from None
    return config, weights_from_huggingface(theirs, config["block"], config["n_layers"])
