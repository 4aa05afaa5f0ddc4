"""``python -m engine`` is ``lendkv``."""

from engine.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
