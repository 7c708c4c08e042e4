"""Which model to load, and what it may do."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from burnish.core.config import Config


class QuantizationConfig(Config):
    """The `quantization` of a model: its linear maps kept in 4 or 8 bits and frozen, as QLoRA does it."""

    kind: Literal["nf4", "fp4", "int8"] = "nf4"
    """The values that a weight can take. Sixteen: `nf4`, quantiles of the normal distribution, or `fp4`, a float of 4
    bits; `nf4` loses less on weights that are normally distributed, which those of language models nearly are. `int8`:
    255 steps of the largest weight of its row, in twice the memory, with an error some ten times smaller."""
    double: bool = True
    """Quantise the constants of the blocks too: 0.13 bits for each weight in place of 0.5, at 64 weights a block."""
    compute: Literal["auto", "bf16", "fp32"] = "auto"
    """Format of the products with these weights; `auto` is the one that the run computes in."""
    block_size: Literal[32, 64, 128, 256, 512, 1024] = 64
    """Weights that share a constant. Smaller blocks lose less and take more. With `int8` a row shares one."""
    skip: tuple[str, ...] = ()
    """Linear maps that are left as they are: ends of module names such as `down_proj`, roles such as `attention`, or
    `re:PATTERN`."""

    @model_validator(mode="after")
    def _blocks_are_for_4_bits(self) -> QuantizationConfig:
        idle = sorted({"double", "block_size"} & self.model_fields_set) if self.kind == "int8" else []
        changed = [name for name in idle if getattr(self, name) != type(self).model_fields[name].default]
        if changed:
            raise ValueError(f"`{changed[0]}` is for codes of 4 bits; with `int8` a row has one constant: leave it out")
        return self


class ModelConfig(Config):
    """The model: a local folder, a GGUF file, `package:module/inner/path`, or a name on the Hugging Face hub."""

    path: str = Field(min_length=1)
    """Folder, GGUF file, `package:module/inner/path`, or hub name such as `HuggingFaceTB/SmolLM2-135M-Instruct`."""
    revision: str | None = None
    """Branch, tag or commit of a hub model; a commit pins the weights."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. It can do whatever you can do on this machine."""
    allow_pickle: bool = False
    """Load weights from pickle files (`pytorch_model.bin`), which can run code, where there are no safetensors."""
    chat_template: str | None = None
    """A Jinja file that replaces the tokenizer's chat template."""
    quantization: QuantizationConfig | None = None
    """Keep the linear maps inside the layers in few bits while the rest is trained around them (QLoRA): `nf4` or `fp4`,
    which need `bitsandbytes`, `int8`, or a section. Without it the weights are kept as `train.precision` says."""

    @field_validator("quantization", mode="before")
    @classmethod
    def _kind_alone(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value
