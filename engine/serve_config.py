"""What ``lendkv serve`` offers over HTTP: the part ``serve`` of the configuration tree."""

from dataclasses import dataclass, field
from typing import Literal

MASK = "***"


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeConfig:
    host: str = "127.0.0.1"
    port: int = 8000
    """of the cluster's gateway, on rank 0"""
    instance_port: int = 0
    """when set, instance i also serves HTTP by itself on this port + i"""
    model_name: str = ""
    """what clients call the model; its path where empty"""
    tool_parser: Literal["auto", "hermes", "llama3_json", "mistral", "none"] = "auto"
    """how the model writes tool calls; auto: as its chat template does; none: tools are refused"""
    max_body_bytes: int = 16 << 20
    generation_config: Literal["auto", "vllm"] = "auto"
    """what a request that does not say it is sampled with: auto takes it from the model's
    generation_config.json; vllm is plain, temperature 1"""
    idle_s: float = 60.0
    """how long a connection may stay without a request's whole head, or the next piece of a body"""
    access_log: bool = True
    """a line on stderr for each request"""
    log_format: Literal["text", "json"] = "text"
    otlp_traces_endpoint: str = ""
    """such as http://localhost:4318/v1/traces: a span of each request is sent there (extra otel)"""
    max_queued_requests: int = 1024
    """accepted and not begun at any instance; more are answered 503; 0: any number"""
    max_queued_tokens: int = 0
    """of their prompts; one request alone may always wait; 0: any number"""
    drain_s: float = 25.0
    """after SIGTERM, for the requests under way; torchrun kills its processes after 30 s"""
    api_keys: list[str] = field(default_factory=list)
    """who may use the API; none here, in the file and in LENDKV_API_KEY: everybody may"""
    api_key_file: str = ""
    """one key a line, with options: sk-... name=alice requests=4 tokens_per_minute=9000
    max_borrowed=64 priority=1; relative to the working folder"""
