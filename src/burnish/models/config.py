"""Which model to load, and what it may do."""

from __future__ import annotations

from pydantic import Field

from burnish.core.config import Config


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
