"""The role of a tp rank other than rank 0: what its process runs."""

import logging
from multiprocessing.connection import Connection

from engine import devices
from engine.build import build_follower, build_transport, layout_of
from engine.build_parted import build_part
from engine.children import LOST_ANOTHER
from engine.errors import PeerLost
from engine.meeting import Place
from engine.memory.base import MemoryPool
from engine.protocol.ranks import TO_RANK, Start

log = logging.getLogger(__name__)


def follow(
    pipe: Connection,
    place: Place,
    memory: MemoryPool | None,
    *,
    rank: int,
    leader: Connection,
    meeting_file: int,
) -> int:
    """Runs its part of what rank 0 says, until that leaves; returns its exit status.

    Without ``memory`` rank 0 shows it its part of the pool.
    """
    import torch

    from engine.build_attention import load_model, model_device
    from engine.comm.torch_collective import TorchCollective
    from engine.model.checkpoint import Checkpoint

    torch.set_num_threads(place.config.threads)
    config = place.seated(rank).config
    device = model_device(config)
    devices.enter(device)
    try:
        start = TO_RANK(leader.recv_bytes())
        if memory is None:
            memory = build_part(config, layout_of(config, place.shape), rank, leader.recv())
    except EOFError:  # rank 0 has told the supervisor why
        return 0
    assert isinstance(start, Start)
    checkpoint = load_model(config)
    assert isinstance(checkpoint, Checkpoint), "checked with the configuration"
    try:
        follower = build_follower(
            config,
            instance=place.instance,
            step_epoch=start.epoch,
            cluster=place.cluster,
            checkpoint=checkpoint,
            pool=memory,
            transport=build_transport(config, key=start.key),
            collective=TorchCollective(meeting_file, rank, config.tp, device),
            leader=leader,
        )
        follower.serve()
    except PeerLost as error:
        log.warning("%s", error)
        return LOST_ANOTHER
    return 0
