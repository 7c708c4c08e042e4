"""Memory of scoring held-out rows: a tiny classifier scores few and many of them, each in a process of its own.

    python bench/evaluation_memory.py            # 1,000 and 100,000 rows; about ten minutes on one core

What is measured is `burnish evaluate RUN data.test=FILE --predictions ROWS` from its reading to its last line: the most
anonymous memory that the process held, looked at a hundred times a second. Pages of files that are mapped are not
counted: the system takes them back when it needs the room.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent


def rows(count: int, start: int) -> list[dict[str, str]]:
    """Rows like tweets, all different."""
    words = {"positive": ("wonderful", "day!"), "negative": ("terrible", "news"), "neutral": ("one",)}
    labels = list(words)
    return [
        {"text": f"{' '.join(words[labels[i % 3]] * (1 + i % 5))} number {i}", "label": labels[i % 3]}
        for i in range(start, start + count)
    ]


def write(path: Path, count: int, start: int = 0) -> Path:
    """Rows as a JSONL file."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows(count, start):
            file.write(json.dumps(row) + "\n")
    return path


def anonymous() -> int:
    """Bytes of anonymous memory that this process holds now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this system does not tell anonymous memory")


def child(arguments: list[str]) -> None:
    """`burnish evaluate` with an eye on its memory."""
    from burnish.cli.main import call

    most, ended = [anonymous()], threading.Event()

    def look() -> None:
        while not ended.wait(0.01):
            most[0] = max(most[0], anonymous())

    thread = threading.Thread(target=look)
    thread.start()
    began = time.process_time()
    code = call(arguments)
    ended.set()
    thread.join()
    print("\nMEASURED", json.dumps({"code": code, "peak": most[0], "seconds": time.process_time() - began}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 100_000])
    parser.add_argument("--child", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if options.child:
        child(options.child)
        return
    sys.path.insert(0, str(HERE))
    from tests.support.recipes import recipe

    from burnish.core.config import build
    from burnish.train.config import RunConfig
    from burnish.train.run import start_run

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        values = recipe(folder, model="bert", task="classification")
        write(folder / "rows.jsonl", 90, 10_000_000)
        run = start_run(build(RunConfig, values)).folder
        for count in options.rows:
            file, out = write(folder / f"{count}.jsonl", count), folder / "predictions.jsonl"
            told = [
                "evaluate",
                str(run),
                f"data.test={file}",
                "data.split={validation: 12}",
                "--predictions",
                str(out),
                "--no-speed",
            ]
            command = [sys.executable, __file__, "--child", *told]
            answer = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(answer.stdout.rpartition("MEASURED ")[2])
            if found["code"]:
                raise SystemExit(answer.stdout + answer.stderr)
            lines = sum(1 for _ in out.open(encoding="utf-8"))
            peak = found["peak"] / 1e6
            print(f"{count:>9,} rows: peak {peak:.1f} MB anonymous, {found['seconds']:.0f} s, {lines:,} lines")


if __name__ == "__main__":
    main()
