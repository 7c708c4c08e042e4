"""Who takes part: a script, what it needs, and how it is set for each job."""

from __future__ import annotations

from dataclasses import dataclass

from burnish.benchmarks.jobs import Job

# An allocator that keeps what it has mapped; Burnish sets this for itself.
WARM = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=8589934592:glibc.malloc.top_pad=67108864"
BF16 = ("--dtype", "bfloat16")
ONE = ("--micro-batch", "1")
# What was found best on a processor among the settings in docs/performance.md.
BEST = (*BF16, "--autocast", "--micro-batch", "2", "--by-length", "--attention", "eager")


@dataclass(frozen=True)
class Contender:
    """One way of doing a job.

    Attributes:
        name: As the command line knows it.
        title: As the table calls it.
        script: File in ``scripts/``.
        arguments: Of the script, behind the folder of the job.
        needs: Packages that its Python must have; none: Burnish's own Python.
        warm: Whether the allocator is told from outside to keep its memory.
        slow: Whether fewer rounds are enough, because one takes minutes.
        note: What a reader of its numbers must know.
    """

    name: str
    title: str
    script: str
    arguments: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    warm: bool = False
    slow: bool = False
    note: str = ""


_LITGPT = "LitGPT has no constant learning rate (warm-up and cosine), clips nothing and weighs micro-batches equally"
_HALF = "weights themselves in bf16, where small updates are rounded away; Burnish keeps them in fp32"

_INT8 = "frozen matrices multiply in 8 bits while training; the held-out loss is of the model as it is"

OURS = Contender("burnish", "Burnish", "ours.py")
_LORA = (
    OURS,
    Contender("burnish-int8", "Burnish, precision int8", "ours.py", ("--precision", "int8"), note=_INT8),
    Contender(
        "trl-tuned",
        "TRL + PEFT, best tuned (bf16, 2 x 4 by length, eager, warm allocator)",
        "trl_sft.py",
        BEST,
        ("trl", "peft"),
        warm=True,
    ),
    Contender("trl-bf16", "TRL + PEFT, bf16, 1 x 8", "trl_sft.py", (*BF16, *ONE), ("trl", "peft")),
    Contender(
        "trainer-tuned",
        "transformers.Trainer + PEFT, best tuned (bf16, 2 x 4 by length, eager, warm allocator)",
        "trainer_causal.py",
        BEST,
        ("transformers", "peft"),
        warm=True,
    ),
    Contender(
        "llamafactory",
        "LLaMA-Factory (bf16, 1 x 8, warm allocator)",
        "llamafactory_sft.py",
        ("--autocast", *ONE),
        ("llamafactory",),
        warm=True,
    ),
    Contender(
        "litgpt",
        "LitGPT (bf16-true, 1 x 8, warm allocator)",
        "litgpt_lora.py",
        ("--precision", "bf16-true", *ONE),
        ("litgpt",),
        warm=True,
        note=_LITGPT,
    ),
    Contender(
        "adapters",
        "AdapterHub adapters (bf16, 1 x 8, warm allocator)",
        "adapterhub.py",
        (*BF16, *ONE),
        ("adapters",),
        warm=True,
        note="AdapterHub's new weights are kept in bf16 too: it refuses products of two formats",
    ),
    Contender("trl", "TRL + PEFT, as documented (fp32, batch 8)", "trl_sft.py", needs=("trl", "peft"), slow=True),
)
_QLORA = (
    OURS,
    Contender(
        "trl-tuned",
        "TRL + PEFT + bitsandbytes, best tuned (bf16, 2 x 4 by length, eager, warm allocator)",
        "trl_sft.py",
        BEST,
        ("trl", "peft", "bitsandbytes"),
        warm=True,
    ),
    Contender(
        "trainer-tuned",
        "transformers.Trainer + PEFT + bitsandbytes, best tuned (the same settings)",
        "trainer_causal.py",
        BEST,
        ("transformers", "peft", "bitsandbytes"),
        warm=True,
    ),
    Contender(
        "trl",
        "TRL + PEFT + bitsandbytes, as documented (batch 8)",
        "trl_sft.py",
        needs=("trl", "peft", "bitsandbytes"),
        slow=True,
    ),
)
_FULL = (
    OURS,
    Contender(
        "trl-tuned",
        "TRL, best tuned (bf16 autocast, 1 x 8, warm allocator)",
        "trl_sft.py",
        ("--autocast", *ONE),
        ("trl", "peft"),
        warm=True,
    ),
    Contender(
        "trainer-tuned",
        "transformers.Trainer, best tuned (bf16 autocast, 1 x 8, warm allocator)",
        "trainer_causal.py",
        ("--autocast", *ONE),
        ("transformers", "peft"),
        warm=True,
    ),
    Contender(
        "trl-bf16",
        "TRL, bf16 weights, 1 x 8, warm allocator",
        "trl_sft.py",
        (*BF16, *ONE),
        ("trl", "peft"),
        warm=True,
        note=f"TRL with bf16 weights: {_HALF}",
    ),
    Contender(
        "llamafactory",
        "LLaMA-Factory (bf16, 1 x 8, warm allocator)",
        "llamafactory_sft.py",
        ("--autocast", *ONE),
        ("llamafactory",),
        warm=True,
    ),
    Contender(
        "litgpt",
        "LitGPT (bf16-mixed, 1 x 8, warm allocator)",
        "litgpt_lora.py",
        ("--precision", "bf16-mixed", *ONE),
        ("litgpt",),
        warm=True,
        note=_LITGPT,
    ),
    Contender("trl", "TRL, as documented (fp32, batch 8)", "trl_sft.py", needs=("trl", "peft"), slow=True),
)
_CLASSES = (
    Contender("burnish", "Burnish", "ours_classes.py"),
    Contender(
        "trainer-tuned",
        "transformers.Trainer, best tuned (bf16 autocast, rows of like length together, warm allocator)",
        "trainer_classes.py",
        ("--autocast", "--by-length"),
        ("transformers", "peft"),
        warm=True,
    ),
    Contender(
        "trainer",
        "transformers.Trainer, as documented (fp32, batch 16)",
        "trainer_classes.py",
        needs=("transformers", "peft"),
    ),
)

_INT8_CLASSES = Contender(
    "burnish-int8", "Burnish, precision int8", "ours_classes.py", ("--precision", "int8"), note=_INT8
)

_METHOD = (
    OURS,
    Contender(
        "peft-tuned",
        "PEFT in a plain loop, best tuned (bf16, 2 x 4 by length, eager, warm allocator)",
        "peft_loop.py",
        BEST,
        ("transformers", "peft"),
        warm=True,
    ),
    Contender(
        "peft",
        "PEFT in a plain loop, fp32, batch 8",
        "peft_loop.py",
        needs=("transformers", "peft"),
        slow=True,
    ),
)

CONTENDERS: dict[tuple[str, str], tuple[Contender, ...]] = {
    ("completion", "lora"): _LORA,
    ("completion", "full"): _FULL,
    ("completion", "method"): _METHOD,
    ("classification", "lora"): (_CLASSES[0], _INT8_CLASSES, *_CLASSES[1:]),
    ("classification", "full"): _CLASSES,
}


def contenders_of(job: Job) -> tuple[Contender, ...]:
    """Who takes part in a job, in the order of a round; Burnish first."""
    return _QLORA if job.nf4 else CONTENDERS[job.kind, job.method]
