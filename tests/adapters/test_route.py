"""Rows of one batch that use different adapters: by task, by set, in every layout, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import MistralConfig, MistralForCausalLM, PreTrainedModel

from burnish.adapters.adalora import AdaloraConfig
from burnish.adapters.attach import Attached, attach
from burnish.adapters.base import MethodConfig, NotMergeable
from burnish.adapters.bottleneck import BottleneckConfig, SequentialBottleneck
from burnish.adapters.full import FullConfig
from burnish.adapters.ia3 import Ia3Config
from burnish.adapters.lora import LoraConfig, projection_of
from burnish.adapters.prefix import PrefixConfig
from burnish.adapters.prompt import PromptConfig
from burnish.adapters.vera import VeraConfig
from burnish.core.errors import UserError
from burnish.core.types import Batch
from burnish.models.attention import use_packed_attention
from burnish.models.forward import hidden_states
from burnish.models.fuse import fuse
from burnish.models.route import holding
from tests.adapters.common import randomize
from tests.support.tiny import tiny

CONFIGS = [
    LoraConfig(rank=4, targets="mlp"),
    LoraConfig(rank=2, targets="attention", name="left", tasks=("a",)),
    LoraConfig(rank=3, targets="attention", name="right", tasks=("b",)),
]
ROWS = [torch.randint(4, 384, (n,), generator=torch.Generator().manual_seed(n)) for n in (7, 4, 9, 5)]
TASKS = ("a", "b", None, "a")


def packed(rows: list[Tensor], **extra: tuple[str | None, ...]) -> Batch:
    lengths = tuple(len(row) for row in rows)
    return {  # type: ignore[return-value]
        "input_ids": torch.cat(rows)[None],
        "position_ids": torch.cat([torch.arange(n) for n in lengths])[None],
        "segment_lengths": lengths,
        **extra,
    }


def padded(rows: list[Tensor], **extra: tuple[str | None, ...]) -> Batch:
    longest = max(len(row) for row in rows)
    ids, mask = torch.zeros(len(rows), longest, dtype=torch.long), torch.zeros(len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    return {"input_ids": ids, "attention_mask": mask, **extra}  # type: ignore[return-value]


def rows_of(states: Tensor, layout: str) -> list[Tensor]:
    lengths = [len(row) for row in ROWS]
    if layout == "packed":
        return list(states[0].split(lengths))
    return [states[i, :n] for i, n in enumerate(lengths)]


def hybrid(name: str = "llama") -> tuple[PreTrainedModel, Attached]:
    model = tiny(name)
    attached = attach(model, CONFIGS)
    randomize(attached.trainable(), 3)
    return model, attached


LAYOUTS = {"packed": packed, "padded": padded}


def check_rows_as_alone(model: PreTrainedModel, layout: str, tasks: tuple[str | None, ...]) -> list[Tensor]:
    """Hold each row of a mixed batch against itself in a pack of its own; what the rows have in the batch.

    Packed, so that every row stands right behind its own prompts.
    """
    mixed = rows_of(hidden_states(model, LAYOUTS[layout](ROWS, tasks=tasks)), layout)
    for row, task, found in zip(ROWS, tasks, mixed, strict=True):
        torch.testing.assert_close(found, hidden_states(model, packed([row], tasks=(task,)))[0], atol=1e-5, rtol=1e-5)
    return mixed


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["llama", "bert", "gpt2"])
def test_each_row_of_a_mixed_batch_is_computed_as_alone(name: str, layout: str) -> None:
    """A row in a mixed batch has the hidden states that it has by itself with its task's parts switched on."""
    model, attached = hybrid(name)
    with torch.no_grad():
        mixed = rows_of(hidden_states(model, LAYOUTS[layout](ROWS, tasks=TASKS)), layout)
        for row, task, found in zip(ROWS, TASKS, mixed, strict=True):
            if task is None:
                alone = hidden_states(model, padded([row], tasks=(None,)))[0]
            else:
                with attached.use(task=task):
                    alone = hidden_states(model, padded([row]))[0]
            torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(mixed[0], rows_of(hidden_states(model, padded(ROWS, tasks=("b",) * 4)), "padded")[0])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_different_sets_for_different_rows(layout: str) -> None:
    """Sets named per row; a row without one gets the base."""
    model = tiny("llama")
    for number, name in enumerate(("first", "second")):
        randomize(attach(model, LoraConfig(rank=2 + number), name=name).trainable(), number)
    wanted = ("first", "second", "", "first")
    with torch.no_grad():
        mixed = rows_of(hidden_states(model, LAYOUTS[layout](ROWS, adapters=wanted)), layout)
        for row, name, found in zip(ROWS, wanted, mixed, strict=True):
            alone = hidden_states(model, padded([row], adapters=(name,)))[0]
            torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)
        base = hidden_states(tiny("llama"), padded([ROWS[2]]))[0]
        torch.testing.assert_close(mixed[2], base, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_gradients_of_a_mixed_batch_are_those_of_its_rows(checkpointed: bool) -> None:
    """Every entry's gradient is the sum over the rows that use it, also when layers are computed again."""
    model, attached = hybrid()
    for row, task in zip(ROWS, TASKS, strict=True):
        hidden_states(model, padded([row], tasks=(task,))).pow(2).sum().backward()
    alone = {n: p.grad.clone() for n, p in attached.trainable() if p.grad is not None}
    assert len(alone) == len(attached.trainable())
    model.zero_grad()
    model.train()
    if checkpointed:
        model.activation_checkpointing_enable({"use_reentrant": False})
    with holding(model):
        hidden_states(model, packed(ROWS, tasks=TASKS)).pow(2).sum().backward()
    for name, parameter in attached.trainable():
        torch.testing.assert_close(parameter.grad, alone[name], atol=1e-4, rtol=1e-4)
    assert model.burnish_attachments.switch.route is None  # type: ignore[union-attr]


def test_layers_with_a_route_leave_the_fused_way_and_come_back_to_it() -> None:
    model, attached = hybrid()
    assert fuse(model, projection_of) == len(model.model.layers)
    plain, _ = hybrid()
    with torch.no_grad():
        for tasks in (TASKS, ("a",) * 4):
            ours, theirs = (hidden_states(m, packed(ROWS, tasks=tasks)) for m in (model, plain))
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert attached.keys == ("lora", "left", "right")


def test_rows_without_a_task_are_refused() -> None:
    model, _ = hybrid()
    with pytest.raises(UserError, match="the rows do not say which task") as caught:
        hidden_states(model, packed(ROWS))
    assert "--task NAME" in caught.value.fix


def test_unknown_tasks_and_sets_are_refused() -> None:
    model, attached = hybrid()
    with pytest.raises(UserError, match="no part of this model is for the task `c`"):
        hidden_states(model, packed(ROWS, tasks=("a", "b", "c", "a")))
    with pytest.raises(UserError, match="no part of this model is for the task `c`"), attached.use(task="c"):
        pass
    with pytest.raises(UserError, match="no adapters `other` are attached"):
        hidden_states(model, packed(ROWS, adapters=("other",) * 4))


def test_what_cannot_belong_to_a_task() -> None:
    with pytest.raises(UserError, match="trains the base's own weights, which the rows of every task use"):
        attach(tiny("llama"), [LoraConfig(), FullConfig(targets="norm", tasks=("a",))])
    with pytest.raises(UserError, match="two `lora` adapters would sit at"):
        attach(tiny("llama"), [LoraConfig(tasks=("a", "b")), LoraConfig(tasks=("b", "c"))])
    _, attached = hybrid()
    with pytest.raises(NotMergeable, match="`left` acts on rows of a only"):
        attached.merge_()


def test_names_of_entries() -> None:
    """Two entries of one method are told apart by a number, named ones by their names."""
    configs = [LoraConfig(targets="q_proj"), LoraConfig(targets="k_proj"), LoraConfig(targets="v_proj", name="value")]
    attached = attach(tiny("llama"), configs)
    assert attached.keys == ("lora", "lora_2", "value")
    assert {n.split(".")[-2] for n, _ in attached.trainable("lora_2")} == {"lora_2"}
    with pytest.raises(UserError, match="two entries are called `x`"):
        attach(tiny("llama"), [LoraConfig(targets="q_proj", name="x"), LoraConfig(targets="k_proj", name="x")])
    with pytest.raises(UserError, match="no entry `lora_3`"):
        attached.trainable("lora_3")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["llama", "bert"])
def test_prompts_of_tasks_in_one_batch(name: str, layout: str) -> None:
    """Prompts of 3 and 5 tokens for two tasks, none for a row without one, beside a LoRA of one task: rows as alone."""
    model = tiny(name)
    configs = [
        PromptConfig(num_virtual_tokens=3, tasks=("a",), name="left"),
        PromptConfig(num_virtual_tokens=5, tasks=("b",), name="right"),
        PromptConfig(num_virtual_tokens=2, name="shared"),
        LoraConfig(rank=2, tasks=("b",)),
    ]
    attached = attach(model, configs)
    randomize(attached.trainable(), 3)
    with torch.no_grad():
        mixed = rows_of(hidden_states(model, LAYOUTS[layout](ROWS, tasks=TASKS)), layout)
        for row, task, found in zip(ROWS, TASKS, mixed, strict=True):
            with attached.use("default", task=task) if task else attached.use("default"):
                # packed alone, so that every row stands right behind its own prompts
                alone = hidden_states(model, packed([row], tasks=(task,)))[0]
            torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)
    model.train()
    with holding(model):
        hidden_states(model, LAYOUTS[layout](ROWS, tasks=TASKS)).pow(2).sum().backward()
    assert attached.without_gradient() == []


def with_window(window: int) -> PreTrainedModel:
    """A Llama's shape with a sliding window of so many tokens."""
    torch.manual_seed(0)
    config = tiny("llama").config.to_dict()
    values = {k: v for k, v in config.items() if k not in ("architectures", "model_type", "dtype", "rope_parameters")}
    model = MistralForCausalLM(MistralConfig(**values | {"sliding_window": window})).eval()
    use_packed_attention(model)
    return model


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["llama", "bert", "gpt2", "mistral"])
def test_prefixes_of_tasks_in_one_batch(name: str, layout: str) -> None:
    """Prefixes of 3 and 5 keys for two tasks, none for a row without one, beside prompts: rows are as alone.

    A row alone has its prefixes as one has them that are for all rows, which other tests hold against `peft`. Mistral's
    window of 4 tokens goes row by row in packs.
    """
    model = with_window(4) if name == "mistral" else tiny(name)
    configs = [
        PrefixConfig(num_virtual_tokens=3, tasks=("a",), name="left"),
        PrefixConfig(num_virtual_tokens=5, tasks=("b",), name="right", reparameterize=True),
        PromptConfig(num_virtual_tokens=2, tasks=("b",)),
        LoraConfig(rank=2, targets="mlp"),
    ]
    attached = attach(model, configs)
    randomize(attached.trainable(), 3)
    with torch.no_grad():
        mixed = check_rows_as_alone(model, layout, TASKS)
        without = hidden_states(model, packed([ROWS[0]], tasks=(None,)))[0]
        assert not torch.allclose(mixed[0], without, atol=1e-3)
    model.train()
    with holding(model):
        hidden_states(model, LAYOUTS[layout](ROWS, tasks=TASKS)).pow(2).sum().backward()
    assert attached.without_gradient() == []


def test_prefixes_of_an_encoder_decoder_for_some_rows() -> None:
    """T5 has position biases in place of positions, and prefixes at its cross-attention too; rows as alone."""
    model = tiny("t5")
    attached = attach(
        model,
        [
            PrefixConfig(num_virtual_tokens=3, tasks=("a",), name="left"),
            PrefixConfig(num_virtual_tokens=5, tasks=("b",), name="right"),
        ],
    )
    randomize(attached.trainable(), 3)
    answers = torch.randint(4, 384, (4, 6), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        mixed = hidden_states(model, {**padded(ROWS, tasks=TASKS), "decoder_input_ids": answers})
        for number, (row, task) in enumerate(zip(ROWS, TASKS, strict=True)):
            alone = {**padded([row], tasks=(task,)), "decoder_input_ids": answers[number : number + 1]}
            torch.testing.assert_close(mixed[number], hidden_states(model, alone)[0], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(mixed[0], mixed[3], atol=1e-3)


@pytest.mark.parametrize("first", ["prefix", "prompt"])
def test_prompts_beside_a_prefix_stand_at_the_same_positions_in_every_layout(first: str) -> None:
    """A prefix of 3 keys moves a prompt of 2 with the row behind it: to 3 and 4, in packs and padded alike."""
    configs = [PrefixConfig(num_virtual_tokens=3), PromptConfig(num_virtual_tokens=2)]
    model = tiny("llama")
    randomize(attach(model, configs if first == "prefix" else configs[::-1]).trainable(), 3)
    with torch.no_grad():
        found = [rows_of(hidden_states(model, make(ROWS)), layout) for layout, make in LAYOUTS.items()]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_an_adapter_that_mixes_tokens_cannot_be_for_some_rows() -> None:
    """One that says so, and has no form of its own for rows that differ, is refused with what else would do."""

    class Mixing(SequentialBottleneck):
        by_token = False

    model = tiny("llama")
    attached = attach(model, [LoraConfig(), BottleneckConfig(width=2, tasks=("a",))])
    for module in model.modules():
        if isinstance(module, SequentialBottleneck):
            module.__class__ = Mixing
    assert attached.trainable()
    with pytest.raises(UserError, match="cannot act on some rows of a batch only") as caught:
        hidden_states(model, packed(ROWS, tasks=("a", None, "a", "a")))
    assert "method: prompt" in caught.value.fix


@pytest.mark.parametrize(
    "config",
    [
        BottleneckConfig(width=4, placement="both", tasks=("a",)),
        BottleneckConfig(width=4, form="parallel", tasks=("a",)),
        Ia3Config(tasks=("a",)),
        VeraConfig(tasks=("a",)),
        AdaloraConfig(tasks=("a",)),
        LoraConfig(dora=True, targets="attention", tasks=("a",)),
    ],
    ids=lambda c: c.method,
)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["llama", "bert"])
def test_every_kind_of_adapter_for_some_rows(name: str, layout: str, config: MethodConfig) -> None:
    model = tiny(name)
    attached = attach(model, [LoraConfig(rank=2, targets="mlp"), config])
    randomize(attached.trainable(), 3)
    tasks = ("a", None, None, "a")
    with torch.no_grad():
        mixed = check_rows_as_alone(model, layout, tasks)
        base = hidden_states(model, packed([ROWS[0]], tasks=(None,)))[0]
        assert not torch.allclose(mixed[0], base, atol=1e-3)
