"""Prompts with completions, plain text and pairs for encoder-decoders as tokens; what is cut, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.core.errors import UserError
from burnish.data.config import RenderConfig
from burnish.data.example import Example
from burnish.data.render import Rendered, Renderer
from burnish.data.truncate import cut_pair, cut_row
from tests.data import chats
from tests.data.chats import talk, tokenizer


def pair(prompt: str, completion: str) -> Example:
    return Example("f:1", prompt=prompt, completion=completion)


def made(**options: object) -> Renderer:
    keys = {k: options.pop(k) for k in ("template", "kind", "bos", "eos_first") if k in options}
    mode = options.pop("mode", "causal")
    return Renderer(tokenizer(**keys), RenderConfig.model_validate(options), mode)  # type: ignore[arg-type]


KINDS = [{"kind": "bytes"}, {"kind": "bytes", "bos": True}, {"kind": "words"}, {"kind": "words", "bos": True}]


@pytest.mark.parametrize("keys", KINDS)
def test_a_row_is_prompt_completion_and_one_eos(keys: dict) -> None:
    """Trained: the completion's tokens and EOS. The text comes back whole; a BOS only where the tokenizer adds it."""
    renderer = made(**keys)
    row = renderer.render(pair("Sentiment:", " positive"))
    text = renderer.tokenizer.decode(row.input_ids, skip_special_tokens=False)
    whole = renderer.tokenizer("Sentiment: positive")["input_ids"]
    assert text == renderer.tokenizer.decode(whole, skip_special_tokens=False) + "</s>"
    assert text.startswith("<s>") == bool(keys.get("bos"))
    target = [i for i, t in zip(row.input_ids, row.trained, strict=True) if t]
    assert renderer.tokenizer.decode(target).strip() == "positive</s>"
    assert target.count(renderer.tokenizer.eos_token_id) == 1
    assert row.input_ids == row.prompt_ids + target
    assert row.prompt_ids == renderer.prompt_ids("Sentiment:") == renderer.tokenizer("Sentiment:")["input_ids"]
    assert row.marks == ()


@pytest.mark.parametrize("keys", KINDS)
def test_the_tokens_are_those_of_the_whole_text_where_no_token_crosses(keys: dict) -> None:
    """Oracle: the tokenizer on the whole text at once."""
    renderer = made(**keys)
    for prompt, completion in [("how are you? ", "I am fine"), ("a:", " b c"), ("x\n", "positive\nnegative")]:
        row = renderer.render(pair(prompt, completion))
        if "apart" not in row.marks:
            assert row.input_ids[:-1] == renderer.tokenizer(prompt + completion)["input_ids"]


def test_a_token_across_the_border_is_split_and_said() -> None:
    """`posi` + `tive` is one token as a whole; the model is given `posi` when it generates, so the row has it too."""
    renderer = made()
    row = renderer.render(pair("Sentiment: posi", "tive"))
    assert row.prompt_ids == renderer.tokenizer("Sentiment: posi")["input_ids"]
    assert row.input_ids[: len(row.prompt_ids)] == row.prompt_ids
    assert row.marks == ("apart",)
    assert renderer.tokenizer.decode(row.input_ids) == "Sentiment: positive</s>"


def test_a_space_at_the_end_of_the_prompt_is_seen_although_offsets_hide_it() -> None:
    """Trimmed offsets put ` positive` at `p`, as if the border behind the space crossed no token."""
    renderer = made()
    row = renderer.render(pair("Sentiment: ", "positive"))
    assert row.prompt_ids == renderer.tokenizer("Sentiment: ")["input_ids"]
    assert "apart" in row.marks


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30), st.text(min_size=1, max_size=30), st.sampled_from(KINDS[:2]))
def test_any_text_comes_back_and_the_prompt_is_its_own(prompt: str, completion: str, keys: dict) -> None:
    renderer = made(**keys)
    row = renderer.render(pair(prompt, completion))
    assert renderer.tokenizer.decode(row.input_ids) == ("<s>" if keys.get("bos") else "") + prompt + completion + "</s>"
    assert row.prompt_ids == renderer.tokenizer(prompt)["input_ids"]


def test_plain_text_is_trained_whole_but_for_its_first_token() -> None:
    """Nothing predicts the first token; with BOS that is BOS, without it the first of the text."""
    for bos in (False, True):
        renderer = made(bos=bos)
        row = renderer.render(Example("f:1", text="hello there, how are you?"))
        assert row.trained == [False] + [True] * (len(row.input_ids) - 1)
        assert row.input_ids[-1] == renderer.tokenizer.eos_token_id
        assert row.prompt_ids == ([renderer.tokenizer.bos_token_id] if bos else [])


def test_a_text_that_spells_bos_or_eos_is_not_given_another_and_is_reported() -> None:
    renderer = made(bos=True)
    row = renderer.render(pair("<s>hello", " there</s>"))
    assert row.input_ids.count(renderer.tokenizer.bos_token_id) == 1
    assert row.input_ids.count(renderer.tokenizer.eos_token_id) == 1
    assert set(row.marks) == {"special-text", "bos-in-text"}


def test_many_rows_at_once_equal_each_alone() -> None:
    renderer = made(template=chats.LLAMA2, kind="words", bos=True)
    examples = [pair("a b", " c"), Example("f:2", text="hello there"), Example("f:3", messages=tuple(talk("a", "b")))]
    assert renderer.render_all(examples) == [renderer.render(e) for e in examples]


def test_a_tokenizer_that_was_left_truncating_and_padding_does_not_matter() -> None:
    fresh, used = made(), made()
    used.tokenizer("some text here", truncation=True, max_length=2, padding="max_length")
    example = pair("Sentiment: what a wonderful day", " positive")
    assert used.render(example) == fresh.render(example)


def test_a_tokenizer_without_eos_is_refused() -> None:
    with pytest.raises(UserError, match="no end-of-sequence token"):
        Renderer(tokenizer(eos_token=None), RenderConfig())


def ids(renderer: Renderer, text: str) -> list[int]:
    return renderer.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_long_prompt_is_cut_on_its_left_behind_bos_and_the_target_stays() -> None:
    """Room 8 = BOS + 5 of the prompt's end + ` positive` + EOS."""
    renderer = made(bos=True, max_length=8)
    prompt = "one two three four five six seven eight nine ten Sentiment:"
    row = renderer.render(pair(prompt, " positive"))
    bos, eos = renderer.tokenizer.bos_token_id, renderer.tokenizer.eos_token_id
    assert row.input_ids == [bos, *ids(renderer, prompt)[-5:], *ids(renderer, " positive"), eos]
    assert (row.truncated, row.lost_targets, row.n_trained) == (True, 0, 2)
    assert row.prompt_ids == row.input_ids[:6]


def test_a_target_that_does_not_fit_keeps_a_quarter_for_the_prompt_and_says_what_it_lost() -> None:
    """Room 8 with a target of 12 + EOS: 8 // 4 = 2 tokens of the prompt, 6 of the target; 13 - 6 = 7 are lost."""
    renderer = made(max_length=8)
    target = "abcdefghijkl"
    assert len(ids(renderer, "zq zq zq zq")) > 2
    row = renderer.render(pair("zq zq zq zq", target))
    whole = ids(renderer, target)
    assert row.input_ids[2:] == whole[:6]
    assert row.lost_targets == len(whole) + 1 - 6
    assert row.trained == [False] * 2 + [True] * 6


def test_on_too_long_drop_and_error() -> None:
    example = pair("one two three four five six", " positive")
    with pytest.raises(UserError, match="too long"):
        made(max_length=4, on_too_long="drop").render(example)
    with pytest.raises(UserError, match="at most 4 tokens"):
        made(max_length=4, on_too_long="error").render(example)


def test_a_long_conversation_keeps_its_beginning_and_the_last_prompt_for_generation() -> None:
    """Two targets: the row is cut at its end; what generation is given still ends with the last question."""
    renderer = made(template=chats.CHATML, max_length=30)
    messages = talk("Hi there", "hello", "how are you? " * 6, "fine")
    row = renderer.render(Example("f:1", messages=tuple(messages)))
    whole = made(template=chats.CHATML).render(Example("f:1", messages=tuple(messages)))
    assert row.input_ids == whole.input_ids[:30]
    assert row.lost_targets == whole.n_trained - row.n_trained > 0
    assert row.prompt_ids == whole.prompt_ids[-len(row.prompt_ids) :]
    assert len(row.prompt_ids) < 30


def test_a_first_token_that_is_trained_counts_for_nothing_after_a_cut() -> None:
    row = made(max_length=4, train_on="all").render(pair("one two three four five", " positive"))
    assert not row.trained[0]
    assert row.n_trained == sum(row.trained) == 3


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_cuts_fit_keep_order_and_keep_a_target(data: st.DataObject) -> None:
    """For every shape of row: at most ``limit`` tokens, ascending places, BOS first, the target whole where it fits."""
    head = data.draw(st.integers(0, 2))
    prompt = head + data.draw(st.integers(0, 20))
    target = data.draw(st.integers(1, 20))
    limit = data.draw(st.integers(2, 30))
    trained = [False] * prompt + [True] * target
    keep = cut_row(trained, prompt=prompt, head=head, limit=limit, left=data.draw(st.booleans()))
    assert len(keep) == min(limit, prompt + target)
    assert keep == sorted(set(keep))
    assert any(trained[i] for i in keep)
    assert keep[0] == 0 or head == 0
    fits = sum(trained[i] for i in keep) == target
    before = max(1, min(head, limit - 1)) if prompt else 0  # the first token of a row is never predicted
    assert fits or target > limit - before or keep == list(range(limit))


def test_an_encoder_decoder_gets_its_input_framed_and_a_target_with_one_eos() -> None:
    renderer = made(eos_first=True, mode="seq2seq")
    row = renderer.render(pair("Sentiment: what a day!", "positive"))
    eos = renderer.tokenizer.eos_token_id
    assert row.input_ids == [*ids(renderer, "Sentiment: what a day!"), eos] == row.prompt_ids
    assert row.target_ids == [*ids(renderer, "positive"), eos]
    assert row.n_trained == len(row.target_ids) and not any(row.trained)
    bare = made(mode="seq2seq").render(pair("a", "positive"))
    assert bare.target_ids == [*ids(renderer, "positive"), eos]


def test_an_encoder_decoder_cuts_both_at_the_end_and_keeps_the_inputs_eos() -> None:
    assert cut_pair([1, 2, 3, 4, 9], [5, 6, 7, 9], suffix=1, limit=3) == ([1, 2, 9], [5, 6, 7])
    row = made(eos_first=True, mode="seq2seq", max_length=2).render(pair("how are you", "I am fine"))
    assert isinstance(row, Rendered) and row.lost_targets > 0 and row.truncated


def test_an_encoder_decoder_refuses_conversations_and_plain_text() -> None:
    chat = Example("f:1", messages=tuple(talk("a", "b")))
    for example, word in ((Example("f:1", text="x"), "plain text"), (chat, "conv")):
        with pytest.raises(UserError, match=word):
            made(mode="seq2seq").render(example)
