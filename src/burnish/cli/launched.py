"""What `burnish launch` starts: a command among several processes, that goes on where a crashed attempt ended."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

LOST = ("closed by peer", "reset by peer", "broken pipe", "connection refused", "gloo", "nccl", "socket")
"""Words of errors that say that another process is gone."""


def main(arguments: Sequence[str]) -> None:
    """Run the command and leave with its exit code; a process that lost another leaves in silence."""
    from burnish.cli.main import call
    from burnish.train.distributed.group import close
    from burnish.train.distributed.launch import PEER_LOST

    try:
        code = call(continued(list(arguments)))
    except RuntimeError as error:
        if not any(word in str(error).lower() for word in LOST):
            raise
        sys.stdout.flush()
        os._exit(PEER_LOST)  # a group that lost a member cannot be left in order
    if code:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # others may be gone, and a group is left together
    close()


def continued(arguments: list[str]) -> list[str]:
    """The command of another attempt: it resumes the run where that has a checkpoint, and begins it anew otherwise.

    A folder from before the first attempt is another run's: that attempt ended before it made its own.
    """
    from burnish.api import load_recipe
    from burnish.train.distributed.launch import ATTEMPT, SINCE
    from burnish.train.folder import RECIPE

    if not int(os.environ.get(ATTEMPT, "0")) or arguments[0] != "run":
        return arguments
    words = [a for a in arguments[1:] if not a.startswith("--")]
    folder = load_recipe(words[0], words[1:]).folder
    made = folder / RECIPE
    if not made.is_file() or made.stat().st_mtime < float(os.environ[SINCE]):
        return arguments
    if any((folder / "checkpoints").glob("step-*/manifest.json")):
        return ["resume", str(folder), *(a for a in arguments[1:] if a == "--json")]
    return [*arguments, *([] if "--force" in arguments else ["--force"])]


if __name__ == "__main__":
    main(sys.argv[1:])
