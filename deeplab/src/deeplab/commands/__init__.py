"""The commands of the command line: each a dataclass of options and a function that runs it, light to
import."""
