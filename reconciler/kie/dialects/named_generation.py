"""Reads which generation a record names: many records repeat the order, and with it the address to call back.

The market and Suno repeat the order as JSON in `param`; Veo, Aleph, 4o, Flux Kontext and Midjourney in `paramJson`,
Luma in `promptJson`, Runway in `generateParam`. The records of what Suno makes from music have the address alone, in
`callbackUrl`. Only the market is known to repeat an order whole. The visit calls this for a row whose task id was lost.
"""

from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

from reconciler.kie.dialects.parsing import parse_nested

_ORDERS = ("param", "paramJson", "promptJson", "generateParam")


def generation_named(record: object) -> str | None:
    """Return the generation's id in the callback address that a record repeats; None if it repeats no address.

    Empty if the address names no generation, or more than one. Only the top level of an order is read, because deeper
    fields hold users' input.
    """
    if not isinstance(record, Mapping):
        return None
    orders = [order for order in (parse_nested(record.get(key)) for key in _ORDERS) if isinstance(order, Mapping)]
    addresses = [*(order.get("callBackUrl") for order in orders), record.get("callbackUrl")]
    named = {_generation(address) for address in addresses if isinstance(address, str) and address.strip()}
    return (named.pop() if len(named) == 1 else "") if named else None


def _generation(address: str) -> str:
    try:
        query = parse_qsl(urlsplit(address).query, keep_blank_values=True)
    except ValueError:
        return ""
    named = [value for name, value in query if name == "generation"]
    return named[0] if len(named) == 1 else ""
