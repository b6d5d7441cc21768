"""``python -m deeplab``: the command line; torchrun starts it in this way."""

from deeplab.cli import entry

if __name__ == "__main__":
    entry()
