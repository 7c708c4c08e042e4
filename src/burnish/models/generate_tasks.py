"""Generation for rows of several tasks: each task's rows apart, with the parts of the model that are for them."""

from __future__ import annotations

from collections.abc import Sequence

from burnish.models.generate import GenerateConfig, Generation, generate
from burnish.models.load import Loaded
from burnish.models.route import for_task, refuse_missing_task


def generate_tasks(
    loaded: Loaded,
    prompts: Sequence[Sequence[int]],
    tasks: Sequence[str | None],
    config: GenerateConfig,
    batch_tokens: int = 2048,
) -> list[Generation]:
    """``generate``, with the task of each prompt.

    Args:
        loaded: The model and its tokenizer.
        prompts: Token ids.
        tasks: The task of each; empty where the rows have none.
        config: How to generate.
        batch_tokens: Size of a batch.

    Returns:
        One generation per prompt, in their order.

    Raises:
        UserError: The model has parts that are for some tasks only, and no task is named.
    """
    if not tasks:
        refuse_missing_task(loaded.model)
        return generate(loaded, prompts, config, batch_tokens)
    results: dict[int, Generation] = {}
    for task in dict.fromkeys(tasks):
        rows = [i for i, own in enumerate(tasks) if own == task]
        with for_task(loaded.model, task):
            answers = generate(loaded, [prompts[i] for i in rows], config, batch_tokens)
        results |= dict(zip(rows, answers, strict=True))
    return [results[i] for i in range(len(prompts))]
