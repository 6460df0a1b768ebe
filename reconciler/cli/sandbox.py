"""The commands `simulate`, a local KIE, and `demo`, everything on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from reconciler.errors import Config


def simulate(
    *,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 0,
    seed: Annotated[int, typer.Option(help="The same seed makes the same KIE.")] = 0,
    replay: Annotated[
        Path | None, typer.Option(metavar="DIR", exists=True, file_okay=False, help="Recorded tasks to replay.")
    ] = None,
    speed: Annotated[float, typer.Option(min=0.001, help="20: a task of 100 s takes 5.")] = 1.0,
    faults: Annotated[float, typer.Option(min=0, max=1, help="The share of requests that go wrong.")] = 0.0,
) -> None:
    """Run a local KIE, until Ctrl-C.

    Its address is the first line printed.
    """
    from reconciler.simulator import Simulator
    from reconciler.simulator.serve import serve

    try:
        serve(Simulator(port=port, seed=seed, speed=speed, faults=faults), replay)
    except OSError as error:
        raise Config(f"cannot listen on port {port}: {error.strerror}", hint="choose another --port") from error


def demo(
    *,
    generations: Annotated[int, typer.Option(min=1, help="How many to order.")] = 24,
    serve: Annotated[bool, typer.Option("--serve", help="Stay up afterwards, until Ctrl-C.")] = False,
    faults: Annotated[bool, typer.Option("--faults", help="A third of everything fails on the way.")] = False,
) -> None:
    """Play the whole job on this machine.

    Every stored byte is compared with its source; exit 0 only if all arrived.
    """
    from reconciler.demo import main

    raise typer.Exit(main(generations=generations, serve=serve, faults=faults))
