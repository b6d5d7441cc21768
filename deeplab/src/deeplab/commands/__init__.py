"""The commands: each is a dataclass of options and a function that runs it; importing one is cheap."""
