"""``python -m engine`` is ``lendkv``."""


def run() -> int:
    try:  # what is imported takes a moment, in which Ctrl-C may come
        from engine.output import guarded, open_closed

        open_closed()
        from engine.cli import main

        return guarded(main)
    except KeyboardInterrupt:
        return 130  # output.INTERRUPTED, which may not have been loaded yet


if __name__ == "__main__":
    raise SystemExit(run())
