"""Merging a run's adapter into its base."""

from __future__ import annotations

from pathlib import Path

from burnish.adapters.merge import MergeReport, merge
from burnish.core.errors import UserError
from burnish.core.names import suggestion
from burnish.models.classifier_files import has_classifier, read_classifier
from burnish.models.generation_file import stored_settings
from burnish.train.folder import is_run, open_run, runs_beside
from burnish.train.handover import ADAPTER_FILES, base_config, read_recipe
from burnish.train.merging_4_bits import Place, merge_from_4_bits
from burnish.train.precision import DTYPES
from burnish.train.rescore import held_out

MEASURED_ROWS = 100
"""Held-out rows that a merge is measured on, before and after."""


def merge_run(
    path: Path, output: Path, *, dtype: str = "fp32", base: str = "best", measure: bool = True
) -> MergeReport:
    """Fold the adapter of a run, or of an adapter folder, into its base and write a plain model folder.

    Args:
        path: The run or adapter folder.
        output: A folder that does not exist or is empty.
        dtype: Number format of the merged weights.
        base: For an adapter that was trained beside weights of 4 bits: the base as its files hold it (``full``), what 4
            bits make of it (``dequantized``), or whichever of them does better on held-out rows.
        measure: Score held-out rows of the run before and after, where the run has some and its data is still there.

    Raises:
        UserError: There is no adapter, the run tuned the whole model, or ``output`` is taken.
    """
    if dtype not in DTYPES:
        raise UserError(f"unknown number format `{dtype}`", where="--dtype", fix=suggestion(dtype, DTYPES))
    folder, model, rows = path, None, None
    if is_run(path):
        run = open_run(path)
        config = read_recipe(run)
        folder, model = run.final, config.model
        rows = held_out(config, MEASURED_ROWS) if measure else None
        if not folder.is_dir():
            raise UserError("this run has not handed over a model yet", where=str(folder), fix=f"burnish resume {path}")
    if (folder / "config.json").is_file():
        what = "there is no adapter to merge: this is a plain model folder already"
        raise UserError(what, where=str(folder), fix="use that folder as it is")
    if not folder.exists():
        raise UserError("there is no such run", where=str(path), fix=runs_beside(path) or "name a folder of a run")
    if not any((folder / name).is_file() for name in ADAPTER_FILES):
        raise UserError("there is no adapter here", where=str(folder), fix="name a run folder or an adapter folder")
    head = read_classifier(folder) if has_classifier(folder) else None
    settings = stored_settings(folder) if head is None else None
    place = Place(folder, model or base_config(folder), output, DTYPES[dtype], head, settings)
    if place.model.quantization is not None:
        return merge_from_4_bits(place, base, rows)
    if base != "best":
        what = "the adapter was trained beside weights that are whole, so there is one base to merge it into"
        raise UserError(what, where="--base", fix="leave `--base` out")
    return merge(place.load(place.model), folder, output, rows.score if rows else None)
