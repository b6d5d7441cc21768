"""``python -m deeplab``: the command line, as torchrun starts it."""

from deeplab.cli import entry

if __name__ == "__main__":
    entry()
