"""The commands `simulate`, a local KIE, and `demo`, everything on this machine."""

from pathlib import Path
from typing import Annotated, Any

import typer

from reconciler.errors import Config


def _faults(text: str) -> tuple[float, list[Any]]:
    from reconciler.simulator.faults import share_or_faults

    try:
        return share_or_faults(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _latency(text: str) -> float | tuple[float, float]:
    from reconciler.simulator.options import read_latency

    try:
        return read_latency(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def simulate(  # noqa: PLR0913 - each is an option of the command
    *,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 0,
    seed: Annotated[int, typer.Option(help="The same seed makes the same KIE.")] = 0,
    replay: Annotated[
        Path | None, typer.Option(metavar="DIR", exists=True, file_okay=False, help="Recorded tasks to replay.")
    ] = None,
    speed: Annotated[float, typer.Option(min=0.001, help="20: a task of 100 s takes 5.")] = 1.0,
    faults: Annotated[
        str, typer.Option(help="The share of requests that go wrong, or names: late.hole@75,create.body_402*1.")
    ] = "0",
    http_errors: Annotated[
        float, typer.Option(min=0, max=1, help="The share of requests answered by a 5xx or a closed connection.")
    ] = 0.0,
    latency: Annotated[str, typer.Option(metavar="SECONDS", help="Before an answer; a range: 0.3-0.95.")] = "0",
    keys: Annotated[str, typer.Option(help="Accepted API keys, comma separated; each knows its own tasks.")] = "",
    hmac_key: Annotated[str | None, typer.Option(help="Sign callbacks with this key.")] = None,
    callback_hosts: Annotated[
        str, typer.Option(help="Hosts that callbacks may go to, comma separated, besides this machine; *: any.")
    ] = "",
    any_model: Annotated[bool, typer.Option("--any-model", help="Accept unknown models and missing inputs.")] = False,
) -> None:
    """Run a local KIE, until Ctrl-C.

    Its address is the first line printed. docs/SIMULATOR.md says what it answers.
    """
    from reconciler.simulator import Simulator
    from reconciler.simulator.serve import serve

    share, named = _faults(faults)
    kie = Simulator(
        port=port,
        seed=seed,
        speed=speed,
        faults=share,
        failing=http_errors,
        latency=_latency(latency),
        keys=_words(keys),
        hmac_key=hmac_key,
        callback_hosts=_words(callback_hosts),
        strict=not any_model,
    )
    try:
        serve(kie, replay, named)
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
