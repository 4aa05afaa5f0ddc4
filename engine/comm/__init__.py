"""Messages between processes: transports for the per-layer path, control sockets beside them."""

from engine.registry import Registry

TRANSPORTS = Registry(
    "transport",
    {
        "loopback": "engine.comm.loopback:LoopbackTransport",
        "nixl": "engine.comm.nixl_transport:NixlTransport",
        "shm": "engine.comm.shm:ShmTransport",
        "tcp": "engine.comm.tcp:TcpTransport",
        "torch": "engine.comm.torch_transport:TorchTransport",
    },
)
