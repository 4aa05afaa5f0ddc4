"""The paper's evaluation: recipes load, draws are what they say, the arithmetic is right."""

import csv
import json
import math
import sys
from pathlib import Path

import pytest

from bench.paper import __main__ as command
from bench.paper import claims, contexts, document, operators, runs, setup, traces, tuning
from bench.paper.results import FILE, Results
from engine.sim.serving.cluster import Cluster
from engine.sim.serving.systems import configured, system_of

LENGTHS = Path(__file__).parents[3] / "shared" / "data" / "context_lengths.csv"


def test_recipes_are_short_and_say_how_they_are_run():
    found = sorted(setup.RECIPES.glob("*.yaml"))
    assert {"traces", "datasets", "tuning", *setup.MODELS} <= {path.stem for path in found}
    for path in found:
        assert len(path.read_text().splitlines()) < 40
        assert path.read_text().startswith("#")


@pytest.mark.parametrize("model", setup.MODELS)
def test_a_cluster_has_32_devices_and_each_instance_holds_the_short_traces(model):
    config = setup.cluster(model)
    assert config.instances * config.tp == 32
    how = setup.traces()
    most = max(how.ranges[name][1] for name in how.short)
    assert setup.pool_blocks(config) * config.block_tokens >= most
    for name in config.systems:
        Cluster(configured(config, system_of(name)), system_of(name))


def test_the_nine_traces_end_where_it_is_known_that_they_do():
    how = setup.traces()
    assert list(how.ranges) == [str(number) for number in range(9)]
    assert list(how.short) == ["0", "1", "2"]
    ends = [high for _, high in how.ranges.values()]
    assert ends == sorted(set(ends))
    assert (ends[2], ends[3], ends[8]) == (60_000, 200_000, 2_000_000)
    assert {low for low, _ in how.ranges.values()} == {1000}


@pytest.mark.parametrize("trace", ["0", "8"])
def test_a_trace_is_the_same_from_the_same_seed_and_fills_its_range(trace):
    config = setup.closed_loop(
        setup.cluster("llama2-70b"), setup.traces().ranges[trace], prefill=False
    )
    drawn = setup.drawn(config)
    assert drawn == setup.drawn(config)
    low, high = setup.traces().ranges[trace]
    lengths = [one.prompt_tokens + one.output_tokens for one in drawn]
    assert low <= min(lengths) < 2 * low
    assert high / 2 < max(lengths) <= high
    mean = setup.mean_tokens((low, high))
    assert sum(lengths) / len(lengths) == pytest.approx(mean, rel=0.35)
    assert config.workload.clients * mean > setup.pool_blocks(config) * config.block_tokens * 8


def test_the_mean_of_a_range_is_that_of_its_density():
    low, high, parts = 1000.0, 60000.0, 20000
    points = [low * (high / low) ** ((n + 0.5) / parts) for n in range(parts)]
    assert setup.mean_tokens((1000, 60000)) == pytest.approx(sum(points) / parts, rel=1e-4)
    assert setup.mean_tokens((500, 500)) == 500


def test_the_mix_has_eighteen_data_sets_and_reaches_the_papers_longest():
    shapes = setup.datasets_shapes()
    assert len(shapes) == 18
    assert max(most for _, _, most in shapes.values()) == 1_900_000
    assert all(0 < least <= median <= most for least, median, most in shapes.values())
    drawn = setup.datasets(500)
    assert drawn == setup.datasets(500)
    assert len(drawn) == 500
    assert max(one.prompt_tokens for one in drawn) <= 1_900_000


def test_the_mixs_lengths_are_those_that_were_collected():
    if not LENGTHS.exists():
        pytest.skip(f"no {LENGTHS.name}: the workload data is not here")
    rows = {row["dataset"]: row for row in csv.DictReader(LENGTHS.read_text().splitlines())}
    for name, shape in setup.datasets_shapes().items():
        suite, _, dataset = name.partition(" ")
        row = next(
            one
            for key, one in rows.items()
            if key in (name, dataset, f"{suite} ({dataset} meetings)")
            or (one["suite"] == name and key in ("all splits", "200423", "all"))
        )
        if not row["median_len"]:  # an average, or a range, as the recipe says
            mean = float(row["avg_len"] or 0)
            assert shape in ([mean / 2, mean, 1.5 * mean], [8000, 64000, 1_900_000])
        else:
            known = [round(float(row[key])) for key in ("min_len", "median_len", "max_len")]
            assert list(shape) == known


def test_results_are_kept_as_they_come_and_not_made_twice(tmp_path):
    path = tmp_path / "of" / "paper.json"
    made = []

    def make():
        made.append(1)
        return {"x": 1.5}

    assert Results(path).get("b", make) == {"x": 1.5}
    Results(path).get("a", make)
    assert list(json.loads(path.read_text())) == ["a", "b"]
    assert Results(path).get("b", make) == {"x": 1.5}
    assert len(made) == 2
    again = Results(path, again=True)
    again.get("b", make)
    again.get("b", make)
    assert len(made) == 3
    nowhere = Results(None)
    nowhere.get("b", make)
    assert len(made) == 4


def values_of(rates):
    return {
        traces.name_of("decode", model, trace, system): {"bulk_tokens_per_s": rate}
        for (model, trace, system), rate in rates.items()
    }


def test_a_claim_is_inside_its_range_or_says_why_not():
    multi, greedy = "vllm-multi", "greedy"
    values = values_of(
        {
            ("llama2-7b", "0", multi): 100.0,
            ("llama2-7b", "0", greedy): 150.0,
            ("llama2-7b", "2", multi): 100.0,
            ("llama2-7b", "2", greedy): 120.0,
            ("llama2-7b", "8", multi): 100.0,  # a long one: another claim's
            ("llama2-7b", "8", greedy): 900.0,
        }
    )
    found = claims.verdicts(values)
    assert len(found) == 1
    [one] = found
    assert one.cases == {"llama2-7b/0": 1.5, "llama2-7b/2": 1.2}
    assert one.num_inside == 1
    assert one.reasons == [one.claim.below]
    assert traces.ratios(values, "decode", greedy, multi)["llama2-7b/8"] == 9.0
    assert "| 1.35-1.73x | 1.2-1.5x | 1 of 2 |" in "".join(document.claims_table(values))


@pytest.mark.parametrize("claim", claims.CLAIMS, ids=lambda claim: claim.what)
def test_each_claim_has_a_range_and_reasons(claim):
    assert 0 < claim.low < claim.high
    for reason in (claim.below, claim.above):
        assert not reason or (reason.endswith(".") and "TODO" not in reason)


def test_numbers_are_said_with_three_digits():
    assert document.number(1.23456) == "1.23"
    assert document.number(12345.6) == "12,346"
    assert document.span([2.0, 1.0], "x") == "1-2x"
    assert document.span([]) == "-"
    assert document.table(("a", "b"), [("1", "2")]) == [
        "| a | b |",
        "| --- | --- |",
        "| 1 | 2 |",
        "",
    ]


def test_the_longest_context_is_a_pool_and_what_the_others_may_lend():
    config = setup.cluster("llama2-70b")
    alone = setup.of_instances(config, 1)
    pool = contexts.pool_tokens(config)
    slack = contexts.slack_blocks(config) * config.block_tokens
    assert contexts.lending_tokens(alone) == pool - slack > 0.9 * pool
    grown = contexts.lending_tokens(config) - contexts.lending_tokens(alone)
    assert grown == pytest.approx(7 * 0.9 * pool, rel=0.001)
    lengths = list(contexts.points(config).values())
    assert lengths == sorted(lengths)


def test_operators_are_measured_in_the_papers_terms():
    found = operators.attention()["ms"]
    assert list(found) == [str(keys) for keys in operators.CONTEXTS]
    assert all(one["ask"] < one["move"] for one in found.values())
    busy = operators.moves()["busy"]
    assert busy["32"]["ethernet"] == pytest.approx(2 * busy["16"]["ethernet"])


def test_the_grid_is_searched_by_geometric_mean_on_the_tuning_seeds_alone():
    how = tuning.tuning()
    points = list(how.points)
    assert len(points) == math.prod(len(values) for values in how.grid.values())
    assert not set(how.tuning_seeds) & set(how.held_out_seeds)
    values = {}
    for trace in how.workloads:
        for number, point in enumerate(points):
            goodput = 50.0 if number == 4 else 10.0 + number
            for seed in how.tuning_seeds:
                values[tuning.name_of(trace, seed, "greedy", point)] = {"goodput": goodput}
        for seed in how.held_out_seeds:
            values[tuning.name_of(trace, seed, "greedy", points[4])] = {"goodput": 40.0}
            values[tuning.name_of(trace, seed, "balanced", {})] = {"goodput": 50.0}
    assert tuning.best_point(values, how) == points[4]
    assert set(tuning.ratios(values, how).values()) == {1.25}
    assert tuning.ratios({}, how) == {}
    assert tuning.geometric_mean([1.0, 4.0]) == pytest.approx(2.0)
    assert tuning.geometric_mean([math.inf, 4.0]) == pytest.approx(4.0)
    assert tuning.geometric_mean([0.0, 4.0]) == 0.0


def test_the_page_is_what_the_results_say():
    values = json.loads(FILE.read_text())
    assert (document.DOCS / "paper.md").read_text() == document.text(values)
    for against in ("vllm-multi", "vllm-single"):
        assert len(traces.ratios(values, "decode", "greedy", against)) == 27
    for verdict in claims.verdicts(values):
        assert all(verdict.reasons), verdict.claim.what


def test_a_quick_run_comes_to_its_end_and_writes_nothing(monkeypatch, capsys):
    asked = []

    def run(config, name, requests):
        asked.append((name, len(requests)))
        spreads = {key: {"p50": 1.0, "p99": 2.0} for key in ("ttft_s", "tpot_s")}
        return (
            dict.fromkeys(runs.KEPT, 1.0) | spreads | {"lent_over_time": [[0, 3, 4]], "blocks": 6}
        )

    monkeypatch.setattr(runs, "run", run)
    monkeypatch.setattr(document, "write", None)
    monkeypatch.setattr(sys, "argv", ["bench.paper", "--quick"])
    assert command.main() == 0
    said = capsys.readouterr()
    assert "## Published and here" in said.out
    assert {name for name, _ in asked} == {*traces.SYSTEMS, "balanced"}
    told = {line.split("/")[0] for line in said.err.splitlines()}
    assert told == command.EXPERIMENTS.keys()
