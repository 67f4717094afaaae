"""`streamrnn verify`: the stream against the offline model."""

from __future__ import annotations

import sys
from dataclasses import asdict

import click

from streamrnn.cli.threads import one_thread


@click.command("verify")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option(
    "--against",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="The pipeline file of the reference: its model, with keys, resets and inputs of its own. By default "
    "FILE itself, its model playing whole sequences.",
)
@click.option(
    "--input",
    "paths",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False),
    help="Recorded data in place of the pipeline's source; may be given several times.",
)
@click.option("--absolute", type=click.FloatRange(min=0), default=1e-5, show_default=True,
              help="Numbers may differ by this much,")  # fmt: skip
@click.option("--relative", type=click.FloatRange(min=0), default=1e-4, show_default=True,
              help="and by this share of the reference's.")  # fmt: skip
@click.option("--events", type=click.IntRange(min=1), help="Read at most so many records.")
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text")
def command(
    file: str,
    against: str | None,
    paths: tuple[str, ...],
    absolute: float,
    relative: float,
    events: int | None,
    style: str,
) -> None:
    """Compare the pipeline in FILE with an offline model over the same data.

    The pipeline serves the data as it would live. The reference plays, for each key, all that lies between
    two resets as one sequence. If an answer differs, the first one is shown, and what could be found out
    about the cause: gates or features in another order, a reset too few or too many, a feature scaled
    otherwise.

    Ends with 1 if they differ, 2 if a file is wrong, 3 if a model cannot be loaded, 4 if the data cannot be
    read.
    """
    one_thread()
    from streamrnn.config.open import open_pipeline
    from streamrnn.config.recorded import recorded
    from streamrnn.verify.compare import Tolerance
    from streamrnn.verify.verify import verify

    spec, registry, context = open_pipeline(file)
    live = recorded(spec, registry, paths), context
    other = open_pipeline(against, registry) if against else (spec, registry, context)
    verdict = verify(live, (other[0], other[2]), Tolerance(absolute, relative), events)
    if style == "json":
        import json

        click.echo(json.dumps(asdict(verdict), indent=1))
    else:
        click.echo(str(verdict))
    if not verdict.equal:
        sys.exit(1)
