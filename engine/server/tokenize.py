"""The routes /tokenize, /detokenize and /tokenizer_info, in vLLM's shapes."""

from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import BaseModel, Field

from engine.model.tokenizer import Tokenizer
from engine.server.completions import Completions
from engine.server.problems import Problem
from engine.server.schemas import MAX_PROMPT, MAX_TOOLS, ChatMessage, TemplateArguments, TokenId
from engine.server.tools.tool import Tool


class TokenizeBody(BaseModel):
    """A prompt, or messages."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1 << 16)] | None = None
    add_special_tokens: bool | None = None
    """by default for a prompt, and not for messages: their template writes them"""
    add_generation_prompt: bool = True
    return_token_strs: bool = False
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] = []
    chat_template_kwargs: TemplateArguments = {}


class DetokenizeBody(BaseModel):
    model: str | None = None
    tokens: Annotated[list[TokenId], Field(max_length=MAX_PROMPT)]


def add_tokenize_routes(
    app: FastAPI, completions: Completions, tokenizer: Tokenizer, *, max_positions: int
) -> None:
    """Plain functions: FastAPI runs them beside the gateway's loop, as long texts take a while."""

    @app.post("/tokenize")
    def tokenize(body: TokenizeBody) -> dict[str, Any]:
        if body.model is not None:
            completions.check_model(body.model)
        if (body.prompt is None) == (body.messages is None):
            raise Problem(400, "Send a prompt or messages, one of the two.", param="prompt")
        special, text = body.add_special_tokens, body.prompt
        if text is None:
            messages = body.messages or []
            text = completions.prompts.render(
                messages,
                body.tools,
                begins_answer=body.add_generation_prompt,
                more=body.chat_template_kwargs,
            )
        if special is None:
            special = body.prompt is not None
        tokens = completions.prompts.encode(text, add_special_tokens=special)
        return {
            "count": len(tokens),
            "max_model_len": max_positions,
            "tokens": tokens,
            "token_strs": [tokenizer.backend.id_to_token(token) for token in tokens]
            if body.return_token_strs
            else None,
        }

    @app.post("/detokenize")
    def detokenize(body: DetokenizeBody) -> dict[str, str]:
        if body.model is not None:
            completions.check_model(body.model)
        completions.prompts.check_ids(body.tokens, "tokens")
        return {"prompt": str(tokenizer.backend.decode(body.tokens, skip_special_tokens=False))}

    @app.get("/tokenizer_info")
    def tokenizer_info() -> dict[str, Any]:
        return tokenizer.info
