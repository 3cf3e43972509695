"""A value and its companions share a cluster slot, so that reads never go back there either."""

from __future__ import annotations

import pytest

from rtx.wire import Caller
from tests.cache.interleaving import chosen, interleave


@pytest.mark.parametrize("faults", [0.0, 0.05])
async def test_no_read_in_a_cluster_goes_back_behind_a_write_that_has_returned(
    caller: Caller, namespace: str, monkeypatch: pytest.MonkeyPatch, faults: float
) -> None:
    await interleave(caller, namespace, chosen(150), monkeypatch, faults=faults)
