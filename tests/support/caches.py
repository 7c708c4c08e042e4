"""Caches that tests and benches have to themselves."""

from __future__ import annotations

from pathlib import Path

from burnish.core.paths import cache_folder


def own_cache(folder: Path) -> Path:
    """A new cache, but for the compiled kernels, which take half a minute to make."""
    kernels = cache_folder() / "native"
    kernels.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True)
    (folder / "native").symlink_to(kernels, target_is_directory=True)
    return folder
