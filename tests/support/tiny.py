"""Tiny random models and a tokenizer that is trained on the spot: no download, a few milliseconds each."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from burnish.models.config import QuantizationConfig
from burnish.models.quantize import quantize_

VOCABULARY = 384
WIDTH = 32
PAD, EOS, START, END = "<|pad|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML without generation markers, as Qwen2 and SmolLM2 carry it."""

SENTENCES = (
    "the cat sat on the mat and looked at the dog",
    "Classify the sentiment: what a wonderful day!\nSentiment: positive",
    "Classify the sentiment: this is terrible news\nSentiment: negative",
    "user asks, assistant answers, system explains",
    "one two three four five six seven eight nine ten",
)


def _gpt2(dropout: float) -> PreTrainedModel:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_positions=128, n_embd=WIDTH, n_layer=2, n_head=4,
            resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout,
            bos_token_id=1, eos_token_id=1, pad_token_id=0,
        )
    )  # fmt: skip


def _llama(dropout: float) -> PreTrainedModel:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=128, attention_dropout=dropout,
            bos_token_id=1, eos_token_id=1, pad_token_id=0, tie_word_embeddings=True,
        )
    )  # fmt: skip


def _bert(dropout: float) -> PreTrainedModel:
    return BertForMaskedLM(
        BertConfig(
            vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=128,
            hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, pad_token_id=0,
        )
    )  # fmt: skip


def _t5(dropout: float) -> PreTrainedModel:
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=VOCABULARY, d_model=WIDTH, d_kv=8, d_ff=64, num_layers=2, num_heads=4, dropout_rate=dropout,
            pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
        )
    )  # fmt: skip


MODELS: dict[str, Callable[[float], PreTrainedModel]] = {"gpt2": _gpt2, "llama": _llama, "bert": _bert, "t5": _t5}


def tiny(
    name: str, *, seed: int = 0, dropout: float = 0.0, dtype: torch.dtype = torch.float32, spread: float = 5.0
) -> PreTrainedModel:
    """A random model of two layers, width 32 and 384 tokens, in evaluation mode.

    Args:
        name: ``gpt2`` and ``llama`` (causal), ``bert`` (masked language model), ``t5`` (encoder-decoder).
        seed: Seed of the weights.
        dropout: Every dropout rate of the model.
        dtype: Format of the weights.
        spread: Matrices are multiplied by this after the usual initialisation, whose 0.02 leaves a model of this width
            so nearly linear that faults hide below the tolerance of a test.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MODELS[name](dropout)
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n and "shared" not in n]
    scale = spread if name != "t5" else 1.0  # T5 already initialises its matrices at width ** -0.5
    with torch.no_grad():
        for matrix in matrices:
            matrix.mul_(scale)
    model.to(dtype)
    return model.eval()


def tiny_kbit(name: str, **settings: Any) -> PreTrainedModel:
    """``tiny(name)`` with the linear maps inside its layers kept in 4 bits.

    Args:
        name: As for ``tiny``.
        settings: Fields of ``QuantizationConfig``.
    """
    model = tiny(name)
    quantize_(model, QuantizationConfig(**settings), torch.float32)
    return model


def tiny_inputs(name: str, *, rows: int = 2, length: int = 11, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random token ids as keyword arguments for ``tiny(name)``; an encoder-decoder gets both sides."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {"input_ids": torch.randint(4, VOCABULARY, (rows, length), generator=generator)}
    if name == "t5":
        inputs["decoder_input_ids"] = torch.randint(4, VOCABULARY, (rows, length - 4), generator=generator)
    return inputs


@lru_cache(maxsize=1)
def _trained_tokenizer() -> str:
    words = random.Random(0)
    corpus = [" ".join(words.sample(s.split(" "), k=len(s.split(" ")))) for s in SENTENCES for _ in range(20)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, EOS, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*SENTENCES, *corpus], trainer)
    return tokenizer.to_str()


def tiny_tokenizer(*, chat_template: str | None = CHATML, bos_token: str | None = None) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of at most 384 tokens; ids 0 to 3 are pad, end of text, turn start and turn end.

    It knows every byte, so any text survives encoding and decoding.

    Args:
        chat_template: The chat template; ChatML without generation markers by default.
        bos_token: A beginning-of-sequence token, which this tokenizer does not add by itself.
    """
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained_tokenizer()),
        pad_token=PAD,
        eos_token=EOS,
        bos_token=bos_token,
        additional_special_tokens=[START, END],
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
        model_max_length=128,
    )
