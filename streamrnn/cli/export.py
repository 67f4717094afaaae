"""`streamrnn export`: a pipeline's model as an ONNX file."""

from __future__ import annotations

import os
from pathlib import Path

import click

from streamrnn.cli.threads import one_thread


@click.command("export")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option(
    "-o", "--output", "target", required=True, type=click.Path(dir_okay=False, path_type=Path),
    help="The ONNX file to write; one that is there is replaced.",
)  # fmt: skip
def command(file: str, target: Path) -> None:
    """Write the model of the pipeline in FILE as an ONNX graph of one step.

    The graph has the states as inputs and outputs, named in its metadata, so that `type: onnx` needs nothing
    but its path. It is written only if it answers random sequences of several keys as the model does. Layers
    and PyTorch modules can be exported; the package streamrnn-onnx is needed.
    """
    one_thread()
    from streamrnn.cli.echo import to_flow
    from streamrnn.config.open import open_pipeline
    from streamrnn.export import export

    spec, registry, context = open_pipeline(file)
    done = export(spec, registry, context, target)
    model: dict[str, object] = {"type": "onnx", "path": os.path.relpath(target.absolute(), context.base_dir)}
    if spec.file.model.context:
        model["context"] = dict(spec.file.model.context)
    click.echo(f"model: {to_flow(model)}")
    click.echo(
        f"wrote {target}, {done.bytes:,} bytes; over {done.events} events of {done.keys} keys a step differs "
        f"from the model's by at most {done.step:.2g}, whole sequences by {done.drift:.2g}",
        err=True,
    )
