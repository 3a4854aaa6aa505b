"""Tiles for tests that only care whether and by whom they are answered."""

from __future__ import annotations

import numpy as np

from kappamask_stream.inference import TileRequest, TritonClient


def tile_for(client: TritonClient, dn: int = 4000, name: str = "tile") -> TileRequest:
    """A tile of one digital number; the null model calls it cloud (4) above 3000, else clear (1)."""
    contract = client.contract
    tensors = {g.tensor: np.full((len(g.bands), g.tile, g.tile), dn, np.uint16) for g in contract.inputs}
    zeros = np.zeros(len(contract.channels), np.float32)
    return TileRequest(name=name, tensors=tensors, offset=zeros, scale=zeros + np.float32(1e-4))


async def labels_at(address: str, model: str) -> set[int]:
    """Connect, send one bright tile and return the classes in the answer."""
    async with await TritonClient.connect(f"grpc://{address}", model) as client:
        return set(np.unique((await client.infer(tile_for(client))).labels).tolist())
