"""The paper's evaluation beside its published numbers: ``python -m bench.paper [NAME...]``.

Names: operators, contexts, traces, datasets, rates, tuning; all of them where none is given. What
bench/results/paper.json knows is not run again (--again runs it again). At the end docs/paper.md
and its plots are written from that file; --report does that alone.
"""

import argparse
import json
import sys
from collections.abc import Callable

from bench.paper import contexts, document, mix, operators, rates, traces, tuning
from bench.paper.results import Results

EXPERIMENTS: dict[str, Callable[..., None]] = {
    "operators": operators.run,
    "contexts": contexts.run,
    "traces": traces.run,
    "datasets": mix.run,
    "rates": rates.run,
    "tuning": tuning.run,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(EXPERIMENTS))
    parser.add_argument("--json", action="store_true", help="print all results as one JSON object")
    parser.add_argument("--quick", action="store_true", help="a few runs of each, nothing written")
    parser.add_argument("--again", action="store_true", help="run what is known as well")
    parser.add_argument("--report", action="store_true", help="run nothing, write docs/paper.md")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in EXPERIMENTS]
    if unknown:
        parser.error(f"{unknown[0]!r} is none of {', '.join(EXPERIMENTS)}")
    results = Results(None) if args.quick else Results(again=args.again)
    if not args.report:
        for name in args.names or EXPERIMENTS:
            EXPERIMENTS[name](results, quick=args.quick)
    if args.json:
        print(json.dumps(results.values))
    else:
        print("\n".join(document.claims_table(results.values)))
    if not args.quick:
        document.write(results.values)
    return 0


if __name__ == "__main__":
    sys.exit(main())
