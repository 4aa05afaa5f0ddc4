"""The verb ``chaos``: a cluster under load, its processes struck in turn, every token compared.

With ``model.bits=schedule`` each answer must be the one that an undisturbed instance gave before;
else each is judged afterwards, by an undisturbed model that is forced along it.
"""

import json
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from engine.chaos.check import check
from engine.chaos.clients import Answer, Client
from engine.chaos.cluster import Cluster
from engine.chaos.forced import questions, teach
from engine.chaos.oracle import Context, cut_prompts, pieces_of, undisturbed
from engine.chaos.progress import Progress
from engine.chaos.report import Notes, Struck, figures, table
from engine.chaos.roads import relay
from engine.chaos.schedule import Fault, Times, draw_schedule
from engine.children import Child, fork, stop
from engine.config import Config, recipe_path
from engine.errors import ConfigError, LendKVError
from engine.folder import Folder
from engine.model.checkpoint import require_tokenizer
from engine.printed import Printed

FINISH_S = 150.0
WAIT_S = 2.0
"""attention.options.wait_s where the recipe leaves it out"""


def chaos(config: Config, recipe: str | None, overrides: Sequence[str], *, as_json: bool) -> int:
    """Run it; exit status 1 if a token was wrong or a request failed. Raises LendKVError."""
    check(config)
    say = Progress(Console(stderr=True))
    signal.signal(signal.SIGTERM, _interrupt)
    children: list[Child] = []
    try:
        with Folder() as folder:
            office = folder / "office" if config.transport.name == "tcp" else None
            if office is not None:
                children.append(fork("relay", partial(_relay, office)))
                _hear(children[-1])
            contexts = _contexts(config, recipe, children, say)
            cluster = Cluster(
                recipe,
                overrides,
                folder=folder,
                instances=config.instances,
                callbacks=config.callbacks,
                office=office,
            )
            roads = children[0] if office else None
            notes = _run(config, cluster, roads, contexts, folder, say)
            if contexts[0].pieces is None:
                notes = replace(notes, oracle="teacher-forced")
                _judge(config, notes.answers, children, say)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all that is left is to end them
        stop(children, patience_s=0.0)
        say.end()
    facts = figures(notes)
    if facts["tracebacks"]:  # a bug of ours, whatever else the figures say
        print(notes.errors, file=sys.stderr)
    if as_json:
        print(json.dumps(facts))
    else:
        shown = Table("what", "found", title="chaos")
        for what, found in table(facts):
            shown.add_row(what, found)
        Printed().print(shown)
    return 1 if facts["wrong_tokens"] or facts["failed_requests"] else 0


def _contexts(
    config: Config, recipe: str | None, children: list[Child], say: Progress
) -> list[Context]:
    """The prompts and, where only one answer is right, that: a process of its own makes them."""
    tokenizer = require_tokenizer(config.model.path, library=config.model.library)
    path = recipe_path(recipe, config.chaos.prompt_file)
    try:
        prompts = cut_prompts(tokenizer.encode(path.read_text(encoding="utf-8")), config.chaos)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"chaos.prompt_file {str(path)!r} cannot be read: {error}") from error
    if config.model.bits != "schedule":
        return [Context(prompt, None) for prompt in prompts]
    child = fork("oracle", partial(_undisturbed, config, prompts))
    children.append(child)
    while "answers" not in (said := _hear(child)):
        say(f"undisturbed answers: {said['done']} of {len(prompts)}")
    return [
        Context(prompt, pieces_of(tokenizer, answer))
        for prompt, answer in zip(prompts, said["answers"], strict=True)
    ]


def _judge(config: Config, answers: Sequence[Answer], children: list[Child], say: Progress) -> None:
    """Count what is wrong with each answer, equal ones once; in a process of its own."""
    tokenizer = require_tokenizer(config.model.path, library=config.model.library)
    asked = questions(answers, tokenizer, config.chaos.max_tokens)
    child = fork("teacher", partial(teach, config, list(asked)))
    children.append(child)
    while "wrong" not in (said := _hear(child)):
        say(f"answers judged: {said['done']} of {len(asked)}")
    for got_it, num_wrong in zip(asked.values(), said["wrong"], strict=True):
        for answer in got_it:
            answer.num_wrong += num_wrong


def _run(
    config: Config,
    cluster: Cluster,
    roads: Child | None,
    contexts: Sequence[Context],
    folder: Path,
    say: Progress,
) -> Notes:
    clients: list[Client] = []
    try:
        cluster.wait_ready(config.cluster.start_s, lambda: say("starting the cluster"))
        clients = _clients(config, cluster, contexts)
        for client in clients:
            client.start()
        began = time.monotonic()
        struck = _strike_all(config, cluster, roads, clients, say)
        for client in clients:
            client.stop()
        deadline = time.monotonic() + FINISH_S
        for client in clients:
            while client.is_alive() and time.monotonic() < deadline:
                client.join(0.2)
                say("the last answers")
        seconds = time.monotonic() - began
    finally:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        for client in clients:
            client.stop()
        errors = cluster.errors()
        cluster.stop()
        signal.signal(signal.SIGINT, before)
    answers = [answer for client in clients for answer in client.answers]
    for answer in answers:
        if not (answer.finished or answer.failed):
            answer.failed = f"not finished {FINISH_S:g} s after the last fault"
    lines = [
        json.loads(line)
        for path in folder.glob("step-*.jsonl")
        for line in path.read_text().splitlines()
        if line.endswith("}")
    ]
    return Notes(
        seconds=seconds,
        struck=struck,
        answers=answers,
        steps=lines,
        errors=errors,
        bystander=config.instances - 1,
        wait_s=_wait_s(config),
    )


def _clients(config: Config, cluster: Cluster, contexts: Sequence[Context]) -> list[Client]:
    """Two long contexts at instance 0, one wherever it is sent; short ones beside them."""
    number, last = config.chaos.contexts, config.instances - 1
    long, short = contexts[:number], contexts[number:]
    asked: list[tuple[str, int | None, Sequence[Context]]] = [
        ("long", None, long),
        ("short", None, short),
        ("bystander", last, short),
        ("debtor", 0, long),
        ("other debtor", 0, long[::-1]),
    ]
    return [
        Client(
            name,
            port=cluster.port + (0 if instance is None else 1 + instance),
            instance=instance,
            model="chaos",
            contexts=mine,
            max_tokens=config.chaos.max_tokens,
        )
        for name, instance, mine in asked
    ]


def _strike_all(
    config: Config,
    cluster: Cluster,
    roads: Child | None,
    clients: Sequence[Client],
    say: Progress,
) -> list[Struck]:
    """Every fault at its time, each in a thread of its own: some last longer than the pause."""
    wanted = config.chaos
    times = Times(
        seconds=wanted.seconds,
        every_s=wanted.every_s,
        wait_s=_wait_s(config),
        lease_s=config.scheduler.lease_s,
    )
    faults = draw_schedule(
        times, seed=wanted.seed, kinds=wanted.kinds, num_victims=config.instances - 1
    )
    struck: list[Struck] = []
    threads: list[threading.Thread] = []

    def strike(drawn: Fault) -> None:
        fault = cluster.aim(drawn)
        began = time.monotonic()
        if fault.kind == "partition" and roads is not None:
            done = _cut(cluster, roads, fault)
        else:
            done = cluster.strike(fault)
        struck.append(Struck(fault, began, time.monotonic(), missed=not done))

    began = time.monotonic()
    for fault in [*faults, None]:
        until = began + (fault.at_s if fault else wanted.seconds)
        while (left := until - time.monotonic()) > 0:
            if not cluster.alive:
                raise LendKVError("the cluster has ended:\n" + cluster.errors()[-2000:])
            finished = sum(answer.finished for client in clients for answer in client.answers)
            say(
                f"{time.monotonic() - began:.0f} of {wanted.seconds:g} s, {len(struck)} faults, "
                f"{finished} answers" + (f"; last: {struck[-1].fault}" if struck else "")
            )
            time.sleep(min(left, 0.2))
        if fault is not None:
            if fault.kind == "join":
                cluster.start_guest()  # from this thread, which lives as long as it shall
            threads.append(threading.Thread(target=strike, args=(fault,), daemon=True))
            threads[-1].start()
    for thread in threads:
        thread.join()
    return sorted(struck, key=lambda one: one.began)


def _cut(cluster: Cluster, roads: Child, fault: Fault) -> bool:
    supervisor = cluster.supervisor(fault.instance)
    if supervisor is None:
        return False
    roads.say(cut=[supervisor])
    time.sleep(fault.for_s)
    roads.say(cut=[])
    return True


def _wait_s(config: Config) -> float:
    return float(config.attention.options.get("wait_s", WAIT_S))


def _relay(office: Path, pipe: Any) -> int:
    return relay(pipe, office)


def _undisturbed(config: Config, prompts: list[list[int]], pipe: Any) -> int:
    return undisturbed(pipe, replace(config, callbacks=[]), prompts)


def _hear(child: Child) -> dict[str, Any]:
    """The next thing a child says; LendKVError when it ends first."""
    while not child.pipe.poll(0.2):
        if child.poll() is not None and not child.pipe.poll():
            raise LendKVError(f"the {child.name} process ended with status {child.status}")
    try:
        said: dict[str, Any] = child.pipe.recv()
    except EOFError:
        raise LendKVError(f"the {child.name} process has ended") from None
    if "error" in said:
        raise LendKVError(said["error"])
    return said


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt
