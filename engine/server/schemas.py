"""What clients may send, as pydantic models; and what is refused rather than silently ignored."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from engine.server.api_keys import MAX_PRIORITY
from engine.server.structured import ResponseFormat, StructuredOutputs
from engine.server.tools.tool import Choice, Chosen, Tool, ToolCall

MAX_LOGPROBS = 20
MAX_N, MAX_CHOICES = 64, 1024
"""choices of a prompt, and of all prompts of a request"""
MAX_STOPS, MAX_STOP_LENGTH = 64, 1024
MAX_IDS = 1024
"""tokens that one parameter may name"""
MAX_PROMPT = 1 << 24
MAX_TOOLS = 128

TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
FewIds = Annotated[list[TokenId], Field(max_length=MAX_IDS)]
Word = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]
Stop = Annotated[str, Field(max_length=MAX_STOP_LENGTH)]
NumLogprobs = Annotated[int, Field(ge=0, le=MAX_LOGPROBS)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
REQUEST_ID = "[!-.0-~]{1,256}"
"""visible ASCII but the slash"""
RequestId = Annotated[str, Field(pattern=f"^{REQUEST_ID}$")]

GUIDED = "vLLM's older name; give structured_outputs, such as {'%s': ...}"
UNSUPPORTED: dict[str, tuple[tuple[Any, ...], str]] = {
    "suffix": (
        (None, ""),
        "models are given no text behind the answer; for one that was taught to fill a gap, write "
        "the prompt with its own tokens before, around and behind the gap",
    ),
    "use_beam_search": ((None, False), "only sampling is there; ask for n and logprobs"),
    "functions": ((None, []), "OpenAI's older name; give tools"),
    **{
        f"guided_{kind}": ((None,), GUIDED % kind)
        for kind in ("json", "regex", "choice", "grammar")
    },
}
"""parameters that would change the answer and are not there: values that would not, and what to do
instead"""


def _for_template(value: dict[str, Any]) -> dict[str, Any]:
    if taken := sorted(value.keys() & OWN_ARGUMENTS):
        raise ValueError(f"{taken} are given to the template already; leave them out here")
    return value


OWN_ARGUMENTS = {"messages", "tools", "add_generation_prompt"}
TemplateArguments = Annotated[dict[str, Any], AfterValidator(_for_template)]
"""variables for the chat template, such as enable_thinking; those it does not know do nothing"""


class StreamOptions(BaseModel):
    include_usage: bool = False


class Common(BaseModel):
    """Parameters of both kinds of completion. Unknown ones are ignored, as clients expect."""

    model_config = ConfigDict(extra="allow")

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=1 << 31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, lt=1 << 31)] | None = None
    min_tokens: Annotated[int, Field(ge=0, lt=1 << 31)] = 0
    n: Annotated[int, Field(ge=1, le=MAX_N)] = 1
    best_of: int | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=1 << 31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    logit_bias: Annotated[dict[TokenId, Bias], Field(max_length=MAX_IDS)] = {}
    allowed_token_ids: Annotated[list[TokenId], Field(max_length=1 << 18)] = []
    bad_words: Annotated[list[Word], Field(max_length=MAX_STOPS)] = []
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    stop_token_ids: FewIds = []
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    truncate_prompt_tokens: Annotated[int, Field(ge=-1, lt=1 << 31)] | None = None
    """only so many of the prompt's tokens, the last ones; -1: as many as there is room for"""
    prompt_logprobs: NumLogprobs | None = None
    return_tokens_as_token_ids: bool = False
    request_id: RequestId | None = None
    priority: Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] | None = None
    return_token_ids: bool = False
    cache_salt: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None

    @model_validator(mode="before")
    @classmethod
    def _leave_out_nulls(cls, data: Any) -> Any:
        """Some clients send null for what they do not set."""
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if value is not None}

    @model_validator(mode="after")
    def _refuse_unsupported(self) -> "Common":
        for name, (harmless, instead) in UNSUPPORTED.items():
            value = (self.model_extra or {}).get(name)
            if value not in harmless:
                raise ValueError(f"{name} is not supported: {instead}")
        if self.best_of not in (None, 1, self.n):
            raise ValueError(
                f"best_of is {self.best_of} and n is {self.n}: all choices are told, and none are "
                "ranked; ask for n choices with logprobs and keep the best"
            )
        if self.truncate_prompt_tokens == 0:
            raise ValueError("truncate_prompt_tokens must be above 0, or -1 for all that has room")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only allowed when stream is true")
        if self.prompt_logprobs is not None and self.stream:
            raise ValueError("prompt_logprobs is only allowed when stream is false")
        if self.response_format is not None and self.structured_outputs is not None:
            raise ValueError("give response_format or structured_outputs, not both")
        return self

    @property
    def num_logprobs(self) -> int | None:
        """How many of the likeliest tokens are wanted at each of the answer's."""
        raise NotImplementedError

    @property
    def num_prompt_logprobs(self) -> int | None:
        return self.prompt_logprobs

    @property
    def wanted_tokens(self) -> int | None:
        """The longest answer, if it is said."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def usable_tools(self) -> list[Tool]:
        """Those that the answer may call."""
        return []

    @property
    def wanted(self) -> ResponseFormat | StructuredOutputs | None:
        """What the answer is to be like."""
        return self.response_format or self.structured_outputs

    @property
    def stops(self) -> list[str]:
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [stop for stop in stops if stop]


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    model_config = ConfigDict(extra="allow")

    role: str
    content: str | list[TextPart] | None = None
    tool_calls: list[ToolCall] | None = None

    def plain(self) -> dict[str, Any]:
        """The message as chat templates take it."""
        content = self.content or ""
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        plain = {**(self.model_extra or {}), "role": self.role, "content": text}
        if self.tool_calls:
            plain["tool_calls"] = [call.plain() for call in self.tool_calls]
        return plain


class ChatBody(Common):
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1 << 16)]
    logprobs: bool = False
    top_logprobs: NumLogprobs = 0
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] = []
    tool_choice: Choice = "auto"
    parallel_tool_calls: bool = True
    chat_template_kwargs: TemplateArguments = {}

    @model_validator(mode="after")
    def _can_call(self) -> "ChatBody":
        names = [tool.function.name for tool in self.tools]
        if self.must_call and not self.usable_tools:
            raise ValueError(f"tool_choice wants a call of a tool that is not among {names}")
        if len(set(names)) < len(names):
            raise ValueError(f"tools have the same name more than once: {names}")
        return self

    @property
    def must_call(self) -> bool:
        return self.tool_choice not in ("none", "auto")

    @property
    def usable_tools(self) -> list[Tool]:
        if isinstance(self.tool_choice, Chosen):
            name = self.tool_choice.function.name
            return [tool for tool in self.tools if tool.function.name == name]
        return self.told_tools

    @property
    def told_tools(self) -> list[Tool]:
        """Those that the prompt speaks of."""
        return [] if self.tool_choice == "none" else self.tools

    @model_validator(mode="after")
    def _top_of_logprobs(self) -> "ChatBody":
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs is only allowed when logprobs is true")
        if (self.model_extra or {}).get("echo"):
            raise ValueError("echo is for /v1/completions; leave it out")
        return self

    @property
    def num_logprobs(self) -> int | None:
        return self.top_logprobs if self.logprobs else None


def _as_prompts(value: Any) -> list[str | list[int]]:
    """One prompt or several; texts, or lists of token ids."""
    several = [value] if isinstance(value, str) or _are_ids(value) else value
    if not isinstance(several, list) or not all(
        isinstance(one, str) or _are_ids(one) for one in several
    ):
        raise ValueError("a text, a list of token ids, or a list of these is wanted")
    if len(several) > MAX_CHOICES:
        raise ValueError(f"{len(several)} prompts are too many; at most {MAX_CHOICES} are taken")
    return several


def _are_ids(value: Any) -> bool:
    is_list = isinstance(value, list) and 0 < len(value) <= MAX_PROMPT
    return is_list and all(type(one) is int and 0 <= one < 1 << 31 for one in value)


class CompletionBody(Common):
    prompt: Annotated[
        list[str | list[int]],
        Field(min_length=1),
        BeforeValidator(_as_prompts, json_schema_input_type=str | list[int | str | list[int]]),
    ]
    max_tokens: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None
    logprobs: NumLogprobs | None = None
    echo: bool = False

    @model_validator(mode="after")
    def _all_choices(self) -> "CompletionBody":
        if len(self.prompt) * self.n > MAX_CHOICES:
            raise ValueError(
                f"{len(self.prompt)} prompts with n={self.n} are more than {MAX_CHOICES} choices"
            )
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens=0 is only allowed with echo")
        return self

    @property
    def num_logprobs(self) -> int | None:
        return self.logprobs

    @property
    def num_prompt_logprobs(self) -> int | None:
        """Those of the prompt are also part of what is echoed."""
        echoed = self.logprobs if self.echo else None
        wanted = [one for one in (echoed, self.prompt_logprobs) if one is not None]
        return max(wanted, default=None)
