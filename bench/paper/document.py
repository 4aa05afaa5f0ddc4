"""docs/paper.md, written from results: tables, plots, and a sentence for what lies outside."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.paper import claims, contexts, mix, plots, rates, setup, traces, tuning
from bench.paper.runs import rate

DOCS = Path(__file__).parents[2] / "docs"
HEAD = Path(__file__).parent / "head.md"
"""what the page says before its tables"""
SAID = {
    "decode": "decodes",
    "whole": "prompts computed",
}

Values = Mapping[str, Any]


def write(values: Values) -> None:
    plots.draw(values, DOCS / "images")
    (DOCS / "paper.md").write_text(text(values))


def text(values: Values) -> str:
    sections = (
        claims_table(values),
        operators_section(values),
        traces_section(values),
        contexts_section(values),
        datasets_section(values),
        rates_section(values),
        tuning_section(values),
    )
    return HEAD.read_text().rstrip() + "\n\n" + "\n".join(line for one in sections for line in one)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines] + [""]


def span(values: Iterable[float], unit: str = "") -> str:
    """Least to most."""
    found = sorted(values)
    if not found:
        return "-"
    low, high = number(found[0]), number(found[-1])
    return f"{low}{unit}" if low == high else f"{low}-{high}{unit}"


def number(value: float) -> str:
    """Three digits that count."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def claims_table(values: Values) -> list[str]:
    rows = []
    for one in claims.verdicts(values):
        claim = one.claim
        published = claim.said or span((claim.low, claim.high), claim.unit)
        ours = span(one.cases.values(), claim.unit)
        inside = f"{one.num_inside} of {len(one.cases)}"
        rows.append([claim.what, published, ours, inside, " ".join(one.reasons)])
    head = ("what", "published", "here", "inside", "what could explain what is outside")
    said = "Single numbers, and words, count as met within a quarter of them."
    return ["## Published and here", "", *table(head, rows), said, ""]


def operators_section(values: Values) -> list[str]:
    attention = values.get("operators/attention")
    moves = values.get("operators/moves")
    if not attention or not moves:
        return []
    rows = [
        [f"{int(keys):,}", *(f"{ms[way]:.3f}" for way in ("ask", "move", "heads"))]
        for keys, ms in attention["ms"].items()
    ]
    lines = ["## Operators", ""]
    lines += ["One query, one layer of LLaMA2-13B, keys on four GPUs of a node (milliseconds):", ""]
    lines += table(("keys", "query travels", "keys travel", "heads split"), rows)
    rows = [
        [tokens, *(f"{number(100 * busy[link])} %" for link in ("node", "nodes", "ethernet"))]
        for tokens, busy in moves["busy"].items()
    ]
    lines += [
        "Keys that leave a 7B instance in each decode step "
        f"({1e3 * moves['step_s']:.0f} ms with a full pool): how long the link takes, in steps.",
        "The paper lost nothing at 16 tokens a step and 8.6 % at 32. Here moves go beside the",
        "steps and cost nothing while they take less time than a step, so nothing at either;",
        "copies that share memory's bandwidth with the step, or a slower link, could explain it.",
        "",
    ]
    head = ("tokens a step", "NVLink", "InfiniBand", "125 MB/s")
    return lines + table(head, rows)


def traces_section(values: Values) -> list[str]:
    lines = ["## The nine traces on 32 A100", ""]
    lines += [
        "Tokens a second. *To the last*: greedy/multi and greedy/single over the time until the"
    ]
    lines += ["last request has ended, not nine tenths of the tokens.", ""]
    for setting, said in SAID.items():
        columns = [
            traces.ratios(values, setting, system, against)
            for system, against in (
                ("greedy", "vllm-multi"),
                ("greedy", "vllm-single"),
                ("ledger", "vllm-multi"),
                ("balanced", "greedy"),
            )
        ]
        rows = []
        for model in setup.MODELS:
            for trace, (low, high) in setup.traces().ranges.items():
                case = f"{model}/{trace}"
                names = [traces.name_of(setting, model, trace, one) for one in traces.SYSTEMS]
                found = [values.get(name) for name in names]
                multi, single, greedy = found[:3]
                if not (multi and single and greedy):
                    continue
                whole = (number(greedy["tokens_per_s"] / one["tokens_per_s"]) for one in found[:2])
                rows.append(
                    [
                        f"{model[7:]}, {trace}: {low // 1000}-{high // 1000}K",
                        *(number(rate(one)) if one else "-" for one in found),
                        *(number(one[case]) if case in one else "-" for one in columns),
                        " / ".join(whole),
                        f"{multi['refused']} of {multi['requests']}",
                        f"{100 * greedy['most_lent_share']:.0f} %",
                    ]
                )
        if rows:
            head = (said, *traces.SYSTEMS, "greedy/multi", "greedy/single", "ledger/multi")
            ends = ("balanced/greedy", "to the last", "multi refuses", "most lent")
            lines += table((*head, *ends), rows)
            lines += [f"![{said}](images/paper-traces-{setting}.svg)", ""]
    return lines


def contexts_section(values: Values) -> list[str]:
    rows = []
    for model in setup.MODELS:
        known = values.get(f"contexts/{model}/longest")
        if not known:
            continue
        pools = "; ".join(f"{n}: {number(x)}" for n, x in known["pools_by_instances"].items())
        tokens = (f"{known[one] / 1000:,.0f}K" for one in ("vllm-multi", "vllm-single", "lending"))
        rows.append([model[7:], *tokens, pools])
    if not rows:
        return []
    head = ("longest context", "vllm-multi", "vllm-single", "lending", "in pools, by instances")
    lines = ["## Contexts", "", *table(head, rows)]
    rows = []
    for model in setup.MODELS:
        for label, context in contexts.points(setup.cluster(model)).items():
            found = [values.get(f"contexts/{model}/{label}/{one}") for one in contexts.SYSTEMS]
            if all(found):
                cells = [
                    f"{number(one['tokens_per_s'])} ({one['num']:,})" if one["num"] else "-"
                    for one in found
                    if one
                ]
                rows.append([model[7:], label, f"{context:,}", *cells])
    lines += [
        "Tokens a second with as many requests of 256 tokens of output as fit (their number):",
        "",
    ]
    lines += table(("model", "point", "context", *contexts.SYSTEMS), rows)
    if len(rows) == len(setup.MODELS) * len(contexts.LABELS):
        lines += ["![contexts](images/paper-contexts.svg)", ""]
    return lines


def datasets_section(values: Values) -> list[str]:
    ratios = mix.ratios(values, "ledger", "vllm-multi")
    rows = []
    for model, ratio in ratios.items():
        found = [values[mix.name_of(model, one)] for one in mix.SYSTEMS]
        cells = [number(rate(one)) for one in found]
        refused = f"{found[0]['refused']} of {found[0]['requests']}"
        rows.append([model[7:], *cells, number(ratio), refused])
    if not rows:
        return []
    head = ("decodes, tokens a second", *mix.SYSTEMS, "ledger/multi", "multi refuses")
    return ["## Eighteen data sets", "", *table(head, rows)]


def rates_section(values: Values) -> list[str]:
    rows = []
    for instances in rates.INSTANCES:
        for trace in rates.TRACES:
            for share in rates.SHARES:
                found = [
                    values.get(f"rates/{instances}/{trace}/{share}/{one}") for one in rates.SYSTEMS
                ]
                if all(found):
                    cells = [
                        f"{number(one['tokens_per_s'])}, {one['ttft_p50']:.2f} / "
                        f"{one['ttft_p99']:.2f} s, {1e3 * one['tpot_p50']:.0f} ms"
                        for one in found
                        if one
                    ]
                    rate_now = share * rates.full_rate(instances, trace)
                    rows.append([f"{instances}, {trace}", f"{rate_now:.3g}", *cells])
    if not rows:
        return []
    head = ("instances, trace", "requests/s", *rates.SYSTEMS)
    lines = ["## Over the rate of requests", ""]
    lines += ["Tokens a second, wait for the first token (p50 / p99), time of a later one:", ""]
    return [*lines, *table(head, rows), "![rates](images/paper-rates.svg)", ""]


def tuning_section(values: Values) -> list[str]:
    how = tuning.tuning()
    found, multi = tuning.ratios(values, how), tuning.ratios(values, how, "vllm-multi")
    if not found:
        return []
    best = tuning.best_point(values, how)
    rows = []
    for case, ratio in found.items():
        trace, seed = case.split("/")
        runs = [
            values[tuning.name_of(trace, int(seed), system, options)]
            for system, options in (("vllm-multi", {}), ("greedy", best), ("balanced", {}))
        ]
        cells = [f"{number(one['goodput'])} ({one['met_share']:.0%})" for one in runs]
        rows.append([f"{trace}, seed {seed}", *cells, number(ratio), number(multi[case])])
    mean = tuning.geometric_mean(list(found.values()))
    head = ("trace", "vllm-multi", "greedy, tuned", "balanced", "balanced/greedy", "/multi")
    said = ", ".join(f"{key} {value:g}" for key, value in best.items())
    wanted = how.wanted
    return [
        "## balanced against a tuned greedy",
        "",
        f"Goodput in tokens a second (first token within {how.ttft_s:g} s, later ones within "
        f"{1e3 * how.tpot_s:g} ms) on held-out seeds, by the time until the last request ended; in "
        f"brackets its share of all tokens asked for; the grid's best thresholds: {said}.",
        "",
        *table(head, rows),
        f"Geometric mean: {number(mean)} (wanted {wanted['geometric_mean']:g}), the least "
        f"{number(min(found.values()))} (wanted {wanted['each']:g}).",
        "",
    ]
