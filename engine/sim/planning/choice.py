"""Choice: one way to share out the devices, and what is to be expected of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.errors import ConfigError
from engine.sim.hardware.model import Model, model_of
from engine.sim.hardware.profile import Profile, profile_of
from engine.sim.hardware.step_time import StepTime
from engine.sim.planning.config import MAX_DEVICES, PlanConfig
from engine.sim.planning.pace import Pace, pace_of, told_s
from engine.sim.planning.room import Room, room_of
from engine.sim.serving.run import run
from engine.sim.serving.workload import Arrival, arrivals

ALONE = "vllm-multi"
"""instances that lend nothing"""


@dataclass(kw_only=True, slots=True)
class Choice:
    room: Room
    pace: Pace
    per_hour: float
    """contexts of the question's length in an hour, each instance at one of them at a time"""
    unmet: str = ""
    """why not even the workload's shortest request meets the objectives: nothing to simulate"""
    simulated: dict[str, dict[str, Any]] = field(default_factory=dict)
    """figures without lending, and with it"""

    def goodput(self, name: str) -> float:
        return float(self.simulated[name]["goodput"]) if self.simulated else 0.0

    def rate(self, name: str) -> float:
        return float(self.simulated[name]["tokens_per_s"]) if self.simulated else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What all choices share."""

    config: PlanConfig
    profile: Profile
    model: Model
    requests: Sequence[Arrival]
    context: int
    prompt: int
    """of the request that makes the context"""

    def pace(self, room: Room, prompt: int, context: int) -> Pace:
        times = StepTime(self.profile, self.model, room.tp)
        step_tokens = self.config.scheduler.max_step_tokens
        return pace_of(times, room, prompt=prompt, context=context, step_tokens=step_tokens)


def question_of(config: PlanConfig) -> Question:
    """Raises ConfigError."""
    requests = arrivals(config.workload, config.seed)
    longest = max(requests, key=lambda one: one.prompt_tokens + one.output_tokens)
    context = config.context or longest.prompt_tokens + longest.output_tokens
    prompt = min(longest.prompt_tokens, context - 1) if context > 1 else 1
    if longest.prompt_tokens + longest.output_tokens < context:
        prompt = max(1, context - longest.output_tokens)
    return Question(
        config=config,
        profile=profile_of(config.hardware, config.hardware_changes),
        model=model_of(config.model),
        requests=requests,
        context=context,
        prompt=prompt,
    )


def choices(question: Question) -> list[Choice]:
    """Each tp that fits; the best first, once they are simulated. Raises ConfigError."""
    rooms, problems = _rooms(question)
    fitting = [room for room in rooms if room.longest_lending >= question.context]
    if not fitting:
        raise ConfigError(_too_long(question, rooms, problems))
    return [_choice(question, room) for room in fitting]


def _choice(question: Question, room: Room) -> Choice:
    pace = question.pace(room, question.prompt, question.context)
    seconds = pace.ttft_s + (question.context - question.prompt) * pace.tpot_s
    at_once = min(
        room.instances, room.instances * room.pool_blocks // room.blocks(question.context)
    )
    return Choice(
        room=room, pace=pace, per_hour=at_once * 3600 / seconds, unmet=_unmet(question, room)
    )


def _unmet(question: Question, room: Room) -> str:
    """The shortest request alone, and the first token behind its prompt."""
    config = question.config
    prompt = min(one.prompt_tokens for one in question.requests)
    alone = question.pace(room, prompt, prompt + 1)
    for name, objective, seconds in (
        ("ttft_s", config.ttft_s, alone.ttft_s),
        ("tpot_s", config.tpot_s, alone.tpot_s),
    ):
        if seconds > objective:
            return (
                f"goodput 0: the shortest prompt, {prompt:,} tokens, takes {told_s(seconds)} "
                f"alone, {name}={objective:g} is wanted"
            )
    return ""


def simulate(question: Question, choice: Choice) -> None:
    """Without lending and with it, on the same requests."""
    config = question.config.serving(choice.room.tp, choice.room.instances)
    for name in (ALONE, question.config.lending):
        choice.simulated[name] = run(config, name, question.requests)


def best(found: Sequence[Choice], lending: str) -> Choice:
    """The most goodput with lending, then tokens a second, then contexts an hour."""
    return max(found, key=lambda one: (one.goodput(lending), one.rate(lending), one.per_hour))


def _rooms(question: Question) -> tuple[list[Room], list[str]]:
    """Of each tp, and why others leave no room."""
    config, rooms, problems = question.config, [], []
    most = config.devices or MAX_DEVICES
    tps = [config.tp] if config.tp else [1 << n for n in range(13) if 1 << n <= most]
    if question.profile.measured:  # one device is what was measured
        tps = [tp for tp in tps if tp == 1]
        if not tps:
            raise ConfigError(f"tp={config.tp}: a measured profile is of tp=1 only")
    for tp in tps:
        if config.devices % tp:
            continue
        try:
            room = room_of(question.profile, question.model, tp, 1, config.block_tokens)
        except ConfigError as error:
            problems.append(str(error))
            continue
        rooms.append(_with_instances(question, room))
    if not config.devices and rooms:  # the fewest that hold one context
        fewest = min(room.devices for room in rooms)
        rooms = [room for room in rooms if room.devices == fewest]
    return rooms, problems


def _with_instances(question: Question, room: Room) -> Room:
    devices = question.config.devices
    instances = devices // room.tp if devices else 1 + room.lenders(question.context)
    return room_of(
        question.profile, question.model, room.tp, instances, question.config.block_tokens
    )


def _too_long(question: Question, rooms: Sequence[Room], problems: Sequence[str]) -> str:
    config = question.config
    if not rooms:
        why = problems[-1] if problems else f"devices={config.devices} cannot be shared out"
        return f"{config.model} on {config.hardware}: {why}"
    most = max(rooms, key=lambda room: room.longest_lending)
    return (
        f"context={question.context}: {most.devices} devices hold at most "
        f"{most.longest_lending} tokens, with tp={most.tp} and lending; that much or more devices "
        "is allowed"
    )
