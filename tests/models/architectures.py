"""Little random models of many architectures; large initial weights, so that a fault in a mask cannot hide."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel

VOCABULARY = 97

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED = {**_COMMON, "num_key_value_heads": 2}
_GPT: dict[str, Any] = {
    "vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.2,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_BART: dict[str, Any] = {
    "vocab_size": VOCABULARY, "d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": None,
    "init_std": 0.2,
}  # fmt: skip
_T5: dict[str, Any] = {
    "vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "num_layers": 2, "num_heads": 4, "d_ff": 48,
    "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 2,
}  # fmt: skip

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", _GPT),
    "llama": ("LlamaConfig", _GROUPED),
    "qwen2": ("Qwen2Config", _GROUPED),
    "qwen3": ("Qwen3Config", {**_GROUPED, "head_dim": 8}),
    "mistral": ("MistralConfig", {**_GROUPED, "sliding_window": 4}),
    "gemma": ("GemmaConfig", {**_GROUPED, "head_dim": 8}),
    "gemma2": (
        "Gemma2Config",
        {
            **_GROUPED, "head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 8,
            "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3_text": ("Gemma3TextConfig", {**_GROUPED, "head_dim": 8, "sliding_window": 4}),
    "phi": ("PhiConfig", _COMMON),
    "phi3": ("Phi3Config", {**_GROUPED, "sliding_window": 4}),
    "gpt_neox": ("GPTNeoXConfig", _COMMON),
    "opt": (
        "OPTConfig",
        {
            "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
            "ffn_dim": 48, "max_position_embeddings": 64, "word_embed_proj_dim": 16, "init_std": 0.2,
            "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        },
    ),
    "smollm3": ("SmolLM3Config", _GROUPED),
    "granite": ("GraniteConfig", {**_GROUPED, "logits_scaling": 3.0}),
    "cohere": ("CohereConfig", {**_GROUPED, "logit_scale": 0.3}),
    "gpt_neo": (
        "GPTNeoConfig",
        {
            "vocab_size": VOCABULARY, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "window_size": 4,
            "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 64, "initializer_range": 0.2,
            "bos_token_id": 1, "eos_token_id": 2,
        },
    ),
    "bloom": ("BloomConfig", {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "t5": ("T5Config", {**_T5, "tie_word_embeddings": True}),
    "t5-v1.1": ("T5Config", {**_T5, "tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"}),
    "mt5": ("MT5Config", _T5),
    "bart": ("BartConfig", _BART),
    "marian": ("MarianConfig", _BART),
}  # fmt: skip

SEGMENTS = (
    "gpt2", "llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "gpt_neox", "opt",
    "smollm3", "granite", "cohere",
)  # fmt: skip
SEQ2SEQ = ("t5", "t5-v1.1", "mt5", "bart", "marian")
CAUSAL = tuple(name for name in CONFIGS if name not in SEQ2SEQ)


def build(name: str, **changes: Any) -> PreTrainedModel:
    """The model in evaluation mode; the same weights every time."""
    kind, values = CONFIGS[name]
    config = getattr(transformers, kind)(**{**values, **changes})
    factory = AutoModelForSeq2SeqLM if name in SEQ2SEQ else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return factory.from_config(config).eval()


def ids(count: int, seed: int = 0) -> torch.Tensor:
    """Random ids [1, count] that are no special token."""
    return torch.randint(3, VOCABULARY, (1, count), generator=torch.Generator().manual_seed(seed))
