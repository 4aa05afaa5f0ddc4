"""``python -m engine`` is ``lendkv``."""

from engine import ctrl_c


def run() -> int:
    ctrl_c.ends_at_once()
    from engine.output import guarded, prepare

    prepare()
    from engine.cli import main

    try:
        return guarded(main)
    except KeyboardInterrupt:
        return ctrl_c.INTERRUPTED


if __name__ == "__main__":
    raise SystemExit(run())
