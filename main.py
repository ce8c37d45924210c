"""The reference implementation's command lines, verbatim, on this package: see docs/guide.md."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from person_search.commandline.cli import run
from person_search.commandline.reference_options import read_reference_options, show_only
from person_search.config import with_settings
from person_search.errors import UsageError


def execute(arguments: Sequence[str]) -> None:
    """Train or evaluate as the reference's options ask."""
    asked = read_reference_options(arguments)
    if asked.ignored:
        print(f"no meaning here, ignored: {' '.join(asked.ignored)}", file=sys.stderr)
    if asked.test and asked.checkpoint is None:
        raise UsageError("main.py: --is_test needs --load_ckpt FILE")
    if asked.gpus:
        show_only(asked.gpus, os.environ)
    from person_search.checkpoints.checkpoint import LAST
    from person_search.commandline.commands import run_evaluation, run_training

    if asked.test:
        run_evaluation(
            asked.checkpoint,
            asked.config,
            overrides=asked.overrides,
            out=None,
            split_name="test",
            references=False,
            home=asked.config.training.run_dir,
        )
    elif asked.resume:
        if asked.checkpoint is not None and asked.checkpoint.suffix and asked.checkpoint.name != LAST:
            print(
                f"--continue_train goes on with the newest good checkpoint in '{asked.checkpoint.parent}', whichever "
                "--load_ckpt names",
                file=sys.stderr,
            )
        run_training(asked.config, resume=True)
    else:
        run_training(with_settings(asked.config, init_from=asked.checkpoint), resume=False)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:], execute))
