"""``python -m ttrace``: the ``ttrace`` program."""

from ttrace.cli.main import run

if __name__ == "__main__":
    run()
