"""A store in the form that another tool opens."""

from __future__ import annotations

from typing import Final

from artimuse_actor.errors import UsageError
from jobs.export import delta, hugging_face, lance, sidecar, sql
from jobs.export.kind import Exported, ExportSettings, Kind
from jobs.export.xmp import write as xmp
from jobs.store.store import keep_out_of_stores
from jobs.store.stores import Stores

KINDS: Final[dict[str, Kind]] = {
    "hf": Kind(hugging_face.write),
    "sidecar": Kind(sidecar.write),
    "sql": Kind(sql.write),
    "delta": Kind(delta.write),
    "lance": Kind(lance.write),
    "xmp": Kind(xmp.write, xmp.OPTIONS),
}
"""The values of `--as`."""


def export(settings: ExportSettings) -> Exported:
    """Write stores in one form.

    Raises:
        UsageError: an option is not valid here.
        ExportError: the target holds what no export wrote.
        StoreError: a file is incomplete, or changed meanwhile, or an id is in two stores.
    """
    kind = KINDS.get(settings.kind)
    if kind is None:
        raise UsageError(f"--as takes {', '.join(KINDS)}, not {settings.kind!r}.")
    for option in settings.own:
        if option not in kind.options:
            its = " or ".join(name for name, one in KINDS.items() if option in one.options)
            raise UsageError(f"--{option.replace('_', '-')} goes with --as {its}, not with --as {settings.kind}.")
    stores = Stores.open(settings.stores, allow_mixed=settings.allow_mixed)
    if settings.out is not None:
        keep_out_of_stores(settings.out)
    return kind.write(stores, settings)
