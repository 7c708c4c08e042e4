"""Burnish on the classification, through its own loop.

The recipe names the task and its label column; everything else is as in ``ours.py``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from measure import held_out_classes, read_job
from ours import recipe, run


def main() -> None:
    """The job of classes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    job = read_job(folder)
    values = recipe(folder, job)
    values["task"] = {"kind": "classification", "labels": job["labels"]}
    for name in ("train", "validation"):
        values["data"][name] |= {"text": "{text}", "label": "sentiment"}
    run(values, folder, held_out_classes)


if __name__ == "__main__":
    main()
