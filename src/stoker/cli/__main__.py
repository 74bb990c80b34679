"""``python -m stoker.cli`` is `stoker`."""

from stoker.cli.app import main

if __name__ == "__main__":
    main()
